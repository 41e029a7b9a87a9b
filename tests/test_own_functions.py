"""Hypotheses, scores and controls of somebody's own that are wrong: told in a line, and kept apart.

A comparison goes on without what raises; what returns something else than it has to, or is
registered wrongly, is refused with what is allowed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iclgd_lens as lens
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.cli.app import run
from iclgd_lens.controls import CONTROLS, Control
from iclgd_lens.errors import ControlError, HypothesisError, LensError, ScoreError
from iclgd_lens.hypotheses.registry import HYPOTHESES
from iclgd_lens.intervention import Intervention
from iclgd_lens.raised import FailureWarning
from iclgd_lens.registry import Table
from iclgd_lens.scores import SCORES
from iclgd_lens.workers import can_copy
from tests import checks

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
HERE = r"\(test_own_functions\.py:\d+\)"


@pytest.fixture(autouse=True)
def own_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it; calls are not type-checked, as a user's are not."""
    tables: tuple[Table[Any], ...] = (HYPOTHESES, SCORES, CONTROLS)
    for table in tables:
        monkeypatch.setattr(table, "_entries", table.known())
    with checks.untyped():
        yield


def compared(model: Any, hypotheses: Any, controls: Any = (), draws: int = 1, **named: Any) -> Any:
    episodes = [checks.episode(queries=4, seed=seed) for seed in range(draws)]
    settings = {"budget": "published", "twins": 1, "realisations": 1, "resamples": 20}
    return lens.compare(model, episodes, hypotheses, controls=controls, **settings | named)


def raises(host: Any, episode: Any, *, lr: float | None = None) -> Intervention:
    raise ValueError("my own\nbug")


class LateTrouble(Intervention):
    """Hooks that raise as the changed model is read."""

    def hooks(self, host: Any) -> Any:
        def change(activation: Any, hook: Any) -> Any:
            raise KeyError("late")

        return [(host.z_hook(0), change)]


# -- what raises -----------------------------------------------------------------------------------


