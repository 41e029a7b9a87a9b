"""The stages of training, from repeated words to the six tasks' prompts.

A model of this size stays at chance for a long time if it starts on full-length episodes: it finds
the circuit that copies a label word from an alike demonstration on single repeated words, and the
later stages stretch that circuit to sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: For the log.
        description: For the model card.
        kind: What stands before a label word: a single "word" of a pool made for the episode, a
            few "evidence" words of a class, a "sentence" of one of the grammar's classes, or a
            task's whole "prompt"; in a "loop" no label words, only words that repeat.
        shots: Fewest and most demonstrations of an episode; one query follows ("loop": shortest
            and longest period).
        classes: Fewest and most classes ("prompt": the task's own number).
        pool: Words a class has in an episode (kinds "word" and "evidence"; 0 for all of them).
        length: Evidence words of a sentence (kind "evidence").
        filler: Words among them that every class shares (kind "evidence").
        tokens: Tokens of a batch, about.
        batch: Most episodes of a batch.
        adjacent: Share of the batches without tokens between sentence and label word.
        rehearsal: Share of the batches that come from a random earlier stage.
        learning_rate: At the stage's start, after a warm-up.
        advance: Accuracy in the episodes' last third that ends the stage; None for never.
        steps: Steps after which the stage ends in any case.
    """

    name: str
    description: str
    kind: Literal["loop", "word", "evidence", "sentence", "prompt"]
    shots: tuple[int, int]
    learning_rate: float
    steps: int
    classes: tuple[int, int] = (2, 2)
    pool: int = 1
    length: int = 1
    filler: int = 0
    tokens: int = 5000
    batch: int = 64
    adjacent: float = 0.4
    rehearsal: float = 0.0
    advance: float | None = 0.93


STAGES = (
    Stage(
        "loops",
        "sequences of random words repeated with a period of 5 to 24",
        "loop", (5, 24), 2e-3, 3000,
    ),
    Stage(
        "repeated words",
        "one-word sentences repeated exactly, 8 demonstrations, 2 to 5 classes",
        "word", (8, 8), 2e-3, 3000, classes=(2, 5),
    ),
    Stage(
        "pools of two",
        "one-word sentences from pools of two words a class, 12 demonstrations",
        "word", (12, 12), 2e-3, 2000, pool=2,
    ),
    Stage(
        "a first look",
        "sentences of two of the grammar's classes, 8 demonstrations",
        "sentence", (8, 8), 2e-3, 301, batch=48, rehearsal=0.1,
    ),
    Stage(
        "one of three",
        "one evidence word of a task's class, from pools of three, 12 demonstrations",
        "evidence", (12, 12), 2e-3, 1000, pool=3, rehearsal=0.1,
    ),
    Stage(
        "two of three",
        "two evidence words from pools of three, 12 demonstrations",
        "evidence", (12, 12), 2e-3, 1500, pool=3, length=2, rehearsal=0.1,
    ),
    Stage(
        "three of six",
        "three evidence words from pools of six and one word that all classes share",
        "evidence", (12, 12), 2e-3, 1500, pool=6, length=3, filler=1, rehearsal=0.1,
    ),
    Stage(
        "three of all",
        "three evidence words among three words that all classes share, 12 demonstrations",
        "evidence", (12, 12), 2e-3, 1500, pool=0, length=3, filler=3, classes=(2, 3),
        rehearsal=0.1,
    ),
    Stage(
        "sentences",
        "sentences of two of the grammar's classes, 8 demonstrations",
        "sentence", (8, 8), 2e-3, 2000, batch=48, rehearsal=0.1,
    ),
    Stage(
        "short prompts",
        "the six tasks' prompts, 4 to 8 demonstrations",
        "prompt", (4, 8), 2e-3, 1500, batch=48, adjacent=0.1, rehearsal=0.1,
    ),
    Stage(
        "tasks",
        "the six tasks' prompts, 4 to 20 demonstrations, learning rate falling along a cosine",
        "prompt", (4, 20), 1e-3, 1500, batch=48, adjacent=0.0, rehearsal=0.1, advance=None,
    ),
)  # fmt: skip
