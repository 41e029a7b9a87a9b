"""The shipped model is small, loads everywhere, and really learns in context."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

import iclgd_lens as lens
from examples.embedded_model.grammar import TASKS
from examples.embedded_model.scoring import (
    EmbeddedModel,
    Labels,
    accuracy,
    chance,
    load,
    prefix_matching,
    untrained_twin,
)
from iclgd_lens.delta import delta_hooks
from iclgd_lens.embedded import embedded_model_folder, embedded_revision, is_embedded
from tests import checks

QUERIES = 60
CHANCE = sum(chance(task) for task in TASKS) / len(TASKS)


@cache
def trained() -> EmbeddedModel:
    return load(embedded_model_folder())


@cache
def mean_accuracy(shots: int, labels: Labels = "usual", twin: bool = False) -> float:
    subject = untrained_twin(trained(), seed=0) if twin else trained()
    return sum(
        accuracy(subject, task, shots, labels=labels, queries=QUERIES) for task in TASKS
    ) / len(TASKS)


def test_the_folder_is_at_most_five_megabytes_and_has_a_card() -> None:
    files = [path for path in embedded_model_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in files
    }
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl"}]


def test_sixteen_demonstrations_teach_the_usual_label_words() -> None:
    assert mean_accuracy(16) >= 0.85


def test_sixteen_demonstrations_teach_permuted_label_words() -> None:
    assert mean_accuracy(16, "permuted") >= 0.80


def test_without_demonstrations_the_model_is_at_chance() -> None:
    assert abs(mean_accuracy(0) - CHANCE) <= 0.08


def test_the_untrained_twin_is_at_chance_with_sixteen_demonstrations() -> None:
    assert abs(mean_accuracy(16, twin=True) - CHANCE) <= 0.08


def test_accuracy_rises_with_demonstrations() -> None:
    by_shots = [mean_accuracy(shots) for shots in (0, 2, 4, 16)]
    assert by_shots == sorted(by_shots)


def test_the_card_names_a_visible_induction_head() -> None:
    scores = prefix_matching(trained())
    assert float(scores.max()) >= 0.3
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    card = (Path(embedded_model_folder()) / "README.md").read_text()
    assert f"L{layer}H{head} ({float(scores.max()):.2f})" in card


@pytest.mark.parametrize("kind", checks.kinds())
def test_both_hosts_give_the_logits_of_transformers(kind: str) -> None:
    model = lens.load_model("embedded", host=kind)  # type: ignore[arg-type]
    tokens = torch.randint(4, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trained().model(tokens).logits
        torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", checks.kinds())
def test_gradients_and_deltas_at_hooks_are_those_of_the_weights(kind: str) -> None:
    host = lens.Host(lens.load_model("embedded", host=kind))  # type: ignore[arg-type]
    tokens = tuple(range(10, 30))
    changes = checks.random_delta(host)
    zero = {name: torch.zeros_like(value).requires_grad_(True) for name, value in changes.items()}
    with host.hooked(delta_hooks(host, zero)):
        loss = checks.mean_loss(host.model, tokens, tuple(range(1, 20)))
    found = dict(zip(zero, torch.autograd.grad(loss, list(zero.values())), strict=True))
    twin = checks.twin(host.model)
    checks.mean_loss(twin, tokens, tuple(range(1, 20))).backward()
    for name, gradient in found.items():
        expected = checks.real(twin, name).grad
        assert expected is not None
        checks.close(checks.in_own_layout(twin, name, gradient), expected, 1e-5)
    ids = torch.tensor([tokens])
    other = lens.Host(twin)
    with torch.no_grad():
        with lens.ParameterDelta(changes).applied(host.model):
            by_hooks = checks.logits(host.model, ids)
        for name, change in changes.items():
            value = other.parameter(name)
            assert value is not None
            other.write_parameter(name, value + change)
        checks.close(by_hooks, checks.logits(other.model, ids), 1e-5)


def test_the_untrained_twin_keeps_embeddings_and_loses_blocks() -> None:
    model, twin = lens.load_model("embedded"), lens.load_model("embedded-untrained")
    own, other = lens.Host(model), lens.Host(twin)
    assert torch.equal(own.embedding, other.embedding)
    name = "blocks.0.attn.W_K"
    mine, drawn = own.parameter(name), other.parameter(name)
    assert mine is not None
    assert drawn is not None
    assert not torch.allclose(mine, drawn)
    assert other.name == "embedded-untrained"
    again = lens.Host(lens.load_model("embedded-untrained")).parameter(name)
    assert again is not None
    assert torch.equal(drawn, again)


def test_the_embedded_model_is_known_by_its_weights_whatever_it_is_called(tmp_path: Path) -> None:
    assert lens.load_model("embedded").cfg.model_revision == embedded_revision()
    assert is_embedded("embedded")
    assert is_embedded("embedded-untrained")
    copy, other = tmp_path / "copy", tmp_path / "embedded"
    shutil.copytree(embedded_model_folder(), copy)
    shutil.copytree(embedded_model_folder(), other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert is_embedded(copy)
    for name in (other, tmp_path, "gpt2", "embedded-mine", tmp_path / "nowhere"):
        assert not is_embedded(name)
