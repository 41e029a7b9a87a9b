"""Worlds of softmax attention: the right rule reads 1, the wrong one the cosine of the angle."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

import iclgd_lens as lens
from iclgd_lens import worlds
from iclgd_lens.errors import LensError, UnsupportedModelError, WorldError
from iclgd_lens.nulls import shuffled_labels
from iclgd_lens.readout.reader import Reader
from iclgd_lens.worlds.instrument import marks
from iclgd_lens.worlds.softmax import COMMON
from iclgd_lens.worlds.world import World
from tests import checks, families
from tests.worlds.restated import Restated, centre, cosine, counts, sim_aou

KINDS = checks.kinds()
MAKE = {"gd": worlds.gd_world, "lcgd": worlds.lcgd_world}
BY_KIND = pytest.mark.parametrize("kind", KINDS)
# fp32 behind GPT-2's rotated coordinates: rounding of a constant of 200 beside changes below 1.
ROUNDING = {"hooked": 1e-5, "bridge": 3e-5}


@functools.cache
def world(rule: str = "gd", theta: float = 60.0, kind: str = KINDS[0]) -> World:
    # Small but in one case: time goes into the training sequences.
    labels, shows = (9, 3) if (rule, theta, kind) == ("gd", 60.0, KINDS[0]) else (5, 2)
    return MAKE[rule](theta, kind=kind, labels=labels, shows=shows)


def measured(one: World, **options: Any) -> Any:
    return one.compare(tok2attn_queries=0, **options)


CASES = [(kind, theta) for kind in KINDS[:1] for theta in (0.0, 15.0, 30.0, 60.0, 90.0)]
CASES += [(kind, 60.0) for kind in KINDS[1:]]


@pytest.mark.parametrize("rule", MAKE)
@pytest.mark.parametrize(("kind", "theta"), CASES)
def test_the_right_rule_reads_one_and_the_wrong_one_the_cosine(
    kind: str, theta: float, rule: str
) -> None:
    one = world(rule, theta, kind)
    result = measured(one)
    wrong = "lcgd" if rule == "gd" else "gd"
    exact = math.cos(math.radians(theta))
    assert one.exact == {rule: 1.0, wrong: pytest.approx(exact)}
    layers = [1, 2] if theta else [1]
    for name, value in ((rule, 1.0), (wrong, exact)):
        scores = result.tensor("SimAOU", name)
        assert scores.shape == (one.episode.n_labels, 3)
        assert scores[:, layers].mean(0).tolist() == pytest.approx([value] * len(layers), abs=1e-5)
        assert float((scores[:, layers] - value).abs().max()) < ROUNDING[kind]
        # What demonstrations leave as it is has no direction.
        assert scores[:, [layer for layer in range(3) if layer not in layers]].isnan().all()
    assert float(result.tensor("KL_ICL", rule).max()) < 1e-6
    moments = {name: result.values[name]["recovery_moments"].mean(0) for name in MAKE}
    recovery = {name: float((2 * m[0] - m[1]) / m[2]) for name, m in moments.items()}
    assert recovery[rule] == pytest.approx(1, abs=1e-5)
    # |s - R s|^2 = 2 (1 - cos) |s|^2
    assert recovery[wrong] == pytest.approx(2 * exact - 1, abs=1e-4)


def test_the_whole_demonstration_is_one_call() -> None:
    one = world()
    result = lens.compare(
        *one, ["gd", "lcgd"], controls=(), budget="published", settings=one.settings
    )
    assert float(result.tensor("SimAOU", "gd")[:, 1:].mean()) == pytest.approx(1, abs=1e-5)
    assert float(result.tensor("SimAOU", "lcgd")[:, 1:].mean()) == pytest.approx(0.5, abs=1e-5)
    assert [type(part).__name__ for part in one] == [type(one.model).__name__, "Episode"]


def test_keys_have_nothing_to_learn_and_scores_of_own_tokens_do_not_move() -> None:
    one = world()
    delta = lens.gd(*one, **one.training)
    assert set(delta) == {"blocks.1.attn.W_K", "blocks.1.attn.W_V"}
    assert float(delta["blocks.1.attn.W_K"].abs().max()) < 1e-9
    assert measured(one).tensor("SimAM", "gd")[:, 1].isnan().all()


@pytest.mark.parametrize("rule", MAKE)
def test_forward_pass_and_rules_agree_with_their_restatement(rule: str) -> None:
    one = world(rule)
    plain, episode = Restated(one.weights), one.episode
    queries = [query.content for query in episode.queries]
    prompt, bos = episode.demonstrations.prompt(), (0,)
    labels = [tokens[0] for tokens in episode.label_tokens]
    reader = Reader(one.model, episode)
    for before, readout in ((bos, reader.zs()), (prompt, reader.icl())):
        logits = centre(readout.label_scores.double().numpy())
        assert np.abs(logits - plain.label_logits(before, queries, labels)).max() < 1e-4
    zs, icl = plain.outputs(bos, queries), plain.outputs(prompt, queries)
    sequences = [sequence.tokens for sequence in episode.demonstrations.sequences()]
    result = measured(one)
    for name in MAKE:
        change = plain.learn(name, sequences, one.training["lr"], len(sequences))
        expected = sim_aou(zs, icl, plain.outputs(bos, queries, change))[:, 1:]
        assert np.abs(result.tensor("SimAOU", name)[:, 1:].numpy() - expected).max() < 3e-5
        assert np.abs(expected - one.exact[name]).max() < 5e-6
        if KINDS[0] == "hooked":
            own = getattr(lens, name)(*one, **one.training)["blocks.1.attn.W_V"]
            assert np.abs(own.numpy() - change).max() < 1e-6


def test_sequential_descent_is_another_learner() -> None:
    one = world()
    shots = len(one.episode.demonstrations)
    one_by_one = {**one.training, "batch_size": 1, "lr": one.training["lr"] / shots}
    scores = measured(one, hypotheses=["gd"], settings={"gd": one_by_one}).tensor("SimAOU", "gd")
    plain, queries = Restated(one.weights), [query.content for query in one.episode.queries]
    sequences = [sequence.tokens for sequence in one.episode.demonstrations.sequences()]
    change = plain.learn("gd", sequences, one_by_one["lr"], 1)
    prompt = one.episode.demonstrations.prompt()
    zs, icl = plain.outputs((0,), queries), plain.outputs(prompt, queries)
    expected = sim_aou(zs, icl, plain.outputs((0,), queries, change))
    assert scores[:, 1:].numpy() == pytest.approx(expected[:, 1:], abs=3e-5)
    assert 0.94 < float(scores[:, 1].mean()) < 0.97


def test_a_loss_on_all_tokens_learns_what_no_demonstration_tells() -> None:
    one = world()
    settings = {"gd": {**one.training, "loss_on": "all"}}
    scores = measured(one, hypotheses=["gd"], settings=settings).tensor("SimAOU", "gd")[:, 1]
    # From BOS, which shares COMMON with every token, all labels become less likely alike.
    effect = centre(counts(one.episode))
    shots, labels = len(one.episode.demonstrations), one.episode.n_labels
    common = COMMON**2 * shots / labels * np.ones(labels)
    expected = np.linalg.norm(effect, axis=1) / np.linalg.norm(effect - common, axis=1)
    assert scores.numpy() == pytest.approx(expected, abs=3e-5)
    assert float(scores.max()) < 0.95


@pytest.mark.parametrize("rule", MAKE)
def test_wrong_labels_read_what_label_counts_say(rule: str) -> None:
    one = world(rule, 0.0)
    wrong = shuffled_labels(one.episode, seed=3)
    delta = getattr(lens, rule)(one.model, wrong, **one.training)
    scores = measured(one, hypotheses={"wrong": delta}, settings={}).tensor("SimAOU", "wrong")[:, 1]
    shown = counts(wrong)
    # Wrong labels are not balanced: their frequencies are learned through position and COMMON.
    effect = centre(shown) + (1 + COMMON**2) * centre(shown.sum(0))
    assert scores.numpy() == pytest.approx(cosine(centre(counts(one.episode)), effect), abs=3e-5)
    assert abs(float(scores.mean())) < 0.5


@BY_KIND
def test_checks_and_random_updates_read_what_they_must(kind: str) -> None:
    one = world("lcgd", 60.0, kind)
    result = measured(one, hypotheses=["gd"], controls=("random", "oracle"), twins=0)
    assert float(result.tensor("SimAOU", "oracle")[:, 1:].min()) > 1 - 1e-5
    assert float(result.tensor("SimAOU", "random[gd]")[:, 1].abs().mean()) < 0.4


def test_in_context_learning_answers_with_the_majority() -> None:
    one = world()
    shown = counts(one.episode)
    ranked = np.sort(shown, axis=1)
    clear = ranked[:, -1] > ranked[:, -2]
    assert clear.sum() > 3
    assert (shown.argmax(1) != np.arange(9)).any() or not (shown.max(1) == 3).all()
    answers = Reader(one.model, one.episode).icl().label_scores.argmax(1).numpy()
    assert (answers[clear] == shown.argmax(1)[clear]).all()


def test_an_untrained_world_reads_something_else() -> None:
    one = world()
    twin = lens.untrained(one.model, seed=1)
    result = lens.compare(
        twin, one.episode, ["gd"], controls=(), budget="published", settings={"gd": one.training}
    )
    scores = result.tensor("SimAOU", "gd")[:, 1]
    assert scores.isnan().all() or abs(float(scores.nanmean())) < 0.6


# -- heads -----------------------------------------------------------------------------------------


@BY_KIND
def test_every_head_reads_the_cosine_of_its_angle(kind: str) -> None:
    thetas = (0.0, 30.0, 60.0, 90.0)
    one = worlds.heads_world(thetas, inert=2, labels=5, shows=2, kind=kind)
    result = measured(one)
    for rule in MAKE:
        scores = result.tensor("SimAOU", rule, by="head")
        assert scores.shape == (5, 2, 6)
        expected = torch.tensor([math.cos(math.radians(theta)) for theta in thetas])
        assert float((scores[:, 1, :4] - expected).abs().max()) < 3e-5
        assert scores[:, 1, 4:].isnan().all(), "inert heads"
        assert scores[:, 0].isnan().all()


@pytest.mark.parametrize(
    ("thetas", "group"), [((0.0, 60.0, 30.0, 90.0), 2), ((0.0, 30.0, 90.0), 3), ((20.0, 20.0), 2)]
)
def test_heads_that_share_values_read_the_angle_of_their_sum(
    thetas: tuple[float, ...], group: int
) -> None:
    if not families.has_hooked_transformer():
        pytest.skip("GPT-2, which a crafted TransformerBridge stands on, has no grouped heads")
    one = worlds.heads_world(thetas, group=group, inert=1, labels=5, shows=2)
    scores = measured(one, hypotheses=["gd"]).tensor("SimAOU", "gd", by="head")[:, 1]
    turns = np.exp(1j * np.radians(thetas)).reshape(-1, group).sum(1)
    expected = torch.from_numpy(np.repeat(np.cos(np.angle(turns)), group)).float()
    assert float((scores[:, : len(thetas)] - expected).abs().max()) < 1e-5
    assert scores[:, len(thetas) :].isnan().all()
    assert list(one.exact.values()) == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("theta", [0.05, 0.5, 359.9])
def test_the_ruler_reads_turns_too_small_for_the_last_layer(theta: float) -> None:
    one = worlds.gd_world(theta, labels=5, shows=1)
    right, wrong = marks(one)
    assert measured(one).tensor("SimAOU", "gd")[:, 2].isnan().any()  # less than rounding there
    assert right.value == pytest.approx(1, abs=1e-5)
    assert wrong.value == pytest.approx(math.cos(math.radians(theta)), abs=1e-5)
    assert max(right.error, wrong.error) < 1e-5


# -- what cannot be built --------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [2, 3, 4, 8])
@pytest.mark.parametrize("make", [worlds.gd_world, worlds.linear_world])
def test_even_or_few_labels_are_refused_with_the_reason(make: Any, labels: int) -> None:
    with pytest.raises(LensError, match=f"at least, not {labels}: .* every cosine is 1 or -1"):
        make(labels=labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: worlds.gd_world(shows=0), "shows is 0"),
        (lambda: worlds.heads_world(()), "0 angles"),
        (lambda: worlds.heads_world((1.0, 2.0, 3.0), group=2), "fill whole groups"),
        (lambda: worlds.heads_world((0.0, 180.0), group=2), "at 0, 180 degrees .* nothing to read"),
        (lambda: worlds.heads_world((0.0, 120.0, 240.0), group=3), "at 0, 120, 240 degrees"),
        (lambda: worlds.gd_world(math.inf), "angle is inf"),
        (lambda: worlds.heads_world((0.0, math.nan)), "angle is nan"),
        (lambda: worlds.linearised_world(math.inf), "scale is inf"),
        (lambda: worlds.linearised_world(eta=0.0), "eta is 0"),
        (lambda: worlds.linear_world(eta=math.nan), "eta is nan"),
        (lambda: worlds.linear_world(gamma=math.inf), "gamma is inf"),
        (lambda: worlds.draws(world(), 0), "n is 0"),
        (lambda: worlds.power((10.0,), n=1), "at least 2"),
    ],
)
def test_impossible_numbers_are_refused(call: Any, message: str) -> None:
    with pytest.raises(WorldError, match=message):
        call()


def test_an_unknown_kind_of_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Did you mean 'bridge'"):
        worlds.gd_world(kind="bridg")


@pytest.mark.skipif(families.has_hooked_transformer(), reason="TransformerLens 3 has it")
def test_version_four_has_no_hooked_worlds() -> None:
    with pytest.raises(UnsupportedModelError, match="no HookedTransformer"):
        worlds.gd_world(kind="hooked")


# -- draws and power -------------------------------------------------------------------------------


def test_draws_differ_in_their_demonstrations_and_the_right_rule_stays_right() -> None:
    one = world()
    some = worlds.draws(one, 3, seed=5)
    assert len({episode.hash for episode in some}) == 3
    assert worlds.draws(one, 2, seed=5)[1].hash == some[1].hash
    for episode in some:
        golds = [example.gold for example in episode.demonstrations.examples]
        assert np.bincount(golds, minlength=9).tolist() == [3] * 9
        assert counts(episode).sum(1).tolist() == [3] * 9
    scores = worlds.scores_by_draw(world("lcgd"), 2, seed=5, queries=3)
    assert scores["gd"] == pytest.approx([0.5] * 2, abs=1e-5)
    assert scores["lcgd"] == pytest.approx([1.0] * 2, abs=1e-5)


def test_unbalanced_labels_are_noise_and_noise_sets_the_power() -> None:
    found = worlds.power((0.0, 60.0), n=3, seed=1, labels=5, shows=2)
    assert found.right.shape == found.wrong.shape == (2, 3)
    assert (found.right < 0.9).all()
    assert found.right.std(1).min() > 0.01
    assert found.right[0] == pytest.approx(found.wrong[0], abs=1e-5)
    assert found.told_apart() == (False, True)
    assert found.smallest() == 60.0


def test_a_power_curve_names_the_smallest_angle_from_which_on_all_are_told_apart() -> None:
    right = np.tile([[1.0, 1.0, 1.0]], (4, 1))
    wrong = np.array([[0.9, 1.1, 1.0], [0.8, 0.81, 0.79], [0.5, 1.5, 0.9], [0.2, 0.21, 0.19]])
    found = worlds.Power((5.0, 10.0, 20.0, 40.0), right, wrong)
    assert found.told_apart() == (False, True, False, True)
    assert found.smallest() == 40.0
    assert worlds.Power((5.0,), right[:1], wrong[:1]).smallest() is None
    # The first two draws alone: the third is what hid 5 degrees least of all.
    two = found.first(2)
    assert two.right.shape == (4, 2)
    assert two.told_apart() == (False, True, False, True)
