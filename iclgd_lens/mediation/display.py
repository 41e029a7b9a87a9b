"""How a mediation shows itself: a line of text, an HTML table in notebooks, Plotly figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.display_names import label as shown_label
from iclgd_lens.mediation.head_maps import (
    ICL,
    KEPT,
    NECESSITY,
    SIGNIFICANT,
    SUBSTITUTION,
    unit_of,
)
from iclgd_lens.subjects import Subject

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from iclgd_lens.mediation.mediation_result import Mediation

Floats = NDArray[np.floating[Any]]


def drawn_map(effect: str, value: Floats, low: Floats, high: Floats, p: Floats) -> dict[str, Any]:
    """What `figures.head_maps` takes to draw an effect, but its title.

    Args:
        effect: Which.
        value: It, by layer and head; NaN where it does not exist.
        low: Lower ends of its interval.
        high: Upper ends.
        p: Corrected p-values.
    """
    share = effect == SUBSTITUTION
    largest = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        marks = (p <= SIGNIFICANT) & ((low > 0) | (high < 0))  # the two need not agree
    return {
        "panels": {"": value}, "score": "share of necessity" if share else "nats of label margin",
        "intervals": {"": (low, high)}, "shown": marks,
        # A share of a small effect may be huge: the scale ends where twice the work is done.
        "reach": min(2.0, largest) if share and largest else None,
    }  # fmt: skip


class ShownMediation:
    """The part of `Mediation` that shows it."""

    @property
    def _own(self) -> Mediation:
        """The mediation itself, which this is a part of."""
        raise NotImplementedError

    def __repr__(self) -> str:
        own = self._own
        facts = own.provenance
        model = facts.get("model", {}).get("name", "model")
        task = facts.get("episode", {}).get("task", "task")
        return (
            f"<Mediation of {', '.join(own.hypotheses) or ICL} on {model}, {task}: "
            f"{len(own.draws)} draw{'s' if len(own.draws) != 1 else ''}. {own.sentence()} "
            ".top(), .heads(), .frame(), .agreement()>"
        )

    def _repr_html_(self) -> str:
        own = self._own
        sentence = own.sentence().replace("&", "&amp;").replace("<", "&lt;")
        table = own.top(10).to_html(index=False, float_format="{:.3f}".format)
        return f"<p>{sentence}</p>{table}"

    def sentence(self) -> str:
        """Say in plain words which heads do the work, and whether the update does it there.

        The gate comes first: without in-context learning there is no work to name.
        """
        own = self._own
        gate = own.comparison.gate()
        closed = gate.reason if gate is not None else "There is no gate: one label alone was asked."
        if closed is not None:
            return (
                f"{closed} What heads do to the label margin here is therefore not called "
                f"in-context learning. {own.verification.sentence}"
            )
        return " ".join([*self._work(), *self._substitutes(), own.verification.sentence])

    def _work(self) -> Iterator[str]:
        """Which heads in-context learning needs."""
        needed = self._own.map(NECESSITY)
        necessary, hindering = needed.above, needed.below
        size, units = needed.value.size, unit_of(len(self._own.draws))
        against = int(hindering.sum())
        yield (
            f"{int(necessary.sum())} of {size} heads are necessary and {against} "
            f"hinder{'s' if against == 1 else ''} (corrected p <= {SIGNIFICANT} over {units}, "
            "and an interval that leaves out zero)."
        )
        if np.isfinite(needed.value).any():
            layer, head = divmod(int(np.nanargmax(needed.value)), needed.value.shape[1])
            yield (
                f"The most necessary is {layer}.{head}: {needed.value[layer, head]:.2f} nats of "
                "label margin."
            )

    def _substitutes(self) -> Iterator[str]:
        """What each hypothesis, and the best of its controls, keeps of what necessary heads do."""
        own = self._own
        for name in own.hypotheses:
            share = self._kept(name)
            if share is None:
                continue
            rivals = {
                label: kept
                for label in own.labels
                if str(Subject.parse(label).bare) == name and label != name
                and (kept := self._kept(label)) is not None
            }  # fmt: skip
            best = max(rivals, key=lambda label: rivals[label]) if rivals else None
            beside = "" if best is None else f" ({shown_label(best)}: {rivals[best]:.0%})"
            lost = [
                label for label in own.failures
                if label in own.labels and label != name
                and str(Subject.parse(label).bare) == name
            ]  # fmt: skip
            if lost:  # the best of what is left may be no rival at all
                beside += f"; not measured: {', '.join(map(shown_label, lost))}"
            yield (
                f"{shown_label(name)}, put in the place of one at a time, keeps {share:.0%} of the "
                f"sum of their effects{beside}."
            )

    def _kept(self, label: str) -> float | None:
        """What is kept of the summed effects of necessary heads; None where there are none."""
        needed = self._own.map(NECESSITY)
        kept = self._own.map(KEPT, label).value
        necessary = np.isfinite(kept) & needed.above
        if not necessary.any():
            return None
        return float(kept[necessary].sum() / needed.value[necessary].sum())

    def heatmap(self, effect: str = NECESSITY, label: str = ICL) -> go.Figure:
        """Return a Plotly figure of an effect by layer and head; marks survive correction."""
        from iclgd_lens.figures import head_maps

        return head_maps(**self.heatmap_arguments(effect, label))

    def heatmap_arguments(self, effect: str = NECESSITY, label: str = ICL) -> dict[str, Any]:
        """What `figures.head_maps` takes to draw an effect."""
        found = self._own.map(effect, label)
        title = f"{effect.replace('_', ' by ')} of each head, {shown_label(label)}"
        return {"title": title, **drawn_map(effect, found.value, found.low, found.high, found.p)}

    def set_curves(self) -> go.Figure:
        """Return a Plotly figure of faithfulness against the number of heads put into ZS."""
        from iclgd_lens.figures import set_curves

        curves = {label: self._own.curve(label) for label in self._own.labels}
        return set_curves(
            {label: (curve.heads, curve.value) for label, curve in curves.items()},
            title="How many heads carry in-context learning's gain",
        )

    def scatter(self) -> go.Figure:
        """Return a Plotly figure of heads: what ICL needs of each, what updates keep of it."""
        import pandas as pd

        from iclgd_lens.figures import head_scatter

        needed = self._own.map(NECESSITY).value
        lines = [
            {"hypothesis": name, "layer": layer, "head": head, NECESSITY: needed[layer, head],
             KEPT: self._own.map(KEPT, name).value[layer, head]}
            for name in self._own.labels if name != ICL
            for layer, head in np.ndindex(*needed.shape)
        ]  # fmt: skip
        return head_scatter(pd.DataFrame(lines), title="The same heads?")
