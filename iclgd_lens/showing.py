"""How a comparison shows itself: a Rich table, an HTML table in notebooks, Plotly figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from iclgd_lens.errors import ComparisonError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from rich.table import Table


class Shown:
    """The part of `Comparison` that shows it."""

    @property
    def _own(self) -> Any:
        return self

    def _repr_html_(self) -> str:
        from iclgd_lens.tables import html_summary

        return html_summary(self._own, repr(self)[1:-1])

    def table(self) -> Table:
        """Return a Rich table: one line a hypothesis, with layers' SimAOU and SimAM."""
        from iclgd_lens.tables import comparison_table

        return comparison_table(self._own)

    def heatmap(self, score: str = "SimAOU", hypothesis: str = "lcgd") -> go.Figure:
        """Return a Plotly figure of a score's mean over queries: layer by head."""
        from iclgd_lens.figures import heatmap

        value = self._own.tensor(score, hypothesis, by="head").nanmean(0)
        return heatmap(value.numpy(), title=f"{score} of {hypothesis} with in-context learning")

    def layers(self, score: str = "SimAOU") -> go.Figure:
        """Return a Plotly figure of a score by layer, with intervals, one line a hypothesis."""
        from iclgd_lens.figures import layer_profiles

        frame = self._own.frame()
        frame = frame[(frame["score"] == score) & (frame["level"] == "layer")]
        if frame.empty:
            raise ComparisonError(f"No hypothesis has a score {score!r} by layer.")
        return layer_profiles(
            cast("pd.DataFrame", frame), title=f"{score} with in-context learning, by layer"
        )

    def nulls(self) -> pd.DataFrame:
        """Return what each control of each hypothesis scores, draw by draw or network by network.

        Columns: hypothesis, score (primary ones and SimAOU), control (its label), value.
        `figures.nulls` draws one score of it.
        """
        from iclgd_lens.frames import null_frame

        return null_frame(self._own.data)

    def norms(self) -> pd.DataFrame:
        """Return how large ICL's change and each hypothesis's are, query by query, on one draw.

        Columns: hypothesis, query, icl_norm, ft_norm (of the attention output, root mean square
        over layers). `figures.norms` draws it.
        """
        from iclgd_lens.frames import norm_frame

        return norm_frame(self._own.data)
