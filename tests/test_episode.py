"""Episodes: what is written, in which order, and every way in which one cannot be made."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.episode import FOREIGN, Demonstration, Demonstrations, Episode, Query
from iclgd_lens.errors import EpisodeError, ProtocolError
from iclgd_lens.protocol import DEFAULT, REFERENCE
from tests import checks

TEXTS = DEFAULT.replace(separator=" w9", name="texts")


def make(**changes: Any) -> Episode:
    fields: dict[str, Any] = {
        "demonstrations": [[10, 11, 5], [12, 6, 9]],
        "queries": [[13, 14], [15, 16, 17], [18, 19]],
        "label_tokens": [[5], [6, 9]],
        "gold": [0, 1, 0],
        "bos": 1,
        "separator": [4, 3],
    }
    return Episode.from_tokens(**(fields | changes))


def test_the_prompt_and_the_training_sequences() -> None:
    shown = make().demonstrations
    assert shown.prompt() == (1, 10, 11, 5, 4, 3, 12, 6, 9, 4, 3)
    assert shown.prompt_positions() == (1, 2, 3, 6, 7, 8)
    assert [shown.prompt()[i] for i in shown.prompt_positions()] == [10, 11, 5, 12, 6, 9]
    assert len(shown) == 2
    assert [e.gold for e in shown.examples] == [0, 1]
    assert [(s.tokens, s.targets) for s in shown.sequences()] == [
        ((1, 10, 11, 5), (1, 2, 3)), ((1, 12, 6, 9), (1, 2, 3)),
    ]  # fmt: skip
    assert [s.targets for s in shown.sequences("label")] == [(3,), (2, 3)]
    labelled = make(protocol=DEFAULT.replace(loss_on="label")).demonstrations
    assert [s.targets for s in labelled.sequences()] == [(3,), (2, 3)]
    assert [s.targets for s in labelled.sequences("all")] == [(1, 2, 3), (1, 2, 3)]


def test_without_bos_and_separator() -> None:
    shown = make(bos=None, separator=()).demonstrations
    assert shown.prompt() == (10, 11, 5, 12, 6, 9)
    assert shown.prompt_positions() == tuple(range(6))
    assert [s.targets for s in shown.sequences()] == [(1, 2), (1, 2)]
    by_protocol = make(protocol=DEFAULT.replace(bos=False)).demonstrations
    assert by_protocol.bos is None
    assert make(separator=4).demonstrations.separator == (4,)


def test_what_is_read_depends_on_the_protocol() -> None:
    query = Query((13, 14), 1)
    assert make().readout_tokens(query) == (13, 14)
    assert make(protocol=REFERENCE).readout_tokens(query) == (13, 14, 5)
    assert make(protocol="reference").protocol is REFERENCE


def test_queries_are_grouped_by_length_and_keep_their_place() -> None:
    episode = make()
    assert episode.lengths() == {2: [0, 2], 3: [1]}
    assert (episode.n_labels, episode.gold, episode.task) == (2, (0, 1, 0), "custom")


def test_training_order_follows_the_protocol() -> None:
    episode = make(protocol=DEFAULT.replace(order="drawn"))
    moved = dataclasses.replace(episode.demonstrations, drawn=(1, 0))
    assert [s.tokens[1] for s in moved.sequences()] == [12, 10]
    assert [s.tokens[1] for s in episode.demonstrations.sequences()] == [10, 12]
    whole = dataclasses.replace(episode, demonstrations=moved)
    # The same number of examples keeps the drawn order; another number has none.
    assert whole.with_demonstrations(moved.examples).demonstrations.drawn == (1, 0)
    assert whole.with_demonstrations(moved.examples[:1]).demonstrations.drawn == (0,)
    assert whole.with_demonstrations(moved.examples, (0, 1)).demonstrations.drawn == (0, 1)


def test_the_hash_sees_every_token_and_no_provenance() -> None:
    episode = make()
    assert episode.hash == make().hash == dataclasses.replace(episode, provenance={"a": 1}).hash
    others = [
        make(bos=2), make(separator=4), make(gold=[1, 1, 0]), make(queries=[[13], [15], [18]]),
        make(demonstrations=[[10, 5], [12, 6, 9]]), make(label_tokens=[[5], [6, 9], [7]]),
        make(protocol=REFERENCE),
    ]  # fmt: skip
    assert len({episode.hash, *(other.hash for other in others)}) == len(others) + 1


def test_the_longest_label_that_fits_is_the_label() -> None:
    episode = make(demonstrations=[[10, 6, 5]], label_tokens=[[5], [6, 5]])
    assert episode.demonstrations.examples[0] == Demonstration((10,), (6, 5), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"demonstrations": [[10, 11, 8]]},
            r"Demonstration 0 ends in \[10, 11, 8\], which is not a la",
        ),
        ({"demonstrations": [[]]}, r"Demonstration 0 ends in \[\]"),
        ({"demonstrations": [[10, 5], [5]]}, "Demonstration 1 has no content or no label tokens"),
        ({"queries": [[13], [], [14]]}, "Query 1 has no tokens"),
        ({"queries": [], "gold": []}, "needs at least one query"),
        ({"gold": [0, 1]}, "3 queries but 2 gold labels"),
        ({"gold": [0, 2, 0]}, "Query 1 has label 2; labels are 0 to 1"),
        ({"gold": [0, 0, -1]}, "Query 2 has label -1; labels are 0 to 1"),
        ({"label_tokens": [[5]]}, "at least two label words"),
        ({"label_tokens": [[5], []]}, "at least two label words of at least one token"),
        (
            {"label_tokens": [[5], [5]]},
            r"Two label words have the same tokens: \[\[5\], \[5\]\] \(labels 0 and 1\)",
        ),
    ],
)
def test_tokens_that_make_no_episode_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EpisodeError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_unknown_losses_are_refused() -> None:
    with pytest.raises(
        ProtocolError, match=r"loss_on is 'labels'; allowed: all, label\. Did you m"
    ):
        make().demonstrations.sequences("labels")


def test_examples_of_another_task_are_marked_and_others_refused() -> None:
    episode = make()
    foreign = Demonstration((10,), (77,), FOREIGN)
    assert episode.with_demonstrations([foreign]).demonstrations.examples == (foreign,)
    with pytest.raises(EpisodeError, match="Demonstration 0 has label 2; labels are 0 to 1"):
        episode.with_demonstrations([Demonstration((10,), (77,), 2)])


def test_a_single_token_predicts_nothing() -> None:
    lonely = Demonstrations((Demonstration((), (5,), 0),), None, (), DEFAULT)
    with pytest.raises(EpisodeError, match="of one token, without BOS, predicts nothing"):
        lonely.sequences()


@pytest.mark.parametrize("kind", checks.kinds())
def test_prompts_longer_than_the_context_are_named_with_their_numbers(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    fits = make(demonstrations=[[10] * 118 + [5]])
    fits.check(host)  # 122 prompt tokens (BOS, separators), a query of 3 and a label of 2: 127
    with pytest.raises(
        EpisodeError,
        match=r"1 demonstrations \(125 tokens\) and query 1 with its label \(5 tokens\) make 130 "
        r"tokens, but gpt2 reads 128\. Use fewer shots; nothing is truncated",
    ):
        make(demonstrations=[[10] * 121 + [5]]).check(host)
    with pytest.raises(EpisodeError, match="The query alone does not fit; nothing is truncated"):
        make(queries=[[13], [14] * 126, [15]]).check(host)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("token", [101, 5000, -1])
@pytest.mark.parametrize("where", ["demonstrations", "queries", "label_tokens", "bos", "separator"])
def test_tokens_outside_the_vocabulary_are_refused(kind: str, where: str, token: int) -> None:
    change: dict[str, Any] = {
        "demonstrations": [[token, 5]], "queries": [[13], [token], [14]],
        "label_tokens": [[5], [6, 9], [token]], "bos": token, "separator": token,
    }  # fmt: skip
    with pytest.raises(
        EpisodeError, match=rf"Token id {token} is outside gpt2's vocabulary of 101"
    ):
        make(**{where: change[where]}).check(checks.host(kind, "gpt2"))


WHOLE: dict[str, Any] = {
    "demonstrations": np.array([[10, 11, 5], [12, 6, 9]]),
    "queries": torch.tensor([[13, 14], [15, 16], [18, 19]]),
    "label_tokens": [np.int64(5), torch.tensor([6, 9])],
    "gold": np.array([0.0, 1.0, 0.0]),
    "bos": torch.tensor(1),
    "separator": np.array([4, 3], dtype=np.uint8),
}


def test_arrays_and_tensors_of_whole_numbers_are_token_ids() -> None:
    plain = make(queries=[[13, 14], [15, 16], [18, 19]])
    assert make(**WHOLE) == plain
    assert make(**WHOLE).hash == plain.hash
    single = {"separator": np.int32(4), "label_tokens": np.array([[5], [9]]), "bos": np.int64(1)}
    assert make(**single) == make(separator=4, label_tokens=[5, 9])
    assert make(separator=torch.tensor(4)).demonstrations.separator == (4,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"queries": [[13.7, 14], [15], [18]]},
            r"Query 0, number 0, must be an integer, not 13\.7",
        ),
        ({"queries": torch.full((3, 2), 0.5)}, r"Query 0, number 0, must be an integer, not 0\.5"),
        ({"queries": ["13", [15], [18]]}, "Query 0 must be integers, not the text '13'"),
        ({"queries": [[True], [15], [18]]}, r"Query 0, number 0, .* not True \(bool\)"),
        ({"queries": [13, 15, 18]}, "Query 0 must be a list of integers, not 13"),
        ({"queries": "abc"}, "Queries must be integers, not the text 'abc'"),
        (
            {"demonstrations": [["1", "5"]]},
            "Demonstration 0, number 0, must be an integer, not '1'",
        ),
        ({"demonstrations": [b"ab"]}, "Demonstration 0 must be integers, not the text"),
        ({"demonstrations": [[float("nan"), 5]]}, r"not nan \(float\)"),
        ({"gold": [0.5, 1, 0]}, r"Gold labels, number 0, must be an integer, not 0\.5"),
        ({"gold": "010"}, "Gold labels must be integers, not the text '010'"),
        ({"label_tokens": "56"}, "Label tokens must be integers, not the text '56'"),
        ({"label_tokens": ["5", "6"]}, "Label 0 must be integers, not the text '5'"),
        ({"label_tokens": [5.5, 6]}, r"Label 0 must be an integer, not 5\.5"),
        ({"bos": "1"}, "BOS must be an integer, not '1'"),
        ({"bos": np.array([1, 2])}, "BOS must be one integer, not several"),
        ({"separator": "43"}, "The separator must be integers, not the text '43'"),
        ({"separator": 4.5}, r"The separator must be an integer, not 4\.5"),
        ({"queries": [{13, 14}, [15], [18]]}, "Query 0 must be a list .* a set has no order"),
        ({"demonstrations": {13: 5}}, "Demonstrations must be a list .* a dict has no order"),
        ({"separator": None}, "The separator must be an integer, not None"),
    ],
)
def test_what_is_no_whole_number_is_refused(change: dict[str, Any], message: str) -> None:
    with checks.untyped(), pytest.raises(EpisodeError, match=message):
        make(**change)


def test_demonstrations_of_one_class_are_said() -> None:
    assert make().warnings == ()
    (sentence,) = make(demonstrations=[[10, 5], [11, 5]]).warnings
    assert sentence.startswith(r"All 2 demonstrations have the label '[5]'")
    foreign = make().with_demonstrations([Demonstration((10,), (77,), FOREIGN)])
    assert foreign.warnings == ()


def test_what_a_console_and_a_notebook_show_stays_short() -> None:
    many = make(demonstrations=[[10] * 50 + [5]] * 400, name="x<" * 500, queries=[[13]] * 3)
    for shown in (many, many.demonstrations, make(), make().demonstrations):
        assert len(repr(shown)) < 1000
        assert "\n" not in repr(shown)
        html = shown._repr_html_()
        assert len(html) < 3000
        assert "x<" not in html
    assert repr(make()).startswith("Episode(task 'custom', 2 demonstrations (1 [5], 1 [6, 9]), 3 q")
    assert "All 400 demonstrations" in many._repr_html_()
