"""A hypothesis of one's own: demonstrations shift every head's output by a constant.

    python examples/new_hypothesis.py [MODEL] [TASK]

"Mean shift" says that in-context learning adds to each head the same vector, whatever the query is.
The vector is measured on the demonstrations alone: how much each head's output at the end of an
example differs between the example after the others and the example by itself. It has no learning
rate and changes no weight, so it is an `Intervention` of its own kind. Registered, it is compared,
and held against controls, like the built-in ones. (`constant_shift` is built in, much the same.)
"""

import sys
from functools import partial

from rich.console import Console

import iclgd_lens as lens
from iclgd_lens.contexts import Contexts


class AddToHeads(lens.Intervention):
    """Adds one vector a layer and head to the heads' outputs at the readout token."""

    def __init__(self, shifts):
        self.shifts = shifts  # by hook point: [head d_head]

    def hooks(self, host, batch):
        # Queries are read together, so the last position need not be a query's own: ask `batch`.
        return [(name, partial(add, batch, shift)) for name, shift in self.shifts.items()]


def add(batch, shift, activation, hook):
    return batch.add(activation, shift)


@lens.hypothesis(
    "mean_shift",
    description="every head's mean change on the demonstrations",
    kind="fitted",  # to in-context learning's own passes: a high score is no evidence
)
def mean_shift(host, episode, *, strength=1.0):
    """Return the shift: `strength` times the mean change over the demonstrations."""
    contexts = Contexts(host, episode, "mean_shift")
    names = [host.z_hook(layer) for layer in range(host.n_layers)]
    after, alone = contexts.after_others(names).values, contexts.alone(names).values
    return AddToHeads({name: strength * (after[name] - alone[name]).mean(0) for name in names})


def main(model_name="embedded", task="sst2"):
    model = lens.load_model(model_name)
    episode = lens.load_episode(task, model, shots=12, queries=16, data="embedded")
    result = lens.compare(
        model, episode, ["gd", "lcgd", "mean_shift"], lr=0.1,
        controls=["random", "shuffled", "untrained", "oracle"], twins=2,
    )  # fmt: skip
    Console(width=150).print(result.table())


if __name__ == "__main__":
    main(*sys.argv[1:])
