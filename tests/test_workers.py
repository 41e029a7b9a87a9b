"""Tasks in copies of the process: the same results, texts, warnings and errors as without."""

import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from iclgd_lens import workers
from iclgd_lens.errors import LensError

pytestmark = pytest.mark.skipif(not workers.can_copy(), reason="processes are not copied here")
SPREADS = [workers.spread, lambda *given: as_they_come(*given)]


def silent(text):
    """Nobody listens."""


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_results_are_those_of_one_process(spread, count):
    def work(index, tell):
        return index, torch.arange(3) * index

    alone = list(spread(work, count, 1, silent))
    beside = list(spread(work, count, 3, silent))
    assert [i for i, _ in alone] == list(range(count))
    assert sorted(i for i, _ in beside) == list(range(count))
    for index, values in beside:
        assert torch.equal(values, torch.arange(3) * index)


def as_they_come(*arguments):
    return (result for _, result in workers.as_they_come(*arguments))


def test_work_is_done_in_other_processes_on_one_thread():
    def work(index, tell):
        time.sleep(0.2)  # or the first copy may have done both
        return os.getpid(), torch.get_num_threads()

    found = list(workers.spread(work, 2, 2, silent))
    assert len({pid for pid, _ in found} | {os.getpid()}) == 3
    assert [threads for _, threads in found] == [1, 1]


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_task_yields_comes_as_it_is_there(count):
    """Of a long task something is heard before it ends."""

    def work(index, tell):
        yield index, time.monotonic()
        time.sleep(1.0)
        yield index, time.monotonic()

    heard = [(each, time.monotonic()) for _, each in workers.as_they_come(work, 2, count, silent)]
    assert sorted(index for (index, _), _ in heard) == [0, 0, 1, 1]
    assert all(when - made < 0.9 for (_, made), when in heard)


def test_a_task_that_was_killed_between_two_results_is_done_again_here():
    first = os.getpid()

    def work(index, tell):
        yield index, "begun"
        if index == 0 and os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        yield index, "ended"

    found = [each for _, each in workers.as_they_come(work, 3, 2, silent)]
    assert {each for each in found} == {(i, part) for i in range(3) for part in ("begun", "ended")}
    assert found.count((0, "ended")) == 1


def test_an_error_between_two_results_is_the_same_error():
    def work(index, tell):
        yield index
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        list(workers.as_they_come(work, 2, 2, silent))


def test_results_come_in_order_where_the_first_takes_longest():
    def work(index, tell):
        time.sleep(0.4 if index == 0 else 0.0)
        return index

    assert list(workers.spread(work, 4, 2, silent)) == [0, 1, 2, 3]
    assert list(workers.as_they_come(work, 4, 2, silent))[-1] == (0, 0)


def test_what_a_copy_changes_stays_with_it():
    held = {"value": 0}

    def work(index, tell):
        held["value"] += 1
        torch.manual_seed(index)
        return index

    state = torch.get_rng_state()
    list(workers.spread(work, 4, 2, silent))
    assert held == {"value": 0}
    assert torch.equal(torch.get_rng_state(), state)


def test_texts_and_warnings_reach_this_process():
    texts = []

    def work(index, tell):
        tell(f"task {index}")
        warnings.warn(f"careful {index}", UserWarning, stacklevel=2)
        return index

    with pytest.warns(UserWarning, match="careful 1"):
        list(workers.spread(work, 3, 2, texts.append))
    assert sorted(texts) == ["task 0", "task 1", "task 2"]


class UnluckyError(Exception):
    """An error that does not survive being sent: it takes two arguments."""

    def __init__(self, first, second):
        super().__init__(first)
        self.second = second


def test_an_error_is_the_same_error():
    def work(index, tell):
        if index == 2:
            raise UnluckyError("here", "there")
        return index

    with pytest.raises(UnluckyError, match="here") as caught:
        list(workers.spread(work, 4, 2, silent))
    assert caught.value.second == "there"


def test_a_result_that_cannot_be_sent_is_made_here():
    made = list(workers.spread(lambda index, tell: lambda: index, 3, 2, silent))
    assert [each() for each in made] == [0, 1, 2]


def test_what_a_killed_copy_left_is_done_here():
    here = os.getpid()

    def work(index, tell):
        if os.getpid() != here and index % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return index, os.getpid() == here

    found = list(workers.spread(work, 5, 2, silent))
    assert [index for index, _ in found] == list(range(5))
    assert found[1][1]
    assert found[3][1]


def test_copies_end_where_their_results_are_no_longer_wanted():
    found = workers.spread(lambda index, tell: os.getpid(), 50, 2, silent)
    pid = next(found)
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


INTERRUPTED = """
import os, sys, time
from iclgd_lens import workers
def work(index, tell):
    tell(str(os.getpid()))
    time.sleep(60)
try:
    list(workers.spread(work, 4, 2, lambda text: print(text, flush=True)))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_copy_outlives_an_interrupted_or_killed_process(how):
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{INTERRUPTED}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: to the copies, too
        out, errors = process.communicate(timeout=30)
        assert out.strip() == "interrupted"
        assert errors == ""
    else:
        process.kill()
        process.wait(timeout=30)
        for pid in pids:  # they notice when their task is over
            os.kill(pid, signal.SIGTERM)
    for pid in pids:
        assert _ends(pid)


def _ends(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_how_many():
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(5000, 5000)
    assert workers.how_many(None, small) == torch.get_num_threads()
    assert workers.how_many(None, large) == 1
    assert workers.how_many(None) == 1
    assert workers.how_many(3, large) == 3
    with pytest.raises(LensError, match="workers is 0"):
        workers.how_many(0)


def test_where_processes_cannot_be_copied_there_is_one(monkeypatch):
    monkeypatch.setattr(workers, "can_copy", lambda: False)
    with pytest.warns(workers.WorkersWarning, match="1 worker"):
        assert workers.how_many(4) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert workers.how_many(None, torch.nn.Linear(2, 2)) == 1
