"""Models and episodes to measure on: real shapes and real rows, random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import iclgd_lens as lens

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes; `kv` key/value heads (None: one a head), `rotary` positions, RMS norms."""

    layers: int
    width: int
    heads: int
    vocab: int
    context: int
    kv: int | None = None
    rotary: bool = False
    parallel: bool = False


SHAPES = {
    "gpt2-small": Shape(12, 768, 12, 50257, 1024),
    "gpt2-small, long context": Shape(12, 768, 12, 50257, 4096),
    "pythia-70m": Shape(6, 512, 8, 50304, 2048, rotary=True, parallel=True),
    "grouped-query": Shape(12, 768, 12, 50257, 2048, kv=4, rotary=True),
    "gpt2-xl": Shape(48, 1600, 25, 50257, 4096),
    "1.3b": Shape(24, 2048, 32, 50257, 4096),
}


def random_model(shape: Shape, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A HookedTransformer of that shape with seeded random weights; global state is left alone."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=shape.layers,
        d_model=shape.width,
        n_heads=shape.heads,
        d_head=shape.width // shape.heads,
        d_mlp=4 * shape.width,
        d_vocab=shape.vocab,
        n_ctx=shape.context,
        act_fn="gelu_new",
        normalization_type="RMS" if shape.kv else "LN",
        n_key_value_heads=shape.kv,
        positional_embedding_type="rotary" if shape.rotary else "standard",
        rotary_dim=shape.width // shape.heads if shape.rotary else None,
        parallel_attn_mlp=shape.parallel,
        device=device,
        dtype=dtype,
        model_name="random",
    )
    with torch.random.fork_rng(devices=[]):
        model = HookedTransformer(cfg)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and ".b_" not in name and "._b_" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()


def gpt2_tokenizer() -> Any:
    """GPT-2's BPE from the shared files, or None where they are missing."""
    folder = SHARED / "tokenizers" / "gpt2"
    if not (folder / "vocab.json").is_file():
        return None
    from transformers import GPT2TokenizerFast

    return GPT2TokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"),
        vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"),
    )  # fmt: skip


def episode_for(
    model: Any, task: str, *, shots: int, queries: int, lr: float = 1e-3
) -> lens.Episode:
    """Real rows under GPT-2's tokenizer where the shared folder is there, else random tokens."""
    tokenizer = gpt2_tokenizer()
    if tokenizer is None or not (SHARED / "data" / task).is_dir():
        return synthetic_episode(model, shots=shots, queries=queries, length=25, lr=lr)
    from types import SimpleNamespace

    host = lens.Host(model)
    # The tokenizer is lent to the loader alone; the random model keeps none.
    view = SimpleNamespace(tokenizer=tokenizer)
    original = host.model.tokenizer
    try:
        host.model.tokenizer = view.tokenizer
        return lens.load_episode(
            task, host, shots=shots, queries=queries, seed=0, data=SHARED / "data"
        )
    finally:
        host.model.tokenizer = original


def synthetic_episode(
    model: Any, *, shots: int, queries: int, length: int, lr: float = 1e-3
) -> lens.Episode:
    """Random tokens of one length a sequence: for growth curves."""
    generator = torch.Generator().manual_seed(1)
    high = int(model.cfg.d_vocab)
    contents = torch.randint(10, high, (shots + queries, length), generator=generator).tolist()
    labels = [3, 4]
    return lens.Episode.from_tokens(
        [[*content, labels[i % 2]] for i, content in enumerate(contents[:shots])],
        contents[shots:],
        labels,
        [i % 2 for i in range(queries)],
        bos=0,
        separator=5,
        learning_rate=lr,
    )
