"""The bounds: ridge against scikit-learn and NumPy, and what each must reproduce."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode, Query
from iclgd_lens.errors import EpisodeError, HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.ceiling import ceiling
from iclgd_lens.hypotheses.distilled import distilled, left_out_outputs
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.registry import list_hypotheses
from iclgd_lens.hypotheses.value_regression import _by_length, fit_values, ridge_solution
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.readout.reader import Reader
from iclgd_lens.worlds import linear_world
from tests import checks, families
from tests.host.test_length import bridged, original
from tests.hypotheses import oracles

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
CASES = pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
LR = 0.05


def test_ridge_is_scikit_learns_and_numpys() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    draw = torch.Generator().manual_seed(0)
    for rows, width in ((5, 8), (20, 8)):
        x, y = (torch.randn(rows, n, generator=draw) for n in (width, 3))
        penalty = 0.1 * float((x**2).sum(1).mean())
        model = linear.Ridge(alpha=penalty, fit_intercept=False).fit(x.numpy(), y.numpy())
        found = ridge_solution(x, y, 0.1)
        np.testing.assert_allclose(found.numpy(), model.coef_.T, rtol=1e-4, atol=1e-6)
        least = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
        np.testing.assert_allclose(ridge_solution(x, y, 0.0).numpy(), least, atol=1e-5)
    assert not ridge_solution(x, y, float("inf")).any()


@CASES
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")])
def test_the_ceiling_leaves_what_in_context_learning_leaves(
    kind: str, family: str, protocol: Any
) -> None:
    host, episode = checks.host(kind, family), checks.episode(protocol, queries=6)
    reader = Reader(host, episode)
    icl, zs = reader.icl(), reader.zs()
    found = reader.ftzs(ceiling(host, episode, ridge=0.0))
    assert not torch.allclose(zs.attention_output, icl.attention_output, rtol=1e-2)
    checks.close(found.attention_output, icl.attention_output, 1e-4)
    checks.close(found.z, icl.z, 1e-4)
    # Elsewhere the prediction is an earlier token's, or the stream holds another position's vector.
    if protocol is DEFAULT and family == "llama":
        checks.close(found.label_scores, icl.label_scores, 1e-4)


def test_rows_of_other_lengths_do_not_move_positions_that_depend_on_the_length() -> None:
    host = Host(bridged(original("dynamic")))
    assert not host.can_pad
    draw = np.random.default_rng(0)
    contents = [draw.integers(7, families.VOCAB_SIZE, size).tolist() for size in (4, 5, 30, 44)]
    episode = Episode.from_tokens(
        [[*contents[0], 5], [*contents[1], 6]], contents[2:], [[5], [6]], [0, 1],
        bos=families.BOS, separator=checks.SEPARATOR,
    )  # fmt: skip
    wanted = Reader(host, episode).icl().z
    found = Reader(host, episode).ftzs(ceiling(host, episode, ridge=0.0)).z
    checks.close(found, wanted, 1e-4)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("llama"))
def test_layer_by_layer_is_all_layers_in_one_pass(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode(queries=6)
    wanted = Reader(host, episode).icl().z
    rows = [(families.BOS, *query.content) for query in episode.queries]
    layers = range(host.n_layers)
    once = fit_values(host, rows, wanted, 1e-2, layers)
    sites = [host.site(f"blocks.{layer}.attn.W_V") for layer in layers]
    groups = [[place] for place in range(len(rows))]
    again = _by_length(host, rows, groups, wanted, 1e-2, sites)
    assert again.keys() == once.keys()
    for name, value in once.items():
        checks.close(again[name], value, 1e-3)


@BY_KIND
def test_chosen_layers_alone_are_fitted(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode()
    for build in (ceiling, distilled):
        assert list(build(host, episode, layers=[1])) == ["blocks.1.attn.W_V"]


@CASES
def test_left_out_outputs_are_what_a_reader_reads_after_the_others(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode()
    examples = episode.demonstrations.examples
    found = left_out_outputs(host, episode.demonstrations, [e.content for e in examples])
    for place, example in enumerate(examples):
        others = episode.with_demonstrations([e for e in examples if e is not example])
        asked = type(episode)(
            others.demonstrations, (Query(example.content, 0),), episode.label_tokens
        )
        read = Reader(host, asked).icl()
        checks.close(found[place][0], read.z[0], 1e-4)
        checks.close(found[place][1], read.attention_output[0], 1e-4)


def gap(host: Any, episode: Any, delta: ParameterDelta) -> float:
    """Distance of the demonstrations' own mixed values, alone, to theirs after the others."""
    examples = episode.demonstrations.examples
    wanted = left_out_outputs(host, episode.demonstrations, [e.content for e in examples])
    queries = tuple(Query(example.content, 0) for example in examples)
    asked = type(episode)(episode.demonstrations, queries, episode.label_tokens)
    z = Reader(host, asked).ftzs(delta).z
    return float((z - torch.stack([each for each, _ in wanted])).norm())


