"""Episodes of text: what is drawn and written, and every way in which one cannot be made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import iclgd_lens as lens
from iclgd_lens.episode_loading import load_demonstrations, load_episode, load_episodes
from iclgd_lens.errors import EpisodeError, RowsError, TaskError
from iclgd_lens.host import Host
from iclgd_lens.protocol import DEFAULT, EOS, REFERENCE
from tests import checks, families

TEXTS = DEFAULT.replace(separator=" w9", name="texts")

pytestmark = pytest.mark.filterwarnings("ignore::iclgd_lens.episode.EpisodeWarning")


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
        EpisodeError, match=r"by EOS, but the tokenizer has none; give a protocol with another"
    ):
        load_episode("sst2", Texts(tokenizer), shots=2, queries=2, data=rows, protocol="reference")


@pytest.mark.parametrize("missing", ["bos", "both"])
def test_a_missing_bos_is_nothing(missing: str, rows: Path) -> None:
    tokenizer = families.word_tokenizer()
    tokenizer.bos_token = None
    if missing == "both":
        tokenizer.eos_token = None
    shown = load_demonstrations("sst2", Texts(tokenizer), shots=2, data=rows, protocol=TEXTS)
    assert shown.bos is None


def test_a_separator_or_label_that_joins_its_neighbour_is_refused(
    tokenizer: Any, rows: Path
) -> None:
    host = Texts(tokenizer)
    with pytest.raises(EpisodeError, match=r"gives no token for the separator '\\n'"):
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


@pytest.mark.parametrize("name", ["embedded", "embedded-untrained"])
def test_the_embedded_model_reads_the_embedded_rows(name: str) -> None:
    shown = load_demonstrations("sst2", lens.load_model(name), shots=2)
    assert shown == load_demonstrations("sst2", lens.load_model(name), shots=2, data="embedded")


def test_another_model_of_such_a_name_does_not(tokenizer: Any) -> None:
    for name in ("embedded", "embedded-mine", "iclgd-embedded-small"):
        with pytest.raises(RowsError, match="the Hub gave no rows"):
            load_demonstrations("sst2", Texts(tokenizer, name=name), shots=2, protocol=TEXTS)


def test_an_episode_that_does_not_fit_the_model_is_not_made(tokenizer: Any, rows: Path) -> None:
    long = DEFAULT.replace(separator=" w9" * 60)
    with pytest.raises(EpisodeError, match="nothing is truncated"):
        load_episode("sst2", Texts(tokenizer), shots=4, queries=2, data=rows, protocol=long)
    # Demonstrations alone need not fit together: an update reads them one by one.
    assert load_demonstrations("sst2", Texts(tokenizer), shots=4, data=rows, protocol=long)


# -- special tokens are text -----------------------------------------------------------------------


def byte_tokenizer(*special: str) -> Any:
    """A byte-level tokenizer without merges, that knows the prompt's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    core.add_special_tokens([AddedToken(word, special=True) for word in special])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def one_row(text: str, **fields: Any) -> Any:
    task = lens.Task("toy", fields.pop("prompt", "Text: {text} Label:"), labels=["no", "yes"])
    data = [{"text": text, "label": 1}, {"text": "plain", "label": 0}]
    return task, data


@pytest.mark.parametrize("spelled", ["<s>", "</s>", "<|im_end|>", "</s> and <s>"])
def test_a_row_that_spells_a_special_token_is_text(spelled: str) -> None:
    tokenizer = byte_tokenizer("<s>", "</s>", "<|im_end|>")
    task, data = one_row(f"good {spelled} film")
    shown = load_demonstrations(task, Texts(tokenizer), shots=2, data=data)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    (example,) = (example for example in shown.examples if example.gold == 1)
    assert not special & set(example.tokens)
    assert tokenizer.decode(example.tokens) == f"Text: good {spelled} film Label: yes"
    # The caller's tokenizer still reads control tokens as such.
    assert set(tokenizer("</s>", add_special_tokens=False)["input_ids"]) <= special
    assert tokenizer.backend_tokenizer.encode_special_tokens is False


