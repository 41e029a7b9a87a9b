"""A small random model that reads the embedded tasks, as a `transformers` folder."""

from __future__ import annotations

from pathlib import Path

from examples.embedded_model.architecture import model_config, new_model
from examples.embedded_model.tokenizer import build_tokenizer


def save_small_model(folder: Path, seed: int = 0) -> Path:
    """Write a Llama of two layers and two heads with random weights and the embedded tokenizer."""
    tokenizer = build_tokenizer()
    config = model_config(len(tokenizer), layers=2, width=32, heads=2)
    new_model(config, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