@BY_KIND
@pytest.mark.parametrize("budget", ["published", "matched"])
def test_a_hypothesis_that_raises_is_its_own_failure_alone(kind: str, budget: str) -> None:
    host = checks.host(kind, "gpt2")
    before = checks.photograph(host.model)
    rules = {"raises": raises, "late": lambda host, episode: LateTrouble(), "gd": "gd"}
    search = {"grid": [0.01, 0.1], "epochs": [1], "losses": ["label"], "folds": 1}
    with pytest.warns(FailureWarning) as caught:
        result = compared(
            host, rules, ("shuffled", "random", "untrained"), draws=2,
            budget=search if budget == "matched" else budget,
        )  # fmt: skip
    before.assert_same(host.model)
    assert any(str(each.message).startswith("raises raised ValueError") for each in caught)
    told = result.failures
    assert re.fullmatch(rf"draw 0: raises raised ValueError: my own bug {HERE}", told["raises"])
    assert re.search(rf"late raised KeyError: 'late' {HERE}", told["late"])
    assert "raises@untrained" in told
    assert not [label for label in told if label.startswith(("gd", "random[gd"))]
    for name in ("raises", "late"):
        assert result.tensor("SimAOU", name).isnan().all()
    alone = compared(
        host, ["gd"], ("shuffled", "random", "untrained"), draws=2,
        budget=search if budget == "matched" else budget,
    )  # fmt: skip
    for label in ("gd", "gd@shuffled", "random[gd]", "gd@untrained"):
        kept, expected = (each.tensor("SimAOU", label) for each in (result, alone))
        torch.testing.assert_close(kept, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(not can_copy(), reason="processes are not copied here")
def test_copies_of_the_process_go_on_without_what_raises() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.warns(FailureWarning, match="raises raised ValueError"):
        result = compared(host, {"raises": raises, "gd": "gd"}, draws=2, workers=2)
    assert set(result.failures) == {"raises"}
    assert result.tensor("SimAOU", "gd").isfinite().all()


def test_a_budget_that_cannot_be_chosen_for_what_a_hypothesis_raises_is_told() -> None:
    """On fewer demonstrations than it is compared on: it is measured at its defaults."""

    def needs_four(host: Any, episode: Any, *, lr: float | None = None) -> Intervention:
        if len(episode.demonstrations) < 4:
            raise IndexError("too few")
        return lens.gd(host, episode, lr=0.01)

    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.warns(FailureWarning, match="needs_four, while its budget was chosen, raised"):
        result = compared(host, {"needs_four": needs_four}, budget="matched")
    problem = result.provenance["hypotheses"]["needs_four"]["budget"]["problem"]
    assert re.fullmatch(
        rf"needs_four, while its budget was chosen, raised IndexError: too few {HERE}", problem
    )
    assert result.tensor("SimAOU", "needs_four").isfinite().all()


@pytest.mark.parametrize("acts_on", ["update", "demonstrations", "alone"])
def test_a_control_that_raises_is_its_own_failure_alone(acts_on: Any) -> None:
    def trouble(*arguments: Any) -> Any:
        raise RuntimeError("no control")

    lens.control("trouble", acts_on=acts_on)(trouble)
    host = checks.host(checks.kinds()[0], "gpt2")
    before = checks.photograph(host.model)
    with pytest.warns(FailureWarning, match="raised RuntimeError: no control"):
        result = compared(host, ["gd"], ("trouble", "shuffled"), realisations=2)
    before.assert_same(host.model)
    label = {"update": "trouble[gd]", "demonstrations": "gd@trouble", "alone": "trouble"}[acts_on]
    assert re.fullmatch(rf".*raised RuntimeError: no control {HERE}", result.failures[label])
    assert result.tensor("SimAOU", label).isnan().all()
    assert result.tensor("SimAOU", "gd@shuffled").isfinite().all()


def test_mediation_goes_on_without_a_hypothesis_or_control_that_raises() -> None:
    def trouble(*arguments: Any) -> Any:
        raise RuntimeError("no control")

    def nothing(*arguments: Any) -> Any:
        return None

    lens.control("trouble", acts_on="update")(trouble)
    lens.control("nothing", acts_on="demonstrations")(nothing)
    host = checks.host(checks.kinds()[0], "gpt2")
    options: dict[str, Any] = {"budget": "published", "name_heads": False, "resamples": 20}
    with pytest.warns(FailureWarning):
        result = lens.mediate(
            host, checks.episode(queries=4), {"gd": "gd", "raises": raises},
            controls=("trouble",), **options,
        )  # fmt: skip
    assert {"raises", "trouble[gd]"} <= set(result.failures)
    assert np.isfinite(result.map("kept", "gd").value).any()
    with pytest.raises(ControlError, match="must return an Episode"):
        lens.mediate(host, checks.episode(queries=4), ["gd"], controls=("nothing",), **options)


def test_a_score_whose_name_begins_like_another_is_undefined_where_a_build_failed() -> None:
    lens.score("Tok2AttnMine", level="query")(lambda readings: readings.ft.scores[:, 0, 0, 0])
    with pytest.warns(FailureWarning):
        result = compared(checks.host(checks.kinds()[0], "gpt2"), {"raises": raises, "gd": "gd"})
    assert result.tensor("Tok2AttnMine", "raises").isnan().all()


@pytest.mark.parametrize("level", ["query", "layer", "head"])
def test_a_score_that_raises_has_no_values_and_the_others_have_theirs(level: Any) -> None:
    lens.score("trouble", level=level)(lambda readings: 1 // 0)
    host = checks.host(checks.kinds()[0], "gpt2")
    before = checks.photograph(host.model)
    with pytest.warns(FailureWarning, match="The score 'trouble' raised ZeroDivisionError"):
        result = compared(host, ["gd"], ("untrained",))
    before.assert_same(host.model)
    assert re.fullmatch(
        rf"The score 'trouble' raised ZeroDivisionError: .* {HERE}", result.failures["trouble"]
    )
    assert result.tensor("trouble", "gd", level).isnan().all()
    assert result.tensor("SimAOU", "gd").isfinite().all()


def test_the_command_keeps_the_rest_and_says_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rais.py").write_text(
        "import iclgd_lens as lens\n\n\n@lens.hypothesis('raises')\n"
        "def raises(host, episode, *, lr=None):\n    raise ValueError('my own bug')\n\n\n"
        "@lens.control('turned', acts_on='demonstrations')\ndef turned(host, episode, seed):\n"
        "    return episode.with_demonstrations(episode.demonstrations.examples[::-1])\n"
    )
    asked = ["compare", "--import", str(tmp_path / "rais.py"), "-H", "raises", "-H", "gd", "-C"]
    asked += ["turned", "--quick", "--lr", "0.3", "--shots", "4", "--queries", "4"]
    assert run(asked) == 0
    out, error = capsys.readouterr()
    assert "note: raises raised ValueError: my own bug (rais.py:6)" in error
    assert "raises: raises raised ValueError: my own bug (rais.py:6)" in out.split("Read with")[1]
    assert "gd@turned" in out.replace("\n", "") or "turned" in out


def test_a_benchmark_names_the_score_that_raises(tmp_path: Path) -> None:
    lens.score("trouble")(lambda readings: 1 // 0)
    plan = {
        "models": ["embedded"], "tasks": ["sst2"], "data": "embedded", "shots": 2, "queries": 2,
        "seeds": [0], "permutations": [0], "hypotheses": ["gd"], "controls": [], "lr": 0.1,
    }  # fmt: skip
    result = run_plan(parse_plan(plan), tmp_path / "run")
    reasons = [failure["reason"] for failure in lens.load_run(tmp_path / "run").failed]
    assert any("The score 'trouble' raised ZeroDivisionError" in reason for reason in reasons)
    assert result is not None


# -- what returns something else -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "returned", "told"),
    [
        ("layer", lambda r: r.ft.z[:, 0, 0, 0], r"a tensor of shape \(4,\); .* \[query layer\]"),
        ("query", lambda r: r.ft.z, r"a tensor of shape \(4, 3, 4, 8\); .* \[query\], here \(4,\)"),
        ("head", lambda r: r.ft.z[:, 0, 0, 0], r"a tensor of shape \(4,\); .*query layer head"),
        ("layer", lambda r: [1.0], r"a list; it must return a tensor \[query layer\]"),
    ],
)
def test_a_score_of_a_wrong_shape_is_told_what_its_level_needs(
    level: Any, returned: Callable[[Any], Any], told: str
) -> None:
    lens.score("mine", level=level)(returned)
    with pytest.raises(ScoreError, match=rf"The score 'mine' \(level='{level}'\) returned {told}"):
        compared(checks.host(checks.kinds()[0], "gpt2"), ["gd"])


def test_a_score_may_be_of_no_subject_or_of_the_first_queries_alone() -> None:
    lens.score("never")(lambda readings: None)
    lens.score("first", level="head")(lambda readings: readings.rank_correlation)
    result = compared(checks.host(checks.kinds()[0], "llama"), ["gd"], tok2attn_queries=2)
    assert "never" not in result.values["gd"]
    assert torch.equal(result.tensor("first", "gd"), result.tensor("Tok2Attn", "gd"))


@pytest.mark.parametrize(
    ("acts_on", "given", "told"),
    [
        ("update", None, "returned None; .* acts_on='update' must return an Intervention"),
        ("demonstrations", None, "returned None; .* must return an Episode"),
        ("demonstrations", [], "returned a list; .* must return an Episode"),
        ("network", None, "returned None; .* must return a network"),
        ("change", None, "returned None; .* must return scores by name"),
    ],
)
def test_a_control_that_returns_something_else_is_told_what_it_must(
    acts_on: Any, given: Any, told: str
) -> None:
    lens.control("mine", acts_on=acts_on)(lambda *arguments: given)
    with pytest.raises(ControlError, match=f"The control 'mine' {told}"):
        compared(checks.host(checks.kinds()[0], "gpt2"), ["gd"], ("mine",))


# -- what is registered wrongly --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: lens.control("x", acts_on="demo"), ControlError,  # type: ignore[arg-type]
         r"x: acts_on is 'demo'; allowed: update, .*Did you mean 'demonstrations'\?"),
        (lambda: lens.control("x", kind="drew"), ControlError,  # type: ignore[arg-type]
         r"kind is 'drew'; allowed: draw, .*Did you mean 'draw'\?"),
        (lambda: lens.score("x", level="heads"), ScoreError,  # type: ignore[arg-type]
         r"x: level is 'heads'; allowed: query, layer, head\. Did you mean 'head'\?"),
        (lambda: lens.score("x", better="high"), ScoreError,  # type: ignore[arg-type]
         r"better is 'high'; .*Did you mean 'higher'\?"),
        (lambda: lens.score("x", group="all"), ScoreError,  # type: ignore[arg-type]
         r"group is 'all'; allowed: attention, behaviour"),
        (lambda: lens.score("x", needs=("shuffle",)), ScoreError,  # type: ignore[arg-type]
         r"needs is 'shuffle'; allowed: shuffled"),
        (lambda: lens.control("x", acts_on="demonstrations")(lambda episode, seed: episode),
         ControlError, r"called with \(host, episode, seed\); .* takes \(episode, seed\)"),
        (lambda: lens.control("x")(lambda host, episode, seed: episode), ControlError,
         r"acts_on='alone' is called with \(host, episode\)"),
        (lambda: lens.score("x")(lambda host, readings: readings), ScoreError,
         r"x: a score is called with \(readings\); the function takes \(host, readings\)"),
        (lambda: lens.hypothesis("x", kind="checks"), HypothesisError,  # type: ignore[arg-type]
         r"x: kind is 'checks'; allowed: explanation, .*Did you mean 'check'\?"),
        (lambda: lens.hypothesis("x", needs="query"), HypothesisError,  # type: ignore[arg-type]
         r"x: needs is 'query'; allowed: demonstrations, .*Did you mean 'queries'\?"),
        (lambda: lens.hypothesis("x")(lambda host, *, lr: None), HypothesisError,
         r"x: a hypothesis is called with \(host, episode\); the function takes \(host, \*, lr\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_as_it_is_registered(
    make: Callable[[], Any], error: type[LensError], told: str
) -> None:
    with pytest.raises(error, match=told):
        make()
    assert "x" not in (*SCORES.known(), *CONTROLS.known(), *HYPOTHESES.known())


