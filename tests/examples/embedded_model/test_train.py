"""Training can be interrupted: the weights are those of an uninterrupted run."""

from pathlib import Path

import pytest
import torch

from examples.embedded_model.architecture import model_config
from examples.embedded_model.corpus import build_corpus, held_out_texts
from examples.embedded_model.curriculum import STAGES, Stage
from examples.embedded_model.episodes import draw_batch
from examples.embedded_model.run import Run
from examples.embedded_model.tokenizer import build_tokenizer
from iclgd_lens.errors import ModelError

TOKENIZER = build_tokenizer()
CORPUS = build_corpus(TOKENIZER, size=12, seed=0)
SHORT = (
    Stage("words", "", "word", (2, 2), 1e-3, 2, batch=4),
    Stage("evidence", "", "evidence", (2, 2), 1e-3, 2, pool=3, length=2, filler=1, batch=4),
    Stage("tasks", "", "prompt", (1, 2), 1e-3, 2, batch=4, advance=None, rehearsal=0.5),
)


def new_run(seed: int = 0) -> Run:
    config = model_config(len(TOKENIZER), layers=1, width=16, heads=2)
    return Run(CORPUS, config, seed=seed, stages=SHORT)


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole, first, second = new_run(), new_run(), new_run()
    losses = [whole.step() for _ in range(6)]
    assert whole.done
    resumed = [first.step() for _ in range(3)]
    first.save(tmp_path / "checkpoint.safetensors")
    second.load(tmp_path / "checkpoint.safetensors")
    resumed += [second.step() for _ in range(3)]
    assert resumed == losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    run = new_run()
    run.step()
    run.save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ModelError, match="seed 0, not 1"):
        new_run(seed=1).load(tmp_path / "checkpoint.safetensors")


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    new_run().step()
    assert torch.equal(before, torch.get_rng_state())


def test_every_word_occurs_in_training_and_no_validation_row_does() -> None:
    corpus = build_corpus(TOKENIZER, size=400, seed=0)
    seen = {i for drawn in corpus.classes.values() for example in drawn for i in example.prompt}
    seen |= {i for labels in corpus.labels.values() for i in labels}
    seen |= {corpus.bos, corpus.pad, *corpus.separators, TOKENIZER.unk_token_id}
    assert seen == set(range(len(TOKENIZER)))
    texts = {
        TOKENIZER.decode(example.text) for drawn in corpus.classes.values() for example in drawn
    }
    held_out = {
        TOKENIZER.decode(TOKENIZER.encode(t, add_special_tokens=False)) for t in held_out_texts()
    }
    assert not texts & held_out


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_draws_label_words_after_their_prompts(stage: Stage) -> None:
    import numpy as np

    batch = draw_batch(CORPUS, stage, np.random.default_rng(0))
    assert batch.tokens.shape == batch.label.shape
    assert bool(batch.label.any(dim=1).all())
    assert not bool((batch.label & batch.padding).any())
    assert int(batch.tokens.max()) < len(TOKENIZER)
    again = draw_batch(CORPUS, stage, np.random.default_rng(0))
    assert torch.equal(batch.tokens, again.tokens)
