"""Weights that lie as they are read: the same values, no copies, and the caller's memory back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iclgd_lens.comparing import compare
from iclgd_lens.host import Host, frozen
from iclgd_lens.host.hooked import HookedHost
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from tests import checks, families

pytestmark = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)
BY_FAMILY = pytest.mark.parametrize("family", ["gpt2", "neox", "qwen2"])


class Copies(TorchDispatchMode):
    """Counts copies of a model's weights in its blocks."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        weights = [value for value in host.model.blocks.parameters() if value.ndim > 1]
        self.own = {value.untyped_storage().data_ptr() for value in weights}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::clone", "aten::copy_", "aten::_to_copy"):
            source = args[1] if func._schema.name == "aten::copy_" else args[0]
            self.count += source.untyped_storage().data_ptr() in self.own
        return func(*args, **(kwargs or {}))


def copies(host: Host, tokens: torch.Tensor) -> int:
    with Copies(host) as counter, frozen(host.model), torch.no_grad():
        host.run(tokens)
    return counter.count


def copied_each_pass(host: Host) -> list[str]:
    """Weights that TransformerLens copies in a pass of its own: attention, and gated MLPs."""
    gated = [
        f"blocks.{layer}.mlp"
        for layer in range(host.n_layers)
        if hasattr(host.model.blocks[layer].mlp, "W_gate")
    ]
    found = [name for name in host.sites if ".attn." in name]
    return found + [f"{stem}.{name}" for stem in gated for name in ("W_gate", "W_in", "W_out")]


@BY_FAMILY
def test_a_pass_over_laid_out_weights_is_the_same_and_copies_none(family: str) -> None:
    model = checks.fresh("hooked", family)
    host, tokens = Host(model), families.tokens(2)
    with frozen(model), torch.no_grad():
        expected = host.run(tokens).residual
    weights = {name: host.parameter(name).clone() for name in host.sites}
    before = checks.photograph(model)
    assert copies(host, tokens) >= len(copied_each_pass(host))
    with host.laid_out():
        for name, value in weights.items():
            assert torch.equal(host.parameter(name), value)
        with frozen(model), torch.no_grad():
            assert torch.equal(host.run(tokens).residual, expected)
        assert copies(host, tokens) == 0
        inner = model.blocks[0].attn.W_Q.data_ptr()
        with host.laid_out():
            assert model.blocks[0].attn.W_Q.data_ptr() == inner
        assert model.blocks[0].attn.W_Q.data_ptr() == inner
    before.assert_same(model)


def test_an_exception_gives_the_weights_back() -> None:
    model = checks.fresh("hooked", "gpt2")
    before = checks.photograph(model)
    with pytest.raises(RuntimeError, match="mine"), Host(model).laid_out():
        raise RuntimeError("mine")
    before.assert_same(model)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_autograd_mode_is_no_matter(mode: Any) -> None:
    model = checks.fresh("hooked", "gpt2")
    before = checks.photograph(model)
    with mode(), Host(model).laid_out():
        assert not model.blocks[0].attn.W_Q.is_contiguous()
        assert not model.blocks[0].attn.W_Q.data.is_inference()
    before.assert_same(model)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Copies of weights in every run that follows."""
    counts: list[int] = []
    whole = HookedHost.run

    def run(self: Host, *args: Any, **kwargs: Any) -> Any:
        with Copies(self) as counter:
            found = whole(self, *args, **kwargs)
        counts.append(counter.count)
        return found

    monkeypatch.setattr(HookedHost, "run", run)
    return counts


@BY_FAMILY
def test_gd_copies_weights_once(family: str, counts: list[int]) -> None:
    host = checks.host("hooked", family)
    counts.clear()  # a new host's own probes
    gd(host, checks.episode(shots=4), lr=0.01)
    assert counts == [0, 0, 0, 0]


@BY_FAMILY
def test_a_comparison_copies_weights_once(family: str, counts: list[int]) -> None:
    host = checks.host("hooked", family)
    counts.clear()
    compare(host, checks.episode(), controls=("random", "shuffled"), resamples=2)
    assert len(counts) > 20
    assert not any(counts)
    lcgd(host, checks.episode(shots=1), lr=0.01)
    assert counts[-1], "LCGD alone holds no second layout"
