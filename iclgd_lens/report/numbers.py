"""Numbers as the report writes them: three decimals, and intervals in brackets."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNDEFINED = "—"
MINUS = "−"


def number(value: float, *, minus: str = MINUS) -> str:
    """Three decimals; two figures where that would show a number that is not 0 as 0."""
    if not math.isfinite(value):
        return UNDEFINED
    if abs(value) >= 1000:
        text = f"{value:.4g}"
    else:
        text = f"{value:.3f}"
        if float(text) == 0:
            text = f"{value:.1e}" if value else "0.000"
    return text.replace("-", minus)


def signed(value: float) -> str:
    """A difference, with its sign."""
    text = number(value)
    return f"+{text}" if value > 0 else text


def interval(low: float, high: float, *, minus: str = MINUS) -> str:
    """Brackets around low and high, or nothing where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    # A bound keeps its sign however small: "[−0.000, 0.026]" holds 0.
    return f"[{_bound(low)}, {_bound(high)}]".replace("-", minus)


def _bound(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3f}"


def estimate(value: float, low: float, high: float) -> str:
    """A value with its interval."""
    return f"{number(value)} {interval(low, high)}".rstrip()


def p_value(p: float) -> str:
    """A p-value; never 0."""
    if not math.isfinite(p):
        return UNDEFINED
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def listed(words: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def count(n: int, thing: str, things: str | None = None) -> str:
    """A number of things: 1 task, 6 tasks."""
    return f"{n:,} {thing if n == 1 else things or thing + 's'}"
