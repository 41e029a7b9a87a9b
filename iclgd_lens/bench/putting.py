"""Cells of one model and task, with trainings beside them, put together into parts of a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from iclgd_lens.bench.cellfile import PLACE, CellData
from iclgd_lens.parts import Part


def parts_of(cells: Sequence[CellData], trainings: Sequence[Part]) -> tuple[Part, ...]:
    """Cells of one model and task, put together setting by setting, with their trainings."""
    groups: dict[tuple[Any, ...], list[CellData]] = {}
    for cell in cells:
        place = cell.facts["place"]
        groups.setdefault(tuple(place[name] for name in PLACE), []).append(cell)
    draws = {
        seed: number
        for number, seed in enumerate(dict.fromkeys(c.facts["place"]["seed"] for c in cells))
    }
    found: list[Part] = []
    for group in groups.values():
        place = group[0].facts["place"]
        rules = {c.facts["place"]["subject"]: c.facts["described"] for c in group}
        rows = group[0].facts["setting"]["query_rows"][: len(group[0].gold)]
        found.append(
            Part(
                values={cell.facts["place"]["subject"]: cell.values for cell in group},
                gold=group[0].gold,
                draw=draws[place["seed"]],
                order=place["permutation"],
                network=place["network"],
                index=place["index"],
                budget=place["budget"],
                failures={
                    cell.facts["place"]["subject"]: cell.facts["failure"]
                    for cell in group
                    if cell.facts["failure"]
                },
                facts={"rules": rules, "seed": place["seed"]},
                queries=tuple(rows),
            )
        )
    return _with_trainings(found, trainings)


def _with_trainings(parts: Sequence[Part], trainings: Sequence[Part]) -> tuple[Part, ...]:
    """Parts with the trajectories of the same network, draw and budget."""

    def at(part: Part) -> tuple[Any, ...]:
        return part.network, part.index, part.draw, part.order, part.budget

    along: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in trainings:
        along.setdefault(at(each), {}).update(each.trajectory)
    return tuple(replace(part, trajectory=along.get(at(part), {})) for part in parts)
