"""N1 and S2: are networks that learned nothing called "yes", and do verdicts hang on the draw?

    python -m benchmarks.never_trained
    python -m benchmarks.never_trained --matched    # a budget for each network; no second question

Three families (GPT-2, Llama, NeoX), small, drawn by their own initialisers. Untrained networks of
one architecture are exchangeable, so each in turn plays the model, with the others as its twins
(`iclgd_lens.calibration_on_networks`). Then the embedded model, with more twins than a comparison
has by default: how often are the verdicts the same with other eight of them?
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

import iclgd_lens as lens
from iclgd_lens.calibration_on_networks import never_trained, steadiness
from iclgd_lens.embedded import embedded_model_folder
from iclgd_lens.verdicts.shares import Rate

TASKS = ("sst2", "agnews")
SETTINGS = {name: {"lr": 0.05, "epochs": 4, "loss_on": "label"} for name in ("gd", "lcgd")}
_SIZES: dict[str, Any] = {"vocab_size": 1, "bos_token_id": 1, "eos_token_id": 2}


def configurations(vocabulary: int) -> dict[str, Any]:
    """Small configurations of three families, with the embedded tokenizer's vocabulary."""
    import transformers

    common = {**_SIZES, "vocab_size": vocabulary}
    layers = {
        "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 1024, **common,
    }  # fmt: skip
    return {
        "gpt2": transformers.GPT2Config(
            n_embd=96, n_layer=4, n_head=4, n_positions=1024, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, **common,
        ),
        "llama": transformers.LlamaConfig(**layers, num_key_value_heads=2),
        "neox": transformers.GPTNeoXConfig(**layers),
    }  # fmt: skip


def network(config: Any, folder: Path) -> Any:
    """A new network of a configuration, loaded as users load theirs."""
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    source = embedded_model_folder()
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return lens.load_model(folder)


def asked(model: Any, task: str, twins: int, matched: bool = False) -> lens.Comparison:
    """One comparison: two draws, 16 queries, many networks."""
    episodes = lens.load_episodes(task, model, draws=2, queries=16, data="embedded")
    how: dict[str, Any] = (
        {"budget": {"epochs": (1, 2, 4, 8)}} if matched else {"settings": SETTINGS}
    )
    return lens.compare(
        model, episodes, controls=("random", "shuffled", "untrained"), twins=twins,
        tok2attn_queries=0, **how,
    )  # fmt: skip


def main(
    networks: Annotated[int, typer.Option(help="Networks a family.")] = 14,
    twins: Annotated[int, typer.Option(help="Networks beside the embedded model.")] = 20,
    matched: Annotated[
        bool, typer.Option("--matched", help="Choose a budget for each network; N1 alone.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the rates (.json) there.")] = None,
) -> None:
    """Measure and print the rates."""
    from transformers import AutoTokenizer

    vocabulary = len(AutoTokenizer.from_pretrained(embedded_model_folder()))
    found: list[lens.Comparison] = []
    rates: list[Rate] = []
    for family, config in configurations(vocabulary).items():
        with tempfile.TemporaryDirectory() as folder:
            model = network(config, Path(folder))
        own = [asked(model, task, networks, matched) for task in TASKS]
        found += own
        rate = never_trained(own)
        rates.append(rate)
        print(f"{family}: {rate}")
    rates.append(never_trained(found))
    print(f"all families, primary scores: {rates[-1]}")
    rates.append(never_trained(found, scores=("SimAOU", "SimAM")))
    print(f"all families, SimAOU and SimAM: {rates[-1]}")
    embedded = None if matched else lens.load_model("embedded")
    for task in () if matched else TASKS:
        rates.append(steadiness(asked(embedded, task, twins), networks=8))
        print(f"embedded, {task}: {rates[-1]}")
    if out is not None:
        out.write_text(json.dumps([rate.as_dict() for rate in rates], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
