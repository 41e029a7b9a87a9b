"""The main job: the oracle reads 1, zero reads nothing, every control runs, divergence is told."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iclgd_lens as lens
from iclgd_lens import comparing
from iclgd_lens.budget.budget import choose_budget
from iclgd_lens.controls import CONTROLS, DEFAULT_CONTROLS
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.errors import ComparisonError, DivergedError, HypothesisError, ScoreError
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.measures import similarity
from iclgd_lens.nulls import matched_random
from iclgd_lens.protocol import REFERENCE
from iclgd_lens.readout.reader import Reader
from iclgd_lens.rules import resolve_rules
from iclgd_lens.workers import can_copy
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


@pytest.fixture(autouse=True)
def untyped() -> Iterator[None]:
    """Type checks at run time cost most of the time; the shared comparison below has them."""
    with checks.untyped():
        yield


LABELS = ((5,), (6, 9), (8,))
ALL = [name for name in CONTROLS if name != "permuted"]
OTHER = checks.episode(seed=11, labels=((20, 21), (22,)), shots=3)


def compare(*arguments: Any, **named: Any) -> Any:
    """The comparison at published budgets, with one network of each kind: what is tested is it."""
    return comparing.compare(
        *arguments, **{"budget": "published", "twins": 1, "realisations": 1} | named
    )


def episode(**changes: Any) -> Any:
    return checks.episode(**({"labels": LABELS, "queries": 7, "shots": 4} | changes))


@pytest.fixture(scope="module", params=checks.kinds())
def everything(request: pytest.FixtureRequest) -> Any:
    host = checks.host(request.param, "llama")
    result = compare(
        host, episode(), controls=ALL, other=OTHER, resamples=50, seed=3,
        tok2attn_queries=4,
    )  # fmt: skip
    return host, result


def test_every_control_is_measured(everything: Any) -> None:
    _, result = everything
    both = ("gd", "lcgd")
    expected = ["ZS", "ICL", "ICL_shuffled", *both, "random[gd]", "random[lcgd]"]
    expected += ["oracle", "zero", "constant_shift"]
    expected += [f"{rule}@{control}" for control in ("shuffled", "other_task") for rule in both]
    expected += ["gaussian", "uniform"]
    for control in ("untrained", "untrained_norms"):
        expected += [f"{name}@{control}" for name in ("ZS", "ICL", "ICL_shuffled", *both)]
    assert sorted(result.labels) == sorted(expected)
    assert result.labels[:5] == ("ZS", "ICL", "ICL_shuffled", "gd", "lcgd")
    assert not result.failures
    assert set(result.provenance["controls"]) == set(ALL)


def test_the_oracle_reads_one(everything: Any) -> None:
    _, result = everything
    for score in ("SimAOU", "SimAM", "Tok2Attn"):
        for by in ("layer", "head"):
            value = result.tensor(score, "oracle", by)[: 4 if score == "Tok2Attn" else None]
            defined = value[:, 1:] if score == "SimAM" else value
            np.testing.assert_allclose(defined, 1, rtol=0, atol=1e-4)
    frame = result.frame()
    rows = frame[(frame.hypothesis == "oracle") & frame.layer.isna()].set_index("score")
    for score in ("logit_recovery", "logit_scale", "logit_recovery_unscaled"):
        assert rows.loc[score, "value"] == pytest.approx(1, abs=1e-4)
    assert rows.loc["KL_ICL", "value"] == pytest.approx(0, abs=1e-6)
    accuracy = result.tensor("accuracy", "oracle"), result.tensor("accuracy", "ICL")
    assert torch.equal(*accuracy)


def test_rounding_is_no_direction(everything: Any) -> None:
    """Rotary positions are relative: in layer 0, demonstrations change no score of the query's own.

    What is left of the difference is rounding, and a cosine with rounding is no number to report.
    """
    host, result = everything
    reader = Reader(host, episode())
    difference = (reader.icl().scores - reader.zs().scores)[:, 0]
    assert difference.abs().max() < 1e-4
    for name in ("gd", "lcgd", "oracle", "random[gd]", "gaussian", "gd@shuffled", "gd@untrained"):
        for by in ("layer", "head"):
            value = result.tensor("SimAM", name, by)
            assert value[:, 0].isnan().all(), name
            assert value[:, 1:].isfinite().all(), name
    frame = result.frame()
    rows = frame[(frame.hypothesis == "gd") & (frame.score == "SimAM") & (frame.layer == 0)]
    assert (rows["undefined"] == 7).all()
    assert rows["value"].isna().all()
    total = frame[(frame.hypothesis == "gd") & (frame.score == "SimAM") & frame.layer.isna()]
    expected = float(result.tensor("SimAM", "gd")[:, 1:].mean())
    assert float(total["value"].iloc[0]) == pytest.approx(expected, abs=1e-6)


@BY_KIND
def test_learned_positions_do_change_scores_in_layer_0(kind: str) -> None:
    result = compare(checks.host(kind, "gpt2"), episode(), ["gd"], controls=("oracle",))
    assert result.tensor("SimAM", "gd", "head").isfinite().all()
    np.testing.assert_allclose(result.tensor("SimAM", "oracle", "head"), 1, rtol=0, atol=1e-4)


def test_zero_reads_nothing(everything: Any) -> None:
    _, result = everything
    for score in ("SimAOU", "SimAM"):
        for by in ("layer", "head"):
            assert result.tensor(score, "zero", by).isnan().all()
    frame = result.frame()
    rows = frame[(frame.hypothesis == "zero") & frame.score.isin(["SimAOU", "SimAM"])]
    assert (rows["n"] == 0).all()
    assert (rows["undefined"] == 7).all()
    assert rows["value"].isna().all()
    same = result.tensor("accuracy", "zero"), result.tensor("accuracy", "ZS")
    assert torch.equal(*same)


def test_numbers_equal_an_independent_restatement(everything: Any) -> None:
    """Activations of the changed model itself, cosines in float64 NumPy."""
    host, result = everything
    shown = episode()
    deltas = {"gd": gd(host, shown), "lcgd": lcgd(host, shown)}
    for name, delta in deltas.items():
        for index, query in enumerate(shown.queries):
            z, i, f = (
                activations(host, tokens, change)
                for tokens, change in (
                    ((families.BOS, *query.content), None),
                    ((*shown.demonstrations.prompt(), *query.content), None),
                    ((families.BOS, *query.content), delta),
                )
            )
            own = len(query.content)
            for layer in range(3):
                unit = [x[0][layer] / np.linalg.norm(x[0][layer]) for x in (z, i, f)]
                aou = cosine(unit[1] - unit[0], unit[2] - unit[0])
                assert result.tensor("SimAOU", name)[index, layer] == pytest.approx(aou, abs=1e-4)
                maps = [x[1][layer][:, -own:] for x in (z, i, f)]
                by_head = [cosine(b - a, c - a) for a, b, c in zip(*maps, strict=True)]
                if layer:  # rotary: scores of layer 0 do not change
                    ours = result.tensor("SimAM", name, "head")[index, layer]
                    np.testing.assert_allclose(ours, by_head, rtol=0, atol=2e-3)
                    ours = result.tensor("SimAM", name)[index, layer]
                    assert ours == pytest.approx(float(np.mean(by_head)), abs=2e-3)
                heads = [[x[2][layer][h] @ x[3][layer][h] for x in (z, i, f)] for h in range(4)]
                units = [[v / np.linalg.norm(v) for v in head] for head in heads]
                per_head = [cosine(b - a, c - a) for a, b, c in units]
                ours = result.tensor("SimAOU", name, "head")[index, layer]
                np.testing.assert_allclose(ours, per_head, rtol=0, atol=1e-3)


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def activations(host: Host, tokens: tuple[int, ...], delta: ParameterDelta | None) -> Any:
    """Attention outputs, score rows, z and W_O at the last token, by layer, in float64."""
    with torch.no_grad(), (delta or Intervention()).applied(host):
        _, cache = host.model.run_with_cache(torch.tensor([tokens]))
    found: Any = ([], [], [], [])
    for layer in range(host.n_layers):
        stem = f"blocks.{layer}.attn"
        output = cache[host.attention_output_hook(layer)][0, -1]
        z = cache[f"{stem}.hook_z"][0, -1].reshape(host.n_heads, host.d_head)
        for values, value in zip(
            found,
            (output, cache[f"{stem}.hook_attn_scores"][0, :, -1], z, host.parameter(f"{stem}.W_O")),
            strict=True,
        ):
            values.append(value.double().numpy())
    return found


def test_predictions_and_label_scores(everything: Any) -> None:
    host, result = everything
    reader = Reader(host, episode())
    for name, readout in (("ZS", reader.zs()), ("ICL", reader.icl())):
        right = readout.label_scores.argmax(-1) == torch.tensor(episode().gold)
        assert torch.equal(result.tensor("accuracy", name), right.float())
    zs, icl = (result.values[name]["accuracy"] == 1 for name in ("ZS", "ICL"))
    for name in ("gd", "lcgd", "random[gd]"):
        ft = result.values[name]["accuracy"] == 1
        recovered = result.values[name]["Rec2FTP"]
        for index in range(7):
            if not zs[index] and ft[index]:
                assert recovered[index] == float(icl[index])
            else:
                assert math.isnan(recovered[index])


def test_random_controls_have_the_norms_of_their_rule(everything: Any) -> None:
    host, result = everything
    from iclgd_lens.hypotheses.random import matched_random

    delta = matched_random(gd(host, episode()), 3)
    again = compare(host, episode(), {"r": delta}, controls=(), tok2attn_queries=0)
    torch.testing.assert_close(again.tensor("SimAOU", "r"), result.tensor("SimAOU", "random[gd]"))


def test_no_two_realisations_of_any_draws_are_the_same_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The same demonstrations three times, which a comparison refuses: only directions differ.
    monkeypatch.setattr(comparing, "check_draws", lambda draws, twins: None)
    host = checks.host(checks.kinds()[0], "llama")
    episodes = [episode()] * 3
    found = compare(
        host, episodes, ["gd"], controls=["random"], realisations=3, lr=0.1, resamples=5,
        tok2attn_queries=0,
    )  # fmt: skip
    own = [part.values["random[gd]"]["SimAOU"] for part in found.parts]
    assert len(own) == 9
    assert len({each.tobytes() for each in own}) == 9


def test_no_realisation_shares_a_seed_with_anothers_wrong_labels() -> None:
    """Else one's directions from wrong labels would be the next one's from right labels."""
    seeds: list[int] = []

    def noted(delta: Any, seed: int) -> Any:
        seeds.append(seed)
        return matched_random(delta, seed)

    lens.control("noted", acts_on="update")(noted)
    try:
        compare(
            checks.host(checks.kinds()[0], "llama"), [episode(), episode(seed=5)], ["gd"],
            controls=["noted", "shuffled"], realisations=4, lr=0.1, resamples=5,
            tok2attn_queries=0,
        )  # fmt: skip
    finally:
        CONTROLS._entries.pop("noted")  # pyright: ignore[reportPrivateUsage]
    assert len(seeds) == 2 * 4 * 2
    assert len(set(seeds)) == len(seeds)


def test_controls_use_their_own_demonstrations(everything: Any) -> None:
    host, result = everything
    from iclgd_lens.nulls import shuffled_labels, untrained

    reader = Reader(host, episode())
    zs, icl = reader.zs(), reader.icl()
    for shown, name in ((shuffled_labels(episode(), 3), "shuffled"), (OTHER, "other_task")):
        ft = reader.ftzs(gd(host, shown, lr=0.05))
        expected = similarity.sim_aou(*(r.attention_output for r in (zs, icl, ft)))
        torch.testing.assert_close(result.tensor("SimAOU", f"gd@{name}"), expected)
    twin = untrained(host, "embeddings", 3)
    other = compare(twin, episode(), ["gd"], controls=(), tok2attn_queries=0)
    found = result.tensor("SimAOU", "gd@untrained")
    torch.testing.assert_close(found, other.tensor("SimAOU", "gd"))
    assert not torch.allclose(found, result.tensor("SimAOU", "gd"), atol=1e-2)


@BY_KIND
def test_the_same_seed_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    files: list[bytes] = []
    for index in range(2):
        model = checks.fresh(kind, "gpt2")
        result = compare(model, episode(queries=3), controls=("random", "untrained"))
        result.save(tmp_path / f"{index}.safetensors")
        files.append((tmp_path / f"{index}.safetensors").read_bytes())
    assert files[0] == files[1]
    host = checks.host(kind, "gpt2")
    other = compare(host, episode(queries=3), ["gd"], controls=("random",), seed=1)
    one = result.tensor("SimAOU", "random[gd]")
    assert not torch.equal(one, other.tensor("SimAOU", "random[gd]"))


@pytest.mark.skipif(not can_copy(), reason="processes are not copied here")
@BY_KIND
def test_draws_and_networks_beside_one_another_are_the_same_bytes(
    kind: str, tmp_path: Path
) -> None:
    draws = [episode(queries=3, seed=seed) for seed in range(3)]
    files: list[bytes] = []
    for count in (1, 2):
        host, texts = checks.host(kind, "gpt2"), list[str]()
        result = compare(
            host, draws, {"gd": "gd", "mine": lambda host, shown: gd(host, shown, lr=1e-2)},
            controls=("shuffled", "random", "untrained"), twins=3, trajectory=(1, 2),
            workers=count, progress=texts.append,
        )  # fmt: skip
        result.save(tmp_path / f"{count}.safetensors")
        files.append((tmp_path / f"{count}.safetensors").read_bytes())
        assert sum("making it" in text for text in texts) == 3
    assert files[0] == files[1]


@pytest.mark.parametrize("count", [1, 2])
def test_twins_have_the_models_budget_of_their_draw_and_their_own(count: int) -> None:
    host = checks.host("bridge", "gpt2")
    draws = [episode(queries=3, seed=seed) for seed in range(2)]
    search = {"grid": (1e-3, 0.3), "epochs": (1, 2), "losses": ("label",), "folds": 1}
    result = compare(
        host, draws, ["gd"], controls=("untrained",), twins=3, budget=search, workers=count
    )

    def budget(part: Any) -> dict[str, Any]:
        return part.facts["rules"]["gd"]["settings"]

    chosen = {part.draw: budget(part) for part in result.parts if part.network == "trained"}
    assert all({"lr", "epochs"} <= set(each) for each in chosen.values())
    twins = [part for part in result.parts if part.network == "untrained"]
    at_models = [part for part in twins if part.budget == ""]
    assert [part.draw for part in at_models] == [0, 1, 0]
    assert [budget(part) for part in at_models] == [chosen[part.draw] for part in at_models]
    for part in twins:
        if part.budget == "own":
            again = as_host(lens.untrained(host, seed=part.index))
            found = choose_budget(again, draws[part.draw], get_hypothesis("gd"), **search)
            assert budget(part) == {key: repr(value) for key, value in found.settings.items()}


@pytest.mark.skipif(not can_copy(), reason="processes are not copied here")
def test_what_a_copy_raises_is_raised() -> None:
    host, draws = checks.host("bridge", "gpt2"), [episode(queries=3, seed=n) for n in range(2)]

    def fails(host: Any, shown: Any) -> Any:
        raise HypothesisError("a setting of the user's")

    for count in (1, 2):
        with pytest.raises(HypothesisError, match="of the user's"):
            compare(host, draws, {"mine": fails}, controls=(), workers=count)


@pytest.mark.skipif(not can_copy(), reason="processes are not copied here")
@BY_KIND
@pytest.mark.parametrize("where", ["draw", "network"])
def test_an_exception_meanwhile_leaves_the_model_and_no_copy(kind: str, where: str) -> None:
    host = checks.fresh(kind, "gpt2")
    host = as_host(host)
    before = {name: value.clone() for name, value in host.model.state_dict().items()}
    state = torch.get_rng_state()

    def interrupted(text: str) -> None:
        if text.startswith(("untrained network", "draw")[where == "draw"]):
            raise KeyboardInterrupt

    draws = [episode(queries=3, seed=seed) for seed in range(2)]
    with pytest.raises(KeyboardInterrupt):
        compare(host, draws, ["gd"], controls=("untrained",), twins=3, workers=2,
                progress=interrupted)  # fmt: skip
    assert multiprocessing.active_children() == []
    assert torch.equal(torch.get_rng_state(), state)
    after = host.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@BY_KIND
def test_batches_change_no_number(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    one, many, padded = (
        compare(host, episode(), ["gd"], controls=("oracle",), batch_size=size, pad_queries=pad)
        for size, pad in ((1, False), (None, False), (None, True))
    )
    for together in (many, padded):
        for name, found in one.values.items():
            for score, value in found.items():
                torch.testing.assert_close(
                    together.values[name][score], value, rtol=1e-3, atol=1e-4, equal_nan=True
                )


@pytest.mark.parametrize(("kind", "family"), checks.pairs("neox", "gptj"))
def test_tok2attn_is_absent_where_queries_are_not_exposed(kind: str, family: str) -> None:
    result = compare(checks.host(kind, family), episode(), ["gd"], controls=("oracle",))
    assert ("Tok2Attn" in result.values["gd"]) == (kind == "hooked")
    assert "Tok2Attn" in result.values["oracle"]


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="needs both hosts")
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_both_hosts_compare_alike(family: str) -> None:
    results = [
        compare(checks.host(kind, family), episode(), controls=("oracle",))
        for kind in checks.kinds()
    ]
    for name in ("gd", "lcgd", "oracle"):
        for score in ("SimAOU", "SimAM", "Tok2Attn", "accuracy", "KL_ICL"):
            one, other = (result.tensor(score, name) for result in results)
            torch.testing.assert_close(one, other, rtol=0, atol=5e-3, equal_nan=True)


@BY_KIND
def test_divergence_is_recorded_and_the_rest_goes_on(kind: str) -> None:
    def overflowing(host: Any, shown: Any) -> ParameterDelta:
        return ParameterDelta({"blocks.1.attn.W_V": torch.full((4, 32, 8), 1e38)})

    result = compare(
        checks.host(kind, "gpt2"), episode(),
        {"gd": "gd", "far": gd, "boom": overflowing},
        settings={"far": {"lr": 3e38}}, controls=("random", "shuffled"), resamples=20,
    )  # fmt: skip
    assert "diverged" in result.failures["far"]
    assert "diverged" in result.failures["far@shuffled"]
    assert "not finite" in result.failures["boom"]
    assert set(result.failures) == {"far", "far@shuffled", "boom", "boom@shuffled", "random[boom]"}
    assert "gd" not in result.failures
    assert "random[far]" not in result.values
    frame = result.frame()
    rows = frame[frame.hypothesis == "far"]
    assert len(rows)
    assert rows["value"].isna().all()
    assert (rows["n"] == 0).all()
    lost = frame[(frame.hypothesis == "boom") & (frame.score == "accuracy")]
    assert lost["value"].isna().all()
    assert (lost["undefined"] == 7).all()
    assert frame[(frame.hypothesis == "gd") & (frame.score == "SimAOU")]["value"].notna().all()


@pytest.mark.parametrize("error", [HypothesisError, KeyboardInterrupt, MemoryError])
def test_what_is_no_failure_of_a_hypothesis_is_raised(error: type[BaseException]) -> None:
    """A wrong setting, an interruption, and want of memory, which another machine may have."""

    def bad(host: Any, shown: Any) -> Any:
        raise error("not a divergence")

    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(error, match="not a divergence"):
        compare(host, episode(), {"bad": bad}, controls=())
    assert issubclass(DivergedError, lens.LensError)


def test_settings_reach_the_hypothesis_they_name() -> None:
    host, seen = checks.host(checks.kinds()[0], "gpt2"), {}

    def mine(host: Any, shown: Any, *, lr: float = 1.0, power: int = 1) -> Intervention:
        seen.update(lr=lr, power=power)
        return Intervention()

    compare(host, episode(), {"mine": mine}, controls=(), lr=0.3, settings={"mine": {"power": 2}})
    assert seen == {"lr": 0.3, "power": 2}
    compare(host, episode(), {"mine": mine}, controls=(), lr=0.3, settings={"mine": {"lr": 0.7}})
    assert seen["lr"] == 0.7
    compare(host, episode(), {"mine": mine}, controls=())
    assert seen["lr"] == 1.0
    result = compare(host, episode(), ["gd", "zero"], controls=("shuffled",), lr=0.2)
    facts = result.provenance["hypotheses"]
    assert facts["gd"]["delta"]["lr"] == 0.2
    assert "loss_sum" not in facts["gd"]["delta"]
    assert set(facts) == {"gd", "zero"}


def test_provenance_tells_what_the_numbers_depend_on() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    facts = compare(host, episode(protocol=REFERENCE), ["zero"], controls=()).provenance
    assert json.loads(json.dumps(facts)) == facts
    assert facts["model"]["name"] == "gpt2"
    assert facts["model"]["dtype"] == "float32"
    assert facts["protocol"]["hash"] == REFERENCE.hash
    assert facts["protocol"]["readout"] == "first_label_word"
    assert facts["episode"]["hash"] == episode(protocol=REFERENCE).hash
    assert {"torch", "transformers", "transformer-lens", "python"} <= set(facts["versions"])
    assert facts["precision"] == "activations float32, deltas and scores fp32"


def test_progress_is_told() -> None:
    told: list[str] = []
    host = checks.host(checks.kinds()[0], "gpt2")
    compare(host, episode(), ["zero"], controls=("untrained",), progress=told.append)
    assert any("ZS" in text for text in told)
    assert any("untrained" in text for text in told)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"controls": ["oracel"]},
            ComparisonError,
            r"'oracel'; known: .* Did you mean 'oracle'",
        ),
        ({"hypotheses": ["gdd"]}, HypothesisError, r"No hypothesis is called 'gdd'"),
        ({"hypotheses": {"ZS": "gd"}}, HypothesisError, "cannot be called 'ZS'"),
        ({"hypotheses": {"a@b": "gd"}}, HypothesisError, "cannot be called 'a@b'"),
        ({"hypotheses": {"a\nb": "gd"}}, HypothesisError, "cannot be called .* not printed"),
        ({"hypotheses": {"gold": "gd"}}, HypothesisError, "cannot be called 'gold'"),
        ({"hypotheses": {"gaussian": "gd"}}, HypothesisError, "a control's name"),
        ({"hypotheses": {"oracle": "gd"}}, HypothesisError, "a control's name"),
        ({"hypotheses": {"a|b": "gd"}}, HypothesisError, r"cannot be called 'a\|b'"),
        (
            {"settings": {"gdd": {}}},
            HypothesisError,
            r"'gdd', which is not compared\. Did you mean",
        ),
        ({"settings": {"gd": {"epoch": 1}}}, HypothesisError, r"no setting 'epoch'"),
        (
            {"controls": ["other_task"]},
            ComparisonError,
            "'other_task' needs an episode of another task",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(error, match=message):
        compare(host, episode(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": "sst2"}, r"'sst2' is a task, .* give load_episodes\('sst2', model\)"),
        ({"episodes": Path("own.yaml")}, r"give load_episodes\('own\.yaml', model\)"),
        ({"episodes": lens.get_task("sst2")}, r"give load_episodes\('sst2', model\)"),
        ({"episodes": [3]}, "an Episode or a list of them, .* this is a int"),
        ({"episodes": None}, "this is a NoneType"),
        ({"lr": "big"}, "lr must be a number or None, not 'big'"),
        ({"twins": 2.5}, r"twins must be an integer, not 2\.5"),
        ({"budget": {"epochs": 4}}, "budget: epochs must be a list of integers, not 4"),
        ({"controls": [3]}, r"controls must be a text or a list of texts, not \[3\]"),
        ({"controls": None}, "controls must be a text or a list of texts, not None"),
        ({"hypotheses": [gd]}, r"by registered names, such as 'gd', .* this is a function, gd"),
        ({"hypotheses": gd}, "this is a function, gd"),
        ({"hypotheses": [get_hypothesis("gd")]}, "this is a Hypothesis, gd"),
        ({"hypotheses": 3}, "this is 3"),
        ({"hypotheses": {3: "gd"}}, "this is 3"),
        ({"settings": {"gd": 3}}, "The settings of 'gd' are 3; give a mapping"),
        ({"settings": 5}, "settings must be a mapping or None, not 5"),
        ({"settings": {"gd": 5}}, "The settings of 'gd' are 5; give a mapping"),
        ({"settings": {"gd": {"epochs": "many"}}}, "gd: epochs must be an integer, not 'many'"),
        ({"settings": {"gd": {"lr": "abc"}}}, "gd: lr must be a number or None, not 'abc'"),
    ],
)
def test_what_is_of_another_type_is_refused_in_one_line(
    arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"episodes": episode()} | arguments
    host: Any = checks.host(checks.kinds()[0], "gpt2")
    for measured in (comparing.compare, lens.mediate):
        if measured is lens.mediate and "twins" in given:
            continue
        with pytest.raises(lens.LensError, match=message) as caught:
            measured(host, **given)
        assert "\n" not in str(caught.value)


def test_a_control_of_the_users_takes_no_hypothesis_place() -> None:
    """Their numbers would stand under one label."""
    before = CONTROLS.known()
    try:

        @lens.control("gd")
        def mine(host: Any, episode: Any) -> lens.Intervention:
            return lens.Intervention()

        with pytest.raises(HypothesisError, match="'gd' in results: that is a control's name"):
            compare(checks.host(checks.kinds()[0], "gpt2"), episode(), ["gd"], controls=["gd"])
    finally:
        CONTROLS._entries.clear()
        CONTROLS._entries.update(before)


@pytest.mark.parametrize("name", ["gold", "hypothesis", "value", "label_scores", "a\tb"])
def test_scores_are_not_called_like_what_results_hold_already(name: str) -> None:
    with pytest.raises(ScoreError):
        lens.score(name)(lambda readings: readings)


def test_values_that_are_no_hypotheses_are_refused() -> None:
    with (
        checks.untyped(),
        pytest.raises(HypothesisError, match="'x' is a int; expected a registered"),
    ):
        resolve_rules({"x": 3})  # type: ignore[dict-item]
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(HypothesisError, match="wrong returned a dict, not an Intervention"):
        compare(host, episode(), {"wrong": lambda host, shown: {}}, controls=())
    with checks.untyped():
        assert list(resolve_rules("gd")) == ["gd"]


def test_results_have_the_controls_a_reader_expects_by_default() -> None:
    assert set(DEFAULT_CONTROLS) <= set(CONTROLS)
    host = checks.host(checks.kinds()[0], "gpt2")
    result = compare(host, episode(queries=2), ["gd"], resamples=10)
    assert set(result.labels) == {
        "ZS", "ICL", "ICL_shuffled", "gd", "random[gd]", "gd@shuffled", "constant_shift", "oracle",
        *(f"{name}@untrained" for name in ("ZS", "ICL", "ICL_shuffled", "gd")),
    }  # fmt: skip
    twice = compare(host, episode(queries=2), ["oracle"], controls=("oracle", "oracle", "zero"))
    assert twice.labels == ("ZS", "ICL", "oracle", "zero")


def test_one_control_may_be_named_without_a_list() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    result = compare(host, episode(queries=2), ["gd"], controls="zero", resamples=10)
    assert result.labels == ("ZS", "ICL", "gd", "zero")


def test_controls_that_build_anew_leave_out_what_was_built_already() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    fixed, rule = gd(host, episode()), lens.get_hypothesis("lcgd")
    result = compare(
        host, episode(queries=2), {"fixed": fixed, "rule": rule},
        controls=("untrained", "shuffled"), settings={"rule": {"lr": 0.3}}, resamples=10,
    )  # fmt: skip
    assert set(result.labels) == {
        "ZS", "ICL", "ICL_shuffled", "fixed", "rule", "rule@shuffled",
        *(f"{name}@untrained" for name in ("ZS", "ICL", "ICL_shuffled", "rule")),
    }  # fmt: skip
    assert result.provenance["hypotheses"]["rule"]["delta"]["lr"] == 0.3


def test_an_episode_without_demonstrations_compares_to_nothing() -> None:
    bare = lens.Episode.from_tokens([], [[8, 9], [9, 10]], [5, 6], [0, 1], bos=1, learning_rate=0.1)
    result = compare(checks.host(checks.kinds()[0], "gpt2"), bare, controls=("oracle",))
    for name in ("gd", "lcgd", "oracle"):
        assert result.tensor("SimAOU", name).isnan().all()


@BY_KIND
def test_half_precision_models_are_compared_and_say_so(kind: str) -> None:
    model = checks.fresh(kind, "llama").to(torch.bfloat16)
    if kind == "hooked":
        model.cfg.dtype = torch.bfloat16
    result = compare(model, episode(), controls=("oracle",))
    assert result.provenance["precision"] == "activations bfloat16, deltas and scores fp32"
    assert not result.failures
    assert (result.tensor("SimAOU", "oracle") > 0.9).all()


@BY_KIND
def test_a_foreign_oracle_is_measured_too(kind: str) -> None:
    """Its prefix is not these demonstrations': no Tok2Attn, and no position out of bounds."""
    result = compare(
        checks.host(kind, "gpt2"), episode(shots=6), ["oracle"],
        controls=("other_task", "shuffled"), other=OTHER,
    )  # fmt: skip
    assert "Tok2Attn" in result.values["oracle"]
    assert "Tok2Attn" not in result.values["oracle@other_task"]
    assert result.tensor("SimAOU", "oracle@other_task").isfinite().all()


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("matchd", "Did you mean 'matched'"),
        ({"epoch": (1, 2)}, "Did you mean 'epochs'"),
        ({"left_out": "half"}, "budget: left_out must be a number, not 'half'"),
        ({"left_out": 1}, "budget: left_out must be between 0 and 1, not 1"),
    ],
)
def test_a_budget_that_does_not_exist_is_refused(budget: Any, told: str) -> None:
    with pytest.raises(ComparisonError, match=re.escape(told)):
        comparing.compare(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), budget=budget)


