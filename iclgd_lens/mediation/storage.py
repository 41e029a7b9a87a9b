"""A mediation as the bytes of one sealed file: every effect of every query, scores, and facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from iclgd_lens.errors import ComparisonError
from iclgd_lens.mediation.head_maps import DrawEffects, Verification
from iclgd_lens.results.archive import archived, restored
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.sealed_files import opened

if TYPE_CHECKING:
    from iclgd_lens.mediation.mediation_result import Mediation

FORMAT = "iclgd_lens.Mediation/1"


def encode(found: Mediation) -> bytes:
    """The bytes; the same mediation gives the same ones."""
    arrays: dict[str, NDArray[Any]] = {}
    draws: list[dict[str, Any]] = []
    for number, draw in enumerate(found.draws):
        for label, effects in draw.heads.items():
            for name, value in effects.items():
                arrays[_key(number, "heads", label, name)] = value
        for kind in ("margins", "curves"):
            for label, value in getattr(draw, kind).items():
                arrays[_key(number, kind, label)] = value
        draws.append(
            {
                "heads": {label: list(effects) for label, effects in draw.heads.items()},
                "margins": list(draw.margins), "curves": list(draw.curves),
                "sizes": draw.sizes, "curve_queries": draw.curve_queries,
                "failures": dict(draw.failures),
            }
        )  # fmt: skip
    for name, value in found.named.items():
        arrays[_key(0, "named", name)] = value
    comparison, verified = found.comparison, found.verification
    facts = {
        "provenance": dict(comparison.provenance), **comparison.how.as_dict(),
        "mediation": {
            "draws": draws, "exact": found.exact, "group": found.group, "named": list(found.named),
            "verification": vars(verified), "provenance": dict(found.provenance),
        },
    }  # fmt: skip
    return archived(FORMAT, comparison.parts, facts, arrays)


def read(path: Path) -> dict[str, Any]:
    """The fields of the mediation in a file; see `decode`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ComparisonError(f"{path} cannot be read ({error.strerror}).") from error
    return decode(data, path.name)


def decode(data: bytes, name: str) -> dict[str, Any]:
    """The fields of the mediation that a file's bytes hold; its name is for messages.

    Raises:
        ComparisonError: It is truncated, changed, of another version, or something else.
    """
    parts, facts, arrays = restored(*opened(data, name, FORMAT, ComparisonError), name)
    try:
        own = facts.pop("mediation")
        exact, verified = own["exact"], own["verification"]
        return {
            "draws": tuple(_draw(i, each, arrays) for i, each in enumerate(own["draws"])),
            "comparison": Comparison(parts, **facts),
            "exact": None if exact is None else _heads(exact),
            "verification": Verification(
                _heads(verified["heads"]), verified["sufficiency"], verified["necessity"]
            ),
            "group": int(own["group"]),
            "named": {each: arrays[_key(0, "named", each)] for each in own["named"]},
            "provenance": own["provenance"],
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ComparisonError(f"{name} holds something else: {reason}") from error


def _draw(number: int, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> DrawEffects:
    return DrawEffects(
        {
            label: {name: arrays[_key(number, "heads", label, name)] for name in names}
            for label, names in facts["heads"].items()
        },
        {label: arrays[_key(number, "margins", label)] for label in facts["margins"]},
        {label: arrays[_key(number, "curves", label)] for label in facts["curves"]},
        tuple(facts["sizes"]), tuple(facts["curve_queries"]), dict(facts["failures"]),
    )  # fmt: skip


def _heads(pairs: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(layer), int(head)) for layer, head in pairs)


def _key(draw: int, *names: str) -> str:
    return "|".join(("mediation", str(draw), *names))
