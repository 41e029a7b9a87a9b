"""Training sentences as token ids: fresh from the grammar, never a validation row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from examples.embedded_model.grammar import TASKS, draw_fields, n_labels
from examples.embedded_model.prompts import LABELS, PROMPTS
from examples.embedded_model.tokenizer import BOS, EOS, PAD, token_id
from iclgd_lens.embedded import embedded_rows

Ids = list[int]


@dataclass(frozen=True)
class Example:
    """A row as tokens: its texts alone, and the whole prompt (both without label word)."""

    text: Ids
    prompt: Ids


@dataclass(frozen=True)
class Corpus:
    """What episodes are made of, as token ids.

    Attributes:
        classes: Examples by (task, label id).
        evidence: Words that tell a class from the others of its task, by (task, label id).
        shared: Words of every class of a task, by task.
        labels: Label words by task, in the order of their ids.
        words: Every word that occurs in a sentence.
        answer: The tokens between a sentence and its label word in the first stages.
        bos: The beginning-of-text token.
        separators: The newline and the end-of-text token.
        pad: The token that fills short episodes up.
    """

    classes: dict[tuple[str, int], Sequence[Example]]
    evidence: dict[tuple[str, int], Ids]
    shared: dict[str, Ids]
    labels: dict[str, Ids]
    words: Ids
    answer: Ids
    bos: int
    separators: tuple[int, int]
    pad: int


def held_out_texts() -> set[str]:
    """Return the texts of all validation rows, which no training sentence may repeat."""
    rows = [row for task in TASKS for row in embedded_rows(task, "validation")]
    return {_text({k: str(v) for k, v in row.items() if k != "label"}) for row in rows}


def build_corpus(tokenizer: PreTrainedTokenizerFast, *, size: int, seed: int) -> Corpus:
    """Draw `size` training sentences for each class of each task."""
    rng = random.Random(seed)
    held_out = held_out_texts()
    classes: dict[tuple[str, int], Sequence[Example]] = {}
    labels: dict[str, Ids] = {}
    words: set[int] = set()
    for task in TASKS:
        labels[task] = [_encode(tokenizer, word)[0] for word in LABELS[task]]
        for label in range(n_labels(task)):
            examples: list[Example] = []
            while len(examples) < size:
                fields = draw_fields(task, label, rng)
                if _text(fields) in held_out:
                    continue
                prompt = PROMPTS[task].format(**fields)
                examples.append(
                    Example(_encode(tokenizer, _text(fields)), _encode(tokenizer, prompt))
                )
            classes[task, label] = examples
            words |= {i for e in examples for i in e.text}
    marks = {i for mark in ".,:?" for i in _encode(tokenizer, mark)}
    evidence, shared = _evidence(classes, marks)
    return Corpus(
        classes=classes,
        evidence=evidence,
        shared=shared,
        labels=labels,
        words=sorted(words - marks),
        answer=_encode(tokenizer, "Label:"),
        bos=token_id(tokenizer, BOS),
        separators=(token_id(tokenizer, "\n"), token_id(tokenizer, EOS)),
        pad=token_id(tokenizer, PAD),
    )


def _evidence(
    classes: dict[tuple[str, int], Sequence[Example]], marks: set[int]
) -> tuple[dict[tuple[str, int], Ids], dict[str, Ids]]:
    """Words of one class of a task alone, and words of all its classes."""
    found = {key: {i for e in drawn for i in e.text} - marks for key, drawn in classes.items()}
    evidence: dict[tuple[str, int], Ids] = {}
    shared: dict[str, Ids] = {}
    for task in TASKS:
        own = [found[task, label] for label in range(n_labels(task))]
        shared[task] = sorted(set.intersection(*own))
        for label, words in enumerate(own):
            others = set[int]().union(*(w for i, w in enumerate(own) if i != label))
            evidence[task, label] = sorted(words - others)
    return evidence, shared


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Ids:
    return tokenizer.encode(text, add_special_tokens=False)


def _text(fields: dict[str, str]) -> str:
    return " ".join(fields.values())


def vocabulary_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the tokenizer's words, without special tokens, newline and punctuation."""
    return sorted(word for word in tokenizer.get_vocab() if word.isalpha())
