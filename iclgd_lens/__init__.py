"""Does in-context learning do to attention what gradient descent would? On your own model.

    import iclgd_lens as lens

    model = lens.load_model("embedded")
    episode = lens.load_episode("sst2", model, shots=8, queries=32)
    result = lens.compare(model, episode, ["gd", "lcgd"])
    result.frame()

Names are imported when first used, so that `import iclgd_lens` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iclgd_lens.bench.frames import load_run as load_run
    from iclgd_lens.bench.plan import load_plan as load_plan
    from iclgd_lens.bench.run import run_plan as run_plan
    from iclgd_lens.compare import CONTROLS as CONTROLS
    from iclgd_lens.compare import compare as compare
    from iclgd_lens.comparison import Comparison as Comparison
    from iclgd_lens.controls import shuffled_labels as shuffled_labels
    from iclgd_lens.controls import untrained as untrained
    from iclgd_lens.episode import Demonstration as Demonstration
    from iclgd_lens.episode import Demonstrations as Demonstrations
    from iclgd_lens.episode import Episode as Episode
    from iclgd_lens.episode import Query as Query
    from iclgd_lens.episode import load_demonstrations as load_demonstrations
    from iclgd_lens.episode import load_episode as load_episode
    from iclgd_lens.errors import LensError as LensError
    from iclgd_lens.host import Host as Host
    from iclgd_lens.host import LinearSite as LinearSite
    from iclgd_lens.host.loading import load_model as load_model
    from iclgd_lens.hypotheses.gd import gd as gd
    from iclgd_lens.hypotheses.lcgd import lcgd as lcgd
    from iclgd_lens.hypotheses.oracle import oracle as oracle
    from iclgd_lens.hypotheses.random import random as random
    from iclgd_lens.hypotheses.registry import get_hypothesis as get_hypothesis
    from iclgd_lens.hypotheses.registry import hypothesis as hypothesis
    from iclgd_lens.hypotheses.registry import list_hypotheses as list_hypotheses
    from iclgd_lens.hypotheses.zero import zero as zero
    from iclgd_lens.intervention import Injection as Injection
    from iclgd_lens.intervention import Intervention as Intervention
    from iclgd_lens.intervention import ParameterDelta as ParameterDelta
    from iclgd_lens.protocol import DEFAULT as DEFAULT
    from iclgd_lens.protocol import EOS as EOS
    from iclgd_lens.protocol import REFERENCE as REFERENCE
    from iclgd_lens.protocol import Protocol as Protocol
    from iclgd_lens.readout import Reader as Reader
    from iclgd_lens.readout import Readout as Readout
    from iclgd_lens.tasks import Task as Task
    from iclgd_lens.tasks import get_task as get_task
    from iclgd_lens.tasks import list_tasks as list_tasks

__version__ = "0.1.0"

_HOMES = {
    "bench.frames": ("load_run",),
    "bench.plan": ("load_plan",),
    "bench.run": ("run_plan",),
    "compare": ("CONTROLS", "compare"),
    "comparison": ("Comparison",),
    "controls": ("shuffled_labels", "untrained"),
    "episode": (
        "Demonstration",
        "Demonstrations",
        "Episode",
        "Query",
        "load_demonstrations",
        "load_episode",
    ),
    "errors": ("LensError",),
    "host": ("Host", "LinearSite"),
    "host.loading": ("load_model",),
    "hypotheses.gd": ("gd",),
    "hypotheses.lcgd": ("lcgd",),
    "hypotheses.oracle": ("oracle",),
    "hypotheses.random": ("random",),
    "hypotheses.zero": ("zero",),
    "hypotheses.registry": ("get_hypothesis", "hypothesis", "list_hypotheses"),
    "intervention": ("Injection", "Intervention", "ParameterDelta"),
    "protocol": ("DEFAULT", "EOS", "REFERENCE", "Protocol"),
    "readout": ("Reader", "Readout"),
    "tasks": ("Task", "get_task", "list_tasks"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'iclgd_lens' has no attribute {name!r}")
    value = getattr(import_module(f"iclgd_lens.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `compare` the function: importing the module of that name would put it in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
