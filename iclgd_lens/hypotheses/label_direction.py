"""Predictors as interventions: label scores of a rule's own, put into the model's residual stream.

A predictor says how likely each label word is. To be read and scored as every other hypothesis is,
it acts where the label is predicted, on the stream before the final norm: the logit of label word c
changes by s_c, up to a constant that all label words share.

Let x be the stream there, c its centred part where the norm subtracts the mean, σ what the norm
divides by, g its gain, and A_c = g (u_c - ū) the direction of label word c, u_c its column of the
unembedding. The least change of c that does it is σ A^+ s, A^+ the pseudo-inverse. What of c lies
outside the span of A is scaled so that the length of c, and with it σ, stays what it is: the norm
divides by what it divided by. Other tokens' logits move as a result. A change that the
length does not allow keeps its direction and is as large as it can be.

Norm and unembedding are asked, not read: g, bias and centring from what the norm makes of two
vectors, columns from gradients where a soft cap or a factor follows (and the change is then
corrected for the cap).

Label words of several tokens: the log-probability of the first token of a word c with n_c tokens
moves by n_c (s_c + a), so that the mean log-probability moves by s_c + a; a is common to all words.
Where words have different numbers of tokens, a is what the softmax leaves, found in a few steps.
Words that share their first token cannot be told apart.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.episode import Demonstrations, Episode, Query, Tokens
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Hook, Host, frozen
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention
from iclgd_lens.readout.reader import Reader

_CORRECTIONS = 8
_STEPS = 16
"""Steps at most towards what words of different lengths have in common."""


class LabelDirections:
    """Moves logits of some tokens by given amounts, at the end of the residual stream.

    Args:
        host: The model.
        tokens: The tokens whose logits are moved.
    """

    def __init__(self, host: Host, tokens: Sequence[int]) -> None:
        self.host, self.tokens = host, list(tokens)
        with frozen(host.model), torch.no_grad():
            self.bias, self.gain, self.centred, self.fixed = _norm_of(host)
        columns = _columns(host, self.tokens)
        self.linear = host.unembedding() is not None
        directions = self.gain * (columns - columns.mean(0)).double()
        if self.centred:
            directions = directions - directions.mean(-1, keepdim=True)
        self._inverse = torch.linalg.pinv(directions)  # d_model token
        _, sizes, rows = torch.linalg.svd(directions, full_matrices=False)
        self._span = rows[sizes > 1e-9 * sizes.max()]  # rank d_model

    def logits(self, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row token"]:
        """Their logits."""
        return self.host.logits(residual[:, None])[:, 0, self.tokens].float()

    def log_p(self, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row token"]:
        """Their log-probabilities, in nats."""
        logits = self.host.logits(residual[:, None])[:, 0].float()
        return logits.log_softmax(-1)[:, self.tokens]

    def moved(
        self, residual: Float[Tensor, "row d_model"], shift: Float[Tensor, "row token"]
    ) -> Float[Tensor, "row d_model"]:
        """The stream at which the logits are higher by `shift`, up to a constant per row.

        Rows whose shift is one constant are returned as they are.
        """
        wanted = shift.double() - shift.double().mean(-1, keepdim=True)
        still = (shift == shift[:, :1]).all(-1, keepdim=True)
        asked, found = wanted, self._moved(residual, wanted)
        if not self.linear:
            before = self.logits(residual)
            for _ in range(_CORRECTIONS):
                change = (self.logits(found) - before).double()
                asked = asked + wanted - (change - change.mean(-1, keepdim=True))
                found = self._moved(residual, asked)
        return torch.where(still, residual, found)

    def _moved(self, residual: Tensor, wanted: Tensor) -> Tensor:
        x = residual.double()
        mean = x.mean(-1, keepdim=True) if self.centred else torch.zeros_like(x[:, :1])
        c = x - mean
        scaled = self.gain * c
        normed = self.host.final_norm(residual[:, None])[:, 0].double() - self.bias
        divisor = (scaled * scaled).sum(-1) / (normed * scaled).sum(-1)
        change = divisor[:, None] * (wanted @ self._inverse.T)
        inside = c @ self._span.T @ self._span
        outside, inside = c - inside, inside + change
        if not self.fixed:
            left = c.square().sum(-1) - inside.square().sum(-1)
            length = outside.square().sum(-1)
            outside = (left.clamp(min=0) / length).sqrt()[:, None] * outside
            too_long = (c.norm(dim=-1) / inside.norm(dim=-1)).clamp(max=1)
            inside = torch.where(left > 0, 1.0, too_long)[:, None] * inside
        return (mean + inside + outside).to(residual.dtype)


def _norm_of(host: Host) -> tuple[Tensor, Tensor, bool, bool]:
    """The final norm's bias and gain, whether it centres, and whether its divisor is fixed."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(2, host.d_model, generator=generator, dtype=torch.float64)
    signs = torch.where(drawn[0] < 0.5, -1.0, 1.0)
    probe = (10 * signs * (1 + drawn[1])).to(host.device)

    def norm(value: Tensor) -> Tensor:
        return host.final_norm(value.to(host.dtype)[None, None])[0, 0].double()

    bias, once, twice = norm(0 * probe), norm(probe), norm(2 * probe)
    size = float((once - bias).abs().max())
    fixed = bool((twice - bias - 2 * (once - bias)).abs().max() < 0.1 * size)
    centred = bool((norm(probe + 10) - once).abs().max() < 0.05 * size)
    c = probe - probe.mean() if centred else probe
    gain = (once - bias) / c
    if not fixed:
        gain = gain * c.square().mean().sqrt()
    return bias, gain, centred, fixed


