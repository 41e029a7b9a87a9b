"""The embedded model's architecture: a Llama of four small layers."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

STD = 0.06
"""Standard deviation of new matrices: wider than Llama's 0.02, since the model is narrow."""


def model_config(
    vocab_size: int, *, layers: int = 4, width: int = 128, heads: int = 4
) -> LlamaConfig:
    """Return the configuration; the defaults are those of the shipped model."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        dtype="float32",
    )


def new_model(config: LlamaConfig, *, seed: int) -> LlamaForCausalLM:
    """Return a model with random weights that depend on `seed` alone.

    Matrices are normal with standard deviation `STD` (projections back into the residual stream
    divided by the square root of twice the number of layers), norms start at 1. The caller's
    random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    back = (2 * config.num_hidden_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
            parameter.normal_(0.0, STD * (back if into_stream else 1.0), generator=generator)
    return model
