"""Mediation: exact effects against one head at a time, oracles, worlds, what is left untouched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import iclgd_lens as lens
from iclgd_lens import worlds
from iclgd_lens.errors import ComparisonError, ControlError, EpisodeError
from iclgd_lens.host import Host
from iclgd_lens.host.crafted import crafted_model
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.partial_oracle import partial_oracle
from iclgd_lens.intervention import Intervention
from iclgd_lens.measures.readings import Frozen
from iclgd_lens.mediation.effects import Measuring, Wanted
from iclgd_lens.mediation.head_maps import (
    ESTIMATED,
    pearson,
    ranking_of,
    ratio_map,
    share_of_means,
    spearman,
)
from iclgd_lens.mediation.mediation_result import Mediation
from iclgd_lens.readout.reader import Reader
from iclgd_lens.results.aggregates import Resampling
from iclgd_lens.verdicts.ratio_intervals import ratio_t
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
LABELS = ((5,), (6,), (8,))
OPTIONS: dict[str, Any] = {"budget": "published", "name_heads": False, "resamples": 50}


@pytest.fixture(autouse=True)
def untyped() -> Iterator[None]:
    with checks.untyped():
        yield


def episode(**changes: Any) -> Any:
    fields: dict[str, Any] = {"labels": LABELS, "queries": 4, "shots": 4, **changes}
    return checks.episode(**fields)


@cache
def mediated(kind: str, family: str = "llama") -> Any:
    with checks.untyped():
        return lens.mediate(
            checks.host(kind, family), episode(), ["lcgd"], lr=0.5,
            controls=("random", "shuffled", "oracle", "zero"), **OPTIONS,
        )  # fmt: skip


# -- one head at a time, by the model's own forward ------------------------------------------------


def margin_of(host: Host, tokens: list[int], gold: int, hooks: list[Any]) -> float:
    with torch.no_grad(), host.hooked(hooks):
        logits = checks.logits(host.model, torch.tensor([tokens]))[0, -1].float()
    words = torch.tensor([label[0] for label in LABELS])
    chosen = logits[words]
    others = [i for i in range(len(LABELS)) if i != gold]
    return float(chosen[gold] - chosen[others].mean())


def heads_of(host: Host, tokens: list[int], hooks: list[Any] | None = None) -> Tensor:
    """Head outputs z at the last token: [layer head d_head]."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def at(value: Tensor, hook: Any) -> None:
            kept[layer] = value[0, -1].reshape(host.n_heads, -1).clone()

        return at

    names = [(host.z_hook(layer), keep(layer)) for layer in range(host.n_layers)]
    margin_of(host, tokens, 0, [*(hooks or []), *names])
    return torch.stack([kept[layer] for layer in range(host.n_layers)])


def putting(host: Host, layer: int, head: int, z: Tensor) -> list[Any]:
    def put(value: Tensor, hook: Any) -> Tensor:
        shape = value.shape
        changed = value.clone().reshape(*shape[:2], host.n_heads, -1)
        changed[0, -1, head] = z
        return changed.reshape(shape)

    return [(host.z_hook(layer), put)]


@pytest.mark.parametrize(("kind", "family"), checks.pairs("llama", "gpt2"))
def test_every_effect_is_that_of_one_head_at_a_time(kind: str, family: str) -> None:
    host, shown = checks.host(kind, family), episode()
    result = mediated(kind, family)
    delta = lcgd(host, shown, lr=0.5)
    prompt, bos = list(shown.demonstrations.prompt()), shown.demonstrations.bos
    draw = result.draws[0]
    for index in (0, 3):
        query = shown.queries[index]
        alone, after = [bos, *query.content], [*prompt, *query.content]
        zs, icl = heads_of(host, alone), heads_of(host, after)
        ft = heads_of(host, alone, delta.hooks(host))
        base_zs = margin_of(host, alone, query.gold, [])
        base_icl = margin_of(host, after, query.gold, [])
        assert draw.margins["ZS"][index] == pytest.approx(base_zs, abs=1e-4)
        assert draw.margins["ICL"][index] == pytest.approx(base_icl, abs=1e-4)
        for layer, head in ((0, 1), (1, 2), (2, 3)):

            def replaced(z: Tensor, tokens: list[int]) -> float:
                hooks = putting(host, layer, head, z[layer, head])  # noqa: B023
                return margin_of(host, tokens, query.gold, hooks)  # noqa: B023

            gone = replaced(zs, after)
            expected = {
                ("ICL", "sufficiency"): replaced(icl, alone) - base_zs,
                ("ICL", "necessity"): base_icl - gone,
                ("lcgd", "kept"): replaced(ft, after) - gone,
            }
            for (label, effect), value in expected.items():
                found = draw.heads[label][effect][index, layer, head]
                assert found == pytest.approx(value, abs=2e-4), (label, effect, layer, head)


