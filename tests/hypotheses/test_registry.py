"""Hypotheses by name: built-in, registered, plugged in; and the simple built-in ones."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import iclgd_lens as lens
from iclgd_lens import registry as tables
from iclgd_lens.delta import ParameterDelta, matched_random
from iclgd_lens.errors import HypothesisError
from iclgd_lens.hypotheses import registry
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.hypotheses.random import random
from iclgd_lens.hypotheses.zero import zero
from iclgd_lens.intervention import Injection, Intervention
from tests import checks

BUILT_IN = ("gd", "lcgd", "oracle", "random", "zero")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known = dict(registry.HYPOTHESES.all())  # also fills the table
    monkeypatch.setattr(registry.HYPOTHESES, "_entries", dict(registry.HYPOTHESES.known()))
    monkeypatch.setattr(registry.HYPOTHESES, "_plugins", None)
    assert known


def plug(monkeypatch: pytest.MonkeyPatch, **targets: Any) -> None:
    """Install plugins; a value that is an exception is raised on loading."""
    module = types.ModuleType("plugged")

    class Point(EntryPoint):
        def load(self) -> Any:
            if isinstance(targets[self.name], BaseException):
                raise targets[self.name]
            return targets[self.name]

    assert module.__name__ == "plugged"
    points = [Point(name, f"plugged:{name}", registry.HYPOTHESES.group) for name in targets]
    monkeypatch.setattr(tables, "entry_points", lambda group: points)


def test_the_built_in_hypotheses_are_listed_and_described() -> None:
    found = lens.list_hypotheses()
    assert set(BUILT_IN) <= set(found)
    for name in BUILT_IN:
        assert found[name].name == name
        assert found[name].description
    assert lens.get_hypothesis("gd").build is gd
    assert found["gd"].settings()["epochs"] == 1
    assert set(found["lcgd"].settings()) == {
        "lr", "epochs", "batch_size", "loss_on", "weights", "layers",
    }  # fmt: skip


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(HypothesisError, match=r"'lgcd'; known: .*, gd, .* Did you mean 'lcgd'\?"):
        lens.get_hypothesis("lgcd")


def test_unknown_settings_are_answered_with_the_nearest() -> None:
    with pytest.raises(HypothesisError, match=r"gd has no setting 'epoch'; .* mean 'epochs'\?"):
        lens.get_hypothesis("gd").check_settings({"epoch": 2})
    with pytest.raises(HypothesisError, match="zero has no setting 'lr'; it has none"):
        lens.get_hypothesis("zero").check_settings({"lr": 2})

    @lens.hypothesis("anything")
    def anything(host: Any, episode: Any, **settings: Any) -> Intervention:
        return Intervention()

    lens.get_hypothesis("anything").check_settings({"whatever": 1})


def test_registering_returns_the_function_and_refuses_a_taken_name() -> None:
    @lens.hypothesis("mine", version="3")
    def mine(host: Any, episode: Any) -> Intervention:
        """Do as I say.

        At length.
        """
        return Intervention()

    assert callable(mine)
    found = lens.get_hypothesis("mine")
    assert (found.build, found.version, found.description) == (mine, "3", "Do as I say.")

    def other(host: Any, episode: Any) -> Intervention:
        return Intervention()

    with pytest.raises(HypothesisError, match=r"'mine' is registered already .* replace=True"):
        lens.hypothesis("mine")(other)
    assert lens.get_hypothesis("mine").build is mine
    lens.hypothesis("mine", replace=True, description="other")(other)
    assert lens.get_hypothesis("mine").build is other
    # A module that is loaded again registers the same function again.
    lens.hypothesis("mine")(other)


@pytest.mark.parametrize("name", ["", "a b", "a@b", "a[b]", "a/b", "a|b", "a\nb", "\ud800"])
def test_names_that_results_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(HypothesisError, match="is not a hypothesis name"):
        lens.hypothesis(name)(zero)


def test_a_built_in_name_cannot_be_taken() -> None:
    with pytest.raises(HypothesisError, match=r"'gd' is registered already \(by iclgd_lens\."):
        lens.hypothesis("gd")(lambda host, episode: Intervention())


def test_plugins_join(monkeypatch: pytest.MonkeyPatch) -> None:
    def plugged(host: Any, episode: Any) -> Intervention:
        """A plugin's."""
        return Intervention()

    whole = registry.Hypothesis(
        name="whole", build=plugged, description="as an object", version="7"
    )
    plug(monkeypatch, plugged=plugged, whole=whole, zero=zero)
    found = lens.list_hypotheses()
    assert found["plugged"].description == "A plugin's."
    assert found["whole"] is whole
    assert lens.get_hypothesis("plugged").build is plugged
    assert found["zero"].build is zero


