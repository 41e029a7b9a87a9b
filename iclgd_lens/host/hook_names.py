"""Names of the hook points that are read on every model, as HookedTransformer has them."""

from __future__ import annotations

from abc import ABC, abstractmethod


class HookNames(ABC):
    """Where activations pass. Bridges override what they name otherwise."""

    def attention_output_hook(self, layer: int) -> str:
        """Name of the hook where the attention block's output joins the residual stream."""
        return f"blocks.{layer}.hook_attn_out"

    def z_hook(self, layer: int) -> str:
        """Name of the hook where each head's mixed values pass: "batch pos head d_head"."""
        return f"blocks.{layer}.attn.hook_z"

    def block_input_hook(self, layer: int) -> str:
        """Name of the hook where the residual stream enters block `layer`."""
        return f"blocks.{layer}.hook_resid_pre"

    def block_output_hook(self, layer: int) -> str:
        """Name of the hook where the residual stream leaves block `layer`."""
        return f"blocks.{layer}.hook_resid_post"

    def mlp_output_hook(self, layer: int) -> str:
        """Name of the hook where the MLP's output joins the residual stream."""
        return f"blocks.{layer}.hook_mlp_out"

    @abstractmethod
    def score_hook(self, layer: int) -> str:
        """Name of the hook where masked scores pass and what is returned enters the softmax.

        Raises:
            HookError: This model's scores can be read (`score_hooks`), but not changed.
        """

    @abstractmethod
    def query_key_hook(self, layer: int, letter: str) -> str:
        """Name of the hook where queries ("q") or keys ("k") pass as they enter the dot product.

        Raises:
            HookError: This model does not expose them.
        """
