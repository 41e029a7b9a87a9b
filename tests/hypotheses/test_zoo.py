"""What every hypothesis promises, asked of all that are registered, by the table in `zoo.py`."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from iclgd_lens.budget.training_rows import row_trainings
from iclgd_lens.contexts import Contexts
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.registry import Hypothesis, list_hypotheses
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import DEFAULT
from iclgd_lens.readout.reader import Reader
from tests import checks
from tests.hypotheses.zoo import OTHERS, ZOO, Entry

ASKED = {
    name: found
    for name, found in list_hypotheses().items()
    if found.kind in ("explanation", "fitted") and found.made_by().__module__.startswith("iclgd")
}
NAMES = sorted(set(ASKED) & set(ZOO))
UNREAD = [name for name in NAMES if "queries" not in ASKED[name].needs]
CHANGES = [
    pytest.param(name, change, id=f"{name}-{index}")
    for name in NAMES
    for index, change in enumerate(ZOO[name].changed)
]
EPISODE = checks.episode(shots=4, queries=5)


@pytest.fixture(autouse=True)
def types_are_checked_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """At neutral settings shapes and types are checked as the code runs; in the rest it is fast."""
    if "known_thing" in request.node.name:
        yield
        return
    with checks.untyped():
        yield


def entry(name: str) -> tuple[Hypothesis, Entry]:
    found = ZOO[name]
    if found.extra and importlib.util.find_spec(found.extra) is None:
        pytest.skip(f"{name} needs {found.extra}, of the extra search")
    return ASKED[name], found


def built(name: str, model: Any, settings: Any, episode: Episode = EPISODE) -> Intervention:
    hypothesis, how = entry(name)
    others = OTHERS if how.auxiliary else {}
    # Nobody gave `quick` beside the neutral settings: what does nothing there is not refused.
    return hypothesis.built(model, episode, **{**others, **how.quick, **settings})


@functools.cache
def default(name: str, kind: str) -> Intervention:
    """What a hypothesis builds at its defaults on the shared model; built once for all tests."""
    return built(name, checks.host(kind, "llama"), {})


@functools.cache
def neutral(name: str) -> tuple[Intervention, dict[str, Tensor]]:
    """What it builds at its neutral setting, and what that does."""
    host = checks.host(checks.kinds()[-1], "llama")
    found = built(name, host, ZOO[name].neutral)
    return found, fingerprint(host, found)


def fingerprint(host: Host, intervention: Intervention) -> dict[str, Tensor]:
    """A delta's tensors; of another intervention, what it does to the queries."""
    if isinstance(intervention, ParameterDelta):
        return dict(intervention.items())
    readout = Reader(host, EPISODE).ftzs(intervention)
    return {
        field.name: value
        for field in dataclasses.fields(readout)
        if isinstance(value := getattr(readout, field.name), Tensor)
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in other)


def effect(host: Host, intervention: Intervention, like: Intervention) -> dict[str, Tensor]:
    """Both as deltas where both are, else both by what they do."""
    if isinstance(intervention, ParameterDelta) and not isinstance(like, ParameterDelta):
        intervention = _Opaque(intervention)
    return fingerprint(host, intervention)


class _Opaque(Intervention):
    """A delta seen as any other intervention is."""

    def __init__(self, inner: Intervention) -> None:
        self.hooks = inner.hooks  # type: ignore[method-assign]


def test_every_explanation_and_fitted_hypothesis_has_its_line() -> None:
    assert set(ASKED) - set(ZOO) == set(), "add these to tests/hypotheses/zoo.py"
    assert set(ZOO) <= set(list_hypotheses())


# One family a host: joint weights on one, grouped queries on the other.
@pytest.mark.parametrize(
    ("kind", "family"),
    list(zip(checks.kinds(), ("gpt2", "llama")[-len(checks.kinds()) :], strict=True)),
)
@pytest.mark.parametrize("name", NAMES)
def test_at_its_neutral_setting_it_is_the_known_thing_to_the_bit(
    name: str, kind: str, family: str
) -> None:
    host, (_, how) = checks.host(kind, family), entry(name)
    found, known = built(name, host, how.neutral), how.known(host, EPISODE)
    assert same(effect(host, found, known), effect(host, known, found))


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_another_setting_changes_it(name: str, change: Any) -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    after = built(name, host, {**entry(name)[1].neutral, **change})
    before, one = neutral(name)
    if isinstance(before, ParameterDelta) != isinstance(after, ParameterDelta):
        one = effect(host, before, after)
    other = effect(host, after, before)
    largest = max(float((one[key] - other[key]).abs().max()) for key in one if key in other)
    scale = max(float(value.abs().max()) for value in other.values())
    assert largest > 1e-4 * scale, "no more than rounding"


