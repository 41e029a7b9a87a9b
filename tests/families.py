"""Small random models of several families, built without a network or the global random state.

Every weight, bias and norm is random and large enough that attention is far from uniform, so a
mistake in any of them moves the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Callable

N_LAYERS = 3
D_MODEL = 32
N_HEADS = 4
N_KV_HEADS = 2
N_CTX = 128
VOCAB_SIZE = 101
BOS, EOS = 1, 2

_COMMON = {"vocab_size": VOCAB_SIZE, "bos_token_id": BOS, "eos_token_id": EOS}
_LAYERS = {
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": N_CTX,
}
_GROUPED = {**_LAYERS, **_COMMON, "num_key_value_heads": N_KV_HEADS}
_GPT = {
    **_COMMON,
    "n_positions": N_CTX,
    "n_embd": D_MODEL,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
_ROPE = {"rope_theta": 500.0, "rope_type": "default"}


FAMILIES: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "gpt2": lambda: transformers.GPT2Config(**_GPT),
    "neox": lambda: transformers.GPTNeoXConfig(
        **_LAYERS,
        **_COMMON,
        rope_parameters={**_ROPE, "partial_rotary_factor": 0.25},
        use_parallel_residual=True,
    ),
    "gptj": lambda: transformers.GPTJConfig(**_GPT, rotary_dim=4),
    "llama": lambda: transformers.LlamaConfig(**_GROUPED, rope_parameters=_ROPE),
    "qwen2": lambda: transformers.Qwen2Config(
        **_GROUPED, rope_parameters=_ROPE, tie_word_embeddings=True
    ),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=12, rope_parameters=_ROPE),
    "mistral": lambda: transformers.MistralConfig(
        **_GROUPED, head_dim=12, sliding_window=None, rope_parameters=_ROPE
    ),
}
"""Families with a HookedTransformer converter: joint c_attn (gpt2), joint rotary and parallel
blocks (neox), interleaved rotary and parallel blocks (gptj), RMSNorm with grouped queries (llama),
biases on queries, keys and values (qwen2), normalised queries and keys (qwen3), a head size that is
not d_model / heads (mistral)."""

BRIDGE_FAMILIES: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    **FAMILIES,
    "gemma2": lambda: transformers.Gemma2Config(
        **_GROUPED, head_dim=12, query_pre_attn_scalar=12, sliding_window=N_CTX
    ),
    "granite": lambda: transformers.GraniteConfig(
        **_GROUPED,
        attention_multiplier=0.3,
        residual_multiplier=0.5,
        embedding_multiplier=2.0,
        logits_scaling=2.0,
    ),
    "opt": lambda: transformers.OPTConfig(
        **_COMMON,
        hidden_size=D_MODEL,
        word_embed_proj_dim=D_MODEL,
        num_hidden_layers=N_LAYERS,
        ffn_dim=48,
        num_attention_heads=N_HEADS,
        max_position_embeddings=N_CTX,
        dropout=0.0,
        pad_token_id=0,
    ),
    "bloom": lambda: transformers.BloomConfig(
        **_COMMON, hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS
    ),
}
"""`FAMILIES`, and families that a local folder of is served by TransformerBridge alone."""


def huggingface_model(family: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A random `transformers` model in evaluation mode, fp32, with eager attention."""
    config = BRIDGE_FAMILIES[family]()
    # Construction draws initial weights from the global generator; they are all replaced below.
    with torch.random.fork_rng(devices=[]):
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    randomise(model, seed)
    return model.eval()


def randomise(model: torch.nn.Module, seed: int, std: float = 0.25) -> None:
    """Draw every parameter anew: matrices N(0, std), biases N(0, 0.2), norm gains 1 + N(0, 0.2)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(std * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(1 + 0.2 * noise)


def word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer of `VOCAB_SIZE` words (w0, w1, ...), that prepends `<s>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<unk>", "<s>", "</s>", "Label:", "Positive", "Negative"]
    words += [f"w{index}" for index in range(VOCAB_SIZE - len(words))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", pair=None, special_tokens=[("<s>", BOS)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save_folder(family: str, path: str | Path, seed: int = 0, tokenizer: bool = True) -> Path:
    """Write the random model, and its tokenizer if wanted, as a `transformers` folder."""
    folder = Path(path)
    huggingface_model(family, seed).save_pretrained(folder)
    if tokenizer:
        word_tokenizer().save_pretrained(folder)
    return folder


def has_hooked_transformer() -> bool:
    """Whether the installed TransformerLens (version 3) has HookedTransformer."""
    from importlib.metadata import version

    return int(version("transformer-lens").split(".")[0]) < 4


def hooked(family: str, seed: int = 0) -> Any:
    """The random model as an unprocessed HookedTransformer, without a tokenizer.

    Skips the calling test where TransformerLens has no HookedTransformer (version 4).
    """
    if not has_hooked_transformer():
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    return hosted("hooked", huggingface_model(family, seed), family)


def bridge(family: str, seed: int = 0) -> Any:
    """The random model as an unprocessed TransformerBridge, without a tokenizer."""
    return hosted("bridge", huggingface_model(family, seed), family)


def hosted(kind: str, model: Any, name: str = "model") -> Any:
    """A `transformers` model as an unprocessed HookedTransformer or TransformerBridge."""
    if kind == "hooked":
        from iclgd_lens.host.families import hooked_from_huggingface

        return hooked_from_huggingface(model, name=name, device="cpu")
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    # The bridge of a joint query-key-value layer draws (and discards) initial weights.
    with torch.random.fork_rng(devices=[]):
        return build_bridge_from_module(
            model, type(model).__name__, hf_config=model.config, model_name=name
        ).eval()


def tokens(count: int = 12, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random token ids after a BOS: [batch, count]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB_SIZE, (batch, count), generator=generator)
    ids[:, 0] = BOS
    return ids


def saved(model: transformers.PreTrainedModel, path: str | Path, tokenizer: bool = True) -> Path:
    """Write a `transformers` model, and the word tokenizer if wanted, as a folder."""
    model.save_pretrained(path)
    if tokenizer:
        word_tokenizer().save_pretrained(path)
    return Path(path)


def of_config(config: transformers.PretrainedConfig, seed: int = 0, std: float = 0.25) -> Any:
    """A random `transformers` model of any configuration, as `huggingface_model` gives."""
    with torch.random.fork_rng(devices=[]):
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    randomise(model, seed, std)
    return model.eval()
