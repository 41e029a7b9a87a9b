"""What a heat map of heads is drawn with, in notebooks and in reports alike."""

from __future__ import annotations

import numpy as np
import pytest

from iclgd_lens.mediation.display import drawn_map
from iclgd_lens.mediation.head_maps import NECESSITY, SUBSTITUTION


@pytest.mark.parametrize(
    ("effect", "values", "reach"),
    [
        (SUBSTITUTION, [0.5, -1.5, np.nan], 1.5),
        (SUBSTITUTION, [0.5, -40.0, np.nan], 2.0),
        (SUBSTITUTION, [0.0, 0.0, np.nan], None),
        (SUBSTITUTION, [np.nan, np.nan, np.nan], None),
        (NECESSITY, [0.5, -40.0, np.nan], None),
    ],
)
def test_a_share_of_a_small_effect_does_not_set_the_scale(
    effect: str, values: list[float], reach: float | None
) -> None:
    value, p = np.array([values]), np.array([[0.01, 0.2, np.nan]])
    found = drawn_map(effect, value, value - 1, value + 1, p)
    assert found["reach"] == reach
    assert not found["shown"].any(), "where the interval holds zero nothing is shown"
    sure = drawn_map(effect, value, np.abs(value) + 1, np.abs(value) + 2, p)
    assert sure["shown"].tolist() == [[bool(np.isfinite(values[0])), False, False]]
    assert found["score"].startswith("share" if effect == SUBSTITUTION else "nats")
