"""Vectors: read off the model by itself, put in by hand, trained by hand."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.contexts import Contexts
from iclgd_lens.errors import HypothesisError
from iclgd_lens.heads import indirect_effects
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.constant_shift import constant_shift
from iclgd_lens.hypotheses.context_vector import context_vector, output_hooks
from iclgd_lens.hypotheses.function_vector import function_vector, head_sum
from iclgd_lens.hypotheses.learned_vector import learned_vector
from iclgd_lens.hypotheses.state_vector import state_of, state_vector
from iclgd_lens.hypotheses.task_vector import task_vector
from iclgd_lens.intervention import Intervention, Shift
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.readout.reader import Reader, Readout
from tests import checks, families

EPISODE = checks.episode(shots=5, labels=((5,), (6, 8)))
FAMILIES = checks.pairs("gpt2", "llama")
LAST = families.N_LAYERS - 1


def read(host: Host, intervention: Intervention, episode: Any = EPISODE) -> Readout:
    return Reader(host, episode).ftzs(intervention)


def cache_of(model: Any, tokens: Any) -> Any:
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([list(tokens)]))[1]


def outputs_of(host: Host, names: list[str], tokens: list[int]) -> dict[str, torch.Tensor]:
    """What passes at the last token; a bridge's cache knows some hooks by other names."""
    found: dict[str, torch.Tensor] = {}

    def keep(activation: Any, hook: Any, name: str) -> None:
        found[name] = activation[0, -1]

    with torch.no_grad(), host.hooked([(n, functools.partial(keep, name=n)) for n in names]):
        host.run(host.tensor(tokens))
    return found


def before(place: int) -> list[int]:
    """BOS and all demonstrations but one."""
    tokens = [families.BOS]
    for other, example in enumerate(EPISODE.demonstrations.examples):
        if other != place:
            tokens += [*example.content, *example.label, checks.SEPARATOR]
    return tokens


def run_by_hand(model: Any, query: Any, hooks: Any) -> torch.Tensor:
    """Logits at the last token of a query alone."""
    tokens = torch.tensor([[families.BOS, *query.content]])
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1].log_softmax(-1)


def assert_answers(found: Readout, model: Any, hooks: Any) -> None:
    """The first label word, of one token, is as likely as under hooks at the last position."""
    for index, query in enumerate(EPISODE.queries):
        log_p = run_by_hand(model, query, hooks)
        assert abs(float(found.label_scores[index, 0] - log_p[5])) < 1e-4


# -- function vector -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_a_function_vector_is_the_mean_output_of_the_heads_that_count(
    kind: str, family: str
) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    heads = indirect_effects(host, EPISODE, trials=2, seed=0).top(3)
    vector = torch.zeros(families.D_MODEL)
    for place, example in enumerate(EPISODE.demonstrations.examples):
        cache = cache_of(model, [*before(place), *example.content])
        for layer, head in heads:
            z = cache[f"blocks.{layer}.attn.hook_z"][0, -1].reshape(families.N_HEADS, -1)[head]
            weight = host.parameter(f"blocks.{layer}.attn.W_O")
            assert weight is not None
            vector += z @ weight[head] / 5
    found = function_vector(host, EPISODE, heads=3, layer=1, strength=0.5, trials=2)

    def add(stream: Any, hook: Any) -> Any:
        stream = stream.clone()
        stream[:, -1] += 0.5 * vector
        return stream

    assert_answers(read(host, found), model, [("blocks.1.hook_resid_post", add)])


@pytest.mark.parametrize("kind", checks.kinds())
def test_all_heads_changes_in_one_layer_are_that_layer_of_the_constant_shift(kind: str) -> None:
    host, layer = checks.host(kind, "llama"), 1
    points = [host.z_hook(each) for each in range(host.n_layers)]
    contexts = Contexts(host, EPISODE, "test")
    alone, after = contexts.alone(points), contexts.after_others(points, loo="causal")
    change = torch.stack([after.values[p] - alone.values[p][list(after.places)] for p in points], 1)
    heads = list(itertools.product([layer], range(host.n_heads)))
    vector = head_sum(host, change, heads).mean(0)
    found = read(host, Shift({host.attention_output_hook(layer): vector}))
    whole: Any = constant_shift(host, EPISODE)
    known = read(host, Shift({host.z_hook(layer): whole.vectors[host.z_hook(layer)]}))
    checks.close(found.attention_output, known.attention_output, 1e-4)
    checks.close(found.label_scores, known.label_scores, 1e-4)


