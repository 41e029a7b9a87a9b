"""Which heads change as in-context learning changes them, and do they suffice?

    python examples/per_head.py [MODEL] [TASK]

Heads are picked for the highest SimAOU under LCGD on one half of the queries, and scored on the
other half: a head that was picked for its score has too high a score. Beside them stand
the same heads of untrained twins. Then: where the update's norm lies, and what is left of its
effect when it acts in these heads alone.
"""

import sys

import torch

import iclgd_lens as lens

TOP = 5
BUDGET = {"epochs": (1, 2, 4), "losses": ("label",)}


def main(model_name: str = "embedded", task: str = "sst2") -> None:
    model = lens.load_model(model_name)
    episodes = lens.load_episodes(task, model, draws=2, shots=12, queries=32, data="embedded")
    result = lens.compare(
        model, episodes, ["lcgd"], controls=["random", "shuffled", "untrained"], twins=3,
        budget=BUDGET,
    )  # fmt: skip
    print(result.gate().sentence)
    print(*(each.sentence for each in result.behaviour()))

    best = result.top_heads("SimAOU", "lcgd", TOP, control="lcgd@untrained")
    contrast = {
        (row.layer, row.head): row.value
        for row in result.head_map("SimAOU_label", "lcgd").itertuples()
    }
    # The update on the first draw's demonstrations, at the budget that was chosen for it.
    chosen = result.provenance["hypotheses"]["lcgd"]["budget"].get("settings", {"lr": 0.1})
    delta = lens.lcgd(model, episodes[0], **chosen)
    norms = delta.norms()
    # A key/value head serves `group` query heads; without grouped-query attention group is 1.
    group = lens.Host(model).n_heads // len(norms["blocks.0.attn.W_V"])
    print(
        "\nSimAOU: on the half that picked the head, on the other half, there of untrained twins;"
    )
    print("label: the label contrast on all queries")
    print(
        f"{'head':>6}{'picked':>9}{'SimAOU':>9}{'twins':>9}{'label':>9}{'|dW_K|':>9}{'|dW_V|':>9}"
    )
    for row in best.itertuples():
        key, value = (
            float(norms[f"blocks.{row.layer}.attn.{weight}"][row.head // group])
            for weight in ("W_K", "W_V")
        )
        print(
            f"{f'{row.layer}.{row.head}':>6}{row.selected_on:9.2f}{row.value:9.2f}"
            f"{row.control:9.2f}{contrast[row.layer, row.head]:9.2f}{key:9.4f}{value:9.4f}"
        )

    # The update in these heads alone: a delta is data, so parts of it are selected and added.
    wanted = sorted({(row.layer, row.head // group) for row in best.itertuples()})
    parts = [delta.select(layers=layer, heads=head) for layer, head in wanted]
    few = sum(parts[1:], start=parts[0])
    kept = lens.compare(model, episodes[0], {"all": delta, "few": few}, controls=[])
    print(f"\nnorm of the update {delta.norm():.4f}, of its {len(wanted)} heads {few.norm():.4f}")
    frame = kept.frame().set_index(["score", "hypothesis"])["value"]
    for name in ("ZS", "ICL", "all", "few"):
        print(f"AUC {name:>4}: {frame['AUC'][name]:.2f}")

    # The updated model is the caller's own model with hooks, for as long as the block lasts.
    shown, query = episodes[0].demonstrations, episodes[0].queries[0]
    tokens = torch.tensor([[shown.bos, *query.content]])
    with torch.no_grad():
        before = model(tokens)
        with few.applied(model):
            after = model(tokens)
        assert torch.equal(model(tokens), before)
    print(f"largest change of a logit on one query: {float((after - before).abs().max()):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
