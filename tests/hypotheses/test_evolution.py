"""Evolution against exact gradients, quadrature, the cma library and the cosine law."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.errors import HypothesisError
from iclgd_lens.hypotheses.common import gradients
from iclgd_lens.hypotheses.evolution import (
    Gated,
    antithetic,
    cma,
    evolution,
    evolution_weights,
    nes,
    nes_gradient,
)
from iclgd_lens.hypotheses.gd import gd_step
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.training.label_losses import label_losses
from tests import checks

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


def test_nes_is_exact_in_expectation_on_a_quadratic() -> None:
    draw = np.random.default_rng(0)
    root = draw.standard_normal((4, 4))
    hessian, centre = -root @ root.T, draw.standard_normal(4)
    found = nes_gradient(lambda x: 0.5 * x @ hessian @ x, centre, 100_000, 0.7, draw)
    np.testing.assert_allclose(found, hessian @ centre, atol=0.03 * np.abs(hessian @ centre).max())


def test_nes_climbs_the_fitness_smoothed_by_its_noise() -> None:
    def fitness(x: Any) -> float:
        return float(-np.logaddexp(0.0, -3 * x[0]))

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    at, sigma = 0.2, 0.8

    def smoothed(x: float) -> float:
        values = [fitness([x + sigma * node]) for node in nodes]
        return float(weights @ np.array(values) / math.sqrt(2 * math.pi))

    exact = (smoothed(at + 1e-4) - smoothed(at - 1e-4)) / 2e-4
    plain = 3 / (1 + math.exp(3 * at))
    found = nes_gradient(fitness, np.array([at]), 100_000, sigma, np.random.default_rng(0))[0]
    assert found == pytest.approx(exact, rel=0.02)
    assert abs(plain - exact) > 0.05 * exact  # smoothing is seen


def test_search_never_ends_below_where_it_began() -> None:
    pytest.importorskip("cmaes")

    def noisy(x: Any) -> float:  # a needle at the start: every move is for the worse
        return 0.0 if np.array_equal(x, np.ones(3)) else -1.0 - float(x @ x)

    for best, curve in (
        nes(noisy, np.ones(3), 3, 8, 0.1, 0.1, seed=0),
        cma(noisy, np.ones(3), 3, 8, 0.1, seed=0),
    ):
        assert np.array_equal(best, np.ones(3))
        assert len(curve) == 4


def test_cma_does_as_well_as_the_cma_library() -> None:
    pytest.importorskip("cmaes")
    library = pytest.importorskip("cma")
    scale = np.array([1.0, 3.0, 10.0])

    def loss(x: Any) -> float:
        return float(((np.asarray(x) - 0.5) ** 2 * scale).sum())

    best, curve = cma(lambda x: -loss(x), np.ones(3), 40, 8, 0.3, seed=0)
    options = {"seed": 1, "popsize": 8, "maxiter": 40, "verbose": -9}
    other = library.fmin2(loss, np.ones(3), 0.3, options)[1]
    assert loss(other.result.xfavorite) < 1e-4
    assert loss(best) < 1e-4
    assert curve[0] == -loss(np.ones(3))
    assert max(curve) == pytest.approx(-loss(best))


@BY_KIND
def test_many_dimensions_are_searched_separably(kind: str) -> None:
    pytest.importorskip("cmaes")
    best, curve = cma(lambda x: -float(x @ x), np.ones(300), 3, 20, 0.1, seed=0)
    assert len(best) == 300
    assert max(curve) > curve[0]


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_a_gate_takes_a_heads_keys_or_values_with_its_bias(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode()
    delta = lcgd(host, episode)
    gated = Gated(host, episode.demonstrations, delta)
    heads = host.n_key_value_heads
    assert gated.count == 2 * host.n_layers * heads
    gates = np.ones(gated.count)
    gates[1] = 0.0  # layer 0, keys of head 1
    found = gated.at(gates)
    expected = dict(delta.items())
    for name in ("blocks.0.attn.W_K", "blocks.0.attn.b_K"):
        if name in expected:
            kept = delta.select(0, [h for h in range(heads) if h != 1], name.rsplit(".", 1)[1])
            expected[name] = kept[name]
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    fitness = -float(label_losses(host, episode.demonstrations, found).mean())
    assert gated.fitness(gates) == fitness
    assert all(torch.equal(gated.at(np.ones(gated.count))[n], delta[n]) for n in delta)


@BY_KIND
@pytest.mark.parametrize("method", ["nes", "cma"])
def test_what_is_found_fits_the_demonstrations_better_than_lcgd(kind: str, method: str) -> None:
    if method == "cma":
        pytest.importorskip("cmaes")
    host, episode = checks.host(kind, "llama"), checks.episode()
    found = evolution(host, episode, method=method, generations=3)
    curve = found.metadata["fitness"]
    plain = -float(label_losses(host, episode.demonstrations, lcgd(host, episode)).mean())
    own = -float(label_losses(host, episode.demonstrations, found).mean())
    assert curve[0] == pytest.approx(plain, rel=1e-6)
    assert own == pytest.approx(max(curve), rel=1e-5)
    assert own > plain
    other = evolution(host, episode, method=method, generations=3, seed=1)
    assert not torch.equal(found["blocks.0.attn.W_K"], other["blocks.0.attn.W_K"])


def test_trials_of_all_weights_point_along_the_gradient_by_the_cosine_law() -> None:
    size, pairs = 400, 40
    gradient = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    cosines: list[float] = []
    for seed in range(60):
        found = antithetic(
            lambda direction, scale: scale * float((direction["w"] * gradient).sum()),
            {"w": gradient}, pairs, 1e-2, seed,
        )["w"]  # fmt: skip
        cosines.append(float(torch.cosine_similarity(found.ravel(), gradient.ravel(), 0)))
    expected = math.sqrt(pairs / (pairs + size + 1))
    assert np.mean(cosines) == pytest.approx(expected, abs=3 * np.std(cosines) / 60**0.5 + 0.005)


@BY_KIND
def test_on_all_weights_it_is_the_random_direction_that_it_says(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=2)
    few = evolution_weights(host, episode).metadata
    assert few["dimensions"] == 3072
    assert few["expected_cosine"] == pytest.approx(math.sqrt(2 / 3075))
    assert abs(few["cosine"]) < 0.1
    many = evolution_weights(host, episode, trials=120, seed=1).metadata
    assert many["cosine"] == pytest.approx(math.sqrt(120 / 3193), abs=0.06)
    # At no change, however far the trials went.
    wide = evolution_weights(host, episode, sigma=0.1, lr=1.0)
    zero = {name: torch.zeros_like(value) for name, value in wide.items()}
    exact = gradients(gd_step, host, zero, episode.demonstrations.sequences("label"))
    pairs = [(wide[name].double().flatten(), -exact[name].double().flatten()) for name in exact]
    one, other = (torch.cat(each) for each in zip(*pairs, strict=True))
    assert wide.metadata["cosine"] == pytest.approx(
        float(one @ other / one.norm() / other.norm()), abs=1e-5
    )
    one, other = (evolution_weights(host, episode, seed=3) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "cmaa"}, r"allowed: nes, cma\. Did you mean 'cma'\?"),
        ({"generations": -1}, r"generations is -1; it must be at least 0\. The nearest is 0\."),
        ({"population": 1}, "population is 1; it must be at least 2"),
        ({"sigma": 0.0}, "sigma is 0.0; it must be above 0"),
        ({"rate": -0.1}, "rate is -0.1; it must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HypothesisError, match=message):
        evolution(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)


@pytest.mark.parametrize("rate", [-0.5, 0.0, math.inf])
def test_a_step_on_all_weights_goes_downhill_and_somewhere(rate: float) -> None:
    with pytest.raises(HypothesisError, match=f"learning rate is {rate}; it must be a positive"):
        evolution_weights(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), lr=rate)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(HypothesisError, match=r"needs cmaes, .* 'iclgd_lens\[search\]'"):
        evolution(host, checks.episode(), method="cma")
    evolution(host, checks.episode(shots=1), generations=1, population=2)
