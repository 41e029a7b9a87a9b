"""What a score may look at.

`Frozen` holds what the model itself leaves on the queries of one draw of demonstrations: ZS, ICL,
and ICL after the same demonstrations with wrong labels. `Readings` adds what one intervention
leaves: FT, and FT of the intervention built from the wrong labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.host import Host
from iclgd_lens.measures import label_effects, similarity
from iclgd_lens.protocol import Protocol
from iclgd_lens.readout.reader import Readout


@dataclass
class Frozen:
    """What the frozen model leaves on the queries of one draw.

    Attributes:
        zs: Each query alone.
        icl: Each query after the demonstrations.
        icl_shuffled: Each query after the same demonstrations with wrong labels, where it was read.
        gold: Gold label ids.
        lengths: Tokens of each query up to its readout token.
        protocol: How they were read.
        dtype: Of the model's activations.
        head_factor: A narrow stand-in for W_O; see `similarity.head_factor`.
    """

    zs: Readout
    icl: Readout
    icl_shuffled: Readout | None
    gold: Int[Tensor, " query"]
    lengths: Int[Tensor, " query"]
    protocol: Protocol
    dtype: torch.dtype
    head_factor: Float[Tensor, "layer head d_head rank"]

    @classmethod
    def read(
        cls, host: Host, episode: Episode, zs: Readout, icl: Readout, wrong: Readout | None
    ) -> Frozen:
        """Gather what the scores need of the model and the episode."""
        sites = [host.parameter(f"blocks.{i}.attn.W_O") for i in range(host.n_layers)]
        weights = torch.stack([site.float() for site in sites if site is not None])
        lengths = [len(episode.readout_tokens(query)) for query in episode.queries]
        return cls(
            zs, icl, wrong,
            torch.tensor(episode.gold, device=host.device),
            torch.tensor(lengths, device=host.device),
            episode.protocol, host.dtype, similarity.head_factor(weights),
        )  # fmt: skip

    # What demonstrations leave unchanged, up to rounding, gives no direction to compare with.

    @cached_property
    def same_outputs(self) -> Bool[Tensor, "query layer"]:
        """Where ICL changes no attention output."""
        return similarity.unchanged(self.zs.attention_output, self.icl.attention_output, self.dtype)

    @cached_property
    def same_z(self) -> Bool[Tensor, "query layer head"]:
        """Where ICL changes no head's output."""
        return similarity.unchanged(self.zs.z, self.icl.z, self.dtype)

    @cached_property
    def same_scores(self) -> Bool[Tensor, "query layer head"]:
        """Where ICL changes no attention score between the query's own tokens."""
        return similarity.unchanged(self.zs.scores, self.icl.scores, self.dtype)

    @cached_property
    def change(self) -> Float[Tensor, "query layer d_model"]:
        """ICL's change of the attention output, in fp64; NaN where there is none."""
        found = label_effects.changes(
            self.zs.attention_output, self.icl.attention_output, normalize=self.normalize
        )
        return found.masked_fill(self.same_outputs[..., None], torch.nan)

    @property
    def normalize(self) -> bool:
        """Whether attention outputs are normalised before they are subtracted."""
        return self.protocol.normalize_attention_output


