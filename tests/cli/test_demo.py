"""The demo: what it measures, what it writes, and that its sentences follow from the numbers."""

from __future__ import annotations

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from iclgd_lens import cli
from iclgd_lens.cli.demo import DemoResult, beside, pooled, run_demo, sentences, stated_rates
from iclgd_lens.cli.demo_page import _tables, heatmap_figure, show_demo, write_demo
from iclgd_lens.comparison import Comparison
from iclgd_lens.errors import LensError
from tests.smallmodel import save_small_model

TASKS = ("sst2", "agnews")
RATES = (0.01, 0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def result(model: str) -> DemoResult:
    return run_demo(model, tasks=TASKS, shots=4, queries=6, rates=RATES)


def test_both_models_are_measured_beside_random_and_oracle(result: DemoResult) -> None:
    own = {"ZS", "ICL", "gd", "lcgd", "random[gd]", "random[lcgd]", "oracle"}
    assert set(result.comparison.hypotheses) == own | {f"{name}@untrained" for name in own}
    assert len(result.comparison.gold) == 6 * len(TASKS)
    assert result.chance == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_the_instrument_reads_one_on_both_models(result: DemoResult) -> None:
    for name in ("oracle", "oracle@untrained"):
        for score in ("SimAOU", "SimAM"):
            values = result.comparison.tensor(score, name)
            # Rotary positions are relative: at layer 0 demonstrations leave a query's own scores as
            # they are, and a change of zero has no direction.
            defined = values[:, 1:] if score == "SimAM" else values
            assert defined.numpy() == pytest.approx(1, abs=1e-4)


def test_the_twin_is_another_model(result: DemoResult) -> None:
    ours, twin = (result.comparison.tensor("SimAOU", n) for n in ("gd", "gd@untrained"))
    assert not torch.allclose(ours, twin)


def test_learning_rates_are_of_the_grid_and_stated(result: DemoResult) -> None:
    assert set(result.rates) == set(TASKS)
    assert {rate for found in result.rates.values() for rate in found.values()} <= set(RATES)
    stated = stated_rates(result)
    for task, found in result.rates.items():
        assert f"{task}: GD {found['gd']:g}, LCGD {found['lcgd']:g}" in stated
    assert "held out" in stated


def test_the_same_seed_gives_the_same_numbers(model: str, result: DemoResult) -> None:
    again = run_demo(model, tasks=TASKS, shots=4, queries=6, rates=RATES)
    assert json.dumps(again.as_dict()) == json.dumps(result.as_dict())


def test_a_task_without_embedded_rows_is_refused_before_anything_runs(model: str) -> None:
    told: list[str] = []
    with pytest.raises(LensError, match="rte"):
        run_demo(model, tasks=("sst2", "rte"), progress=told.append)
    assert not any("learning rates" in text for text in told)


def test_a_page_and_a_figure_are_written_whole(result: DemoResult, tmp_path: Path) -> None:
    page, figure = write_demo(result, tmp_path / "new")
    assert sorted(path.name for path in page.parent.iterdir()) == ["heatmaps.html", "index.html"]
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', text.split("<script")[0]) == []
    assert not re.search(r'<script[^>]*\ssrc=|<link[^>]*\shref="http', text)
    for sentence in sentences(result):
        assert sentence.replace("'", "&#x27;") in text
    for path in (page, figure):
        assert "Plotly.newPlot" in path.read_text(encoding="utf-8")


def test_the_figure_sets_trained_beside_untrained(result: DemoResult) -> None:
    figure = heatmap_figure(result)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["GD, trained", "GD, untrained twin", "LCGD, trained", "LCGD, untrained twin"]
    maps = [trace for trace in figure.data if trace.zmin == -1]
    expected = result.comparison.tensor("SimAOU", "gd@untrained", by="head").nanmean(0)
    assert torch.allclose(torch.tensor(maps[1].z).float(), expected.float(), equal_nan=True)


def test_what_is_printed_names_every_number_and_file(result: DemoResult, tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        show_demo(result, [tmp_path / "index.html"], console)
    text = capture.get()
    printed = text.splitlines()
    for title, rows in _tables(result, result.frame()).items():
        assert title in text
        for row in rows:  # each on one line of 80 columns, none wrapped or cut
            assert any(all(cell in line for cell in row) for line in printed), row
    for part in (
        "zero-shot",
        "ICL",
        "4 demonstrations",
        "after GD",
        "after LCGD",
        "oracle",
        "random",
    ):
        assert part in text
    for part in (*sentences(result), str(tmp_path / "index.html")):
        assert " ".join(part.split()) in " ".join(text.split())


def test_a_file_in_the_folders_place_is_an_error(result: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(LensError, match="is a file"):
        write_demo(result, tmp_path / "taken")


def test_the_command_prints_words_or_json(
    result: DemoResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from iclgd_lens import demo

    asked: dict[str, Any] = {}

    def measured(model: str, **options: Any) -> DemoResult:
        inspect.signature(run_demo).bind(model, **options)
        asked.update(options, model=model)
        return result

    monkeypatch.setattr(demo, "run_demo", measured)
    command = ["demo", "--model", "m", "--shots", "4", "--queries", "6", "-o", str(tmp_path)]
    assert cli.run([*command, "--json"]) == 0
    assert (asked["model"], asked["shots"], asked["queries"]) == ("m", 4, 6)
    document = json.loads(capsys.readouterr().out)
    assert len(document["sentences"]) == 2
    assert all(Path(path).is_file() for path in document["files"])
    assert cli.run(command) == 0
    assert str(tmp_path / "index.html") in capsys.readouterr().out.replace("\n", "")


# -- sentences -------------------------------------------------------------------------------------

N = 60


def made_up(
    icl: float, twin_icl: float, scores: dict[str, float], failures: dict[str, str] | None = None
) -> DemoResult:
    """A result with accuracy .5 without demonstrations, and the given accuracies and SimAOU."""

    def right(share: float) -> torch.Tensor:
        return (torch.arange(N) < share * N).float()

    def values(level: float) -> dict[str, torch.Tensor]:
        noise = 0.05 * torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
        return {"accuracy": right(0.5), "SimAOU": level + noise, "SimAM": level + noise}

    def one(accuracy: float, suffix: str) -> Comparison:
        own = {name: values(scores.get(f"{name}{suffix}", 0.0)) for name in ("gd", "lcgd")}
        own["random[gd]"] = values(scores.get(f"random[gd]{suffix}", 0.0))
        settings = {"ZS": {"accuracy": right(0.5)}, "ICL": {"accuracy": right(accuracy)}}
        return Comparison({**settings, **own}, torch.zeros(N, dtype=torch.int64))

    comparison = beside(one(icl, ""), one(twin_icl, "@untrained"))
    return DemoResult(comparison, {"sst2": {"gd": 0.1, "lcgd": 0.1}}, 0.5, 16, "made up")


@pytest.mark.parametrize(
    ("icl", "twin", "scores", "learning", "meaning"),
    [
        (0.9, 0.5, {"gd": 0.2, "lcgd": 0.2, "gd@untrained": 0.2, "lcgd@untrained": 0.3},
         "so it learns in context; its untrained twin's goes from 0.50 to 0.50, so it does not",
         "no evidence that in-context learning is gradient descent"),
        (0.9, 0.5, {"gd": 0.2, "lcgd": 0.4, "gd@untrained": 0.2, "lcgd@untrained": 0.1},
         "learns in context", "so LCGD resembles in-context learning more"),
        (0.9, 0.5, {"gd": 0.5, "lcgd": 0.4}, "learns in context", "so GD and LCGD resemble in-c"),
        (0.9, 0.5, {"gd": 0.3, "lcgd": 0.4, "random[gd]": 0.6},
         "learns in context", "yet GD does not beat every other control"),
        (0.9, 0.9, {"gd": 0.5}, "so it learns too", "the twin learns in context too"),
        (0.5, 0.5, {"gd": 0.5}, "does not clearly learn", "no clear learning in context here"),
    ],
)  # fmt: skip
def test_sentences_follow_from_the_numbers(
    icl: float, twin: float, scores: dict[str, float], learning: str, meaning: str
) -> None:
    first, second = sentences(made_up(icl, twin, scores))
    assert learning in first
    assert meaning in second
    assert f"from 0.50 to {icl:.2f}" in first


def test_undefined_scores_make_no_claim() -> None:
    scores = {"gd": math.nan, "lcgd": math.nan, "gd@untrained": 0.1, "lcgd@untrained": 0.1}
    _, second = sentences(made_up(0.9, 0.5, scores))
    assert "—" in second
    assert "cannot tell" in second


def test_pooling_keeps_every_query_and_drops_what_differs() -> None:
    parts = []
    for n, labels in ((3, 2), (5, 4)):
        own = {"accuracy": torch.ones(n), "label_scores": torch.zeros(n, labels)}
        facts = {"episode": {"task": f"t{labels}"}}
        parts.append(Comparison({"ZS": own}, torch.zeros(n).long(), {"gd": "diverged"}, facts))
    whole = pooled(parts)
    assert set(whole.values["ZS"]) == {"accuracy"}
    assert whole.values["ZS"]["accuracy"].shape == (8,)
    assert whole.failures == {"t2: gd": "diverged", "t4: gd": "diverged"}
