"""Cosines of changes less their mean, and of mean changes, where some queries lack one."""

from __future__ import annotations

import math

import numpy as np
import torch

from iclgd_lens.measures.label_effects import centred, common

Q, L, D = 6, 2, 5


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(Q, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_a_query_that_lacks_a_change_is_in_no_mean_and_takes_none_from_others() -> None:
    one, other = drawn(0), drawn(1)
    one[2, 0] = math.nan
    other[4, 0, 1] = math.inf
    found, together = centred(one, other), common(one, other)
    for layer, kept in ((0, [0, 1, 3, 5]), (1, list(range(Q)))):
        x, y = one[kept, layer].numpy(), other[kept, layer].numpy()
        for place, query in enumerate(kept):
            expected = cosine(x[place] - x.mean(0), y[place] - y.mean(0))
            assert math.isclose(found[query, layer], expected, abs_tol=1e-6)
        assert math.isclose(together[0, layer], cosine(x.mean(0), y.mean(0)), abs_tol=1e-6)
    assert found[[2, 4], 0].isnan().all()
    moved = other.clone()
    moved[2] += 100  # where the first has no change, the second does not count
    torch.testing.assert_close(common(one, moved)[:, 0], together[:, 0])
    torch.testing.assert_close(centred(one, moved)[:, 0], found[:, 0], equal_nan=True)


def test_one_that_is_left_alone_has_no_specific_part() -> None:
    one, other = drawn(0), drawn(1)
    one[1:, 0] = math.nan
    found = centred(one, other)
    assert found[:, 0].isnan().all()
    assert found[:, 1].isfinite().all()
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    by_group = centred(drawn(0), other, groups)
    assert by_group[5].isnan().all()
    torch.testing.assert_close(by_group[:3], centred(drawn(0)[:3], other[:3]))
