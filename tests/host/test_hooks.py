"""Blocks that run twice: same values where nothing changes, and what changed is handed on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.host import Host
from iclgd_lens.host.hooks import run_twice
from tests import checks, families


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama", "neox"))
def test_only_the_second_run_is_handed_on(kind: str, family: str) -> None:
    host, tokens = checks.host(kind, family), families.tokens(7)
    seen: list[torch.Tensor] = []

    def grow(value: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append(value)
        return value + len(seen)

    with torch.no_grad():
        plain = host.run(tokens).residual
        with run_twice(host, [0, 1, 2]):
            assert torch.equal(host.run(tokens).residual, plain)
        point = host.block_output_hook(2)
        with run_twice(host, [2]), host.hooked([(point, grow)]):
            found = host.run(tokens).residual
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(found, plain + 2)


def stretched(module: Any, given: Any, output: Any) -> Any:
    """A user's hook on a block, which gives a tensor or a tuple that begins with one."""
    return (output[0] * 1.5, *output[1:]) if isinstance(output, tuple) else output * 1.5


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_hooks_of_the_user_act_on_what_is_handed_on(kind: str, family: str) -> None:
    model, tokens = checks.fresh(kind, family), families.tokens(7)
    model.blocks[1].register_forward_hook(stretched)
    host = Host(model)
    with torch.no_grad():
        once = host.run(tokens).residual
        with run_twice(host, [0, 1, 2]):
            assert torch.equal(host.run(tokens).residual, once)
