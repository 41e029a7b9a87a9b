"""Whatever a call does and however it ends, the caller's model and process stay as they were."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iclgd_lens as lens
from iclgd_lens import hypotheses, nulls
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host import Host, copied, frozen, guard
from iclgd_lens.host import hooks as host_hooks
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.raised import FailureWarning
from iclgd_lens.readout.reader import Reader
from tests import checks, families

assert hypotheses
EPISODE = checks.episode(shots=2, queries=3, labels=((5, 9), (6,)))
BRIEF = checks.episode(shots=2, queries=2)
BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


class InjectedError(RuntimeError):
    """Raised by these tests alone."""


def busy(kind: str, family: str = "gpt2") -> tuple[Any, list[str]]:
    """A model in the middle of its owner's work, and the log of its owner's hooks."""
    model = checks.fresh(kind, family)
    model.tokenizer = None
    fired: list[str] = []
    tokens = families.tokens(5)
    checks.logits(model, tokens).sum().backward()
    model.train()
    model.blocks[1].eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        if index % 4 == 0:
            parameter.grad = None
    for module in (model.__dict__.get("original_model") or model).modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5

    def own(name: str) -> Any:
        def hook(value: torch.Tensor, hook: Any) -> None:
            fired.append(name)

        return hook

    points = model.hook_dict
    points["blocks.1.hook_resid_pre"].add_hook(own("input"))
    points["blocks.0.attn.hook_z"].add_hook(own("z"), is_permanent=True)
    points["blocks.2.hook_resid_post"].add_hook(own("output"))
    model.blocks[0].register_forward_hook(lambda *args: fired.append("module"))
    return model, fired


def rows(folder: Path) -> Path:
    (folder / "sst2").mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        lines = [
            json.dumps({"sentence": f"w{i} w{i + 1} {split}", "label": i % 2}) for i in range(8)
        ]
        (folder / "sst2" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def load(model: Any, folder: Path) -> Any:
    host = Host(model)
    object.__setattr__(host, "_tokens", families.word_tokenizer())
    type_ = type("Texts", (type(host),), {"tokenizer": property(lambda self: self._tokens)})
    host.__class__ = type_
    return lens.load_episode(
        "sst2", host, shots=2, queries=3, data=rows(folder), protocol="reference"
    )


def in_delta(model: Any) -> None:
    host = Host(model)
    delta = ParameterDelta(checks.random_delta(host))
    with delta.applied(model), frozen(model), torch.no_grad():
        host.run(families.tokens(4))


def read(model: Any) -> None:
    reader = Reader(model, EPISODE, first=2, batch_size=2)
    reader.zs(), reader.icl(), reader.ftzs(oracle(model, EPISODE))
    reader.training_keys(ParameterDelta(checks.random_delta(reader.host, "W_K")))


def everything(model: Any) -> Any:
    asked = ("random", "oracle", "untrained", "shuffled", "gaussian")
    return lens.compare(
        model, BRIEF, controls=asked, resamples=5, tok2attn_queries=1, twins=1, realisations=1,
        budget={"epochs": (1,), "grid": (0.01, 0.1)},
    )  # fmt: skip


CALLS: dict[str, Callable[[Any], Any]] = {
    "host": Host,
    "gd": lambda model: gd(model, EPISODE, epochs=2),
    "lcgd": lambda model: lcgd(model, EPISODE, batch_size=2),
    "oracle": lambda model: oracle(model, EPISODE),
    "reader": read,
    "applied": in_delta,
    "untrained": nulls.untrained,
    "merged": lambda model: ParameterDelta(checks.random_delta(Host(model))).merged(model),
    "merged huggingface": lambda model: ParameterDelta(
        checks.random_delta(Host(model), "W_K", "W_V")
    ).merged(model, "huggingface"),
    "compare": everything,
}
BY_CALL = pytest.mark.parametrize("call", CALLS)


@pytest.fixture
def untyped() -> Iterator[None]:
    """The run-time type checker costs time and draws from Python's random state."""
    with checks.untyped():
        yield


