"""Readouts are what the full prompt gives, whatever is shared, batched or halved."""

from __future__ import annotations

import dataclasses
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.errors import EpisodeError, LensError
from iclgd_lens.host import Host, frozen
from iclgd_lens.host.base import ForwardResult
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.intervention import Injection, Intervention
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.readout.reader import MemoryWarning, Reader, Readout
from tests import checks, families

LONG = ((5,), (6, 9), (8, 5, 4))
BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)


def parts(readout: Readout) -> dict[str, Tensor]:
    return {key: value for key, value in vars(readout).items() if isinstance(value, Tensor)}


def whole_prompt(model: Any, episode: Episode, index: int, shown: bool) -> tuple[Any, Tensor]:
    """The model's own cache on the whole prompt up to the readout token, no prefix shared."""
    query = episode.queries[index]
    head = episode.demonstrations.prompt() if shown else (families.BOS,)
    tokens = torch.tensor([head + episode.readout_tokens(query)])
    with frozen(model), torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    return cache, tokens


def label_scores(model: Any, episode: Episode, index: int, shown: bool) -> Tensor:
    """Mean log-probability of each label word's tokens, every word run whole and alone."""
    head = episode.demonstrations.prompt() if shown else (families.BOS,)
    content = head + episode.queries[index].content
    found: list[float] = []
    for label in episode.label_tokens:
        tokens = torch.tensor([content + label])
        with frozen(model), torch.no_grad():
            log_p = checks.logits(model, tokens)[0].double().log_softmax(-1)
        steps = [log_p[len(content) + i - 1, token] for i, token in enumerate(label)]
        found.append(float(torch.stack(steps).mean()))
    return torch.tensor(found)


@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE], ids=["default", "reference"])
@pytest.mark.parametrize("shown", [False, True], ids=["zs", "icl"])
@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "neox", "qwen3"))
def test_readouts_equal_the_models_own_cache(
    kind: str, family: str, shown: bool, protocol: Any
) -> None:
    host = checks.host(kind, family)
    episode = checks.episode(protocol, labels=LONG, queries=5, shots=3)
    reader = Reader(host, episode, first=2)
    found = reader.icl() if shown else reader.zs()
    positions = list(episode.demonstrations.prompt_positions())
    for index, query in enumerate(episode.queries):
        cache, tokens = whole_prompt(host.model, episode, index, shown)
        own = len(episode.readout_tokens(query))
        for layer in range(host.n_layers):
            output = cache[host.attention_output_hook(layer)][0, -1]
            torch.testing.assert_close(
                found.attention_output[index, layer], output, rtol=0, atol=1e-4
            )
            z = cache[f"blocks.{layer}.attn.hook_z"][0, -1].reshape(found.z.shape[2:])
            torch.testing.assert_close(found.z[index, layer], z, rtol=0, atol=1e-4)
            scores = cache[f"blocks.{layer}.attn.hook_attn_scores"][0, :, -1]
            assert scores.shape[-1] == tokens.shape[1]
            ours = found.scores[index, layer]
            torch.testing.assert_close(ours[:, :own], scores[:, -own:], rtol=0, atol=1e-4)
            assert not ours[:, own:].any()
            if shown and index < 2:
                assert found.demonstration_scores is not None
                torch.testing.assert_close(
                    found.demonstration_scores[index, layer],
                    scores[:, positions],
                    rtol=0,
                    atol=1e-4,
                )
        expected = label_scores(host.model, episode, index, shown)
        torch.testing.assert_close(found.label_scores[index], expected, rtol=0, atol=1e-4)
    assert found.is_finite


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_an_intervened_readout_is_the_changed_models(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    episode = checks.episode(labels=LONG, queries=4)
    delta = ParameterDelta(checks.random_delta(host))
    changed = Host(checks.twin(host.model))
    for name, change in delta.items():
        changed.write_parameter(name, changed.parameter(name) + change)
    found, expected = Reader(host, episode).ftzs(delta), Reader(changed, episode).zs()
    for name, value in parts(expected).items():
        torch.testing.assert_close(parts(found)[name], value, rtol=1e-4, atol=1e-4)
    plain = Reader(host, episode).zs()
    assert not torch.allclose(plain.label_scores, found.label_scores, atol=1e-2)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "mistral"))
