"""Both updates reproduce the reference implementation's deltas and losses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import iclgd_lens as lens

PACK = np.load(Path(__file__).parent / "pack_a.npz")


@pytest.mark.parametrize("rule", ["gd", "lcgd"])
def test_deltas_and_losses_equal_the_reference(rule: str) -> None:
    transformer_lens = pytest.importorskip("transformer_lens")
    try:
        hooked = transformer_lens.HookedTransformer
    except (AttributeError, ImportError):
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    cfg = json.loads(str(PACK["cfg"]))
    lr = cfg.pop("lr")
    model = hooked(transformer_lens.HookedTransformerConfig(**cfg, device="cpu"))
    weights = {k[2:]: torch.from_numpy(PACK[k]) for k in PACK.files if k.startswith("W/")}
    model.load_state_dict(weights, strict=False)
    episode = lens.Episode.from_tokens(
        [PACK[f"demo_{i}"][1:].tolist() for i in range(6)],
        [PACK[f"zs/tokens_{i}"][1:-1].tolist() for i in range(5)],
        [10, 11],
        [0] * 5,
        bos=0,
        separator=2,
        protocol=lens.REFERENCE,
    )
    delta = getattr(lens, rule)(model, episode.demonstrations, lr=lr)
    for name, value in delta.items():
        np.testing.assert_allclose(value.numpy(), PACK[f"{rule}/delta/{name}"], atol=1e-5)
    np.testing.assert_allclose(delta.metadata["loss_sum"], PACK[f"{rule}/loss_sum"], atol=1e-4)
