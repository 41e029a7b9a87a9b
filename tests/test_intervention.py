"""Parameter deltas are vectors: algebra, selections, files, and hooks that leave no trace."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.errors import DeltaError, HookError
from iclgd_lens.host import Host, frozen
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.intervention import Injection, Intervention
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
NAMES = [f"blocks.{layer}.attn.{kind}" for layer in (0, 1) for kind in ("W_K", "b_K", "W_O", "b_O")]
NAMES += ["blocks.0.mlp.W_in", "blocks.1.mlp.b_out"]
SHAPES = {
    "W_K": (2, 3, 4),
    "b_K": (2, 4),
    "W_O": (2, 4, 3),
    "b_O": (3,),
    "W_in": (3, 5),
    "b_out": (3,),
}


@st.composite
def deltas(draw: st.DrawFn) -> ParameterDelta:
    """A delta of some of `NAMES`; whole numbers, so that sums are exact."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return ParameterDelta(
        {
            name: torch.randint(-9, 10, SHAPES[name.rsplit(".", 1)[1]], generator=generator).float()
            for name in names
        }
    )


def same(one: ParameterDelta, other: ParameterDelta) -> bool:
    """Equal as vectors: a weight that one lacks is zero in the other."""
    zero = torch.zeros(())
    return all(
        torch.equal(*torch.broadcast_tensors(*(d[n] if n in d else zero for d in (one, other))))
        for n in {*one, *other}
    )


@settings(max_examples=20)
@given(deltas(), deltas(), deltas(), st.integers(-3, 3))
def test_deltas_form_a_vector_space(
    a: ParameterDelta, b: ParameterDelta, c: ParameterDelta, factor: int
) -> None:
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))
    assert same(a - a, 0 * a)
    assert same(a - b, a + -b)
    assert same(factor * (a + b), factor * a + b * factor)
    assert same(a + b - b, a)
    assert same(1 * a, a)
    assert not (0.0 * a).norm()


@settings(max_examples=20)
@given(deltas(), st.floats(-4, 4, width=16))
def test_norms_are_norms(a: ParameterDelta, factor: float) -> None:
    assert (factor * a).norm() == pytest.approx(abs(factor) * a.norm(), rel=1e-5)
    assert a.norm() ** 2 == pytest.approx(
        sum(float((norms.double() ** 2).sum()) for norms in a.norms().values()), rel=1e-5
    )
    for name, norms in a.norms().items():
        heads = ".attn." in name and not name.endswith("b_O")
        assert norms.shape == (2 if heads else 1,)
        for head in range(norms.shape[0]):
            part = a[name][head] if heads else a[name]
            assert float(norms[head]) == pytest.approx(float((part**2).sum()) ** 0.5, rel=1e-5)


@settings(max_examples=20)
@given(deltas())
def test_selections_partition_a_delta(a: ParameterDelta) -> None:
    def part(**choice: Any) -> ParameterDelta:
        with contextlib.suppress(DeltaError):  # nothing is left
            return a.select(**choice)
        return ParameterDelta({})

    assert same(part(layers=0) + part(layers=1), a)
    kinds = {name.rsplit(".", 1)[1] for name in a}
    total = ParameterDelta({})
    for kind in kinds:
        total = total + part(weights=kind)
    assert same(total, a)
    by_head = part(heads=0) + part(heads=[1])
    with_heads = [n for n in a if ".attn." in n and not n.endswith("b_O")]
    assert same(by_head, ParameterDelta({n: a[n] for n in with_heads}))
    assert same(part(heads=range(2), layers=[0, 1], weights=kinds), part(heads=[0, 1]))


@settings(max_examples=15)
@given(deltas())
def test_files_give_back_what_was_saved(tmp_path_factory: Any, a: ParameterDelta) -> None:
    path = tmp_path_factory.mktemp("delta") / "folder" / "a.safetensors"
    a.metadata |= {"rule": "gd", "lr": 0.1, "loss_sum": [1.5, 2.0]}
    a.save(path)
    again = path.with_name("b.safetensors")
    a.save(again)
    assert path.read_bytes() == again.read_bytes(), "the same delta, the same bytes"
    again.unlink()
    b = ParameterDelta.load(path)
    assert set(b) == set(a)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert b.metadata == a.metadata
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def a_delta() -> ParameterDelta:
    return ParameterDelta({"blocks.0.attn.W_K": torch.ones(2, 3, 4)}, {"rule": "gd"})