@dataclass
class Readings:
    """What one intervention leaves on the queries, beside what the frozen model leaves.

    Attributes:
        frozen: ZS, ICL, ICL after wrong labels.
        ft: The changed model, each query alone.
        ft_shuffled: The model that the same rule changed by the demonstrations with wrong labels.
        attention: Gives the changed model's attention to the demonstrations' tokens as training
            text, [first layer head token], or None where the model does not expose it.
    """

    frozen: Frozen
    ft: Readout
    ft_shuffled: Readout | None = None
    attention: Callable[[], Tensor | None] | None = None

    @property
    def zs(self) -> Readout:
        """Each query alone, on the frozen model."""
        return self.frozen.zs

    @property
    def icl(self) -> Readout:
        """Each query after the demonstrations, on the frozen model."""
        return self.frozen.icl

    @property
    def icl_shuffled(self) -> Readout | None:
        """Each query after the demonstrations with wrong labels, on the frozen model."""
        return self.frozen.icl_shuffled

    @property
    def gold(self) -> Int[Tensor, " query"]:
        """Gold label ids."""
        return self.frozen.gold

    @property
    def protocol(self) -> Protocol:
        """How the episode was read."""
        return self.frozen.protocol

    @property
    def is_read_as_zs(self) -> bool:
        """Whether FT was read in the very passes of ZS: what it leaves alone is then equal."""
        return bool(self.ft.passes) and self.ft.passes == self.zs.passes

    def right(self, readout: Readout) -> Bool[Tensor, " query"]:
        """Which queries a setting answers with their gold label."""
        return similarity.label_prediction(readout.label_scores) == self.gold

    # What an intervention leaves as it is gives no direction, either.

    @cached_property
    def same_outputs(self) -> Bool[Tensor, "query layer"]:
        """Where ICL or FT changes no attention output."""
        return self.frozen.same_outputs | self.still_outputs

    @cached_property
    def still_outputs(self) -> Bool[Tensor, "query layer"]:
        """Where FT changes no attention output."""
        return self._still(self.zs.attention_output, self.ft.attention_output)

    @cached_property
    def same_z(self) -> Bool[Tensor, "query layer head"]:
        """Where ICL or FT changes no head's output."""
        return self.frozen.same_z | self._still(self.zs.z, self.ft.z)

    @cached_property
    def same_scores(self) -> Bool[Tensor, "query layer head"]:
        """Where ICL or FT changes no attention score between the query's own tokens."""
        return self.frozen.same_scores | self._still(self.zs.scores, self.ft.scores)

    def _still(self, zs: Tensor, ft: Tensor) -> Bool[Tensor, "query layer *head"]:
        """Where FT is ZS: to the bit where both were read alike, else up to rounding."""
        if self.is_read_as_zs:
            return (zs == ft).all(-1)
        return similarity.unchanged(zs, ft, self.frozen.dtype)

    @property
    def false_to_true(self) -> Bool[Tensor, " query"]:
        """Queries with ZS wrong, ICL right and FT right (the f2t subset)."""
        return similarity.f2t(self.right(self.zs), self.right(self.icl), self.right(self.ft))

    @cached_property
    def by_layer(self) -> Float[Tensor, "query layer"]:
        """SimAOU of each layer."""
        return similarity.sim_aou(
            self.zs.attention_output, self.icl.attention_output, self.ft.attention_output,
            normalize=self.frozen.normalize,
        ).masked_fill(self.same_outputs, torch.nan)  # fmt: skip

    @cached_property
    def by_map(self) -> Float[Tensor, "query layer head"]:
        """SimAM of each head."""
        raw = self.protocol.sim_am == "raw"
        found = similarity.sim_am(self.zs.scores, self.icl.scores, self.ft.scores, raw=raw)
        return found if raw else found.masked_fill(self.same_scores, torch.nan)

    @cached_property
    def change(self) -> Float[Tensor, "query layer d_model"]:
        """FT's change of the attention output, in fp64; NaN where there is none."""
        found = label_effects.changes(
            self.zs.attention_output, self.ft.attention_output, normalize=self.frozen.normalize
        )
        return found.masked_fill(self.still_outputs[..., None], torch.nan)

    @cached_property
    def pairs(self) -> tuple[Readout, Readout, Readout, Readout] | None:
        """ICL and FT, each after gold and after wrong labels, where all four were read."""
        wrong, changed = self.icl_shuffled, self.ft_shuffled
        if wrong is None or changed is None:
            return None
        return self.icl, wrong, self.ft, changed

    @cached_property
    def label_heads(self) -> Float[Tensor, "query layer head"] | None:
        """The label contrast of each head's attention scores."""
        if self.pairs is None:
            return None
        parts = [each.scores for each in self.pairs]
        return where_labels_matter(label_effects.raw_contrast(*parts), parts, self.frozen.dtype)

    @cached_property
    def rank_correlation(self) -> Float[Tensor, "first layer head"] | None:
        """Tok2Attn of each head."""
        icl = self.icl.demonstration_scores
        changed = None if icl is None or self.attention is None else self.attention()
        return None if icl is None or changed is None else similarity.tok2attn(icl, changed)


def where_labels_matter(score: Tensor, parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """`score`, NaN where labels change nothing, up to rounding, in ICL or in the changed model."""
    return score.masked_fill(~labels_matter(parts, dtype), torch.nan)


def labels_matter(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Where labels change something, beyond rounding, in ICL and in the changed model."""
    icl, wrong, ft, changed = parts
    return ~(similarity.unchanged(wrong, icl, dtype) | similarity.unchanged(changed, ft, dtype))