@functools.cache
def used(kind: str) -> Any:
    """A model in training mode that has run before: a first pass may leave tables on modules.

    Shared: each test that is handed it asserts that it stayed as it was.
    """
    model = checks.fresh(kind, "llama")
    with torch.no_grad():
        checks.logits(model, torch.tensor([[1, 7, 8]]))
    return model.train()


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("name", NAMES)
def test_one_call_gives_the_bytes_of_another_and_leaves_the_model_alone(
    name: str, kind: str
) -> None:
    model = used(kind)
    before = checks.photograph(model)
    entry(name)
    one, other = built(name, model, {}), default(name, kind)  # of two models of the same weights
    before.assert_same(model)
    host = checks.host(kind, "llama")
    assert same(fingerprint(host, one), fingerprint(host, other))
    if isinstance(one, ParameterDelta) and isinstance(other, ParameterDelta):
        assert one.metadata == other.metadata
        assert all(value.dtype == torch.float32 for _, value in one.items())
        assert one.is_finite


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("name", NAMES)
def test_an_exception_leaves_the_model_alone(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = used(kind)
    host = Host(model)
    before, run, calls = checks.photograph(model), type(host).run, [0]

    def failing(self: Host, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        result = run(self, *args, **kwargs)
        if calls[0] == 2:
            raise RuntimeError("interrupted")
        return result

    entry(name)
    monkeypatch.setattr(type(host), "run", failing)
    with pytest.raises(RuntimeError, match="interrupted"):
        # Twice, for one that runs once.
        collections.deque((built(name, host, {}) for _ in range(2)), maxlen=0)
    before.assert_same(model)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("name", [name for name in NAMES if ASKED[name].rows is not None])
def test_rates_side_by_side_are_rates_one_by_one(name: str, kind: str) -> None:
    host, rates = checks.host(kind, "llama"), (0.01, 0.05)
    rule = ASKED[name].rows
    assert rule is not None
    training = next(iter(row_trainings(rule, host, EPISODE.demonstrations, rates, 1)))
    for row, rate in enumerate(rates):
        alone = built(name, host, {"lr": rate})
        assert isinstance(alone, ParameterDelta)
        for weight, value in alone.items():
            checks.close(training.delta[weight].detach()[row], value, 1e-4)


@pytest.mark.parametrize("name", UNREAD)
def test_queries_are_not_read(name: str) -> None:
    kind = checks.kinds()[0]
    host = checks.host(kind, "llama")
    entry(name)
    other = checks.episode(shots=1, queries=7, seed=9).queries
    moved = dataclasses.replace(EPISODE, queries=other)
    two = fingerprint(host, built(name, host, {}, moved))
    assert same(fingerprint(host, default(name, kind)), two)


@functools.cache
def half_precision(kind: str) -> Any:
    """A model in bf16, which no hypothesis changes."""
    model = checks.fresh(kind, "llama").to(torch.bfloat16)
    if kind == "hooked":
        model.cfg.dtype = torch.bfloat16
    return model


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_models_are_served(name: str, kind: str) -> None:
    half = half_precision(kind)
    found = built(name, half, {})
    if isinstance(found, ParameterDelta):
        assert all(value.dtype == torch.float32 for _, value in found.items())
        assert found.is_finite
        assert found.norm() > 0
    readout = Reader(half, EPISODE).ftzs(found)
    assert readout.is_finite


@pytest.mark.parametrize("name", sorted(list_hypotheses()))
def test_a_registration_says_what_it_is(name: str) -> None:
    found = list_hypotheses()[name]
    assert found.description
    assert found.kind != "explanation" or "queries" not in found.needs
    for setting in found.described_settings():
        assert setting.meaning, f"{name}.{setting.name} is not described"
        assert setting.annotation, f"{name}.{setting.name} has no type"
    if found.kind in ("explanation", "fitted"):
        assert found.source


@pytest.mark.parametrize("name", ["function_vector", "task_vector", "state_vector"])
def test_no_layer_is_chosen_where_no_label_word_can_move(name: str) -> None:
    """At the first label word every layer would look alike, and the first would be taken."""
    protocol = DEFAULT.replace(readout="first_label_word")
    episode = checks.episode(protocol, shots=4)
    host = checks.host(checks.kinds()[0], "llama")
    build = list_hypotheses()[name].build
    with pytest.raises(HypothesisError, match="moves no label word's probability"):
        build(host, episode)
    assert isinstance(build(host, episode, layer=1), Intervention)


@pytest.mark.parametrize("readout", ["last_prompt_token", "first_label_word"])
@pytest.mark.parametrize("kind", checks.kinds())
def test_the_constant_shift_is_measured_where_it_is_added(kind: str, readout: str) -> None:
    host = checks.host(kind, "llama")
    episode = checks.episode(DEFAULT.replace(readout=readout), shots=4)
    shift: Any = list_hypotheses()["constant_shift"].build(host, episode)
    contexts = Contexts(host, episode, "test")
    points = [host.z_hook(layer) for layer in range(host.n_layers)]
    alone, seen = contexts.alone(points), contexts.after_others(points, loo="causal")
    for point in points:
        change = seen.values[point] - alone.values[point][list(seen.places)]
        checks.close(shift.vectors[point].flatten(), change.mean(0).flatten(), 1e-5)


def test_a_vector_of_heads_needs_a_stream_that_they_write_to_as_they_are() -> None:
    build = list_hypotheses()["function_vector"].build
    for family, served in (("llama", True), ("gemma2", False), ("granite", False)):
        host = checks.host("bridge", family)
        if served:
            assert isinstance(build(host, checks.episode(shots=3), heads=2, layer=1), Intervention)
        else:
            with pytest.raises(HypothesisError, match="normalised or scaled before they join"):
                build(host, checks.episode(shots=3), heads=2, layer=1)


def test_a_closed_form_searches_no_budget() -> None:
    assert not list_hypotheses()["distilled"].takes_budget


def test_evolution_of_all_weights_is_as_long_as_gd() -> None:
    host, episode = checks.host(checks.kinds()[0], "llama"), checks.episode(shots=4)
    found = list_hypotheses()["evolution_weights"].build(host, episode, lr=0.1, trials=2)
    exact = list_hypotheses()["gd"].build(host, episode, lr=0.1, loss_on="label", batch_size=4)
    assert found.norm() == pytest.approx(4 * exact.norm(), rel=1e-3)
