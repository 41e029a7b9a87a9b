"""The API reference: every public name, from the docstrings; one without any fails the build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "iclgd_lens"
GROUPS: dict[str, tuple[str, str]] = {
    "models": ("Models", "load_model untrained Host LinearSite LensError"),
    "episodes": (
        "Tasks, rows and episodes",
        "load_episodes load_episode load_demonstrations check_rows Task get_task list_tasks "
        "Episode Demonstrations Demonstration Query EpisodeWarning Protocol DEFAULT REFERENCE EOS "
        "shuffled_labels",
    ),
    "comparing": ("Comparing", "compare Comparison FailureWarning Subject Reader Readout"),
    "verdicts": (
        "Gate, behaviour, verdicts",
        "Gate Behaviour behaves Verdict decide Evidence ControlEvidence",
    ),
    "interventions": (
        "Interventions and deltas",
        "ParameterDelta Intervention Batch Injection Patch Shift",
    ),
    "heads": (
        "Heads, mediation, sweeps",
        "HeadScores indirect_effects induction_scores mediate Mediation readout_attention sweep "
        "Sweep",
    ),
    "updates": (
        "Hypotheses as functions",
        "gd lcgd lcgd_dynamic lcgd_attention lcgd_regularized lcgd_multitask lcgd_shared lcgd_meta "
        "lcgd_initial lcgd_reinforce evolution evolution_weights bayes_lcgd newton gd_plus_plus "
        "distilled ceiling constant_shift oracle random zero",
    ),
    "registries": (
        "Tables of names",
        "hypothesis HYPOTHESES Hypothesis get_hypothesis list_hypotheses control CONTROLS Control "
        "score SCORES Score",
    ),
    "benchmarks": ("Benchmarks", "load_plan run_plan load_run run_differences RunDifferences"),
    "worlds": ("Worlds", "worlds"),
}
"""Pages, and the public names on each: a name that is on none fails the build."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation."""
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"] += [f"reference/{page}.md" for page in GROUPS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages.

    Raises:
        PluginError: A public name is on no page, on two, or has no documentation.
    """
    package = griffe.load(PACKAGE, search_paths=[str(ROOT)], docstring_parser="google")
    problems = [*misplaced(package), *undocumented(package)]
    if problems:
        raise PluginError("The reference is not whole:\n" + "\n".join(problems))
    files.append(File.generated(config, "reference/index.md", content=index(package)))
    for page, (title, names) in GROUPS.items():
        content = "\n\n".join([f"# {title}", *_entries(package, names.split())])
        files.append(File.generated(config, f"reference/{page}.md", content=content + "\n"))
    return files


def public(package: griffe.Module) -> list[str]:
    """The public names, as the stub lists them."""
    return [name for name in package.members if name in _stub_names()]


def misplaced(package: griffe.Module) -> list[str]:
    """What is wrong with `GROUPS`."""
    placed = [name for _, names in GROUPS.values() for name in names.split()]
    there = public(package)
    return [
        *(
            f"{name} is on no page of GROUPS in docs/hooks/reference.py"
            for name in there
            if name not in placed
        ),
        *(f"{name} is on a page, but not public" for name in placed if name not in there),
        *(f"{name} is on two pages" for name in sorted(set(placed)) if placed.count(name) > 1),
    ]


def undocumented(package: griffe.Module) -> list[str]:
    """Public names, methods, properties and fields that nothing is said about."""
    found: list[str] = []
    for name in public(package):
        thing = target(package, name)
        found += _bare(name, thing)
        if thing.is_module:
            for own, member in _given(thing).items():
                found += [*_bare(f"{name}.{own}", member), *_bare_members(f"{name}.{own}", member)]
        found += _bare_members(name, thing)
    return found


def index(package: griffe.Module) -> str:
    """The list of public names, with what each is."""
    parts = [
        "# Reference",
        "Everything that `import iclgd_lens as lens` gives. Whatever has another path is an "
        "inner part and may move.",
    ]
    for page, (title, names) in GROUPS.items():
        rows = ["| name | what it is |", "|---|---|"]
        for name in names.split():
            thing = target(package, name)
            text = _first_line(thing).replace("|", "\\|")
            rows.append(f"| [`{name}`][{thing.path}] | {text} |")
        parts += [f"## [{title}]({page}.md)", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def target(package: griffe.Module, name: str) -> griffe.Object:
    """What a public name stands for."""
    member = package[name]
    return member.final_target if member.is_alias else member


def _stub_names() -> set[str]:
    stub = (ROOT / PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    return {line.rpartition(" as ")[2] for line in stub.splitlines() if " as " in line}


def _entries(package: griffe.Module, names: list[str]) -> Iterator[str]:
    """What mkdocstrings is asked for; a module is followed by what it gives."""
    for name in names:
        thing = target(package, name)
        if name in GROUPS["updates"][1].split():
            # Its page is the hypothesis's own.
            yield f"- [`{name}`][{thing.path}]: {_first_line(thing)}"
        elif thing.is_module:
            yield f"::: {thing.path}\n    options:\n      members: false\n      heading: {name}"
            yield from (f"::: {given.path}" for given in _given(thing).values())
        else:
            yield f"::: {thing.path}"


def _first_line(thing: griffe.Object) -> str:
    text = thing.docstring.value if thing.docstring else ""
    return " ".join(text.split("\n\n")[0].split())


def _given(module: griffe.Object) -> dict[str, griffe.Object]:
    """The public names of a module."""
    there = module.members.items()
    return {
        name: member.final_target for name, member in there
        if member.is_alias and not name.startswith("_")
    }  # fmt: skip


def _bare(name: str, thing: griffe.Object) -> list[str]:
    return [] if thing.docstring else [f"{name} has no docstring ({thing.path})"]


def _bare_members(name: str, thing: griffe.Object) -> list[str]:
    if not thing.is_class:
        return []
    listed = _listed(thing)
    return [
        problem
        for own, member in thing.members.items()
        if not (own.startswith("_") or member.is_alias or own in listed)
        for problem in _bare(f"{name}.{own}", member)
    ]


def _listed(thing: griffe.Object) -> set[str]:
    """Fields that the docstring of a class lists under "Attributes" or "Args"."""
    if not thing.docstring:
        return set()
    sections = thing.docstring.parse("google")
    kinds = (griffe.DocstringSectionKind.attributes, griffe.DocstringSectionKind.parameters)
    return {each.name for part in sections if part.kind in kinds for each in part.value}