@BY_KIND
def test_visibility_is_the_partial_oracle_of_one_head(kind: str) -> None:
    host, shown = checks.host(kind, "llama"), episode()
    reader, gold = Reader(host, shown), torch.tensor(shown.gold)

    def margin(heads: Any) -> Tensor:
        scores = reader.ftzs(partial_oracle(host, shown, heads=heads)).label_scores
        right = scores.gather(1, gold[:, None])[:, 0]
        return right - (scores.sum(1) - right) / 2

    blind = margin("none")
    for layer, head in ((0, 0), (1, 3), (2, 2)):
        found = mediated(kind).draws[0].heads["ICL"]["visibility"][:, layer, head]
        assert np.allclose(found, margin([(layer, head)]) - blind, atol=1e-4)


# -- oracles -------------------------------------------------------------------------------------


@BY_KIND
def test_the_oracle_substitutes_every_head_and_zero_none(kind: str) -> None:
    result = mediated(kind)
    for label, share in (("oracle", 1.0), ("zero", 0.0)):
        found = result.map("substitution", label)
        assert np.isfinite(found.value).any()
        clear = np.abs(result.map("necessity").value) > 0.01  # beside which rounding is small
        assert np.allclose(found.value[clear & np.isfinite(found.value)], share, atol=1e-3)
    kept = result.draws[0].heads["zero"]["kept"]
    assert np.nanmax(np.abs(kept)) < 1e-6
    # The share exists where the interval of necessity excludes zero, and nowhere else.
    needed = result.map("necessity")
    excluded = (needed.low > 0) | (needed.high < 0)
    assert (np.isfinite(result.map("substitution", "oracle").value) == excluded).all()