def test_special_tokens_of_the_prompt_itself_stay_what_they_are() -> None:
    tokenizer = byte_tokenizer("<s>", "</s>", "<|im_end|>")
    task, data = one_row("good film", prompt="{text}<|im_end|> Label:")
    shown = load_demonstrations(task, Texts(tokenizer), shots=1, data=data)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in shown.examples[0].content
    task, data = one_row("good </s> film", prompt="{text}<|im_end|> Label:")
    with pytest.raises(EpisodeError, match=r"Row 0 spells the special token '</s>', and the ta"):
        load_demonstrations(task, Texts(tokenizer), shots=2, data=data)


def test_a_row_whose_special_token_cannot_be_split_is_named(tokenizer: Any) -> None:
    task, data = one_row("w1 </s> w2", prompt="{text} Label:")
    task = lens.Task("toy", task.prompt, labels=["Negative", "Positive"])
    with pytest.raises(EpisodeError, match=r"Row 0 spells the special token '</s>', and this to"):
        load_demonstrations(task, Texts(tokenizer), shots=2, data=data, protocol=TEXTS)


# -- labels and separators -------------------------------------------------------------------------


def test_labels_with_the_same_tokens_are_named_with_the_reason(tokenizer: Any, rows: Path) -> None:
    task = lens.Task("sst2", "{sentence} Label:", labels=["bad", "good"])
    with pytest.raises(
        EpisodeError,
        match=r"same tokens, 'bad' and 'good' \(\[0\]\): both are unknown to this tokenizer",
    ):
        load_episode(task, Texts(tokenizer), shots=2, queries=2, data=rows, protocol=TEXTS)


@pytest.mark.parametrize("protocol", [DEFAULT, DEFAULT.replace(separator="w9"), REFERENCE])
@pytest.mark.parametrize("has_eos", [True, False])
def test_the_remedy_for_a_separator_works(protocol: Any, has_eos: bool, rows: Path) -> None:
    tokenizer = families.word_tokenizer()
    if not has_eos:
        tokenizer.eos_token = None
    host = Texts(tokenizer)
    size: Any = {"shots": 2, "queries": 2, "data": rows}
    try:
        load_episode("sst2", host, protocol=protocol, **size)
    except EpisodeError as error:
        named = str(error).partition("separator=")[2].partition(")")[0]
        remedy = EOS if named == "lens.EOS" else named.strip("'")
        assert load_episode("sst2", host, protocol=protocol.replace(separator=remedy), **size)
    else:
        assert protocol is REFERENCE
        assert has_eos


# -- rows from memory, several draws ---------------------------------------------------------------


def texts(first: int, n: int = 12) -> list[dict[str, Any]]:
    return [{"sentence": f"w{first + i} w{first + i + 1}", "label": i % 2} for i in range(n)]


SPLITS = {"train": texts(0), "validation": texts(40)}


def forms(kind: str, records: Any) -> Any:
    if kind == "list":
        return records
    if kind == "frame":
        return pytest.importorskip("pandas").DataFrame(records)
    return pytest.importorskip("datasets").Dataset.from_list(records)


@pytest.mark.parametrize("kind", ["list", "frame", "dataset"])
def test_rows_from_memory_make_the_episode_of_a_folder(
    kind: str, tokenizer: Any, rows: Path
) -> None:
    size: Any = {"shots": 4, "queries": 5, "seed": 3, "protocol": TEXTS}
    expected = load_episode("sst2", Texts(tokenizer), data=rows, **size)
    data = {split: forms(kind, records) for split, records in SPLITS.items()}
    episode = load_episode("sst2", Texts(tokenizer), data=data, **size)
    assert episode.hash == expected.hash
    assert episode.provenance["train_hash"] == expected.provenance["train_hash"]
    assert "data" not in episode.provenance
    assert json.dumps(dict(episode.provenance))
    assert len(repr(episode.provenance)) < 1500


@pytest.mark.parametrize("protocol", [TEXTS, TEXTS.replace(skip_repeated=False)])
def test_no_query_is_a_demonstration_where_one_table_serves_for_both(
    protocol: Any, tokenizer: Any
) -> None:
    episode = load_episode(
        "sst2", Texts(tokenizer), shots=8, queries=None, seed=1, data=texts(0), protocol=protocol
    )
    shown = {example.content for example in episode.demonstrations.examples}
    asked = {query.content for query in episode.queries}
    assert not shown & asked
    assert len(shown | asked) == 12


