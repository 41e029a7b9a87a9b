"""The worlds restated in NumPy, in fp64: forward pass, the two rules, SimAOU. Shares no code."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Restated:
    """Attention layers from weights by TransformerLens name; scores are q.k without a scale."""

    def __init__(self, weights: Any) -> None:
        self.w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.layers = 1 + max(int(n.split(".")[1]) for n in self.w if n.startswith("blocks."))

    def block(self, layer: int, kind: str) -> Array:
        return self.w[f"blocks.{layer}.attn.{kind}"]

    def attention(self, layer: int, stream: Array, change: Array | None = None) -> list[Array]:
        """Output of the block [pos d_model], and each head's pattern [head pos pos]."""
        heads = len(self.block(layer, "W_Q"))
        group = heads // len(self.block(layer, "W_K"))
        total = np.tile(self.block(layer, "b_O"), (len(stream), 1))
        patterns: list[Array] = []
        for head in range(heads):
            shared = head // group
            values = self.block(layer, "W_V")[shared]
            if change is not None and layer == 1:
                values = values + change[shared]
            q, k = (
                stream @ self.block(layer, "W_Q")[head],
                stream @ self.block(layer, "W_K")[shared],
            )
            scores = q @ k.T
            scores[np.triu_indices(len(stream), 1)] = -np.inf
            scores = np.exp(scores - scores.max(1, keepdims=True))
            pattern = scores / scores.sum(1, keepdims=True)
            z = pattern @ (stream @ values + self.block(layer, "b_V")[shared])
            total = total + z @ self.block(layer, "W_O")[head]
            patterns.append(pattern)
        return [total, np.stack(patterns)]

    def run(self, tokens: Any, change: Array | None = None) -> tuple[list[Array], list[Array]]:
        """Streams after each layer (embeddings first), and each block's output."""
        tokens = list(tokens)
        streams = [self.w["embed.W_E"][tokens] + self.w["pos_embed.W_pos"][: len(tokens)]]
        outputs: list[Array] = []
        for layer in range(self.layers):
            output, _ = self.attention(layer, streams[-1], change)
            outputs.append(output)
            streams.append(streams[-1] + output)
        return streams, outputs

    def outputs(self, prompt: Any, queries: Any, change: Array | None = None) -> Array:
        """Attention outputs at the last token of each query: [query layer d_model]."""
        rows = [self.run([*prompt, *query], change)[1] for query in queries]
        return np.stack([[output[-1] for output in row] for row in rows])

    def label_logits(self, prompt: Any, queries: Any, labels: Any) -> Array:
        """Centred logits of the label words: [query label]."""
        last = np.stack([self.run([*prompt, *query])[0][-1][-1] for query in queries])
        logits = last @ self.w["unembed.W_U"][:, list(labels)]
        return logits - logits.mean(1, keepdims=True)

    def gradient(self, rule: str, sequence: Any, change: Array) -> Array:
        """Of the label's negative log-likelihood, by layer 1's W_V: [head d_model d_head].

        At the content token; what reaches layer 1 through layer 2's own values and, as layer 2
        reads scores from positions alone, through nothing else that W_O writes.
        """
        streams, _ = self.run(sequence[:-1], change)
        readout = streams[2] if rule == "lcgd" else streams[-1]
        logits = readout[-1] @ self.w["unembed.W_U"]
        p = np.exp(logits - logits.max())
        p /= p.sum()
        p[sequence[-1]] -= 1
        g = self.w["unembed.W_U"] @ p
        if rule == "gd" and self.layers == 3:
            _, pattern = self.attention(2, streams[2])
            through = self.block(2, "W_V")[0] @ (self.block(2, "W_O")[0] @ g)
            g = g + pattern[0][-1, -1] * through
        _, patterns = self.attention(1, streams[1], change)
        heads = len(patterns)
        shared = len(self.block(1, "W_V"))
        found = np.zeros_like(self.block(1, "W_V"))
        for head in range(heads):
            mixed = patterns[head][-1] @ streams[1]
            found[head * shared // heads] += np.outer(mixed, self.block(1, "W_O")[head] @ g)
        return found

    def learn(self, rule: str, sequences: Any, lr: float, batch: int) -> Array:
        """What steps on batches of sequences add to layer 1's W_V, each step on the mean loss."""
        change = np.zeros_like(self.block(1, "W_V"))
        for start in range(0, len(sequences), batch):
            some = sequences[start : start + batch]
            change = change - lr / len(some) * sum(self.gradient(rule, s, change) for s in some)
        return change


def sim_aou(zs: Array, icl: Array, ft: Array) -> Array:
    """Cosine of the changes of direction: [query layer]; NaN where one is zero."""
    a, b, c = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (zs, icl, ft))
    with np.errstate(invalid="ignore", divide="ignore"):
        dot = ((b - a) * (c - a)).sum(-1)
        return dot / np.linalg.norm(b - a, axis=-1) / np.linalg.norm(c - a, axis=-1)


def counts(episode: Any) -> Array:
    """How often each query's word is shown with each label: [query label]."""
    found = np.zeros((len(episode.queries), episode.n_labels))
    for row, query in enumerate(episode.queries):
        for example in episode.demonstrations.examples:
            if example.content == query.content:
                found[row, example.gold] += 1
    return found


def cosine(a: Array, b: Array) -> Array:
    """Cosine of the rows."""
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def centre(rows: Array) -> Array:
    """Rows without their mean."""
    return rows - rows.mean(-1, keepdims=True)
