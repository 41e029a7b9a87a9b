"""Batches are complete, within their limits, and the cheapest there are."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclgd_lens.readout.batching import batches, memory_limited


def cost(found: list[list[int]], lengths: list[int], pass_tokens: int) -> int:
    """Tokens of all passes, padding included, and what a pass costs besides."""
    return sum(pass_tokens + len(each) * max(lengths[i] for i in each) for each in found)


def cheapest(lengths: list[int], pass_tokens: int) -> int:
    """The least cost over every way of cutting the sorted sequences into batches."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    costs: list[int] = []
    for cuts in itertools.product((False, True), repeat=len(order) - 1):
        found = [[order[0]]]
        for index, cut in zip(order[1:], cuts, strict=True):
            if cut:
                found.append([])
            found[-1].append(index)
        costs.append(cost(found, lengths, pass_tokens))
    return min(costs)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(0, 40))
def test_no_other_batches_cost_less(lengths: list[int], pass_tokens: int) -> None:
    found = batches(lengths, tokens_at_once=10_000, pass_tokens=pass_tokens)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert cost(found, lengths, pass_tokens) == cheapest(lengths, pass_tokens)


@given(
    st.lists(st.integers(1, 50), max_size=40),
    st.integers(0, 60),
    st.integers(1, 300),
    st.none() | st.integers(1, 5),
    st.integers(0, 300),
)
def test_every_batch_fits(
    lengths: list[int], shared: int, tokens: int, most: int | None, pass_tokens: int
) -> None:
    found = batches(
        lengths, shared=shared, tokens_at_once=tokens, most=most, pass_tokens=pass_tokens
    )
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in each) for each in found]
    assert longest == sorted(longest)
    for each, length in zip(found, longest, strict=True):
        assert most is None or len(each) <= most
        assert len(each) == 1 or len(each) * (shared + length) <= tokens


@given(st.lists(st.integers(1, 5), max_size=20))
def test_passes_that_cost_nothing_pad_nothing(lengths: list[int]) -> None:
    for each in batches(lengths, tokens_at_once=10_000, pass_tokens=0):
        assert len({lengths[i] for i in each}) == 1
    alone = batches(lengths, tokens_at_once=10_000, most=1, pass_tokens=50)
    assert all(len(each) == 1 for each in alone)


def test_a_dear_pass_takes_all_at_once() -> None:
    assert batches([3, 9, 3, 5], tokens_at_once=100, pass_tokens=1000) == [[0, 2, 3, 1]]
    assert batches([3, 9, 3, 5], tokens_at_once=100, pass_tokens=5) == [[0, 2, 3], [1]]
    assert batches([], tokens_at_once=100, pass_tokens=3) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory"),
        MemoryError("Unable to allocate 8 GiB"),
    ],
)
def test_memory_that_does_not_suffice_is_told(error: BaseException) -> None:
    with memory_limited() as outcome:
        raise error
    assert outcome.failed


def test_what_else_is_raised_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_limited():
        raise RuntimeError("shapes do not fit")
