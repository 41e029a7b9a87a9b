"""The speed benchmark measures what it says: equal numbers, counted memory. No test is timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import iclgd_lens as lens
from benchmarks import naive, plain, prices
from benchmarks.meters import compare_operations, lcgd_operations, peak_bytes, ratio, slope
from benchmarks.shapes import Shape, random_model, synthetic_episode
from benchmarks.speed import _same_numbers
from benchmarks.stages import Clock, stage_of
from iclgd_lens.bench.plan import load_plan
from iclgd_lens.hypotheses.registry import Hypothesis, list_hypotheses
from tests import checks, families

needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)
LR = 1.0
SHAPES = {
    "absolute": Shape(2, 32, 4, 64, 128),
    "grouped": Shape(2, 32, 4, 64, 128, kv=2, rotary=True),
    "parallel": Shape(2, 32, 4, 64, 128, rotary=True, parallel=True),
}


@needs_hooked
@pytest.mark.parametrize("name", SHAPES)
def test_the_naive_comparison_gives_the_same_numbers(name: str) -> None:
    model = random_model(SHAPES[name])
    episode = synthetic_episode(model, shots=3, queries=3, length=6)
    ours = lens.compare(model, episode, controls=(), lr=LR, tok2attn_queries=0, resamples=2)
    theirs = naive.compare(model, episode, LR)
    _same_numbers(ours, theirs)
    with pytest.raises(AssertionError):  # another learning rate is another update
        _same_numbers(ours, naive.compare(model, episode, 20 * LR))


@needs_hooked
def test_the_hand_written_epoch_makes_the_update_of_gd() -> None:
    model = random_model(SHAPES["absolute"])
    episode = synthetic_episode(model, shots=3, queries=1, length=6)
    epoch = plain.TorchEpoch(model, episode, LR)
    epoch()
    delta = lens.gd(model, episode, lr=LR)
    name = "blocks.1.attn.W_V"
    moved = epoch.model.state_dict()[name] - model.state_dict()[name]
    torch.testing.assert_close(moved, delta[name], atol=1e-6, rtol=1e-4)


@needs_hooked
@pytest.mark.parametrize("kv", [None, 2])
def test_bare_products_are_the_counted_operations(kv: int | None) -> None:
    model = random_model(Shape(3, 16, 4, 50, 64, kv=kv, rotary=kv is not None))
    lengths = [5, 9]
    products = plain.LcgdProducts(model, lengths)
    with FlopCounterMode(display=False) as counter:
        products()
    attention = sum(3 * 10 * n * n * 16 for n in lengths)
    assert counter.get_total_flops() == lcgd_operations(model.cfg, lengths) - attention


@needs_hooked
@pytest.mark.parametrize(("width", "length"), [(32, 40), (128, 8)], ids=["logits", "deltas"])
def test_lcgd_memory_does_not_grow_with_the_layers(width: int, length: int) -> None:
    """Where logits are the largest, and where what is learned is."""

    def beyond_delta(layers: int) -> int:
        model = random_model(Shape(layers, width, 4, 512, 128))
        episode = synthetic_episode(model, shots=2, queries=1, length=length)
        delta = sum(value.nbytes for _, value in lens.lcgd(model, episode, lr=LR).items())
        return peak_bytes(lambda: lens.lcgd(model, episode, lr=LR)) - delta

    # 16 layers of 8 tokens fill a product of logits.
    assert beyond_delta(32) <= 1.05 * beyond_delta(16)


@needs_hooked
def test_a_comparison_does_not_hold_the_prompt_while_it_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from iclgd_lens.readout import reader

    readers: list[reader.Reader] = []
    start = reader.Reader.__init__

    def watched(self: reader.Reader, *args: object, **kwargs: object) -> None:
        start(self, *args, **kwargs)  # type: ignore[arg-type]
        readers.append(self)

    monkeypatch.setattr(reader.Reader, "__init__", watched)
    held: list[bool] = []

    def rule(host: lens.Host, episode: lens.Episode) -> lens.Intervention:
        held.append(readers[0]._prefix is not None)
        return lens.gd(host, episode, lr=LR)

    model = random_model(SHAPES["absolute"])
    episode = synthetic_episode(model, shots=3, queries=2, length=6)
    lens.compare(model, episode, {"mine": rule}, controls=())
    assert held == [False]


def test_peak_memory_counts_what_lives_at_once() -> None:
    def work() -> None:
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1
        del first
        torch.zeros(500).add_(second[:500].view(500))

    assert peak_bytes(work) == 8000


def test_ratios_and_slopes() -> None:
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == {"min": 2.0, "median": 2.0, "max": 3.0}
    assert slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)


@needs_hooked
def test_counted_operations_grow_as_the_work_does() -> None:
    model = random_model(SHAPES["absolute"])
    small, large = (synthetic_episode(model, shots=n, queries=4, length=6) for n in (2, 4))
    cfg = lens.Host(model).cfg
    assert compare_operations(cfg, large) > compare_operations(cfg, small) > 0
    assert lcgd_operations(cfg, [7, 7]) == 2 * lcgd_operations(cfg, [7])


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("draw 2 of 5: gd: choosing rate, epochs and loss on left-out demonstrations",
         "model: budget search"),
        ("draw 2 of 5: ICL with wrong labels", "model: ZS and ICL"),
        ("gd: building the update, then each query alone", "model: updates and controls"),
        ("untrained network 3 of 8: making it", "twins: making networks"),
        ("untrained network 3 of 8: lcgd: choosing rate, epochs and loss", "twins: budget search"),
        ("something else", "model: other"),
    ],
)  # fmt: skip
def test_a_progress_text_has_a_stage(text: str, stage: str) -> None:
    assert stage_of(text) == stage


def test_every_text_of_a_comparison_has_a_stage_and_all_time_is_spent_in_one() -> None:
    clock, told = Clock("start"), list[str]()
    model = checks.model(checks.kinds()[0], "gpt2")
    draws = [checks.episode(shots=4, queries=2, seed=seed) for seed in range(2)]

    def tell(text: str) -> None:
        told.append(stage_of(text))
        clock.turn(told[-1])

    search = {"grid": (0.1,), "epochs": (1,), "losses": ("label",), "folds": 1}
    lens.compare(model, draws, ["gd"], twins=1, budget=search, progress=tell)
    clock.turn("")
    assert not {"model: other", "twins: other"} & set(told)
    assert {"model: budget search", "twins: budget search", "twins: making networks"} <= set(told)
    assert set(clock.spent) == {"start", *told}
    assert sum(wall for _, wall in clock.spent.values()) > 0


@needs_hooked
def test_a_price_is_time_over_the_ledger_at_the_units_price(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = checks.host("HookedTransformer", "gpt2")
    spent = iter([2.0, 3.0, 4.0, 6.0, 2.0, 4.5])
    monkeypatch.setattr(prices, "_seconds", lambda _: next(spent))

    def passes(count: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count):
                host.run(host.tensor([1, 2]))

        return work

    found = prices.priced(passes(2), passes(3), host, 3)
    assert found["passes"] == 3 * families.N_LAYERS
    assert (found["seconds"], found["ledger_seconds"]) == (4.5, 3.0)
    assert found["ratio"] == 1.0  # of 3 / 3, 6 / 6 and 4.5 / 3


def test_every_hypothesis_is_priced_and_one_is_measured() -> None:
    plan = load_plan(prices.PLAN)
    found = {rule.name: rule.value for rule in prices.rules(plan)}
    named = {value.name for value in found.values() if isinstance(value, Hypothesis)}
    assert named == set(list_hypotheses())
    record = prices.measure(only="thought_patch", repeats=1, shots=2)
    assert record["hypotheses"]["thought_patch"]["ratio"] > 0
    assert prices.table(record).row_count == 1
