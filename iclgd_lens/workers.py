"""Independent tasks in copies of this process, one per core.

A pass of a small model is over before PyTorch has handed it to a second thread, so that threads
bring nothing there (a default comparison of the embedded model takes as long on two as on one).
Whole tasks side by side do. A copy (`fork`) has the model without loading it, and what it
does to itself stays with it. The steps:

1. Copies are made, each with a pipe of its own; each is given the number of one task.
2. A copy sends what the task tells, then its result (a generator's results one by one, as they
   come), and is given the next number.
3. What a copy could not do (it raised, it was killed, its result cannot be sent) is done in this
   process after all, so an error is the same error as without copies.

Copies compute on one thread: the threads of the process that was copied do not exist in them.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from iclgd_lens.errors import LensError
from iclgd_lens.telling import Tell

SMALL = 64 * 2**20
"""Bytes of weights up to which whole tasks beside one another are faster than threads."""


class WorkersWarning(UserWarning):
    """More processes were asked for than can be started."""


T = TypeVar("T")


def can_copy() -> bool:
    """Whether this process can be copied: on Linux, where no GPU is in use."""
    return sys.platform == "linux" and not torch.cuda.is_available()


def how_many(asked: int | None, model: torch.nn.Module | None = None) -> int:
    """Processes that work beside one another.

    Args:
        asked: How many; None for one per thread of PyTorch's, if the model is small, and for one
            where processes cannot be copied.
        model: What they run.

    Raises:
        LensError: Fewer than one is asked for.
    """
    if asked is not None and asked < 1:
        raise LensError(f"workers is {asked}; it must be 1 or more.")
    if not can_copy():
        if asked is not None and asked > 1:
            text = "This process cannot be copied (not on Linux, or with a GPU): 1 worker, no more."
            warnings.warn(text, WorkersWarning, stacklevel=3)
        return 1
    if asked is not None:
        return asked
    tensors = () if model is None else model.parameters()
    size = sum(each.numel() * each.element_size() for each in tensors)
    return torch.get_num_threads() if model is not None and size <= SMALL else 1


def spread(
    work: Callable[[int, Tell], T], count: int, workers: int, tell: Tell
) -> Generator[T, None, None]:
    """Yield `work(0, tell)`, `work(1, tell)`, ... in this order.

    Close it (`contextlib.closing`): an exception that is kept would keep its copies, too.

    Args:
        work: A task; it must not depend on what another one left in memory.
        count: How many there are.
        workers: Processes beside one another; with 1, nothing is copied.
        tell: Called with what a task tells.
    """
    ready: dict[int, T] = {}
    following = 0
    with closing(as_they_come(work, count, workers, tell)) as found:
        for index, made in found:
            ready[index] = made
            while following in ready:
                yield ready.pop(following)
                following += 1


def as_they_come(
    work: Callable[[int, Tell], T | Generator[T, None, None]], count: int, workers: int, tell: Tell
) -> Generator[tuple[int, T], None, None]:
    """Yield tasks' numbers and results in the order in which they finish; see `spread`.

    A task may be a generator: what it yields comes as it is there. Of one that was broken off in a
    copy and done again in this process, results may come twice.
    """
    workers = min(workers, count)
    if workers < 2:
        for index in range(count):
            yield from _here(work, index, tell)
        return
    with closing(_copies(work, count, workers, tell)) as found:
        yield from found


def _here(
    work: Callable[[int, Tell], T | Generator[T, None, None]], index: int, tell: Tell
) -> Generator[tuple[int, T], None, None]:
    """A task in this process."""
    result = work(index, tell)
    if isinstance(result, Generator):
        with closing(result) as parts:
            yield from ((index, part) for part in parts)
    else:
        yield index, result


@dataclass
class _Copy:
    """A process at work, as this one sees it."""

    process: Any
    pipe: Connection
    index: int = -1


def _copies(
    work: Callable[[int, Tell], T | Generator[T, None, None]], count: int, workers: int, tell: Tell
) -> Generator[tuple[int, T], None, None]:
    waiting, left = list(range(count))[::-1], list[int]()
    crew: dict[Connection, _Copy] = {}
    try:
        for _ in range(workers):
            copy = _made(work, [each.pipe for each in crew.values()])
            crew[copy.pipe] = copy
            _deal(copy, waiting)
        while crew:
            for pipe in wait(list(crew)):
                copy = crew[pipe]  # type: ignore[index]  # connections alone are waited for
                kind, said = _heard(copy)
                if kind == "text":
                    tell(said)
                    continue
                if kind == "warning":
                    warnings.warn(said[1], said[0], stacklevel=2)
                    continue
                index = copy.index
                if kind == "part":
                    yield index, said
                    continue
                if kind == "gone" or not _deal(copy, waiting):  # dealt first: no copy waits
                    _end(crew.pop(copy.pipe))
                if kind == "result":
                    yield index, said
                elif kind != "end":
                    left.append(index)
        for index in left + waiting[::-1]:
            yield from _here(work, index, tell)
    finally:
        for copy in crew.values():
            _end(copy)


def _heard(copy: _Copy) -> tuple[str, Any]:
    try:
        return copy.pipe.recv()
    except (EOFError, OSError):  # it was killed
        return "gone", None


def _made(work: Callable[[int, Tell], Any], others: Sequence[Connection]) -> _Copy:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs, [*others, ours]), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 and later warn where other threads run; a copy uses none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return _Copy(process, ours)


def _deal(copy: _Copy, waiting: list[int]) -> bool:
    """Give a copy its next task; whether there was one."""
    if not waiting:
        return False
    copy.index = waiting.pop()
    with suppress(OSError):  # it was killed: reading from it says so
        copy.pipe.send(copy.index)
    return True


def _end(copy: _Copy) -> None:
    copy.pipe.close()
    copy.process.terminate()
    copy.process.join()


def _serve(
    work: Callable[[int, Tell], Any], pipe: Connection, others: Sequence[Connection]
) -> None:
    """What a copy does: tasks by number until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends its copies
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for each in others:  # or this copy would keep pipes open that their owner has closed
        each.close()
    torch.set_num_threads(1)  # noqa: TID251  # of this copy alone

    def tell(text: str) -> None:
        pipe.send(("text", text))

    with suppress(EOFError, OSError):  # the first process has ended, or needs no more
        while True:
            index = pipe.recv()
            try:
                with warnings.catch_warnings(record=True) as noticed:
                    result = work(index, tell)
                    if isinstance(result, Generator):
                        for part in result:
                            pipe.send(("part", part))
                for each in noticed:
                    pipe.send(("warning", (each.category, str(each.message))))
                pipe.send(("end", None) if isinstance(result, Generator) else ("result", result))
            except (EOFError, OSError):
                raise
            except BaseException:
                pipe.send(("failure", None))
