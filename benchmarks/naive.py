"""The comparison as a competent user writes it today with TransformerLens: the baseline of `speed`.

A deep copy is fine-tuned by `torch.optim.SGD`; every query runs alone with its whole prompt and
caches everything; LCGD detaches in hooks, sums the layers' losses and calls backward once.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from iclgd_lens import Episode, Host
from iclgd_lens.training.sgd import trained_names

Readout = dict[str, Any]


def compare(model: Any, episode: Episode, lr: float) -> dict[str, dict[str, Tensor]]:
    """SimAOU [query layer] and SimAM [query layer head] of GD and LCGD, and every prediction."""
    zs, icl = read(model, episode, prompt=()), read(model, episode, episode.demonstrations.prompt())
    found: dict[str, dict[str, Tensor]] = {}
    for rule in ("gd", "lcgd"):
        tuned = fine_tune(model, episode, lr, layer_causal=rule == "lcgd")
        ft = read(tuned, episode, prompt=())
        found[rule] = {
            "SimAOU": _sim_aou(zs, icl, ft),
            "SimAM": _sim_am(zs, icl, ft),
            "labels": torch.stack(ft["labels"]),
        }
    found["ZS"] = {"labels": torch.stack(zs["labels"])}
    found["ICL"] = {"labels": torch.stack(icl["labels"])}
    return found


def fine_tune(model: Any, episode: Episode, lr: float, *, layer_causal: bool) -> Any:
    """A copy of the model after one epoch of SGD on the demonstrations."""
    tuned = copy.deepcopy(model)
    tuned.requires_grad_(False)
    trained = trained_parameters(tuned)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(trained, lr=lr)
    for sequence in episode.demonstrations.sequences():
        tokens = torch.tensor([sequence.tokens])
        loss = _layer_losses(tuned, tokens) if layer_causal else tuned(tokens, return_type="loss")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tuned


def trained_parameters(model: Any) -> list[Tensor]:
    """Weights and biases of keys and values; a grouped-query model keeps them as `_W_K`.

    A bias that the checkpoint's family lacks is no parameter of it, though HookedTransformer holds
    zeros in its place.
    """
    names = dict(model.named_parameters())
    wanted = trained_names(Host(model), ("W_K", "b_K", "W_V", "b_V"))
    grouped = [name.replace("attn.", "attn._") for name in wanted]
    return [names[g] if g in names else names[n] for n, g in zip(wanted, grouped, strict=True)]


def _layer_losses(model: Any, tokens: Tensor) -> Tensor:
    """The sum over layers of each layer's own loss, backward flow between layers cut."""
    residuals: list[Tensor] = []

    def cut(activation: Tensor, hook: Any) -> Tensor:
        return activation.detach()

    def keep(activation: Tensor, hook: Any) -> None:
        residuals.append(activation)

    hooks: list[tuple[str, Any]] = []
    for layer in range(model.cfg.n_layers):
        hooks.append((f"blocks.{layer}.hook_resid_pre", cut))
        hooks.append((f"blocks.{layer}.hook_resid_post", keep))
    with model.hooks(fwd_hooks=hooks):
        model(tokens, return_type=None)
    losses = [
        model.loss_fn(model.unembed(model.ln_final(residual)), tokens) for residual in residuals
    ]
    return torch.stack(losses).sum()


def read(model: Any, episode: Episode, prompt: tuple[int, ...]) -> Readout:
    """Every query alone, with its whole prompt and a cache of everything."""
    found: Readout = {"out": [], "scores": [], "labels": []}
    first = [label[0] for label in episode.label_tokens]
    head = prompt or (episode.demonstrations.bos,)
    for query in episode.queries:
        tokens = torch.tensor([[*head, *query.content]])
        with torch.no_grad():
            logits, cache = model.run_with_cache(tokens)
        layers = range(model.cfg.n_layers)
        found["out"].append(torch.stack([cache["attn_out", i][0, -1] for i in layers]))
        own = len(query.content)
        found["scores"].append(
            torch.stack([cache["attn_scores", i][0, :, -1, -own:] for i in layers])
        )
        found["labels"].append(logits[0, -1].log_softmax(-1)[first])
    return found


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _sim_aou(zs: Readout, icl: Readout, ft: Readout) -> Tensor:
    per_query: list[Tensor] = []
    for z, i, f in zip(zs["out"], icl["out"], ft["out"], strict=True):
        x, y = _unit(i) - _unit(z), _unit(f) - _unit(z)
        per_query.append(torch.nn.functional.cosine_similarity(x, y, dim=-1, eps=0))
    return torch.stack(per_query)


def _sim_am(zs: Readout, icl: Readout, ft: Readout) -> Tensor:
    per_query: list[Tensor] = []
    for z, i, f in zip(zs["scores"], icl["scores"], ft["scores"], strict=True):
        per_query.append(torch.nn.functional.cosine_similarity(i - z, f - z, dim=-1, eps=0))
    return torch.stack(per_query)
