"""Which heads change as in-context learning changes them, and do they suffice?

    python examples/per_head.py [MODEL] [TASK]

Prints the heads with the highest SimAOU under LCGD beside the same heads under a random update of
the same norms, where the update's norm lies, and what is left of the update's effect when it acts
in the best heads alone.
"""

import sys

import torch

import iclgd_lens as lens

LEARNING_RATE = 0.1
TOP = 5


def main(model_name: str = "embedded", task: str = "sst2") -> None:
    model = lens.load_model(model_name)
    episode = lens.load_episode(task, model, shots=16, queries=32, data="embedded")
    delta = lens.lcgd(model, episode.demonstrations, lr=LEARNING_RATE)
    result = lens.compare(model, episode, ["lcgd"], lr=LEARNING_RATE, controls=["random"])

    # [query layer head], averaged over queries where the score exists.
    by_head = result.tensor("SimAOU", "lcgd", by="head").nanmean(0)
    control = result.tensor("SimAOU", "random[lcgd]", by="head").nanmean(0)
    n_heads = by_head.shape[1]
    order = by_head.nan_to_num(-1).flatten().argsort(descending=True).tolist()
    best = [(place // n_heads, place % n_heads) for place in order[:TOP]]

    # A key/value head serves `group` query heads; without grouped-query attention group is 1.
    norms = delta.norms()
    group = n_heads // len(norms["blocks.0.attn.W_V"])
    print(f"{'head':>6}{'SimAOU':>9}{'random':>9}{'|dW_K|':>9}{'|dW_V|':>9}")
    for layer, head in best:
        key, value = (
            float(norms[f"blocks.{layer}.attn.{weight}"][head // group])
            for weight in ("W_K", "W_V")
        )
        scores = float(by_head[layer, head]), float(control[layer, head])
        print(f"{f'{layer}.{head}':>6}{scores[0]:9.2f}{scores[1]:9.2f}{key:9.4f}{value:9.4f}")

    # The update in the best heads alone: a delta is data, so parts of it are selected and added.
    wanted = sorted({(layer, head // group) for layer, head in best})
    parts = [delta.select(layers=layer, heads=head) for layer, head in wanted]
    few = sum(parts[1:], start=parts[0])
    kept = lens.compare(model, episode, {"all": delta, "few": few}, controls=[])
    print(
        f"\nnorm of the update {delta.norm():.4f}, of its {len(wanted)} best heads {few.norm():.4f}"
    )
    for name in ("ZS", "ICL", "all", "few"):
        print(f"accuracy {name:>4}: {float(kept.tensor('accuracy', name, by='query').mean()):.2f}")

    # The updated model is the caller's own model with hooks, for as long as the block lasts.
    tokens = torch.tensor([[episode.demonstrations.bos, *episode.queries[0].content]])
    with torch.no_grad():
        before = model(tokens)
        with few.applied(model):
            after = model(tokens)
        assert torch.equal(model(tokens), before)
    print(f"largest change of a logit on one query: {float((after - before).abs().max()):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
