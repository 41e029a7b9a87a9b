"""Dual forms: the oracle written out, linear maps against NumPy, the ladder's ends and limits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from iclgd_lens.contexts import Contexts
from iclgd_lens.errors import HookError, HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.constant_shift import constant_shift
from iclgd_lens.hypotheses.dual_form import _check_sinks, read_memory
from iclgd_lens.hypotheses.dual_linear import dual_linear
from iclgd_lens.hypotheses.dual_momentum import dual_momentum
from iclgd_lens.hypotheses.dual_softmax import dual_softmax
from iclgd_lens.hypotheses.ladder import ladder
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.readout.reader import Reader, Readout
from tests import checks, families

LONG = ((5,), (6, 8))
EPISODE = checks.episode(shots=4, labels=LONG)
FAMILIES = checks.pairs("gpt2", "llama", "qwen3")
ROTARY = checks.pairs("llama")


def read(host: Host, intervention: Intervention, episode: Any = EPISODE) -> Readout:
    return Reader(host, episode).ftzs(intervention)


def same(one: Readout, other: Readout) -> bool:
    parts = ("attention_output", "z", "scores", "label_scores")
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in parts)


def prompt_cache(model: Any) -> Any:
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([EPISODE.demonstrations.prompt()]))[1]


def content_cache(model: Any, query: int, before: tuple[int, ...]) -> Any:
    tokens = [*before, *EPISODE.queries[query].content]
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([tokens]))[1]


def key_name(model: Any, kind: str, letter: str) -> str:
    rotary = model.cfg.positional_embedding_type == "rotary"
    if rotary and letter in "qk":
        return f"hook_rot_{letter}"
    return f"hook_{letter}" if kind == "hooked" else f"{letter}.hook_out"


def heads(value: Any, d_head: int) -> np.ndarray:
    """One sequence's keys or values, once a query head, by NumPy: [token head d_head]."""
    found = value[0].float().numpy().reshape(value.shape[1], -1, d_head).astype(np.float64)
    return np.repeat(found, families.N_HEADS // found.shape[1], axis=1)


# -- the oracle written out ------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")])
def test_dual_softmax_is_the_oracle(kind: str, family: str, protocol: Any) -> None:
    host, episode = checks.host(kind, family), checks.episode(protocol, labels=LONG)
    found, known = (read(host, rule(host, episode), episode) for rule in (dual_softmax, oracle))
    for part in ("attention_output", "z", "scores", "label_scores"):
        checks.close(getattr(found, part), getattr(known, part), 1e-5)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("llama"))
