"""What the embedded model can do: accuracy by task and shots, and prefix-matching scores by head.

Every query comes with demonstrations of its own, drawn from the training rows. With permuted label
words each label word stands for another class than usual, drawn anew for every query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.embedded_model.corpus import vocabulary_words
from examples.embedded_model.prompts import LABELS, PROMPTS
from examples.embedded_model.tokenizer import BOS, token_id
from iclgd_lens.embedded import embedded_rows

Labels = Literal["usual", "permuted"]

SHOTS = (0, 2, 4, 8, 16)


@dataclass(frozen=True)
class EmbeddedModel:
    """A model with its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def load(folder: Path) -> EmbeddedModel:
    """Load a folder that training wrote; attention is eager, so that patterns can be read."""
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return EmbeddedModel(model.eval(), AutoTokenizer.from_pretrained(folder))


def untrained_twin(trained: EmbeddedModel, *, seed: int) -> EmbeddedModel:
    """Return the model with every matrix of its blocks drawn anew (Xavier-uniform).

    Embeddings, norms and unembedding stay as trained.
    """
    twin = LlamaForCausalLM(trained.model.config)
    twin.load_state_dict(trained.model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if ".layers." in name and parameter.ndim == 2:
                limit = (6 / sum(parameter.shape)) ** 0.5
                parameter.uniform_(-limit, limit, generator=generator)
    twin.set_attn_implementation("eager")
    return EmbeddedModel(twin.eval(), trained.tokenizer)


def accuracy(
    subject: EmbeddedModel,
    task: str,
    shots: int,
    *,
    labels: Labels = "usual",
    queries: int = 180,
    separator: str = "\n",
    seed: int = 0,
) -> float:
    """Return the share of validation rows whose label word scores highest of the task's words.

    Args:
        subject: Model and tokenizer.
        task: One of the six tasks.
        shots: Demonstrations before each query.
        labels: Whether label words stand for their usual classes.
        queries: How many validation rows, the first ones.
        separator: What stands between a label word and the next prompt.
        seed: Of the demonstrations and permutations.
    """
    rng = np.random.default_rng(seed)
    train, rows = embedded_rows(task, "train"), embedded_rows(task, "validation")[:queries]
    words = [token_id(subject.tokenizer, word) for word in LABELS[task]]
    texts: list[str] = []
    golds: list[int] = []
    for row in rows:
        order = derangement(len(words), rng) if labels == "permuted" else range(len(words))
        names = [LABELS[task][i] for i in order]
        drawn = [train[i] for i in rng.choice(len(train), size=shots, replace=False)]
        parts = [f"{_prompt(task, r)} {names[int(r['label'])]}{separator}" for r in drawn]
        texts.append("".join([*parts, _prompt(task, row)]))
        golds.append(order[int(row["label"])])
    right = 0
    for batch, gold in _batches(texts, golds):
        right += int((_label_scores(subject, batch, words).argmax(-1) == gold).sum())
    return right / len(rows)


def derangement(n: int, rng: np.random.Generator) -> list[int]:
    """Return a permutation of `n` that leaves nothing in place."""
    while True:
        order = [int(i) for i in rng.permutation(n)]
        if all(i != place for place, i in enumerate(order)):
            return order


def chance(task: str) -> float:
    """Return the accuracy of a blind guess."""
    return 1 / len(LABELS[task])


def prefix_matching(
    subject: EmbeddedModel, *, sequences: int = 32, period: int = 24, seed: int = 0
) -> Float[Tensor, "layer head"]:
    """Return each head's prefix-matching score (Olsson et al. 2022).

    On random words, all different and then repeated in the same order: the attention of a repeated
    token to the token that followed its first occurrence, averaged over tokens and sequences.
    """
    rng = np.random.default_rng(seed)
    words = [token_id(subject.tokenizer, word) for word in vocabulary_words(subject.tokenizer)]
    once = np.stack([rng.choice(words, size=period, replace=False) for _ in range(sequences)])
    tokens = torch.tensor(np.concatenate([once, once], axis=1))
    bos = torch.full((sequences, 1), token_id(subject.tokenizer, BOS))
    with torch.no_grad():
        output = subject.model(torch.cat([bos, tokens], dim=1), output_attentions=True)
    at = torch.arange(period + 1, 2 * period + 1)
    return torch.stack([a[:, :, at, at - period + 1].mean(dim=(0, 2)) for a in output.attentions])


def _prompt(task: str, row: dict[str, str | int]) -> str:
    return PROMPTS[task].format(**row)


def _batches(
    texts: list[str], golds: list[int], size: int = 30
) -> Iterator[tuple[list[str], Tensor]]:
    for i in range(0, len(texts), size):
        yield texts[i : i + size], torch.tensor(golds[i : i + size])


def _label_scores(
    subject: EmbeddedModel, texts: list[str], words: list[int]
) -> Float[Tensor, "query label"]:
    """Logits of the label words after each text; padding stands at the end, where none sees it."""
    encoded = subject.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    last = encoded["attention_mask"].sum(1) - 1
    with torch.no_grad():
        hidden = subject.model.model(input_ids=encoded["input_ids"], use_cache=False)[0]
        return subject.model.lm_head(hidden[torch.arange(len(texts)), last])[:, words]
