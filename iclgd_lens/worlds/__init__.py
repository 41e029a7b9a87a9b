"""Worlds: models in which the answer is known.

    world = lens.worlds.gd_world(60)
    lens.compare(*world, world.rules, settings=world.settings, controls=())

An instrument is trusted when it reads 1 where the truth is 1 and one half where it is one half.
`World.compare` is the same comparison with fewer words, `ruler` measures every world.
"""

from iclgd_lens.worlds.instrument import Mark as Mark
from iclgd_lens.worlds.instrument import Power as Power
from iclgd_lens.worlds.instrument import power as power
from iclgd_lens.worlds.instrument import ruler as ruler
from iclgd_lens.worlds.instrument import scores_by_draw as scores_by_draw
from iclgd_lens.worlds.linear import linear_world as linear_world
from iclgd_lens.worlds.linear import linearised_world as linearised_world
from iclgd_lens.worlds.softmax import gd_world as gd_world
from iclgd_lens.worlds.softmax import heads_world as heads_world
from iclgd_lens.worlds.softmax import lcgd_world as lcgd_world
from iclgd_lens.worlds.stream_parts import rotation as rotation
from iclgd_lens.worlds.world import World as World
from iclgd_lens.worlds.world import draws as draws
