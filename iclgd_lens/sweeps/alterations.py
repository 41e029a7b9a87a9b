"""Episodes with something about their demonstrations changed; queries stay as they are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from iclgd_lens.episode import Demonstration, Episode
from iclgd_lens.errors import EpisodeError


def _relabelled(episode: Episode, places: Iterable[int], shifts: Iterable[int]) -> Episode:
    """The episode with the labels at some places moved on by a number of label ids."""
    examples = list(episode.demonstrations.examples)
    for place, shift in zip(places, shifts, strict=True):
        old = examples[place]
        gold = (old.gold + shift) % episode.n_labels
        examples[place] = Demonstration(old.content, episode.label_tokens[gold], gold)
    return episode.with_demonstrations(examples)


def with_label_noise(episode: Episode, share: float, seed: int = 0) -> Episode:
    """Give a share of the demonstrations, at random places, another label at random.

    Larger shares contain the places and labels of smaller ones: a sweep changes nothing else.

    Args:
        episode: The episode.
        share: From 0 to 1; the number of demonstrations is rounded.
        seed: Of places and labels.

    Raises:
        EpisodeError: The share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise EpisodeError(f"The share of wrong labels is {share}; it must be from 0 to 1.")
    generator = np.random.default_rng(seed)
    count = len(episode.demonstrations)
    # As they were drawn: a permuted prompt shows the same noise in its own order.
    drawn = episode.demonstrations.drawn or tuple(range(count))
    order = [drawn[place] for place in generator.permutation(count).tolist()]
    shifts = generator.integers(1, episode.n_labels, count).tolist()
    chosen = round(share * count)
    return _relabelled(episode, order[:chosen], shifts[:chosen])


def with_flips(episode: Episode, start: float) -> Episode:
    """Flip every label from some place of the prompt on: the rule changes half-way.

    Each label becomes the next one, the last the first.

    Args:
        episode: The episode.
        start: Share of the demonstrations that keep their labels: 0 flips all, 1 none.

    Raises:
        EpisodeError: The share is not between 0 and 1.
    """
    if not 0 <= start <= 1:
        raise EpisodeError(f"The share of kept labels is {start}; it must be from 0 to 1.")
    count = len(episode.demonstrations)
    places = range(round(start * count), count)
    return _relabelled(episode, places, [1] * len(places))


def with_early_flips(episode: Episode, end: float) -> Episode:
    """Flip every label up to some place of the prompt: what comes later has the right ones.

    Each label becomes the next one, the last the first. `with_flips` flips what comes later.

    Args:
        episode: The episode.
        end: Share of the demonstrations that are flipped: 0 flips none, 1 all.

    Raises:
        EpisodeError: The share is not between 0 and 1.
    """
    if not 0 <= end <= 1:
        raise EpisodeError(f"The share of flipped labels is {end}; it must be from 0 to 1.")
    places = range(round(end * len(episode.demonstrations)))
    return _relabelled(episode, places, [1] * len(places))


def with_neutral_text(episode: Episode, tokens: int) -> Episode:
    """Put tokens that say nothing of the task before the first demonstration.

    They are the separator's, or where there is none the first demonstration's first token, again
    and again. They are part of the first demonstration: an update reads them with it.

    Args:
        episode: The episode.
        tokens: How many tokens.

    Raises:
        EpisodeError: The number is negative, or there is no demonstration.
    """
    shown = episode.demonstrations
    if tokens < 0 or not len(shown):
        raise EpisodeError(f"{tokens} tokens cannot stand before {len(shown)} demonstrations.")
    first, *rest = shown.examples
    said = tuple(shown.separator) or tuple(first.content)[:1]
    neutral = (said * tokens)[:tokens]
    longer = Demonstration(neutral + tuple(first.content), first.label, first.gold)
    return episode.with_demonstrations([longer, *rest])


def in_order(episode: Episode, number: int, seed: int = 0) -> Episode:
    """Put the demonstrations into another order; 0 keeps the prompt's.

    Which were drawn first stays known, so that every order leaves out the same for a budget.

    Args:
        episode: The episode.
        number: Which order.
        seed: Of the orders.

    Raises:
        EpisodeError: The number is negative.
    """
    if number < 0:
        raise EpisodeError(f"The order is {number}; it must be 0 or more.")
    if number == 0:
        return episode
    shown = episode.demonstrations
    order = np.random.default_rng((seed, number)).permutation(len(shown)).tolist()
    drawn = [order.index(place) for place in shown.drawn or range(len(order))]
    return episode.with_demonstrations([shown.examples[i] for i in order], drawn)
