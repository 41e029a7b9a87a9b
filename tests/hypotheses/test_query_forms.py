"""Head outputs made from the query: what the unchanged model holds, neutral forms, no interplay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iclgd_lens.errors import HookError, HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.query_forms import Form, FromZeroShot, Own, QueryForms
from iclgd_lens.readout.reader import Reader
from tests import checks

EPISODE = checks.episode(shots=3, queries=4)
FAMILIES = checks.pairs("gpt2", "llama")
BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


def forms(host: Host, keep: float, constant: float = 0.0, weight: float = 0.0) -> QueryForms:
    heads, size = host.n_heads, host.d_head
    generator = torch.Generator().manual_seed(0)
    return QueryForms(
        [
            Form(
                torch.full((heads,), keep),
                constant * torch.randn(heads, size, generator=generator),
                weight * torch.randn(heads, size, size, generator=generator),
            )
            for _ in range(host.n_layers)
        ]
    )


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_what_the_unchanged_model_holds_is_its_attention(kind: str, family: str) -> None:
    """z is the softmax of the query with the keys that it sees, times their values."""
    host = checks.host(kind, family)
    seen: list[Own] = []

    def look(layer: int, own: Own) -> torch.Tensor:
        seen.append(own)
        return own.z

    reader = Reader(host, EPISODE)
    same, zs = reader.ftzs(FromZeroShot(look)), reader.zs()
    assert torch.allclose(same.z, zs.z, atol=1e-6)  # put in at once, nothing has changed
    assert torch.allclose(same.label_scores, zs.label_scores, atol=1e-5)
    assert len(seen) % host.n_layers == 0
    for own in seen:
        q, keys = own.q.double().numpy(), own.keys.double().numpy()
        scores = np.einsum("rhd,rthd->rht", q, keys) / host.d_head**0.5
        scores = np.where(own.seen.numpy()[:, None], scores, -np.inf)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        z = np.einsum("rht,rthd->rhd", pattern, own.values.double().numpy())
        assert np.allclose(z, own.z.numpy(), atol=1e-5)


def test_a_form_is_what_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    q, z = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    form = Form(torch.tensor([1.0, 0.0, -2.0]), torch.randn(3, 4), torch.randn(3, 4, 4))
    for row in range(2):
        for head in range(3):
            expected = (
                float(form.keep[head]) * z[row, head].numpy() + form.constant[head].numpy()
                + q[row, head].numpy() @ form.weight[head].numpy()
            )  # fmt: skip
            assert np.allclose(form(q, z)[row, head].numpy(), expected, atol=1e-5)


@BY_KIND
def test_the_neutral_form_changes_nothing_and_each_part_something(kind: str) -> None:
    host = checks.host(kind, "llama")
    reader = Reader(host, EPISODE)
    zs = reader.zs()
    assert torch.equal(reader.ftzs(forms(host, 1.0)).label_scores, zs.label_scores)
    for changed in (forms(host, 0.5), forms(host, 1.0, 0.1), forms(host, 1.0, 0.0, 0.1)):
        assert not torch.allclose(reader.ftzs(changed).label_scores, zs.label_scores, atol=1e-5)


@BY_KIND
def test_layers_do_not_interplay(kind: str) -> None:
    """A later layer's output is made from the unchanged model, not from the earlier change."""
    host = checks.host(kind, "llama")
    reader = Reader(host, EPISODE)
    zs = reader.zs()

    def first_moved(layer: int, own: Own) -> torch.Tensor:
        return own.z + 1.0 if layer == 0 else own.z

    moved = reader.ftzs(FromZeroShot(first_moved))
    assert torch.allclose(moved.z[:, 1:], zs.z[:, 1:], atol=1e-6)
    assert torch.allclose(moved.z[:, 0], zs.z[:, 0] + 1.0, atol=1e-6)


@BY_KIND
def test_without_the_rows_tokens_it_says_what_is_missing(kind: str) -> None:
    host = checks.host(kind, "llama")
    with (
        pytest.raises((HypothesisError, HookError), match="tokens beforehand"),
        FromZeroShot(lambda layer, own: own.z).applied(host.model),
    ):
        checks.logits(host.model, torch.tensor([[1, 5, 7]]))
