"""A hypothesis of one's own: demonstrations shift every head's output by a constant.

    python examples/new_hypothesis.py [MODEL] [TASK]

"Constant shift" says that in-context learning adds to each head the same vector, whatever the query
is. The vector is measured on the demonstrations alone: how much each head's output at the end of an
example differs between the example in the prompt and the example by itself. It has no learning rate
and changes no weight, so it is an `Intervention` of its own kind. Registered, it is compared, and
held against controls, like the built-in ones.
"""

import sys
from functools import partial

import torch
from rich.console import Console

import iclgd_lens as lens


class Shift(lens.Intervention):
    """Adds one vector a layer and head to the heads' outputs at the last token."""

    def __init__(self, shifts):
        self.shifts = shifts  # [layer head d_head]

    def hooks(self, host):
        return [
            (host.z_hook(layer), partial(add_last, own)) for layer, own in enumerate(self.shifts)
        ]


def add_last(shift, activation, hook):
    shifted = activation.clone()  # [batch pos head d_head]
    shifted[:, -1] += shift.to(activation.dtype)
    return shifted


@lens.hypothesis("constant_shift", description="every head's mean change on the demonstrations")
def constant_shift(host, episode, *, strength=1.0):
    """Return the shift: `strength` times the mean change over all demonstrations but the first."""
    shown = episode.demonstrations
    head = () if shown.bos is None else (shown.bos,)
    ends, start = [], len(head)  # where each example's content ends in the prompt
    for example in shown.examples:
        ends.append(start + len(example.content) - 1)
        start += len(example.tokens) + len(shown.separator)
    together = outputs(host, shown.prompt())[:, ends]
    alone = [outputs(host, head + example.content)[:, -1] for example in shown.examples]
    change = together - torch.stack(alone, dim=1)  # [layer example head d_head]
    return Shift(strength * change[:, 1:].mean(1))


def outputs(host, tokens):
    """Every head's output at every token: [layer pos head d_head]."""
    found = [None] * host.n_layers

    def keep(layer, activation, hook):
        found[layer] = activation[0].float()

    hooks = [(host.z_hook(layer), partial(keep, layer)) for layer in range(host.n_layers)]
    with torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor(tokens))
    return torch.stack(found)


def main(model_name="embedded", task="sst2"):
    model = lens.load_model(model_name)
    episode = lens.load_episode(task, model, shots=16, queries=32, data="embedded")
    result = lens.compare(
        model, episode, ["gd", "lcgd", "constant_shift"], lr=0.1,
        controls=["random", "shuffled", "untrained", "oracle"],
    )  # fmt: skip
    Console(width=150).print(result.table())


if __name__ == "__main__":
    main(*sys.argv[1:])
