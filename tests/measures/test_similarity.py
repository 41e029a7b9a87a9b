"""Scores against restatements in plain NumPy loops, the golden pack, and their algebra."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats

from iclgd_lens.errors import LensError
from iclgd_lens.measures import similarity

GOLDEN = Path(__file__).parents[1] / "golden" / "pack_a.npz"
RULES = ["gd", "lcgd"]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def three(*shape, seed=0):
    """A base and two related changes of it, so that cosines are far from 0 and from 1."""
    base, shared, own, other = normal(4, *shape, seed=seed)
    return base, base + shared + 0.5 * own, base + shared + 0.5 * other


# --- independent restatements: float64, one query at a time, no code of the package -------------


def cosine(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not x.any() or not y.any():
        return math.nan
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))


def unit(x):
    x = np.asarray(x, np.float64)
    return x / math.sqrt(float(x @ x)) if x.any() else np.full_like(x, np.nan)


def loop_sim_aou(zs, icl, ft, normalize=True):
    out = np.empty(zs.shape[:-1])
    for index in np.ndindex(*out.shape):
        z, i, f = (np.asarray(t[index], np.float64) for t in (zs, icl, ft))
        if normalize:
            z, i, f = unit(z), unit(i), unit(f)
        out[index] = cosine(i - z, f - z)
    return out


def loop_heads(zs, icl, ft, w_o):
    w_o = np.asarray(w_o, np.float64)

    def materialise(z):
        return np.einsum("qlhd,lhdm->qlhm", np.asarray(z, np.float64), w_o)

    return loop_sim_aou(*(materialise(z) for z in (zs, icl, ft)))


def loop_sim_am(zs, icl, ft, raw=False):
    out = np.empty(zs.shape[:-1])
    for index in np.ndindex(*out.shape):
        z, i, f = (np.asarray(t[index], np.float64) for t in (zs, icl, ft))
        out[index] = cosine(i, f) if raw else cosine(i - z, f - z)
    return out


def close(actual, expected, atol=2e-6):
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


# --- SimAOU and SimAM ---------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_sim_aou_equals_the_loop(normalize):
    settings_ = three(7, 3, 16)
    actual = similarity.sim_aou(*settings_, normalize=normalize)
    close(actual, loop_sim_aou(*settings_, normalize=normalize))


def test_normalising_changes_the_score():
    zs, icl, ft = three(4, 2, 8)
    icl = icl * 5
    plain = similarity.sim_aou(zs, icl, ft, normalize=False)
    assert (similarity.sim_aou(zs, icl, ft) - plain).abs().max() > 0.05


@pytest.mark.parametrize(("d_head", "d_model"), [(4, 24), (8, 8), (12, 5)])
def test_heads_equal_materialised_head_outputs(d_head, d_model):
    zs, icl, ft = three(6, 2, 3, d_head)
    w_o = normal(2, 3, d_head, d_model, seed=1)
    close(similarity.sim_aou_heads(zs, icl, ft, w_o), loop_heads(zs, icl, ft, w_o), atol=5e-6)


def test_heads_with_rank_deficient_weights():
    zs, icl, ft = three(6, 1, 2, 8)
    w_o = normal(1, 2, 8, 3, seed=1) @ normal(1, 2, 3, 32, seed=2)
    close(similarity.sim_aou_heads(zs, icl, ft, w_o), loop_heads(zs, icl, ft, w_o), atol=5e-6)


def test_a_head_that_writes_nothing_is_undefined():
    zs, icl, ft = three(3, 1, 2, 4)
    w_o = normal(1, 2, 4, 16)
    w_o[0, 1] = 0
    score = similarity.sim_aou_heads(zs, icl, ft, w_o)
    assert score[:, 0, 0].isfinite().all()
    assert score[:, 0, 1].isnan().all()


def test_head_factor_is_an_isometry_and_its_own_stand_in():
    zs, icl, ft = three(5, 2, 3, 4)
    w_o = normal(2, 3, 4, 32, seed=3)
    factor = similarity.head_factor(w_o)
    assert factor.shape == (2, 3, 4, 4)
    torch.testing.assert_close(factor @ factor.mT, w_o @ w_o.mT)
    whole = similarity.sim_aou_heads(zs, icl, ft, w_o)
    assert torch.equal(similarity.sim_aou_heads(zs, icl, ft, factor), whole)


def test_heads_without_layers():
    empty = torch.zeros(3, 0, 2, 4)
    assert similarity.sim_aou_heads(empty, empty, empty, torch.zeros(0, 2, 4, 8)).shape == (3, 0, 2)


@pytest.mark.parametrize("raw", [True, False])
def test_sim_am_equals_the_loop(raw):
    settings_ = three(5, 2, 3, 9)
    close(similarity.sim_am(*settings_, raw=raw), loop_sim_am(*settings_, raw=raw))


def test_raw_sim_am_ignores_zs():
    zs, icl, ft = three(3, 2, 2, 6)
    raw = similarity.sim_am(zs, icl, ft, raw=True)
    assert torch.equal(raw, similarity.sim_am(zs + 1, icl, ft, raw=True))


@pytest.mark.parametrize("rule", RULES)
def test_golden_sim_aou(rule):
    pack = np.load(GOLDEN)
    recorded = [torch.tensor(pack[f"{s}/attn_out"]) for s in ("zs", "icl", f"ftzs_{rule}")]
    score = similarity.sim_aou(*recorded)
    close(score, pack[f"{rule}/SimAOU_per_query"], atol=1e-5)
    close(score.mean(dim=0), pack[f"{rule}/SimAOU"], atol=1e-5)
    plain = similarity.sim_aou(*recorded, normalize=False)
    close(plain.mean(dim=0), pack[f"{rule}/SimAOU_nonorm"], atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_golden_sim_am(rule):
    pack = np.load(GOLDEN)
    queries = len(pack["zs/context_len"])
    maps = []
    for setting in ("zs", "icl", f"ftzs_{rule}"):
        own = [
            pack[f"{setting}/scores_last_{q}"][..., pack[f"{setting}/context_len"][q] :]
            for q in range(queries)
        ]
        longest = max(each.shape[-1] for each in own)
        padded = [np.pad(x, [(0, 0), (0, 0), (0, longest - x.shape[-1])]) for x in own]
        maps.append(torch.tensor(np.stack(padded)))
    score = similarity.sim_am(*maps)
    close(score, pack[f"{rule}/SimAM_per_query_head"], atol=1e-5)
    close(score.mean(dim=(0, 2)), pack[f"{rule}/SimAM"], atol=1e-5)


# --- algebra ------------------------------------------------------------------------------------

seeds = st.integers(0, 10_000)
factors = st.floats(1e-3, 1e3)


@given(seeds, factors, factors)
def test_scale_of_a_change_does_not_matter(seed, s, t):
    zs, icl, ft = three(3, 2, 2, 5, seed=seed)
    zs = torch.zeros_like(zs)
    expected = similarity.sim_am(zs, icl, ft)
    torch.testing.assert_close(similarity.sim_am(zs, s * icl, t * ft), expected, atol=3e-6, rtol=0)


@given(seeds, factors, factors, factors)
def test_scale_of_outputs_does_not_matter_once_normalised(seed, r, s, t):
    zs, icl, ft = three(3, 2, 5, seed=seed)
    scaled = similarity.sim_aou(r * zs, s * icl, t * ft)
    torch.testing.assert_close(scaled, similarity.sim_aou(zs, icl, ft), atol=1e-5, rtol=0)


@given(seeds)
def test_opposite_change_flips_the_sign(seed):
    zs, icl, ft = three(3, 2, 2, 5, seed=seed)
    zs = torch.zeros_like(zs)
    assert torch.equal(similarity.sim_am(zs, icl, -ft), -similarity.sim_am(zs, icl, ft))


@given(seeds, st.floats(1e-4, 10))
def test_the_same_change_scores_one(seed, size):
    zs, change = normal(2, 3, 2, 2, 6, seed=seed)
    icl, w_o = zs + size * change, normal(2, 2, 6, 20, seed=seed + 1)
    for score in (
        similarity.sim_am(zs, icl, icl),
        similarity.sim_am(zs, icl, icl, raw=True),
        similarity.sim_aou(zs[:, 0], icl[:, 0], icl[:, 0]),
        similarity.sim_aou_heads(zs, icl, icl, w_o),
    ):
        torch.testing.assert_close(score, torch.ones_like(score), atol=1e-6, rtol=0)
        assert (score <= 1).all()


@given(seeds, st.integers(0, 4))
def test_padding_and_order_of_queries_do_not_matter(seed, padding):
    zs, icl, ft = three(6, 2, 2, 5, seed=seed)
    score = similarity.sim_am(zs, icl, ft)
    padded = (torch.nn.functional.pad(x, (0, padding)) for x in (zs, icl, ft))
    torch.testing.assert_close(similarity.sim_am(*padded), score, atol=1e-6, rtol=0)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    permuted = similarity.sim_am(zs[order], icl[order], ft[order])
    torch.testing.assert_close(permuted, score[order], atol=1e-6, rtol=0)


# --- undefined and extreme ----------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_an_unchanged_query_is_undefined_and_alone(normalize):
    zs, icl, ft = three(4, 2, 64)
    ft[1], icl[2, 0] = zs[1], zs[2, 0]
    score = similarity.sim_aou(zs, icl, ft, normalize=normalize)
    expected = torch.zeros(4, 2, dtype=torch.bool)
    expected[1], expected[2, 0] = True, True
    assert torch.equal(score.isnan(), expected)


def test_heads_left_alone_are_undefined_although_matrix_products_round():
    zs, icl, _ = three(300, 1, 3, 16)
    score = similarity.sim_aou_heads(zs, icl, zs.clone(), normal(1, 3, 16, 128))
    assert score.isnan().all()
    # The same direction, at another length, is the same normalised output.
    assert similarity.sim_aou_heads(zs, icl, 2 * zs, normal(1, 3, 16, 128)).isnan().all()


def test_zero_vectors_are_undefined():
    zs, icl, ft = three(3, 1, 2, 8)
    for where, settings_ in enumerate([(zs * 0, icl, ft), (zs, icl * 0, ft), (zs, icl, ft * 0)]):
        assert similarity.sim_aou(*(x[:, 0] for x in settings_)).isnan().all()
        # A zero map is a value like any other, unless it is what is compared.
        assert similarity.sim_am(*settings_).isfinite().all()
        assert similarity.sim_am(*settings_, raw=True).isnan().all() == (where > 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_inputs_give_nan_for_their_query_alone(bad):
    zs, icl, ft = three(3, 1, 2, 8)
    icl[1, 0, :, 3] = bad
    for score in (
        similarity.sim_am(zs, icl, ft),
        similarity.sim_am(zs, icl, ft, raw=True),
        similarity.sim_aou(zs[:, 0], icl[:, 0], ft[:, 0]),
        similarity.sim_aou_heads(zs, icl, ft, normal(1, 2, 8, 8)),
    ):
        undefined = score.flatten(1).isnan()
        assert undefined[1].all()
        assert not undefined[[0, 2]].any()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_magnitudes_whose_squares_leave_float32(scale):
    plain = three(3, 2, 2, 8)
    extreme = [x * scale for x in plain]
    close(similarity.sim_am(*extreme), loop_sim_am(*plain), atol=1e-5)
    close(similarity.sim_am(*extreme, raw=True), loop_sim_am(*plain, raw=True), atol=1e-5)
    flat = [x[:, 0] for x in extreme]
    close(similarity.sim_aou(*flat), loop_sim_aou(*(x[:, 0] for x in plain)), atol=1e-5)


def test_small_changes_of_large_outputs_keep_their_direction():
    base, x, y = (normal(4, 2, 32, seed=s, dtype=torch.float64) for s in range(3))
    settings_ = base, base + 1e-9 * x, base + 1e-9 * (x + y)
    close(similarity.sim_aou(*settings_), loop_sim_aou(*settings_), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_is_scored_in_float32_or_better(dtype):
    settings_ = [x.to(dtype) for x in three(5, 2, 3, 16)]
    w_o = normal(2, 3, 16, 48).to(dtype)
    exact = [x.double() for x in settings_]
    close(similarity.sim_am(*settings_), loop_sim_am(*exact))
    close(similarity.sim_aou_heads(*settings_, w_o), loop_heads(*exact, w_o.double()), atol=5e-6)


def test_no_gradient_flows_and_arguments_stay_as_they_are():
    zs, icl, ft = (x.requires_grad_() for x in three(3, 2, 8))
    before = zs.detach().clone()
    assert not similarity.sim_aou(zs, icl, ft).requires_grad
    assert torch.equal(zs, before)


def test_slices_of_queries_equal_the_whole():
    settings_ = three(40, 3, 4096)  # several slices
    whole = similarity.sim_aou(*settings_)
    alone = torch.cat([similarity.sim_aou(*(x[q : q + 1] for x in settings_)) for q in range(40)])
    assert torch.equal(whole, alone)


def test_no_queries_give_no_scores():
    none = torch.zeros(0, 2, 3, 4)
    assert similarity.sim_am(none, none, none).shape == (0, 2, 3)
    assert similarity.sim_aou(none[:, 0], none[:, 0], none[:, 0]).shape == (0, 3)
    assert similarity.sim_aou_heads(none, none, none, torch.zeros(2, 3, 4, 8)).shape == (0, 2, 3)
    assert similarity.tok2attn(none, none).shape == (0, 2, 3)


# --- predictions --------------------------------------------------------------------------------


def bools(*values):
    return torch.tensor(values, dtype=torch.bool)


def test_rec2ftp_and_f2t_on_every_combination():
    zs = bools(0, 0, 0, 0, 1, 1, 1, 1)
    icl = bools(0, 0, 1, 1, 0, 0, 1, 1)
    ft = bools(0, 1, 0, 1, 0, 1, 0, 1)
    nan = math.nan
    expected = torch.tensor([nan, 0, nan, 1, nan, nan, nan, nan])
    torch.testing.assert_close(similarity.rec2ftp(zs, icl, ft), expected, equal_nan=True)
    assert similarity.f2t(zs, icl, ft).tolist() == [False, False, False, True] + [False] * 4


def test_prediction_and_accuracy():
    nan, inf = math.nan, math.inf
    label_scores = torch.tensor([[1.0, 2], [3, 3], [nan, 1], [-inf, 1], [5, -5]])
    prediction = similarity.label_prediction(label_scores)
    assert prediction.tolist() == [1, 0, -1, -1, 0]
    right = similarity.accuracy(prediction, torch.tensor([1, 1, 0, 1, 0]))
    torch.testing.assert_close(right, torch.tensor([1.0, 0, nan, nan, 1]), equal_nan=True)
    with pytest.raises(LensError, match="at least one label"):
        similarity.label_prediction(torch.zeros(3, 0))


def test_label_kl_equals_the_loop_and_ignores_shifts():
    p, q = normal(2, 6, 4)
    expected = [
        sum(a * math.log(a / b) for a, b in zip(x, y, strict=True))
        for x, y in zip(
            p.double().softmax(-1).tolist(), q.double().softmax(-1).tolist(), strict=True
        )
    ]
    close(similarity.label_kl(p, q), expected)
    close(similarity.label_kl(p + 3, q - 7), expected, atol=1e-5)
    assert torch.equal(similarity.label_kl(p, p), torch.zeros(6))
    q[2, 1] = -math.inf
    assert similarity.label_kl(p, q).isnan().tolist() == [False, False, True, False, False, False]


def test_recovery_equals_least_squares_over_all_queries():
    zs, icl, ft = three(20, 5)
    moments = similarity.recovery_moments(zs, icl, ft).mean(dim=0)
    d_icl, d_ft = ((x - zs).double().numpy() for x in (icl, ft))
    x = (d_ft - d_ft.mean(1, keepdims=True)).ravel()
    y = (d_icl - d_icl.mean(1, keepdims=True)).ravel()
    scale = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    share = 1 - ((y - scale * x) ** 2).sum() / (y**2).sum()
    unscaled = 1 - ((y - x) ** 2).sum() / (y**2).sum()
    for statistic, expected in [
        (similarity.recovery_scale, scale),
        (similarity.recovery_share, share),
        (similarity.recovery_unscaled, unscaled),
    ]:
        np.testing.assert_allclose(float(statistic(moments)), expected, atol=1e-5)
        np.testing.assert_allclose(statistic(moments.numpy()), expected, atol=1e-5)


@given(seeds, st.floats(-5, 5).filter(lambda s: abs(s) > 0.01))
def test_recovery_of_a_scaled_change(seed, scale):
    zs, change = normal(2, 8, 4, seed=seed).double()
    shift = normal(8, 1, seed=seed + 1)  # common to all labels: predicts nothing
    moments = similarity.recovery_moments(zs, zs + scale * change, zs + change + shift).mean(dim=0)
    assert float(similarity.recovery_scale(moments)) == pytest.approx(scale, rel=1e-4)
    share = 1 if scale > 0 else 0  # a change in the opposite direction recovers nothing
    assert float(similarity.recovery_share(moments)) == pytest.approx(share, abs=1e-4)
    unscaled = 1 - (scale - 1) ** 2 / scale**2
    assert float(similarity.recovery_unscaled(moments)) == pytest.approx(
        unscaled, rel=1e-3, abs=1e-3
    )


def test_recovery_without_a_change_is_undefined():
    zs, icl, ft = three(4, 3)
    names = similarity.recovery_scale, similarity.recovery_share, similarity.recovery_unscaled
    still = similarity.recovery_moments(zs, icl, zs).mean(dim=0)
    assert [math.isnan(f(still)) for f in names] == [True, True, False]
    assert float(similarity.recovery_unscaled(still)) == 0
    no_icl = similarity.recovery_moments(zs, zs, ft).mean(dim=0)
    assert [f(no_icl).isfinite().item() for f in names] == [True, False, False]
    icl[1, 0] = math.nan
    assert similarity.recovery_moments(zs, icl, ft).isnan().any(dim=1).tolist() == [0, 1, 0, 0]


# --- Kendall's tau ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(seeds, st.integers(2, 70), st.sampled_from([2, 5, 1000]))
def test_kendall_equals_scipy(seed, items, values):
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, values, (2, 3, 2, items)).astype(np.float64)
    actual = similarity.kendall_tau(torch.tensor(a), torch.tensor(b))
    assert actual.shape == (3, 2)
    for index in np.ndindex(3, 2):
        expected = stats.kendalltau(a[index], b[index]).statistic
        np.testing.assert_allclose(float(actual[index]), expected, atol=1e-6, equal_nan=True)


def test_kendall_by_counting_pairs():
    a, b = normal(2, 9)
    signs = [
        np.sign(float(a[i] - a[j])) * np.sign(float(b[i] - b[j]))
        for i in range(9)
        for j in range(i)
    ]
    assert float(similarity.kendall_tau(a, b)) == pytest.approx(np.mean(signs), abs=1e-6)


def test_kendall_undefined_and_extreme():
    a = torch.arange(5.0)
    assert float(similarity.kendall_tau(a, a)) == 1
    assert float(similarity.kendall_tau(a, -a)) == -1
    assert float(similarity.kendall_tau(a, a.clone().index_fill(0, torch.tensor(4), math.inf))) == 1
    assert similarity.kendall_tau(a, torch.ones(5)).isnan()
    assert similarity.kendall_tau(a, a.clone().index_fill(0, torch.tensor(2), math.nan)).isnan()
    assert similarity.kendall_tau(torch.ones(3, 1), torch.ones(3, 1)).isnan().all()
    assert similarity.kendall_tau(torch.ones(3, 0), torch.ones(3, 0)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tok2attn_is_kendall_over_tokens(dtype):
    icl, ft = normal(2, 3, 2, 2, 33).to(dtype)
    score = similarity.tok2attn(icl, ft)
    assert score.shape == (3, 2, 2)
    expected = stats.kendalltau(icl[1, 0, 1].float().numpy(), ft[1, 0, 1].float().numpy())
    assert float(score[1, 0, 1]) == pytest.approx(expected.statistic, abs=1e-6)


# --- refusals -----------------------------------------------------------------------------------


def test_shapes_that_disagree_are_refused():
    x, y = torch.zeros(2, 3, 4), torch.zeros(1, 3, 4)
    # The shape checks of the test run see such calls first; without them the error is LensError.
    refused = (LensError, TypeCheckError)
    with pytest.raises(refused):
        similarity.sim_aou(x, x, y)
    with pytest.raises(refused):
        similarity.sim_am(x, x, x)
    with pytest.raises(refused):
        similarity.sim_aou_heads(x[None], x[None], x[None], torch.zeros(2, 3, 5, 4))
    with pytest.raises(refused):
        similarity.kendall_tau(torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(LensError, match=r"\(query\), but got zs \(2,\), ft \(3,\)"):
        similarity._check(1, "query", zs=torch.zeros(2), ft=torch.zeros(3))
    with pytest.raises(LensError, match=r"query layer"):
        similarity._check(2, "query layer", zs=torch.zeros(2))
