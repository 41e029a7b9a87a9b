"""Hooks that are attached for a while, counted as they fire, and gone afterwards whatever happens.

An interrupt can arrive between any two steps, those that attach and detach included. Detaching
knows what was about to be attached and can be done twice, so nothing is left behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from iclgd_lens.errors import HookError

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host

HookFunction = Callable[..., "Tensor | None"]
"""`f(activation, hook)`, as TransformerLens calls it; a tensor returned replaces the activation."""

Hook = tuple[str, HookFunction]
"""A hook point's name and the function to call there."""


class Firings:
    """Counts how often each of a set of hooks fired, so that none is silently dead."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.counts = [0] * len(self.names)

    def check(self, forced: bool = True) -> None:
        """Raise `HookError` if a hook never fired (unless `forced` is False and none did)."""
        if not forced and not any(self.counts):
            return
        silent = [name for name, count in zip(self.names, self.counts, strict=True) if not count]
        if silent:
            raise HookError(
                f"Hook point {silent[0]!r} did not fire during a forward pass"
                + (f" (nor did {len(silent) - 1} more)" if len(silent) > 1 else "")
                + ": its layer was skipped or the model does not run it."
            )


@contextlib.contextmanager
def attached(
    find: Callable[[str], Any], hooks: Sequence[Hook], firings: Firings
) -> Generator[None, None, None]:
    """Attach `hooks` to the hook points that `find` gives by name; remove exactly these on exit."""
    handles: list[tuple[Any, Any]] = []
    adding: list[tuple[Any, set[int], int]] = []
    try:
        try:
            for index, (name, function) in enumerate(hooks):
                point = find(name)
                adding[:] = [(point, set(point._forward_hooks), len(point.fwd_hooks))]
                point.add_hook(partial(_counted, function, firings.counts, index))
                handles.append((point, point.fwd_hooks[-1]))
                adding.clear()
            yield
        finally:
            _detach(handles, adding)
    except BaseException:
        _detach(handles, adding)  # again: what came may have come while detaching
        raise


def _detach(
    handles: Sequence[tuple[Any, Any]], adding: Sequence[tuple[Any, set[int], int]]
) -> None:
    for point, others, count in adding:  # one at most, half added
        for key in set(point._forward_hooks) - others:
            del point._forward_hooks[key]
        del point.fwd_hooks[count:]
    for point, handle in reversed(handles):
        handle.hook.remove()
        point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


def without_reread(
    reread: Callable[[], int], name: str, function: HookFunction, activation: Tensor, hook: Any
) -> Tensor | None:
    """Call `function` on what its caller gave, where a pass reads `reread()` tokens before it."""
    skipped = reread()
    if not skipped:
        return function(activation, hook=hook)
    axis = 2 if name.endswith(("hook_attn_scores", "hook_pattern")) else 1
    before, given = activation.tensor_split([skipped], axis)
    changed = function(given, hook=hook)
    return None if changed is None else torch.cat([before, changed], axis)


@contextlib.contextmanager
def uncounted_hooks(host: Any, hooks: Sequence[Hook]) -> Generator[None, None, None]:
    """Attach hooks that only watch: nothing is said where one of them never fires."""
    with attached(host.hook_point, host.shown(hooks), Firings([name for name, _ in hooks])):
        yield


def _counted(
    function: HookFunction, counts: list[int], index: int, activation: Tensor, hook: Any
) -> Tensor | None:
    counts[index] += 1
    return function(activation, hook=hook)


def receiver(receive: Callable[[int, Tensor], None], layer: int) -> HookFunction:
    """Return a reading hook that passes the activation on to `receive(layer, activation)`."""
    return partial(_received, receive, layer)


def _received(
    receive: Callable[[int, Tensor], None], layer: int, activation: Tensor, hook: Any
) -> None:
    receive(layer, activation)


@contextlib.contextmanager
def run_twice(host: Host, layers: Iterable[int]) -> Generator[None, None, None]:
    """Run the blocks of `layers` again, without gradients, and hand on what the second run gives.

    Hooks fire in both runs. Only for passes that keep no keys and values.
    """
    blocks: Any = cast(Any, host.model).blocks
    handles: list[Any] = []
    try:
        for layer in layers:
            # Before the user's own hooks, so that these act on what is handed on.
            handle = blocks[layer].register_forward_hook(_again, prepend=True, with_kwargs=True)
            handles.append(handle)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _again(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor | tuple[Any, ...]
) -> Tensor | tuple[Any, ...]:
    with torch.no_grad():
        return module.forward(*args, **kwargs)
