"""Rows turned into token ids with one tokenizer, task and protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from iclgd_lens.episode import Demonstration, Query
from iclgd_lens.errors import EpisodeError
from iclgd_lens.host.special_tokens import bos_in_words, own_token
from iclgd_lens.protocol import EOS, Protocol
from iclgd_lens.tasks import Row, Task
from iclgd_lens.tokens import Tokens, same_tokens

_SEPARATORS = ("\n", "\n\n", EOS, " ", ". ", "")
"""What is tried, in this order, to name a separator that a tokenizer keeps apart."""


class Writer:
    """Turns rows into token ids; each prompt is tokenised once.

    A row is text: where it spells a special token ("</s>"), the spelling is split into ordinary
    tokens. Special tokens in a task's own prompt, as chat templates have them, stay what they are.

    Args:
        tokenizer: A `transformers` tokenizer.
        task: The prompt and label words.
        protocol: Separator and BOS.

    Raises:
        EpisodeError: There is no tokenizer, or it does not keep label words or separator apart.
    """

    def __init__(self, tokenizer: Any, task: Task, protocol: Protocol) -> None:
        if tokenizer is None:
            raise EpisodeError(
                "This model has no tokenizer, so text cannot become tokens. Set model.tokenizer, "
                "or build the episode with Episode.from_tokens."
            )
        self._tokenizer = tokenizer
        self.task = task
        self.protocol = protocol
        self.unknown: int | None = getattr(tokenizer, "unk_token_id", None)
        self._special = _special_tokens(tokenizer)
        self._own = self._spelled(task.prompt.format_map(dict.fromkeys(task.columns, "")))
        self._contents: dict[str, Tokens] = {}
        bos = own_token(tokenizer, "bos") if protocol.bos else None
        self.bos = None if bos is None else bos.id
        self.labels = tuple(self._label(word) for word in task.labels)
        self.separator = self._separator(protocol.separator)

    # -- text ----------------------------------------------------------------------------------

    def _ids(self, text: str, split: bool = False) -> Tokens:
        if not split:
            return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        with _flag_kept(self._tokenizer):
            found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return tuple(found["input_ids"])

    def _spelled(self, text: str) -> Counter[str]:
        """The special tokens that a text spells out and the tokenizer takes for such."""
        candidates = {word: number for word, number in self._special.items() if word in text}
        if not candidates:
            return Counter()
        ids = set(self._ids(text))
        return Counter({word: text.count(word) for word in candidates if candidates[word] in ids})

    def _split(self, row: Row) -> bool:
        """Whether a row spells special tokens that have to be split.

        Raises:
            EpisodeError: They cannot be.
        """
        spelled = self._spelled(row.prompt) - self._own
        if not spelled:
            return False
        words = ", ".join(repr(word) for word in spelled)
        kept = set(self._ids(row.prompt, split=True)) & {self._special[word] for word in spelled}
        if self._own or kept - {self.unknown}:
            why = (
                "the task's prompt has special tokens of its own, which splitting would lose"
                if self._own
                else "this tokenizer cannot write it as text"
            )
            raise EpisodeError(
                f"Row {row.index} spells the special token {words}, and {why}; change the row or "
                "leave it out."
            )
        return True

    def content(self, row: Row) -> Tokens:
        """A row's prompt as tokens."""
        if row.prompt not in self._contents:
            self._contents[row.prompt] = self._ids(row.prompt, self._split(row))
        return self._contents[row.prompt]

    def query(self, row: Row) -> Query:
        """A row as a query."""
        return Query(self.content(row), row.label)

    def demonstration(self, row: Row) -> Demonstration:
        """A row's prompt and label word as tokens."""
        word, split = self.task.labels[row.label], self._split(row)
        whole = f"{row.prompt} {word}"
        label = self._rest(row.prompt, whole, split)
        if label is None:
            raise EpisodeError(_joined(f"label word {word!r}"))
        if label != self.labels[row.label]:
            raise EpisodeError(
                f"After the prompt of row {row.index} the tokenizer writes the label word {word!r} "
                f"as {list(label)}, elsewhere as {list(self.labels[row.label])}, so its score "
                "would be that of other tokens; change the prompt's end or the label word."
            )
        return Demonstration(self.content(row), label, row.label)

    def _rest(self, before: str, whole: str, split: bool = False) -> Tokens | None:
        """The tokens that `whole` adds to `before`; None where the tokenizer joins the two."""
        head, full = self._ids(before, split), self._ids(whole, split)
        if full[: len(head)] != head or len(full) == len(head):
            return None
        return full[len(head) :]

    def unknown_share(self, contents: Iterable[Tokens]) -> float:
        """The share of tokens that stand for text the tokenizer does not know."""
        tokens = [token for content in contents for token in content]
        return sum(token == self.unknown for token in tokens) / len(tokens) if tokens else 0.0

    def bos_in_words(self) -> str:
        """What sequences begin with, and where they begin with nothing, why."""
        return bos_in_words(self._tokenizer) if self.protocol.bos else "none: the protocol's choice"

    # -- labels --------------------------------------------------------------------------------

    def _label(self, word: str) -> Tokens:
        first = self.task.labels[0]
        label = self._rest(first, f"{first} {word}")
        if label is None:
            raise EpisodeError(_joined(f"label word {word!r}"))
        return label

    def _is_unknown(self, label: Tokens) -> bool:
        return self.unknown is not None and set(label) == {self.unknown}

    def unknown_labels(self) -> tuple[str, ...]:
        """Label words that the tokenizer does not know any part of."""
        pairs = zip(self.task.labels, self.labels, strict=True)
        return tuple(word for word, label in pairs if self._is_unknown(label))

    def check_labels(self) -> None:
        """Refuse label words that the tokenizer does not tell apart.

        Raises:
            EpisodeError: Two have the same tokens.
        """
        same = same_tokens(self.labels)
        if same is None:
            return
        one, other = (self.task.labels[number] for number in same)
        tokens = self.labels[same[0]]
        why = ": both are unknown to this tokenizer" if self._is_unknown(tokens) else ""
        raise EpisodeError(
            f"Two label words have the same tokens, {one!r} and {other!r} ({list(tokens)}){why}; "
            "choose other words."
        )

    # -- the separator -------------------------------------------------------------------------

    def _separator(self, separator: str) -> Tokens:
        found = self._tokens_of(separator)
        if found is not None:
            return found
        works = next(text for text in _SEPARATORS if self._tokens_of(text) is not None)
        shown = "lens.EOS" if works == EOS else repr(works)
        remedy = (
            f"give a protocol with another, such as lens.DEFAULT.replace(separator={shown}), which "
            "this tokenizer keeps apart."
        )
        if separator == EOS:
            raise EpisodeError(
                "The protocol separates demonstrations by EOS, but the tokenizer has none; "
                + remedy
            )
        word = self.task.labels[0]
        nothing = self._ids(f"{word}{separator}", split=False) == self._ids(word, split=False)
        fault = (
            f"The tokenizer gives no token for the separator {separator!r}"
            if nothing
            else f"The tokenizer joins the separator {separator!r} with the text before it, so it "
            "has no tokens of its own"
        )
        raise EpisodeError(f"{fault}; {remedy}")

    def _tokens_of(self, separator: str) -> Tokens | None:
        """A separator's own tokens; None where the tokenizer gives it none."""
        if separator == "":
            return ()
        if separator == EOS:
            eos = own_token(self._tokenizer, "eos")
            return None if eos is None else (eos.id,)
        before = f"{self.task.labels[0]} {self.task.labels[0]}"
        return self._rest(before, before + separator)


