"""What an intervention leaves as it is has no direction: rounding is no change of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclgd_lens.episode import Episode, EpisodeWarning
from iclgd_lens.host import Hook, Host
from iclgd_lens.hypotheses.partial_oracle import partial_oracle
from iclgd_lens.intervention import Batch, Intervention
from iclgd_lens.measures.readings import Frozen, Readings
from iclgd_lens.measures.score_functions import (
    measured,
    sim_am_label_centred,
    sim_aou_label_centred,
)
from iclgd_lens.readout.reader import Reader
from tests import checks

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
Q, L = 12, 3


def without_bos() -> Episode:
    """Queries of unequal length and no BOS: a prefix and padding change the shapes of passes."""
    draw = np.random.default_rng(0)

    def content() -> list[int]:
        return draw.integers(7, 101, size=draw.integers(3, 7)).tolist()

    return Episode.from_tokens(
        [[*content(), 5 + i % 2] for i in range(4)], [content() for _ in range(Q)], [[5], [6]],
        [i % 2 for i in range(Q)], bos=None, separator=4, learning_rate=0.05,
    )  # fmt: skip


class LastLayer(Intervention):
    """Acts in the last layer alone, and is told nothing of its rows: never padded."""

    def hooks(self, host: Host) -> Sequence[Hook]:  # type: ignore[override]
        return [(host.z_hook(L - 1), lambda z, hook: z * 1.5)]


class LastLayerTold(Intervention):
    """The same, told of its rows: read in the passes that ZS is read in."""

    def hooks(self, host: Host, batch: Batch | None = None) -> Sequence[Hook]:  # type: ignore[override]
        return [(host.z_hook(L - 1), lambda z, hook: z * 1.5)]


def readings(kind: str, change: Any) -> Readings:
    host, episode = checks.host(kind, "llama"), without_bos()
    reader = Reader(host, episode)
    frozen = Frozen.read(host, episode, reader.zs(), reader.icl(), None)
    return Readings(frozen, reader.ftzs(change(host, episode)))


def defined(scores: dict[str, Tensor], name: str) -> list[int]:
    found = scores[name].isfinite()
    return found.flatten(2).any(-1).sum(0).tolist() if found.ndim > 2 else found.sum(0).tolist()


EVERY = ("SimAOU", "SimAOU/head", "SimAM", "SimAM/head")
OF_CHANGES = ("SimAOU_common", "SimAOU_centred", "SimAOU_mismatched")


@BY_KIND
def test_heads_that_see_no_demonstrations_change_nothing(kind: str) -> None:
    found = readings(kind, lambda host, episode: partial_oracle(host, episode, heads=[]))
    same = [torch.equal(found.zs.attention_output, found.ft.attention_output), found.is_read_as_zs]
    assert same == [False, False], "rounding is what this test is about"
    scores = measured(found)
    for name in (*EVERY, *OF_CHANGES):
        assert defined(scores, name) == [0] * L, name
    assert not scores["change_norms"][:, 1].any()


@BY_KIND
def test_layers_before_the_first_head_that_sees_them_have_no_score(kind: str) -> None:
    found = readings(kind, lambda host, episode: partial_oracle(host, episode, heads=[(2, 1)]))
    scores = measured(found)
    for name in ("SimAOU", "SimAOU/head", *OF_CHANGES):
        assert defined(scores, name) == [0, 0, Q], name
    assert bool((scores["change_norms"][:, 1] > 0).all())


@BY_KIND
@pytest.mark.parametrize("change", [LastLayer, LastLayerTold])
def test_a_change_of_the_last_layer_is_scored_there_alone(
    kind: str, change: type[Intervention]
) -> None:
    found = readings(kind, lambda host, episode: change())
    assert found.is_read_as_zs == (change is LastLayerTold)
    scores = measured(found)
    for name in ("SimAOU", "SimAOU/head", *OF_CHANGES):
        assert defined(scores, name) == [0, 0, Q], name
    assert defined(scores, "SimAM") == [0, 0, 0], "no score of attention is changed"


@BY_KIND
def test_a_tiny_update_that_is_read_as_zs_is_read_keeps_its_direction(kind: str) -> None:
    """Below what rounding would move other batches by: it is the update's own, to the bit."""

    class Tiny(Intervention):
        def hooks(self, host: Host, batch: Batch | None = None) -> Sequence[Hook]:  # type: ignore[override]
            return [(host.z_hook(L - 1), lambda z, hook: z * (1 + 2e-6))]

    found = readings(kind, lambda host, episode: Tiny())
    assert found.is_read_as_zs
    assert defined(measured(found), "SimAOU/head") == [0, 0, Q]


def test_a_pass_that_overflowed_has_no_size_of_its_change() -> None:
    found = readings(checks.kinds()[0], lambda host, episode: LastLayerTold())
    whole = measured(found)["change_norms"]
    lost = found.icl.attention_output.clone()
    lost[3, 1] = torch.nan
    icl = replace(found.icl, attention_output=lost)
    sizes = measured(replace(found, frozen=replace(found.frozen, icl=icl)))["change_norms"]
    assert sizes[:, 0].isnan().nonzero().flatten().tolist() == [3]
    rest = [query for query in range(Q) if query != 3]
    assert torch.equal(sizes[rest], whole[rest])
    assert torch.equal(sizes[3, 1], whole[3, 1])


def test_another_prefix_is_no_sliding_window(recwarn: pytest.WarningsRecorder) -> None:
    readings(checks.kinds()[0], lambda host, episode: partial_oracle(host, episode, heads=[(2, 1)]))
    assert not [each for each in recwarn if each.category is EpisodeWarning]


@pytest.mark.parametrize("which", ["icl", "ft"])
def test_a_query_without_an_effect_of_labels_is_in_no_mean(which: str) -> None:
    """The others' centred contrasts are what they are without it."""
    kind = checks.kinds()[0]
    found = readings(kind, lambda host, episode: LastLayer())
    generator = torch.Generator().manual_seed(0)

    def moved(readout: Any) -> Any:
        def noise(part: Tensor) -> Tensor:
            return part + 0.1 * torch.randn(part.shape, generator=generator)

        return replace(
            readout, attention_output=noise(readout.attention_output), scores=noise(readout.scores)
        )

    icl, wrong, ft, changed = (moved(found.icl) for _ in range(4))
    lame = {"icl": (icl, wrong), "ft": (ft, changed)}[which]
    for part in ("attention_output", "scores"):
        getattr(lame[0], part)[0] = getattr(lame[1], part)[0]
    frozen = replace(
        found.frozen, icl=icl, icl_shuffled=wrong, lengths=torch.ones(Q, dtype=torch.long)
    )
    whole = Readings(frozen, ft, changed)

    def rest(readout: Any) -> Any:
        parts = ("attention_output", "z", "scores", "label_scores")
        return replace(readout, **{name: getattr(readout, name)[1:] for name in parts})

    less = replace(
        frozen, zs=rest(frozen.zs), icl=rest(icl), icl_shuffled=rest(wrong), gold=frozen.gold[1:],
        lengths=frozen.lengths[1:],
    )  # fmt: skip
    fewer = Readings(less, rest(ft), rest(changed))
    for score in (sim_aou_label_centred, sim_am_label_centred):
        one, other = score(whole), score(fewer)
        assert one is not None
        assert other is not None
        assert bool(one[0].isnan().all())
        torch.testing.assert_close(one[1:], other)
