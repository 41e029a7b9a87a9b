"""Which queries run together: fewer passes, as long as they save more than padding costs."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Sequence

import torch

from iclgd_lens.errors import LensError
from iclgd_lens.raised import is_out_of_memory


class MemoryWarning(UserWarning):
    """A batch did not fit into memory; smaller ones are used."""


def batches(
    lengths: Sequence[int],
    *,
    shared: int = 0,
    tokens_at_once: int,
    most: int | None = None,
    pass_tokens: int,
) -> list[list[int]]:
    """Indices of sequences by batch, shortest first, so that the work is least.

    A pass costs its tokens, padding included, and `pass_tokens` more: the price of reading every
    weight once and starting every kernel.

    Args:
        lengths: Tokens of each sequence.
        shared: Tokens that every sequence attends to besides its own; they take memory.
        tokens_at_once: Tokens of a batch at most, shared ones counted for each of its sequences;
            one sequence always runs.
        most: Sequences of a batch at most.
        pass_tokens: What a pass costs beside its tokens, in tokens; 0 puts only equal
            lengths together.
    """
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    sizes = sorted(by_length)

    limits = {length: max(1, tokens_at_once // (shared + length)) for length in sizes}
    if most is not None:
        limits = {length: min(most, fits) for length, fits in limits.items()}
    # best[j]: the least cost of the j shortest lengths, and where their last group begins.
    best: list[tuple[float, int]] = [(0, 0)]
    for end, length in enumerate(sizes, start=1):
        rows, options = 0, list[tuple[float, int]]()
        for start in range(end - 1, -1, -1):
            rows += len(by_length[sizes[start]])
            passes = -(-rows // limits[length])
            options.append((best[start][0] + rows * length + pass_tokens * passes, start))
        best.append(min(options, key=lambda option: (option[0], -option[1])))
    found: list[list[int]] = []
    end = len(sizes)
    while end:
        start = best[end][1]
        group = [index for size in sizes[start:end] for index in by_length[size]]
        step = limits[sizes[end - 1]]
        found += [group[at : at + step] for at in range(0, len(group), step)][::-1]
        end = start
    return found[::-1]


class PendingChunks:
    """Chunks still to be read; where memory ran out, in halves of what did not fit."""

    def __init__(self, chunks: Iterable[list[int]]) -> None:
        self.pending = deque(chunks)

    def halve(self, failed: list[int]) -> None:
        """Put the failed chunk back in halves, and split all later ones to that size."""
        if len(failed) == 1:
            raise LensError(
                "One query alone does not fit into memory; use fewer shots, a smaller model or a "
                "half-precision dtype."
            )
        most = len(failed) // 2
        warnings.warn(
            f"A batch of {len(failed)} queries did not fit into memory; going on with {most}.",
            MemoryWarning,
            stacklevel=5,
        )
        chunks = [failed, *self.pending]
        self.pending = deque(
            chunk[start : start + most] for chunk in chunks for start in range(0, len(chunk), most)
        )


class MemoryOutcome:
    """Whether memory sufficed."""

    failed = False


@contextlib.contextmanager
def memory_limited() -> Generator[MemoryOutcome, None, None]:
    """Catch the error that memory ran out; what is yielded says afterwards whether it did."""
    outcome = MemoryOutcome()
    try:
        yield outcome
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        outcome.failed = True
    if outcome.failed and torch.cuda.is_available():
        torch.cuda.empty_cache()
