"""What kills, damage, exceptions and interrupts do to runs, files and the caller's model.

    python -m benchmarks.reliability --kills 12 --damage 24 --files 600 --errors 60 --interrupts 300

Every trial draws its place at random (`--seed`). A trial fails where a number is lost or another, a
damaged file is read as if it were whole, or anything of the caller's model or process has moved.
`docs/reliability.md` has the counts and what they mean. Kills need `os.fork`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import iclgd_lens as lens
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.bench.run_tables import load_run
from iclgd_lens.files import PARTIAL
from iclgd_lens.host import as_host

PACKAGE = str(Path(lens.__file__).parent)
PLAN = {
    "name": "reliability", "models": ["embedded"], "tasks": ["sst2"], "data": "embedded",
    "shots": 4, "queries": 4, "seeds": [0, 1], "hypotheses": ["gd", "lcgd"],
    "controls": ["random", "untrained"], "twins": 1, "lr": 0.05, "tok2attn_queries": 1,
    "resamples": 20,
}  # fmt: skip


@dataclass
class Count:
    """Trials of one kind.

    Attributes:
        what: The kind.
        trials: How many.
        failures: What went wrong, a line each.
    """

    what: str
    trials: int = 0
    failures: list[str] = field(default_factory=list[str])

    @property
    def bound(self) -> float:
        """Upper end of the 95 % interval of the share that fails, where none has: 1 - 0.05^(1/n).

        About 3 / n. NaN where one has failed, or none was tried.
        """
        return 1 - 0.05 ** (1 / self.trials) if self.trials and not self.failures else float("nan")

    def check(self, holds: bool, what: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.failures.append(f"trial {self.trials}: {what}")


# -- what must not move ----------------------------------------------------------------------------


def photograph(model: Any) -> dict[str, str]:
    """Everything of a model and of this process that a call must leave as it was, in digests."""
    roots = [model, model.__dict__.get("original_model")]
    modules = [m for root in roots if isinstance(root, torch.nn.Module) for m in root.modules()]
    weights, hooks, flags = hashlib.sha256(), list[Any](), list[Any]()
    for module in modules:
        flags.append(module.training)
        # As the module itself holds them: a bridge's methods give other names.
        held: list[tuple[str, Any]] = []
        for own in ("_parameters", "_buffers"):
            held += module.__dict__[own].items()
        for name, value in held:
            if value is not None:
                flags.append((name, id(value), value.requires_grad, id(value.grad)))
                weights.update(value.detach().reshape(-1).cpu().view(torch.uint8).numpy().tobytes())
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            hooks.append(list(getattr(module, kind)))
    points = [len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values()]
    numpy_state: Any = np.random.get_state()
    return {
        "weights": weights.hexdigest(),
        "hooks": str((hooks, points)),
        "flags": str(flags),
        "random numbers": str((
            torch.random.get_rng_state().sum().item(), numpy_state[1].sum(), numpy_state[2],
            hash(random.getstate()),
        )),
        "modes": str((
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
        )),
    }  # fmt: skip


def moved(before: dict[str, str], model: Any) -> str:
    """What is another than before, in words; empty where nothing is."""
    now = photograph(model)
    return ", ".join(name for name, value in before.items() if now[name] != value)


# -- kills -----------------------------------------------------------------------------------------


def cells_of(folder: Path) -> dict[str, bytes]:
    """Every cell's bytes by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "cells").glob("*.parquet"))}


def kills(trials: int, draw: random.Random, whole: Path, plan: Plan, seconds: float) -> Count:
    """Kill a run at random moments, up to three times, then let it finish."""
    count, expected = Count("a run is killed (SIGKILL) and started again"), cells_of(whole)
    forked = multiprocessing.get_context("fork")
    while count.trials < trials:
        count.trials += 1
        folder = whole.with_name("killed")
        for _ in range(draw.randint(1, 3)):
            child = forked.Process(target=run_plan, args=(plan, folder))
            child.start()
            child.join(draw.uniform(0, seconds))
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            found = cells_of(folder)
            same = all(expected.get(name) == data for name, data in found.items())
            count.check(same, "a cell that was there has other numbers")
        outcome = run_plan(plan, folder)
        count.check(not outcome.failed and not outcome.quarantined, "not every cell is usable")
        count.check(cells_of(folder) == expected, "other cells than without a kill")
        left = [path for path in folder.rglob(f"{PARTIAL}*")]
        count.check(not left, f"half-written files stay: {left}")
        shutil.rmtree(folder)
    return count


