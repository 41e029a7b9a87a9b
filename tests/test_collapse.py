"""The collapse ratio: constructed classes, restated in NumPy, and read beside all other scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import iclgd_lens as lens
from iclgd_lens.bench import digests
from iclgd_lens.bench.digests import core_digest
from iclgd_lens.collapse import ResidualReader, ResidualReadout, collapse_ratio
from iclgd_lens.errors import DivergedError, LensError
from iclgd_lens.host import Hook, Host
from iclgd_lens.intervention import Intervention
from iclgd_lens.readout.reader import Reader
from iclgd_lens.scores import LABEL_COLLAPSE, SCORES
from tests import checks

SMALL: dict[str, Any] = {"realisations": 1, "resamples": 20}
LONG = ((5,), (6, 8))


@pytest.fixture(autouse=True)
def untyped() -> Iterator[None]:
    with checks.untyped():
        yield


def restated(residual: Any, gold: Any) -> Any:
    """The ratio of traces of covariances, by its definition, one layer and class at a time."""
    rows, labels = np.asarray(residual, np.float64), np.asarray(gold)
    found: list[float] = []
    for layer in range(rows.shape[1]):
        x = rows[:, layer]
        within = between = 0.0
        for label in np.unique(labels):
            own = x[labels == label]
            share = len(own) / len(x)
            within += share * np.trace(np.atleast_2d(np.cov(own.T, bias=True)))
            between += share * ((own.mean(0) - x.mean(0)) ** 2).sum()
        found.append(between / within)
    return np.array(found)


# -- the formula ---------------------------------------------------------------------------------


def test_the_ratio_is_that_of_its_definition_whatever_the_classes_sizes() -> None:
    draw = np.random.default_rng(0)
    residual = draw.normal(size=(17, 5, 7)) + 100.0
    gold = np.array([0] * 3 + [2] * 9 + [3] * 5)
    residual[gold == 2, 1:] += 2.0
    residual = residual.astype(np.float32)
    found = collapse_ratio(torch.tensor(residual), torch.tensor(gold))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, restated(residual, gold), rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1.0, 6.0])
def test_isotropic_classes_a_known_distance_apart_have_the_known_ratio(shift: float) -> None:
    # Layers are repetitions. The means of n/2 queries differ by chance as well as by the shift.
    queries, layers, width, spread = 24, 4000, 8, 1.5
    draw = np.random.default_rng(1)
    gold = np.arange(queries) % 2
    residual = draw.normal(scale=spread, size=(queries, layers, width))
    residual[gold == 1, :, 0] += shift
    noise = width * spread**2 / queries
    between, within = shift**2 / 4 + noise, noise * (queries - 2)
    found = collapse_ratio(torch.tensor(residual), torch.tensor(gold))
    assert float(found.mean()) == pytest.approx(between / within, rel=0.03)
    if shift == 0.0:
        assert float(found.mean()) == pytest.approx(1 / (queries - 2), rel=0.03)


def test_scale_place_and_rotation_change_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    residual = torch.randn(10, 3, 6, generator=draw, dtype=torch.float64)
    gold = torch.arange(10) % 2
    turn = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64)).Q
    moved = 7.0 * residual @ turn + torch.randn(6, generator=draw, dtype=torch.float64)
    assert torch.allclose(collapse_ratio(moved, gold), collapse_ratio(residual, gold), rtol=1e-5)


def test_it_is_undefined_where_a_class_has_no_variance() -> None:
    residual = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0))
    nothing = torch.full((2,), torch.nan)

    def is_nan(values: Tensor, gold: list[int]) -> list[bool]:
        found = collapse_ratio(values, torch.tensor(gold))
        assert found.shape == nothing.shape
        return found.isnan().tolist()

    assert is_nan(residual, [0, 0, 0, 1, 1, 1]) == [False, False]
    assert is_nan(residual, [0, 0, 0, 0, 0, 1]) == [True, True]  # one query of a class
    assert is_nan(residual, [0, 0, 0, 0, 0, 0]) == [True, True]  # one class
    same = residual[[0, 0, 0, 1, 1, 1]].clone()
    assert is_nan(same, [0, 0, 0, 1, 1, 1]) == [True, True]  # no variance within any class
    rounding = same * (1 + 1e-7 * torch.randn(6, 2, 4))
    assert is_nan(rounding, [0, 0, 0, 1, 1, 1]) == [True, True]
    broken = residual.clone()
    broken[2, 1, 0] = torch.inf
    assert is_nan(broken, [0, 0, 0, 1, 1, 1]) == [False, True]
    with pytest.raises(LensError, match="one label per query"):
        collapse_ratio(residual, torch.tensor([0, 1]))


# -- what is read --------------------------------------------------------------------------------


def streams(host: Host, episode: Any, prompt: tuple[int, ...]) -> Tensor:
    """The residual stream after each block at the last token, each query in a pass of its own."""
    found: list[Tensor] = []
    for query in episode.queries:
        seen: list[Tensor] = []

        def keep(activation: Tensor, hook: Any, seen: list[Tensor] = seen) -> None:
            seen.append(activation[0, -1].float().clone())

        hooks: list[Hook] = [(host.block_output_hook(i), keep) for i in range(host.n_layers)]
        with host.hooked(hooks), torch.no_grad():
            host.run(host.tensor((*prompt, *episode.readout_tokens(query))))
        found.append(torch.stack(seen))
    return torch.stack(found)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("llama", "gpt2"))
def test_it_is_that_of_passes_of_their_own(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode(queries=6)
    found = lens.compare(
        host, episode, ["oracle"], controls="shuffled", collapse=True, tok2attn_queries=0, **SMALL
    )
    shown = episode.demonstrations
    assert shown.bos is not None
    prompts = {"ZS": (shown.bos,), "ICL": shown.prompt(), "oracle": shown.prompt()}
    for name, prompt in prompts.items():
        wanted = restated(streams(host, episode, prompt), episode.gold)
        measured = found.tensor(LABEL_COLLAPSE, name)
        assert measured.shape == (6, host.n_layers)
        np.testing.assert_allclose(measured, np.tile(wanted, (6, 1)), rtol=1e-3)
    assert (found.tensor(LABEL_COLLAPSE, "oracle@shuffled") >= 0).all()


class _AtTheEnd(Intervention):
    """Acts at the last position: of rows that were padded, another one than the readout token."""

    def hooks(self, host: Host) -> list[Hook]:  # type: ignore[override]
        def double(activation: Tensor, hook: Any) -> Tensor:
            changed = activation.clone()
            changed[:, -1] *= 2
            return changed

        return [(host.block_output_hook(0), double)]


@pytest.mark.parametrize("kind", checks.kinds())
def test_nothing_else_changes_where_it_is_asked_for(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(labels=LONG, queries=6)
    rules = {"lcgd": "lcgd", "oracle": "oracle", "end": _AtTheEnd()}
    options: dict[str, Any] = {"controls": ["random", "shuffled"], "lr": 0.5, **SMALL}
    plain = lens.compare(host, episode, rules, **options).values
    asked = lens.compare(host, episode, rules, collapse=True, **options).values
    assert list(plain) == list(asked)
    for name, scores in plain.items():
        assert LABEL_COLLAPSE not in scores
        assert set(asked[name]) == {*scores, LABEL_COLLAPSE}
        for score, values in scores.items():
            # Where the residual stream is kept the last MLP runs at every token, else at one.
            torch.testing.assert_close(
                asked[name][score], values, rtol=1e-5, atol=1e-6, equal_nan=True,
                msg=f"{name}, {score}",
            )  # fmt: skip


def test_what_failed_is_undefined_and_never_missing() -> None:
    def failing(host: Any, episode: Any) -> Any:
        raise DivergedError("nowhere")

    found = lens.compare(
        checks.host(checks.kinds()[0], "llama"), checks.episode(), {"mine": failing},
        controls=(), collapse=True, **SMALL,
    )  # fmt: skip
    assert found.tensor(LABEL_COLLAPSE, "mine").isnan().all()
    line = found.frame().query(f"score == '{LABEL_COLLAPSE}' and hypothesis == 'ICL'")
    # One draw has one value, not one a query: no interval.
    assert line[line["level"] == "all"]["ci_low"].isna().all()
    assert "collapse:collapse_ratio" in found.origin(LABEL_COLLAPSE, "ICL")


def test_zs_that_was_read_without_the_residual_stream_is_read_again() -> None:
    host, episode = checks.host(checks.kinds()[0], "llama"), checks.episode()
    known = Reader(host, episode).zs()
    with_it = ResidualReader(host, episode).zs()
    assert isinstance(with_it, ResidualReadout)
    assert torch.equal(known.attention_output, with_it.attention_output)
    options: dict[str, Any] = {"controls": (), "tok2attn_queries": 0, "collapse": True, **SMALL}
    values = [
        lens.compare(host, episode, ["oracle"], zs=zs, **options).values["ZS"][LABEL_COLLAPSE]
        for zs in (None, known, with_it)
    ]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


def test_a_score_that_is_asked_for_is_in_no_cell_of_a_benchmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = SCORES[LABEL_COLLAPSE]
    assert entry.asked
    assert (entry.function, entry.statistic, entry.fact) == ("", None, None)
    before = core_digest()
    others = {name: score for name, score in SCORES.items() if name != LABEL_COLLAPSE}
    monkeypatch.setattr(digests, "SCORES", others)
    assert core_digest() == before


def test_a_sweep_measures_it_at_every_value_and_reads_zs_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    own = Reader.zs

    def counted(self: Reader) -> Any:
        read.append(1)
        return own(self)

    monkeypatch.setattr(Reader, "zs", counted)
    found = lens.sweep(
        checks.host(checks.kinds()[0], "llama"), checks.episode(), "order", [0, 1],
        hypotheses=["lcgd"], lr=0.5, controls=(), collapse=True, **SMALL,
    )  # fmt: skip
    assert len(read) == 1
    curve = found.curve(LABEL_COLLAPSE).set_index(["hypothesis", "value_of_factor"])["value"]
    assert set(curve.index.get_level_values(0)) == {"ZS", "ICL", "lcgd"}
    assert curve["ZS", 0] == curve["ZS", 1]
    assert curve["ICL", 0] != curve["ICL", 1]


def test_other_networks_are_asked_as_many_queries() -> None:
    """The score's null is (C - 1) / (n - C): of fewer queries networks would read more."""
    host, shown = checks.host(checks.kinds()[0], "gpt2"), checks.episode(queries=6)
    options: dict[str, Any] = {
        "controls": "untrained", "twins": 1, "twin_queries": 2, "tok2attn_queries": 0, **SMALL
    }  # fmt: skip
    rule = lens.get_hypothesis("gd")
    for collapse, asked in ((False, 2), (True, 6)):
        found = lens.compare(host, shown, {"gd": rule}, lr=0.1, collapse=collapse, **options)
        assert [len(part.gold) for part in found.parts if part.network == "untrained"] == [asked]
