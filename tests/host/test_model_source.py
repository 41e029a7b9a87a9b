"""What a model's name is: the same answer for loading, plans and estimates."""

from __future__ import annotations

from pathlib import Path

import pytest

from iclgd_lens.bench.cells import data_of
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.plan_check import check_plan
from iclgd_lens.embedded import embedded_model_folder, rows_source
from iclgd_lens.episode_loading import load_episode
from iclgd_lens.errors import LensError, ModelError, PlanError
from iclgd_lens.host.loading import load_model
from iclgd_lens.host.model_source import find_model
from tests import families


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return families.save_folder("gpt2", tmp_path / "mine")


def plan(model: str) -> dict[str, object]:
    return {"models": [model], "tasks": ["sst2"], "hypotheses": ["zero"], "lr": 0.1}


def test_where_names_lead(folder: Path) -> None:
    embedded = find_model("embedded")
    assert (embedded.folder, embedded.untrained) == (embedded_model_folder(), False)
    twin = find_model("embedded-untrained")
    assert (twin.folder, twin.untrained, twin.name) == (embedded.folder, True, "embedded-untrained")
    own = find_model(folder)
    assert (own.name, own.folder, own.untrained) == ("mine", folder, False)
    assert find_model(f"{folder}-untrained").name == "mine-untrained"
    hub = find_model("someone/model")
    assert (hub.name, hub.folder) == ("someone/model", None)
    assert find_model("gpt2-untrained").untrained


def test_a_folder_whose_name_ends_like_a_twin_is_a_folder(tmp_path: Path) -> None:
    path = families.save_folder("gpt2", tmp_path / "mine-untrained")
    found = find_model(path)
    assert (found.untrained, found.folder) == (False, path)


@pytest.mark.parametrize("name", ["gtp2", "./nowhere", "a/b/c", "", "NeelNanda/SoLU_1L"])
def test_a_name_that_leads_nowhere_is_answered_alike(name: str, tmp_path: Path) -> None:
    with pytest.raises(LensError) as expected:
        find_model(name).check()
    assert "\n" not in str(expected.value)
    if not name:  # the plan's own reading answers first
        return
    with pytest.raises(PlanError) as told:
        check_plan(parse_plan(plan(name)))
    assert str(expected.value) in str(told.value)


def test_a_folder_without_a_model_is_no_model(tmp_path: Path) -> None:
    for attempt in (lambda: find_model(tmp_path).check(), lambda: load_model(tmp_path)):
        with pytest.raises(ModelError, match=r"has no config\.json"):
            attempt()


@pytest.mark.parametrize("name", ["embedded-mine", "iclgd-embedded-2", "embedded"])
def test_rows_follow_what_a_model_is_and_not_what_it_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the user's that is called like the embedded model has rows of its own."""
    monkeypatch.chdir(tmp_path)
    path = families.save_folder("gpt2", tmp_path / "models" / name)
    spec = parse_plan(plan(str(path)))
    assert data_of(spec, spec.models[0]) == "hub" == rows_source(str(path))
    with pytest.raises(LensError) as error:
        load_episode("sst2", load_model(path, device="cpu"), shots=2, queries=2)
    assert "embedded" not in str(error.value).replace(name, "")


def test_a_copy_of_the_embedded_model_reads_its_rows(tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(embedded_model_folder(), tmp_path / "copy"))
    spec = parse_plan(plan(str(copy)))
    assert data_of(spec, spec.models[0]) == "embedded"
    episode = load_episode("sst2", load_model(copy, device="cpu"), shots=2, queries=2)
    assert episode.provenance["data"] == "embedded"


def test_every_model_has_an_untrained_twin_by_name(folder: Path) -> None:
    import torch

    from iclgd_lens.nulls import untrained

    twin = load_model(f"{folder}-untrained", device="cpu")
    expected = untrained(load_model(folder, device="cpu"))
    assert twin.cfg.model_name == "mine-untrained"
    pairs = zip(twin.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
