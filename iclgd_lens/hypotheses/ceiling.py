r"""Ceiling: how high an update of the values could score, were it told the answers.

The change of W_V under which each query, alone, leaves in every head what it leaves after the
demonstrations; by the same ridge regression as `distilled`, but on the queries themselves. A score
is read as a share of this one. It has seen queries and in-context learning: never evidence of
anything. It is the bound where there are at most as many equations as W_V has inputs (below); with
more queries it is a least-squares fit, layer after layer, that another update of these weights can
surpass.

    min_ΔW_V Σ_q |z_q(alone; ΔW_V) - z_q(after the demonstrations)|² + ridge |ΔW_V|²

Limits: with no ridge, and at most as many equations as W_V has inputs (queries, times the query
heads that share one head of values), it reproduces in-context learning's attention outputs:
SimAOU 1. Then its predictions, too, where nothing else tells the two passes apart (rotary
positions; absolute ones are added to the stream, and differ). An infinite ridge is no change.

Source: this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.host import as_host, layer_of
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.hypotheses.value_regression import fit_values
from iclgd_lens.readout.reader import Reader
from iclgd_lens.training.sgd import trained_names

NAME = "ceiling"


@hypothesis(
    NAME,
    description="fitted to the queries' own passes in context: a mark for value updates",
    kind="fitted",
    needs=("demonstrations", "queries"),
    source="this package",
)
def ceiling(
    model: Any,
    episode: Episode,
    *,
    ridge: float = 1e-4,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the change of W_V fitted to in-context learning on the episode's queries.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        episode: Demonstrations and queries; both are read.
        ridge: Penalty relative to the inputs' mean square.
        layers: Which layers are fitted; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        EpisodeError: The model cannot read the episode whole.
    """
    host = as_host(model)
    between(NAME, "ridge", ridge, 0)
    fitted = {layer_of(name) for name in trained_names(host, "W_V", layers)}
    wanted = Reader(host, episode).icl().z
    bos = episode.demonstrations.bos
    head = () if bos is None else (bos,)
    rows = [head + episode.readout_tokens(query) for query in episode.queries]
    found = fit_values(host, rows, wanted, ridge, fitted)
    return ParameterDelta(found, {"rule": NAME, "ridge": ridge, "model": host.name})
