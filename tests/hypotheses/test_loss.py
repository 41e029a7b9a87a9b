"""The loss through an unembedding, a few tokens of the vocabulary at a time, is cross-entropy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.meters import peak_bytes
from iclgd_lens.hypotheses import loss
from iclgd_lens.hypotheses.loss import sequence_loss
from tests import checks

ROWS, WIDTH, VOCABULARY = 5, 6, 23


def problem(order: str = "drawn", scale: float = 1.0, bias: bool = True) -> tuple[Tensor, ...]:
    """Rows, weights, bias and targets; `order` is that of the first row's logits."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        for shape in ((ROWS, WIDTH), (WIDTH, VOCABULARY))
    )
    if order != "drawn":
        weight = weight[:, (rows[0] @ weight).argsort(descending=order == "falling")]
    own = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    return rows, weight, own * bias, torch.tensor([0, 7, 8, 22, 3])


def expected(rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.clone().requires_grad_(True)
    value = torch.nn.functional.cross_entropy(rows @ weight + bias, targets, reduction="sum")
    value.backward()
    assert rows.grad is not None
    return value.detach(), rows.grad


def found(rows: Tensor, *rest: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = rows.clone().requires_grad_(True)
    value: Any = loss._LinearLoss.apply(rows, *rest)
    (3 * value).backward()
    assert rows.grad is not None
    return value.detach(), rows.grad / 3


@pytest.mark.parametrize("columns", [1, 8, 22, 23, 100])
@pytest.mark.parametrize("order", ["drawn", "rising", "falling"])
@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["usual", "far apart"])
@pytest.mark.parametrize("bias", [True, False])
def test_any_number_of_columns_gives_cross_entropy(
    columns: int, order: str, scale: float, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_COLUMNS_AT_ONCE", {"cpu": columns})
    rows, weight, own, targets = problem(order, scale, bias)
    value, gradient = expected(rows, weight, own, targets)
    mine, change = found(rows.float(), weight.float(), own.float() if bias else None, targets)
    torch.testing.assert_close(mine.double(), value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(change.double(), gradient, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_full(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_COLUMNS_AT_ONCE", {"cpu": 8})
    rows, weight, own, targets = problem()
    half = [tensor.to(dtype) for tensor in (rows, weight, own)]
    value, gradient = expected(*(tensor.double() for tensor in half), targets)
    mine, change = found(*half, targets)
    assert mine.dtype == torch.float32
    assert change.dtype == dtype
    torch.testing.assert_close(mine.double(), value, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(change.double(), gradient, rtol=2e-2, atol=2e-2)


def test_what_is_not_finite_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_COLUMNS_AT_ONCE", {"cpu": 8})
    rows, weight, own, targets = (tensor.clone() for tensor in problem())
    weight[0, 12] = torch.inf
    value, _ = found(rows.float(), weight.float(), own.float(), targets)
    assert not torch.isfinite(value)
    # A token that can never come is none of the loss's business.
    rows, weight, own, targets = (tensor.clone() for tensor in problem())
    own[torch.arange(VOCABULARY) % 8 == 1] = own[9:15] = -torch.inf
    value, gradient = expected(rows, weight, own, targets)
    mine, change = found(rows.float(), weight.float(), own.float(), targets)
    torch.testing.assert_close(mine.double(), value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(change.double(), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [-3000.0, 3000.0])
def test_only_differences_between_logits_count(
    shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_COLUMNS_AT_ONCE", {"cpu": 8})
    rows, weight, own, targets = problem()
    value, gradient = expected(rows, weight, own + shift, targets)
    mine, change = found(rows.float(), weight.float(), own.float() + shift, targets)
    torch.testing.assert_close(mine.double(), value, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(change.double(), gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("columns", [512, 4096])
@pytest.mark.parametrize("common", [0.0, 5.0], ids=["plain", "with a common part"])
@pytest.mark.parametrize("certain", [0.0, 10.0, 15.0, 20.0, 30.0])
def test_nearly_certain_tokens_keep_their_digits(
    columns: int, common: float, certain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Softmax minus one loses them: where p is 1 - 1e-5, the gradient is 1e-5 of what is summed."""
    monkeypatch.setattr(loss, "_COLUMNS_AT_ONCE", {"cpu": columns})
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 32**-0.5

    weight, rows = drawn(32, 5000), drawn(8, 32) * 32**0.5
    targets = torch.arange(0, 4000, 500)
    towards = weight[:, targets].T
    rows = rows + certain * towards / towards.square().sum(1, keepdim=True)
    weight = weight + common * drawn(32, 1)
    value, exact = expected(rows.double(), weight.double(), torch.zeros(5000), targets)
    mine, change = found(rows, weight, None, targets)
    _, plain = expected(rows, weight, torch.zeros(5000), targets)
    error, theirs = ((each - exact).norm() / exact.norm() for each in (change, plain))
    assert error < 1e-5
    assert error < 2 * theirs
    assert abs(float(mine) / float(value) - 1) < 1e-5


def test_all_logits_are_never_in_memory() -> None:
    rows = torch.randn(32, 8, requires_grad=True)
    weight, bias = torch.randn(8, 60_000), torch.randn(60_000)
    targets = torch.arange(32)
    logits = 4 * 32 * 60_000

    def mine() -> None:
        loss._LinearLoss.apply(rows, weight, bias, targets).backward()

    def whole() -> None:
        torch.nn.functional.cross_entropy(rows @ weight + bias, targets).backward()

    assert peak_bytes(mine) < logits / 4
    assert peak_bytes(whole) > logits


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_models_own_logits_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_COLUMNS_AT_ONCE", {"cpu": 5})
    host = checks.host(kind, "gpt2")
    assert host.unembedding() is not None
    sequence = checks.episode().demonstrations.sequences()[0]
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(3, len(sequence.tokens), host.d_model, generator=generator)
    log_p = host.logits(residual).log_softmax(-1)
    value = -sum(
        log_p[layer, target - 1, sequence.tokens[target]]
        for layer in range(3)
        for target in sequence.targets
    )
    torch.testing.assert_close(sequence_loss(host, residual, sequence), value)