def test_draws_share_their_queries_and_have_demonstrations_of_their_own(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"train": texts(0, 30), "validation": [*texts(0, 30), *texts(40)]}
    episodes = load_episodes(
        "sst2", Texts(tokenizer), draws=3, seed=5, shots=4, queries=8, data=data, protocol=TEXTS
    )
    assert isinstance(episodes, tuple)
    assert [episode.provenance["seed"] for episode in episodes] == [5, 6, 7]
    assert len({episode.queries for episode in episodes}) == 1
    assert len({episode.demonstrations for episode in episodes}) == 3
    shown = {e.content for episode in episodes for e in episode.demonstrations.examples}
    assert not shown & {query.content for query in episodes[0].queries}
    for episode in episodes:
        alone = load_demonstrations(
            "sst2", Texts(tokenizer), shots=4, seed=episode.provenance["seed"], data=data,
            protocol=TEXTS,
        )  # fmt: skip
        assert alone == episode.demonstrations


def test_rows_are_read_once_for_all_draws(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting:
        bos_token_id = eos_token_id = 1

        def __call__(self, text: str, add_special_tokens: bool) -> Any:
            calls.append(text)
            return {"input_ids": [7 + len(word) for word in text.split()]}

    task = lens.Task("toy", "{sentence} Label:", labels=["a", "bb"])
    size: Any = {"shots": 4, "queries": 8, "data": SPLITS, "protocol": REFERENCE}
    load_episodes(task, Texts(Counting()), draws=4, **size)
    assert sum(call.startswith("w4") and call.endswith("Label:") for call in calls) <= 12


def test_draws_with_too_few_rows_have_queries_of_their_own(tokenizer: Any) -> None:
    with pytest.warns(lens.EpisodeWarning, match="Each draw has queries of its own"):
        episodes = load_episodes(
            "sst2", Texts(tokenizer), draws=3, shots=4, queries=8, data=texts(0), protocol=TEXTS
        )
    assert {len(episode.queries) for episode in episodes} == {8}
    for episode in episodes:
        shown = {example.content for example in episode.demonstrations.examples}
        assert not shown & {query.content for query in episode.queries}
        assert any("queries of its own" in warning for warning in episode.warnings)


def test_balanced_draws_have_equal_classes(tokenizer: Any) -> None:
    balanced = TEXTS.replace(balanced=True)
    for episode in load_episodes(
        "sst2", Texts(tokenizer), draws=4, shots=4, queries=4, data=SPLITS, protocol=balanced
    ):
        assert episode.demonstrations.classes() == {0: 2, 1: 2}


@pytest.mark.parametrize("draws", [0, -1])
def test_no_draws_are_refused(draws: int, tokenizer: Any) -> None:
    with pytest.raises(EpisodeError, match=f"draws must be 1 or more, not {draws}") as caught:
        load_episodes("sst2", Texts(tokenizer), draws=draws, data=SPLITS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": "4"}, "shots must be an integer, not '4'"),
        ({"shots": 4.0}, r"shots must be an integer, not 4\.0"),
        ({"queries": "all"}, "queries must be an integer or None, not 'all'"),
        ({"shots": -1}, "shots must be 0 or more, not -1"),
    ],
)
def test_numbers_of_another_type_or_below_zero_are_refused(
    change: dict[str, Any], message: str, tokenizer: Any
) -> None:
    size: dict[str, Any] = {"shots": 2, "data": SPLITS, "protocol": TEXTS} | change
    with pytest.raises(RowsError, match=message) as caught:
        load_episodes("sst2", Texts(tokenizer), **size)
    assert "\n" not in str(caught.value)
    with pytest.raises(RowsError, match=message):
        lens.check_rows("sst2", **({"data": SPLITS, "protocol": TEXTS} | change))
    if "shots" in change:
        with pytest.raises(RowsError, match=message):
            load_demonstrations("sst2", Texts(tokenizer), **size)


def test_no_demonstrations_are_taken_with_a_warning(tokenizer: Any) -> None:
    size: dict[str, Any] = {"queries": 4, "data": SPLITS, "protocol": TEXTS}
    told = "There are no demonstrations: nothing can be learned in context."
    with pytest.warns(lens.EpisodeWarning, match=told):
        bare = load_episode("sst2", Texts(tokenizer), shots=0, **size)
    assert told in bare.warnings
    shown = load_episode("sst2", Texts(tokenizer), shots=2, **size)
    assert told not in shown.warnings


