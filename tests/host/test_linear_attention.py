"""Linear attention is served where it is asked for and is what it says; nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.episode import Episode
from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host import Host
from iclgd_lens.host.crafted import crafted_model, linearise
from iclgd_lens.hypotheses.gd import gd
from tests import checks, families

needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)


def linear_model() -> Any:
    model = checks.fresh("hooked", "gpt2")
    linearise(model)
    return model


@needs_hooked
def test_linear_attention_is_refused_unless_asked_for() -> None:
    model = linear_model()
    with pytest.raises(UnsupportedModelError, match="softmax of what passes at layer 0's score"):
        Host(model)
    host = Host(model, attention="linear")
    assert host.attention == "linear"
    assert host.again(model).attention == "linear"


@needs_hooked
def test_a_softmax_is_not_taken_for_linear_attention() -> None:
    with pytest.raises(
        UnsupportedModelError, match="layer 0's attention pattern is not its masked"
    ):
        Host(checks.fresh("hooked", "gpt2"), attention="linear")


@needs_hooked
def test_scores_are_weights_and_a_shared_prefix_is_read_alike() -> None:
    host, tokens = Host(linear_model(), attention="linear"), families.tokens(9)
    seen: dict[str, torch.Tensor] = {}

    def keep(activation: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = activation

    hooks = [(f"blocks.1.attn.{name}", keep) for name in ("hook_attn_scores", "hook_pattern")]
    with torch.no_grad(), host.hooked(hooks):
        whole = host.run(tokens).residual
        scores, pattern = (
            seen[f"blocks.1.attn.hook_{name}"] for name in ("attn_scores", "pattern")
        )
        assert torch.equal(pattern, torch.where(scores.isinf(), 0.0, scores))
        prefix = host.prefix(tokens[:, :4])
        rest = host.run(tokens[:, 4:], prefix).residual
    checks.close(rest, whole[:, 4:], 1e-5)


@needs_hooked
def test_gradients_flow_through_linear_attention() -> None:
    model, tokens = linear_model(), families.tokens(6)
    weight = checks.real(model, "blocks.0.attn.W_K")
    weight.requires_grad_(True)
    model(tokens, return_type="logits").square().sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) > 0


def test_a_bridge_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="served on a HookedTransformer alone"):
        Host(checks.model("bridge", "gpt2"), attention="linear")
    with checks.untyped(), pytest.raises(UnsupportedModelError, match="Did you mean 'softmax'"):
        Host(checks.model("bridge", "gpt2"), attention="softmx")  # type: ignore[arg-type]


def random_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return 0.4 * torch.randn(shape, generator=generator)

    found = {
        "embed.W_E": draw(11, 7), "pos_embed.W_pos": draw(12, 7), "unembed.W_U": draw(7, 11),
    }  # fmt: skip
    for layer in range(2):
        for kind, shape in (("W_Q", (3, 7, 5)), ("W_K", (3, 7, 5)), ("W_V", (3, 7, 5)),
                            ("W_O", (3, 5, 7)), ("b_V", (3, 5)), ("b_O", (7,))):  # fmt: skip
            found[f"blocks.{layer}.attn.{kind}"] = draw(*shape)
    return found


def by_hand(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    w = {name: value.double() for name, value in weights.items()}
    stream = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][: len(tokens)]
    hidden = torch.ones(len(tokens), len(tokens), dtype=torch.bool).triu(1)
    for layer in range(2):
        own = {key.split(".")[-1]: value for key, value in w.items() if f"blocks.{layer}." in key}
        q, k = (torch.einsum("pd,hde->hpe", stream, own[name]) for name in ("W_Q", "W_K"))
        v = torch.einsum("pd,hde->hpe", stream, own["W_V"]) + own["b_V"][:, None]
        pattern = (q @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1)
        stream = stream + torch.einsum("hpe,hed->pd", pattern @ v, own["W_O"]) + own["b_O"]
    return stream @ w["unembed.W_U"]


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_crafted_model_computes_what_its_weights_say(kind: str) -> None:
    weights, tokens = random_weights(), torch.tensor([0, 3, 10, 7, 7, 1])
    state = torch.random.get_rng_state()
    host = Host(crafted_model(weights, kind=kind, name="by hand"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (host.name, host.n_layers, host.n_heads, host.n_ctx) == ("by hand", 2, 3, 12)
    with torch.no_grad():
        logits = host.logits(host.run(tokens[None]).residual)[0]
    checks.close(logits.double(), by_hand(weights, tokens), 2e-6)


@pytest.mark.parametrize("kind", checks.kinds())
def test_descent_is_the_same_in_rotated_coordinates(kind: str) -> None:
    weights = random_weights()
    model = crafted_model(weights, kind=kind)
    episode = Episode.from_tokens(
        [[1, 2, 9], [3, 10]], [[4, 5]], [9, 10], [0], bos=0, learning_rate=0.5
    )
    delta = gd(model, episode, weights=("W_V", "W_O"))
    host = Host(model)
    with torch.no_grad(), host.hooked(delta.hooks(host)):
        logits = host.logits(host.run(torch.tensor([[0, 4, 5]])).residual)[0, -1]
    moved = {name: value.clone().double().requires_grad_() for name, value in weights.items()}
    trained = [name for name in moved if name[-3:] in ("W_V", "W_O")]
    for sequence in ([0, 1, 2, 9], [0, 3, 10]):
        log_p = by_hand(moved, torch.tensor(sequence[:-1])).log_softmax(-1)
        loss = -log_p[torch.arange(len(log_p)), sequence[1:]].mean()
        gradients = torch.autograd.grad(loss, [moved[name] for name in trained])
        with torch.no_grad():
            for name, gradient in zip(trained, gradients, strict=True):
                moved[name] -= 0.5 * gradient
    checks.close(logits.double(), by_hand(moved, torch.tensor([0, 4, 5]))[-1].detach(), 1e-5)
