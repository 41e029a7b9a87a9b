"""Episodes of text: rows drawn from a task, written and tokenised for one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iclgd_lens.episode import EMBEDDED, Demonstration, Demonstrations, Episode, Query, Tokens
from iclgd_lens.errors import EpisodeError
from iclgd_lens.host import Host, as_host
from iclgd_lens.protocol import DEFAULT, EOS, Protocol, get_protocol
from iclgd_lens.tasks import (
    Row,
    Rows,
    Task,
    draw_demonstrations,
    draw_queries,
    get_task,
    hash_rows,
    load_rows,
)


def load_episode(
    task: str | Path | Task,
    model: Any,
    *,
    shots: int = 32,
    queries: int | None = 200,
    seed: int = 0,
    permutation: int = 0,
    data: str | Path | None = None,
    protocol: Protocol | str = DEFAULT,
    revision: str | None = None,
) -> Episode:
    """Draw, write and tokenise an episode of a task.

    Args:
        task: A task's name, a YAML file, or a `Task`.
        model: The model (or its host) whose tokenizer writes the tokens.
        shots: Demonstrations.
        queries: Evaluation rows; None for all, at most 2,000.
        seed: Seed of the draw of demonstrations.
        permutation: 0 keeps the drawn order; p > 0 permutes it, seeded.
        data: "hub", "embedded" or a folder; None takes the embedded rows for the embedded model
            and the Hub for any other.
        protocol: A protocol, or the name of a preset.
        revision: Revision of the Hub's data set.

    Raises:
        TaskError: The task is unknown or malformed.
        RowsError: Rows are missing, malformed or too few.
        EpisodeError: The model has no tokenizer, or the text does not fit the model.
    """
    task, protocol, host = get_task(task), get_protocol(protocol), as_host(model)
    data = _source(data, host)
    writer = _Writer(host.tokenizer, task, protocol)
    train = load_rows(task, "train", data, revision, strip=protocol.strip)
    validation = load_rows(task, "validation", data, revision, strip=protocol.strip)
    rows, demonstrations = _draw(writer, train, shots, seed, permutation)
    repeated = rows if protocol.skip_repeated else ()
    asked = draw_queries(validation, queries, seed=protocol.query_seed, exclude=repeated)
    episode = Episode(
        demonstrations,
        tuple(Query(writer.content(row), row.label) for row in asked),
        writer.labels,
        _provenance(task, train, validation, rows, asked)
        | {
            "seed": seed,
            "permutation": permutation,
            "shots": shots,
            "data": str(data),
        },
    )
    episode.check(host)
    return episode


def load_demonstrations(
    task: str | Path | Task,
    model: Any,
    *,
    shots: int = 32,
    seed: int = 0,
    permutation: int = 0,
    data: str | Path | None = None,
    protocol: Protocol | str = DEFAULT,
    revision: str | None = None,
) -> Demonstrations:
    """Draw, write and tokenise demonstrations alone; see `load_episode` for arguments and errors.

    They need not fit the model's context together: an update reads them one by one.
    """
    task, protocol, host = get_task(task), get_protocol(protocol), as_host(model)
    writer = _Writer(host.tokenizer, task, protocol)
    train = load_rows(task, "train", _source(data, host), revision, strip=protocol.strip)
    return _draw(writer, train, shots, seed, permutation)[1]


def _source(data: str | Path | None, host: Host) -> str | Path:
    if data is not None:
        return data
    return "embedded" if host.name.startswith((EMBEDDED, "embedded")) else "hub"


def _draw(
    writer: _Writer, train: Rows, shots: int, seed: int, permutation: int
) -> tuple[tuple[Row, ...], Demonstrations]:
    balanced = writer.protocol.balanced
    drawn = draw_demonstrations(train, shots, seed=seed, balanced=balanced)
    rows = draw_demonstrations(train, shots, seed=seed, permutation=permutation, balanced=balanced)
    places = {row.index: place for place, row in enumerate(rows)}
    return rows, Demonstrations(
        examples=tuple(writer.demonstration(row) for row in rows),
        bos=writer.bos,
        separator=writer.separator,
        protocol=writer.protocol,
        drawn=tuple(places[row.index] for row in drawn),
        learning_rate=writer.task.learning_rate,
    )


class _Writer:
    """Turns rows into token ids with one tokenizer, task and protocol."""

    def __init__(self, tokenizer: Any, task: Task, protocol: Protocol) -> None:
        if tokenizer is None:
            raise EpisodeError(
                "This model has no tokenizer, so text cannot become tokens. Set model.tokenizer, "
                "or build the episode with Episode.from_tokens."
            )
        self._tokenizer = tokenizer
        self.task = task
        self.protocol = protocol
        self.bos = _bos(tokenizer) if protocol.bos else None
        self.labels = tuple(
            self._rest(task.labels[0], f"{task.labels[0]} {word}", f"label word {word!r}")
            for word in task.labels
        )
        self.separator = self._separator(protocol.separator)

    def _ids(self, text: str) -> Tokens:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _rest(self, before: str, whole: str, what: str) -> Tokens:
        """The tokens that `whole` adds to `before`."""
        head, full = self._ids(before), self._ids(whole)
        if full[: len(head)] != head or len(full) == len(head):
            raise EpisodeError(
                f"The tokenizer joins the {what} with the text before it, so it has no tokens of "
                "its own; change the prompt's end or the label word."
            )
        return full[len(head) :]

    def _separator(self, separator: str) -> Tokens:
        if separator == "":
            return ()
        if separator != EOS:
            before = f"{self.task.labels[0]} {self.task.labels[0]}"
            return self._rest(before, before + separator, f"separator {separator!r}")
        if self._tokenizer.eos_token_id is None:
            raise EpisodeError(
                "The protocol separates demonstrations by EOS, but the tokenizer has none; use "
                'protocol.replace(separator="\\n").'
            )
        return (int(self._tokenizer.eos_token_id),)

    def content(self, row: Row) -> Tokens:
        """A row's prompt as tokens."""
        return self._ids(row.prompt)

    def demonstration(self, row: Row) -> Demonstration:
        """A row's prompt and label word as tokens."""
        word = self.task.labels[row.label]
        label = self._rest(row.prompt, f"{row.prompt} {word}", f"label word {word!r}")
        if label != self.labels[row.label]:
            raise EpisodeError(
                f"After the prompt of row {row.index} the tokenizer writes the label word {word!r} "
                f"as {list(label)}, elsewhere as {list(self.labels[row.label])}, so its score "
                "would be that of other tokens; change the prompt's end or the label word."
            )
        return Demonstration(self.content(row), label, row.label)


def _bos(tokenizer: Any) -> int | None:
    """BOS, or EOS where a tokenizer has only that (GPT-2 and Pythia begin with it), or None."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return None


def _provenance(
    task: Task, train: Rows, validation: Rows, examples: Sequence[Row], asked: Sequence[Row]
) -> dict[str, Any]:
    return {
        "task": task.name,
        "prompt_hash": task.prompt_hash,
        "train_source": train.source,
        "train_revision": train.revision,
        "validation_source": validation.source,
        "validation_revision": validation.revision,
        "train_hash": train.hash,
        "validation_hash": validation.hash,
        "demonstration_rows": [row.index for row in examples],
        "demonstrations_hash": hash_rows(examples),
        "queries_hash": hash_rows(asked),
    }