def test_a_search_of_ones_own_is_followed_and_recorded() -> None:
    search = {"grid": (0.01, 0.1), "epochs": (1, 3), "losses": ("label",), "folds": 1}
    found = comparing.compare(
        checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=4), ["lcgd"], controls=(),
        budget=search,
    )  # fmt: skip
    assert found.provenance["budget"] == {"mode": "matched", **search}
    tried = found.provenance["hypotheses"]["lcgd"]["budget"]["tried"]
    assert {each["epochs"] for each in tried} <= {1, 3}
    assert {each["loss_on"] for each in tried} == {"label"}
    assert {0.01, 0.1} <= {each["lr"] for each in tried}


def test_scores_along_the_training_are_read_after_the_passes_named() -> None:
    found = comparing.compare(
        checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=3), ["gd"], controls=(),
        lr=0.05, trajectory=(3, 1),
    )  # fmt: skip
    frame = found.trajectory(["SimAOU"])
    assert list(frame["passes"]) == [1, 3]
    once = comparing.compare(
        checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=3), ["gd"], controls=(),
        lr=0.05, settings={"gd": {"epochs": 3}},
    )  # fmt: skip
    value = once.frame().set_index(["hypothesis", "score", "level"])["value"]
    assert frame["value"].iloc[1] == pytest.approx(value["gd", "SimAOU", "all"], abs=1e-4)


