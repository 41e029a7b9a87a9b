"""Sliding windows: what a window hides is no score, and what it hides of demonstrations is said."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import iclgd_lens as lens
from iclgd_lens.episode import Episode, EpisodeWarning
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.measures import similarity
from iclgd_lens.readout.reader import Reader
from tests import checks, families

WINDOW = 5
_FIELDS: dict[str, Any] = {**families._GROUPED, "head_dim": 12, "sliding_window": WINDOW}
CONFIGS: dict[str, Any] = {
    "every layer": lambda: transformers.MistralConfig(**_FIELDS, rope_parameters=families._ROPE),
    "some layers": lambda: transformers.Gemma2Config(**_FIELDS, query_pre_attn_scalar=12),
}
HOSTED = [
    pytest.param(kind, name, id=f"{kind}-{name}")
    for name in CONFIGS
    for kind in checks.kinds()
    if (kind, name) != ("hooked", "some layers")
]


def hosted(kind: str, name: str) -> Host:
    return Host(families.hosted(kind, families.of_config(CONFIGS[name]())))


def episode(first: int = 4, shots: int = 3) -> Episode:
    """Queries of `first` tokens and more: the window is shorter than most of them."""
    generator = torch.Generator().manual_seed(3)

    def words(count: int) -> list[int]:
        return torch.randint(7, families.VOCAB_SIZE, (count,), generator=generator).tolist()

    return Episode.from_tokens(
        [[*words(4), 5 + index % 2] for index in range(shots)],
        [words(first + index) for index in range(6)], [[5], [6]], [0, 1] * 3,
        bos=families.BOS, separator=[4],
    )  # fmt: skip


def raw_scores(host: Host, tokens: tuple[int, ...]) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), host.score_hooks(lambda layer, x: seen.__setitem__(layer, x)):
        host.run(host.tensor(tokens))
    return {layer: x[0, :, -1].float() for layer, x in seen.items()}


@pytest.mark.parametrize(("kind", "name"), HOSTED)
def test_scores_are_what_the_window_shows(kind: str, name: str) -> None:
    host, shown = hosted(kind, name), episode()
    reader = Reader(host, shown, first=6)
    with pytest.warns(EpisodeWarning):
        icl = reader.icl()
    readouts = {(): reader.zs(), shown.demonstrations.prompt(): icl}
    windowed = range(3) if name == "every layer" else (0, 2)
    for prompt, readout in readouts.items():
        assert readout.is_finite
        for index, query in enumerate(shown.queries):
            raw = raw_scores(host, (*(prompt or (families.BOS,)), *query.content))
            count = len(query.content)
            for layer, scores in raw.items():
                own = scores[:, -count:]
                if layer in windowed:
                    own[:, : max(0, count - WINDOW)] = 0
                assert own.abs().max() < 1e3
                found = readout.scores[index, layer, :, :count]
                torch.testing.assert_close(found, own, atol=1e-5, rtol=2e-6)
                assert bool((found[:, -WINDOW:] != 0).all())


@pytest.mark.parametrize(("kind", "name"), HOSTED)
def test_attention_scores_are_compared_over_what_both_see(kind: str, name: str) -> None:
    """A window shorter than the query took every score of attention with it."""
    host, shown = hosted(kind, name), episode(first=7)
    delta = lens.ParameterDelta(checks.random_delta(host, "W_K", "W_V"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EpisodeWarning)
        result = lens.compare(host, shown, {"mine": delta}, controls=("oracle",), resamples=5)
        reader = Reader(host, shown, first=6)
        zs, icl, ft = reader.zs(), reader.icl(), reader.ftzs(delta)
    assert not result.parts[0].failures
    values = result.parts[0].values
    expected = torch.cosine_similarity(icl.scores - zs.scores, ft.scores - zs.scores, dim=-1)
    found = torch.tensor(values["mine"]["SimAM/head"])
    defined = ~found.isnan()
    # Through windows in every layer, demonstrations reach long queries in the last one alone.
    assert bool(defined[:, 2].all())
    torch.testing.assert_close(found[defined], expected[defined], atol=1e-4, rtol=0)
    oracle_values = torch.tensor(values["oracle"]["SimAM"])
    assert torch.allclose(oracle_values[~oracle_values.isnan()], torch.tensor(1.0), atol=1e-5)


@pytest.mark.parametrize("kind", checks.kinds())
def test_tok2attn_ranks_the_tokens_in_sight(kind: str) -> None:
    host, shown = hosted(kind, "every layer"), episode(first=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EpisodeWarning)
        reader = Reader(host, shown, first=6)
        icl = reader.icl()
        tau = similarity.tok2attn(
            icl.demonstration_scores, reader.ftzs(oracle(host, shown)).demonstration_scores
        )
    places = torch.tensor(shown.demonstrations.prompt_positions())
    end = len(shown.demonstrations.prompt())
    for index, query in enumerate(shown.queries):
        in_sight = places > end + len(query.content) - 1 - WINDOW
        assert torch.equal(
            ~icl.demonstration_scores[index].isnan(),
            in_sight.expand(3, families.N_HEADS, -1),
        )
        if int(in_sight.sum()) > 1:
            assert torch.allclose(tau[index], torch.tensor(1.0))
        if not in_sight.any():
            assert bool(tau[index].isnan().all())


def test_windows_that_hide_demonstrations_are_said() -> None:
    host = hosted("bridge", "some layers")
    with pytest.warns(EpisodeWarning, match=r"in 2 of 3 layers .* of the 19 tokens before them"):
        Reader(host, episode()).icl()
    wide = families._GROUPED | {"head_dim": 12, "sliding_window": 100}
    roomy = transformers.Gemma2Config(**wide, query_pre_attn_scalar=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EpisodeWarning)
        Reader(families.hosted("bridge", families.of_config(roomy)), episode()).icl()
        Reader(host, episode()).zs()


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_score_that_overflows_is_still_not_finite(kind: str) -> None:
    host, shown = hosted(kind, "every layer"), episode()

    def overflow(activation: Tensor, hook: Any) -> Tensor:
        changed = activation.clone()
        changed[..., 1, :] = torch.inf
        return changed

    class Broken(lens.Intervention):
        def hooks(self, host: Host, batch: Any = None) -> list[Any]:
            return [("blocks.1.hook_resid_pre", overflow)]

    assert not Reader(host, shown).ftzs(Broken()).is_finite
