"""The embedded model's tokenizer: one token a word, a punctuation mark or a newline.

Words are split off the marks that touch them ("Label:" is `Label`, `:`), spaces only separate, so
a label word after one space is always one token more, and a newline is a token of its own. The
vocabulary is every word that the grammar can write, the six prompts and their label words.
"""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from examples.embedded_model.grammar import TASKS, draw_fields, n_labels
from examples.embedded_model.prompts import LABELS, PROMPTS

BOS, EOS, PAD, UNK = SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")

_PIECE = r"\n|\w+|[^\w\s]"
_SAMPLES = 2000


def vocabulary() -> list[str]:
    """Return the tokens in the order of their ids: special ones, the newline, then sorted."""
    splitter = _splitter()
    rng = random.Random(0)
    words: set[str] = set()
    for task in TASKS:
        texts = list(LABELS[task])
        for label in range(n_labels(task)):
            # Many more sentences than words: all words of the grammar occur.
            draws = (draw_fields(task, label, rng) for _ in range(_SAMPLES))
            texts += [PROMPTS[task].format(**fields) for fields in draws]
        words |= {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    return [*SPECIAL, "\n", *sorted(words)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; with special tokens, a text starts with `<s>` (and has no `</s>`)."""
    ids = {token: i for i, token in enumerate(vocabulary())}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    core.pre_tokenizer = _splitter()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    core.decoder = _joiner()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of a token of the vocabulary.

    Raises:
        KeyError: No such token.
    """
    return tokenizer.get_vocab()[token]


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files into `folder`, for `AutoTokenizer.from_pretrained`."""
    build_tokenizer().save_pretrained(folder)


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(_PIECE), behavior="removed", invert=True)


def _joiner() -> decoders.Decoder:
    """Words joined by spaces, none before a mark, none around a newline."""
    marks = [decoders.Replace(f" {mark}", mark) for mark in ".,:?"]
    newline = decoders.Replace(Regex(" ?\n ?"), "\n")
    return decoders.Sequence(
        [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *marks, newline]
    )