def _columns(host: Host, tokens: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """Columns of the unembedding, in fp32."""
    linear = host.unembedding()
    if linear is not None:
        return linear[0][:, list(tokens)].detach().T.float()
    with torch.inference_mode(False), torch.enable_grad(), frozen(host.model):
        point = torch.zeros(1, 1, host.d_model, device=host.device, dtype=host.dtype)
        logits = host.unembed(point.requires_grad_(True))[0, 0].float()
        found = [torch.autograd.grad(logits[token], point, retain_graph=True) for token in tokens]
    return torch.stack([gradient[0, 0].float() for (gradient,) in found])


class LabelPredictor(Intervention):
    """Gives the model's label words the scores of a rule.

    Args:
        host: The model.
        shown: The demonstrations that the rule learned from.
        words: The label words.
        points: Hook points whose values at the readout token the rule reads.
    """

    def __init__(
        self, host: Host, shown: Demonstrations, words: tuple[Tokens, ...], points: Sequence[str]
    ) -> None:
        self.shown, self.words, self.points = shown, words, list(points)
        self.directions = LabelDirections(host, [word[0] for word in words])
        self._lengths = torch.tensor([float(len(word)) for word in words], device=host.device)

    def before(self, host: Host, batch: Batch) -> Tensor | None:
        """What the rule reads of the rows in its own passes, before the pass; None for nothing."""
        return None

    @abstractmethod
    def shift(
        self,
        scores: Float[Tensor, "row label"],
        features: dict[str, Tensor],
        before: Tensor | None,
    ) -> Float[Tensor, "row label"]:
        """By how much each label word's score changes.

        Args:
            scores: Label scores of ZS, up to a constant per row.
            features: What passed at `points`, in fp32.
            before: What `before` returned.
        """

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """Read the features, then move the stream where the label is predicted."""
        if not batch.reads:
            return []
        features: dict[str, Tensor] = {}
        before = self.before(host, batch)
        scores = None if bool((self._lengths == 1).all()) else self._scores(host, batch)
        move = partial(self._move, batch.at_prediction(), features, before, scores)
        hooks: list[Hook] = [(p, partial(_keep, features, p, batch)) for p in self.points]
        return [*hooks, (host.block_output_hook(host.n_layers - 1), move)]

    def _move(
        self,
        batch: Batch,
        features: dict[str, Tensor],
        before: Tensor | None,
        scores: Tensor | None,
        activation: Tensor,
        hook: Any,
    ) -> Tensor:
        residual = batch.at_readout(activation)
        if scores is None:
            scores = self.directions.logits(residual)
        return batch.put(activation, self._moved(residual, self.shift(scores, features, before)))

    def _moved(
        self, residual: Float[Tensor, "row d_model"], shift: Float[Tensor, "row label"]
    ) -> Float[Tensor, "row d_model"]:
        """The stream at which each word's mean log-probability is higher by its shift."""
        n, directions = self._lengths, self.directions
        if bool((n == n[0]).all()):  # what all words have in common is one number, whatever it is
            return directions.moved(residual, shift * n)
        shift = shift - shift.mean(-1, keepdim=True)
        before = directions.log_p(residual)
        found = directions.moved(residual, n * shift)
        for _ in range(_STEPS):
            # What the softmax takes from every first token weighs more in shorter words.
            taken = directions.log_p(found) - before - n * shift
            common = taken.mean(-1, keepdim=True)
            if float(common.abs().max()) < 1e-6:
                break
            shift = shift + common / n.mean()
            found = directions.moved(residual, n * shift)
        return found

    def _scores(self, host: Host, batch: Batch) -> Float[Tensor, "row label"]:
        """Label scores of words of several tokens, whose later tokens are read one by one."""
        contents = contents_of(batch, self.shown.bos is not None)
        nothing = dataclasses.replace(self.shown, examples=(), drawn=())
        episode = Episode(nothing, tuple(Query(row, 0) for row in contents), self.words)
        return Reader(host, episode).zs().label_scores


def contents_of(batch: Batch, bos: bool) -> list[Tokens]:
    """Each row's tokens up to the one where its label is predicted, without BOS.

    Raises:
        HypothesisError: The rows' tokens are not given.
    """
    if batch.tokens is None:
        raise HypothesisError(
            "This predictor needs the rows' tokens beforehand; readouts and compare() give them."
        )
    where = batch.at_prediction().readout
    ends = [batch.tokens.shape[1]] * len(batch.tokens) if where is None else (where + 1).tolist()
    rows = batch.tokens.tolist()
    return [tuple(row[int(bos) : end]) for row, end in zip(rows, ends, strict=True)]


def _keep(into: dict[str, Tensor], name: str, batch: Batch, activation: Tensor, hook: Any) -> None:
    into[name] = batch.at_readout(activation).float()


def towards(
    probabilities: Float[Tensor, "row label"],
    scores: Float[Tensor, "row label"],
    floor: float,
    strength: float,
) -> Float[Tensor, "row label"]:
    """The shift that turns label scores into given probabilities, times `strength`.

    `floor` of the probability is shared out equally first, so that none is 0.
    """
    spread = (1 - floor) * probabilities + floor / probabilities.shape[-1]
    return strength * (spread.log() - scores)


def votes(
    weights: Float[Tensor, "row demonstration"], gold: Sequence[int], labels: int
) -> Float[Tensor, "row label"]:
    """Share of the weights that each label's demonstrations have; equal shares where all are 0."""
    own = torch.nn.functional.one_hot(torch.tensor(list(gold)), labels)
    total = weights.sum(-1, keepdim=True)
    weights = torch.where(total > 0, weights, 1.0)
    return (weights / weights.sum(-1, keepdim=True)) @ own.to(weights)
