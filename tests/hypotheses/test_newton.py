"""Second-order and GD++ value updates against NumPy on the model's own cached inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import as_host
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.gd_plus_plus import gd_plus_plus
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.newton import inverse_moments, mixed_inputs, newton
from iclgd_lens.worlds import linear_world
from tests import checks
from tests.hypotheses import oracles

CASES = pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))


def inputs(kind: str, family: str, tokens: tuple[int, ...], layer: int) -> np.ndarray:
    """What W_V reads, solved from the model's own values: v = x W + b has more heads than rows."""
    model, host = checks.model(kind, family), checks.host(kind, family)
    site = host.site(f"blocks.{layer}.attn.W_V")
    seen: list[torch.Tensor] = []
    hooks = [(site.input_hook, lambda value, hook: seen.append(value.clone()))]
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks)
    x = seen[0][0]
    if kind == "hooked":
        norm = model.blocks[layer].ln1
        x = x * norm.w + (norm.b if hasattr(norm, "b") else 0)
    return x.detach().double().numpy()


def mixed(kind: str, family: str, tokens: tuple[int, ...], layer: int) -> np.ndarray:
    """What each head mixes of W_V's inputs at every token, by the model's own pattern: h q i."""
    model = checks.model(kind, family)
    seen: list[torch.Tensor] = []
    name = f"blocks.{layer}.attn.hook_pattern"
    with torch.no_grad():
        model.run_with_hooks(
            torch.tensor([tokens]), fwd_hooks=[(name, lambda value, hook: seen.append(value))]
        )
    pattern = seen[0][0].detach().double().numpy()
    return np.einsum("hqk,ki->hqi", pattern, inputs(kind, family, tokens, layer))


def restated(u: np.ndarray, gradient: np.ndarray, damping: float) -> np.ndarray:
    """(A / d + I)^-1 g with dense matrices, u "head token i", g "kv_head i d"."""
    groups = len(u) // len(gradient)
    found = []
    for own, g in zip(u.reshape(len(gradient), groups, *u.shape[1:]), gradient, strict=True):
        moment = sum(each.T @ each for each in own) / u.shape[1]
        delta = damping * np.trace(moment) / len(moment)
        found.append(np.linalg.inv(moment / delta + np.eye(len(moment))) @ g)
    return np.stack(found)


@CASES
@pytest.mark.parametrize("causal", [True, False])
def test_values_follow_the_gradient_divided_by_damped_moments(
    kind: str, family: str, causal: bool
) -> None:
    episode = checks.episode(shots=1)
    found = newton(checks.host(kind, family), episode, damping=0.3, causal=causal)
    plain = (lcgd if causal else gd)(checks.host(kind, family), episode)
    tokens, _ = oracles.sequences(episode)[0]
    for name in found:
        if not name.endswith("W_V"):
            assert torch.equal(found[name], plain[name])
            continue
        u = mixed(kind, family, tokens, int(name.split(".")[1]))[:, :-1]  # all but the last predict
        expected = restated(u, plain[name].double().numpy(), 0.3)
        checks.close(found[name], torch.tensor(expected).float(), 1e-4)


@CASES
@pytest.mark.parametrize("loss_on", ["all", "label"])
def test_moments_are_means_over_what_the_loss_is_predicted_from(
    kind: str, family: str, loss_on: str
) -> None:
    episode = checks.episode(shots=3)
    settings: dict[str, Any] = {"batch_size": 3, "layers": 0, "loss_on": loss_on}
    found = newton(checks.host(kind, family), episode, damping=0.2, **settings)
    plain = lcgd(checks.host(kind, family), episode, **settings)
    u = np.concatenate(
        [
            mixed(kind, family, tokens, 0)[:, (start - 1 if loss_on == "label" else 0) : -1]
            for tokens, start in oracles.sequences(episode)
        ],
        axis=1,
    )
    name = "blocks.0.attn.W_V"
    expected = restated(u, plain[name].double().numpy(), 0.2)
    checks.close(found[name], torch.tensor(expected).float(), 1e-4)


@CASES
def test_the_curvature_covers_the_gradient(kind: str, family: str) -> None:
    """Of the label's loss, too: no part of LCGD's gradient lies where nothing was measured."""
    host, episode = checks.host(kind, family), checks.episode(shots=2)
    plain = lcgd(host, episode, loss_on="label", batch_size=2)
    found, tokens = mixed_inputs(host, episode.demonstrations, "label")
    assert tokens == 2
    for name, rows in found.items():
        for own, gradient in zip(rows.double(), plain[name].double(), strict=True):
            assert len(own) < own.shape[1], "else the test says nothing"
            basis = torch.linalg.qr(own.T)[0]
            outside = gradient - basis @ (basis.T @ gradient)
            assert float(outside.norm()) < 1e-5 * float(gradient.norm())
        tiny = inverse_moments(rows, tokens, 1e-6)(plain[name])
        assert float(tiny.norm()) < 1e-3 * float(plain[name].norm()), "all of it is scaled"


