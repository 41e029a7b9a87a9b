"""Plans: what is refused, in what words, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.bench.cells import count_cells, list_cells
from iclgd_lens.bench.plan import Plan, load_plan, parse_plan
from iclgd_lens.bench.plan_check import check_plan
from iclgd_lens.bench.plan_entries import HypothesisSpec, ModelSpec
from iclgd_lens.controls import CONTROLS
from iclgd_lens.errors import PlanError
from iclgd_lens.protocol import DEFAULT, REFERENCE

ROOT = Path(__file__).resolve().parents[2]
LEAST: dict[str, Any] = {"models": ["gpt2"], "tasks": ["sst2"], "hypotheses": ["gd"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hypothesis": ["gd"]}, r"unknown key 'hypothesis' .*Did you mean 'hypotheses'\?"),
        ({"models": [{"name": "gpt2", "dtyp": "float32"}]}, r"models\.0\.dtyp.*mean 'dtype'\?"),
        ({"models": [{"name": "gpt2", "dtype": "float8"}]}, r"models\.0\.dtype.*'bfloat16'"),
        ({"models": [{}]}, r"models\.0\.name: field required"),
        ({"hypotheses": {"a": {"hypotesis": "gd"}}}, r"hypotesis.*Did you mean 'hypothesis'\?"),
        ({"hypotheses": []}, "hypotheses: .*at least 1"),
        ({"hypotheses": ["gd", "gd"]}, "'gd' is given twice"),
        ({"tasks": []}, "tasks: .*at least 1"),
        ({"tasks": ["sst2", "sst2"]}, "tasks: 'sst2' is given twice"),
        ({"models": ["a/x", {"name": "b/x", "label": "a/x"}]}, "model labels: 'a/x' is given"),
        ({"seeds": [1, -1]}, "seeds: -1 is negative"),
        ({"seeds": [1, 2**70]}, r"seeds must be at most 2\*\*63 - 1, not a number of 71 bits"),
        ({"permutations": [2**63]}, r"permutations must be at most 2\*\*63 - 1"),
        ({"control_seed": 2**64}, r"control_seed must be at most 2\*\*63 - 1"),
        ({"seeds": "publishd"}, "seeds: .*'published'"),
        ({"shots": -1}, r"shots: .*greater than or equal to 0 \(-1\)"),
        ({"queries": 0}, "queries: .*greater than or equal to 1"),
        ({"lr": "publishd"}, r"lr: 'publishd' is not a number\. Did you mean 'published'\?"),
        ({"lr": 0}, "lr is 0.0; it must be a positive number"),
        ({"lr": "machted"}, r"lr: 'machted' is not a number\. Did you mean 'matched'\?"),
        ({"lr": {"grid": [0.1]}}, "lr: "),
        ({"search": {"fold": 1}}, r"unknown key 'search\.fold'.*'folds'\?"),
        ({"search": {"folds": 0}}, "^search: folds must be 1 or more, not 0$"),
        ({"search": {"left_out": 1.0}}, "^search: left_out must be between 0 and 1, not 1.0$"),
        ({"search": {"losses": ["labels"]}}, "search: losses must be of all, label"),
        ({"search": {"epochs": []}}, "search: epochs must be one number of 1 or more"),
        ({"search": {"grid": ["fast"]}}, r"search\.grid\.0: .*'fast'"),
        ({"twins": -1}, r"twins: .*greater than or equal to 0 \(-1\)"),
        ({"twin_queries": 0}, "twin_queries: .*greater than or equal to 1"),
        ({"hypotheses": {"gd": {"hypothesis": "gd", "vary": {"lr": []}}}}, "lr has no values"),
        ({"hypotheses": {"gd": {"hypothesis": "gd", "vary": {"lr": [1, 1]}}}}, "1 is given twice"),
        ({"hypotheses": {"gd": {"hypothesis": "gd", "vari": {}}}}, r"vari.*mean 'vary'\?"),
        ({"protocol": "referense"}, r"No protocol is called 'referense'.*'reference'\?"),
        ({"protocol": {"readot": "x"}}, r"no field 'readot'.*'readout'\?"),
        ({"resamples": 0}, "resamples"),
    ],
)
def test_a_malformed_plan_is_refused_in_words(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(LEAST | change)


@pytest.mark.parametrize(
    "name",
    ["../../esc", "/tmp/esc", "..", ".", "", " ", "a/b", "a\\b", "a\nb", "a\0b", "é" * 200, ".x"],
)
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(PlanError, match=r"name: .* is not a name for a folder") as told:
        parse_plan(LEAST | {"name": name})
    assert "\n" not in str(told.value)
    assert parse_plan(LEAST | {"name": "Six tasks, é"}).name == "Six tasks, é"


def test_every_fault_is_listed_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(LEAST | {"shots": "many", "sedes": [1]})
    assert "shots" in str(caught.value)
    assert "sedes" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "a plan is a mapping"),
        ("tasks: [", "not valid YAML"),
        ("tasks: [sst2]\ntasks: [mr]\nhypotheses: [gd]", "the key 'tasks' occurs twice"),
        (
            "tasks: [sst2]\nhypotheses: {gd: {hypothesis: gd, hypothesis: lcgd}}",
            "the key 'hypothesis' occurs twice \\(line 2\\)",
        ),
        ("tasks: [sst2]\nhypotheses: [!!python/name:os.system ]", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=message):
        load_plan(path)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("", encoding="utf-8")
    with pytest.raises(PlanError, match=r"Did you mean 'paper\.yaml'\?"):
        load_plan(tmp_path / "papr.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "names no model: give --model"),
        ({"models": ["embeded"]}, r"No model is called 'embeded'.*'embedded'\?"),
        ({"models": ["./nowhere"]}, r"No model folder './nowhere'"),
        ({"tasks": ["sst3"]}, r"Unknown task 'sst3'.*Did you mean"),
        ({"hypotheses": ["lcdg"]}, r"No hypothesis is called 'lcdg'.*'lcgd'\?"),
        ({"hypotheses": {"a@b": {"hypothesis": "gd"}}}, "cannot be called 'a@b'"),
        (
            {"hypotheses": {"x": {"hypothesis": "gd", "settings": {"epoch": 2}}}},
            r"no setting 'epoch'.*'epochs'\?",
        ),
        (
            {"hypotheses": {"x": {"hypothesis": "gd", "vary": {"epoch": [2]}}}},
            r"no setting 'epoch'.*'epochs'\?",
        ),
        (
            {"hypotheses": {"x": {"hypothesis": "gd", "vary": {"layers": [[0, 1]]}}}},
            r"x\(layers=\[0;1\]\) is not a label: vary numbers and words",
        ),
        (
            {"hypotheses": {"x": {"hypothesis": "gd", "settings": {"epochs": "many"}}}},
            "gd: epochs must be an integer, not 'many'",
        ),
        (
            {"hypotheses": {"x": {"hypothesis": "gd", "vary": {"epochs": [1, "many"]}}}},
            "gd: epochs must be an integer, not 'many'",
        ),
        ({"controls": ["untraned"]}, r"[Nn]o control is called 'untraned'.*'untrained'\?"),
        ({"models": [{"name": "gpt2", "controls": ["unifrom"]}]}, r"'unifrom'.*'uniform'\?"),
        ({"data": "hubb"}, r"data 'hubb' is not.*'hub'\?"),
        ({"shots": 1}, "needs at least 2 shots"),
        ({"lr": "matched", "shots": 1}, "needs at least 2 shots"),
        ({"lr": 0.1, "search": {"folds": 1}}, "`search` is of matched budgets"),
        ({"lr": "published", "search": {"folds": 1}}, "`search` is of matched budgets"),
    ],
)
def test_what_does_not_exist_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_plan(parse_plan(LEAST | change))


def test_a_task_without_published_settings_needs_its_own(tmp_path: Path) -> None:
    task = tmp_path / "mine.yaml"
    task.write_text("prompt: 'Say {text} ->'\nlabels: ['a', 'b']\n", encoding="utf-8")
    check_plan(parse_plan(LEAST | {"tasks": [str(task)]}))
    plan = LEAST | {"tasks": [str(task)], "lr": "published"}
    with pytest.raises(PlanError, match="no published learning rate for 'gd'"):
        check_plan(parse_plan(plan))
    with pytest.raises(PlanError, match="no published seeds"):
        check_plan(parse_plan(plan | {"seeds": "published", "lr": 0.1}))
    check_plan(parse_plan(plan | {"lr": 0.1}))


def test_short_and_long_forms_mean_the_same(tmp_path: Path) -> None:
    short = parse_plan(LEAST | {"models": "gpt2", "tasks": "sst2", "hypotheses": "gd"})
    long = parse_plan(
        LEAST
        | {
            "models": [{"name": "gpt2", "label": "gpt2"}],
            "hypotheses": {"gd": {"hypothesis": "gd", "settings": {}}},
        }
    )
    assert short == long == parse_plan(short.as_dict())
    assert short.protocol == DEFAULT
    assert parse_plan(LEAST | {"protocol": "reference"}).protocol == REFERENCE
    mixed = parse_plan(LEAST | {"protocol": {"preset": "reference", "bos": False}}).protocol
    assert (mixed.readout, mixed.bos, mixed.name) == (REFERENCE.readout, False, "custom")


def test_hypotheses_of_one_rule_with_several_settings() -> None:
    twice = {"gd": None, "gd2": {"hypothesis": "gd", "settings": {"epochs": 2}}}
    plan = parse_plan(LEAST | {"hypotheses": twice})
    assert list(plan.hypotheses) == ["gd", "gd2"]
    assert [list(spec.variants()) for spec in plan.hypotheses.values()] == [[{}], [{}]]
    assert plan == parse_plan(LEAST | {"hypotheses": ["gd", {"gd2": twice["gd2"]}]})


def test_values_of_settings_are_gone_through_and_rates_beside_the_plans() -> None:
    spec = HypothesisSpec(hypothesis="gd", vary={"lr": [0.1, 0.2], "epochs": [1, 2]})
    assert list(spec.variants()) == [
        {"epochs": 1},
        {"epochs": 1, "lr": 0.1},
        {"epochs": 1, "lr": 0.2},
        {"epochs": 2},
        {"epochs": 2, "lr": 0.1},
        {"epochs": 2, "lr": 0.2},
    ]
    rates = HypothesisSpec(hypothesis="gd", vary={"lr": [0.1]})
    assert list(rates.variants()) == [{}, {"lr": 0.1}]
    plan = parse_plan(LEAST | {"hypotheses": {"gd": spec.model_dump()}})
    check_plan(plan)
    assert parse_plan(plan.as_dict()) == plan


def test_budgets_are_matched_unless_the_protocol_is_the_published_one() -> None:
    def budget(**changes: Any) -> str | None:
        return parse_plan(LEAST | changes).budget

    assert budget() == "matched"
    assert budget(protocol="reference") == "published"
    assert budget(protocol="reference", lr="matched") == "matched"
    assert budget(lr="published") == "published"
    assert budget(lr=0.1) is None
    assert budget(lr=1) is None


def test_yaml_learning_rates_without_a_dot(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text("tasks: [sst2]\nhypotheses: [gd]\nlr: 5e-4\n", encoding="utf-8")
    plan = load_plan(path)
    assert (plan.lr, plan.name) == (5e-4, "rates")
    path.write_text("tasks: [sst2]\nhypotheses: {gd: {hypothesis: gd, vary: {lr: [1e-3, 3e-3]}}}\n")
    rates = [each.get("lr") for each in load_plan(path).hypotheses["gd"].variants()]
    assert rates == [None, 1e-3, 3e-3]


def test_draws_pair_published_orders_with_published_seeds() -> None:
    published = parse_plan(LEAST | {"seeds": "published", "permutations": "published"})
    assert list(published.draws((4, 5, 6))) == [(4, 0), (5, 1), (6, 2)]
    crossed = parse_plan(LEAST | {"seeds": [7, 8], "permutations": [0, 3]})
    assert list(crossed.draws((4, 5, 6))) == [(7, 0), (7, 3), (8, 0), (8, 3)]


def test_models_of_the_command_line_replace_the_plans() -> None:
    plan = parse_plan(LEAST | {"models": [{"name": "gpt2", "dtype": "bfloat16"}]})
    other = plan.with_models(["EleutherAI/pythia-70m"])
    assert [(m.name, m.label, m.dtype) for m in other.models] == [
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m", "bfloat16")
    ]
    assert other.tasks == plan.tasks


def test_an_untrained_copy_as_a_model_of_its_own(tmp_path: Path) -> None:
    model = parse_plan(LEAST | {"models": ["embedded-untrained"]}).models[0]
    assert (model.name, model.untrained, model.label) == (
        "embedded", "embeddings", "embedded-untrained",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["paper", "six_datasets", "quick"])
def test_shipped_plans_are_valid(name: str) -> None:
    plan = load_plan(ROOT / "benchmarks" / f"{name}.yaml")
    check_plan(plan.with_models(["gpt2"]))
    assert plan.name == name
    if name == "paper":
        assert plan.models == ()
        assert (plan.shots, plan.lr, plan.protocol) == (32, "published", REFERENCE)
        assert len(plan.tasks) == 6
    if name == "six_datasets":
        assert plan.budget == "matched"
        assert len(plan.tasks) == 6
    if name == "quick":
        assert plan.budget == "matched"
        assert plan.twins >= 2


def test_the_documentation_names_every_key_of_a_plan() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    keys = text.split("| key | meaning")[1].split("\n\n")[0]
    for field in (*set(Plan.model_fields) - {"name"}, *ModelSpec.model_fields, "vary"):
        assert f"`{field}`" in keys, field
    for plan in (ROOT / "benchmarks").glob("*.yaml"):
        assert f"`benchmarks/{plan.name}`" in text


def test_the_paper_and_default_plans_are_the_designs_that_they_say() -> None:
    paper = load_plan(ROOT / "benchmarks" / "paper.yaml")
    assert (paper.seeds, paper.permutations, paper.queries) == ("published", "published", None)
    assert list(paper.hypotheses) == ["gd", "lcgd"]
    assert {"untrained", "untrained_norms", "shuffled"} <= set(paper.controls)
    six = load_plan(ROOT / "benchmarks" / "six_datasets.yaml")
    assert six.protocol == DEFAULT
    assert set(six.controls) == set(CONTROLS)
    assert len(six.seeds) >= 10
    assert len(six.permutations) > 1


def test_a_hypothesis_may_have_controls_of_its_own(fields: dict[str, Any]) -> None:
    narrow = {"hypothesis": "gd", "controls": ["shuffled"]}
    plan = parse_plan(
        fields | {"tasks": ["sst2"]}
        | {"hypotheses": {"gd": {"hypothesis": "gd"}, "few": narrow}}
        | {"controls": ["random", "untrained"]}
    )  # fmt: skip
    cells = list_cells(plan)
    assert len(cells) == count_cells(plan)
    found = {(cell.setting.network, str(cell.subject)) for cell in cells}
    assert ("trained", "few@shuffled") in found
    assert ("trained", "random[gd]") in found
    assert ("untrained", "gd") in found
    assert (
        not {("trained", "random[few]"), ("untrained", "few"), ("trained", "gd@shuffled")} & found
    )
    with pytest.raises(PlanError, match="nulled"):
        check_plan(parse_plan(fields | {"hypotheses": {"gd": narrow | {"controls": ["nulled"]}}}))


def test_hypotheses_that_need_other_tasks_get_them(fields: dict[str, Any]) -> None:
    needing = fields | {"hypotheses": ["lcgd_initial", "gd"], "controls": []}
    two = parse_plan(needing | {"tasks": ["sst2", "subj"]})
    assert two.others("sst2") == ("subj",)
    assert {str(c.subject): c.facts.get("auxiliary", ((),))[0] for c in list_cells(two)
            if c.setting.task == "sst2"}["lcgd_initial"][0] == "subj"  # fmt: skip
    with pytest.raises(PlanError, match="'sst2' has none beside it"):
        check_plan(parse_plan(needing | {"tasks": ["sst2"]}))
    named = parse_plan(needing | {"tasks": ["sst2"], "auxiliary": "agnews"})
    check_plan(named)
    keys = {str(cell.subject): cell.key for cell in list_cells(named)}
    other = parse_plan(needing | {"tasks": ["sst2"], "auxiliary": "cb"})
    again = {str(cell.subject): cell.key for cell in list_cells(other)}
    changed = {name for name in keys if keys[name] != again[name]}
    assert changed == {"lcgd_initial"}  # other rows, another cell; nothing else moves
