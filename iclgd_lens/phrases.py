"""Numbers in sentences: two decimals, intervals in brackets, never a p-value of zero."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """Two decimals, or two figures where that would show a number that is not 0 as 0."""
    if not math.isfinite(value):
        return "undefined"
    text = f"{value:.2f}"
    if float(text) == 0:
        return f"{value:.1g}" if value else "0.00"
    return text


def interval(low: float, high: float) -> str:
    """Brackets around low and high, with a space before them; empty where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f" [{number(low)}, {number(high)}]"


def p_value(p: float) -> str:
    """As in "p = 0.012" or "p < 0.001"."""
    if not math.isfinite(p):
        return "p undefined"
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def count(n: int, thing: str) -> str:
    """1 draw, 5 draws, 48 queries."""
    many = thing[:-1] + "ies" if thing.endswith("y") else thing + "s"
    return f"{n:,} {thing if n == 1 else many}"


def listed(words: Sequence[str]) -> str:
    """Words in a row: a, b and c; empty for none."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def plain(value: float | None) -> float | None:
    """A number for JSON: None where it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None
