"""Which queries run together: as few passes over the weights as pay for what they pad."""

from __future__ import annotations

from collections.abc import Sequence


def batches(
    lengths: Sequence[int],
    *,
    shared: int = 0,
    tokens_at_once: int,
    most: int | None = None,
    pass_tokens: int,
) -> list[list[int]]:
    """Indices of sequences by batch, shortest first, such that the work is least.

    A pass costs its tokens, padding included, and `pass_tokens` more: what reading every weight
    once, and starting every kernel, cost beside the arithmetic.

    Args:
        lengths: Tokens of each sequence.
        shared: Tokens that every sequence attends to besides its own; they take memory.
        tokens_at_once: Tokens of a batch at most, shared ones counted for each of its sequences;
            one sequence always runs.
        most: Sequences of a batch at most.
        pass_tokens: What a pass costs, in tokens; 0 puts equal lengths alone together.
    """
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    sizes = sorted(by_length)

    def limit(length: int) -> int:
        fits = max(1, tokens_at_once // (shared + length))
        return fits if most is None else min(most, fits)

    # best[j]: the least cost of the j shortest lengths, and where their last group begins.
    best: list[tuple[float, int]] = [(0, 0)]
    for end, length in enumerate(sizes, start=1):
        rows, options = 0, list[tuple[float, int]]()
        for start in range(end - 1, -1, -1):
            rows += len(by_length[sizes[start]])
            passes = -(-rows // limit(length))
            options.append((best[start][0] + rows * length + pass_tokens * passes, start))
        best.append(min(options, key=lambda option: (option[0], -option[1])))
    found: list[list[int]] = []
    end = len(sizes)
    while end:
        start = best[end][1]
        group = [index for size in sizes[start:end] for index in by_length[size]]
        step = limit(sizes[end - 1])
        found += [group[at : at + step] for at in range(0, len(group), step)][::-1]
        end = start
    return found[::-1]
