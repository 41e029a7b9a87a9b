"""Train the embedded model: `python -m examples.embedded_model.train --out FOLDER`.

Plain torch on `transformers`' Llama; two CPU cores need under an hour. Interrupted, the same
command goes on from the last checkpoint, and ends in the weights that an uninterrupted run gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from examples.embedded_model.architecture import model_config
from examples.embedded_model.corpus import build_corpus
from examples.embedded_model.run import OTHER_TOKENS, Run
from examples.embedded_model.tokenizer import build_tokenizer, save_tokenizer
from iclgd_lens.files import write_whole

SENTENCES = 2000
"""Training sentences that are drawn for each class of each task."""


def export(run: Run, folder: Path) -> None:
    """Write a run's model, tokenizer and history (`training.json`) as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    run.model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_tokenizer(folder)
    write_whole(folder / "training.json", (json.dumps(history(run), indent=2) + "\n").encode())


def history(run: Run) -> dict[str, Any]:
    """What the model card says of a run."""
    config = run.model.config
    return {
        "architecture": {
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "words": config.vocab_size,
            "parameters": sum(p.numel() for p in run.model.parameters()),
        },
        "seed": run.seed,
        "steps": run.state.step,
        "seconds": round(run.state.seconds),
        "cores": torch.get_num_threads(),
        "other_tokens": OTHER_TOKENS,
        "stages": [
            {"name": stage.name, "description": stage.description, "until_step": step}
            for stage, step in zip(run.stages, run.state.ended, strict=False)
        ],
    }


def train(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint and the model.")],
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Stop after this step, for now.")] = None,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 50,
) -> None:
    """Train the embedded model, or go on where the last call stopped."""
    tokenizer = build_tokenizer()
    corpus = build_corpus(tokenizer, size=SENTENCES, seed=seed)
    run = Run(corpus, model_config(len(tokenizer)), seed=seed)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.is_file():
        run.load(checkpoint)
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
        bar = progress.add_task("", total=None)
        while not run.done and (steps is None or run.state.step < steps):
            stage, loss = run.stages[run.state.stage], run.step()
            progress.update(bar, description=f"step {run.state.step}, loss {loss:.3f}")
            if run.state.stage_step % every == 0:  # 0 at a stage's end, too
                run.save(checkpoint)
                progress.console.print(
                    f"step {run.state.step}, {run.state.seconds:.0f} s: {stage.name}, "
                    f"loss {loss:.3f}, accuracy {run.state.accuracy:.3f}"
                )
    run.save(checkpoint)
    if run.done:
        export(run, out / "model")


if __name__ == "__main__":
    typer.run(train)
