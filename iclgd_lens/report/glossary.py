"""What the names in results mean, in a line each."""

from __future__ import annotations

from collections.abc import Iterable

from iclgd_lens.comparing import CONTROLS

SCORES = {
    "SimAOU": "cosine of two changes of the attention output, ICL − ZS and updated − ZS; 1 is the "
    "same direction, 0 unrelated",
    "SimAM": "cosine of two changes of the attention scores over the query's own tokens",
    "Tok2Attn": "Kendall's tau of attention to the demonstrations' tokens, in ICL and in the "
    "updated model",
    "KL_ICL": "divergence from ICL's distribution over the labels; lower is closer to ICL",
    "accuracy": "share of queries whose label is predicted",
    "Rec2FTP": "of the queries that ZS gets wrong and the updated model right, the share that ICL "
    "gets right",
    "SimAOU_f2t": "SimAOU on queries that ZS gets wrong, and ICL and the updated model right",
    "SimAM_f2t": "SimAM on queries that ZS gets wrong, and ICL and the updated model right",
    "logit_recovery": "share of ICL's change of the label logits that the best-scaled update "
    "explains",
    "logit_scale": "the scale that fits best in logit_recovery",
    "logit_recovery_unscaled": "the share that the update explains as it is; below 0, it moves "
    "the logits farther away",
}
_SETTINGS = {
    "ZS": "the frozen model reads the query alone",
    "ICL": "the frozen model reads the demonstrations, then the query",
}
_RULES = {
    "gd": "gradient descent on the demonstrations: keys and values, one step an example",
    "lcgd": "layer-causal gradient descent: a layer's update depends on no later layer",
}


def score_meaning(score: str) -> str:
    """What a score is; empty for one that is not known here."""
    return SCORES.get(score, "")


def meaning(name: str) -> str:
    """What a hypothesis, control or setting in results is; empty for a user's own hypothesis."""
    if name in _SETTINGS:
        return _SETTINGS[name]
    base, _, control = name.partition("@")
    if control:
        return f"{base}, and {CONTROLS[control]}" if control in CONTROLS else ""
    if name.startswith("random["):
        return CONTROLS["random"]
    return _RULES.get(name) or CONTROLS.get(name, "")


def meanings(names: Iterable[str]) -> list[tuple[str, str]]:
    """Names with their meaning, those without one left out."""
    return [(name, text) for name in names if (text := meaning(name))]
