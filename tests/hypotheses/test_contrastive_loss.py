"""InfoNCE of one sequence at a time, against NumPy; its training is in test_lcgd_multitask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iclgd_lens.host import frozen
from iclgd_lens.hypotheses.contrastive_loss import ContrastiveLoss
from tests import checks

TEMPERATURE = 0.3


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_sequence_is_drawn_to_those_of_its_label_and_one_alone_to_none(kind: str) -> None:
    host, shown = checks.host(kind, "gpt2"), checks.episode(shots=3).demonstrations
    assert [example.gold for example in shown.examples] == [0, 1, 0]
    with frozen(host.model), torch.no_grad():
        contrast = ContrastiveLoss(host, shown, TEMPERATURE)
        bank = contrast.bank.double().cpu().numpy().copy()
        losses: list[float] = []
        for sequence in shown.sequences("label"):
            with contrast.reading():
                host.run(host.tensor([sequence.tokens]))
                losses.append(float(contrast.loss([0, 2], sequence)))
    assert contrast.order == [0, 1, 2]

    def cosine(layer: int, one: int, other: int) -> float:
        a, b = bank[layer, one], bank[layer, other]
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def expected(place: int, alike: int) -> float:
        others = [each for each in range(3) if each != place]
        return sum(
            np.log(sum(np.exp(cosine(layer, place, each) / TEMPERATURE) for each in others))
            - cosine(layer, place, alike) / TEMPERATURE
            for layer in (0, 2)
        )

    assert losses == pytest.approx([expected(0, 2), 0.0, expected(2, 0)], abs=1e-5)
    assert min(losses[0], losses[2]) > 0
    # Nothing was trained, so what was read again is what was read at first.
    assert contrast.bank.cpu().numpy() == pytest.approx(bank, abs=1e-5)
