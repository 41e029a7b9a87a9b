"""Numbers and objects as people read them: decimals, intervals, one line, a small table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_NAMED = 3
"""How many names a sentence gives where there are many."""


@dataclass(frozen=True)
class Style:
    """How numbers are written in one place.

    Attributes:
        decimals: For a number below 1,000, which is never shown as 0 unless it is 0.
        minus: The sign of a negative number.
        undefined: What stands for no number.
    """

    decimals: int
    minus: str = "-"
    undefined: str = "undefined"

    def number(self, value: float) -> str:
        """One or two more figures where the decimals would show a number other than 0 as 0."""
        if not math.isfinite(value):
            return self.undefined
        text = self._plain(value)
        if value and float(text) == 0:
            text = f"{value:.1g}"
        return text.replace("-", self.minus)

    def signed(self, value: float) -> str:
        """A difference, with its sign."""
        return f"+{self.number(value)}" if value > 0 else self.number(value)

    def interval(self, low: float, high: float) -> str:
        """Brackets around low and high; empty where there is no interval."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return ""
        # A bound keeps its sign however small: "[−0.000, 0.026]" holds 0.
        return f"[{self._plain(low)}, {self._plain(high)}]".replace("-", self.minus)

    def p_value(self, p: float) -> str:
        """A p-value; never 0."""
        if not math.isfinite(p):
            return self.undefined
        return f"{p:.3f}" if p >= 0.001 else "<0.001"

    def _plain(self, value: float) -> str:
        return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.{self.decimals}f}"


SENTENCE = Style(2)
TABLE = Style(3, minus="−", undefined="—")
LATEX = Style(3, undefined="—")


def number(value: float) -> str:
    """A number in a sentence: two decimals."""
    return SENTENCE.number(value)


def interval(low: float, high: float) -> str:
    """Brackets around low and high, with a space before them; empty where there is none."""
    text = SENTENCE.interval(low, high)
    return f" {text}" if text else ""


def p_value(p: float) -> str:
    """As in "p = 0.012" or "p < 0.001"."""
    text = SENTENCE.p_value(p)
    if not math.isfinite(p):
        return f"p {text}"
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def count(n: int, thing: str) -> str:
    """1 draw, 5 draws, 1,200 queries."""
    many = thing[:-1] + "ies" if thing.endswith("y") else thing + "s"
    return f"{n:,} {thing if n == 1 else many}"


def listed(words: Sequence[str]) -> str:
    """Words in a row: a, b and c; empty for none."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def all_of(tasks: Sequence[str]) -> str:
    """The task where there is one, else how many there are."""
    return tasks[0] if len(tasks) == 1 else f"all {len(tasks)} tasks"


def plain(value: float | None) -> float | None:
    """A number for JSON: None where it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


LONGEST = 60
"""The most characters of one fact, so that a console shows the line whole."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(name: str, facts: Mapping[str, object]) -> str:
    """Return "Name(fact, fact)"; each fact says what it is."""
    return f"{name}({', '.join(shortened(str(fact)) for fact in facts.values())})"


def html_table(name: str, facts: Mapping[str, object], notes: Sequence[str] = ()) -> str:
    """Return an HTML table of facts by name, with notes below."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(what)}</th>'
        f'<td style="text-align:left">{escape(shortened(str(fact)))}</td></tr>'
        for what, fact in facts.items()
    )
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<div><b>{escape(name)}</b><table>{rows}</table>{below}</div>"


def partial_layer_sentences(frame: Any) -> list[str]:
    """What `Comparison.partial_layers()` says, joined where the same layers are left out."""
    scores: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (score, hypothesis), lines in frame.groupby(["score", "hypothesis"], sort=False):
        layers = tuple(dict.fromkeys(int(layer) for layer in lines["layer"]))
        scores.setdefault((str(hypothesis), layers), []).append(str(score))
    alike: dict[tuple[tuple[int, ...], tuple[str, ...]], list[str]] = {}
    for (hypothesis, layers), names in scores.items():
        alike.setdefault((layers, tuple(names)), []).append(hypothesis)
    sentences: list[str] = []
    for (layers, names), hypotheses in alike.items():
        told = frame[frame["hypothesis"].isin(hypotheses) & frame["score"].isin(names)]
        lacking = _some([str(label) for label in dict.fromkeys(told["lacking"])])
        whose = "its" if len(hypotheses) == 1 else "their"
        sentences.append(
            f"Means of {listed(names)} of {listed(_some(hypotheses))} (and of {whose} controls) "
            f"leave out {layers_named(layers)}, where {listed(lacking)} "
            f"{'has' if len(lacking) == 1 else 'have'} none."
        )
    return sentences


def _some(names: Sequence[str]) -> list[str]:
    """The first few, and how many more there are; a single further one is named, too."""
    more = len(names) - _NAMED
    return [*names[:_NAMED], f"{more} more"] if more > 1 else list(names)


def layers_named(places: Sequence[int]) -> str:
    """Layer 0; layers 0 and 3; layers 0 to 14."""
    if len(places) == 1:
        return f"layer {places[0]}"
    if len(places) > 2 and places[-1] - places[0] == len(places) - 1:
        return f"layers {places[0]} to {places[-1]}"
    return f"layers {listed([str(place) for place in places])}"


def one_label_shown(number: int, word: str) -> str:
    """What demonstrations of one label alone mean."""
    which = "The only demonstration has" if number == 1 else f"All {number} demonstrations have"
    return f"{which} the label {word!r}: nothing in the prompt tells the classes apart."


def one_label_asked(number: int, word: str) -> str:
    """What queries of one label alone mean."""
    which = "The only query has" if number == 1 else f"All {number} queries have"
    return f"{which} the label {word!r}: whether the model tells the classes apart is not asked."
