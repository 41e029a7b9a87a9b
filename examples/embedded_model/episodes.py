"""Training batches: episodes whose label words are drawn anew, so that only the context tells.

An episode is BOS, then for every demonstration its prompt, its label word and a separator, then
the query with its label word. Which word stands for which class is drawn for every episode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from examples.embedded_model.corpus import Corpus, Ids
from examples.embedded_model.curriculum import Stage

USUAL = 0.5
"""Share of a task's episodes under its own label words (in random order)."""

FAMILIAR = 0.8
"""Share of the other episodes whose label words are label words of some task."""

FIRST_WORD = 2.0
"""How much likelier a task's first label word is for an episode's first sentence than each other
one. A model that has seen no demonstration then learns one fixed guess, whatever the sentence."""


@dataclass(frozen=True)
class Batch:
    """Episodes, padded at the end.

    Attributes:
        tokens: Token ids.
        label: Whether a token is a label word.
        shot: How many demonstrations precede a label word (0 elsewhere).
        padding: Whether a token is padding.
        shots: Demonstrations of each episode.
    """

    tokens: Int[Tensor, "episode pos"]
    label: Bool[Tensor, "episode pos"]
    shot: Int[Tensor, "episode pos"]
    padding: Bool[Tensor, "episode pos"]
    shots: int


@dataclass(frozen=True)
class Item:
    """One labelled sentence of an episode."""

    prompt: Ids
    class_: int


