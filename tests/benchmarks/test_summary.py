"""Runs in Markdown and CSV: what is said of a task is what the run's own frames hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import summary
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.phrases import number
from iclgd_lens.verdicts.verdict import OVERALL


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> summary.Runs:
    folders = []
    for name, shots in (("eight", 8), ("none", 0)):
        plan = parse_plan(
            {
                "name": name, "models": ["embedded"], "tasks": ["sst2"], "shots": shots,
                "queries": 16, "seeds": [0, 1, 2], "lr": 0.3, "tok2attn_queries": 0,
                "controls": ["random", "shuffled"],
                "hypotheses": {"gd": {"hypothesis": "gd", "settings": {"epochs": 1}}},
            }
        )  # fmt: skip
        folders.append(tmp_path_factory.mktemp(name) / "run")
        run_plan(plan, folders[-1])
    return summary.opened(folders)


def test_every_mean_is_the_frames(runs: summary.Runs) -> None:
    found = summary.means(runs).set_index(["run", "task", "hypothesis", "score"])["value"]
    for name, run in runs.items():
        frame = run.frame()
        whole = frame[frame["level"] == "all"].set_index(["hypothesis", "score"])["value"]
        for hypothesis, score in (("gd", "SimAOU"), ("ICL", "AUC"), ("random[gd]", "SimAM")):
            if (hypothesis, score) in whole.index:
                one, other = found[name, "sst2", hypothesis, score], whole[hypothesis, score]
                assert one == other or (pd.isna(one) and pd.isna(other))
            else:
                assert name == "none"  # without demonstrations an update has nothing to learn from


def test_the_gate_is_said_of_every_run(runs: summary.Runs) -> None:
    lines = [line for line in summary.gates(runs) if "| sst2 |" in line]
    assert [line.split(" | ")[0] for line in lines] == ["| eight", "| none"]
    assert "learns" in lines[0]
    assert "none shown" in lines[1]
    (comparison,) = runs["eight"].comparisons.values()
    gate = comparison.gate()
    assert gate is not None
    areas = [number(gate.settings[name]["AUC"].value) for name in ("ZS", "ICL", "ICL_shuffled")]
    gains = [str(gate.differences["ICL", name]["AUC"]) for name in ("ZS", "ICL_shuffled")]
    assert len({*areas}) == 3
    assert lines[0].endswith(f"| {' | '.join([*areas, *gains])} |")


def test_verdicts_are_given_where_there_is_something_to_explain(runs: summary.Runs) -> None:
    (learns,), (nothing,) = (runs[name].comparisons.values() for name in ("eight", "none"))
    given = list(summary.verdicts(learns))[2:]
    verdicts = [each for each in learns.verdicts() if each.control == OVERALL]
    assert len(given) == len(verdicts) > 0
    for line, verdict in zip(given, verdicts, strict=True):
        assert f"| {verdict.score} | {verdict.verdict} |" in line
    assert next(iter(summary.verdicts(nothing))).startswith("No verdict applies. No in-context")


def test_the_page_holds_a_table_a_task_and_the_file_every_mean(
    runs: summary.Runs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    summary.main([Path(run.where) for run in runs.values()], tmp_path / "means.csv")
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("###")] == [
        "### eight: sst2", "### none: sst2",
    ]  # fmt: skip
    assert all(f"| `{name}` |" in shown for name in ("ZS", "gd", "random[gd]"))
    written = pd.read_csv(tmp_path / "means.csv")
    assert len(written) == len(summary.means(runs))
    assert set(written["run"]) == set(runs)


def test_a_line_holds_a_hypothesis_beside_its_controls(runs: summary.Runs) -> None:
    (comparison,) = runs["eight"].comparisons.values()
    heading, _, *lines = summary.beside(comparison)
    assert [line.split(" | ")[0] for line in lines] == ["| `gd`"]
    names = [each.strip() for each in heading.strip("|").split("|")]
    cells = [each.strip() for each in lines[0].strip("|").split("|")]
    frame = comparison.frame()
    whole = frame[frame["level"] == "all"].set_index(["hypothesis", "score"])["value"]
    for score in ("AUC", "KL_removed", "SimAOU", "SimAOU_label", "SimAOU_label_centred"):
        assert cells[names.index(score)] == number(whole["gd", score])
    for score in ("SimAOU_label", "SimAOU_label_centred"):
        place = names.index(score)
        assert names[place + 1 : place + 4] == ["random", "untrained", "verdict"]
        assert cells[place + 1] == number(whole["random[gd]", score])
        assert cells[place + 2] == ""  # no untrained network was asked
        (verdict,) = (
            each.verdict for each in comparison.verdicts()
            if (each.score, each.control) == (score, OVERALL)
        )  # fmt: skip
        assert cells[place + 3] == verdict


def test_a_page_keeps_its_words_and_gets_its_tables(runs: summary.Runs, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- gates -->\nold\n<!-- end -->\nbetween\n"
        "<!-- beside eight sst2 -->\n<!-- end -->\n<!-- means none sst2 -->\n<!-- end -->\nafter\n"
    )
    folders = [Path(run.where) for run in runs.values()]
    summary.main(folders, None, page)
    once = page.read_text()
    assert "old" not in once
    for words in ("before\n", "\nbetween\n", "\nafter\n"):
        assert words in once
    (learns,), (nothing,) = (runs[name].comparisons.values() for name in ("eight", "none"))
    for lines in (summary.gates(runs), summary.beside(learns), summary.table(nothing)):
        plain = once.replace("\u2212", "-")
        assert "\n".join(lines) in plain
    assert "\u2212" in once
    assert "|---|" in once
    summary.main(folders, None, page)
    assert page.read_text() == once


def test_one_run_measured_again_leaves_what_others_gave(runs: summary.Runs, tmp_path: Path) -> None:
    page, means = tmp_path / "page.md", tmp_path / "means.csv"
    page.write_text(
        "<!-- gates -->\n<!-- end -->\n<!-- means eight sst2 -->\n<!-- end -->\n"
        "<!-- means none sst2 -->\n<!-- end -->\n"
    )
    folders = [Path(run.where) for run in runs.values()]
    summary.main(folders, means, page)
    whole, numbers = page.read_text(), means.read_text()

    # Both runs' numbers, spoilt: only those of the run that is given are made anew.
    page.write_text(whole.replace("`ICL`", "`before`").replace("| sst2 |", "| sst2 | before |"))
    spoilt = pd.read_csv(means)
    spoilt["value"] = 7.0
    spoilt.to_csv(means, index=False)
    summary.main(folders[:1], means, page, keep=True)
    anew, other = page.read_text().split("<!-- means none")
    assert "`before`" in other
    assert other.replace("`before`", "`ICL`") == whole.split("<!-- means none")[1]
    gate_of_other = next(line for line in anew.splitlines() if line.startswith("| none"))
    assert "| before |" in gate_of_other
    assert anew.replace("| before |", "|") == whole.split("<!-- means none")[0]
    found = pd.read_csv(means)
    assert list(found["run"]) == list(spoilt["run"])
    assert set(found.loc[found["run"] == "none", "value"]) == {7.0}

    summary.main(folders[1:], means, page, keep=True)
    assert page.read_text() == whole
    assert means.read_text() == numbers


def test_without_keep_a_run_that_is_not_given_is_an_error(
    runs: summary.Runs, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- means none sst2 -->\n<!-- end -->\n")
    with pytest.raises(KeyError, match="none"):
        summary.main([Path(runs["eight"].where)], None, page)


@pytest.mark.parametrize("place", ["beside eight subj", "beside nine sst2", "figures eight sst2"])
def test_a_page_that_asks_for_what_no_run_holds_is_left_alone(
    runs: summary.Runs, tmp_path: Path, place: str
) -> None:
    page = tmp_path / "page.md"
    text = f"<!-- gates -->\n<!-- end -->\n<!-- {place} -->\n<!-- end -->\n"
    page.write_text(text)
    with pytest.raises(KeyError):
        summary.main([Path(run.where) for run in runs.values()], None, page)
    assert page.read_text() == text


def test_layers_that_no_mean_holds_are_told_below_either_table(
    runs: summary.Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (comparison,) = runs["eight"].comparisons.values()
    lines = pd.DataFrame(
        [("gd", "SimAOU", 0, "lcgd"), ("gd", "Tok2Attn", 1, "lcgd")],
        columns=["hypothesis", "score", "layer", "lacking"],
    )
    monkeypatch.setattr(type(comparison), "partial_layers", lambda _: lines)
    for made in (summary.table, summary.beside):
        told = [line for line in made(comparison) if "leave out" in line]
        assert len(told) == 1
        assert "leave out layer 0, where lcgd has none" in told[0]
