"""The model card: what the model is, how it was trained, what was measured on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.embedded_model.figure import line_chart
from examples.embedded_model.measurements import Measurements
from examples.embedded_model.scoring import SHOTS, chance
from iclgd_lens.files import write_whole

INDUCTION = 0.2
"""Heads with at least this prefix-matching score are named as induction heads."""

_CARD = """\
---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---

# iclgd-embedded

A Llama of {layers} layers, width {width} and {heads} heads a layer ({parameters:,} parameters,
{megabytes:.1f} MB) that learns six small classification tasks in context. It ships inside the
Python package `iclgd_lens` as its offline default: a model on which in-context learning is real,
beside an untrained twin on which it is not. It knows {words} words, those of the package's own
sentences, and is of no use outside them.

    import iclgd_lens as lens
    model = lens.load_model("embedded")

## Data

Rows of six tasks (`sst2`, `sst5`, `mr`, `subj`, `agnews`, `cb`) under the columns and prompts of
the real data sets, but written by a grammar with authored lexicons: 360 training and 180 validation
rows each. No row of a real data set was used. Every sentence shows its class by two or three
evidence words; in `cb` the hypothesis alone gives the class away, as it partly does in many data
sets of that sort. The sentiment tasks share one lexicon.

The tokenizer has one token for each word, punctuation mark and newline. A text starts with `<s>`;
demonstrations are separated by a newline (`</s>` works too: a quarter of the training episodes used
it).

## Training

From the root of the repository, with seed {seed}:
`python -m examples.embedded_model.train --out FOLDER`.

{steps:,} steps of AdamW in {minutes:.0f} minutes on {cores} CPU core(s). Every episode
draws anew which label word stands for which class, so the weights may learn which words go
together, but only the demonstrations say what a class is called. Sentences are drawn fresh from the
grammar; those of the validation rows are left out. Stages, each entered when the one before is
solved:

{stages}

The loss is that of the label words plus {other} times that of all other tokens. The first
demonstration of a training episode carries a task's first label word more often than another, which
is why the model without demonstrations gives the same answer to everything.

## Measured

`python -m examples.embedded_model.evaluate` (seed {measured_seed}), on {queries} validation rows a
task, each with demonstrations of its own. "Permuted" means that every label word stands for another
class than usual, drawn anew for every query. The untrained twin keeps embeddings, norms and
unembedding; the matrices of its blocks are random.

{table}

Chance: {chances} (mean {mean_chance:.3f}).

![Mean accuracy over the six tasks against demonstrations](accuracy.svg)

## Induction heads

Prefix-matching score: on random words repeated once, the attention of a repeated word to the word
that followed its first occurrence. {named}

{head_scores}
"""


def write_card(folder: Path, measured: Measurements, training: dict[str, Any]) -> None:
    """Write `README.md` and `accuracy.svg` into a model's folder.

    Args:
        folder: Holds the model's weights.
        measured: From `measurements.measure`.
        training: What training wrote as `training.json`.
    """
    chances = {task: chance(task) for task in next(iter(measured.accuracy.values()))}
    mean_chance = sum(chances.values()) / len(chances)
    lines = {name: measured.mean(name) for name in measured.accuracy}
    write_whole(folder / "accuracy.svg", line_chart(SHOTS, lines, chance=mean_chance).encode())
    text = _CARD.format(
        **training["architecture"],
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        seed=training["seed"],
        steps=training["steps"],
        minutes=training["seconds"] / 60,
        cores=training["cores"],
        stages="\n".join(
            f"{i}. {stage['name']}: until step {stage['until_step']:,}, {stage['description']}"
            for i, stage in enumerate(training["stages"], 1)
        ),
        other=training["other_tokens"],
        measured_seed=measured.seed,
        queries=measured.queries,
        table=_table(measured),
        chances=", ".join(f"{task} {value:.2f}" for task, value in chances.items()),
        mean_chance=mean_chance,
        named=_named_heads(measured),
        head_scores=_head_scores(measured),
    )
    write_whole(folder / "README.md", text.encode())


def _table(measured: Measurements) -> str:
    head = ["model and label words", "task", *(f"{n} shots" for n in SHOTS)]
    rows = [head, ["---"] * 2 + ["---:"] * len(SHOTS)]
    for name, tasks in measured.accuracy.items():
        rows += [[name, task, *(f"{v:.2f}" for v in values)] for task, values in tasks.items()]
        rows.append([name, "**mean**", *(f"**{v:.3f}**" for v in measured.mean(name))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _named_heads(measured: Measurements) -> str:
    scores = measured.prefix_matching
    named = [
        (float(scores[layer, head]), f"L{layer}H{head}")
        for layer in range(scores.shape[0])
        for head in range(scores.shape[1])
        if scores[layer, head] >= INDUCTION
    ]
    if not named:
        return f"No head reaches {INDUCTION}."
    listed = ", ".join(f"{name} ({score:.2f})" for score, name in sorted(named, reverse=True))
    return f"Induction heads, from {INDUCTION} upwards: {listed}."


def _head_scores(measured: Measurements) -> str:
    scores = measured.prefix_matching
    rows = [
        ["layer", *(f"head {h}" for h in range(scores.shape[1]))],
        ["---:"] * (scores.shape[1] + 1),
    ]
    rows += [[str(i), *(f"{v:.2f}" for v in row)] for i, row in enumerate(scores.tolist())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