def test_a_broken_plugin_warns_and_takes_nothing_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def good(host: Any, episode: Any) -> Intervention:
        return Intervention()

    plug(
        monkeypatch, broken=ImportError("no such module"), leaving=SystemExit(3),
        text="not callable", good=good,
    )  # fmt: skip
    with pytest.warns(registry.HypothesisWarning) as caught:
        found = lens.list_hypotheses()
    messages = [str(warning.message) for warning in caught]
    assert any("'broken' (plugged:broken) is skipped: ImportError" in text for text in messages)
    assert any("'leaving' (plugged:leaving) is skipped: SystemExit" in text for text in messages)
    assert any("'text'" in text and "is a str, not a function" in text for text in messages)
    assert "good" in found
    assert not {"broken", "leaving", "text"} & set(found)
    assert lens.get_hypothesis("gd").build is gd, "a built-in name asks no plugin"


def test_an_installed_packages_entry_point_is_found_by_the_command(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "halves.py").write_text(
        "import iclgd_lens as lens\n\n\ndef half(host, episode, *, lr=None):\n"
        '    """Half of GD."""\n    return lens.gd(host, episode, lr=lr) * 0.5\n'
    )
    facts = tmp_path / "halves-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: halves\nVersion: 1.0\n")
    points = "half = halves:half\nlost = nowhere:half\n"
    (facts / "entry_points.txt").write_text(f"[{registry.HYPOTHESES.group}]\n{points}")
    paths = os.pathsep.join([str(tmp_path), str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "iclgd_lens", "hypotheses", "--json"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["hypotheses"]["half"] == {
        "description": "Half of GD.", "version": "1", "kind": "explanation",
        "needs": ["demonstrations"], "source": "",
        "settings": {"lr": {"default": "None", "type": "", "meaning": ""}},
    }  # fmt: skip
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert "'lost' (nowhere:half) is skipped: ModuleNotFoundError" in notes[0]


def test_a_plugin_cannot_take_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, gd=lambda host, episode: Intervention())
    with pytest.warns(registry.HypothesisWarning, match="the name 'gd' is taken by iclgd_lens"):
        assert lens.list_hypotheses()["gd"].build is gd


def test_built_in_modules_may_be_loaded_again() -> None:
    importlib.reload(importlib.import_module("iclgd_lens.hypotheses.zero"))
    assert "zero" in lens.list_hypotheses()


@pytest.mark.parametrize("kind", checks.kinds())
def test_the_oracle_injects_the_prompts_keys_and_values(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode()
    found = oracle(host, episode)
    assert isinstance(found, Injection)
    prefix = found.prefix(host)
    assert prefix is not None
    assert tuple(prefix.tokens[0].tolist()) == episode.demonstrations.prompt()
    assert len(prefix.keys) == host.n_layers
    empty = lens.Episode.from_tokens([], [[8]], [5, 6], [0], bos=None)
    assert type(oracle(host, empty)) is Intervention


def test_zero_is_zero_on_every_trained_weight() -> None:
    host, episode = checks.host(checks.kinds()[0], "gpt2"), checks.episode()
    found = zero(host, episode)
    assert list(found) == list(gd(host, episode))
    assert not any(value.any() for _, value in found.items())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_random_matches_every_heads_norm(family: str) -> None:
    host, episode = checks.host(checks.kinds()[0], family), checks.episode()
    like = ParameterDelta(checks.random_delta(host))
    found = matched_random(like, seed=3)
    assert set(found) == set(like)
    backwards = ParameterDelta(dict(reversed(list(like.items()))))
    assert all(torch.equal(matched_random(backwards, seed=3)[n], found[n]) for n in found)
    for name, norms in like.norms().items():
        torch.testing.assert_close(found.norms()[name], norms, rtol=1e-5, atol=0)
        assert found[name].shape == like[name].shape
        cosine = torch.nn.functional.cosine_similarity(found[name].ravel(), like[name].ravel(), 0)
        assert like[name].numel() < 200 or abs(float(cosine)) < 0.5
    again, other = matched_random(like, seed=3), matched_random(like, seed=4)
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert not torch.equal(found["blocks.0.attn.W_K"], other["blocks.0.attn.W_K"])
    drawn = random(host, episode, seed=3)
    expected = matched_random(gd(host, episode), 3)
    assert all(torch.equal(drawn[name], expected[name]) for name in expected)
    assert random(host, episode, like=like, seed=3).metadata["seed"] == 3


def test_random_directions_of_a_zero_delta_are_zero() -> None:
    nothing = ParameterDelta({"blocks.0.attn.W_K": torch.zeros(2, 3, 4)})
    assert not matched_random(nothing, 0)["blocks.0.attn.W_K"].any()


@pytest.mark.parametrize("name", sorted(registry.list_hypotheses()))
def test_a_page_can_be_made_of_each_built_in_docstring(name: str) -> None:
    """What it claims, its equations, what it must equal in which limit, and its source."""
    found = registry.list_hypotheses()[name]
    text = inspect.getdoc(sys.modules[found.made_by().__module__]) or ""
    if not found.made_by().__module__.startswith("iclgd_lens."):
        return
    claim, _, rest = text.partition("\n\n")
    assert len(claim) > 30, "no claim"
    assert re.search(r"^ {4}\S", rest, re.MULTILINE), "no equation, indented by four"
    assert re.search(r"\bLimits?: ", rest.replace("\n", " ")), "no `Limits:`"
    assert re.search(r"^Source: \S", rest, re.MULTILINE), "no `Source:`"
