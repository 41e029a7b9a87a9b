"""A training run of the embedded model that can be interrupted and taken up again.

Batches are a function of the seed and the step, so no random state has to be stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from examples.embedded_model.architecture import new_model
from examples.embedded_model.corpus import Corpus
from examples.embedded_model.curriculum import STAGES, Stage
from examples.embedded_model.episodes import Batch, draw_batch
from iclgd_lens.errors import ModelError
from iclgd_lens.files import write_whole

OTHER_TOKENS = 0.2
"""Weight of the mean loss over all other tokens beside that over the label words."""

WARM_UP = 100
WINDOW = 30
LAST_LEARNING_RATE = 0.05


@dataclass
class State:
    """Where a run is.

    Attributes:
        step: Steps done.
        stage: Index of the present stage.
        stage_step: Steps done in it.
        recent: Accuracy of the last batches of the present stage, at most `WINDOW`.
        ended: The step at which each former stage ended.
        seconds: Time spent in steps.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    recent: list[float] = field(default_factory=list[float])
    ended: list[int] = field(default_factory=list[int])
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Mean of `recent`, 0 before the first batch."""
        return float(np.mean(self.recent)) if self.recent else 0.0


class Run:
    """A training run: a model, its optimiser and where it is.

    Args:
        corpus: Training sentences.
        config: The model's configuration.
        seed: Of the weights and the batches.
        stages: The curriculum.
    """

    def __init__(
        self, corpus: Corpus, config: LlamaConfig, *, seed: int, stages: Sequence[Stage] = STAGES
    ) -> None:
        self.corpus, self.seed, self.stages = corpus, seed, stages
        self.model = new_model(config, seed=seed)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.state = State()

    @property
    def done(self) -> bool:
        """Whether all stages are over."""
        return self.state.stage >= len(self.stages)

    def step(self) -> float:
        """Take one step and return its loss."""
        start = time.perf_counter()
        state, stage = self.state, self.stages[self.state.stage]
        rng = np.random.default_rng([self.seed, state.step])
        rehearse = state.stage > 0 and rng.random() < stage.rehearsal
        drawn = self.stages[int(rng.integers(state.stage))] if rehearse else stage
        batch = draw_batch(self.corpus, drawn, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, state)
        loss, accuracy = loss_and_accuracy(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        state.step += 1
        state.stage_step += 1
        if not rehearse:
            state.recent = [*state.recent, accuracy][-WINDOW:]
        if self._stage_over(stage):
            state.ended.append(state.step)
            state.stage, state.stage_step, state.recent = state.stage + 1, 0, []
        state.seconds += time.perf_counter() - start
        return float(loss.detach())

    def _stage_over(self, stage: Stage) -> bool:
        reached = (
            stage.advance is not None
            and len(self.state.recent) == WINDOW
            and self.state.accuracy >= stage.advance
        )
        return reached or self.state.stage_step >= stage.steps

    def save(self, path: Path) -> None:
        """Write weights, optimiser state and progress into one safetensors file, atomically."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        metadata = {"state": json.dumps(asdict(self.state)), "seed": str(self.seed)}
        write_whole(path, save(tensors, metadata))

    def load(self, path: Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            ModelError: The file comes from a run with another seed.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
        if metadata["seed"] != str(self.seed):
            raise ModelError(
                f"{path} was trained with seed {metadata['seed']}, not {self.seed}: "
                "give that seed or another folder"
            )
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k[:6] == "model."}
        self.model.load_state_dict(weights)
        for name, parameter in self.model.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {k: tensors[f"optimizer.{k}.{name}"] for k in keys}
        self.state = State(**json.loads(metadata["state"]))


def learning_rate(stage: Stage, state: State) -> float:
    """Warm-up from 0 over the run's first steps; in a stage without a goal, a cosine decay."""
    rate = stage.learning_rate * min(1.0, (state.step + 1) / WARM_UP)
    if stage.advance is None:
        cosine = 0.5 + 0.5 * np.cos(np.pi * state.stage_step / stage.steps)
        rate *= LAST_LEARNING_RATE + (1 - LAST_LEARNING_RATE) * cosine
    return float(rate)


def loss_and_accuracy(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, float]:
    """The training loss, and the share of right label words in the episodes' last third.

    A label word counts as right if it is the likeliest of the whole vocabulary.
    """
    logits = model(input_ids=batch.tokens, use_cache=False).logits[:, :-1]
    targets = batch.tokens[:, 1:]
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    losses = losses.view(targets.shape)
    label, shot = batch.label[:, 1:], batch.shot[:, 1:]
    other = ~label & ~batch.padding[:, 1:]
    loss = losses[label].mean() + OTHER_TOKENS * losses[other].mean()
    late = label & (shot >= (2 * batch.shots + 2) // 3)
    right = logits.detach()[late].argmax(-1) == targets[late]
    return loss, float(right.float().mean())
