"""A contrastive loss: attention outputs of demonstrations of one label drawn together."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.episode import Demonstrations, TrainingSequence
from iclgd_lens.host import Hook, Host
from iclgd_lens.hypotheses.common import at_ends, label_words, training_order


class ContrastiveLoss:
    """InfoNCE over demonstrations, each layer by itself; the others are those last seen.

    Args:
        host: The model, unchanged.
        shown: The demonstrations; each is read once, for what it is compared with at first.
        temperature: Divides the cosines.
    """

    def __init__(self, host: Host, shown: Demonstrations, temperature: float) -> None:
        self.host, self.temperature = host, temperature
        _, gold = label_words(shown)
        self.order, self.step = training_order(shown), 0
        self.gold = torch.tensor(gold, device=host.device)
        self.now: dict[int, Tensor] = {}
        shape = (host.n_layers, len(shown), host.d_model)
        self.bank: Float[Tensor, "layer demonstration d_model"] = torch.zeros(
            shape, dtype=torch.float32, device=host.device
        )
        shown.check_vocabulary(host)
        sequences = shown.sequences("label")
        names = [host.attention_output_hook(layer) for layer in range(host.n_layers)]
        read = at_ends(
            host,
            names,
            [each.tokens for each in sequences],
            [each.label_start - 1 for each in sequences],
        )
        self.bank[:, self.order] = torch.stack([read[name] for name in names])

    def _hooks(self) -> list[Hook]:
        return [
            (self.host.attention_output_hook(layer), partial(self._keep, layer))
            for layer in range(self.host.n_layers)
        ]

    def _keep(self, layer: int, activation: Tensor, hook: Any) -> None:
        self.now[layer] = activation[0]

    @contextlib.contextmanager
    def reading(self) -> Generator[None, None, None]:
        """Keep attention outputs, with their graph, while one training sequence runs."""
        with self.host.hooked(self._hooks()):
            yield
        self.now.clear()
        self.step += 1

    def loss(self, layers: Sequence[int], sequence: TrainingSequence) -> Float[Tensor, ""]:
        """The running sequence's loss, summed over layers; 0 where no other has its label."""
        place = self.order[self.step % len(self.order)]
        alike = self.gold == self.gold[place]
        alike[place] = False
        others = torch.arange(len(self.gold), device=alike.device) != place
        total = torch.zeros((), device=alike.device)
        for layer in layers:
            own = self.now.pop(layer)[sequence.label_start - 1].float()
            if alike.any():
                cosines = torch.nn.functional.cosine_similarity(self.bank[layer], own[None], dim=-1)
                scaled = cosines / self.temperature
                total = total + scaled[others].logsumexp(0) - scaled[alike].logsumexp(0)
            self.bank[layer, place] = own.detach()
        return total
