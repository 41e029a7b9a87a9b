"""The special tokens that a tokenizer's own files name.

TransformerLens gives every tokenizer a BOS and an EOS: where there is none it takes another token's
or makes "<|endoftext|>" up, whose id is then that of unknown text, or none of the model's. What the
files said stays in the tokenizer's own record of how it was made.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

_MADE_UP = "<|endoftext|>"


class SpecialToken(NamedTuple):
    """A special token's text and id."""

    text: str
    id: int


def own_token(tokenizer: Any, kind: Literal["bos", "eos"]) -> SpecialToken | None:
    """Return the BOS or EOS that a tokenizer's files name, or None.

    What the user has set since is theirs, and counts; what TransformerLens fills in does not. A
    token that is not in the vocabulary does not count. A tokenizer without a record of how it was
    made (one that is not of `transformers`) is taken at its word.
    """
    name = f"{kind}_token"
    made: Any = getattr(tokenizer, "init_kwargs", None)
    if made is None:
        number = getattr(tokenizer, f"{name}_id", None)
        return None if number is None else SpecialToken(name, int(number))
    token = getattr(tokenizer, name)
    filled_in = _MADE_UP if kind == "eos" else tokenizer.eos_token
    if token is None or (made.get(name) is None and token == filled_in):
        return None
    number = tokenizer.convert_tokens_to_ids(token)
    if number is None or tokenizer.convert_ids_to_tokens(number) != token:
        return None
    return SpecialToken(str(token), int(number))


def bos_in_words(tokenizer: Any) -> str:
    """What a result records about the beginning of sequences."""
    if tokenizer is None:
        return "no tokenizer"
    bos = own_token(tokenizer, "bos")
    return "none: the tokenizer's files name no BOS" if bos is None else f"{bos.text} ({bos.id})"
