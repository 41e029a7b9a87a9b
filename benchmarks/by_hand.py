"""What a competent user would write with `transformers` alone: the floors of a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import iclgd_lens as lens
from iclgd_lens.host.bridge_attention import read_prefix, shared_cache
from iclgd_lens.readout.batching import batches
from iclgd_lens.readout.reader import PASS_TOKENS, READ_TOKENS_AT_ONCE

LR = 1e-2
"""At which a step stands well above the rounding of the weights that it is added to."""


class Plain:
    """The model as `transformers` loads it, and what a competent user would do with it by hand.

    Args:
        model: A causal language model of `transformers` whose keys and values have maps of their
            own (`k_proj`, `v_proj`), without biases, as Llamas have.
        episode: What is read.
    """

    def __init__(self, model: Any, episode: lens.Episode) -> None:
        self.model, self.episode = model.requires_grad_(False), episode
        self.fast = str(model.config._attn_implementation)
        self.prompt = torch.tensor([episode.demonstrations.prompt()])
        self.passes = {icl: self._batches(icl) for icl in (False, True)}
        self.sequences = [torch.tensor([s.tokens]) for s in episode.demonstrations.sequences()]

    def _batches(self, icl: bool) -> list[tuple[list[int], Tensor, Tensor]]:
        """Indices, tokens and predicting places of each pass of the reader's, padded alike."""
        bos = self.episode.demonstrations.bos
        head = () if icl or bos is None else (bos,)
        rows = [(*head, *query.content) for query in self.episode.queries]
        found: list[tuple[list[int], Tensor, Tensor]] = []
        for indices in batches(
            [len(row) for row in rows],
            shared=self.prompt.shape[1] if icl else 0,
            tokens_at_once=READ_TOKENS_AT_ONCE["cpu"],
            pass_tokens=PASS_TOKENS["cpu"],
        ):
            some = [rows[index] for index in indices]
            longest = max(map(len, some))
            tokens = [(*row, *[row[-1]] * (longest - len(row))) for row in some]
            places = torch.tensor([len(row) - 1 for row in some])
            found.append((indices, torch.tensor(tokens), places))
        return found

    def read(self, icl: bool, attention: str = "") -> Tensor:
        """Logits at every query's predicting token; the demonstrations are run once."""
        self.model.config._attn_implementation = attention or self.fast
        try:
            with torch.no_grad():
                return self._read(icl)
        finally:
            self.model.config._attn_implementation = self.fast

    def _read(self, icl: bool) -> Tensor:
        body, config = self.model.base_model, self.model.config
        prefix = None
        if icl:
            cache = shared_cache(config, None, 1, keep=True)
            body(input_ids=self.prompt, past_key_values=cache, use_cache=True)
            prefix = read_prefix(cache, self.prompt)
        states: list[Tensor] = []
        order: list[int] = []
        for indices, tokens, places in self.passes[icl]:
            # Each query's own keys and values are joined to the shared ones, and forgotten.
            cache = None if prefix is None else shared_cache(config, prefix, len(indices), False)
            hidden = body(input_ids=tokens, past_key_values=cache, use_cache=icl)
            states.append(hidden.last_hidden_state[torch.arange(len(indices)), places])
            order += indices
        return self.model.lm_head(torch.cat(states)[torch.tensor(order).argsort()])

    def longest(self) -> None:
        """One forward pass of the longest prompt, logits at its end."""
        query = max((query.content for query in self.episode.queries), key=len)
        tokens = torch.cat([self.prompt, torch.tensor([query])], dim=1)
        with torch.no_grad():
            self.model(tokens, use_cache=False, logits_to_keep=1)

    def trained(self) -> list[Any]:
        """The maps of keys and values, layer by layer."""
        layers = [layer.self_attn for layer in self.model.base_model.layers]
        return [part for layer in layers for part in (layer.k_proj, layer.v_proj)]

    def epoch(self, first: int | None = None) -> list[Tensor]:
        """A GD epoch on the weights themselves, which are put back; returns their changes.

        `first` takes the first so many demonstrations alone.
        """
        maps = self.trained()
        before = [part.weight for part in maps]
        for part in maps:
            part.weight = torch.nn.Parameter(part.weight.detach().clone())
        weights = [part.weight for part in maps]
        optimizer = torch.optim.SGD(weights, lr=LR)
        try:
            for tokens in self.sequences[:first]:
                logits = self.model(tokens, use_cache=False).logits[0, :-1]
                loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        finally:
            for part, weight in zip(maps, before, strict=True):
                part.weight = weight
        return [new.detach() - old for new, old in zip(weights, before, strict=True)]


def load_plain(file: Path) -> Any:
    """The model as `transformers` loads it by itself, with the tokenizer, which is dropped."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    return model.eval()