# -- damage ----------------------------------------------------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    damaged = bytearray(data)
    damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def zeroed(data: bytes, draw: random.Random) -> bytes:
    """A block of zeros, as disks leave it."""
    start = draw.randrange(len(data))
    return (data[:start] + bytes(512) + data[start + 512 :])[: len(data)]


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit is flipped": flipped,
    "truncated": lambda data, draw: data[: draw.randrange(len(data))],
    "zeros": zeroed,
    "twice": lambda data, draw: data + data,
    "noise": lambda data, draw: draw.randbytes(draw.randint(0, 2 * len(data))),
    "nested": lambda data, draw: b"[" * 100_000,
    "another kind": lambda data, draw: json.dumps({"cells": [1], "parts": 3}).encode(),
}


def damage(trials: int, draw: random.Random, whole: Path, plan: Plan) -> Count:
    """Damage one to three files of a finished run; read it, then let it be repaired."""
    count, expected = Count("files of a finished run are damaged"), cells_of(whole)
    frame = load_run(whole).frame()
    while count.trials < trials:
        count.trials += 1
        folder = Path(shutil.copytree(whole, whole.with_name("damaged")))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in draw.sample(files, draw.randint(1, 3)):
            path.write_bytes(DAMAGE[draw.choice(list(DAMAGE))](path.read_bytes(), draw))
        try:
            seen = load_run(folder)
            known = {cell.facts["key"]: cell for cell in seen.cells}
            lost = len(expected) - len(known)
            count.check(len(seen.failed) + len(seen.missing) >= lost, "a loss is not told")
        except lens.LensError:
            pass
        outcome = run_plan(plan, folder, retry_failed=True)
        count.check(not outcome.failed, "a cell is not measured again")
        count.check(cells_of(folder) == expected, "a cell has other numbers")
        count.check(load_run(folder).frame().equals(frame), "the table is another")
        shutil.rmtree(folder)
    return count


def damaged_files(trials: int, draw: random.Random, folder: Path, model: Any) -> Count:
    """Damage a saved comparison or delta; it is refused, or holds what it held."""
    count = Count("a saved comparison or delta is damaged")
    episode = lens.load_episode("sst2", model, shots=4, queries=4, data="embedded")
    comparison = lens.compare(model, episode, ["gd"], controls=(), lr=0.1, resamples=5)
    saved = {
        "comparison": (comparison.save, lens.Comparison.load),
        "delta": (lens.gd(model, episode, lr=0.1).save, lens.ParameterDelta.load),
    }
    for name, (save, _) in saved.items():
        save(folder / name)
    bytes_of = {name: (folder / name).read_bytes() for name in saved}
    place, again = folder / "damaged", folder / "again"
    while count.trials < trials:
        count.trials += 1
        name = draw.choice(list(saved))
        how = draw.choice(list(DAMAGE))
        data = DAMAGE[how](bytes_of[name], draw)
        place.write_bytes(data)
        try:
            saved[name][1](place).save(again)
        except lens.LensError:
            continue
        except Exception as error:  # what a user would see as a traceback
            count.check(False, f"{name}, {how}: {type(error).__name__}")
            continue
        count.check(
            again.read_bytes() == bytes_of[name], f"{name}, {how}: read as if it were whole"
        )
    return count


# -- exceptions and interrupts ---------------------------------------------------------------------


class InjectedError(RuntimeError):
    """Raised by this benchmark alone."""


def calls(model: Any, episode: Any) -> dict[str, Callable[[], Any]]:
    """What is interrupted."""
    return {
        "gd": lambda: lens.gd(model, episode, lr=0.1),
        "lcgd": lambda: lens.lcgd(model, episode, lr=0.1),
        "compare": lambda: lens.compare(
            model, episode, ["gd"], controls=("random", "oracle"), lr=0.1, resamples=5,
            tok2attn_queries=1,
        ),
    }  # fmt: skip


@contextlib.contextmanager
def failing(model: Any, at: int, error: BaseException | None) -> Generator[list[int]]:
    """Let the `at`-th pass of the model raise, after it where `at` is negative; counts passes."""
    host: Any = type(as_host(model))
    count, whole = [0], host.run

    def run(self: Any, *given: Any, **named: Any) -> Any:
        count[0] += 1
        if error is not None and count[0] == at:
            raise error
        found = whole(self, *given, **named)
        if error is not None and count[0] == -at:
            raise error
        return found

    host.run = run
    try:
        yield count
    finally:
        host.run = whole


