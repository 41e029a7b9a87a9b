"""Interventions: anything that changes what a model computes without changing its weights.

An intervention is a list of hooks, and possibly a prefix of keys and values that every query sees.
Hooks may depend on the rows that are about to be read (`Batch`): which queries they are, how long
each is, and where its readout token stands. Weight changes, which act on every token alike, are
`iclgd_lens.delta.ParameterDelta`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclgd_lens.errors import DeltaError
from iclgd_lens.host import Hook, Host, Prefix, as_host


@dataclass(frozen=True, eq=False)
class Batch:
    """The rows that a pass is about to read.

    Queries of unequal length share a pass, the shorter ones continued at their end, so the last
    position of a row need not be its own: an intervention that acts at the readout token asks this
    object where that is. `Batch()` stands for rows that have not been counted, each of them whole:
    its readout token is the last position.

    Attributes:
        queries: Index of each row's query in the episode; -1 for a row that is none of them (a
            demonstration read alone). None where that is not known.
        lengths: Tokens of each row in this pass, without its padding. None: all of them.
        readout: Position of each row's readout token in this pass. None: the last.
        reads: Whether the readout tokens are in this pass. They are not where it only continues
            rows that were read before (the later tokens of a label word).
        tokens: The rows' tokens, continued ones included, for interventions that read the
            unchanged model first. None where they are not handed over.
        predicting: Position of each row's token whose next token is the prediction; another than
            the readout token where a label word was appended. None: the readout token.
    """

    queries: Int[Tensor, " row"] | None = None
    lengths: Int[Tensor, " row"] | None = None
    readout: Int[Tensor, " row"] | None = None
    reads: bool = True
    tokens: Int[Tensor, "row pos"] | None = None
    predicting: Int[Tensor, " row"] | None = None

    def at_prediction(self) -> Batch:
        """The same rows with the predicting token in the readout token's place."""
        if self.predicting is None:
            return self
        return dataclasses.replace(self, readout=self.predicting)

    @property
    def rows(self) -> int | None:
        """Number of rows, where it is known."""
        return None if self.readout is None else len(self.readout)

    def at_readout(self, activation: Float[Tensor, "row pos *rest"]) -> Float[Tensor, "row *rest"]:
        """What passes at each row's readout token."""
        return activation[self._each(activation), self._places(activation)]

    def add(
        self, activation: Float[Tensor, "row pos *rest"], change: Float[Tensor, "*row_rest"]
    ) -> Float[Tensor, "row pos *rest"]:
        """Return `activation` with `change` added at each row's readout token.

        `change` is one for all rows, or one per row. Where the pass holds no readout token,
        `activation` itself is returned.
        """
        if not self.reads:
            return activation
        return self.put(activation, self.at_readout(activation) + change.to(activation.dtype))

    def put(
        self, activation: Float[Tensor, "row pos *rest"], value: Float[Tensor, "*row_rest"]
    ) -> Float[Tensor, "row pos *rest"]:
        """Return `activation` with `value` in place of what passes at each readout token.

        `value` is one for all rows, or one per row. Where the pass holds no readout token,
        `activation` itself is returned.
        """
        if not self.reads:
            return activation
        changed = activation.clone()
        changed[self._each(activation), self._places(activation)] = value.to(activation.dtype)
        return changed

    def _each(self, activation: Tensor) -> Tensor:
        return torch.arange(activation.shape[0], device=activation.device)

    def _places(self, activation: Tensor) -> Tensor:
        if self.readout is None:
            return torch.full(
                (activation.shape[0],), activation.shape[1] - 1, device=activation.device
            )
        return self.readout.to(activation.device)


UNCOUNTED = Batch()
"""Rows that have not been counted, each of them whole."""


class Intervention:
    """A change to a model's computation, expressed as hooks and, if need be, a shared prefix."""

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """Return the hooks that make the change on `host`, in the order they are attached.

        They are asked for before each pass, and attached for it alone.

        Args:
            host: The model.
            batch: The rows of that pass. An intervention of a plugin may leave this argument out;
                its queries are then read without padding, where the last position is the readout
                token's.
        """
        return []

    def prefix(self, host: Host) -> Prefix | None:
        """Return keys and values that every query sees before its own tokens, or None."""
        return None

    @contextlib.contextmanager
    def applied(self, model: Any) -> Generator[Any, None, None]:
        """Attach this intervention's hooks to `model` for the context; yields the model.

        Every row that is run counts as one query, read at its last token. The hooks are gone on
        exit, whatever happens; the model's own hooks stay.

        Raises:
            DeltaError: The intervention needs a prefix, which hooks alone cannot give.
            HookError: A hook point is missing, or did not fire though others did.
        """
        host = as_host(model)
        if self.prefix(host) is not None:
            raise DeltaError(
                f"{type(self).__name__} shares a prefix of keys and values, which hooks alone "
                "cannot add; compare() and readouts apply it."
            )
        with host.hooked(hooks_of(self, host, UNCOUNTED), forced=False):
            yield host.model


