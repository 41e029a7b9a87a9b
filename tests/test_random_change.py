"""The random rival of interventions that are no weights: each change's size, another direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from iclgd_lens.errors import ControlError
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention
from iclgd_lens.nulls import random_update
from iclgd_lens.readout.reader import Reader
from tests import checks


class Pushed(Intervention):
    """Adds a vector of length 2 at every token, at a layer's attention output."""

    def hooks(self, host: Any, batch: Batch = UNCOUNTED) -> list[Any]:
        push = torch.zeros(host.d_model)
        push[0] = 2.0

        def push_it(activation: Tensor, hook: Any) -> Tensor:
            return activation + push

        return [(host.attention_output_hook(0), push_it)]


@pytest.mark.parametrize("kind", checks.kinds())
def test_each_change_keeps_its_length_and_takes_one_random_direction(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=3, queries=4)
    reader = Reader(host, episode)
    zs, own = reader.zs(), reader.ftzs(Pushed())
    turned, again = (reader.ftzs(random_update(Pushed(), 3)) for _ in range(2))
    assert torch.equal(turned.attention_output, again.attention_output)
    change = (turned.attention_output - zs.attention_output)[:, 0]
    checks.close(change.norm(dim=-1), torch.full((4,), 2.0), 1e-4)
    checks.close(change, change[:1].expand(4, -1), 1e-4)  # one direction for all queries
    straight = (own.attention_output - zs.attention_output)[:, 0]
    assert float((change * straight).sum(-1).abs().max()) < 3.9  # not the same direction
    other = reader.ftzs(random_update(Pushed(), 4))
    assert not torch.equal(turned.attention_output, other.attention_output)


def test_keys_and_values_before_queries_have_no_random_rival() -> None:
    host, episode = checks.host(checks.kinds()[0], "llama"), checks.episode(shots=3, queries=4)
    with pytest.raises(ControlError, match="before each query"):
        random_update(oracle(host, episode))
