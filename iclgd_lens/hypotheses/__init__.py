"""Hypotheses about what in-context learning does, one file each, and the registry of them.

The functions `gd`, `lcgd`, `oracle`, `random` and `zero` are exported by `iclgd_lens` itself.
"""

from iclgd_lens.hypotheses.registry import Hypothesis as Hypothesis
from iclgd_lens.hypotheses.registry import get_hypothesis as get_hypothesis
from iclgd_lens.hypotheses.registry import hypothesis as hypothesis
from iclgd_lens.hypotheses.registry import list_hypotheses as list_hypotheses