class Injection(Intervention):
    """Keys and values placed before every query, as if their tokens had been read."""

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def prefix(self, host: Host) -> Prefix | None:
        """Return the injected keys and values."""
        return self._prefix


class Shift(Intervention):
    """Adds a vector at the readout token, at each of some hook points.

    Args:
        vectors: Hook point to what is added there, shaped as one token's activation.
    """

    def __init__(self, vectors: dict[str, Float[Tensor, "*rest"]]) -> None:
        self.vectors = vectors

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """One hook per vector."""
        return [
            (name, partial(_shift, batch, vector.to(host.device)))
            for name, vector in self.vectors.items()
        ]


class Patch(Intervention):
    """Puts a value in place of what passes at the readout token, at each of some hook points.

    Args:
        values: Hook point to what is put there: shaped as one token's activation, or with a first
            axis over the episode's queries.
        per_query: Whether the first axis of the values is that over queries.
    """

    def __init__(
        self, values: dict[str, Float[Tensor, "*query_rest"]], *, per_query: bool = False
    ) -> None:
        self.values = values
        self.per_query = per_query

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """One hook per value.

        Raises:
            DeltaError: The values are one per query, and the rows are not known to be queries.
        """
        if self.per_query and batch.reads and batch.queries is None:
            raise DeltaError("This patch holds one value per query and applies to no others.")
        return [
            (name, partial(_patch, batch, self._of(batch, value.to(host.device))))
            for name, value in self.values.items()
        ]

    def _of(self, batch: Batch, value: Tensor) -> Tensor:
        if not self.per_query or batch.queries is None:
            return value
        return value[batch.queries.to(value.device)]


def _shift(batch: Batch, vector: Tensor, activation: Tensor, hook: Any) -> Tensor:
    return batch.add(activation, vector)


def _patch(batch: Batch, value: Tensor, activation: Tensor, hook: Any) -> Tensor:
    return batch.put(activation, value)


def takes_batch(intervention: Intervention) -> bool:
    """Whether an intervention's hooks are told of the rows they will act on."""
    hooks: Callable[..., Sequence[Hook]] = intervention.hooks
    parameters = list(inspect.signature(hooks).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1


def hooks_of(intervention: Intervention, host: Host, batch: Batch) -> list[Hook]:
    """An intervention's hooks for some rows; a plugin that takes no rows is given none."""
    if takes_batch(intervention):
        return list(intervention.hooks(host, batch))
    hooks: Callable[..., Sequence[Hook]] = intervention.hooks
    return list(hooks(host))


def can_be_padded(intervention: Intervention) -> bool:
    """Whether an intervention is right where rows are continued at their end to one length."""
    return takes_batch(intervention)


def hide(host: Host, layer: int, hidden: Bool[Tensor, "row head key"]) -> Hook:
    """Return the hook that hides the first keys of a layer where `hidden` says so.

    Every token of the pass is kept from them. Keys after those of `hidden` stay as they are. In a
    pass without such a prefix before it, nothing is hidden.

    Args:
        host: The model.
        layer: The layer.
        hidden: Which of the first keys; an axis of length 1 stands for all rows or all heads.

    Raises:
        HookError: This model's scores cannot be changed.
    """
    if getattr(host, "attention", "softmax") == "linear":
        # The pattern is the scores themselves, and a score of 0 is no attention.
        return f"blocks.{layer}.attn.hook_pattern", partial(_fill, hidden, 0.0)
    return host.score_hook(layer), partial(_fill, hidden, -math.inf)


def has_prefix(length: int, scores: Float[Tensor, "row head query key"]) -> bool:
    """Whether at least `length` keys stand before those of the pass's own tokens."""
    return scores.shape[-1] - scores.shape[-2] >= length


def _fill(hidden: Tensor, value: float, activation: Tensor, hook: Any) -> Tensor:
    if not has_prefix(hidden.shape[-1], activation):
        return activation
    changed = activation.clone()
    changed[..., : hidden.shape[-1]].masked_fill_(hidden[:, :, None], value)
    return changed
