"""SmolLM2-135M on each host, and as plain `transformers`; skipped unless `make real` asks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.host.checkpoint import ModelWarning
from iclgd_lens.host.loading import load_model
from tests import checks

ROWS = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def weights() -> Path:
    """The GGUF file."""
    place = os.environ.get("ICLGD_REAL_MODEL")
    if not place:
        pytest.skip("a real model is measured by `make real`, which fetches it")
    return Path(place)


@pytest.fixture(scope="session")
def plain(weights: Path) -> Any:
    """The model as `transformers` loads it."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    return transformers.AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype="float32", attn_implementation="eager"
    ).eval()


# Grouped by host, so that one model is in memory at a time.
@pytest.fixture(scope="session", params=checks.kinds())
def model(request: pytest.FixtureRequest, weights: Path) -> Iterator[Any]:
    """The model as the package loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        yield load_model(weights, host=request.param)


@pytest.fixture(scope="session")
def rows() -> dict[str, Any]:
    """Real rows where they are at hand, else the embedded model's."""
    return {task: str(ROWS) if (ROWS / task).is_dir() else "embedded" for task in ("sst2", "subj")}