def test_progress_tells_of_a_choice_only_where_there_is_one() -> None:
    told: list[str] = []
    comparing.compare(
        checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=3), ["gd"], controls=(),
        lr=0.05, progress=told.append,
    )  # fmt: skip
    assert not any("choosing" in text for text in told)


def test_sizes_of_changes_are_those_of_the_readouts_themselves() -> None:
    model = checks.host(checks.kinds()[0], "llama")
    episode = checks.episode(labels=((5,), (6,)), queries=3, shots=2)
    result = lens.compare(model, episode, ["gd"], controls=(), lr=0.5, trajectory=False)
    reader = Reader(model, episode)
    delta = gd(model, episode, lr=0.5)
    zs, icl, ft = (
        each.attention_output.double().numpy()
        for each in (reader.zs(), reader.icl(), reader.ftzs(delta))
    )

    def size(after: Any) -> Any:
        parts = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (after, zs)]
        return np.sqrt(np.square(np.linalg.norm(parts[0] - parts[1], axis=-1)).mean(-1))

    norms = result.norms()
    assert len(norms) == 3
    assert norms["icl_norm"].to_numpy() == pytest.approx(size(icl), rel=1e-5)
    assert norms["ft_norm"].to_numpy() == pytest.approx(size(ft), rel=1e-5)
    # A fact of queries is no score of theirs.
    assert "change_norms" not in set(result.frame()["score"]) | set(result.queries()["score"])


def test_nulls_are_each_controls_own_values() -> None:
    model = checks.host(checks.kinds()[0], "llama")
    draws = [checks.episode(labels=((5,), (6,)), queries=3, shots=2, seed=s) for s in (0, 1)]
    result = lens.compare(model, draws, ["lcgd"], controls=("random", "shuffled"), lr=0.5)
    nulls = result.nulls()
    for control in ("random[lcgd]", "lcgd@shuffled"):
        own = nulls[(nulls["control"] == control) & (nulls["score"] == "SimAOU")]["value"]
        assert own.tolist() == result.data.per_unit("SimAOU", control).tolist()
    assert set(nulls["hypothesis"]) == {"lcgd"}
