"""Attribution and direct effects against their definitions, and TransformerLens 4's own tool."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from iclgd_lens.host import Host, frozen, writes_add_up
from iclgd_lens.mediation.gradients import (
    direct_effects,
    gradients,
)
from iclgd_lens.mediation.margins import Margin, shared_prefix
from iclgd_lens.readout.reader import Reader
from tests import checks, families

LABELS = ((5,), (6,), (8,))


def episode(**changes: Any) -> Any:
    fields: dict[str, Any] = {"labels": LABELS, "queries": 4, "shots": 3, **changes}
    return checks.episode(**fields)


def of(host: Host, shown: Any) -> tuple[Any, Any]:
    """Gradients of ZS and ICL."""
    with frozen(host.model):
        alone = shared_prefix(host, (shown.demonstrations.bos,))
        after = shared_prefix(host, shown.demonstrations.prompt())
        margin = Margin(host, shown)
        return gradients(host, margin, shown, alone), gradients(host, margin, shown, after)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("llama", "neox"))
def test_attribution_is_the_derivative_of_the_margin(kind: str, family: str) -> None:
    host, shown = checks.host(kind, family), episode(queries=2)
    _, icl = of(host, shown)
    tokens = torch.tensor([[*shown.demonstrations.prompt(), *shown.queries[1].content]])
    gold, step = shown.queries[1].gold, 1e-2

    def margin(layer: int, head: int, amount: float) -> float:
        def add(value: Tensor, hook: Any) -> Tensor:
            changed = value.clone().reshape(*value.shape[:2], host.n_heads, -1)
            changed[0, -1, head, 2] += amount
            return changed.reshape(value.shape)

        with torch.no_grad(), host.hooked([(host.z_hook(layer), add)]):
            chosen = checks.logits(host.model, tokens)[0, -1, [5, 6, 8]].double()
        return float(1.5 * chosen[gold] - chosen.sum() / 2)

    for layer, head in ((0, 0), (1, 3), (2, 1)):
        slope = (margin(layer, head, step) - margin(layer, head, -step)) / (2 * step)
        assert float(icl.z[1, layer, head, 2]) == pytest.approx(slope, abs=2e-3, rel=2e-2)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("llama", "gpt2", "neox"))
def test_direct_effects_keep_the_norms_scale(kind: str, family: str) -> None:
    host, shown = checks.host(kind, family), episode()
    reader = Reader(host, shown)
    change = reader.icl().z - reader.zs().z
    found = direct_effects(host, change, of(host, shown)[1].direct)
    tokens = torch.tensor([[*shown.demonstrations.prompt(), *shown.queries[0].content]])
    with frozen(host.model), torch.no_grad():
        x = host.run(tokens).residual[0, -1].double()
        nothing = host.final_norm(torch.zeros(1, host.d_model)).double()
        at = host.final_norm(x.float()[None]).double()
        linear = host.unembedding()
    assert linear is not None
    # By hand: gain, scale and centring as the family's norm has them.
    c = x - x.mean() if family != "llama" else x
    eps = 1e-6 if family == "llama" else 1e-5
    scale = ((c**2).mean() + eps).sqrt()
    gain = (at - nothing)[0] * scale / c
    columns = linear[0].detach().double()[:, [5, 6, 8]]
    gold = shown.queries[0].gold
    towards = 1.5 * columns[:, gold] - columns.sum(1) / 2
    for layer, head in ((0, 0), (1, 2), (2, 3)):
        weight = host.parameter(f"blocks.{layer}.attn.W_O")
        assert weight is not None
        d = change[0, layer, head].double() @ weight[head].double()
        d = d - d.mean() if family != "llama" else d
        assert float(found[0, layer, head]) == pytest.approx(
            float(((d / scale * gain) @ towards).detach()), rel=1e-3, abs=1e-5
        )


@pytest.mark.parametrize(
    ("family", "adds"), [("llama", True), ("bloom", True), ("gemma2", False), ("granite", False)]
)
def test_direct_effects_are_known_where_heads_write_as_they_are(family: str, adds: bool) -> None:
    host = checks.host("bridge", family)
    with frozen(host.model):
        assert writes_add_up(host, (1, 7, 9, 11)) is adds


@pytest.mark.skipif(families.has_hooked_transformer(), reason="a tool of TransformerLens 4")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attribution_is_that_of_transformer_lens(family: str) -> None:
    from importlib import import_module

    tool: Any = import_module("transformer_lens.tools.analysis.attribution_patching")
    host = checks.host("bridge", family)
    shown = episode(queries=6)
    groups = [group for group in shown.lengths().values() if len(group) > 1]
    clean, corrupt = groups[-1][:2]
    zs, _ = of(host, shown)
    z = Reader(host, shown).zs().z
    ours = ((z[clean] - z[corrupt]) * zs.z[corrupt]).sum(-1)
    bos, gold = shown.demonstrations.bos, shown.queries[corrupt].gold

    def margin(logits: Tensor) -> Tensor:
        chosen = logits[..., -1, [5, 6, 8]].squeeze(0)
        return 1.5 * chosen[gold] - chosen.sum() / 2

    rows = [torch.tensor([[bos, *shown.queries[i].content]]) for i in (clean, corrupt)]
    own = checks.fresh("bridge", family)  # whose parameters keep gradients, which their tool needs
    theirs = tool.attribution_patch(own, *rows, margin).node_scores
    last = rows[0].shape[1] - 1
    checked = 0
    for node, value in theirs.items():
        if node.kind == "attn_head_out" and node.position == last:
            assert float(ours[node.layer, node.head]) == pytest.approx(value, rel=1e-3, abs=1e-4)
            checked += 1
    assert checked == host.n_layers * host.n_heads