def test_batch_one_equals_batch_many(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode(labels=LONG, queries=9)
    assert max(map(len, episode.lengths().values())) > 2
    one, many, padded = (
        Reader(host, episode, batch_size=size, pad_queries=pad, first=3)
        for size, pad in ((1, False), (None, False), (None, True))
    )
    delta = ParameterDelta(checks.random_delta(host))
    for together in (many, padded):
        for single, batched in (
            (one.zs(), together.zs()),
            (one.icl(), together.icl()),
            (one.ftzs(delta), together.ftzs(delta)),
        ):
            assert parts(single).keys() == parts(batched).keys()
            for name, value in parts(single).items():
                torch.testing.assert_close(value, parts(batched)[name], rtol=1e-5, atol=1e-5)


@BY_KIND
def test_the_same_call_gives_the_same_bytes(kind: str) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode()
    one, other = (Reader(host, episode, first=2).icl() for _ in range(2))
    assert all(torch.equal(value, parts(other)[name]) for name, value in parts(one).items())


@BY_KIND
def test_demonstrations_run_once_and_nothing_is_padded_where_that_is_asked(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(queries=9)
    runs: list[tuple[int, ...]] = []
    whole = type(host).run

    def run(self: Host, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        runs.append(tuple(tokens.shape))
        for row in tokens.tolist():
            known = any(row[-len(q.content) :] == list(q.content) for q in episode.queries)
            assert known or tuple(row) == episode.demonstrations.prompt()
        return whole(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(host), "run", run)
    reader = Reader(host, episode, pad_queries=False)
    reader.icl(), reader.icl()
    lengths = {own: len(indices) for own, indices in episode.lengths().items()}
    assert len(lengths) > 1
    prompt = len(episode.demonstrations.prompt())
    once = [(count, own) for own, count in lengths.items()]
    assert runs == [(1, prompt), *once, *once]
    runs.clear()
    reader.zs()
    assert runs == [(count, own + 1) for own, count in lengths.items()]
    runs.clear()
    reader.release()
    reader.icl()
    assert runs == [(1, prompt), *once]


@BY_KIND
@pytest.mark.parametrize("options", [{}, {"pad_queries": True}], ids=["default", "asked"])
def test_padded_queries_run_once(
    kind: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(queries=9)
    runs: list[list[list[int]]] = []
    whole = type(host).run

    def run(self: Host, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        runs.append(tokens.tolist())
        return whole(self, tokens, *args, **kwargs)

    def read(head: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The queries that ran, each without what only repeats its last token."""
        rows = [tuple(row) for tokens in runs for row in tokens]
        starts = [
            next(head + q.content for q in episode.queries if row[: len(head + q.content)] ==
                 head + q.content and set(row[len(head + q.content) :]) <= {q.content[-1]})
            for row in rows
        ]  # fmt: skip
        return sorted(starts)

    monkeypatch.setattr(type(host), "run", run)
    reader = Reader(host, episode, **options)
    reader.icl()
    assert runs.pop(0) == [list(episode.demonstrations.prompt())]
    assert read(()) == sorted(query.content for query in episode.queries)
    assert len(runs) < len(episode.lengths())
    runs.clear()
    reader.zs()
    assert read((families.BOS,)) == sorted((families.BOS, *q.content) for q in episode.queries)


@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE], ids=["default", "reference"])
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        *checks.pairs("gpt2", "neox", "mistral"),
        *(pytest.param("bridge", name, id=f"bridge-{name}") for name in ("opt", "bloom", "gemma2")),
    ],
)
def test_what_stands_after_a_query_changes_no_bit(
    kind: str, family: str, protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, family), checks.episode(protocol, labels=LONG, queries=9)
    delta = ParameterDelta(checks.random_delta(host))
    reader = Reader(host, episode, pad_queries=True, first=3)
    expected = [reader.zs(), reader.icl(), reader.ftzs(delta)]
    whole, padded = type(host).run, []

    def run(self: Host, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        tokens = tokens.clone()
        for row in tokens:
            repeated = int((row.flip(0) != row[-1]).int().argmax())
            if len(tokens) > 1 and repeated > 1:
                padded.append(repeated - 1)
                row[1 - repeated :] = (row[-1] + 3) % host.d_vocab
        return whole(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(host), "run", run)
    for before, after in zip(
        expected, (reader.zs(), reader.icl(), reader.ftzs(delta)), strict=True
    ):
        for name, value in parts(before).items():
            assert torch.equal(parts(after)[name], value), name
    assert padded


@BY_KIND
def test_models_whose_positions_depend_on_the_length_pad_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, "neox"), checks.episode(queries=9)
    assert host.can_pad
    if kind == "hooked":
        monkeypatch.setattr(host.cfg, "use_dynamic_ntk_rope", True, raising=False)
    else:
        config = host.model.original_model.config
        monkeypatch.setattr(config, "rope_parameters", {"full": {"rope_type": "dynamic"}})
    assert not host.can_pad
    shapes: list[tuple[int, ...]] = []

    def run(self: Host, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(tokens.shape))
        return ForwardResult(torch.zeros(*tokens.shape, host.d_model), None)

    monkeypatch.setattr(type(host), "run", run)
    monkeypatch.setattr("iclgd_lens.readout.reader.Taps.attached", lambda *_, **__: nullcontext())
    Reader(host, episode, pad_queries=True).zs()
    assert shapes == [(len(rows), own + 1) for own, rows in episode.lengths().items()]


@BY_KIND
def test_the_unembedding_sees_the_readout_token_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(queries=4)
    seen: list[int] = []
    whole = type(host).unembed

    def unembed(self: Host, normalized: Tensor) -> Tensor:
        seen.append(normalized.numel() // host.d_model)
        return whole(self, normalized)

    monkeypatch.setattr(type(host), "unembed", unembed)
    together = Reader(host, episode).icl()
    assert seen == [len(episode.queries)]
    monkeypatch.setattr("iclgd_lens.readout.label_words._LOGITS_AT_ONCE", 3 * host.d_vocab)
    apart = Reader(host, episode).icl()
    assert seen[1:] == [3, 1]
    torch.testing.assert_close(apart.label_scores, together.label_scores)


@BY_KIND
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 bytes")],
)
def test_a_full_memory_halves_the_batch_and_says_so(
    kind: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(queries=12)
    expected = Reader(host, episode).icl()
    whole, sizes = type(host).run, []

    def run(self: Host, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tokens.shape[0])
        if tokens.shape[0] > 2:
            raise error
        return whole(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(host), "run", run)
    with pytest.warns(MemoryWarning, match=r"A batch of \d+ queries did not fit into memory; go"):
        found = Reader(host, episode).icl()
    assert max(sizes) > 2
    for name, value in parts(expected).items():
        torch.testing.assert_close(parts(found)[name], value, rtol=1e-5, atol=1e-5)


@BY_KIND
def test_one_query_that_does_not_fit_is_an_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(queries=4)
    before = checks.photograph(host.model)

    def run(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(type(host), "run", run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MemoryWarning)
        with pytest.raises(LensError, match="One query alone does not fit into memory"):
            Reader(host, episode).zs()
    before.assert_same(host.model)


@BY_KIND
def test_other_errors_are_not_taken_for_a_full_memory(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = checks.host(kind, "gpt2")

    def run(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(type(host), "run", run)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Reader(host, checks.episode()).zs()


@pytest.mark.parametrize(("kind", "family"), checks.pairs(*families.FAMILIES))
def test_training_keys_and_queries_give_the_scores(kind: str, family: str) -> None:
    """q . k / sqrt(d_head) of what Tok2Attn reads is the attention score that the softmax reads."""
    host = checks.host(kind, family)
    episode = checks.episode(shots=1, queries=1)
    example = episode.demonstrations.examples[0]
    same = Episode.from_tokens(
        [list(example.tokens)], [list(example.tokens)], checks.LABELS, [0], bos=families.BOS
    )
    reader = Reader(host, same, first=1)
    read, keys = reader.icl(), reader.training_keys(Intervention())
    if kind == "bridge" and family in ("neox", "gptj"):
        assert keys is None
        assert read.queries is None
        return
    assert keys is not None
    assert read.queries is not None
    zs = reader.zs()
    group = host.n_heads // host.n_key_value_heads
    for layer, k in enumerate(keys):
        assert k.shape == (len(example.tokens), host.n_key_value_heads, host.d_head)
        products = torch.einsum("hd,thd->ht", zs.queries[0, layer], k.repeat_interleave(group, 1))
        torch.testing.assert_close(
            products / host.d_head**0.5, zs.scores[0, layer], rtol=1e-4, atol=1e-4
        )


@BY_KIND
def test_training_keys_are_those_of_each_demonstration_alone_in_prompt_order(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=4, queries=3)
    examples = episode.demonstrations.examples
    assert len({len(example.tokens) for example in examples}) > 1
    expected: list[list[torch.Tensor]] = [[] for _ in range(host.n_layers)]
    for example in examples:  # a pass each, its BOS left out
        with torch.no_grad(), host.query_key_hooks(
            None, lambda layer, keys: expected[layer].append(keys[0, 1:])
        ):  # fmt: skip
            host.run(host.tensor((families.BOS, *example.tokens)))
    found = Reader(host, episode, first=2).training_keys(Intervention())
    assert found is not None
    for one, others in zip(found, expected, strict=True):
        torch.testing.assert_close(one, torch.cat(others), rtol=1e-4, atol=1e-5)


@BY_KIND
def test_the_oracle_reads_as_in_context_learning(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(labels=LONG)
    reader = Reader(host, episode, first=2)
    found, expected = reader.ftzs(oracle(host, episode)), reader.icl()
    for name, value in parts(expected).items():
        torch.testing.assert_close(parts(found)[name], value, rtol=1e-5, atol=1e-5)


@BY_KIND
def test_a_foreign_prefix_gives_no_scores_over_these_demonstrations(kind: str) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(shots=3)
    other = checks.episode(shots=1, seed=8)
    found = Reader(host, episode, first=2).ftzs(oracle(host, other))
    assert found.demonstration_scores is None
    assert found.is_finite


@BY_KIND
def test_a_prefix_that_leaves_no_room_is_refused(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode()
    with torch.no_grad():
        prefix = host.prefix(families.tokens(families.N_CTX - 2))
    with pytest.raises(EpisodeError, match=r"A prefix of 126 tokens and a query .* reads; nothing"):
        Reader(host, episode).ftzs(Injection(prefix))


@BY_KIND
def test_episodes_without_demonstrations_or_bos_can_be_read(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    bare = Episode.from_tokens([], [[8, 9], [10, 11, 12]], [5, 6], [0, 1], bos=None)
    reader = Reader(host, bare, first=2)
    zs, icl = reader.zs(), reader.icl()
    for name, value in parts(zs).items():
        assert torch.equal(value, parts(icl)[name])
    assert icl.demonstration_scores is None


def test_settings_that_mean_nothing_are_refused() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(LensError, match="batch_size is 0; it must be at least 1"):
        Reader(host, checks.episode(), batch_size=0)


def test_what_is_not_finite_is_told() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    found = Reader(host, checks.episode()).zs()
    assert found.is_finite
    broken = found.label_scores.clone()
    broken[0, 0] = torch.nan
    assert not dataclasses.replace(found, label_scores=broken).is_finite