def random_block(seed: int = 0) -> dict[str, Tensor]:
    """One attention layer without norm or MLP, its weights at random."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {
        "embed.W_E": (12, 16), "pos_embed.W_pos": (40, 16), "unembed.W_U": (16, 12),
        **{f"blocks.0.attn.W_{letter}": (3, 16, 6) for letter in "QKV"},
        "blocks.0.attn.W_O": (3, 6, 16),
    }  # fmt: skip
    return {name: 0.5 * torch.randn(size, generator=generator) for name, size in sizes.items()}


@BY_KIND
def test_in_one_attention_layer_direct_effect_is_total_effect(kind: str) -> None:
    model = crafted_model(random_block(), kind=kind)
    shown = lens.Episode.from_tokens(
        [[3, 9], [4, 10], [5, 11], [3, 9]], [[6, 3], [7, 5], [4]], [9, 10, 11], [0, 2, 1], bos=0
    )
    result = lens.mediate(model, shown, (), controls=(), **OPTIONS)
    own = result.draws[0].heads["ICL"]
    assert np.abs(own["sufficiency"]).max() > 0.1
    for name in ("necessity", "direct", ESTIMATED["sufficiency"], ESTIMATED["necessity"]):
        assert np.allclose(own[name], own["sufficiency"], atol=2e-4), name
    assert result.verification.necessity == pytest.approx(1.0)
    assert result.failures == {}


@BY_KIND
def test_in_a_world_of_one_learning_head_that_head_does_everything(kind: str) -> None:
    world = worlds.heads_world((0.0,), inert=1, labels=5, shows=2, kind=kind)
    result = lens.mediate(
        world.model,
        world.episode,
        ["gd"],
        settings={"gd": world.training},
        controls=("zero",),
        **OPTIONS,
    )
    needed = result.map("necessity").value
    gain = (result.draws[0].margins["ICL"] - result.draws[0].margins["ZS"]).mean()
    # Every other head writes the same with and without demonstrations: it has no effect to measure.
    assert (np.argwhere(np.isfinite(needed)) == [[1, 0]]).all()
    assert needed[1, 0] == pytest.approx(gain, rel=1e-3)
    assert result.map("necessity").undefined[0, 0] == len(world.episode.queries)
    assert result.map("substitution", "gd").value[1, 0] == pytest.approx(1.0, abs=1e-3)
    assert result.map("substitution", "zero").value[1, 0] == pytest.approx(0, abs=1e-5)
    assert result.top(1)[["layer", "head"]].values.tolist() == [[1, 0]]
    assert result.curve().value[:2] == pytest.approx([0.0, 1.0], abs=1e-3)
    # Gradient descent also moves the values of the head that demonstrations leave alone.
    assert result.curve("gd").value[[1, -1]] == pytest.approx([1.0, 2.0], abs=1e-3)
    assert result.map("direct").value[1, 0] == pytest.approx(gain, rel=1e-3)


def test_grouped_queries_have_effects_of_their_own_and_share_a_key_value_head() -> None:
    kind = checks.kinds()[0]
    result = mediated(kind)
    host = checks.host(kind, "llama")
    frame = result.heads(hypothesis="lcgd")
    assert result.group == host.n_heads // host.n_key_value_heads == 2
    assert frame["kv_head"].tolist() == [head // 2 for head in frame["head"]]
    pairs = result.map("necessity").value.reshape(host.n_layers, host.n_key_value_heads, 2)
    assert (np.abs(pairs[..., 0] - pairs[..., 1]) > 1e-3).any()


# -- curves, statistics, tables ------------------------------------------------------------------


def test_labels_count_alike_in_the_ranking_of_heads() -> None:
    """Nine queries of one label and three of the other: the head that both need comes first."""
    gold = np.array([0] * 9 + [1] * 3)
    effects = np.zeros((12, 1, 3))
    effects[:, 0, 0] = 0.4  # whatever is asked
    effects[:9, 0, 1], effects[9:, 0, 1] = 1.0, -1.0  # a move towards one label
    effects[0, 0, 2] = np.nan
    assert ranking_of(effects, gold) == [0, 1, 2]
    assert effects[:, 0, 1].mean() > effects[:, 0, 0].mean()


def test_the_curves_ask_half_of_each_labels_queries() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    shown = checks.episode(queries=8)
    turns = [replace(query, gold=place % 2) for place, query in enumerate(shown.queries)]
    result = lens.mediate(
        host, replace(shown, queries=tuple(turns)), (), controls=(), visibility=False, **OPTIONS
    )
    asked = [turns[query].gold for query in result.draws[0].curve_queries]
    assert sorted(asked) == [0, 0, 1, 1]


def test_a_substitution_over_draws_is_a_ratio_of_means() -> None:
    """One draw in which the head is hardly needed does not rule the value."""
    needed = np.array([1.2, 1.0, 0.9, 1.1, 0.12, 1.3])
    kept = np.array([0.5, 0.4, 0.4, 0.5, 0.4, 0.6])
    tops, bottoms = ([np.full((4, 1, 1), each) for each in per_draw] for per_draw in (kept, needed))
    found = ratio_map(tops, bottoms, np.array([[True]]), Resampling(0.95, 10, 0))
    ratio, low, high = (float(each) for each in ratio_t(kept, needed))
    assert found.value.item() == pytest.approx(kept.sum() / needed.sum()) == pytest.approx(ratio)
    assert [found.low.item(), found.high.item()] == pytest.approx([low, high])


def test_shares_over_draws_are_of_means() -> None:
    assert share_of_means([0.5, 0.4], [1.0, 0.1]) == pytest.approx(0.9 / 1.1)
    found = share_of_means([[0.0, 1.0], [0.0, 3.0]], [1.0, 3.0])
    assert found.tolist() == [0.0, 1.0]
    assert np.isnan(share_of_means([0.5], [0.0]))


@BY_KIND
def test_all_heads_are_all_of_icl_where_positions_are_relative(kind: str) -> None:
    curve = mediated(kind).curve()
    assert curve.heads[0] == 0
    assert curve.heads[-1] == 12
    assert curve.value[0] == pytest.approx(0, abs=1e-4)
    assert curve.value[-1] == pytest.approx(1, abs=1e-3)
    assert mediated(kind).curve("zero").area == pytest.approx(0, abs=1e-4)
    learned = mediated(kind, "gpt2").curve().value  # absolute positions are no head's
    assert abs(learned[-1] - 1) > 1e-2


def test_heads_of_noise_survive_correction_no_more_often_than_allowed() -> None:
    from iclgd_lens.mediation.head_maps import mean_map
    from iclgd_lens.results.aggregates import Resampling

    how, generator = Resampling(resamples=20), np.random.default_rng(0)
    found = [
        bool((mean_map([generator.normal(size=(8, 4, 4))], how).p <= 0.05).any()) for _ in range(60)
    ]
    assert sum(found) <= 8  # of 60 at 5 %: more than 8 has a probability below .002
    one = generator.normal(size=(12, 4, 4))
    one[:, 2, 1] += 3
    assert np.argwhere(mean_map([one], how).p <= 0.05).tolist() == [[2, 1]]


def test_a_move_towards_labels_is_no_effect() -> None:
    """The same on every query, it adds up to nothing over gold labels, however many each has."""
    from iclgd_lens.mediation.head_maps import balanced

    gold = np.array([0] * 9 + [1] * 4 + [2] * 3)
    towards = np.array([0.9, -0.2, 0.1])
    moved = np.stack(
        [(towards[g] - (towards.sum() - towards[g]) / 2) * np.ones((2, 3)) for g in gold]
    )
    assert np.abs(moved.mean(0)).min() > 0.1
    assert np.allclose(balanced(moved, gold).mean(0), 0, atol=1e-12)
    # Undefined queries change the weights of the others; a label without any is left out.
    moved[[0, 1, 9], 0, 0] = np.nan
    assert np.nanmean(balanced(moved, gold)[:, 0, 0]) == pytest.approx(0, abs=1e-12)
    moved[gold == 2, 0, 1] = np.nan
    means = [moved[gold == label, 0, 1].mean() for label in (0, 1)]
    assert np.nanmean(balanced(moved, gold)[:, 0, 1]) == pytest.approx(np.mean(means))
    even = np.array([0, 1, 2, 0, 1, 2])
    values = np.random.default_rng(0).normal(size=(6, 2))
    assert np.allclose(balanced(values, even), values)


def test_draws_that_ask_the_same_queries_are_not_enough() -> None:
    """What fits these queries fits them in every draw: six draws agree, the queries do not."""
    from iclgd_lens.mediation.head_maps import mean_map
    from iclgd_lens.results.aggregates import Resampling

    generator = np.random.default_rng(1)
    same = generator.normal(size=(16, 4, 4))
    draws = [same + 0.05 * generator.normal(size=same.shape) for _ in range(6)]
    how = Resampling(resamples=20)
    assert (mean_map(draws, how).p > 0.05).all()
    moved = [each + 2.5 * (np.arange(4) == 3) for each in draws]
    sure = mean_map(moved, how).p <= 0.05
    assert sure[:, 3].all()
    assert not sure[:, :3].any()


@pytest.mark.parametrize("closed", [False, True])
def test_what_is_said_follows_the_gate(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that hinder are not called necessary, and without a gate nothing is."""
    from iclgd_lens.mediation import display

    result = mediated(checks.kinds()[0])
    gate = result.comparison.gate()
    monkeypatch.setattr(type(gate), "learns", property(lambda self: not closed))
    value = np.array([[3.0, -2.0, 1.0, 0.5, 0.6]])  # the last one's interval holds zero
    p = np.array([[0.01, 0.01, 0.2, np.nan, 0.01]])
    found = result.map("necessity")
    fake = type(found)(value, value - 1, value + 1, p, np.ones((1, 5), int), np.zeros((1, 5), int))
    kept = type(found)(value / 2, value, value, p, np.ones((1, 5), int), np.zeros((1, 5), int))
    maps = {"necessity": fake, "kept": kept}
    monkeypatch.setattr(type(result), "map", lambda self, effect, label="ICL": maps[effect])
    said = display.ShownMediation.sentence(result)
    if closed:
        assert "necessary" not in said.split("verified")[0]
        assert "not called in-context learning" in said
    else:
        assert "1 of 5 heads are necessary and 1 hinder" in said
        assert "over queries of these demonstrations" in said
        assert "keeps 50% of the sum of their effects (LCGD" in said
        monkeypatch.setattr(type(result), "failures", {"random[lcgd]": "no directions"})
        assert "; not measured: LCGD, random" in display.ShownMediation.sentence(result)


