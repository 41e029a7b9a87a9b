"""The grammar of the embedded rows: a seeded sentence of a task's class.

Sentences are lower-case and have five to ten words. Every sentence holds two or three evidence
words of its class (see `lexicons`). In `cb` the relation shows twice: by what premise and
hypothesis say (the same state, its denial, a state of another kind) and by words in the
hypothesis, so that, as in many datasets of its sort, the hypothesis alone gives the class away.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import MappingProxyType

from examples.embedded_model import lexicons as lex

Fields = dict[str, str]
"""A row's text columns."""


def n_labels(task: str) -> int:
    """Return how many classes `task` has."""
    return _TASKS[task][1]


def draw_fields(task: str, label: int, rng: random.Random) -> Fields:
    """Draw the text columns of one row.

    Args:
        task: One of `TASKS`.
        label: Label id, from 0.
        rng: The only source of randomness.
    """
    return _TASKS[task][0](label, rng)


def _two(words: Sequence[str], rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(words, 2)
    return first, second


def _sentiment(degrees: Sequence[int], rng: random.Random) -> tuple[str, str, str]:
    """Two adjectives and a verb, each of one of the degrees."""
    adjectives = [word for d in degrees for word in lex.SENTIMENTS[d].adjectives]
    verbs = [word for d in degrees for word in lex.SENTIMENTS[d].verbs]
    return *_two(adjectives, rng), rng.choice(verbs)


def _sentence(degrees: Sequence[int], rng: random.Random) -> str:
    a, b, verb = _sentiment(degrees, rng)
    noun, other = _two(lex.FILM_NOUNS, rng)
    return rng.choice(
        (
            f"the {noun} is {a} and {b}.",
            f"this {a} {noun} simply {verb}.",
            f"the {noun} {verb} and the {other} is {a}.",
            f"{a} and {b}, the {noun} {verb}.",
            f"its {noun} is {a}, its {other} is {b}.",
        )
    )


def _review(degrees: Sequence[int], rng: random.Random) -> str:
    a, b, verb = _sentiment(degrees, rng)
    noun, other = _two(lex.FILM_NOUNS, rng)
    return rng.choice(
        (
            f"critics call this {noun} {a} and {b}.",
            f"with its {a} {noun}, the movie {verb}.",
            f"the movie {verb} because the {noun} is {a}.",
            f"we found the {noun} {a} and the {other} {b}.",
            f"the movie is {a} and its {noun} {verb}.",
        )
    )


def _two_class(draw: Callable[[Sequence[int], random.Random], str], column: str):
    def fields(label: int, rng: random.Random) -> Fields:
        return {column: draw(((0, 1), (3, 4))[label], rng)}

    return fields


def _sst5(label: int, rng: random.Random) -> Fields:
    return {"text": _sentence((label,), rng)}


def _subj(label: int, rng: random.Random) -> Fields:
    if label:
        noun = rng.choice(lex.FILM_NOUNS)
        opening, verb = rng.choice(lex.OPINION_OPENINGS), rng.choice(lex.OPINION_VERBS)
        a, b = _two(lex.OPINION_ADJECTIVES, rng)
        forms = (
            f"{opening}, the {noun} {verb} {a} and {b}.",
            f"the {noun} {verb} {a}, and {opening} so.",
            f"{opening}, this {noun} {verb} {a}.",
        )
    else:
        agent, other = _two(lex.PLOT_AGENTS, rng)
        verb, place = rng.choice(lex.PLOT_VERBS), rng.choice(lex.PLOT_PLACES)
        forms = (
            f"the {agent} {verb} the {other} in the {place}.",
            f"one night, the {agent} {verb} the {other}.",
            f"near the {place}, the {agent} {verb} this {other}.",
        )
    return {"text": rng.choice(forms)}


def _agnews(label: int, rng: random.Random) -> Fields:
    topic = lex.TOPICS[label]
    agents, others = _two(topic.agents, rng)
    verb, thing = rng.choice(topic.verbs), rng.choice(topic.objects)
    day = rng.choice(lex.DAYS)
    forms = (
        f"{agents} {verb} the {thing} on {day}.",
        f"on {day}, {agents} {verb} the {thing}.",
        f"{agents} and {others} {verb} the {thing}.",
        f"the {thing} was {verb} by {agents} on {day}.",
    )
    return {"text": rng.choice(forms)}


def _cb(label: int, rng: random.Random) -> Fields:
    name, thing = rng.choice(lex.NAMES), rng.choice(lex.THINGS)
    pair, other = rng.sample(lex.STATES, 2)
    state = rng.choice(pair)
    premise = rng.choice(
        (
            f"{name} said that the {thing} was {state}.",
            f"according to {name}, the {thing} was {state}.",
            f"{name} knew the {thing} was {state}.",
        )
    )
    relation = lex.RELATIONS[label]
    opening, adverb = rng.choice(relation.openings), rng.choice(relation.adverbs)
    said = rng.choice(other) if label == 2 else state
    return {"premise": premise, "hypothesis": f"{opening}, the {thing} was {adverb} {said}"}


_TASKS: MappingProxyType[str, tuple[Callable[[int, random.Random], Fields], int]] = (
    MappingProxyType(
        {
            "sst2": (_two_class(_sentence, "sentence"), 2),
            "sst5": (_sst5, 5),
            "mr": (_two_class(_review, "text"), 2),
            "subj": (_subj, 2),
            "agnews": (_agnews, 4),
            "cb": (_cb, 3),
        }
    )
)

TASKS = tuple(_TASKS)
"""The tasks that have embedded rows."""
