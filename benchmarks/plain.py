"""Floors: the forward passes and the training epoch that no instrument can avoid."""

from __future__ import annotations

import copy
from typing import Any

import torch

import iclgd_lens as lens
from benchmarks.naive import trained_parameters
from iclgd_lens.host import frozen

_BATCH_TOKENS = 8192


def forward(host: lens.Host, episode: lens.Episode, *, icl: bool, unembed: bool) -> None:
    """Demonstrations once (if `icl`), every query once, in batches of equal length; no hooks."""
    bos = episode.demonstrations.bos
    with frozen(host.model), torch.no_grad():
        prefix = None
        if icl:
            prefix = host.run(host.tensor(episode.demonstrations.prompt()), keep=True).prefix
        length = 0 if prefix is None else prefix.length
        for own, indices in episode.lengths().items():
            most = max(1, _BATCH_TOKENS // (length + own + 1))
            for start in range(0, len(indices), most):
                queries = [episode.queries[i].content for i in indices[start : start + most]]
                head = () if icl or bos is None else (bos,)
                tokens = host.tensor([(*head, *query) for query in queries])
                shared = None if prefix is None else prefix.expand(len(queries))
                residual = host.run(tokens, shared).residual
                if unembed:
                    host.logits(residual[:, -1])


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
