"""A bridge's norms, computed once where no hook looks inside: the same bits, and nothing left."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.host import Host, frozen
from iclgd_lens.host.base import ForwardResult
from iclgd_lens.host.unwatched_norms import computed_once, watchable_norms
from tests import checks, families

INSIDE = ("hook_scale", "hook_normalized")


def tokens() -> torch.Tensor:
    return families.tokens(7, batch=3)


def read(host: Host, hooks: Any = ()) -> ForwardResult:
    with frozen(host.model), torch.no_grad(), host.hooked(list(hooks)):
        return host.run(tokens())


def norms(host: Host) -> list[Any]:
    return watchable_norms(host.model.modules())


def shown_inside(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts calls of hook points inside norms, however they are called: no hook could tell."""
    calls: list[int] = []
    for norm in norms(host):
        for name in INSIDE:
            point = getattr(norm, name)
            forward = point.forward

            def counting(x: torch.Tensor, forward: Any = forward) -> torch.Tensor:
                calls.append(1)
                return forward(x)

            monkeypatch.setitem(point.__dict__, "forward", counting)
    return calls


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_pass_gives_the_same_bits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = checks.host("bridge", family)
    calls = shown_inside(host, monkeypatch)
    once = read(host).residual
    assert not calls
    monkeypatch.setattr(host, "_norms", [])
    assert torch.equal(read(host).residual, once)
    assert bool(calls) == bool(norms(host))


def test_gradients_are_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    host, episode = checks.host("bridge", "llama"), checks.episode()
    from iclgd_lens import gd

    once = gd(host, episode, lr=0.1)
    monkeypatch.setattr(host, "_norms", [])
    whole = gd(host, episode, lr=0.1)
    assert all(torch.equal(once[name], whole[name]) for name in whole)


@pytest.mark.parametrize("inside", INSIDE)
def test_a_hook_inside_sees_and_changes_the_norm(inside: str) -> None:
    host = checks.host("bridge", "llama")
    seen: list[torch.Tensor] = []
    before = read(host).residual
    name = f"blocks.1.ln1.{inside}"
    read(host, [(name, lambda activation, hook: seen.append(activation))])
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="edited hook_scale"):
        changed = read(host, [(name, lambda activation, hook: activation * 2)]).residual
    assert float((changed - before).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_of_torchs_own_inside_is_called(kind: str) -> None:
    host = checks.host("bridge", "llama")
    seen: list[int] = []
    handle = getattr(norms(host)[0].hook_scale, kind)(lambda *values: seen.append(1))
    try:
        read(host)
    finally:
        handle.remove()
    assert seen == [1]


def test_nothing_is_left_on_the_model() -> None:
    host = checks.host("bridge", "llama")
    assert norms(host)
    before = [dict(norm.__dict__) for norm in norms(host)]

    def raising(activation: torch.Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(host, [("blocks.1.hook_resid_pre", raising)])
    assert [dict(norm.__dict__) for norm in norms(host)] == before
    read(host)
    assert [dict(norm.__dict__) for norm in norms(host)] == before


def test_a_pass_within_a_pass_leaves_the_outer_ones_norms_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = checks.host("bridge", "llama")
    calls = shown_inside(host, monkeypatch)
    with computed_once(norms(host)):
        with computed_once(norms(host)):
            pass
        read(host)
    assert not calls
    assert not any("_hf_autograd_forward_with_hooks" in norm.__dict__ for norm in norms(host))


def test_a_norm_with_a_function_of_its_own_keeps_it() -> None:
    host = checks.host("bridge", "llama")
    norm = norms(host)[0]
    called: list[int] = []
    own = norm._hf_autograd_forward_with_hooks

    def theirs(x: torch.Tensor) -> torch.Tensor:
        called.append(1)
        return own(x)

    norm.__dict__["_hf_autograd_forward_with_hooks"] = theirs
    try:
        read(host)
        assert norm.__dict__["_hf_autograd_forward_with_hooks"] is theirs
    finally:
        del norm.__dict__["_hf_autograd_forward_with_hooks"]
    assert called == [1]
