"""The table of factors: what each changes, the values that are usual, how its axis is drawn.

A factor of the *rule* is a setting of the hypothesis: its values are subjects of one comparison, so
the model's own settings are read once. A factor of the *episode* changes demonstrations, one of the
*draw* how they are drawn, one of the *model* which network is asked: each value is a comparison of
its own. The table needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.registry import resolve

if TYPE_CHECKING:
    from iclgd_lens.episode import Episode

Kind = Literal["rule", "episode", "draw", "model"]
_ALTERED = "iclgd_lens.sweeps.alterations"


@dataclass(frozen=True)
class Factor:
    """One factor.

    Attributes:
        name: What results call it.
        kind: What it changes; see this module.
        meaning: What it changes, in a sentence.
        axis: Name of its axis, with the unit.
        values: The usual values.
        setting: Of a rule: which of its settings; default, the factor's name.
        words: Of a rule: values that stand for settings.
        beside: Of a rule: other settings without which a hypothesis that has them would not heed
            this one; what is given takes their place.
        alter: Of an episode: the function that gives it the value, as "module:function".
        draws: Whether that function draws at random, and so takes a seed.
        log: Whether its axis is logarithmic.
    """

    name: str
    kind: Kind
    meaning: str
    axis: str
    values: tuple[Any, ...]
    setting: str = ""
    words: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] | None = None
    alter: str = ""
    draws: bool = False
    log: bool = False

    def check(self, value: Any) -> None:
        """Refuse a value of another kind than the usual ones: a word for a number, say.

        Raises:
            ComparisonError: It is of another kind, or out of range.
        """
        usual = {type(each) for each in self.values} or {str}
        if str in usual:
            wanted, allowed = "a word", (str, list, tuple)
        elif usual == {int}:
            wanted, allowed = "a whole number", (Integral,)
        else:
            wanted, allowed = "a number", (Real,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise ComparisonError(f"{self.name} takes {wanted}, not {value!r}.")
        given: Any = value
        least = 1 if self.kind == "draw" else 0
        if self.kind == "episode" and usual == {float} and not 0 <= float(given) <= 1:
            raise ComparisonError(f"{self.name} is a share, from 0 to 1, not {value!r}.")
        if self.kind in ("episode", "draw") and usual == {int} and int(given) < least:
            raise ComparisonError(f"{self.name} must be {least} or more, not {value!r}.")

    def altered(self, episode: Episode, value: Any) -> Episode:
        """The episode at a value; as it is where the factor changes no episode."""
        if not self.alter:
            return episode
        alter = resolve(self.alter)
        # What is drawn is drawn anew for each draw of demonstrations.
        drawn = {"seed": episode.provenance.get("seed", 0)} if self.draws else {}
        # A share may come as a whole number, 0 or 1.
        return alter(episode, type(self.values[0])(value), **drawn)

    def settings(self, value: Any) -> dict[str, Any]:
        """The rule's settings at a value."""
        given = self.words.get(str(value), value) if self.words is not None else value
        return {self.setting or self.name: given}


_MLP = ("W_in", "b_in", "W_gate", "W_out", "b_out")
_ATTENTION = ("W_Q", "b_Q", "W_K", "b_K", "W_V", "b_V", "W_O", "b_O")
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "V": ("W_V", "b_V"),
    "K": ("W_K", "b_K"),
    "Q": ("W_Q", "b_Q"),
    "O": ("W_O", "b_O"),
    "KV": ("W_K", "b_K", "W_V", "b_V"),
    "MLP": _MLP,
    "all": (*_ATTENTION, *_MLP),
}
"""Groups of trained weights by the word that stands for them."""

_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)


_TABLE = (
    Factor("lr", "rule", "learning rate of the update", "learning rate", _RATES, log=True),
    Factor("epochs", "rule", "passes over the demonstrations", "epochs", (1, 2, 4, 8), log=True),
    Factor(
        "batch_size", "rule",
        "demonstrations per step: 1, to all of them", "demonstrations per step",
        (1, 2, 4, 8, 16), log=True,
    ),
    Factor("loss_on", "rule", "tokens whose loss is minimised", "loss on", ("label", "all")),
    Factor(
        "weights", "rule", "weights that the update changes", "trained weights",
        tuple(WEIGHTS), words=WEIGHTS,
    ),
    Factor(
        "horizon", "rule", "layers through which the loss reaches back (lcgd_dynamic)",
        "horizon, layers", (0, 1, 2, 3),
    ),
    Factor(
        "initial", "rule", "steps by which the update's start moves from zero towards what other "
        "tasks' updates share (lcgd_initial; needs auxiliary tasks)", "steps of the initial change",
        (0, 1, 2, 4), setting="steps",
    ),
    Factor(
        "rung", "rule", "what linearisation takes from in-context learning (ladder)",
        "rung of the ladder", (0, 1, 2, 3, 4, 5),
    ),
    Factor("rank", "rule", "rank of the linearised effect (ladder, rung 4)", "rank",
           (1, 2, 4, 8, 16), beside={"rung": 4}, log=True),
    Factor(
        "heads", "rule", "which heads see the demonstrations (partial_oracle); none of them is the "
        "query alone, at its position in context", "heads that see the demonstrations",
        ("none", "induction", "function_vector", "all"),
    ),
    Factor(
        "order", "episode", "order of the demonstrations", "order of the demonstrations",
        tuple(range(8)), alter=f"{_ALTERED}:in_order",
    ),
    Factor(
        "label_noise", "episode", "share of demonstrations with a wrong label",
        "share of wrong labels", (0.0, 0.25, 0.5, 0.75, 1.0), alter=f"{_ALTERED}:with_label_noise",
        draws=True,
    ),
    Factor(
        "flip_from", "episode", "share of the demonstrations before all labels flip",
        "share before the flip", (0.0, 0.25, 0.5, 0.75, 1.0), alter=f"{_ALTERED}:with_flips",
    ),
    Factor(
        "flip_until", "episode", "share of the demonstrations, from the first on, with flipped "
        "labels", "share of flipped labels at the beginning", (0.0, 0.25, 0.5, 0.75, 1.0),
        alter=f"{_ALTERED}:with_early_flips",
    ),
    Factor(
        "neutral_text", "episode", "tokens that say nothing, before the demonstrations",
        "neutral tokens", (0, 16, 64, 256), alter=f"{_ALTERED}:with_neutral_text",
    ),
    Factor(
        "shots", "draw", "number of demonstrations", "demonstrations", (1, 2, 4, 8, 16, 32, 64),
        log=True,
    ),
    Factor("model", "model", "size or checkpoint of the model", "model", ()),
)  # fmt: skip
FACTORS: Mapping[str, Factor] = {factor.name: factor for factor in _TABLE}


def get_factor(name: str) -> Factor:
    """A factor by name.

    Raises:
        ComparisonError: There is none.
    """
    if name not in FACTORS:
        raise ComparisonError(
            f"No factor is called {name!r}; known: {', '.join(FACTORS)}." + nearest(name, FACTORS)
        )
    return FACTORS[name]
