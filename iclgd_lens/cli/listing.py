"""What can be named: tasks, hypotheses, scores, controls, models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from iclgd_lens.cli.console import print_json, print_table, progress
from iclgd_lens.cli.options import Json
from iclgd_lens.errors import LensError


def add_commands(app: typer.Typer) -> None:
    """Add the commands that list what can be named."""
    for command in (tasks, hypotheses, controls, scores, models):
        app.command()(command)


def tasks(as_json: Json = False) -> None:
    """List the tasks."""
    from iclgd_lens.tasks import get_task, list_tasks

    known = [get_task(name) for name in list_tasks()]
    if as_json:
        print_json(
            {
                task.name: {
                    "description": task.description, "prompt": task.prompt,
                    "labels": list(task.labels), "hub_id": task.hub_id,
                    "learning_rate": task.learning_rate, "prompt_hash": task.prompt_hash,
                }
                for task in known
            }
        )  # fmt: skip
        return
    rows = [
        (task.name, task.description, ", ".join(task.labels), f"{task.learning_rate:g}")
        for task in known
    ]
    print_table(("task", "what is classified", "label words", "published lr"), rows)


def hypotheses(
    name: Annotated[str | None, typer.Argument(help="One hypothesis, with its settings.")] = None,
    as_json: Json = False,
) -> None:
    """List the hypotheses, or one of them with its settings."""
    with progress() as tell:
        tell("starting PyTorch")
        from iclgd_lens.hypotheses.registry import get_hypothesis, list_hypotheses

        known = list_hypotheses() if name is None else {name: get_hypothesis(name)}
    if as_json:
        print_json({"hypotheses": {each: _described(found) for each, found in known.items()}})
    elif name is not None:
        _show_hypothesis(known[name])
    else:
        ranks = {"explanation": 0, "fitted": 1, "check": 2, "control": 3}
        order = sorted(known, key=lambda each: (ranks[known[each].kind], each))
        print_table(
            ("hypothesis", "kind", "reads", "what it does"),
            [
                (each, known[each].kind, ", ".join(known[each].needs), known[each].description)
                for each in order
            ],
        )


def _described(found: Any) -> dict[str, Any]:
    return {
        "description": found.description,
        "version": found.version,
        "kind": found.kind,
        "needs": list(found.needs),
        "source": found.source,
        "settings": {
            each.name: {"default": repr(each.default), "type": each.annotation,
                        "meaning": each.meaning}
            for each in found.described_settings()
        },
    }  # fmt: skip


def _show_hypothesis(found: Any) -> None:
    typer.echo(f"{found.name} ({found.kind}; reads {', '.join(found.needs)}): {found.description}")
    if found.source:
        typer.echo(f"Source: {found.source}")
    lines = [
        (each.name, repr(each.default), each.annotation, each.meaning)
        for each in found.described_settings()
    ]
    if lines:
        print_table(("setting", "default", "type", "what it does"), lines)


def controls(as_json: Json = False) -> None:
    """List the controls: what each asks, and what it acts on."""
    from iclgd_lens.controls import CONTROLS, DEFAULT_CONTROLS

    known = CONTROLS.all()
    if as_json:
        print_json(
            {
                name: {"meaning": each.meaning, "acts_on": each.acts_on, "kind": each.kind,
                       "default": name in DEFAULT_CONTROLS}
                for name, each in known.items()
            }
        )  # fmt: skip
        return
    print_table(
        ("control", "what it asks", "kind", ""),
        [
            (name, each.meaning, each.kind, "default" if name in DEFAULT_CONTROLS else "")
            for name, each in known.items()
        ],
    )


def scores(as_json: Json = False) -> None:
    """List the scores: what each says, where it exists, its range."""
    from iclgd_lens.scores import SCORES

    known = SCORES.all()
    if as_json:
        print_json(
            {
                name: {"meaning": each.meaning, "level": each.level, "better": each.better,
                       "primary": each.primary, "range": each.span, "oracle": each.oracle,
                       "source": each.source}
                for name, each in known.items()
            }
        )  # fmt: skip
        return
    print_table(
        ("score", "what it says", "of each", "range"),
        [
            (f"{name}{' (primary)' if each.primary else ''}", each.meaning, each.level, each.span)
            for name, each in known.items()
        ],
    )


def models(
    search: Annotated[
        str | None, typer.Argument(help="List the known names that contain this text.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models that can be named, and the families that are served."""
    with progress() as tell:
        tell("asking TransformerLens for its models")
        from iclgd_lens.host.families import convertible
        from iclgd_lens.host.model_source import ALIASES, UNTRAINED, model_names

        shipped = [*ALIASES, *UNTRAINED]
        known = [name for name in model_names() if name not in shipped]
    every = [*shipped, *known]
    found = [name for name in every if search is not None and search.lower() in name.lower()]
    if as_json:
        families = [_family(name) for name in convertible()]
        print_json({"embedded": shipped, "names": found if search else known,
                     "hooked_families": families})  # fmt: skip
    elif search is not None:
        if not found:
            raise LensError(f"No known model's name contains {search!r}; of {len(every)}")
        typer.echo("\n".join(found))
    else:
        print_table(
            ("--model", "what it is"),
            _kinds_of_models(shipped, list(convertible()), len(known)),
        )


def _family(architecture: str) -> str:
    return architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")


def _kinds_of_models(
    aliases: Sequence[str], families: Sequence[str], count: int
) -> list[tuple[str, str]]:
    shipped = [(name, "travels with the package; needs no network") for name in aliases]
    hooked = ", ".join(_family(name) for name in families)
    return [
        *shipped,
        ("FOLDER", f"a Hugging Face folder with safetensors; as a HookedTransformer: {hooked}"),
        ("FILE.gguf", "one GGUF file, quantised or not (extra gguf)"),
        ("NAME", f"a Hub name, or one of TransformerLens's {count} names "
         "(`iclgd models gpt2` searches them)"),
    ]  # fmt: skip
