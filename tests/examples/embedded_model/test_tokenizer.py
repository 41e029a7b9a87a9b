"""The word-level tokenizer keeps the promises that episodes rest on."""

import pytest

from examples.embedded_model.grammar import TASKS
from examples.embedded_model.tokenizer import UNK, build_tokenizer
from iclgd_lens.embedded import embedded_rows
from iclgd_lens.tasks import get_task

TOKENIZER = build_tokenizer()


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("task", TASKS)
def test_every_prompt_is_known_and_every_label_is_one_more_token(task: str) -> None:
    definition = get_task(task)
    unknown = TOKENIZER.get_vocab()[UNK]
    newline = TOKENIZER.get_vocab()["\n"]
    for split in ("train", "validation"):
        for row in embedded_rows(task, split):
            prompt = definition.prompt_for(row)
            before = ids(prompt)
            assert unknown not in before
            for word in definition.labels:
                whole = ids(f"{prompt} {word}")
                assert whole[:-1] == before
                assert whole[-1] != unknown
                assert ids(f"{prompt} {word}\n") == [*whole, newline]


def test_special_tokens_prepend_bos_alone() -> None:
    with_special = TOKENIZER.encode("the plot is dull.")
    assert with_special == [TOKENIZER.bos_token_id, *ids("the plot is dull.")]


def test_decoding_reads_well() -> None:
    text = "Sentence: the plot is dull, the cast is warm. Label: Negative\nSentence:"
    assert TOKENIZER.decode(ids(text)) == text
