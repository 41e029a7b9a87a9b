"""Which rows make episodes under a protocol: demonstrations, and the queries that all are asked.

Nothing here needs a model, so that faults of the rows are found before one is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from iclgd_lens import defaults
from iclgd_lens.embedded import rows_source
from iclgd_lens.errors import EpisodeError, RowsError
from iclgd_lens.protocol import DEFAULT, Protocol, get_protocol
from iclgd_lens.tasks import (
    Data,
    Row,
    Splits,
    Task,
    draw_demonstrations,
    draw_queries,
    get_task,
    load_splits,
)
from iclgd_lens.validation import check_seed, checks_types


@dataclass(frozen=True)
class Draw:
    """The rows of one episode.

    Attributes:
        seed: Seed of the draw.
        demonstrations: In prompt order.
        drawn: Indices that put them into the order in which they were drawn.
        queries: The evaluation rows.
        common: Whether the other draws have the same queries.
    """

    seed: int
    demonstrations: tuple[Row, ...]
    drawn: tuple[int, ...]
    queries: tuple[Row, ...]
    common: bool = True


def draw_rows(
    splits: Splits,
    protocol: Protocol,
    *,
    shots: int,
    queries: int | None,
    seed: int = 0,
    draws: int = 1,
    permutation: int = 0,
) -> tuple[Draw, ...]:
    """Draw demonstrations with the seeds `seed` to `seed + draws - 1`, and queries for them.

    All draws have the same queries: rows that repeat a demonstration of any draw are passed over
    (under `protocol.skip_repeated`, and where both splits are the same rows). Where too few rows
    are left for that, each draw passes over its own demonstrations alone.

    Raises:
        EpisodeError: `draws` is less than 1.
        RowsError: A seed is out of range, or rows are too few.
    """
    seed = check_draws(seed, draws)
    shown = [
        demonstrations_of(splits, protocol, shots=shots, seed=seed + draw, permutation=permutation)
        for draw in range(draws)
    ]
    asked, common = _queries(splits, protocol, queries, [rows for rows, _ in shown])
    return tuple(
        Draw(seed + draw, rows, drawn, asked[draw], common)
        for draw, (rows, drawn) in enumerate(shown)
    )


def check_draws(seed: int, draws: int) -> int:
    """Return the first seed of `draws` draws with the seeds `seed`, `seed + 1` and so on.

    Raises:
        EpisodeError: `draws` is less than 1.
        RowsError: A seed is out of range.
    """
    if draws < 1:
        raise EpisodeError(f"draws must be 1 or more, not {draws}")
    first = check_seed(seed, error=RowsError)
    check_seed(first + draws - 1, f"the seed of draw {draws}", RowsError)
    return first


def demonstrations_of(
    splits: Splits,
    protocol: Protocol,
    *,
    shots: int,
    seed: int,
    permutation: int = 0,
    exclude: Collection[int] = (),
) -> tuple[tuple[Row, ...], tuple[int, ...]]:
    """Demonstrations in prompt order, and the indices that put them into the drawn order.

    No demonstrations at all are a design of its own, in which there is no in-context learning.
    """
    drawn, rows = (
        draw_demonstrations(
            splits.train, shots, seed=seed, permutation=order, balanced=protocol.balanced,
            exclude=exclude,
        )
        for order in (0, permutation)
    )  # fmt: skip
    places = {row.index: place for place, row in enumerate(rows)}
    return rows, tuple(places[row.index] for row in drawn)


def _queries(
    splits: Splits, protocol: Protocol, queries: int | None, shown: Sequence[Sequence[Row]]
) -> tuple[list[tuple[Row, ...]], bool]:
    """The queries of each draw, and whether they are the same."""

    def drawn(excluded: Sequence[Row]) -> tuple[Row, ...]:
        kept = excluded if protocol.skip_repeated or splits.same else ()
        return draw_queries(splits.validation, queries, seed=protocol.query_seed, exclude=kept)

    try:
        return [drawn([row for rows in shown for row in rows])] * len(shown), True
    except RowsError:
        if len(shown) == 1:
            raise
        return [drawn(rows) for rows in shown], False


@checks_types(RowsError)
def check_rows(
    task: str | Path | Task,
    data: Data = None,
    *,
    model: str | Path | None = None,
    shots: int = defaults.SHOTS,
    queries: int | None = defaults.QUERIES,
    seed: int = 0,
    draws: int = 1,
    permutation: int = 0,
    protocol: Protocol | str = DEFAULT,
    revision: str | None = None,
) -> Splits:
    """Read the rows and draw from them, before a model is loaded; torch is not needed.

    Args:
        task: A task's name, a YAML file, or a `Task`.
        data: See `load_episode`; None takes the rows that are the default for `model`.
        model: The name or folder of the model that is going to read them.
        shots: Demonstrations per draw.
        queries: Evaluation rows; None for all, at most 2,000.
        seed: Seed of the first draw.
        draws: How many draws.
        permutation: Order of the demonstrations.
        protocol: A protocol, or the name of a preset.
        revision: Revision of the Hub's data set.

    Returns:
        The rows, for `load_episode(data=...)` and `load_episodes(data=...)`, which then read
        nothing anew.

    Raises:
        TaskError: The task is unknown or malformed.
        RowsError: Rows are missing, malformed or too few, a number is out of range, or an argument
            is of another type.
        EpisodeError: `draws` is less than 1.
    """
    task, protocol = get_task(task), get_protocol(protocol)
    if data is None and model is not None:
        data = rows_source(model)
    splits = load_splits(task, data, revision, strip=protocol.strip)
    draw_rows(
        splits, protocol, shots=shots, queries=queries, seed=seed, draws=draws,
        permutation=permutation,
    )  # fmt: skip
    return splits
