"""Learned rates against finite differences; the learned start against longer training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.lcgd_meta import MetaRates, lcgd_initial, lcgd_meta
from iclgd_lens.training.label_losses import label_losses
from tests import checks, families
from tests.hypotheses import oracles

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
NAMES = [f"blocks.{layer}.attn.W_{letter}" for layer in range(3) for letter in "KV"]
RATE = 0.02


def rates_of(kind: str, per: str, validate: str) -> MetaRates:
    shown = checks.episode(shots=5).demonstrations
    return MetaRates(checks.host(kind, "llama"), shown, NAMES, per, validate, None, 2)


def loss_at(kind: str, meta: MetaRates, rates: dict[str, float], read: int | None) -> float:
    """Mean over folds of the left-out label loss, read after a layer, or by the model."""
    total = 0.0
    for step, left_out in zip(meta.learned_from, meta.left_out, strict=True):
        delta = ParameterDelta({name: -rates[meta.group[name]] * step[name] for name in NAMES})
        if read is None:
            total += float(label_losses(meta.host, left_out, delta).mean())
            continue
        twin = checks.twin(checks.model(kind, "llama"))
        with torch.no_grad():
            for name, value in delta.items():
                checks.real(twin, name).add_(checks.in_own_layout(twin, name, value))
            for example in left_out.examples:
                tokens, start = (families.BOS, *example.tokens), 1 + len(example.content)
                logits = oracles.lens_logits(twin, tokens, detach=True)[read]
                total += float(oracles.nll(logits, tokens, start)) / len(left_out)
    return total / len(meta.left_out)


@BY_KIND
@pytest.mark.parametrize("per", ["layer", "weight"])
@pytest.mark.parametrize("validate", ["layer", "final"])
def test_the_hypergradient_is_that_of_finite_differences(
    kind: str, per: str, validate: str
) -> None:
    meta = rates_of(kind, per, validate)
    groups = sorted(set(meta.group.values()))
    rates = {group: RATE * (1 + index / 5) for index, group in enumerate(groups)}
    found = meta.slopes(rates)
    for group in groups:
        read = int(group.split()[0]) if validate == "layer" else None
        ends = [
            loss_at(kind, meta, {**rates, group: rates[group] * math.exp(h)}, read)
            for h in (0.02, -0.02)
        ]
        assert found[group] == pytest.approx((ends[0] - ends[1]) / 0.04, rel=0.02, abs=2e-4)


@BY_KIND
def test_rates_move_against_the_slope_and_stay_within_a_decade(kind: str) -> None:
    meta = rates_of(kind, "layer", "final")
    slopes = meta.slopes(dict.fromkeys("012", RATE))
    one = meta.learned(RATE, 1, 0.3)
    largest = max(abs(slope) for slope in slopes.values())
    for name, factor in one.items():
        expected = math.exp(-0.3 * slopes[meta.group[name]] / largest)
        assert factor == pytest.approx(expected, rel=1e-6)
    assert max(meta.learned(RATE, 4, 50.0).values()) <= 10 * (1 + 1e-12)
    assert min(meta.learned(RATE, 4, 50.0).values()) >= 0.1 * (1 - 1e-12)


@BY_KIND
@pytest.mark.parametrize("per", ["layer", "weight"])
def test_asked_by_their_own_layers_the_steepest_so_far_sets_the_step(kind: str, per: str) -> None:
    meta = rates_of(kind, per, "layer")
    slopes = meta.slopes(dict.fromkeys(meta.group.values(), RATE))
    found = meta.learned(RATE, 1, 0.3)
    for name in NAMES:
        layer, group = int(name.split(".")[1]), meta.group[name]
        known = [abs(s) for other, s in slopes.items() if int(other.split()[0]) <= layer]
        assert found[name] == pytest.approx(math.exp(-0.3 * slopes[group] / max(known)))


@BY_KIND
@pytest.mark.parametrize("per", ["layer", "weight"])
def test_learning_stays_layer_causal(kind: str, per: str) -> None:
    episode, model, other = checks.episode(shots=8), *(checks.fresh(kind, "llama") for _ in "ab")
    with torch.no_grad():
        for name, value in other.named_parameters():
            if "blocks.2." in name or "layers.2." in name:
                value.mul_(1.5)
    one, two = (lcgd_meta(each, episode, steps=3, per=per) for each in (model, other))
    leaky, leaking = (lcgd_meta(each, episode, validate="final") for each in (model, other))
    for name in one:
        if "blocks.2." not in name:
            assert torch.equal(one[name], two[name])
            assert not torch.equal(leaky[name], leaking[name])
        elif name.endswith("W_V"):
            assert not torch.equal(one[name], two[name])


@BY_KIND
def test_a_layer_that_the_loss_does_not_depend_on_keeps_its_rate(kind: str) -> None:
    model = checks.fresh(kind, "llama")
    host = Host(model)
    site = host.site("blocks.1.attn.W_O")
    host.write_parameter(site.weight, torch.zeros(site.shape))
    found = lcgd_meta(model, checks.episode(), steps=3, validate="final").metadata["rates"]
    assert found["blocks.1.attn.W_V"] == 1.0
    assert found["blocks.0.attn.W_V"] != 1.0


@BY_KIND
def test_the_last_pass_is_lcgd_at_each_layers_rate(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode()
    found = lcgd_meta(host, episode, steps=2, lr=RATE)
    # A layer's first step depends on no other layer's rate: of one demonstration all is scaled.
    assert found.metadata["lr"] == RATE
    only = lcgd_meta(host, episode, steps=2, lr=RATE, layers=0)
    factor = only.metadata["rates"]["blocks.0.attn.W_V"]
    plain = lcgd(host, episode, lr=RATE * factor, layers=0)
    for name in plain:
        checks.close(only[name], plain[name], 1e-5)


@BY_KIND
def test_a_start_learned_in_one_step_is_training_on_the_other_task_first(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode()
    other = checks.episode(shots=3, labels=(8, 9), seed=5)
    both = (*other.demonstrations.examples, *episode.demonstrations.examples)
    together = dataclasses.replace(episode.demonstrations, examples=both, drawn=())
    found = lcgd_initial(host, episode, auxiliary=[other], steps=1, rate=1.0)
    expected = lcgd(host, together)
    for name in expected:
        checks.close(found[name], expected[name], 1e-5)


@BY_KIND
def test_a_start_moves_part_of_the_way_to_the_mean(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=1)
    others = [checks.episode(shots=2, labels=(8 + i, 9 + i), seed=i) for i in range(2)]
    found = lcgd_initial(host, episode, auxiliary=others, steps=1, rate=0.5, lr=1e-6)
    learned = [lcgd(host, other, lr=1e-6) for other in others]
    own = lcgd(host, episode, lr=1e-6)
    expected = 0.25 * (learned[0] + learned[1]) + own  # at a small rate changes add up
    for name in own:
        checks.close(found[name], expected[name], 1e-3)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (lcgd_meta, {"steps": -1}, r"steps is -1; it must be at least 0\. The nearest is 0\."),
        (lcgd_meta, {"per": "head"}, "per is 'head'; allowed: layer, weight"),
        (lcgd_meta, {"validate": "finale"}, r"allowed: layer, final\. Did you mean 'final'\?"),
        (lcgd_meta, {"meta_lr": 0.0}, "meta_lr is 0.0; it must be above 0"),
        (lcgd_meta, {"fold_count": 1}, "2 folds, not 4 and 1"),
        (lcgd_initial, {}, "needs demonstrations of other tasks: .*auxiliary="),
        (lcgd_initial, {"rate": 2.0}, r"rate is 2\.0; it must be above 0 and at most 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    build: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(HypothesisError, match=message):
        build(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)
