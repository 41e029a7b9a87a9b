"""Which tests `make test` runs: every quick one, and not every combination of its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SLOW = Path(__file__).with_name("slow.txt")
"""Names of tests that take long; `slowest.py` writes it from measured times."""


def quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """Tests that neither the table nor their marker calls slow."""
    slow = set(SLOW.read_text(encoding="utf-8").splitlines())
    return [
        item
        for item in items
        if item.nodeid not in slow and item.get_closest_marker("slow") is None
    ]


def sampled(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of each test so many combinations of its parameters that every value is tried once.

    First those whose every value is new, which spreads values over one another, then those that
    bring any new one. A test without parameters is kept.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: set[int] = set()
    for group in groups.values():
        tried = set[tuple[str, str, Any]]()
        for enough in (all, any):
            for item in group:
                values = _values(item)
                if not values or enough(value not in tried for value in values):
                    tried.update(values)
                    kept.add(id(item))
    return [item for item in items if id(item) in kept]


def _values(item: pytest.Item) -> list[tuple[str, str, Any]]:
    call = getattr(item, "callspec", None)
    plain = (str, int, float, bool, type(None))
    return [
        (name, type(value).__name__, value if isinstance(value, plain) else id(value))
        for name, value in ({} if call is None else call.params).items()
    ]
