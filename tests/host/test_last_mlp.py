"""The last block's MLP at the tokens asked for alone: what it gives there, and when it is left."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers

from iclgd_lens.host import Host, frozen
from tests import checks, families

AT = torch.tensor([6, 2, 4])


def tokens() -> torch.Tensor:
    return families.tokens(7, batch=3)


@contextmanager
def counted(host: Host) -> Generator[list[int], None, None]:
    """Tokens that the last MLP ran at, pass by pass. A hook could not tell: it would be seen."""
    model: Any = host.model
    mlp = model.blocks[-1].mlp
    seen: list[int] = []
    forward = type(mlp).forward

    def counting(self: Any, *values: Any, **named: Any) -> Any:
        if self is mlp:
            seen.append(values[0].shape[1])
        return forward(self, *values, **named)

    type(mlp).forward = counting
    try:
        yield seen
    finally:
        type(mlp).forward = forward


@pytest.mark.parametrize(("kind", "family"), checks.pairs(*families.FAMILIES))
def test_the_residual_stream_there_is_the_whole_passs(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    with frozen(host.model), torch.no_grad(), counted(host) as seen:
        whole = host.run(tokens()).residual
        found = host.run(tokens(), at=AT).residual
        last = host.run(tokens(), at=-1).residual
        before = host.prefix(tokens()[:, :3])
        rest = host.run(tokens()[:, 3:], before, at=AT - 3 + (AT < 3)).residual
    assert seen == [7, 1, 1, 1, 1]
    rows = torch.arange(3)
    checks.close(found, whole[rows, AT][:, None], 1e-5)
    checks.close(last, whole[:, [-1]], 1e-5)
    checks.close(rest, whole[rows, AT + (AT < 3)][:, None], 1e-5)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("name", ["hook_mlp_out", "hook_resid_post"])
def test_a_hook_on_what_it_gives_sees_every_token(kind: str, name: str) -> None:
    host = checks.host(kind, "llama")
    last = host.n_layers - 1
    shapes: list[int] = []
    hooks: Any = {"hook_mlp_out": host.mlp_output_hook, "hook_resid_post": host.block_output_hook}

    def double(value: torch.Tensor, hook: Any) -> torch.Tensor:
        shapes.append(value.shape[1])
        return 2 * value

    with frozen(host.model), torch.no_grad(), host.hooked([(hooks[name](last), double)]):
        whole = host.run(tokens()).residual
        found = host.run(tokens(), at=AT).residual
    assert shapes == [7, 7]
    assert torch.equal(found[:, 0], whole[torch.arange(3), AT])


@pytest.mark.parametrize("kind", checks.kinds())
def test_nothing_of_it_is_left(kind: str) -> None:
    model = checks.fresh(kind, "llama")
    host = Host(model)
    before = checks.photograph(model)

    def fail(value: torch.Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    with frozen(model), torch.no_grad():
        host.run(tokens(), at=-1)
    before.assert_same(model)
    with frozen(model), torch.no_grad(), pytest.raises(KeyboardInterrupt):
        with host.hooked([(host.z_hook(0), fail)]):
            host.run(tokens(), at=-1)
    before.assert_same(model)


def test_blocks_that_add_to_its_output_in_place_run_it_at_every_token() -> None:
    config = transformers.FalconConfig(
        vocab_size=families.VOCAB_SIZE, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, alibi=False, bias=False, parallel_attn=True, multi_query=False,
        new_decoder_architecture=True, num_kv_heads=2,
    )  # fmt: skip
    host = Host(families.hosted("bridge", families.of_config(config)))
    assert not host.cuts_last_mlp
    with frozen(host.model), torch.no_grad():
        whole = host.run(tokens()).residual
        assert torch.equal(host.run(tokens(), at=AT).residual[:, 0], whole[torch.arange(3), AT])
