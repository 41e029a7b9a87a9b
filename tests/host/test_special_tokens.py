"""BOS and EOS are what a tokenizer's own files say, on both hosts; none is made up."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from iclgd_lens.episode_loading import load_episode
from iclgd_lens.errors import EpisodeError
from iclgd_lens.host.condition import model_provenance
from iclgd_lens.host.loading import load_model
from iclgd_lens.host.special_tokens import own_token
from iclgd_lens.protocol import DEFAULT, REFERENCE
from tests import checks, families

TEXTS = DEFAULT.replace(separator=" w9")
ROWS = [{"sentence": f"w{i} w{i + 1}", "label": i % 2} for i in range(12)]


def words(*special: str, **named: str) -> Any:
    """A word-level tokenizer that names the given special tokens in its files."""
    known = ["<unk>", *special, "Label:", "Sentence:", "Positive"]
    known += ["Negative", *(f"w{index}" for index in range(families.VOCAB_SIZE))]
    known = known[: families.VOCAB_SIZE]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **named)


def letters() -> Any:
    """A tokenizer of single letters, without any special token."""
    known = [*string.ascii_letters, *string.digits, ":", "\u2581"]
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(known)}, []))
    core.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core)


TOKENIZERS: dict[str, tuple[Any, str | None]] = {
    "neither": (lambda: words(), None),
    "neither, nothing unknown": (lambda: letters(), None),
    "eos alone": (lambda: words("<|im_end|>", eos_token="<|im_end|>"), None),
    "both": (lambda: words("<s>", "</s>", bos_token="<s>", eos_token="</s>"), "<s>"),
    "one for both": (
        lambda: words("<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>"),
        "<|endoftext|>",
    ),
}


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("name", TOKENIZERS)
def test_sequences_begin_as_the_files_say(name: str, kind: Any, tmp_path: Path) -> None:
    make, expected = TOKENIZERS[name]
    families.saved(families.huggingface_model("llama"), tmp_path, tokenizer=False)
    make().save_pretrained(tmp_path)
    files = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu", host=kind)
    shown = load_episode("sst2", model, shots=2, queries=2, data=ROWS, protocol=TEXTS)
    wanted = None if expected is None else files.convert_tokens_to_ids(expected)
    assert files.bos_token == expected
    assert shown.demonstrations.bos == wanted
    assert shown.demonstrations.prompt()[: wanted is not None] == (
        () if wanted is None else (wanted,)
    )
    told = (
        "none: the tokenizer's files name no BOS" if expected is None else f"{expected} ({wanted})"
    )
    assert shown.provenance["bos"] == model_provenance(model)["bos"] == told
    ids = {token for query in shown.queries for token in query.content}
    assert max(ids) < families.VOCAB_SIZE
    if "neither" in name:
        with pytest.raises(EpisodeError, match="by EOS, but the tokenizer has none"):
            load_episode("sst2", model, shots=2, queries=2, data=ROWS, protocol=REFERENCE)
    bare = TEXTS.replace(bos=False)
    shown = load_episode("sst2", model, shots=2, queries=2, data=ROWS, protocol=bare)
    assert shown.provenance["bos"] == "none: the protocol's choice"


def test_what_the_user_has_set_counts() -> None:
    tokenizer = words("<s>")
    assert own_token(tokenizer, "bos") is None
    tokenizer.bos_token = "<s>"
    assert own_token(tokenizer, "bos") == ("<s>", 1)
    tokenizer.bos_token = "<nowhere>"
    assert own_token(tokenizer, "bos") is None


def test_a_class_that_brings_its_bos_along_has_it() -> None:
    """GPT-2's class names it where old files say nothing."""
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2}
    tokenizer = transformers.GPT2Tokenizer(vocab=vocabulary, merges=[])
    assert own_token(tokenizer, "bos") == ("<|endoftext|>", 0) == own_token(tokenizer, "eos")