def test_a_name_in_the_models_place_is_refused(tokenizer: Any) -> None:
    model: Any = Texts(tokenizer)
    swapped: Any = ("sst2", Path("sst2.yaml"), lens.get_task("sst2"))
    with checks.untyped():
        for load in (load_episodes, load_episode, load_demonstrations):
            for task in swapped:
                with pytest.raises(EpisodeError, match=r"given as 'sst2.*the task first, then a"):
                    load(model, task)
        with pytest.raises(TaskError, match=r"A task is given by its name, .* not by a Texts"):
            load_episodes(model, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2**63}, r"seed must be at most 2\*\*63 - 1, not a number of 64 bits"),
        ({"seed": 2**70}, "not a number of 71 bits"),
        ({"seed": 2**63 - 1}, r"the seed of draw 5 must be at most"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"permutation": 2**64}, "permutation must be at most"),
        ({"permutation": -1}, "permutation must be 0 or more"),
    ],
)
def test_seeds_out_of_range_are_refused(
    change: dict[str, Any], message: str, tokenizer: Any
) -> None:
    with pytest.raises(RowsError, match=message):
        load_episodes("sst2", Texts(tokenizer), shots=2, queries=2, data=SPLITS, protocol=TEXTS,
                      **change)  # fmt: skip


def test_what_is_wrong_with_rows_is_told_before_a_model_is_loaded(tokenizer: Any) -> None:
    size: Any = {"shots": 4, "queries": 5, "seed": 3, "protocol": TEXTS}
    checked = lens.check_rows("sst2", SPLITS, draws=2, **size)
    again = load_episodes("sst2", Texts(tokenizer), draws=2, data=checked, **size)
    assert again == load_episodes("sst2", Texts(tokenizer), draws=2, data=SPLITS, **size)
    assert lens.check_rows("sst2", model="embedded", **size).data == "embedded"
    with pytest.raises(RowsError, match=r"data\['train'\] row 1: column 'sentence' is empty"):
        lens.check_rows("sst2", SPLITS | {"train": [texts(0)[0], {"sentence": "", "label": 0}]})
    with pytest.raises(RowsError, match=r"13 demonstrations were asked for, but .* has 12 rows"):
        lens.check_rows("sst2", SPLITS, shots=13)
    with pytest.raises(EpisodeError, match="draws must be 1 or more"):
        lens.check_rows("sst2", SPLITS, draws=0)
    with pytest.raises(RowsError, match="These rows were read for task 'sst2' with strip=True"):
        load_episode("sst2", Texts(tokenizer), data=checked, protocol=REFERENCE)


def test_checking_rows_needs_no_torch() -> None:
    code = (
        "import sys, iclgd_lens as lens; lens.check_rows('sst2', 'embedded', shots=2);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- warnings --------------------------------------------------------------------------------------


def test_an_episode_says_what_may_mislead(tokenizer: Any) -> None:
    host = Texts(tokenizer)
    task = lens.Task("toy", "{sentence} Label:", labels=["Negative", "Positive"])
    size: Any = {"shots": 2, "queries": 4, "protocol": TEXTS}
    assert load_episode(task, host, data=SPLITS, seed=1, **size).warnings == ()
    strange = [{"sentence": "what is this", "label": i % 2} for i in range(9)]
    with pytest.warns(lens.EpisodeWarning, match=r"toy: 75% of the queries' tokens are unknown"):
        episode = load_episode(task, host, data=SPLITS | {"validation": strange}, seed=1, **size)
    assert episode.provenance["unknown_share"] == 0.75
    (sentence,) = episode.warnings
    assert sentence.startswith("75% of the queries' tokens are unknown to this tokenizer")
    positive = [row for row in texts(0) if row["label"] == 1]
    with pytest.warns(lens.EpisodeWarning, match="All 2 demonstrations have the label 'Positive'"):
        episode = load_episode(task, host, data=SPLITS | {"train": positive}, **size)
    assert "All 2 demonstrations" in episode.warnings[0]
    # What is changed afterwards is looked at anew.
    (sentence,) = episode.with_demonstrations(()).warnings
    assert sentence == "There are no demonstrations: nothing can be learned in context."
    half = lens.Task("toy", "{sentence} Label:", labels=["Negative", "fine"])
    with pytest.warns(lens.EpisodeWarning, match="Label words unknown to this tokenizer: fine"):
        load_episode(half, host, data=SPLITS, seed=1, **size)