@contextlib.contextmanager
def interrupted(at: int) -> Generator[list[int]]:
    """Interrupt before the `at`-th line of this package that runs; yields a count of lines."""
    count, old = [0], sys.gettrace()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(old)


Injection = Callable[[int, bool], contextlib.AbstractContextManager[list[int]]]


def injected(
    what: str, trials: int, draw: random.Random, model: Any, inject: Injection, error: Any
) -> Count:
    """End calls at random places; the model must be as before, and the next call as ever.

    Args:
        what: The kind.
        trials: How many.
        draw: Where.
        model: The caller's model.
        inject: A context that raises at a place, if it is told to, and counts places.
        error: What it raises.
    """
    count = Count(what)
    episode = lens.load_episode("sst2", model, shots=2, queries=2, data="embedded")
    called = calls(model, episode)
    lengths: dict[str, int] = {}
    for name, call in called.items():
        call()  # a bridge prepares itself in its first passes
        with inject(0, False) as places:
            call()
        lengths[name] = places[0]
    plain, before = lens.gd(model, episode, lr=0.1), photograph(model)
    while count.trials < trials:
        count.trials += 1
        name = draw.choice(list(called))
        at = draw.randint(1, lengths[name])
        ended = False
        try:
            with inject(draw.choice((at, -at)) if error is not KeyboardInterrupt else at, True):
                called[name]()
        except error:
            ended = True
        count.check(ended, f"{name} at {at} went on")
        count.check(not (found := moved(before, model)), f"{name} at {at}: {found}")
    again = lens.gd(model, episode, lr=0.1)
    count.check(all(torch.equal(again[key], plain[key]) for key in plain), "other numbers after it")
    return count


def passes(model: Any) -> Injection:
    """Exceptions in the model's own passes."""
    return lambda at, acts: failing(model, at, InjectedError() if acts else None)


def lines(at: int, acts: bool) -> contextlib.AbstractContextManager[list[int]]:
    """Interrupts at lines of this package."""
    return interrupted(at if acts else 0)


# -- the command -----------------------------------------------------------------------------------


def measure(
    *, n_kills: int, n_damage: int, n_files: int, n_errors: int, n_interrupts: int, seed: int = 0
) -> list[Count]:
    """Run all trials; `n_kills` runs are killed, and so on."""
    torch.set_num_threads(1)
    plan, found = parse_plan(PLAN), list[Count]()

    def draw(part: str) -> random.Random:  # the same trials, whichever parts are asked for
        return random.Random(f"{seed} {part}")

    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        if n_kills or n_damage:
            start = time.monotonic()
            run_plan(plan, whole)
            seconds = time.monotonic() - start
            found.append(kills(n_kills, draw("kills"), whole, plan, seconds))
            found.append(damage(n_damage, draw("damage"), whole, plan))
        model = lens.load_model("embedded", device="cpu")
        found.append(damaged_files(n_files, draw("files"), Path(place), model))
        what = "a pass of the model raises"
        found.append(injected(what, n_errors, draw("errors"), model, passes(model), Exception))
        what = "Ctrl-C at a line of the package"
        found.append(
            injected(what, n_interrupts, draw("interrupts"), model, lines, KeyboardInterrupt)
        )
    return [count for count in found if count.trials]


def table(found: list[Count]) -> str:
    """A Markdown table of the counts."""
    rows = [
        f"| {each.what} | {each.trials} | {len(each.failures)} | {each.bound:.1%} |"
        for each in found
    ]
    head = "| what happens | trials | failures | at most, 95 % |\n|---|---:|---:|---:|"
    return "\n".join([head, *rows])


def main() -> int:
    """Print the table; the exit code is 1 where anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name, usual in (("kills", 12), ("damage", 24), ("files", 600), ("errors", 60),
                        ("interrupts", 300), ("seed", 0)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    given = parser.parse_args()
    found = measure(
        n_kills=given.kills, n_damage=given.damage, n_files=given.files, n_errors=given.errors,
        n_interrupts=given.interrupts, seed=given.seed,
    )  # fmt: skip
    print(table(found))
    print(f"{time.process_time():.0f} s of processor time here, without killed processes")
    for each in found:
        for failure in each.failures:
            print(f"{each.what}: {failure}", file=sys.stderr)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return int(any(each.failures for each in found))


if __name__ == "__main__":
    sys.exit(main())