def test_the_frame_has_the_comparisons_columns_and_tells_what_p_values_count() -> None:
    result = mediated(checks.kinds()[0])
    frame = result.frame()
    assert list(frame.columns) == [*result.comparison.frame().columns, "p_corrected"]
    assert set(frame["hypothesis"]) == {
        "ICL", "lcgd", "random[lcgd]", "lcgd@shuffled", "oracle", "zero"
    }  # fmt: skip
    assert frame.attrs["units"] == "queries of these demonstrations"
    assert frame.attrs["verification"]["heads"]
    table = result.heads(hypothesis="lcgd")
    assert {"necessity", "p_corrected", "substitution", "SimAOU_label"} <= set(table)
    by_hand = result.comparison.tensor("SimAOU_label", "lcgd", by="head").nanmean(0)
    assert np.allclose(table["SimAOU_label"], by_hand.flatten(), atol=1e-6, equal_nan=True)
    assert result.top(3)["necessity"].tolist() == sorted(table["necessity"])[::-1][:3]
    agreement = result.agreement(4).set_index("hypothesis")
    assert agreement.loc["oracle", "spearman"] == pytest.approx(1)
    assert agreement.loc["oracle", "margin_gain"] == pytest.approx(1, abs=1e-4)
    assert "verified heads" in repr(result)


