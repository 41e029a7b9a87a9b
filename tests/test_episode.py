"""Episodes: what is written, in which order, and every way in which one cannot be made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import iclgd_lens as lens
from iclgd_lens.episode import FOREIGN, Demonstration, Demonstrations, Episode, Query
from iclgd_lens.errors import EpisodeError, ProtocolError, RowsError, TaskError
from iclgd_lens.host import Host
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.writing import load_demonstrations, load_episode
from tests import checks, families

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
            r"Demonstration 0 ends in \[10, 11, 8\], which is no la",
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
        ({"label_tokens": [[5], [5]]}, r"Two label words have the same tokens: \[\[5\], \[5\]\]"),
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


# -- from text -------------------------------------------------------------------------------------


class Texts:
    """The shared model with a word tokenizer, without changing the shared model."""

    def __new__(cls, tokenizer: Any = None, name: str = "gpt2") -> Any:
        host = Host(checks.model(checks.kinds()[0], "gpt2"))
        fields = {
            "tokenizer": property(lambda self: tokenizer),
            "name": property(lambda self: name),
        }
        host.__class__ = type("Texts", (type(host),), fields)
        return host


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return families.word_tokenizer()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "sst2").mkdir()
    for split, first in (("train", 0), ("validation", 40)):
        lines = [
            json.dumps({"sentence": f"w{first + i} w{first + i + 1}", "label": i % 2})
            for i in range(12)
        ]
        (folder / "sst2" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_an_episode_is_drawn_written_and_accounted_for(tokenizer: Any, rows: Path) -> None:
    host = Texts(tokenizer)
    episode = load_episode("sst2", host, shots=4, queries=5, seed=3, data=rows, protocol=TEXTS)
    # "Sentence:" is no word of this tokenizer; "Label:", "Positive" and "Negative" are.
    word = tokenizer.convert_tokens_to_ids
    assert episode.label_tokens == ((word("Negative"),), (word("Positive"),))
    assert episode.demonstrations.separator == (word("w9"),)
    assert episode.demonstrations.bos == families.BOS
    assert len(episode.demonstrations) == 4
    assert len(episode.queries) == 5
    for example in episode.demonstrations.examples:
        assert example.content[0] == word("<unk>")
        assert example.content[-1] == word("Label:")
        assert example.label == episode.label_tokens[example.gold]
    facts = episode.provenance
    assert (facts["task"], facts["seed"], facts["shots"], facts["permutation"]) == ("sst2", 3, 4, 0)
    assert len(facts["demonstration_rows"]) == 4
    again = load_episode("sst2", host, shots=4, queries=5, seed=3, data=rows, protocol=TEXTS)
    assert again == episode
    assert again.hash == episode.hash
    other = load_episode("sst2", host, shots=4, queries=5, seed=4, data=rows, protocol=TEXTS)
    assert other.demonstrations != episode.demonstrations
    assert other.queries == episode.queries
    alone = load_demonstrations("sst2", host, shots=4, seed=3, data=rows, protocol=TEXTS)
    assert alone == episode.demonstrations
    assert alone.learning_rate == lens.get_task("sst2").learning_rate == 5e-4


def test_a_permutation_keeps_the_drawn_order_in_mind(tokenizer: Any, rows: Path) -> None:
    host = Texts(tokenizer)
    kept: Any = {"shots": 6, "queries": 2, "data": rows, "protocol": TEXTS}
    plain = load_episode("sst2", host, **kept)
    moved = load_episode("sst2", host, permutation=1, **kept)
    assert plain.demonstrations.drawn == tuple(range(6))
    assert moved.demonstrations.examples != plain.demonstrations.examples
    assert (
        tuple(moved.demonstrations.examples[i] for i in moved.demonstrations.drawn)
        == plain.demonstrations.examples
    )
    assert moved.queries == plain.queries


def test_eos_separates_under_the_reference_protocol(tokenizer: Any, rows: Path) -> None:
    host = Texts(tokenizer)
    episode = load_episode("sst2", host, shots=2, queries=2, data=rows, protocol="reference")
    assert episode.demonstrations.separator == (families.EOS,)
    bare = DEFAULT.replace(separator="", bos=False)
    episode = load_episode("sst2", host, shots=2, queries=2, data=rows, protocol=bare)
    assert episode.demonstrations.separator == ()
    assert episode.demonstrations.bos is None


def test_a_model_without_a_tokenizer_reads_no_text(rows: Path) -> None:
    with pytest.raises(EpisodeError, match=r"has no tokenizer, .* Episode\.from_tokens"):
        load_episode("sst2", Texts(None), data=rows)


def test_a_tokenizer_without_eos_needs_another_separator(rows: Path) -> None:
    tokenizer = families.word_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(
        EpisodeError, match=r"by EOS, but the tokenizer has none; use protocol\.rep"
    ):
        load_episode("sst2", Texts(tokenizer), shots=2, queries=2, data=rows, protocol="reference")


@pytest.mark.parametrize(("missing", "expected"), [("bos", families.EOS), ("both", None)])
def test_a_missing_bos_is_eos_or_nothing(missing: str, expected: Any, rows: Path) -> None:
    tokenizer = families.word_tokenizer()
    tokenizer.bos_token = None
    if missing == "both":
        tokenizer.eos_token = None
    shown = load_demonstrations("sst2", Texts(tokenizer), shots=2, data=rows, protocol=TEXTS)
    assert shown.bos == expected


def test_a_separator_or_label_that_joins_its_neighbour_is_refused(
    tokenizer: Any, rows: Path
) -> None:
    host = Texts(tokenizer)
    with pytest.raises(EpisodeError, match=r"joins the separator '\\n' with the text before it"):
        load_episode("sst2", host, shots=2, queries=2, data=rows)  # white space is no token here
    joining = DEFAULT.replace(separator="w9")
    with pytest.raises(EpisodeError, match=r"joins the separator 'w9' with the text before it"):
        load_episode("sst2", host, shots=2, queries=2, data=rows, protocol=joining)

    class Swallowing:
        """A tokenizer for which the label word is no token of its own."""

        bos_token_id = eos_token_id = 1

        def __call__(self, text: str, add_special_tokens: bool) -> Any:
            return {"input_ids": [7] * min(3, len(text.split()))}

    host = Texts(Swallowing())
    task = lens.get_task("sst2")
    with pytest.raises(EpisodeError, match="joins the label word"):
        load_episode(task, host, shots=2, queries=2, data=rows, protocol=REFERENCE)


def test_a_label_word_that_a_prompt_turns_into_other_tokens_is_refused(rows: Path) -> None:
    class Contextual:
        """A tokenizer that writes a label word after w2 otherwise than elsewhere."""

        bos_token_id = eos_token_id = 1

        def __call__(self, text: str, add_special_tokens: bool) -> Any:
            words = text.split()
            ids = [7 + len(word) for word in words]
            if "w2" in words and words[-1] in ("Negative", "Positive"):
                ids[-1] = 90
            return {"input_ids": ids}

    task = lens.Task("sst2", "{sentence} Label:", ("Negative", "Positives"))
    with pytest.raises(EpisodeError, match=r"row 1 .* 'Positives'|row \d .*'Negative'"):
        load_demonstrations(
            task, Texts(Contextual()), shots=12, data=rows, protocol=REFERENCE, seed=1
        )


def test_the_protocol_says_whether_queries_may_repeat_demonstrations(
    tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "sst2").mkdir()
    lines = "\n".join(json.dumps({"sentence": f"w{i} w{i + 9}", "label": i % 2}) for i in range(8))
    for split in ("train", "validation"):
        (tmp_path / "sst2" / f"{split}.jsonl").write_text(lines + "\n")
    host = Texts(tokenizer)
    kept: Any = {"shots": 3, "queries": None, "data": tmp_path}
    every = load_episode("sst2", host, protocol="reference", **kept)
    fewer = load_episode("sst2", host, protocol=REFERENCE.replace(skip_repeated=True), **kept)
    assert (len(every.queries), len(fewer.queries)) == (8, 5)
    shown = {example.content for example in every.demonstrations.examples}
    assert [q for q in every.queries if q.content not in shown] == list(fewer.queries)


def test_rows_and_tasks_that_are_not_there_are_refused(tokenizer: Any, rows: Path) -> None:
    host = Texts(tokenizer)
    with pytest.raises(TaskError, match=r"Did you mean 'sst2'\?|sst2"):
        load_episode("sst22", host, data=rows)
    with pytest.raises(RowsError, match="12"):
        load_episode("sst2", host, shots=13, data=rows, protocol=TEXTS)
    with pytest.raises(RowsError):
        load_episode("mr", host, data=rows, protocol=TEXTS)


def test_the_embedded_model_reads_the_embedded_rows(tokenizer: Any) -> None:
    host = Texts(tokenizer, name="iclgd-embedded-small")
    shown = load_demonstrations("sst2", host, shots=2, protocol=TEXTS)
    assert len(shown) == 2


def test_an_episode_that_does_not_fit_the_model_is_not_made(tokenizer: Any, rows: Path) -> None:
    long = DEFAULT.replace(separator=" w9" * 60)
    with pytest.raises(EpisodeError, match="nothing is truncated"):
        load_episode("sst2", Texts(tokenizer), shots=4, queries=2, data=rows, protocol=long)
    # Demonstrations alone need not fit together: an update reads them one by one.
    assert load_demonstrations("sst2", Texts(tokenizer), shots=4, data=rows, protocol=long)