def test_a_delta_reads_as_a_mapping() -> None:
    a = a_delta()
    assert "blocks.0.attn.W_K" in a
    assert "blocks.0.attn.W_V" not in a
    assert 3 not in a
    assert (list(a), len(a)) == (["blocks.0.attn.W_K"], 1)
    assert [name for name, _ in a.items()] == list(a)
    assert repr(a) == "ParameterDelta(gd, 1 weights, norm 4.899)"
    assert a.is_finite
    assert not (a * float("nan")).is_finite
    with pytest.raises(
        DeltaError, match=r"does not change 'blocks\.0\.attn\.W_V'; .* Did you mean"
    ):
        a["blocks.0.attn.W_V"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_deltas_are_kept_in_single_precision(dtype: torch.dtype) -> None:
    a = ParameterDelta({"blocks.0.attn.b_O": torch.ones(3, dtype=dtype)})
    assert a["blocks.0.attn.b_O"].dtype == torch.float32


def test_deltas_of_different_shapes_do_not_add() -> None:
    other = ParameterDelta({"blocks.0.attn.W_K": torch.ones(4, 3, 4)})
    with pytest.raises(DeltaError, match=r"is \(2, 3, 4\) in one delta and \(4, 3, 4\) in the oth"):
        a_delta() + other


@pytest.mark.parametrize("heads", [2, -1, [0, 5]])
def test_heads_that_do_not_exist_are_refused(heads: Any) -> None:
    with pytest.raises(DeltaError, match=r"has heads 0 to 1 \(key/value heads are shared"):
        a_delta().select(heads=heads)


@BY_KIND
def test_a_file_of_another_model_is_refused(kind: str, tmp_path: Path) -> None:
    host = checks.host(kind, "gpt2")
    path = tmp_path / "a.safetensors"
    ParameterDelta(checks.random_delta(host, "W_K")).save(path)
    assert len(ParameterDelta.load(path, host)) == 3
    a_delta().save(path)
    with pytest.raises(DeltaError, match=r"is \(2, 3, 4\) in this delta and \(4, 32, 8\) in gpt2"):
        ParameterDelta.load(path, host)
    ParameterDelta({"blocks.0.mlp.W_gate": torch.zeros(3, 4)}).save(path)
    with pytest.raises(DeltaError, match=r"no linear map .*belongs to another model"):
        ParameterDelta.load(path, host)
    ParameterDelta({"blocks.0.attn.b_K": torch.zeros(2, 8)}).save(path)
    with pytest.raises(DeltaError, match=r"llama has no bias 'blocks\.0\.attn\.b_K'; drop it"):
        ParameterDelta.load(path, checks.host(kind, "llama"))


# -- on a model ------------------------------------------------------------------------------------


@BY_KIND
def test_applied_deltas_nest_and_sum(kind: str) -> None:
    host, tokens = checks.host(kind, "llama"), families.tokens(7)
    a = ParameterDelta(checks.random_delta(host, "W_K", "W_V"))
    b = ParameterDelta(checks.random_delta(host, "W_V", "W_in", seed=1))
    with torch.no_grad():
        plain = checks.logits(host.model, tokens)
        with a.applied(host), b.applied(host):
            nested = checks.logits(host.model, tokens)
        with (a + b).applied(host):
            summed = checks.logits(host.model, tokens)
        with a.applied(host), (-a).applied(host):
            undone = checks.logits(host.model, tokens)
        with (0 * a).applied(host):
            zero = checks.logits(host.model, tokens)
        after = checks.logits(host.model, tokens)
    torch.testing.assert_close(nested, summed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(undone, plain, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(summed, plain, atol=1e-2)
    assert torch.equal(zero, plain)
    assert torch.equal(after, plain)


@BY_KIND
def test_an_applied_delta_survives_the_models_own_caching(kind: str) -> None:
    model, tokens = checks.fresh(kind, "gpt2"), families.tokens(6)
    host = Host(model)
    delta = ParameterDelta(checks.random_delta(host, "W_V"))
    with torch.no_grad(), delta.applied(host):
        expected = checks.logits(model, tokens)
        model.run_with_cache(tokens)
        seen: list[str] = []
        hook = ("blocks.0.hook_resid_pre", lambda value, hook: seen.append("user"))
        model.run_with_hooks(tokens, fwd_hooks=[hook])
        assert seen == ["user"]
        assert torch.equal(checks.logits(model, tokens), expected)
    with torch.no_grad():
        assert not torch.allclose(checks.logits(model, tokens), expected)


@BY_KIND
def test_selected_heads_change_their_own_values_alone(kind: str) -> None:
    host, tokens = checks.host(kind, "llama"), families.tokens(6)
    delta = ParameterDelta(checks.random_delta(host, "W_V")).select(layers=0, heads=1)
    value = "blocks.0.attn.hook_v" if kind == "hooked" else "blocks.0.attn.v.hook_out"
    seen: list[torch.Tensor] = []
    keep = (value, lambda activation, hook: seen.append(activation.reshape(1, 6, 2, 8)))
    with torch.no_grad(), host.hooked([keep]):
        host.run(tokens)
    with torch.no_grad(), host.hooked([*delta.hooks(host), keep]):
        host.run(tokens)
    before, after = seen
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    assert not torch.allclose(before[:, :, 1], after[:, :, 1])


@BY_KIND
def test_a_delta_of_another_model_attaches_nothing(kind: str) -> None:
    model = checks.host(kind, "gpt2").model
    before = checks.photograph(model)
    with pytest.raises(DeltaError, match="belongs to another model"):
        with a_delta().applied(model):
            raise AssertionError("never reached")
    before.assert_same(model)


@BY_KIND
def test_a_prefix_cannot_be_applied_with_hooks(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    found = oracle(host, checks.episode())
    assert isinstance(found, Injection)
    before = checks.photograph(host.model)
    with pytest.raises(DeltaError, match="Injection shares a prefix of keys and values"):
        with found.applied(host):
            raise AssertionError("never reached")
    before.assert_same(host.model)


@BY_KIND
def test_the_plain_intervention_changes_nothing(kind: str) -> None:
    host, tokens = checks.host(kind, "gpt2"), families.tokens(5)
    nothing = Intervention()
    assert nothing.hooks(host) == []
    assert nothing.prefix(host) is None
    with torch.no_grad(), nothing.applied(host) as model:
        assert torch.equal(checks.logits(model, tokens), checks.logits(host.model, tokens))


@BY_KIND
def test_a_hook_that_never_fires_while_applied_is_an_error(kind: str) -> None:
    host = checks.host(kind, "gpt2")

    class Dead(Intervention):
        def hooks(self, host: Host) -> Any:
            unused = "blocks.0.hook_attn_in"  # fires only where use_attn_in is on
            return [(host.z_hook(0), lambda value, hook: None), (unused, lambda value, hook: None)]

    before = checks.photograph(host.model)
    with pytest.raises(HookError, match="did not fire"), frozen(host.model):
        with Dead().applied(host):
            host.run(families.tokens(4))
    before.assert_same(host.model)