@BY_KIND
@BY_CALL
@pytest.mark.usefixtures("untyped")
def test_success_leaves_all_as_it_was(kind: str, call: str) -> None:
    model, fired = busy(kind)
    before, python = checks.photograph(model), random.getstate()
    CALLS[call](model)
    before.assert_same(model)
    assert random.getstate() == python
    fired.clear()
    checks.logits(model, families.tokens(4))
    assert sorted(fired) == ["input", "module", "output", "z"]


@BY_KIND
@pytest.mark.usefixtures("untyped")
def test_loading_an_episode_leaves_all_as_it_was(kind: str, tmp_path: Path) -> None:
    model, _ = busy(kind)
    before, python = checks.photograph(model), random.getstate()
    assert len(load(model, tmp_path).queries) == 3
    before.assert_same(model)
    assert random.getstate() == python


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> list[int]:
    """Make every host's `at`-th run raise; returns a list that counts runs."""
    count = [0]
    for base in Host.__subclasses__():
        whole = base.run

        @functools.wraps(whole)
        def run(*args: Any, _whole: Any = whole, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == at:
                raise error
            found = _whole(*args, **kwargs)
            if count[0] == -at:
                raise error
            return found

        monkeypatch.setattr(base, "run", run)
    return count


def is_raised_or_a_failure(call: Callable[[], Any]) -> bool:
    """A comparison goes on without a hypothesis that raised; the model's own passes it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailureWarning)
        try:
            return any("InjectedError" in why for why in call().failures.values())
        except InjectedError:
            return True


@BY_KIND
@pytest.mark.parametrize("call", ["host", "gd", "lcgd", "oracle", "reader", "untrained", "compare"])
@pytest.mark.usefixtures("untyped")
def test_an_exception_at_any_run_leaves_all_as_it_was(
    kind: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = busy(kind)
    Host(model)  # so that its class is there to be interrupted
    before = checks.photograph(model)
    with monkeypatch.context() as patch:
        count = interrupted(patch, 0, InjectedError())
        CALLS[call](model)
        total = count[0]
    assert total > 0
    # Before a run and after it: the probe's, the middle one, the last one.
    stages = {total // 2, total} if call == "compare" else {1, 2, total // 2, total}
    for stage in sorted(stages):
        for place, error in ((stage, InjectedError()), (-stage, KeyboardInterrupt())):
            with monkeypatch.context() as patch:
                interrupted(patch, place, error)
                if call == "compare" and isinstance(error, InjectedError):
                    assert is_raised_or_a_failure(lambda: CALLS[call](model))
                else:
                    with pytest.raises(type(error)):
                        CALLS[call](model)
            before.assert_same(model)


@BY_KIND
@pytest.mark.parametrize("call", ["gd", "lcgd", "oracle", "reader", "applied", "compare"])
@pytest.mark.parametrize("error", [InjectedError, KeyboardInterrupt])
@pytest.mark.usefixtures("untyped")
def test_a_users_hook_that_raises_leaves_all_as_it_was(
    kind: str, call: str, error: type[BaseException]
) -> None:
    model, _ = busy(kind)
    left = [0]

    def fail(value: torch.Tensor, hook: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error

    model.hook_dict["blocks.1.attn.hook_z"].add_hook(fail)
    before = checks.photograph(model)
    for stage in (1, 5):  # the first runs are the host's own probe
        left[0] = stage
        with pytest.raises((error, UnsupportedModelError)) as caught:
            collections.deque((CALLS[call](model) for _ in range(4)), maxlen=0)
        # An error in the host's own short pass is its cause, and the hooks are named.
        assert error in (caught.type, type(caught.value.__cause__))
        before.assert_same(model)


@BY_KIND
@pytest.mark.parametrize("error", [InjectedError, KeyboardInterrupt])
@pytest.mark.usefixtures("untyped")
def test_a_hypothesis_that_raises_leaves_all_as_it_was(
    kind: str, error: type[BaseException]
) -> None:
    model, _ = busy(kind)
    before = checks.photograph(model)

    def at_once(host: Host, episode: Any) -> Any:
        raise error

    def half_way(host: Host, episode: Any) -> Any:
        with frozen(host.model), host.hooked([(host.z_hook(0), lambda value, hook: value)]):
            host.run(host.tensor(episode.demonstrations.prompt()))
            raise error

    class InItsHooks(lens.Intervention):
        def hooks(self, host: Host) -> Any:
            def hook(value: torch.Tensor, hook: Any) -> None:
                raise error

            return [(host.z_hook(0), lambda value, hook: None), (host.z_hook(1), hook)]

    for bad in (at_once, half_way, InItsHooks()):
        if error is KeyboardInterrupt:
            with pytest.raises(error):
                lens.compare(model, EPISODE, {"bad": bad}, controls=(), resamples=5)
        else:  # its failure alone
            with pytest.warns(FailureWarning, match="bad raised InjectedError"):
                found = lens.compare(model, EPISODE, {"bad": bad}, controls=(), resamples=5)
            assert set(found.failures) == {"bad"}
        before.assert_same(model)


@BY_KIND
@pytest.mark.parametrize("error", [None, InjectedError, KeyboardInterrupt])
@pytest.mark.usefixtures("untyped")
def test_an_applied_delta_is_gone_however_the_block_ends(
    kind: str, error: type[BaseException] | None
) -> None:
    model, fired = busy(kind)
    model.eval()
    tokens, host = families.tokens(6), Host(model)
    delta = ParameterDelta(checks.random_delta(host))

    def logits() -> torch.Tensor:
        with frozen(model), torch.no_grad():
            return checks.logits(model, tokens)

    plain, before = logits(), checks.photograph(model)
    fired.clear()
    with pytest.raises(error) if error else contextlib.nullcontext():
        with delta.applied(host) as same:
            assert same is model
            inside = logits()
            if error:
                raise error
    assert fired.count("module") == 1, "the owner's hooks fire inside as well"
    assert not torch.allclose(inside, plain)
    before.assert_same(model)
    assert torch.equal(logits(), plain)


@BY_KIND
@pytest.mark.usefixtures("untyped")
def test_training_mode_and_dropout_change_no_number(kind: str) -> None:
    model, _ = busy(kind)
    quiet = checks.fresh(kind, "gpt2")
    for rule in (gd, lcgd):
        one, other = rule(model, EPISODE), rule(quiet, EPISODE)
        assert all(torch.equal(one[name], other[name]) for name in other)
    loud, calm = Reader(model, EPISODE).icl(), Reader(quiet, EPISODE).icl()
    assert torch.equal(loud.attention_output, calm.attention_output)
    # Hooks of the user's see the last MLP at every token; without them it runs at one.
    checks.close(loud.label_scores, calm.label_scores, 1e-6)


@functools.cache
def undisturbed(kind: str) -> Any:
    return everything(checks.model(kind, "llama"))


@BY_KIND
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.usefixtures("untyped")
def test_the_callers_autograd_mode_changes_no_number(kind: str, mode: Any) -> None:
    expected = undisturbed(kind)
    model = checks.fresh(kind, "llama")
    with torch.no_grad():
        checks.logits(model, families.tokens(4))  # a bridge prepares its norms at its first pass
    before = checks.photograph(model)
    with mode():
        inside = checks.photograph(model)
        found = everything(model)
        inside.assert_same(model)
        delta = gd(Host(model), EPISODE)
    before.assert_same(model)
    assert found.labels == expected.labels
    for name, values in expected.values.items():
        for score, value in values.items():
            torch.testing.assert_close(found.values[name][score], value, equal_nan=True)
    # What was made under inference mode can be used outside of it.
    doubled = (delta * 2)["blocks.0.attn.W_K"].clone().requires_grad_(True)
    doubled.sum().backward()
    assert not any(value.requires_grad or value.is_inference() for _, value in delta.items())


@BY_KIND
@pytest.mark.usefixtures("untyped")
def test_an_interrupt_at_any_line_leaves_all_as_it_was(kind: str) -> None:
    """Also at the lines that lay out, attach, freeze and restore, on their first and last turn."""
    model, fired = busy(kind)
    host, tokens = Host(model), families.tokens(4)
    hooks = [(host.z_hook(layer), lambda value, hook: None) for layer in range(2)]
    add_hook = type(host.hook_point(hooks[0][0])).add_hook.__code__
    files = (host_hooks.__file__, guard.__file__)
    before = checks.photograph(model)

    def call(at: int) -> list[tuple[str, int]]:
        """The lines that ran; before the `at`-th of them, an interrupt."""
        lines: list[tuple[str, int]] = []

        def trace(frame: Any, event: str, _: Any) -> Any:
            code = frame.f_code
            if code.co_filename not in files and code is not add_hook:
                return None
            if event == "line":
                lines.append((code.co_filename, frame.f_lineno))
                if len(lines) == at:
                    raise KeyboardInterrupt
            return trace

        old = sys.gettrace()
        sys.settrace(trace)
        try:
            with host.laid_out(), frozen(model), torch.no_grad(), host.hooked(hooks):
                host.run(tokens)
        finally:
            sys.settrace(old)
        return lines

    lines = call(0)
    before.assert_same(model)
    numbered = list(enumerate(lines, start=1))
    last = {line: stage for stage, line in numbered}
    first = {line: stage for stage, line in reversed(numbered)}
    stages = sorted({*first.values(), *last.values()})
    assert len(stages) > 50
    for stage in stages:
        with pytest.raises(KeyboardInterrupt):
            call(stage)
        before.assert_same(model)
    fired.clear()
    checks.logits(model, tokens)
    assert sorted(fired) == ["input", "module", "output", "z"]


@BY_KIND
@pytest.mark.usefixtures("untyped")
def test_the_callers_default_dtype_changes_no_number(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Deltas, readouts and what is drawn are fp32, whatever new tensors are by default."""
    expected = undisturbed(kind)
    delta = gd(checks.model(kind, "llama"), EPISODE)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    torch.set_default_dtype(torch.float64)
    found, again = everything(checks.model(kind, "llama")), gd(checks.model(kind, "llama"), EPISODE)
    readout = Reader(checks.model(kind, "llama"), EPISODE, first=2).icl()
    parts = [value for value in vars(readout).values() if isinstance(value, torch.Tensor)]
    assert {part.dtype for part in parts} == {torch.float32}
    for name, value in again.items():
        torch.testing.assert_close(value, delta[name], rtol=1e-3, atol=1e-6)
    assert found.labels == expected.labels
    for name, values in expected.values.items():
        for score, value in values.items():
            assert found.values[name][score].dtype == value.dtype
            torch.testing.assert_close(
                found.values[name][score], value, rtol=1e-3, atol=1e-3, equal_nan=True
            )


@BY_KIND
def test_frozen_nests_and_restores(kind: str) -> None:
    model, _ = busy(kind)
    before = checks.photograph(model)
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        with pytest.raises(InjectedError), frozen(model):
            raise InjectedError
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    before.assert_same(model)


def test_frozen_puts_grown_buffers_back() -> None:
    class Growing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(2))

    model = Growing()
    table = model.table

    def grow() -> None:
        model.table = torch.zeros(5)
        model.register_buffer("other", torch.ones(1))
        raise InjectedError

    with pytest.raises(InjectedError), frozen(model):
        grow()
    assert model.table is table
    assert not hasattr(model, "other")


