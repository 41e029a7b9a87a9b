"""Episodes of text: rows drawn from a task, written and tokenised for one model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iclgd_lens import defaults
from iclgd_lens.embedded import rows_source
from iclgd_lens.episode import Demonstrations, Episode, EpisodeWarning
from iclgd_lens.episode_rows import Draw, check_draws, demonstrations_of, draw_rows
from iclgd_lens.episode_writer import Writer
from iclgd_lens.errors import EpisodeError, RowsError
from iclgd_lens.host import Host, as_host
from iclgd_lens.protocol import DEFAULT, Protocol, get_protocol
from iclgd_lens.tasks import (
    Data,
    Rows,
    Splits,
    Task,
    asked_elsewhere,
    get_task,
    hash_rows,
    load_rows,
    load_splits,
)
from iclgd_lens.validation import checks_types


def load_episode(
    task: str | Path | Task,
    model: Any,
    *,
    shots: int = defaults.SHOTS,
    queries: int | None = defaults.QUERIES,
    seed: int = 0,
    permutation: int = 0,
    data: Data = None,
    protocol: Protocol | str = DEFAULT,
    revision: str | None = None,
    auxiliary: Sequence[str | Path | Task] = (),
) -> Episode:
    """Draw, write and tokenise an episode of a task.

    Args:
        task: A task's name, a YAML file, or a `Task`.
        model: The model (or its host) whose tokenizer writes the tokens.
        shots: Demonstrations.
        queries: Evaluation rows; None for all, at most 2,000.
        seed: Seed of the draw of demonstrations.
        permutation: 0 keeps the drawn order; p > 0 permutes it, seeded.
        data: "hub", "embedded" or a folder; or rows in memory: a list of mappings, a pandas
            DataFrame or a `datasets.Dataset`, or a mapping of the splits "train" and "validation"
            to these (one table serves for both; no query is then a demonstration). None takes the
            embedded rows for the embedded model and the Hub for any other.
        protocol: A protocol, or the name of a preset.
        revision: Revision of the Hub's data set.
        auxiliary: Other tasks, whose demonstrations the episode is to carry; see `load_episodes`.

    Raises:
        TaskError: The task is unknown or malformed.
        RowsError: Rows are missing, malformed or too few, a number is out of range, or an argument
            is of another type.
        EpisodeError: `model` is a name, the model has no tokenizer, or the text does not fit it.
    """
    return load_episodes(
        task, model, draws=1, seed=seed, shots=shots, queries=queries, permutation=permutation,
        data=data, protocol=protocol, revision=revision, auxiliary=auxiliary,
    )[0]  # fmt: skip


@checks_types(RowsError)
def load_episodes(
    task: str | Path | Task,
    model: Any,
    *,
    draws: int = defaults.DRAWS,
    seed: int = 0,
    shots: int = defaults.SHOTS,
    queries: int | None = defaults.QUERIES,
    permutation: int = 0,
    data: Data = None,
    protocol: Protocol | str = DEFAULT,
    revision: str | None = None,
    auxiliary: Sequence[str | Path | Task] = (),
) -> tuple[Episode, ...]:
    """Draw demonstrations several times, all for the same queries.

    A verdict needs several draws. Rows are read and tokenised once. A row that repeats a
    demonstration of any draw is no query (under `protocol.skip_repeated`); where too few rows are
    left for that, each draw has queries of its own, and `Episode.warnings` says so.

    Args:
        task: A task's name, a YAML file, or a `Task`.
        model: The model (or its host) whose tokenizer writes the tokens.
        draws: How many draws; their seeds are `seed`, `seed + 1` and so on.
        seed: Seed of the first draw.
        shots: Demonstrations per draw; 0 is taken, with a warning, as the case without any.
        queries: Evaluation rows; None for all, at most 2,000.
        permutation: 0 keeps the drawn order; p > 0 permutes it, seeded.
        data: See `load_episode`.
        protocol: A protocol, or the name of a preset; `balanced=True` draws equal classes.
        revision: Revision of the Hub's data set.
        auxiliary: Other tasks: as many demonstrations of each, drawn with the draw's seed from the
            same source, for hypotheses that need "auxiliary" demonstrations (`Hypothesis.needs`).
            Rows whose text stands in this task's evaluation split are passed over.

    Raises:
        TaskError: A task is unknown or malformed.
        RowsError: Rows are missing, malformed or too few, a number is out of range, or an argument
            is of another type.
        EpisodeError: `draws` is less than 1, `model` is a name, the model has no tokenizer, or the
            text does not fit it.

    Examples:
        >>> import iclgd_lens as lens
        >>> model = lens.load_model("embedded")
        >>> [len(each.demonstrations) for each in load_episodes("subj", model, draws=2, shots=4)]
        [4, 4]
    """
    _check_is_model(model)
    task, protocol, host = get_task(task), get_protocol(protocol), as_host(model)
    seed = check_draws(seed, draws)
    writer = Writer(host.tokenizer, task, protocol)  # before rows are read, from the Hub say
    splits = load_splits(task, _source(data, host), revision, strip=protocol.strip)
    drawn = draw_rows(
        splits, protocol, shots=shots, queries=queries, seed=seed, draws=draws,
        permutation=permutation,
    )  # fmt: skip
    facts = _common_facts(writer, splits, permutation)
    episodes = tuple(_write(writer, draw, facts) for draw in drawn)
    if auxiliary:
        asking = Asking(task, splits.validation)
        source = splits.data if splits.data is not None else data
        episodes = tuple(_with_others(each, auxiliary, host, source, asking) for each in episodes)
    for episode in episodes:
        episode.check(host)
    for sentence in dict.fromkeys(note for episode in episodes for note in episode.warnings):
        warnings.warn(f"{task.name}: {sentence}", EpisodeWarning, stacklevel=3)  # the caller
    return episodes


@checks_types(RowsError)
def load_demonstrations(
    task: str | Path | Task,
    model: Any,
    *,
    shots: int = defaults.SHOTS,
    seed: int = 0,
    permutation: int = 0,
    data: Data = None,
    protocol: Protocol | str = DEFAULT,
    revision: str | None = None,
) -> Demonstrations:
    """Draw, write and tokenise demonstrations alone; see `load_episode` for arguments and errors.

    They need not fit the model's context together: an update reads them one by one.
    """
    _check_is_model(model)
    return _drawn_alone(
        task, as_host(model), shots=shots, seed=seed, permutation=permutation, data=data,
        protocol=get_protocol(protocol), revision=revision,
    )  # fmt: skip


@dataclass(frozen=True)
class Asking:
    """A task with its evaluation rows, which no other task may show beside these queries."""

    task: Task
    rows: Rows


def demonstrations_beside(
    asking: Asking, task: str | Path | Task, host: Host, *, shots: int, seed: int, data: Data,
    protocol: Protocol,
) -> Demonstrations:  # fmt: skip
    """Draw demonstrations of one task beside the queries of another.

    Rows whose text the other task asks are passed over (`tasks.overlaps`); what else is drawn is
    what `load_demonstrations` draws.
    """
    return _drawn_alone(
        task, host, shots=shots, seed=seed, data=data, protocol=protocol, asking=asking
    )


def _drawn_alone(
    task: str | Path | Task, host: Host, *, shots: int, seed: int, data: Data, protocol: Protocol,
    permutation: int = 0, revision: str | None = None, asking: Asking | None = None,
) -> Demonstrations:  # fmt: skip
    task = get_task(task)
    writer, source = Writer(host.tokenizer, task, protocol), _source(data, host)
    if isinstance(source, Splits):
        source = load_splits(task, source, strip=protocol.strip)
    else:
        train = load_rows(task, "train", source, revision, strip=protocol.strip)
        source = Splits(train, train, None)
    exclude = (
        frozenset[int]()
        if asking is None
        else asked_elsewhere(source.train, task, asking.rows, asking.task)
    )
    rows, drawn = demonstrations_of(
        source, protocol, shots=shots, seed=seed, permutation=permutation, exclude=exclude
    )
    return _demonstrations(writer, Draw(seed, rows, drawn, ()))


def _check_is_model(model: object) -> None:
    """Refuse a name in the model's place, such as a task's where the two arguments were swapped."""
    if isinstance(model, (str, Path, Task)):
        shown = model.name if isinstance(model, Task) else str(model)
        raise EpisodeError(
            f"The model is given as {shown!r}: give the task first, then a loaded model, such as "
            "load_episodes('sst2', load_model('embedded'))"
        )


def _with_others(
    episode: Episode, tasks: Sequence[str | Path | Task], host: Host, source: Data, asking: Asking
) -> Episode:
    """The episode with demonstrations of other tasks, drawn with its seed."""
    shown = tuple(
        demonstrations_beside(
            asking, task, host, shots=len(episode.demonstrations), seed=episode.provenance["seed"],
            data=source, protocol=episode.protocol,
        )
        for task in tasks
    )  # fmt: skip
    names = [get_task(task).name for task in tasks]
    facts = {**episode.provenance, "auxiliary": names}
    return replace(episode, auxiliary=shown, provenance=facts)


def _source(data: Data, host: Host) -> Data:
    """Where rows come from, by default those that the model was trained to read."""
    if data is not None:
        return data
    return rows_source(revision=getattr(host.model.cfg, "model_revision", None))


def _write(writer: Writer, draw: Draw, facts: dict[str, Any]) -> Episode:
    asked = tuple(writer.query(row) for row in draw.queries)
    rows = draw.demonstrations
    own = {
        "demonstration_rows": [row.index for row in rows],
        "demonstrations_hash": hash_rows(rows),
        "queries_hash": hash_rows(draw.queries),
        "unknown_share": round(writer.unknown_share(query.content for query in asked), 4),
        "common_queries": draw.common,
        "seed": draw.seed,
        "shots": len(rows),
    }
    shown = _demonstrations(writer, draw)
    writer.check_labels()
    return Episode(shown, asked, writer.labels, facts | own)


def _demonstrations(writer: Writer, draw: Draw) -> Demonstrations:
    return Demonstrations(
        examples=tuple(writer.demonstration(row) for row in draw.demonstrations),
        bos=writer.bos,
        separator=writer.separator,
        protocol=writer.protocol,
        drawn=draw.drawn,
        learning_rate=writer.task.learning_rate,
    )


def _common_facts(writer: Writer, splits: Splits, permutation: int) -> dict[str, Any]:
    """What all draws from these rows have in common; rows in memory have no place to name."""
    task, train, validation = writer.task, splits.train, splits.validation
    place = {} if splits.data is None else {"data": splits.data}
    return {
        "task": task.name,
        "labels": list(task.labels),
        "unknown_labels": list(writer.unknown_labels()),
        "bos": writer.bos_in_words(),
        "prompt_hash": task.prompt_hash,
        "train_source": train.source,
        "train_revision": train.revision,
        "validation_source": validation.source,
        "validation_revision": validation.revision,
        "train_hash": train.hash,
        "validation_hash": validation.hash,
        "permutation": permutation,
        **place,
    }
