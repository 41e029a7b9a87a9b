"""The benchmark of a real model, on a tiny one: it runs, and refuses other numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import iclgd_lens as lens
from benchmarks import real
from benchmarks.by_hand import Plain
from tests import checks, families

OPTIONS = {"grid": (0.1,), "epochs": (1,), "losses": ("label",), "folds": 1}


def plain(seed: int = 0) -> Plain:
    model: Any = families.huggingface_model("llama", seed)
    return Plain(model, checks.episode(shots=4, queries=5))


def models() -> dict[str, lens.Host]:
    return {kind: checks.host(kind, "llama") for kind in checks.kinds()}


def test_every_ratio_is_measured_on_every_host() -> None:
    record = real.compared(plain(), models(), repeats=1, options=OPTIONS)
    assert set(record["hosts"]) == set(checks.kinds())
    for each in record["hosts"].values():
        assert set(each["ratios"]) == set(real.WORDS) - {"load"}
        assert all(value["median"] > 0 for value in each["ratios"].values())
    record |= {"model": "tiny", "machine": "none"}
    assert real.table(record).row_count == (len(real.WORDS) - 1) * len(checks.kinds())
    assert set(real.TARGETS) <= set(real.WORDS)


def test_other_numbers_are_not_timed() -> None:
    with pytest.raises(AssertionError):
        real.check(plain(seed=1), models())


def test_an_epoch_puts_the_weights_back() -> None:
    mine = plain()
    before = [part.weight.clone() for part in mine.trained()]
    assert any(bool(change.any()) for change in mine.epoch())
    assert all((part.weight == old).all() for part, old in zip(mine.trained(), before, strict=True))


def test_loading_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from tests.host.test_gguf import original, write

    path = tmp_path / "tiny.gguf"
    write(path, original())
    ratios, seconds = real.loading(path, 1)
    assert set(ratios) == set(checks.kinds())
    assert set(seconds) == {"plain load", *(f"{kind} load" for kind in checks.kinds())}