def test_parameters_with_defaults_or_gathered_fit() -> None:
    lens.control("more", acts_on="update")(lambda delta, seed, scale=1.0: delta)
    lens.control("any", acts_on="network")(lambda *arguments: arguments[0])
    lens.score("kept")(lambda readings, power=1: None)
    lens.hypothesis("set")(lambda host, episode, *, lr: None)
    assert "kept" in SCORES


TAKEN = """
import iclgd_lens as lens
made = [lambda: lens.control("random", acts_on="update")(lambda delta, seed: delta),
        lambda: lens.score("AUC")(lambda readings: None),
        lambda: lens.hypothesis("gd")(lambda host, episode: None)]
for make in made:
    try:
        make()
    except lens.LensError as error:
        print(error)
print("shuffled" in lens.CONTROLS, "SimAOU" in lens.SCORES, "lcgd" in lens.HYPOTHESES)
"""


def test_a_built_in_name_is_taken_before_any_table_was_read() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN], capture_output=True, text=True, check=True, timeout=120
    )
    control, score, hypothesis, still = done.stdout.splitlines()
    assert control.startswith("A control called 'random' is registered already (by iclgd_lens.")
    assert score.startswith("A score called 'AUC' is registered already (by iclgd_lens)")
    assert hypothesis.startswith("A hypothesis called 'gd' is registered already (by iclgd_lens.")
    assert still == "True True True"


def test_a_table_whose_loading_failed_is_loaded_again() -> None:
    tries: list[int] = []

    def load() -> None:
        table.add(Control("first", "iclgd_lens.nulls:shuffled"))
        tries.append(1)
        if len(tries) == 1:
            raise OSError("a file was away")
        table.add(Control("second", "iclgd_lens.nulls:shuffled"))

    table: Table[Control] = Table(
        "control", Control, "no.such.group", lambda name, function: Control(name, function),
        error=HypothesisError, load=load,
    )  # fmt: skip
    with pytest.raises(OSError, match="away"):
        list(table)
    assert list(table) == ["first", "second"]
    assert list(table) == ["first", "second"]
    assert len(tries) == 2