def draw_batch(corpus: Corpus, stage: Stage, rng: np.random.Generator) -> Batch:
    """Draw a batch of one stage; `rng` is the only source of randomness."""
    if stage.kind == "loop":
        return _loops(corpus, stage, rng)
    shots = int(rng.integers(stage.shots[0], stage.shots[1] + 1))
    adjacent = bool(rng.random() < stage.adjacent)
    tasks = list(corpus.labels)
    task = tasks[int(rng.integers(len(tasks)))]
    episodes: list[tuple[Ids, list[int]]] = []
    n_episodes = stage.batch
    while len(episodes) < n_episodes:
        items, words = _items(corpus, stage, task, shots + 1, adjacent, rng)
        episodes.append(_join(corpus, items, words, rng))
        n_episodes = min(stage.batch, max(1, stage.tokens // len(episodes[0][0])))
    return _pad(corpus, episodes, shots)


def _loops(corpus: Corpus, stage: Stage, rng: np.random.Generator) -> Batch:
    """Random words, repeated with a period of the episode's own; the repetitions are labels."""
    length = 2 * stage.shots[1]
    tokens = torch.full((stage.batch, length + 1), corpus.bos)
    label = torch.zeros(tokens.shape, dtype=torch.bool)
    for i in range(stage.batch):
        period = int(rng.integers(stage.shots[0], stage.shots[1] + 1))
        words = rng.choice(corpus.words, size=period, replace=False)
        tokens[i, 1:] = torch.tensor([int(w) for w in np.resize(words, length)])
        label[i, 1 + period :] = True
    return Batch(tokens, label, label.long(), torch.zeros_like(label), 0)


def _items(
    corpus: Corpus, stage: Stage, task: str, n: int, adjacent: bool, rng: np.random.Generator
) -> tuple[list[Item], Ids]:
    """An episode's items and the label word of each class."""
    answer = [] if adjacent else corpus.answer
    n_classes = int(rng.integers(stage.classes[0], stage.classes[1] + 1))
    if stage.kind == "word":
        pools = rng.choice(corpus.words, size=(n_classes, stage.pool), replace=False)
        return _word_items(pools, n, answer, rng), _other_words(corpus, n_classes, rng)
    if stage.kind == "evidence":
        labels = rng.choice(
            len(corpus.labels[task]), size=min(n_classes, len(corpus.labels[task])), replace=False
        )
        lexicons = [corpus.evidence[task, int(label)] for label in labels]
        items = _evidence_items(lexicons, corpus.shared[task], stage, n, answer, rng)
        return items, _other_words(corpus, len(labels), rng)
    if stage.kind == "sentence":
        every = list(corpus.classes)
        chosen = [every[i] for i in rng.choice(len(every), size=n_classes, replace=False)]
        words = _other_words(corpus, n_classes, rng)
    else:
        chosen = [(task, label) for label in range(len(corpus.labels[task]))]
        words = _task_words(corpus, task, rng)
    classes = [int(c) for c in rng.integers(len(chosen), size=n)]
    if stage.kind == "prompt":
        classes[0] = _first_class(corpus, task, words, rng)
    items: list[Item] = []
    for c in classes:
        examples = corpus.classes[chosen[c]]
        example = examples[int(rng.integers(len(examples)))]
        whole = stage.kind == "prompt" and not adjacent
        items.append(Item(example.prompt if whole else example.text + answer, c))
    return items, words


def _evidence_items(
    lexicons: list[Ids], shared: Ids, stage: Stage, n: int, answer: Ids, rng: np.random.Generator
) -> list[Item]:
    """A few words of a class's pool, with words that all classes share among them."""
    pools = [
        rng.choice(words, size=min(stage.pool or len(words), len(words)), replace=False)
        for words in lexicons
    ]
    items: list[Item] = []
    for c in rng.integers(len(pools), size=n):
        size = min(stage.length, len(pools[c]))
        words = [int(word) for word in rng.choice(pools[c], size=size, replace=False)]
        if stage.filler and shared:
            words += [int(word) for word in rng.choice(shared, size=stage.filler)]
        items.append(Item([*(words[i] for i in rng.permutation(len(words))), *answer], int(c)))
    return items


def _word_items(pools: np.ndarray, n: int, answer: Ids, rng: np.random.Generator) -> list[Item]:
    """Rounds over all words of all pools, each round in random order."""
    flat = [(int(word), c) for c, pool in enumerate(pools) for word in pool]
    order: list[int] = []
    while len(order) < n:
        order += [int(i) for i in rng.permutation(len(flat))]
    return [Item([flat[i][0], *answer], flat[i][1]) for i in order[:n]]


def _first_class(corpus: Corpus, task: str, words: Ids, rng: np.random.Generator) -> int:
    weights = np.ones(len(words))
    if corpus.labels[task][0] in words:
        weights[words.index(corpus.labels[task][0])] = FIRST_WORD
    return int(rng.choice(len(words), p=weights / weights.sum()))


def _task_words(corpus: Corpus, task: str, rng: np.random.Generator) -> Ids:
    own = corpus.labels[task]
    if rng.random() < USUAL:
        return [own[i] for i in rng.permutation(len(own))]
    return _other_words(corpus, len(own), rng)


def _other_words(corpus: Corpus, n: int, rng: np.random.Generator) -> Ids:
    familiar = sorted({word for words in corpus.labels.values() for word in words})
    pool = familiar if rng.random() < FAMILIAR else corpus.words
    return [int(word) for word in rng.choice(pool, size=n, replace=False)]


def _join(
    corpus: Corpus, items: list[Item], words: Ids, rng: np.random.Generator
) -> tuple[Ids, list[int]]:
    """One episode's tokens, and where its label words are."""
    separator = corpus.separators[int(rng.random() < 0.25)]
    tokens, places = [corpus.bos], list[int]()
    for item in items:
        tokens += item.prompt
        places.append(len(tokens))
        tokens += [words[item.class_], separator]
    return tokens[:-1], places


def _pad(corpus: Corpus, episodes: list[tuple[Ids, list[int]]], shots: int) -> Batch:
    length = max(len(tokens) for tokens, _ in episodes)
    tokens = torch.full((len(episodes), length), corpus.pad)
    label = torch.zeros(tokens.shape, dtype=torch.bool)
    shot = torch.zeros(tokens.shape, dtype=torch.long)
    for i, (ids, places) in enumerate(episodes):
        tokens[i, : len(ids)] = torch.tensor(ids)
        label[i, places] = True
        shot[i, places] = torch.arange(len(places))
    return Batch(tokens, label, shot, tokens == corpus.pad, shots)
