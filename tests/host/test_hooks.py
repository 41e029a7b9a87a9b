"""Blocks that run twice: same values where nothing changes, and what changed is handed on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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