# -- task vector -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_task_vector_takes_the_place_of_the_stream(
    kind: str, family: str, strength: float
) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    states = [
        cache_of(model, [*before(i), *e.content])["blocks.1.hook_resid_post"][0, -1]
        for i, e in enumerate(EPISODE.demonstrations.examples)
    ]
    vector = torch.stack(states).mean(0)

    def put(stream: Any, hook: Any) -> Any:
        stream = stream.clone()
        stream[:, -1] = strength * vector + (1 - strength) * stream[:, -1]
        return stream

    found = read(host, task_vector(host, EPISODE, layer=1, strength=strength))
    assert_answers(found, model, [("blocks.1.hook_resid_post", put)])


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_queries_own_state_does_not_give_later_layers_of_in_context_learning(kind: str) -> None:
    """What the readout token attends to after that is not the demonstrations."""
    host = checks.host(kind, "llama")
    reader = Reader(host, EPISODE)
    point = host.block_output_hook(0)
    kept: dict[str, torch.Tensor] = {}

    class Keep(Intervention):
        def __init__(self, prefix: Any) -> None:
            self._prefix = prefix

        def prefix(self, host: Host) -> Any:
            return self._prefix

        def hooks(self, host: Host, batch: Any = None) -> Any:
            def keep(activation: Any, hook: Any) -> None:
                kept.setdefault("x", torch.zeros(len(EPISODE.queries), host.d_model))
                kept["x"][batch.queries] = batch.at_readout(activation)

            return [(point, keep)] if batch.reads else []

    icl = reader.ftzs(Keep(Contexts(host, EPISODE, "test").prompt()))
    from iclgd_lens.intervention import Patch

    own = reader.ftzs(Patch({point: kept["x"]}, per_query=True))
    assert not torch.allclose(own.z[:, 1], icl.z[:, 1], rtol=1e-2)
    assert not torch.allclose(own.label_scores, icl.label_scores, rtol=1e-2)


# -- state vector ----------------------------------------------------------------------------------


def states_of(model: Any, layer: int) -> np.ndarray:
    """z at the last token of each content in the prompt, the first left out."""
    z = cache_of(model, EPISODE.demonstrations.prompt())[f"blocks.{layer}.attn.hook_z"][0]
    ends, start = list[int](), 1
    for example in EPISODE.demonstrations.examples:
        ends.append(start + len(example.content) - 1)
        start += len(example.content) + len(example.label) + 1
    return z[ends[1:]].double().numpy().reshape(4, families.N_HEADS, -1)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize(("inner", "momentum"), [(7, 0.0), (3, 0.0), (3, 0.5)])
def test_a_state_vector_replaces_heads_up_to_its_layer(
    kind: str, family: str, inner: int, momentum: float
) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    found = read(host, state_vector(host, EPISODE, layer=1, inner=inner, momentum=momentum))
    for layer in (0, 1):
        s = states_of(model, layer)[-inner:]
        expected = s.mean(0)
        if momentum:
            expected = expected + momentum * ((s[1] - s[0]) + 2 * (s[2] - s[1])) / 3
        for query in range(len(EPISODE.queries)):
            np.testing.assert_allclose(
                found.z[query, layer].numpy(), expected, rtol=1e-3, atol=1e-4
            )
    assert float(found.z[:, 2].std(0).max()) > 1e-3, "layers above see different queries"


def test_without_momentum_the_last_state_or_the_mean_is_left() -> None:
    states = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(state_of(states, 7, 0.0), states.mean(0))
    torch.testing.assert_close(state_of(states, 1, 3.0), states[-1])


# -- which layer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [function_vector, task_vector, state_vector])
def test_the_layer_is_the_one_at_which_left_out_demonstrations_are_labelled_best(rule: Any) -> None:
    """Each demonstration is read with a vector from the others' contexts, by episodes of one."""
    host = checks.host(checks.kinds()[-1], "llama")
    contexts = Contexts(host, EPISODE, "test")
    points = {
        task_vector: [host.block_output_hook(i) for i in range(host.n_layers)],
    }.get(rule, [host.z_hook(i) for i in range(host.n_layers)])
    seen = contexts.after_others(points, loo="causal" if rule is state_vector else "exact")
    heads = indirect_effects(host, EPISODE).top(10) if rule is function_vector else []
    losses = [0.0] * host.n_layers
    for layer in range(host.n_layers):
        for place in range(5):
            others = [row for row, own in enumerate(seen.places) if own != place]
            kept = [seen.values[p][others] for p in points]
            if rule is function_vector:
                vector = head_sum(host, torch.stack(kept, 1), heads).mean(0)
                change: Intervention = Shift({host.block_output_hook(layer): vector})
            else:
                from iclgd_lens.intervention import Patch

                means = {p: k.mean(0) for p, k in zip(points, kept, strict=True)}
                some = points[layer : layer + 1] if rule is task_vector else points[: layer + 1]
                change = Patch({p: means[p] for p in some})
            scores = contexts.alone(change=change).label_scores
            losses[layer] -= float(scores[place, contexts.gold[place]])
    best = losses.index(min(losses))
    chosen, named = read(host, rule(host, EPISODE)), read(host, rule(host, EPISODE, layer=best))
    assert torch.equal(chosen.label_scores, named.label_scores)


