"""Each score's way from the readings to its formula: the functions that `scores.SCORES` names.

Each takes `Readings` and returns [query], [query layer] or [query layer head], NaN where the score
does not exist, or None where it was not measured.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.measures import label_effects, similarity
from iclgd_lens.measures.own_scores import own_score
from iclgd_lens.measures.readings import Frozen, Readings, labels_matter, where_labels_matter
from iclgd_lens.readout.reader import Readout
from iclgd_lens.registry import resolve
from iclgd_lens.scores import CHANGE_NORMS, KL_MOMENTS, LABEL_SCORES, RECOVERY_MOMENTS, SCORES


def measured(readings: Readings, failures: dict[str, str] | None = None) -> dict[str, Tensor]:
    """Every score of one subject, by name, and by "name/head" where it exists for heads.

    Args:
        readings: What the scores look at.
        failures: Where errors of users' own scores are recorded, by the score's name.

    Raises:
        ScoreError: A user's own score returned something of another shape than its level needs, or
            raised where nothing is recorded.
    """
    found: dict[str, Tensor | None] = {}
    for name, score in SCORES.items():
        if not score.function or (score.needs and readings.pairs is None):
            continue
        if not score.is_built_in:
            found |= own_score(score, readings, failures)
            continue
        found[name] = resolve(score.function)(readings)
        if score.by_head is not None:
            found[f"{name}/head"] = resolve(score.by_head)(readings)
    found |= facts(readings)
    return {name: value.float().cpu() for name, value in found.items() if value is not None}


def facts(readings: Readings) -> dict[str, Tensor | None]:
    """Per-query facts that scores with a statistic follow from; see `scores.FACTS`."""
    zs, icl, ft = (each.label_scores for each in (readings.zs, readings.icl, readings.ft))
    divergences = [similarity.label_kl(icl, each) for each in (ft, zs)]
    return {
        LABEL_SCORES: ft,
        RECOVERY_MOMENTS: similarity.recovery_moments(zs, icl, ft),
        KL_MOMENTS: torch.stack(divergences, dim=-1),
        CHANGE_NORMS: change_norms(readings),
    }


def change_norms(readings: Readings) -> Float[Tensor, "query 2"]:
    """How large ICL's change of the attention output is, and the hypothesis's."""
    # What changes nothing has no direction, and the size 0.
    both = (
        readings.frozen.change.masked_fill(readings.frozen.same_outputs[..., None], 0.0),
        readings.change.masked_fill(readings.still_outputs[..., None], 0.0),
    )
    return torch.stack([each.square().sum(-1).mean(-1).sqrt() for each in both], dim=-1)


def measured_setting(frozen: Frozen, readout: Readout) -> dict[str, Tensor]:
    """What is said of a setting of the frozen model itself: its answers and its label effect."""
    readings = Readings(frozen, readout)
    found = {
        "accuracy": accuracy(readings),
        "KL_ICL": kl_icl(readings),
        LABEL_SCORES: readout.label_scores,
    }
    if readout is frozen.icl and frozen.icl_shuffled is not None:
        readings.ft_shuffled = frozen.icl_shuffled
        effect = label_effect(readings)
        if effect is not None:
            found["label_effect"] = effect
    return {name: value.float().cpu() for name, value in found.items()}


# -- attention outputs -----------------------------------------------------------------------------


def sim_aou(readings: Readings) -> Tensor:
    """SimAOU: [query layer]."""
    return readings.by_layer


def sim_aou_heads(readings: Readings) -> Tensor:
    """SimAOU of each head's output: [query layer head]."""
    frozen = readings.frozen
    found = similarity.sim_aou_heads(
        readings.zs.z, readings.icl.z, readings.ft.z, frozen.head_factor
    )
    return found.masked_fill(readings.same_z, torch.nan)


def sim_aou_label(readings: Readings) -> Tensor | None:
    """The label contrast of the attention output: [query layer]."""
    if readings.pairs is None:
        return None
    parts = [each.attention_output for each in readings.pairs]
    found = label_effects.label_contrast(*parts, normalize=readings.frozen.normalize)
    return where_labels_matter(found, parts, readings.frozen.dtype)


def sim_aou_label_heads(readings: Readings) -> Tensor | None:
    """The label contrast of each head's output: [query layer head]."""
    if readings.pairs is None:
        return None
    icl, wrong, ft, changed = parts = [each.z for each in readings.pairs]
    factor = readings.frozen.head_factor
    found = label_effects.label_contrast_heads(icl, wrong, ft, changed, factor)
    return where_labels_matter(found, parts, readings.frozen.dtype)


