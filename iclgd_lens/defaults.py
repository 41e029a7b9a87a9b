"""One set of defaults for Python, the command line and plans."""

from __future__ import annotations

SHOTS = 16
"""Demonstrations of an episode."""
QUERIES = 64
"""Evaluation rows that an episode asks."""
DRAWS = 5
"""Draws of demonstrations."""
TWINS = 8
"""Networks of each control that is another network."""
TWIN_QUERIES = 16
"""Queries that each of them is asked: their spread is between networks, not between queries."""
HYPOTHESES = ("gd", "lcgd")
"""Hypotheses that are compared where none is named."""
SWEEP_QUERIES, SWEEP_DRAWS = 32, 2
"""Queries and draws at every value of a factor: a sweep is a comparison many times over."""
