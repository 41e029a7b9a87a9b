"""The errors that a user's input or model can cause: one class per cause, all `LensError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LensError(ValueError):
    """Base of all errors that iclgd_lens raises about what it was given."""


class ProtocolError(LensError):
    """A protocol's field is unknown or holds a value that is not allowed."""


class TaskError(LensError):
    """A task's definition is wrong, or no task has the given name."""


class RowsError(LensError):
    """A task's rows cannot be read, or too few of them can be drawn."""


class SeedError(LensError):
    """A seed is not an integer from 0 to 2**63 - 1."""


class FileError(LensError):
    """A file cannot be written where it was asked for."""


class ModelError(LensError):
    """A model cannot be found or read, or was asked for in a way that does not exist."""


class UnsupportedModelError(LensError):
    """A model, or a setting of it, that no host can serve."""


class EpisodeError(LensError):
    """Demonstrations and queries do not make an episode that the model can read."""


class HookError(LensError):
    """A hook point is missing, or a hook that had to fire did not."""


class DeltaError(LensError):
    """A parameter delta does not fit the model, the file or the other delta."""


class HypothesisError(LensError):
    """A hypothesis is unknown, registered twice or misused."""


class ScoreError(LensError):
    """A score is unknown, registered twice or misused."""


class DivergedError(LensError):
    """Training on the demonstrations gave a loss or a delta that is not finite."""


class ComparisonError(LensError):
    """A comparison was asked for, or read, in a way that has no meaning."""


class ControlError(ComparisonError):
    """A control is unknown, registered twice, or cannot be built."""


class WorldError(LensError):
    """A world was asked for that cannot be built as it is meant."""


class PlanError(LensError):
    """A benchmark's plan is malformed, or names something that does not exist."""


class VerdictError(LensError):
    """A verdict was asked for on evidence that does not fit together."""


class RunError(LensError):
    """A benchmark's run directory cannot be used or read."""


def nearest(given: object, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest allowed word, or an empty string."""
    text, words = str(given), list(allowed)
    match = difflib.get_close_matches(text, words, n=1, cutoff=0.5)
    if not match and len(text) > 1:  # a long word cut short is not close to it, but begins it
        match = [word for word in words if word.startswith(text)]
    return f" Did you mean {match[0]!r}?" if match else ""
