"""Horizon, order, rates and feedback, each against plain autograd in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.horizon import horizon_step
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.lcgd_dynamic import lcgd_dynamic
from iclgd_lens.hypotheses.learning_rates import Hyper, Norm, Rms
from iclgd_lens.training.sgd import train
from tests import checks, families
from tests.hypotheses import oracles

LAST = families.N_LAYERS - 1
LR = 0.05
BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


def layer_of(name: str) -> int:
    return int(name.split(".")[1])


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
@pytest.mark.parametrize("settings", [{}, {"epochs": 2, "batch_size": 2}, {"loss_on": "label"}])
def test_both_ends_of_the_horizon_are_known(
    kind: str, family: str, settings: dict[str, Any]
) -> None:
    host, episode = checks.host(kind, family), checks.episode()
    for horizon, rule in ((0, lcgd), (LAST, gd), (99, gd)):
        expected = rule(host, episode, **settings)
        found = lcgd_dynamic(host, episode, horizon=horizon, **settings)
        assert list(found) == list(expected)
        largest = max(float(expected[name].abs().max()) for name in expected)
        for name in expected:  # GD's last MLP may run at the target's token alone
            checks.close(found[name], expected[name], 1e-5, largest)


@BY_KIND
def test_the_general_walk_reaches_both_ends_too(kind: str) -> None:
    host, episode = checks.host(kind, "neox"), checks.episode()
    for horizon, rule in ((0, lcgd), (LAST, gd)):
        expected = rule(host, episode)

        def step(host: Any, delta: Any, sequence: Any, learn: Any, m: int = horizon) -> Any:
            return horizon_step(host, delta, sequence, learn, m)

        found = train(step, "walk", host, episode, lr=None)
        for name in expected:
            checks.close(found[name], expected[name], 1e-5, float(expected[name].abs().max()) or 1)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
@pytest.mark.parametrize("horizon", [0, 1, 2])
def test_a_layer_follows_the_loss_read_after_its_horizon(
    kind: str, family: str, horizon: int
) -> None:
    episode = checks.episode(shots=1)
    model, (tokens, _) = oracles.precise(kind, family), oracles.sequences(episode)[0]
    logits = oracles.lens_logits(model, tokens, detach=False)
    found = lcgd_dynamic(checks.model(kind, family), episode, horizon=horizon, lr=LR)
    for name in found:
        if name.endswith("b_K"):
            continue  # a gradient of rounding alone
        read = min(layer_of(name) + horizon, LAST)
        step = oracles.gradient(model, name, oracles.nll(logits[read], tokens)) / (len(tokens) - 1)
        oracles.close(model, name, found[name], -LR * step, 1e-4)


@BY_KIND
def test_a_horizon_trains_some_layers_as_it_trains_all(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=1)
    whole = lcgd_dynamic(host, episode, horizon=1)
    part = lcgd_dynamic(host, episode, horizon=1, layers=[1])
    assert {layer_of(name) for name in part} == {1}
    for name in part:
        checks.close(part[name], whole[name], 1e-6)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_in_sequence_a_block_is_read_after_it_has_learned(kind: str, family: str) -> None:
    """Each layer of a copy is trained in turn, the whole copy running anew for the next one."""
    episode = checks.episode(shots=2)
    model = oracles.precise(kind, family)
    names = oracles.trained(checks.model(kind, family))
    before = {name: checks.real(model, name).detach().clone() for name in names}
    for tokens, _ in oracles.sequences(episode):
        for layer in range(families.N_LAYERS):
            logits = oracles.lens_logits(model, tokens, detach=True)
            loss = oracles.nll(logits[layer], tokens) / (len(tokens) - 1)
            own = [name for name in names if layer_of(name) == layer]
            steps = {name: oracles.gradient(model, name, loss) for name in own}
            with torch.no_grad():
                for name, step in steps.items():
                    checks.real(model, name).sub_(step, alpha=LR)
    found = lcgd_dynamic(checks.model(kind, family), episode, horizon=0, sequential=True, lr=LR)
    for name in found:
        if not name.endswith("b_K"):
            change = checks.real(model, name).detach() - before[name]
            oracles.close(model, name, found[name], change, 1e-4)


@BY_KIND
def test_an_exception_between_a_blocks_two_runs_leaves_the_model_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checks.fresh(kind, "llama")
    host = Host(model)
    before = checks.photograph(model)

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("interrupted")

    monkeypatch.setattr("iclgd_lens.hypotheses.lcgd_dynamic.lens_loss", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        lcgd_dynamic(host, checks.episode(), horizon=0, sequential=True)
    before.assert_same(model)


@BY_KIND
@pytest.mark.parametrize(
    "settings",
    [{"sequential": True}, *({"rates": each} for each in ("norm", "rms", "hyper", "surprise"))],
)
def test_without_a_horizon_learning_stays_layer_causal(kind: str, settings: Any) -> None:
    episode = checks.episode()
    other = checks.twin(checks.model(kind, "llama"))
    families.randomise(other.blocks[LAST], seed=100)
    before = lcgd_dynamic(checks.host(kind, "llama"), episode, horizon=0, **settings)
    after = lcgd_dynamic(other, episode, horizon=0, **settings)
    for name in before:
        assert torch.equal(before[name], after[name]) == (layer_of(name) < LAST), name


@BY_KIND
def test_steps_of_rates_norm_are_as_long_as_the_weights_say(kind: str) -> None:
    host = checks.host(kind, "llama")
    found = lcgd_dynamic(host, checks.episode(shots=1), horizon=0, rates="norm", trust=0.01, lr=0.5)
    for name, value in found.items():
        weight = host.parameter(name)
        assert weight is not None
        expected = 0.5 * 0.01 * weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(value.flatten(1).norm(dim=1), expected, rtol=1e-4, atol=0)
    zero = Norm(host, 0.01)("blocks.0.attn.W_K", torch.zeros(2, 32, 8), torch.zeros(()), 3)
    assert torch.equal(zero, torch.zeros(2, 32, 8))


def test_rates_rms_are_torchs_rmsprop() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.zeros(2, 3, 4, requires_grad=True)
    optimiser = torch.optim.RMSprop([weight], lr=0.1, alpha=0.99, eps=1e-8)
    rule, change = Rms(), torch.zeros(2, 3, 4)
    for _ in range(5):
        gradient = torch.randn(2, 3, 4, generator=draw)
        weight.grad = gradient / 7
        optimiser.step()
        change -= 0.1 / 7 * rule("blocks.0.attn.W_K", gradient, change, 7)
    torch.testing.assert_close(change, weight.detach())


def test_rates_hyper_grow_by_the_cosine_of_two_steps() -> None:
    draw = torch.Generator().manual_seed(0)
    names = ("blocks.0.attn.W_K", "blocks.0.attn.W_V", "blocks.1.attn.W_K")
    steps = [{name: torch.randn(2, 3, 4, generator=draw) for name in names} for _ in range(4)]
    rule = Hyper(0.5)
    factors = {"0": 1.0, "1": 1.0}

    def whole(step: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
        return torch.cat([step[name].flatten() for name in names if name.split(".")[1] == layer])

    for at, step in enumerate(steps):
        if at > 1:  # the two steps before this one
            for layer in factors:
                pair = [whole(each, layer) for each in steps[at - 2 : at]]
                factors[layer] *= 1 + 0.5 * float(torch.cosine_similarity(*pair, dim=0))
        for name, gradient in step.items():
            found = rule(name, gradient, torch.zeros(()), 1)
            torch.testing.assert_close(found, gradient * factors[name.split(".")[1]])
    assert factors["0"] != 1


@BY_KIND
@pytest.mark.parametrize("horizon", [0, 1])
def test_surprise_is_one_minus_the_labels_probability(kind: str, horizon: int) -> None:
    model, episode = checks.model(kind, "gpt2"), checks.episode(shots=1)
    plain = lcgd_dynamic(model, episode, horizon=horizon)
    found = lcgd_dynamic(model, episode, horizon=horizon, rates="surprise")
    tokens, start = oracles.sequences(episode)[0]
    with torch.no_grad():
        logits = oracles.lens_logits(model, tokens, detach=False)
    for name in found:
        read = min(layer_of(name) + horizon, LAST)
        p = logits[read][start - 1].softmax(-1)[tokens[start]]
        checks.close(found[name], plain[name] * (1 - p), 1e-5)


@BY_KIND
def test_feedback_mixes_the_last_layers_prediction_into_the_label(kind: str) -> None:
    """Two demonstrations: the second learns from what the changed model said of the first."""
    episode, share = checks.episode(shots=2), 0.4
    model = oracles.precise(kind, "gpt2")
    names = oracles.trained(checks.model(kind, "gpt2"), "W_V")
    before = {name: checks.real(model, name).detach().clone() for name in names}
    said = None
    for tokens, start in oracles.sequences(episode):
        logits = oracles.lens_logits(model, tokens, detach=True)
        steps: dict[str, torch.Tensor] = {}
        for layer, own in enumerate(logits):
            log_q = own.log_softmax(-1)
            target = torch.nn.functional.one_hot(torch.tensor(tokens[1:]), own.shape[-1]).double()
            if said is not None:
                target[start - 1] = (1 - share) * target[start - 1] + share * said
            loss = -(target * log_q[:-1]).sum() / (len(tokens) - 1)
            name = f"blocks.{layer}.attn.W_V"
            steps[name] = oracles.gradient(model, name, loss)
        said = logits[LAST][start - 1].detach().softmax(-1)
        with torch.no_grad():
            for name, step in steps.items():
                checks.real(model, name).sub_(step, alpha=LR)
    found = lcgd_dynamic(
        checks.model(kind, "gpt2"), episode, horizon=0, feedback=share, weights="W_V", lr=LR
    )
    for name in names:
        change = checks.real(model, name).detach() - before[name]
        oracles.close(model, name, found[name], change, 1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": -1}, r"horizon is -1; it must be at least 0\. The nearest is 0\."),
        ({"rates": "hyperr"}, r"rates is 'hyperr'; allowed: .* Did you mean 'hyper'\?"),
        ({"trust": 0.0, "rates": "norm"}, "trust is 0.0; it must be above 0"),
        ({"feedback": 1.5}, r"feedback is 1\.5; it must be 0 to 1\. The nearest is 1\."),
        ({"beta": 3.0, "rates": "hyper"}, "beta is 3.0; it must be -1 to 1"),
        ({"sequential": True, "horizon": 1}, "sequential needs horizon=0 and batch_size=1"),
        ({"sequential": True, "horizon": 0, "batch_size": 2}, "sequential needs horizon=0"),
        ({"feedback": 0.5, "horizon": 0, "layers": 0}, r"feedback needs the last layer \(2\)"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(HypothesisError, match=message):
        lcgd_dynamic(host, checks.episode(), **settings)
