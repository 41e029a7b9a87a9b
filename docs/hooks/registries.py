"""A page for each hypothesis, control and score, from the tables in which they are registered."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from iclgd_lens.controls import CONTROLS, DEFAULT_CONTROLS, Control
from iclgd_lens.hypotheses.registry import HYPOTHESES, Hypothesis
from iclgd_lens.registry import resolve
from iclgd_lens.scores import FACTS, SCORES, Score

KINDS = {
    "explanation": "Explanations: rules that could be what in-context learning does",
    "fitted": "Fitted to in-context learning's own passes: a high score is no evidence",
    "check": "Checks of the instrument",
    "control": "Controls: they cannot be true",
}
IS = {
    "explanation": "An explanation.",
    "fitted": "Fitted to in-context learning's own passes: no verdict is given on it.",
    "check": "A check of the instrument.",
    "control": "A control.",
}
VARIES = {
    "draw": "It is drawn with the demonstrations, and compared with the hypothesis draw by draw.",
    "network": "Its draws are networks: a population that one trained model is held against.",
    "check": "It tells whether the instrument works.",
    "reference": "A line to read scores by, which no verdict asks anything to beat.",
}
GROUPS = {
    "attention": "Of attention",
    "residual": "Of the residual stream",
    "behaviour": "Of what the model answers",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, after their section's first one."""
    names = {
        "hypotheses": by_kind(),
        "controls": list(CONTROLS.known()),
        "scores": list(SCORES.known()),
    }
    for entry in config.nav or []:
        for pages in entry.values():
            folder = pages[0].partition("/")[0] if isinstance(pages, list) else ""
            if folder in names:
                pages += [{name: f"{folder}/{name}.md"} for name in names[folder]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Every page: its place, and its Markdown."""
    yield "hypotheses/index.md", hypotheses_index()
    yield "controls/index.md", controls_index()
    yield "scores/index.md", scores_index()
    for name, hypothesis in HYPOTHESES.known().items():
        yield f"hypotheses/{name}.md", hypothesis_page(hypothesis)
    for name, control in CONTROLS.known().items():
        yield f"controls/{name}.md", control_page(control)
    for name, score in SCORES.known().items():
        yield f"scores/{name}.md", score_page(score)


# -- hypotheses --------------------------------------------------------------------------------


def by_kind() -> list[str]:
    """Names of the hypotheses, explanations first."""
    known = HYPOTHESES.known()
    return [name for kind in KINDS for name in sorted(known) if known[name].kind == kind]


def hypotheses_index() -> str:
    """The list of hypotheses."""
    known = HYPOTHESES.known()
    parts = [
        "# Hypotheses",
        "A hypothesis turns demonstrations into a change of the model: an update of weights, or "
        "anything else that hooks can do. `iclgd hypotheses` prints this list, "
        "[extending](../extending.md) says how to add one.",
    ]
    for kind, title in KINDS.items():
        rows = [
            (_link(name), known[name].description, known[name].source)
            for name in by_kind()
            if known[name].kind == kind
        ]
        parts += [f"## {title}", _table(("hypothesis", "what it does", "source"), rows)]
    return _page(parts)


def hypothesis_page(hypothesis: Hypothesis) -> str:
    """One hypothesis: what it is, its algebra, its settings, its function."""
    build = inspect.unwrap(hypothesis.build)
    parts = [
        f"# {hypothesis.name}",
        f"*{_sentence(hypothesis.description)}*",
        f"**{IS[hypothesis.kind]}** It reads {_listed(hypothesis.needs)}."
        + (f" Source: {hypothesis.source}." if hypothesis.source else ""),
        _module_text(build),
        *_found(hypothesis.name),
    ]
    rows = [
        (f"`{each.name}`", f"`{each.default!r}`", f"`{each.annotation}`", each.meaning)
        for each in hypothesis.described_settings()
    ]
    if rows:
        parts += ["## Settings", _table(("setting", "default", "type", "what it does"), rows)]
    parts += [
        "## Use",
        f'```python\nresult = lens.compare(model, episodes, ["{hypothesis.name}"])\n```',
        f"```sh\niclgd compare -H {hypothesis.name}\n```",
        "## In Python",
        _reference(build),
    ]
    return _page(parts)


# -- controls ----------------------------------------------------------------------------------


def controls_index() -> str:
    """The list of controls."""
    rows = [
        (_link(name), each.meaning, each.kind, "yes" if name in DEFAULT_CONTROLS else "")
        for name, each in CONTROLS.known().items()
    ]
    return _page(
        [
            "# Controls",
            "What a score means is what it is where the hypothesis cannot be true. Choose with "
            "`controls=` or `--control`; [how to read a verdict](../verdicts.md) says what each "
            "kind is compared with.",
            _table(("control", "what it asks", "kind", "by default"), rows),
        ]
    )


def control_page(control: Control) -> str:
    """One control: what it asks, what it replaces, its function."""
    stands = {
        "alone": "It stands alone: it belongs to no hypothesis.",
        "change": "It puts directions in place of the hypothesis's change.",
    }
    replaces = (
        f"It replaces the {control.acts_on} of a hypothesis: results call it `gd@{control.name}`, "
        f"`lcgd@{control.name}`, and so on."
    )
    parts = [
        f"# {control.name}",
        f"*{_sentence(control.meaning)}*",
        f"{stands.get(control.acts_on, replaces)} {VARIES[control.kind]}"
        + (" It is asked by default." if control.name in DEFAULT_CONTROLS else ""),
        "## Use",
        "```python\nresult = lens.compare("
        f'model, episodes, ["gd"], controls=["{control.name}"])\n```',
        f"```sh\niclgd compare -H gd -C {control.name}\n```",
        "## In Python",
    ]
    if control.name in HYPOTHESES.known():
        parts += [f"It is [the hypothesis of this name](../hypotheses/{control.name}.md)."]
    else:
        parts += [_reference(resolve(control.function))]
    return _page(parts)


# -- scores ------------------------------------------------------------------------------------


def scores_index() -> str:
    """The list of scores."""
    known = SCORES.known()
    parts = [
        "# Scores",
        "Verdicts rest on the primary scores; [method](../method.md) has their equations.",
    ]
    for group, title in GROUPS.items():
        rows = [
            (
                _link(name) + (" (primary)" if each.primary else ""),
                each.meaning,
                each.level,
                each.span,
            )
            for name, each in known.items()
            if each.group == group
        ]
        parts += [f"## {title}", _table(("score", "what it says", "of each", "range"), rows)]
    return _page(parts)


def score_page(score: Score) -> str:
    """One score: what it says, where it exists, what a perfect instrument reads, its function."""
    facts = [
        ("of each", score.level),
        ("range", score.span),
        # What is asked for says something of one setting: near to in-context learning is neither.
        ("nearer to in-context learning", "" if score.asked else score.better),
        ("the oracle must read", "" if score.oracle is None else f"{score.oracle:g}"),
        ("needs wrong labels", "yes" if "shuffled" in score.needs else ""),
        ("source", score.source),
        ("follows from", FACTS[score.fact] if score.fact else ""),
    ]
    made = score.made_by() or score.statistic or ""
    by_head = [] if score.by_head is None else [_reference(resolve(score.by_head))]
    return _page(
        [
            f"# {score.name}",
            f"*{_sentence(score.meaning)}*"
            + (" **A primary score: verdicts rest on it.**" if score.primary else ""),
            _table(("", ""), [fact for fact in facts if fact[1]]),
            "## Use",
            f'```python\nresult.tensor("{score.name}", "gd")  # by query'
            + (", layer" if score.level != "query" else "")
            + "\n"
            + f"result.frame().query(\"score == '{score.name}'\")\n```",
            "## In Python",
            _reference(resolve(made)),
            *by_head,
        ]
    )


# -- Markdown ----------------------------------------------------------------------------------


def _page(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _link(name: str) -> str:
    return f"[`{name}`]({name}.md)"


def _listed(words: tuple[str, ...]) -> str:
    return " and ".join(f"the {word}" for word in words)


def _sentence(text: str) -> str:
    text = text.rstrip(".") + ("" if text.endswith("?") else ".")
    return text[:1].upper() + text[1:]


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _module_text(function: Callable[..., Any]) -> str:
    """The docstring of the module that holds a function: its idea, equations and limits."""
    return inspect.getdoc(sys.modules[function.__module__]) or ""


def _found(name: str) -> list[str]:
    """What the zoo's run found, where its sentences are at hand (`benchmarks/found.py`)."""
    path = Path(__file__).resolve().parents[1] / "found.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if name not in told:
        return []
    lines = "\n".join(f"- {sentence}" for sentence in told[name])
    return ["## What was found", lines, "From [the zoo's run](../zoo.md)."]


def _reference(function: Callable[..., Any]) -> str:
    function = inspect.unwrap(function)
    return (
        f"::: {function.__module__}.{function.__qualname__}\n    options:\n      heading_level: 3"
    )