def test_several_draws_have_intervals_over_draws() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    draws = [episode(seed=seed) for seed in range(2)]
    result = lens.mediate(host, draws, (), controls=(), visibility=False, curves=False, **OPTIONS)
    gold = result.comparison.parts[0].gold
    assert len(set(np.bincount(gold))) > 1, "labels are asked unequally often"
    parts = [
        np.mean([draw.heads["ICL"]["necessity"][gold == label].mean(0) for label in set(gold)], 0)
        for draw in result.draws
    ]
    assert np.allclose(result.map("necessity").value, np.mean(parts, 0), atol=1e-6)
    with pytest.raises(ComparisonError, match="not measured"):
        result.curve()


def test_where_not_all_heads_are_exact_attribution_is_left_and_said_so() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    result = lens.mediate(
        host, episode(), (), controls=(), exact=False, visibility=False, **OPTIONS
    )
    exact = np.isfinite(result.map("necessity").value)
    assert {tuple(at) for at in np.argwhere(exact)} == set(result.exact or ())
    assert np.isfinite(result.map(ESTIMATED["necessity"]).value).all()
    assert result.curve().value[-1] == pytest.approx(1, abs=1e-3)


def test_no_pass_holds_more_tokens_than_asked_and_a_differentiated_one_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = checks.host(checks.kinds()[0], "llama")
    sizes: dict[bool, set[int]] = {True: set(), False: set()}
    run = type(host).run

    def counting(self: Host, tokens: Tensor, prefix: Any = None, *rest: Any, **named: Any) -> Any:
        shared = 0 if prefix is None else prefix.length
        if len(tokens) > 1:  # one row always runs
            sizes[torch.is_grad_enabled()].add(tokens.shape[0] * (shared + tokens.shape[1]))
        return run(self, tokens, prefix, *rest, **named)

    shown = episode()
    readouts = Reader(host, shown)
    frozen_readouts = Frozen.read(host, shown, readouts.zs(), readouts.icl(), None)
    monkeypatch.setattr(type(host), "run", counting)
    most = 4 * (len(shown.demonstrations.prompt()) + 12)
    Measuring(host, shown, frozen_readouts, {}, most).measure(Wanted(True, True, None))
    assert 1 < max(sizes[False]) <= most
    assert not sizes[True] or max(sizes[True]) <= most // 4
    sizes[True].clear()
    assert Measuring(host, shown, frozen_readouts, {}, 16 * most).attributed
    assert most // 4 < max(sizes[True]) <= 4 * most


# -- what is refused, what is untouched ------------------------------------------------------------


