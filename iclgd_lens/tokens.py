"""Token ids as they are given: lists, NumPy arrays or torch tensors of whole numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias, cast

from iclgd_lens.errors import EpisodeError

Tokens = tuple[int, ...]
"""Token ids as this package keeps them."""

TokenIds: TypeAlias = Any
"""Token ids as they are given: whole numbers in a list, a NumPy array or a torch tensor."""


def continued(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Several sequences as rows of one length, the shorter ones continued at their end.

    A row is continued with its own last token, which the model knows; attention is causal, so none
    of the row's own tokens sees the rest.
    """
    longest = max(map(len, rows))
    return [[*ids, *list(ids[-1:]) * (longest - len(ids))] for ids in rows]


def whole(value: Any, what: str) -> int:
    """Return one whole number, whichever library it comes from.

    Args:
        value: An int, a float without a fraction, or an array or tensor of one of them.
        what: What it is called in the message.

    Raises:
        EpisodeError: It is not a whole number; truth values and text are not.
    """
    number: Any = value
    if hasattr(number, "item"):
        try:
            number = number.item()
        except (ValueError, RuntimeError):
            raise EpisodeError(f"{what} must be one integer, not several: {value!r}.") from None
    if isinstance(number, float) and number.is_integer():
        return int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        kind = type(number).__name__
        raise EpisodeError(f"{what} must be an integer, not {number!r} ({kind}).")
    return number


def members(values: Any, what: str) -> list[Any]:
    """Return the members of a list, array or tensor.

    Raises:
        EpisodeError: It is text, or has no members.
    """
    if isinstance(values, str | bytes):
        raise EpisodeError(
            f"{what} must be integers, not the text {values!r}; a tokenizer turns text into them."
        )
    if isinstance(values, AbstractSet | Mapping):
        kind = type(values).__name__
        raise EpisodeError(f"{what} must be a list of integers; a {kind} has no order of its own.")
    if getattr(values, "ndim", None) != 0 and isinstance(values, Iterable):
        return list(cast("Iterable[Any]", values))
    raise EpisodeError(f"{what} must be a list of integers, not {values!r}.")


def token_ids(values: Any, what: str) -> Tokens:
    """Return a sequence of token ids.

    Raises:
        EpisodeError: It is text, or a member is not a whole number.
    """
    return tuple(
        whole(value, f"{what}, number {i},") for i, value in enumerate(members(values, what))
    )


def one_or_more(values: Any, what: str) -> Tokens:
    """Return token ids that may be given as one number.

    Raises:
        EpisodeError: It is neither a number nor a sequence of them.
    """
    several = isinstance(values, str | bytes) or (
        isinstance(values, Iterable) and getattr(values, "ndim", None) != 0
    )
    return token_ids(values, what) if several else (whole(values, what),)


def same_tokens(labels: Sequence[Tokens]) -> tuple[int, int] | None:
    """Return the first two labels whose tokens are the same, or None."""
    first: dict[Tokens, int] = {}
    for number, label in enumerate(labels):
        if label in first:
            return first[label], number
        first[label] = number
    return None