def _joined(what: str) -> str:
    return (
        f"The tokenizer joins the {what} with the text before it, so it has no tokens of its own; "
        "change the prompt's end or the label word."
    )


def _special_tokens(tokenizer: Any) -> Mapping[str, int]:
    """What a tokenizer takes for control tokens, and their ids."""
    found: dict[str, int] = {}
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    for number, token in added.items():
        if getattr(token, "special", False):
            found[str(token)] = int(number)
    words = getattr(tokenizer, "all_special_tokens", None) or ()
    numbers = getattr(tokenizer, "all_special_ids", None) or ()
    # The ids of a tokenizer's named tokens; of doubles it keeps one.
    pairs = zip(words, numbers, strict=False)
    found |= {str(word): int(number) for word, number in pairs if number is not None}
    # A token that was made up has the id of unknown text.
    unknown = getattr(tokenizer, "unk_token_id", None)
    made_up = {word for word, number in found.items()
               if number == unknown and word != tokenizer.unk_token}  # fmt: skip
    return {word: number for word, number in found.items() if word and word not in made_up}


@contextmanager
def _flag_kept(tokenizer: Any) -> Generator[None]:
    """Leave a fast tokenizer as it was: splitting sets a flag on the library's own object."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    before = getattr(backend, "encode_special_tokens", None)
    try:
        yield
    finally:
        if before is not None:
            backend.encode_special_tokens = before  # type: ignore[union-attr]