# -- context vector --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")])
def test_context_vectors_are_outputs_of_demonstrations_alone(
    kind: str, family: str, protocol: Any
) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    episode = checks.episode(protocol, shots=5, labels=((5,), (6, 8)))
    names = output_hooks(host)
    assert len(names) == 2 * families.N_LAYERS
    means = dict.fromkeys(names, torch.zeros(families.D_MODEL))
    for example in episode.demonstrations.examples:
        cache = outputs_of(host, names, [families.BOS, *example.content, *example.label])
        means = {name: mean + cache[name] / 5 for name, mean in means.items()}
    found = Reader(host, episode).ftzs(context_vector(host, episode, strength=0.3, keep=0.8))

    def mix(out: Any, hook: Any, name: str) -> Any:
        return 0.8 * out + 0.3 * means[name]

    for index, query in enumerate(episode.queries):
        log_p = run_by_hand(model, query, [(n, functools.partial(mix, name=n)) for n in names])
        assert abs(float(found.label_scores[index, 0] - log_p[5])) < 1e-4


@pytest.mark.parametrize("kind", checks.kinds())
def test_calibration_lowers_the_loss_and_its_first_step_is_a_sign(kind: str) -> None:
    host = checks.host(kind, "llama")
    contexts = Contexts(host, EPISODE, "test")

    def loss(intervention: Intervention) -> float:
        scores = contexts.alone(change=intervention).label_scores
        return -float(sum(scores[i, g] for i, g in enumerate(contexts.gold)))

    start: Any = context_vector(host, EPISODE)
    later: Any = context_vector(host, EPISODE, epochs=10, step_size=0.02)
    assert loss(later) < loss(start)
    two = EPISODE.with_demonstrations(EPISODE.demonstrations.examples[:2])
    first: Any = context_vector(host, two, epochs=1, step_size=1e-3)
    moved = (first.factors - torch.tensor([0.1, 1.0]) * (1 - 1e-3 * 1e-3)).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=2e-2, atol=0)


# -- learned vector --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_the_first_step_is_the_sign_of_the_gradient_of_the_label_loss(
    kind: str, family: str
) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    found: Any = learned_vector(host, EPISODE, layer=1, steps=1, step_size=1e-3)
    example = EPISODE.demonstrations.examples[0]
    tokens = torch.tensor([[families.BOS, *example.content, *example.label]])
    end = len(example.content)
    theta = torch.zeros(families.D_MODEL, requires_grad=True)

    def add(stream: Any, hook: Any) -> Any:
        place = torch.zeros(stream.shape[1], 1)
        place[end] = 1
        return stream + place * theta

    logits = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", add)])
    loss = -logits[0, end].log_softmax(-1)[example.label[0]]
    gradient = torch.autograd.grad(loss, theta)[0]
    torch.testing.assert_close(found.vector, -1e-3 * gradient.sign(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("kind", checks.kinds())
def test_training_lowers_the_label_loss_and_a_start_has_its_seed(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    contexts = Contexts(host, EPISODE, "test")
    rules = [learned_vector(host, EPISODE, steps=steps) for steps in (0, 50)]
    scores = [contexts.alone(change=rule).label_scores for rule in rules]
    losses = [-sum(float(own[i, g]) for i, g in enumerate(contexts.gold)) for own in scores]
    assert losses[1] < losses[0]
    one, two, three = (
        learned_vector(host, EPISODE, steps=0, start=0.1, seed=seed).vector  # type: ignore[attr-defined]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert 0.05 < float(one.abs().max()) <= 0.1


@pytest.mark.parametrize("kind", checks.kinds())
def test_the_vector_acts_where_the_label_is_predicted_under_any_protocol(kind: str) -> None:
    """Where a label word is appended, that is not the readout token."""
    host = checks.host(kind, "llama")
    for protocol in (DEFAULT, REFERENCE.replace(separator="\n")):
        episode = checks.episode(protocol, shots=5)
        rule = learned_vector(host, episode, steps=20)
        found, zs = read(host, rule, episode).label_scores, Reader(host, episode).zs().label_scores
        assert not torch.allclose(found, zs, rtol=1e-2)


def test_wrong_settings_are_refused() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    for rule in (function_vector, task_vector, state_vector, learned_vector):
        with pytest.raises(HypothesisError, match="layer is 3; it must be 0 to 2"):
            rule(host, EPISODE, layer=3)
    for rule in (function_vector, task_vector, state_vector):
        with pytest.raises(HypothesisError, match="at least 2 demonstrations"):
            rule(host, checks.episode(shots=1))
    with pytest.raises(HypothesisError, match="strength is 2"):
        task_vector(host, EPISODE, strength=2.0)
    with pytest.raises(HypothesisError, match="inner is 0"):
        state_vector(host, EPISODE, inner=0)
    with pytest.raises(HypothesisError, match="heads is 0"):
        function_vector(host, EPISODE, heads=0)
    with pytest.raises(HypothesisError, match="epochs is -1"):
        context_vector(host, EPISODE, epochs=-1)
