"""What a hypothesis is held against: one entry per control. Pure data: nothing here needs torch.

What a score means is what it is where the hypothesis cannot be true. Add a control with the
decorator, or from a package through the entry point group `iclgd_lens.controls`:

    @lens.control("reversed", acts_on="demonstrations")
    def reversed_order(host, episode, seed):
        return episode.with_demonstrations(episode.demonstrations.examples[::-1])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from iclgd_lens.errors import ControlError
from iclgd_lens.registry import Entry, Table, check_choice, check_parameters, first_line

ActsOn = Literal["update", "demonstrations", "network", "change", "alone"]
Kind = Literal["draw", "network", "check", "reference"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Control(Entry):
    """One control.

    Attributes:
        name: What results call it.
        function: How it is made, or "module:function"; what it takes follows from `acts_on`.
        meaning: The question that it asks, in one sentence.
        acts_on: What it puts in place of the hypothesis's own.
            "update": `(delta, seed) -> Intervention`, another update of the same rule.
            "demonstrations": `(host, episode, seed) -> Episode`, others to learn from.
            "network": `(model, seed) -> model`, another network for the whole comparison.
            "change": `(zs, icl, seed, normalize) -> scores`, directions in place of a change.
            "alone": `(host, episode) -> Intervention`, which belongs to no hypothesis.
        kind: What varies with it. "draw": it is drawn with the demonstrations, and compared with
            the hypothesis draw by draw. "network": its draws are networks, a population that one
            trained model is held against. "check": it tells whether the instrument works.
            "reference": a line to read scores by, which no verdict asks anything to beat.
    """

    name: str
    function: Callable[..., Any] | str
    meaning: str = ""
    acts_on: ActsOn = "alone"
    kind: Kind = "draw"

    def made_by(self) -> Callable[..., Any] | str:
        """The function behind it, or where that is."""
        return self.function

    @property
    def is_rival(self) -> bool:
        """Whether a verdict asks a hypothesis to beat it."""
        return self.kind in ("draw", "network")

    @property
    def stands_alone(self) -> bool:
        """Whether it belongs to no single hypothesis."""
        return self.acts_on in ("alone", "change")


_GIVEN: dict[ActsOn, tuple[str, ...]] = {
    "update": ("delta", "seed"),
    "demonstrations": ("host", "episode", "seed"),
    "network": ("model", "seed"),
    "change": ("zs", "icl", "seed", "normalize"),
    "alone": ("host", "episode"),
}
"""What a control's function is called with."""


def _wrap(name: str, function: Callable[..., Any]) -> Control:
    return Control(name, function, first_line(function))


CONTROLS: Table[Control] = Table(
    "control", Control, "iclgd_lens.controls", _wrap, error=ControlError, load=lambda: _load()
)
"""Every control by name."""

DEFAULT_CONTROLS = ("random", "shuffled", "untrained", "constant_shift", "oracle")


def control(
    name: str,
    *,
    acts_on: ActsOn = "alone",
    kind: Kind | None = None,
    meaning: str = "",
    replace: bool = False,
) -> Callable[[F], F]:
    """Register the decorated function as a control; it is returned unchanged.

    Args:
        name: What results call it.
        acts_on: What it puts in place of the hypothesis's own; see `Control`.
        kind: What varies with it; default, "network" where it acts on the network, "reference"
            where it stands alone, else "draw".
        meaning: One sentence; default, the first line of the docstring.
        replace: Take over a name that is taken.

    Raises:
        ControlError: The name is taken or not usable, `acts_on` or `kind` does not exist, or the
            function does not take what a control that acts there is given.
    """
    check_choice(ControlError, name, "acts_on", acts_on, get_args(ActsOn))
    if kind is not None:
        check_choice(ControlError, name, "kind", kind, get_args(Kind))
    usual: dict[ActsOn, Kind] = {"network": "network", "alone": "reference"}

    def register(function: F) -> F:
        what = f"{name}: a control with acts_on={acts_on!r}"
        check_parameters(ControlError, what, function, _GIVEN[acts_on])
        of = kind or usual.get(acts_on, "draw")
        entry = Control(name, function, meaning or first_line(function), acts_on, of)
        CONTROLS.add(entry, replace=replace)
        return function

    return register


_NULLS = "iclgd_lens.nulls"


def _load() -> None:
    for entry in _BUILT_IN:
        CONTROLS.add(entry)


_BUILT_IN = (
    Control(
        "random", f"{_NULLS}:random_update",
        "would any update of this size do? Directions at random, each head's norm matched",
        "update", "draw",
    ),
    Control(
        "shuffled", f"{_NULLS}:shuffled",
        "does it matter what the demonstrations say? Updates from wrong labels",
        "demonstrations", "draw",
    ),
    Control(
        "other_task", f"{_NULLS}:other_task",
        "does the task matter? Updates from demonstrations of another task",
        "demonstrations", "draw",
    ),
    Control(
        "untrained", f"{_NULLS}:untrained_twin",
        "would a network that has learned nothing do the same? Blocks drawn by the architecture's "
        "own initialiser, embeddings and norms kept",
        "network", "network",
    ),
    Control(
        "untrained_norms", f"{_NULLS}:untrained_norms",
        "the same, with only the norms kept",
        "network", "network",
    ),
    Control(
        "permuted", f"{_NULLS}:permuted",
        "is it the structure of the weights? Each matrix's trained entries in random places",
        "network", "network",
    ),
    Control(
        "gaussian", f"{_NULLS}:gaussian_directions",
        "isotropic random directions in place of the hypothesis's change",
        "change", "draw",
    ),
    Control(
        "uniform", f"{_NULLS}:uniform_directions",
        "random directions with entries in [0, 1), the reference implementation's baseline, which "
        "is not centred at zero",
        "change", "draw",
    ),
    Control(
        "constant_shift", "iclgd_lens.hypotheses.constant_shift:constant_shift",
        "how much is one vector, the same for every query? In-context learning's mean change on "
        "the demonstrations, added to every head",
        "alone", "reference",
    ),
    Control(
        "oracle", "iclgd_lens.hypotheses.oracle:oracle",
        "does the instrument work? The demonstrations' own keys and values injected: must read 1",
        "alone", "check",
    ),
    Control(
        "zero", "iclgd_lens.hypotheses.zero:zero",
        "does nothing read as nothing? An update of zero: scores of a change must be undefined",
        "alone", "check",
    ),
)  # fmt: skip