def test_dual_softmax_without_bos(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    episode = checks.episode(DEFAULT.replace(bos=False), labels=LONG)
    found, known = (read(host, rule(host, episode), episode) for rule in (dual_softmax, oracle))
    checks.close(found.z, known.z, 1e-5)


# -- linear maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("center", [True, False])
def test_the_first_layers_change_is_numpys(kind: str, family: str, center: bool) -> None:
    """q where it stands in the prompt, times the sum of outer products of keys and values."""
    model, host = checks.model(kind, family), checks.host(kind, family)
    d_head = host.d_head
    found = read(host, dual_linear(host, EPISODE, scale=0.5, center=center)).z[:, 0].numpy()
    before = read(host, Intervention()).z[:, 0].numpy()
    cache, stem = prompt_cache(model), "blocks.0.attn."
    k = heads(cache[stem + key_name(model, kind, "k")], d_head)[1:]
    v = heads(cache[stem + key_name(model, kind, "v")], d_head)[1:]
    if center:
        k = k - k.mean(0)
    weight = np.einsum("thd,the->hde", k, v)
    prompt = EPISODE.demonstrations.prompt()
    # Absolute positions are in the stream: there the query keeps the place it has alone.
    head = prompt if family != "gpt2" else (families.BOS,)
    for query in range(len(EPISODE.queries)):
        own = content_cache(model, query, head)[stem + key_name(model, kind, "q")]
        q = own[0, -1].numpy().reshape(families.N_HEADS, d_head)
        change = 0.5 / np.sqrt(d_head) * np.einsum("hd,hde->he", q, weight)
        np.testing.assert_allclose(found[query] - before[query], change, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("kind", "family"), ROTARY)
def test_rotation_is_the_models_own(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    memory, _ = read_memory(host, EPISODE.demonstrations, "test")
    for each in memory:
        assert each.turn is not None
        torch.testing.assert_close(
            each.turn @ each.turn.T, torch.eye(host.d_head), rtol=0, atol=1e-5
        )
        assert abs(each.factor - host.d_head**-0.5) < 1e-5
    unturned, _ = read_memory(host, EPISODE.demonstrations, "test", turned=False)
    assert all(each.turn is None for each in unturned)


@pytest.mark.parametrize("kind", checks.kinds())
def test_positions_in_the_stream_turn_nothing(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    one, other = (read(host, dual_linear(host, EPISODE, rope=r)) for r in ("aligned", "none"))
    assert same(one, other)


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_map_of_full_rank_is_the_map_and_ranks_are_those_of_svd(kind: str) -> None:
    host = checks.host(kind, "llama")
    full, cut = (dual_linear(host, EPISODE, scale=1.0, rank=r) for r in (None, host.d_head))
    assert same(read(host, full), read(host, cut))
    memory, _ = read_memory(host, EPISODE.demonstrations, "test", turned=False)
    whole = memory[1].linear_map(center=True).numpy()
    u, s, v = np.linalg.svd(whole)
    best = np.einsum("hik,hk,hkj->hij", u[..., :2], s[..., :2], v[:, :2])
    found = memory[1].linear_map(center=True, rank=2).numpy()
    np.testing.assert_allclose(found, best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("scale", ["matched", "lstsq"])
def test_scales_are_least_squares_and_norms_of_left_out_changes(kind: str, scale: str) -> None:
    """In layer 0 with every form's query at hand: one number a head, by NumPy."""
    host = checks.host(kind, "gpt2")
    contexts = Contexts(host, EPISODE, "test")
    z, q = host.z_hook(0), host.query_key_hook(0, "q")
    alone, after = contexts.alone([z, q]), contexts.after_others([z])
    change = (after.values[z] - alone.values[z]).numpy()
    memory, _ = read_memory(host, EPISODE.demonstrations, "test")
    expected = np.zeros(host.n_heads)
    for head in range(host.n_heads):
        directions: list[np.ndarray] = []
        for place in range(4):
            kept = [i for i, owner in enumerate(memory[0].owner) if owner != place]
            k, v = (t[kept, head].double().numpy() for t in (memory[0].keys, memory[0].values))
            weight = (k - k.mean(0)).T @ v / np.sqrt(host.d_head)
            directions.append(alone.values[q][place, head].numpy() @ weight)
        d, target = np.concatenate(directions), change[:, head].reshape(-1)
        if scale == "lstsq":
            expected[head] = np.linalg.lstsq(d[:, None], target, rcond=None)[0][0]
        else:
            expected[head] = np.linalg.norm(target) / np.linalg.norm(d)
    base = read(host, Intervention()).z[:, 0]
    unit = read(host, dual_linear(host, EPISODE, scale=1.0)).z[:, 0] - base
    found = read(host, dual_linear(host, EPISODE, scale=scale)).z[:, 0] - base
    ratio = (found * unit).sum((0, 2)) / unit.square().sum((0, 2))
    np.testing.assert_allclose(ratio.numpy(), expected, rtol=2e-3)


@pytest.mark.parametrize("kind", checks.kinds())
def test_scale_0_changes_nothing_and_frozen_queries_change_later_layers(kind: str) -> None:
    host = checks.host(kind, "llama")
    nothing = read(host, Intervention())
    assert same(read(host, dual_linear(host, EPISODE, scale=0.0)), nothing)
    current, frozen = (read(host, dual_linear(host, EPISODE, frozen=f)) for f in (False, True))
    torch.testing.assert_close(current.z[:, 0], frozen.z[:, 0])
    assert not torch.allclose(current.z[:, 1], frozen.z[:, 1], rtol=1e-3)


# -- momentum --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_momentum_is_a_decaying_sum_of_mean_values(kind: str, family: str) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    cache, bounds = prompt_cache(model), [1]
    for example in EPISODE.demonstrations.examples:
        bounds.append(bounds[-1] + len(example.content) + len(example.label) + 1)
    v = heads(cache["blocks.0.attn." + key_name(model, kind, "v")], host.d_head)
    expected = sum(0.7 ** (3 - i) * v[bounds[i] : bounds[i + 1]].mean(0) for i in range(4))
    change = read(host, dual_momentum(host, EPISODE, decay=0.7)).z - read(host, Intervention()).z
    for query in range(len(EPISODE.queries)):
        np.testing.assert_allclose(change[query, 0].numpy(), expected, rtol=1e-3, atol=1e-4)
    assert same(read(host, dual_momentum(host, EPISODE, strength=0.0)), read(host, Intervention()))


# -- the ladder ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_the_ladder_begins_at_the_oracle_and_ends_at_the_constant_shift(
    kind: str, family: str
) -> None:
    host = checks.host(kind, family)
    for rung, rule in ((0, oracle), (5, constant_shift)):
        assert same(read(host, ladder(host, EPISODE, rung=rung)), read(host, rule(host, EPISODE)))
    third = read(host, ladder(host, EPISODE, rung=3))
    assert same(third, read(host, ladder(host, EPISODE, rung=4, rank=host.d_head)))
    assert same(third, read(host, dual_linear(host, EPISODE, scale="gate", frozen=True)))
    ranks = {4: {"rank": 2}}
    rungs = [
        read(host, ladder(host, EPISODE, rung=rung, **ranks.get(rung, {}))) for rung in range(6)
    ]
    for one, other in itertools.pairwise(rungs):
        assert not torch.allclose(one.z, other.z, rtol=1e-3), "a rung that removes nothing"


@pytest.mark.parametrize(("kind", "family"), checks.pairs("llama", "qwen3"))
@pytest.mark.parametrize("bos", [True, False])
def test_frozen_queries_are_in_context_learning_in_the_first_layer(
    kind: str, family: str, bos: bool
) -> None:
    host, episode = checks.host(kind, family), checks.episode(DEFAULT.replace(bos=bos), labels=LONG)
    found = read(host, ladder(host, episode, rung=1), episode)
    icl = Reader(host, episode).icl()
    checks.close(found.z[:, 0], icl.z[:, 0], 2e-5)
    assert not torch.allclose(found.z[:, 1], icl.z[:, 1], rtol=1e-2)


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_fixed_gate_mixes_both_parts(kind: str) -> None:
    """By NumPy in layer 0: own output of ZS and attention among demonstrations alone."""
    model, host = checks.model(kind, "llama"), checks.host(kind, "llama")
    seen = Contexts(host, EPISODE, "test").after_others(attention=True)
    assert seen.attention is not None
    gate = seen.attention[:, 0].sum(-1).mean(0).numpy()
    cache, stem = prompt_cache(model), "blocks.0.attn."
    k = heads(cache[stem + key_name(model, kind, "k")], host.d_head)[1:]
    v = heads(cache[stem + key_name(model, kind, "v")], host.d_head)[1:]
    found = read(host, ladder(host, EPISODE, rung=2)).z[:, 0].numpy()
    own = read(host, Intervention()).z[:, 0].numpy()
    for query in range(len(EPISODE.queries)):
        after = content_cache(model, query, EPISODE.demonstrations.prompt())
        q = after[stem + key_name(model, kind, "q")][0, -1].numpy()
        weights = np.exp(np.einsum("hd,thd->ht", q, k) / np.sqrt(host.d_head))
        mixed = np.einsum("ht,thd->hd", weights / weights.sum(-1, keepdims=True), v)
        expected = (1 - gate)[:, None] * own[query] + gate[:, None] * mixed
        np.testing.assert_allclose(found[query], expected, rtol=1e-3, atol=1e-4)


# -- what is refused -------------------------------------------------------------------------------


def test_wrong_settings_and_models_are_refused() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    with pytest.raises(HypothesisError, match="Did you mean 'matched'"):
        dual_linear(host, EPISODE, scale="match")
    with pytest.raises(HypothesisError, match="must be finite"):
        dual_linear(host, EPISODE, scale=float("nan"))
    with pytest.raises(HypothesisError, match="rank is 0"):
        dual_linear(host, EPISODE, rank=0)
    with pytest.raises(HypothesisError, match="rope is 'x'"):
        ladder(host, EPISODE, rope="x")
    with pytest.raises(HypothesisError, match="rung is 6; it must be 0 to 5"):
        ladder(host, EPISODE, rung=6)
    with pytest.raises(HypothesisError, match="decay is 2"):
        dual_momentum(host, EPISODE, decay=2.0)
    with pytest.raises(HookError, match="does not expose queries and keys"):
        dual_linear(checks.host("bridge", "neox"), EPISODE)
    with pytest.raises(HypothesisError, match="not queries times keys"):
        dual_softmax(checks.host("bridge", "gemma2"), EPISODE)


@pytest.mark.parametrize("kind", checks.kinds())
def test_frozen_queries_need_the_rows_tokens(kind: str) -> None:
    host = checks.host(kind, "llama")
    frozen = ladder(host, EPISODE, rung=1)
    with pytest.raises(HypothesisError, match="need the rows' tokens"), frozen.applied(host):
        host.run(host.tensor([1, 7, 8]))


@pytest.mark.parametrize("rung", [1, 3])
def test_in_a_world_of_linear_attention_there_is_no_softmax_to_remove(rung: int) -> None:
    worlds = pytest.importorskip("iclgd_lens.worlds", reason="worlds are not in this checkout")
    if not families.has_hooked_transformer():
        pytest.skip("linear attention needs a HookedTransformer")
    model, episode = worlds.linear_world()
    host = model if isinstance(model, Host) else Host(model)
    icl = Reader(host, episode).icl()
    for rule in (
        dual_linear(host, episode, center=False, scale=1.0),
        ladder(host, episode, rung=rung),
        dual_softmax(host, episode),
    ):
        checks.close(Reader(host, episode).ftzs(rule).z[:, -1], icl.z[:, -1], 1e-5)


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_window_that_hides_demonstrations_has_no_dual_form(kind: str) -> None:
    config = transformers.MistralConfig(
        **families._GROUPED, head_dim=12, sliding_window=20, rope_parameters=families._ROPE
    )
    host = Host(families.hosted(kind, families.of_config(config), "windowed"))
    long = checks.episode(shots=6, labels=LONG)
    assert len(long.demonstrations.prompt()) > 20
    for build in (dual_linear, dual_softmax):
        with pytest.raises(HypothesisError, match="a window of windowed hides some of the prompt"):
            build(host, long)
    short = checks.episode(shots=1, labels=LONG)
    assert read(host, dual_softmax(host, short), short).is_finite


def test_sinks_of_any_token_are_refused() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    whole = torch.full((1, 2, 3, 3), 1 / 3)
    _check_sinks(host, "rule", whole, None)
    whole[0, 1, 0] *= 0.9  # the first row alone
    with pytest.raises(HypothesisError, match="attention sinks"):
        _check_sinks(host, "rule", whole, None)
