"""Time in pairs, peak live memory, the machine's matrix rate, and counted operations."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes, the device's queue included."""
    _synchronize()
    start = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paired(jobs: Mapping[str, Callable[[], Any]], repeats: int = 3) -> dict[str, list[float]]:
    """Seconds of each job, taken in turns so that a slow minute of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            found[name].append(timed(job))
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum of the pairwise ratios."""
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return {"min": min(pairs), "median": statistics.median(pairs), "max": max(pairs)}


class PeakMemory(TorchDispatchMode):
    """Peak bytes of tensors that were made and still lived inside the context, autograd's too."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            # A view of an argument is no new memory.
            if storage._cdata not in known and storage._cdata not in self._live:
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def peak_bytes(work: Callable[[], Any]) -> int:
    """Peak bytes that `work` holds in tensors of its own making."""
    with PeakMemory() as meter:
        work()
    return meter.peak


def gemm_rate(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 1536) -> float:
    """Floating-point operations a second of a square matrix product, the best of fifty.

    A processor that has just woken takes some of them to reach its speed.
    """
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    return max(2 * size**3 / timed(lambda: a @ b) for _ in range(50))


def lcgd_operations(cfg: Any, lengths: Sequence[int]) -> int:
    """Floating-point operations of one LCGD epoch: what the arithmetic itself needs.

    A layer and sequence: the block forward with the deltas on keys and values; unembedding forward
    and backward; back through the MLP, W_O and attention to keys and values; their gradients.
    """
    d, total = cfg.d_model, 0
    kv = (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    inner = cfg.n_heads * cfg.d_head
    mlp = 2 * d * cfg.d_mlp * 2
    for n in lengths:
        forward = n * (2 * 2 * d * inner + 2 * 2 * d * kv + mlp) + 4 * n * n * inner
        deltas = 2 * n * 2 * d * kv
        unembed = 2 * (n - 1) * 2 * d * cfg.d_vocab
        backward = n * (mlp + 2 * d * inner) + 6 * n * n * inner
        gradients = 2 * n * 2 * d * kv
        total += cfg.n_layers * (forward + deltas + unembed + backward + gradients)
    return total


def compare_operations(cfg: Any, episode: Any) -> int:
    """Operations of a whole comparison: ZS, ICL, both FTZS, a GD and an LCGD epoch.

    Readouts unembed one token a query; GD's backward pass counts as its forward pass, once more,
    with the gradients of keys and values.
    """
    d, inner = cfg.d_model, cfg.n_heads * cfg.d_head
    kv = (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    block = 2 * d * (2 * inner + 2 * kv + 2 * cfg.d_mlp)

    def read(tokens: int, prefix: int = 0) -> int:
        attention = 4 * tokens * (tokens + prefix) * inner
        return cfg.n_layers * (tokens * block + attention)

    prompt = len(episode.demonstrations.prompt())
    unembed = 2 * d * cfg.d_vocab
    total = read(prompt)
    for query in episode.queries:
        own = len(query.content) + 1
        total += 3 * read(own) + read(own, prompt) + 4 * unembed
    lengths = [len(sequence.tokens) for sequence in episode.demonstrations.sequences()]
    total += sum(2 * read(n) + cfg.n_layers * 8 * n * d * kv + 2 * n * unembed for n in lengths)
    return total + lcgd_operations(cfg, lengths)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of log(value) over log(size)."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(values).double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def machine() -> str:
    """One line on the machine and libraries."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}, torch {torch.__version__}"
    )
