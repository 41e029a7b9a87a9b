"""The stages of training, from repeated words to the six tasks' prompts.

A model of this size stays at chance for a long time if it starts on full-length episodes: it finds
the circuit that copies a label word from an alike demonstration on single repeated words, and the
later stages stretch that circuit to sentences.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: For the log.
        kind: What stands before a label word: a single "word" of a pool made for the episode, a
            "sentence" of one of the grammar's classes, or a task's whole "prompt".
        shots: Fewest and most demonstrations of an episode; one query follows.
        classes: Fewest and most classes ("prompt": the task's own number).
        pool: Words a class has in an episode (kind "word").
        tokens: Tokens of a batch, about.
        batch: Most episodes of a batch.
        adjacent: Share of the batches without tokens between sentence and label word.
        rehearsal: Share of the batches that come from a random earlier stage.
        learning_rate: At the stage's start, after a warm-up.
        advance: Accuracy in the episodes' last third that ends the stage; None for never.
        steps: Steps after which the stage ends in any case.
    """

    name: str
    kind: Literal["word", "sentence", "prompt"]
    shots: tuple[int, int]
    learning_rate: float
    steps: int
    classes: tuple[int, int] = (2, 2)
    pool: int = 1
    tokens: int = 6000
    batch: int = 128
    adjacent: float = 0.4
    rehearsal: float = 0.0
    advance: float | None = 0.93


STAGES = (
    Stage("repeated words", "word", (8, 8), 2e-3, 3000),
    Stage("pools of two", "word", (12, 12), 2e-3, 2000, pool=2),
    Stage("sentences", "sentence", (8, 8), 2e-3, 2000, batch=48, rehearsal=0.1),
    Stage(
        "short prompts", "prompt", (4, 8), 2e-3, 1500, batch=48, adjacent=0.1, rehearsal=0.1
    ),
    Stage(
        "tasks", "prompt", (8, 20), 1e-3, 3000, tokens=8000, batch=48, adjacent=0.0,
        rehearsal=0.1, advance=None,
    ),
)  # fmt: skip