@BY_KIND
def test_a_copy_is_independent_also_after_a_forward_pass(kind: str) -> None:
    model = checks.fresh(kind, "gpt2")
    checks.logits(model, families.tokens(4))  # with a graph, as a user's own call has
    before = checks.photograph(model)
    twin: Any = copied(model)
    families.randomise(twin, seed=9)
    before.assert_same(model)
    np.testing.assert_array_equal(
        checks.logits(copied(model), families.tokens(4)).detach(),
        checks.logits(model, families.tokens(4)).detach(),
    )
    shared = {id(p) for p in model.parameters()} & {id(p) for p in twin.parameters()}
    assert not shared


def test_a_pass_of_a_copy_leaves_nothing_on_the_model() -> None:
    """Wiring of a bridge's holds the parts that it writes to by weak references."""
    model = checks.fresh("bridge", "gpt2")
    checks.logits(model, families.tokens(4)).sum()  # wired in the first pass
    twin: Any = copied(model)
    before = [dict(module.__dict__) for module in guard.all_modules(model)]
    with torch.no_grad():
        checks.logits(twin, families.tokens(6))
    after = [module.__dict__ for module in guard.all_modules(model)]
    for old, new in zip(before, after, strict=True):
        assert [name for name in new if new[name] is not old.get(name)] == []
    # The copy has its own: nothing of the model's is needed, nor kept alive.
    layers = [block.attn._captured_pre_ln_residual for block in twin.blocks]
    assert layers == [None] * len(layers)
