"""What a comparison is asked on, checked before it starts and recorded with its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from iclgd_lens.episode import Episode
from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.host import Host
from iclgd_lens.host.provenance import model_provenance
from iclgd_lens.provenance import library_versions

BudgetMode = Literal["matched", "published"]
_BUDGETS = ("matched", "published")
_SEARCH = ("grid", "epochs", "losses", "folds")


def check_draws(draws: Sequence[Episode], twins: int) -> None:
    """Refuse draws that do not belong together.

    Raises:
        ComparisonError: There are none, or they differ in protocol or label words.
    """
    if not draws:
        raise ComparisonError("There is no episode to compare on; give at least one.")
    first = draws[0]
    for number, episode in enumerate(draws):
        if episode.protocol != first.protocol or episode.label_tokens != first.label_tokens:
            raise ComparisonError(
                f"Episode {number} has another protocol or other label words than the first: "
                "episodes of one comparison differ in their demonstrations (and queries) alone."
            )
    if twins < 0:
        raise ComparisonError(f"twins is {twins}; it must be 0 or more.")


def budget_mode(
    asked: BudgetMode | Mapping[str, Any] | None, draws: Sequence[Episode]
) -> tuple[BudgetMode, dict[str, Any]]:
    """How budgets are found, and what of their search is another than the default.

    Where nothing is asked: published under the reference protocol, else matched.

    Raises:
        ComparisonError: There is no such way, or no such part of the search.
    """
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in _SEARCH:
                raise ComparisonError(
                    f"budget has no {name!r}; it has {', '.join(_SEARCH)}." + nearest(name, _SEARCH)
                )
        return "matched", dict(asked)
    if asked is None:
        reference = bool(draws) and draws[0].protocol.name == "reference"
        return ("published" if reference else "matched"), {}
    if asked not in _BUDGETS:
        raise ComparisonError(
            f"budget is {asked!r}; allowed: {', '.join(_BUDGETS)}, or a mapping of what is "
            f"searched ({', '.join(_SEARCH)})." + nearest(str(asked), _BUDGETS)
        )
    return asked, {}


def provenance(host: Host, draws: Sequence[Episode]) -> dict[str, Any]:
    """Everything about model, episodes and libraries that the numbers depend on."""
    first = draws[0]
    dtype = str(host.dtype).removeprefix("torch.")
    return {
        "model": model_provenance(host.model)
        | {
            "device": host.device.type,
            "n_layers": host.n_layers,
            "n_heads": host.n_heads,
            "n_key_value_heads": host.n_key_value_heads,
            "d_model": host.d_model,
        },
        "precision": f"activations {dtype}, deltas and scores fp32",
        "protocol": first.protocol.as_dict() | {"hash": first.protocol.hash},
        "episode": dict(first.provenance) | {"hash": first.hash, "queries": len(first.queries)},
        "draws": [
            dict(each.provenance) | {"hash": each.hash, "warnings": list(each.warnings)}
            for each in draws
        ],
        "versions": library_versions(),
    }