@CASES
def test_distilled_reaches_its_own_aim_and_lcgd_does_not(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode(shots=5)
    none = gap(host, episode, 0.0 * lcgd(host, episode))
    fitted = gap(host, episode, distilled(host, episode, ridge=0.0))
    assert fitted < 1e-3 * none
    assert fitted < gap(host, episode, distilled(host, episode, ridge=1.0)) < none
    assert gap(host, episode, lcgd(host, episode)) > 100 * fitted


@BY_KIND
def test_the_fit_by_steps_is_autograd_of_the_distance(kind: str) -> None:
    episode = checks.episode(shots=2)
    model = oracles.precise(kind, "llama")
    contents = [example.content for example in episode.demonstrations.examples]
    wanted = left_out_outputs(checks.host(kind, "llama"), episode.demonstrations, contents)
    names = [f"blocks.{layer}.attn.W_{letter}" for layer in range(3) for letter in "KV"]
    before = {name: checks.real(model, name).detach().clone() for name in names}
    for place, (tokens, start) in enumerate(oracles.sequences(episode)):
        outputs, logits = oracles.isolated(model, tokens)
        steps: dict[str, torch.Tensor] = {}
        for layer in range(3):
            target = wanted[place][1][layer].double()
            distance = ((outputs[layer][start - 1] - target) ** 2).sum() / (target**2).sum()
            said = oracles.nll(logits[layer], tokens) / (len(tokens) - 1)
            loss = 0.7 * distance + 0.3 * said
            for name in names[2 * layer : 2 * layer + 2]:
                steps[name] = oracles.gradient(model, name, loss)
        with torch.no_grad():
            for name, step in steps.items():
                checks.real(model, name).sub_(step, alpha=LR)
    found = distilled(checks.model(kind, "llama"), episode, fit="sgd", mu=0.7, lr=LR)
    for name in names:
        change = checks.real(model, name).detach() - before[name]
        oracles.close(model, name, found[name], change, 1e-3)


def test_bounds_are_registered_as_fitted() -> None:
    found = list_hypotheses()
    assert found["distilled"].kind == found["ceiling"].kind == "fitted"
    assert found["ceiling"].needs == ("demonstrations", "queries")
    assert found["distilled"].needs == ("demonstrations",)


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="worlds need HookedTransformer")
def test_the_ceiling_holds_where_weights_are_no_softmax_of_scores() -> None:
    world = linear_world(queries=5)
    reader = Reader(world.model, world.episode)
    zs, icl = reader.zs(), reader.icl()
    found = reader.ftzs(ceiling(world.model, world.episode, ridge=0.0))
    gap = (found.z - icl.z).norm() / (icl.z - zs.z).norm()
    assert float(gap) < 1e-5


def test_query_heads_that_share_values_share_the_ceilings_equations() -> None:
    """32 inputs and two query heads a value head: 16 queries at most."""
    host = checks.host(checks.kinds()[0], "llama")
    assert host.d_model == 16 * host.n_heads // host.n_key_value_heads
    gaps: list[float] = []
    for queries in (12, 20):
        episode = checks.episode(queries=queries)
        reader = Reader(host, episode)
        zs, icl = reader.zs(), reader.icl()
        found = reader.ftzs(ceiling(host, episode, ridge=0.0))
        gaps.append(float((found.z - icl.z).norm() / (icl.z - zs.z).norm()))
    assert gaps[0] < 1e-3
    assert gaps[1] > 0.1


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (distilled, {"fit": "rigde"}, r"allowed: ridge, sgd\. Did you mean 'ridge'\?"),
        (distilled, {"fit": "sgd", "mu": 1.5}, r"mu is 1\.5; it must be 0 to 1\. The nearest is 1"),
        (distilled, {"ridge": -1.0}, "ridge is -1.0; it must be at least 0"),
        (ceiling, {"ridge": -1.0}, "ridge is -1.0; it must be at least 0"),
        (ceiling, {"layers": [7]}, "layers 0 to 2, not 7"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    build: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(HypothesisError, match=message):
        build(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)


def test_what_cannot_be_left_out_or_read_is_refused() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(HypothesisError, match="needs at least 2 demonstrations, not 1"):
        distilled(host, checks.episode(shots=1))
    with pytest.raises(EpisodeError, match="but gpt2 reads 128; nothing is truncated"):
        distilled(host, checks.episode(shots=40))
    protocol = REFERENCE.replace(separator="\n")
    with pytest.raises(HypothesisError, match="needs a readout at the last prompt token"):
        distilled(host, checks.episode(protocol), fit="sgd")