@BY_KIND
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = checks.fresh(kind, "llama")
    checks.logits(model, families.tokens(4))  # a bridge sets itself up when it first runs
    before = checks.photograph(model)
    lens.mediate(model, episode(queries=2), ["lcgd"], lr=0.1, controls=(), **OPTIONS)
    before.assert_same(model)


def test_what_cannot_be_mediated_is_refused_in_one_line() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    with pytest.raises(ControlError, match="untrained"):
        lens.mediate(host, episode(), controls=("untrained",))
    with pytest.raises(EpisodeError, match="same token"):
        lens.mediate(host, episode(labels=((5,), (6, 9), (6, 8))), (), controls=())
    result = mediated(checks.kinds()[0])
    with pytest.raises(ComparisonError, match="Did you mean 'necessity'"):
        result.map("necesity")
    with pytest.raises(ComparisonError, match="no 'gd'"):
        result.map("kept", "gd")
    with pytest.raises(ComparisonError, match="choose heads by"):
        result.top(by="nonsense")


def test_label_words_of_several_tokens_count_by_their_first() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    options: dict[str, Any] = {**OPTIONS, "controls": (), "visibility": False, "curves": False}
    one = lens.mediate(host, episode(), (), **options)
    assert np.isfinite(one.map("necessity").value).any()
    long = lens.mediate(
        host, episode(labels=((5,), (6, 9), (8,))), {"same": Intervention()}, **options
    )
    assert np.isfinite(long.map("necessity").value).any()
    assert np.isnan(long.draws[0].margins["same"]).all()


def test_a_mediation_is_kept_whole_and_read_without_loss(tmp_path: Path) -> None:
    found = mediated("hooked") if "hooked" in checks.kinds() else mediated("bridge")
    file = tmp_path / "heads.safetensors"
    found.save(file)
    again = lens.Mediation.load(file)
    assert repr(again) == repr(found)
    assert again.frame().equals(found.frame())
    assert again.agreement().equals(found.agreement())
    assert again.comparison.frame().equals(found.comparison.frame())
    assert np.array_equal(again.curve("lcgd").value, found.curve("lcgd").value)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    for write, name in ((found.save, "heads.pt"), (found.to_parquet, "heads.csv")):
        with pytest.raises(ComparisonError, match=f"{name} ends in"):
            write(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_file_that_is_no_mediation_is_refused_in_one_line(tmp_path: Path) -> None:
    found = mediated(checks.kinds()[0])
    file = tmp_path / "heads.safetensors"
    found.save(file)
    whole = file.read_bytes()
    for data, said in (
        (whole[:-3], "truncated or damaged"),
        (whole[:-4] + b"\0\0\0?", "was changed"),
        (b"", "truncated or damaged"),
    ):
        file.write_bytes(data)
        with pytest.raises(ComparisonError, match=said):
            lens.Mediation.load(file)
    found.comparison.save(file)
    with pytest.raises(ComparisonError, match="another kind"):
        lens.Mediation.load(file)
    with pytest.raises(ComparisonError, match="cannot be read"):
        lens.Mediation.load(tmp_path / "none.safetensors")


def test_the_room_shows_what_it_measures() -> None:
    assert Mediation is lens.Mediation
    result = mediated(checks.kinds()[0])
    assert result.heatmap().data[0].type == "heatmap"
    assert result.heatmap("substitution", "lcgd").layout.title.text.startswith("substitution")
    assert len(result.set_curves().data) == len(result.labels)
    assert len(result.scatter().data) == len(result.labels)  # and the line where all is kept
    assert "<table" in result._repr_html_()


def test_correlations_are_of_heads_that_have_both_and_vary() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 4, 6))
    a[0, 0], b[1, 1] = np.nan, np.inf
    known = np.isfinite(a) & np.isfinite(b)
    ranks = [each[known].argsort().argsort() for each in (a, b)]
    assert pearson(a, b) == pytest.approx(np.corrcoef(a[known], b[known])[0, 1], abs=1e-12)
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    # What is the same in all heads correlates with nothing, whatever its mean is rounded to.
    same = np.full_like(a, 0.1)
    assert same[known][:3].std() > 0
    for found in (
        pearson(same[:1, :4], b[:1, :4]),
        spearman(same, b),
        pearson(a[:1, :3], b[:1, :3]),
    ):
        assert np.isnan(found)
