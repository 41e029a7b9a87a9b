"""What is measured: one entry per score, in the order of display. Pure data, without torch.

A score's numbers come from its `function`, which looks at one subject's readings (see
`iclgd_lens.measures.readings`); its aggregate is their mean over queries and layers, or a
`statistic` of per-query facts where a mean of ratios would mislead. Add one with the decorator, or
from a package through the entry point group `iclgd_lens.scores`:

    @lens.score("head_entropy", level="head", meaning="entropy of ...")
    def head_entropy(readings):
        return ...  # [query layer head]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from iclgd_lens.errors import ScoreError
from iclgd_lens.registry import Entry, Table, check_choice, check_parameters, first_line

Level = Literal["query", "layer", "head"]
Better = Literal["higher", "lower"]
_Group = Literal["attention", "behaviour"]
F = TypeVar("F", bound=Callable[..., Any])

LABEL_SCORES = "label_scores"
RECOVERY_MOMENTS = "recovery_moments"
KL_MOMENTS = "kl_moments"
CHANGE_NORMS = "change_norms"
LABEL_COLLAPSE = "label_collapse"
LABEL_CONTRAST = "SimAOU_label"
FACTS = {
    LABEL_SCORES: "mean log-probability, in nats, of each label word: [query label]",
    RECOVERY_MOMENTS: "products of label-logit changes (ft.icl, ft.ft, icl.icl): [query 3]",
    KL_MOMENTS: "KL from ICL of the changed model and of ZS, in nats: [query 2]",
    CHANGE_NORMS: "norms of the changes that ICL and the changed model make to the attention "
    "output, root mean square over layers: [query 2]",
}
"""Per-query facts that are no scores: sizes, and what scores with a `statistic` follow from."""


_BOUNDS = {"-1 to 1": (-1.0, 1.0), "0 to 1": (0.0, 1.0), "0 to 2": (0.0, 2.0),
           "at most 1": (-math.inf, 1.0), "0 or more": (0.0, math.inf)}  # fmt: skip


@dataclass(frozen=True)
class Score(Entry):
    """One score.

    Attributes:
        name: What results call it.
        function: `(readings) -> tensor`, or "module:function": [query] or [query layer], NaN where
            it does not exist; None where `statistic` gives it.
        meaning: What it says, in one sentence.
        level: The finest level at which it exists: for a whole query, for each layer, or for each
            layer and head.
        by_head: The same for each head, [query layer head]; None where `level` is not "head".
        better: Whether higher or lower is nearer to in-context learning.
        primary: Whether verdicts rest on it.
        group: What it looks at: attention, the residual stream, or what the model answers.
        span: Its range, in words, with units.
        oracle: What the demonstrations' own keys and values must score; None where nothing follows.
        needs: "shuffled" where it compares right with wrong labels.
        fact: The per-query fact that `statistic` looks at, a key of `FACTS`.
        statistic: Maps mean facts to the value (a ratio of means), or label scores and gold labels,
            where the fact is label scores.
        per_draw: One value per draw of demonstrations, the same for each of its queries.
        first_queries: Measured on the first queries alone (`Options.tok2attn_queries`).
        own_queries: Each subject has queries of its own (those that it sets right, say), so that no
            two of them can be held against one another.
        asked: "module:function" of a score that is measured only where it is asked for, and so in
            no cell of a benchmark; it then has neither `function` nor `statistic`.
        source: Where it is from.
    """

    name: str
    function: Callable[..., Any] | str = ""
    meaning: str = ""
    level: Level = "query"
    by_head: Callable[..., Any] | str | None = None
    better: Better = "higher"
    primary: bool = False
    group: Literal["attention", "residual", "behaviour"] = "attention"
    span: str = "-1 to 1"
    oracle: float | None = None
    needs: tuple[Literal["shuffled"], ...] = ()
    fact: str | None = None
    statistic: Callable[..., Any] | str | None = None
    per_draw: bool = False
    first_queries: bool = False
    own_queries: bool = False
    asked: str = ""
    source: str = ""

    @property
    def is_bounded(self) -> bool:
        """Whether it is a cosine or a share, so that a twentieth of it is next to nothing."""
        return self.span.startswith(("-1 to 1", "0 to 1", "at most 1"))

    @property
    def bounds(self) -> tuple[float, float]:
        """Its least and its largest possible value, as its range in words says."""
        found = (bounds for words, bounds in _BOUNDS.items() if words in self.span)
        return next(found, (-math.inf, math.inf))

    def made_by(self) -> Callable[..., Any] | str:
        """The function behind it, or where that is."""
        return self.function or self.asked


def _wrap(name: str, function: Callable[..., Any]) -> Score:
    return Score(name, function, first_line(function))


_COLUMNS = (
    "hypothesis", "score", "layer", "head", "value", "ci_low", "ci_high", "n", "undefined", "draw",
    "network", "index", "budget", "query", "gold", "model", "task", "seed", "permutation", "kind",
    "values",
)  # fmt: skip
"""What tables and files of results call their columns."""

SCORES: Table[Score] = Table(
    "score", Score, "iclgd_lens.scores", _wrap, error=ScoreError, load=lambda: _load(),
    reserved=(*FACTS, *_COLUMNS),
)  # fmt: skip
"""Every score by name, in the order of display."""


def score(
    name: str,
    *,
    meaning: str = "",
    level: Level = "query",
    better: Better = "higher",
    group: _Group = "attention",
    needs: Literal["shuffled"] | tuple[Literal["shuffled"], ...] = (),
    span: str = "",
    replace: bool = False,
) -> Callable[[F], F]:
    """Register the decorated function `(readings) -> tensor` as a score; it is returned unchanged.

    Args:
        name: What results call it.
        meaning: One sentence; default, the first line of the docstring.
        level: What the function returns: "query" for [query], "layer" for [query layer], "head"
            for [query layer head] (a layer's value is then the mean over its heads).
        better: Whether higher or lower is nearer to in-context learning.
        group: "attention", or "behaviour" for what the model answers.
        needs: ("shuffled",) if it compares right with wrong labels.
        span: Its range, in words.
        replace: Take over a name that is taken.

    Raises:
        ScoreError: The name is taken or not usable, `level`, `better`, `group` or `needs` does not
            exist, or the function does not take readings alone.
    """
    check_choice(ScoreError, name, "level", level, get_args(Level))
    check_choice(ScoreError, name, "better", better, get_args(Better))
    check_choice(ScoreError, name, "group", group, get_args(_Group))
    needed = (needs,) if isinstance(needs, str) else tuple(needs)
    for need in needed:
        check_choice(ScoreError, name, "needs", need, ("shuffled",))

    def register(function: F) -> F:
        check_parameters(ScoreError, f"{name}: a score", function, ("readings",))
        by_head = function if level == "head" else None
        whole: Callable[..., Any] = _mean_over_heads(function) if level == "head" else function
        entry = Score(
            name, whole, meaning or first_line(function), level, by_head, better,
            group=group, needs=needed, span=span,
        )  # fmt: skip
        SCORES.add(entry, replace=replace)
        return function

    return register


def _mean_over_heads(function: Callable[..., Any]) -> Callable[..., Any]:
    def by_layer(readings: Any) -> Any:
        return function(readings).nanmean(-1)

    by_layer.__module__ = function.__module__
    by_layer.__qualname__ = getattr(function, "__qualname__", function.__module__)
    return by_layer


_READ = "iclgd_lens.measures.score_functions"
_MEASURED = "iclgd_lens.ratios"
_CLASSIFIED = "iclgd_lens.verdicts.classification"
_DAI, _DEUTCH = "Dai et al. 2023, section 4.3", "Deutch et al. 2024"


def _load() -> None:
    for entry in _BUILT_IN:
        SCORES.add(entry)


_BUILT_IN = (
    # -- attention -----------------------------------------------------------------------------
    Score(
        LABEL_CONTRAST, f"{_READ}:sim_aou_label",
        "cosine of what right in place of wrong labels change in the attention output: in "
        "in-context learning, and in the changed model",
        "head", f"{_READ}:sim_aou_label_heads", primary=True, oracle=1.0, needs=("shuffled",),
        source="label contrast",
    ),
    Score(
        "SimAOU_label_centred", f"{_READ}:sim_aou_label_centred",
        "the label contrast of what differs between queries: each change minus its mean over them",
        "layer", primary=True, oracle=1.0, needs=("shuffled",), source="label contrast",
    ),
    Score(
        "SimAOU", f"{_READ}:sim_aou",
        "cosine of the changes that demonstrations and hypothesis make to the normalised attention "
        "output",
        "head", f"{_READ}:sim_aou_heads", oracle=1.0, source=f"{_DAI}; {_DEUTCH}",
    ),
    Score(
        "SimAM_label", f"{_READ}:sim_am_label",
        "the label contrast of attention scores over the query's own tokens",
        "head", f"{_READ}:sim_am_label_heads", oracle=1.0, needs=("shuffled",),
        source="label contrast",
    ),
    Score(
        "SimAM_label_centred", f"{_READ}:sim_am_label_centred",
        "the same of what differs between queries of one length",
        "layer", oracle=1.0, needs=("shuffled",), source="label contrast",
    ),
    Score(
        "SimAM", f"{_READ}:sim_am",
        "cosine of the changes that demonstrations and hypothesis make to attention scores over "
        "the query's own tokens",
        "head", f"{_READ}:sim_am_heads", oracle=1.0, source=f"{_DAI}; {_DEUTCH}",
    ),
    Score(
        "SimAOU_mismatched", f"{_READ}:sim_aou_mismatched",
        "SimAOU with the hypothesis's change of another query: what one direction common to all "
        "queries explains",
        "layer", source="pairing null",
    ),
    Score(
        "SimAOU_common", f"{_READ}:sim_aou_common",
        "cosine of the two changes, each averaged over queries first",
        "layer", oracle=1.0, per_draw=True,
    ),
    Score(
        "SimAOU_centred", f"{_READ}:sim_aou_centred",
        "SimAOU of what differs between queries; a trap: untrained models score high on it, since "
        "both settings shrink a query's own output",
        "layer", oracle=1.0,
    ),
    Score(
        "SimAOU_f2t", f"{_READ}:sim_aou_f2t",
        "SimAOU on queries with ZS wrong, ICL right and the changed model right",
        "layer", own_queries=True, source=_DEUTCH,
    ),
    Score(
        "SimAM_f2t", f"{_READ}:sim_am_f2t",
        "SimAM on queries with ZS wrong, ICL right and the changed model right",
        "layer", own_queries=True, source=_DEUTCH,
    ),
    Score(
        "Tok2Attn", f"{_READ}:tok2attn",
        "Kendall's tau of in-context attention to the demonstrations' tokens with the changed "
        "model's attention to the same tokens as training text",
        "head", f"{_READ}:tok2attn_heads", first_queries=True, source=_DAI,
    ),
    Score(
        "label_effect", f"{_READ}:label_effect",
        "norm of what right in place of wrong labels change in the normalised attention output",
        "layer", needs=("shuffled",), span="0 to 2", source="label contrast",
    ),
    # -- the residual stream -------------------------------------------------------------------
    Score(
        LABEL_COLLAPSE, "",
        "between-class over within-class variance of the residual stream at the readout token, "
        "queries grouped by gold label; measured by `compare(..., collapse=True)` alone",
        "layer", group="residual",
        span="0 or more; C labels without a difference give n queries about (C - 1) / (n - C)",
        per_draw=True, asked="iclgd_lens.collapse:collapse_ratio",
        source="the claim: Confavreux et al. 2026",
    ),
    # -- behaviour -----------------------------------------------------------------------------
    Score(
        "AUC", "", "area under the curve of label log-odds, one label against the rest, mean over "
        "labels: knows no label bias", group="behaviour", span="0 to 1, .5 is chance",
        fact=LABEL_SCORES, statistic=f"{_CLASSIFIED}:auc",
    ),
    Score(
        "calibrated_accuracy", "", "accuracy after each label's mean log-probability over the "
        "queries is subtracted", group="behaviour", span="0 to 1",
        fact=LABEL_SCORES, statistic=f"{_CLASSIFIED}:calibrated_accuracy",
    ),
    Score(
        "calibrated_NLL", "", "negative log-likelihood of the gold label after each label's mean "
        "log-probability over the queries is subtracted", better="lower", group="behaviour",
        span="nats", fact=LABEL_SCORES, statistic=f"{_CLASSIFIED}:calibrated_nll",
    ),
    Score(
        "accuracy", f"{_READ}:accuracy",
        "share of queries whose gold label word is the likeliest; holds the prompt's label bias",
        group="behaviour", span="0 to 1",
    ),
    Score(
        "Rec2FTP", f"{_READ}:rec2ftp",
        "of the queries that ZS gets wrong and the changed model right, the share that ICL gets "
        "right",
        group="behaviour", span="0 to 1", oracle=1.0, source=_DAI, own_queries=True,
    ),
    Score(
        "KL_removed", "", "share of ZS's KL divergence from ICL that the hypothesis removes",
        group="behaviour", span="at most 1; 0 is what ZS has", oracle=1.0, fact=KL_MOMENTS,
        statistic=f"{_MEASURED}:kl_removed",
    ),
    Score(
        "KL_ICL", f"{_READ}:kl_icl",
        "KL divergence of the changed model's label distribution from that of ICL",
        better="lower", group="behaviour", span="nats, 0 or more", oracle=0.0,
    ),
    Score(
        "logit_recovery", "", "share of the ICL change of label logits that the best-scaled change "
        "of the hypothesis explains; 0 where it points the other way", group="behaviour",
        span="0 to 1", oracle=1.0, fact=RECOVERY_MOMENTS, statistic=f"{_MEASURED}:recovery_share",
    ),
    Score(
        "logit_scale", "", "the scale at which the hypothesis's change of label logits is nearest "
        "to that of ICL", group="behaviour", span="any", oracle=1.0, fact=RECOVERY_MOMENTS,
        statistic=f"{_MEASURED}:recovery_scale",
    ),
    Score(
        "logit_recovery_unscaled", "", "the same share at scale 1", group="behaviour",
        span="at most 1", oracle=1.0, fact=RECOVERY_MOMENTS,
        statistic=f"{_MEASURED}:recovery_unscaled",
    ),
)  # fmt: skip


def primary_scores() -> tuple[str, ...]:
    """Names of the scores that verdicts rest on."""
    return tuple(name for name, each in SCORES.items() if each.primary)


def leading_score(known: Container[str]) -> str:
    """The score that verdicts are about first: the label contrast if it is known, else SimAOU.

    It is not known where wrong labels were not read (the control `shuffled`).
    """
    return LABEL_CONTRAST if LABEL_CONTRAST in known else "SimAOU"
