"""How an architecture draws its weights before training, by the rule of its `transformers` class.

Nearly all draw every matrix from a normal distribution of one standard deviation and set biases to
zero; GPT-2's scales down what is added to the residual stream. A model of the user's own that names
no known architecture is drawn by TransformerLens's own rule, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from iclgd_lens.host.base import Host

_STD_FIELDS = ("initializer_range", "init_std")
_USUAL = 0.02


@dataclass(frozen=True)
class Initialiser:
    """The distribution of untrained weights.

    Attributes:
        name: Whose rule it is, for the record.
        std: Standard deviation of every matrix.
        residual_std: That of the matrices whose output is added to the residual stream.
        is_own: Whether it is the architecture's own rule.
    """

    name: str
    std: float
    residual_std: float
    is_own: bool = True

    def of(self, kind: str) -> float:
        """Standard deviation of a weight by its TransformerLens name, such as "W_O"."""
        return self.residual_std if kind in ("W_O", "W_out") else self.std


_RESIDUAL_SCALED = frozenset({"GPT2LMHeadModel"})
"""Architectures that divide the residual projections' deviation by sqrt(2 layers)."""
_KNOWN: Mapping[str, str] = MappingProxyType(
    {
        name: f"transformers.{name}: normal, biases zero"
        for name in (
            "GPT2LMHeadModel", "GPTNeoXForCausalLM", "GPTJForCausalLM", "LlamaForCausalLM",
            "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM",
            "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GraniteForCausalLM", "OPTForCausalLM",
            "BloomForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM", "FalconForCausalLM",
            "OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "StableLmForCausalLM",
            "CohereForCausalLM", "HeliumForCausalLM", "SmolLM3ForCausalLM",
        )
    }
)  # fmt: skip


def initialiser_of(host: Host) -> Initialiser:
    """The rule by which a model's architecture draws its weights."""
    config: Any = getattr(getattr(host.model, "original_model", None), "config", None)
    architecture = _architecture(host)
    given = (getattr(config, name, None) for name in _STD_FIELDS)
    std = next((float(value) for value in given if value is not None), None)
    if architecture not in _KNOWN and std is None:
        std = _of_transformer_lens(host)
        return Initialiser(
            f"TransformerLens: normal with standard deviation 0.8 / sqrt(d_model) = {std:.4f} "
            f"(the initialiser of {architecture or 'this architecture'} is not known)",
            std, std, is_own=False,
        )  # fmt: skip
    if std is None:
        std = _recorded(host)
    scaled = std / (2 * host.n_layers) ** 0.5 if architecture in _RESIDUAL_SCALED else std
    rule = _KNOWN.get(architecture, f"transformers.{architecture}: normal, biases zero")
    more = f", residual projections {scaled:.5f}" if scaled != std else ""
    return Initialiser(f"{rule} (standard deviation {std:g}{more})", std, scaled)


def _architecture(host: Host) -> str:
    original = getattr(host.model, "original_model", None)
    if original is not None:
        return type(original).__name__
    return str(getattr(host.cfg, "original_architecture", None) or "")


def _recorded(host: Host) -> float:
    """What the conversion wrote down of the configuration, or the usual deviation.

    TransformerLens fills the field with a rule of its own where nobody gave it.
    """
    found = float(getattr(host.cfg, "initializer_range", None) or 0.0)
    filled = abs(found - _of_transformer_lens(host)) < 1e-12
    return _USUAL if found <= 0 or filled else found


def _of_transformer_lens(host: Host) -> float:
    return 0.8 / host.d_model**0.5
