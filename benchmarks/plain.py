"""Floors: the forward passes and the training epoch that no instrument can avoid."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

import iclgd_lens as lens
from benchmarks.naive import trained_parameters
from iclgd_lens.host import as_host, frozen
from iclgd_lens.hypotheses.lcgd import ROWS
from iclgd_lens.readout.batching import batches
from iclgd_lens.readout.reader import PASS_TOKENS, READ_TOKENS_AT_ONCE


def forward(
    host: lens.Host, episode: lens.Episode, *, icl: bool, unembed: bool, pad: bool = False
) -> None:
    """Demonstrations once (if `icl`), every query once, in the reader's own batches; no hooks."""
    bos = episode.demonstrations.bos
    head = () if icl or bos is None else (bos,)
    with frozen(host.model), torch.no_grad():
        prefix = None
        if icl:
            prefix = host.prefix(host.tensor(episode.demonstrations.prompt()))
        queries = [(*head, *query.content) for query in episode.queries]
        for indices in batches(
            [len(query) for query in queries],
            shared=0 if prefix is None else prefix.length,
            tokens_at_once=READ_TOKENS_AT_ONCE[host.device.type],
            pass_tokens=PASS_TOKENS[host.device.type] if pad else 0,
        ):
            batch = [queries[index] for index in indices]
            longest = max(map(len, batch))
            tokens = host.tensor([(*row, *[row[-1]] * (longest - len(row))) for row in batch])
            shared = None if prefix is None else prefix.expand(len(batch))
            residual = host.run(tokens, shared).residual
            if unembed:
                places = torch.tensor([len(row) - 1 for row in batch], device=host.device)
                host.logits(residual[torch.arange(len(batch), device=host.device), places])


def longest_prompt(host: lens.Host, episode: lens.Episode) -> None:
    """One plain forward pass of the longest prompt, logits at its end."""
    query = max((query.content for query in episode.queries), key=len)
    tokens = host.tensor((*episode.demonstrations.prompt(), *query))
    with frozen(host.model), torch.no_grad():
        host.logits(host.run(tokens).residual[:, -1])


class TorchEpoch:
    """A hand-written GD epoch on a copy's real weights: forward, cross-entropy, backward, SGD."""

    def __init__(self, model: Any, episode: lens.Episode, lr: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.sequences = [torch.tensor([s.tokens]) for s in episode.demonstrations.sequences()]
        self.trained = trained_parameters(self.model)
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.SGD(self.trained, lr=lr)

    def __call__(self) -> None:
        """Run the epoch."""
        model = self.model
        for tokens in self.sequences:
            tokens = tokens.to(model.W_U.device)
            residual = model(tokens, stop_at_layer=model.cfg.n_layers, return_type=None)
            logits = model.ln_final(residual[:, :-1]) @ model.W_U + model.b_U
            loss = torch.nn.functional.cross_entropy(logits[0].float(), tokens[0, 1:])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class LcgdProducts:
    """The matrix products of an LCGD epoch and nothing else, on the model's own weights.

    What a library of products takes for these shapes: a few rows against every weight. Attention's
    own products are left out; they are small beside these.
    """

    def __init__(self, model: Any, lengths: Sequence[int]) -> None:
        host = as_host(model)
        linear = host.unembedding()
        if linear is None:
            raise ValueError(f"logits of {host.name} are no bare product")
        self.lengths, self.unembedding = lengths, linear[0].detach().contiguous()
        self._ones: dict[tuple[int, int], torch.Tensor] = {}
        self.layers: list[dict[str, torch.Tensor]] = []
        for layer in range(host.n_layers):
            weights = {
                site.kind: _matrix(host, site.weight).clone(memory_format=torch.contiguous_format)
                for site in host.sites.values()
                if site.layer == layer
            }
            weights |= {f"delta {kind}": torch.zeros_like(weights[kind]) for kind in ("W_K", "W_V")}
            self.layers.append(weights)

    def __call__(self) -> None:
        """Run the epoch's products."""
        with torch.no_grad():
            for length in self.lengths:
                self._sequence(length)

    def _sequence(self, length: int) -> None:
        def rows(width: int, count: int = length) -> torch.Tensor:
            if (count, width) not in self._ones:
                ones = torch.ones_like(self.unembedding[:1, :1]).repeat(count, width)
                self._ones[count, width] = ones
            return self._ones[count, width]

        for weights in self.layers:
            for weight in weights.values():
                _ = rows(weight.shape[0]) @ weight
        width, vocabulary = self.unembedding.shape
        at_once = max(1, ROWS // (length - 1))
        for start in range(0, len(self.layers), at_once):
            count = min(at_once, len(self.layers) - start) * (length - 1)
            _ = rows(width, count) @ self.unembedding
            _ = rows(vocabulary, count) @ self.unembedding.T
        for weights in self.layers:
            for kind in ("W_O", "W_in", "W_gate", "W_out"):
                if kind in weights:
                    _ = rows(weights[kind].shape[1]) @ weights[kind].T
            for kind in ("W_K", "W_V"):
                _ = rows(width).T @ rows(weights[kind].shape[1])


def _matrix(host: lens.Host, name: str) -> torch.Tensor:
    """A weight as one [d_in, d_out] matrix."""
    weight = host.parameter(name)
    assert weight is not None
    if weight.ndim == 2:
        return weight
    return weight.flatten(0, 1) if name.endswith("W_O") else weight.permute(1, 0, 2).flatten(1)