def sim_aou_label_centred(readings: Readings) -> Tensor | None:
    """The label contrast minus its mean over queries: [query layer]."""
    if readings.pairs is None:
        return None
    parts = [each.attention_output for each in readings.pairs]
    icl, wrong, ft, changed = parts
    still = ~labels_matter(parts, readings.frozen.dtype)[..., None]
    one, other = (
        label_effects.changes(before, after, normalize=readings.frozen.normalize)
        for before, after in ((wrong, icl), (changed, ft))
    )
    # Queries without an effect are in no mean.
    return label_effects.centred(
        one.masked_fill(still, torch.nan), other.masked_fill(still, torch.nan)
    )


def sim_aou_centred(readings: Readings) -> Tensor:
    """SimAOU of what differs between queries: [query layer]."""
    return label_effects.centred(readings.frozen.change, readings.change)


def sim_aou_common(readings: Readings) -> Tensor:
    """SimAOU of the two mean changes: [query layer], the same for each query."""
    return label_effects.common(readings.frozen.change, readings.change)


def sim_aou_mismatched(readings: Readings) -> Tensor:
    """SimAOU with other queries' changes: [query layer]."""
    return label_effects.mismatched(readings.frozen.change, readings.change)


def sim_aou_f2t(readings: Readings) -> Tensor:
    """SimAOU on the f2t subset: [query layer]."""
    return torch.where(readings.false_to_true[:, None], readings.by_layer, torch.nan)


def label_effect(readings: Readings) -> Tensor | None:
    """How much the labels matter to the changed model's attention output: [query layer]."""
    if readings.ft_shuffled is None:
        return None
    return label_effects.label_effect(
        readings.ft.attention_output, readings.ft_shuffled.attention_output,
        normalize=readings.frozen.normalize,
    )  # fmt: skip


# -- attention scores ------------------------------------------------------------------------------


def sim_am(readings: Readings) -> Tensor:
    """SimAM, mean over heads: [query layer]."""
    return readings.by_map.nanmean(-1)


def sim_am_heads(readings: Readings) -> Tensor:
    """SimAM: [query layer head]."""
    return readings.by_map


def sim_am_f2t(readings: Readings) -> Tensor:
    """SimAM on the f2t subset: [query layer]."""
    return torch.where(readings.false_to_true[:, None], sim_am(readings), torch.nan)


def sim_am_label(readings: Readings) -> Tensor | None:
    """The label contrast of attention scores, mean over heads: [query layer]."""
    return None if readings.label_heads is None else readings.label_heads.nanmean(-1)


def sim_am_label_heads(readings: Readings) -> Tensor | None:
    """The label contrast of attention scores: [query layer head]."""
    return readings.label_heads


def sim_am_label_centred(readings: Readings) -> Tensor | None:
    """The same minus its mean over queries of one length, mean over heads: [query layer]."""
    if readings.pairs is None:
        return None
    parts = [each.scores for each in readings.pairs]
    icl, wrong, ft, changed = (each.double().flatten(1, 2) for each in parts)
    still = ~labels_matter(parts, readings.frozen.dtype).flatten(1, 2)[..., None]
    found = label_effects.centred(
        (icl - wrong).masked_fill(still, torch.nan), (ft - changed).masked_fill(still, torch.nan),
        readings.frozen.lengths,
    )  # fmt: skip
    return found.view(parts[0].shape[:3]).nanmean(-1)


def tok2attn(readings: Readings) -> Tensor | None:
    """Tok2Attn, mean over heads: [first layer]."""
    tau = readings.rank_correlation
    return None if tau is None else tau.nanmean(-1)


def tok2attn_heads(readings: Readings) -> Tensor | None:
    """Tok2Attn: [first layer head]."""
    return readings.rank_correlation


# -- behaviour -------------------------------------------------------------------------------------


def accuracy(readings: Readings) -> Tensor:
    """Whether the changed model answers with the gold label: [query]."""
    prediction = similarity.label_prediction(readings.ft.label_scores)
    return similarity.accuracy(prediction, readings.gold)


def kl_icl(readings: Readings) -> Tensor:
    """KL divergence of the changed model's label distribution from ICL's, in nats: [query]."""
    return similarity.label_kl(readings.icl.label_scores, readings.ft.label_scores)


def rec2ftp(readings: Readings) -> Tensor:
    """Whether ICL, too, answers what the changed model newly answers: [query]."""
    return similarity.rec2ftp(*map(readings.right, (readings.zs, readings.icl, readings.ft)))