def test_one_full_step_on_linear_regression_is_least_squares() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((50, 4)) * [1, 2, 3, 4], draw.standard_normal((50, 3))
    damping = 1e-6
    step = inverse_moments(torch.tensor(x)[None].float(), 50, damping)
    gradient = torch.tensor(x.T @ (0 - y) / 50)[None]
    eta = 1 / (damping * float(np.mean(np.diag(x.T @ x / 50))))
    found = -eta * step(gradient)[0]
    np.testing.assert_allclose(
        found.numpy(), np.linalg.lstsq(x, y, rcond=None)[0], rtol=2e-2, atol=1e-3
    )


def test_a_pattern_that_never_passes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the gradient would go unscaled, and LCGD would be called Newton."""
    host = checks.host(checks.kinds()[0], "llama")
    hooked = type(host).hooked

    def without(self: Any, hooks: Any, **options: Any) -> Any:
        return hooked(self, [each for each in hooks if "pattern" not in each[0]], **options)

    monkeypatch.setattr(type(host), "hooked", without)
    with pytest.raises(HypothesisError, match="newton needs the attention pattern"):
        newton(host, checks.episode(shots=2))


@pytest.mark.parametrize("count", [3, 8, 20])
def test_many_rows_and_few_are_the_same_map(count: int) -> None:
    """By the kernel of rows, and by dense moments once there are as many rows as inputs."""
    draw = torch.Generator().manual_seed(0)
    rows, gradient = (torch.randn(2, *shape, generator=draw) for shape in ((count, 8), (8, 4)))
    found = inverse_moments(rows, 5, 0.3)(gradient)
    expected = restated(rows.double().numpy() * (count / 5) ** 0.5, gradient.numpy(), 0.3)
    checks.close(found, torch.tensor(expected).float(), 1e-5)
    doubled = inverse_moments(torch.cat([rows, rows], dim=1), 10, 0.3)(gradient)
    checks.close(doubled, found, 1e-5)


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="worlds need HookedTransformer")
@pytest.mark.parametrize("shots", [10, 40])
def test_one_full_step_in_a_linear_world_is_least_squares(shots: int) -> None:
    """The rule itself, from its own gradients and moments, against NumPy on its own inputs."""
    world = linear_world(shots=shots, inputs=6)
    host, episode = as_host(world.model), world.episode
    name, classes = "blocks.1.attn.W_V", 5
    site, seen = host.site(name), list[torch.Tensor]()
    hooks = [(site.input_hook, lambda value, hook: seen.append(site.read(value)[0, 1]))]
    with torch.no_grad(), host.hooked(hooks):
        for each in episode.demonstrations.sequences("label"):
            host.run(host.tensor(each.tokens))
    x = torch.stack(seen).double().numpy()
    gold = [example.gold for example in episode.demonstrations.examples]
    y = np.eye(classes)[gold] - 1 / classes  # minus the loss's gradient where all labels are alike
    damping = 1e-5
    delta = damping * float(np.mean(np.diag(x.T @ x))) / len(x)
    settings: dict[str, Any] = {"weights": ["W_V"], "layers": 1, "batch_size": len(x)}
    found = newton(host, episode, damping=damping, lr=1 / delta, loss_on="label", **settings)
    predicted = x @ found[name][0].double().numpy()[:, :classes]
    expected = x @ np.linalg.lstsq(x, y, rcond=1e-9)[0]
    assert np.linalg.norm(predicted - expected) < 1e-3 * np.linalg.norm(expected)


@CASES
def test_gd_plus_plus_takes_out_what_contents_share(kind: str, family: str) -> None:
    episode = checks.episode(shots=3)
    found = gd_plus_plus(checks.host(kind, family), episode, gamma=0.8, batch_size=3)
    plain = gd(checks.host(kind, family), episode, batch_size=3)
    for name in found:
        if not name.endswith("W_V"):
            assert torch.equal(found[name], plain[name])
            continue
        rows = [
            inputs(kind, family, tokens, int(name.split(".")[1]))[start - 1]
            for tokens, start in oracles.sequences(episode)
        ]
        x = np.stack(rows)
        matrix = np.eye(x.shape[1]) - 0.8 * x.T @ x / np.linalg.norm(x, 2) ** 2
        checks.close(found[name], torch.tensor(matrix).float() @ plain[name], 1e-4)


def test_at_gamma_one_the_most_common_direction_is_not_learned() -> None:
    kind, episode = checks.kinds()[0], checks.episode(shots=3)
    found = gd_plus_plus(checks.host(kind, "llama"), episode, gamma=1.0)
    x = np.stack(
        [
            inputs(kind, "llama", tokens, 0)[start - 1]
            for tokens, start in oracles.sequences(episode)
        ]
    )
    common = torch.tensor(np.linalg.svd(x)[2][0]).float()
    value = found["blocks.0.attn.W_V"]
    assert float((common @ value).abs().max()) < 1e-5 * float(value.abs().max())


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (newton, {"damping": 0.0}, "damping is 0.0; it must be above 0"),
        (newton, {"damping": float("nan")}, "damping is nan; it must be above 0"),
        (gd_plus_plus, {"gamma": 1.5}, r"gamma is 1\.5; it must be 0 to 1\. The nearest is 1\."),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    build: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(HypothesisError, match=message):
        build(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)
