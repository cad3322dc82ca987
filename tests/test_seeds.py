import numpy as np
from conftest import agent_of

from minddpg import DDPG, Config, seeds


def test_seeds():
    same, again, other = agent_of(seed=1), agent_of(seed=1), agent_of(seed=2)
    np.testing.assert_array_equal(same.actor.params, again.actor.params)
    assert not np.array_equal(same.actor.params, other.actor.params)
    np.testing.assert_array_equal(DDPG(1, 1).actor.params, DDPG(1, 1, Config(), seed=0).actor.params)
    streams = [g.random(4) for g in seeds.random_streams(0)]
    assert len({tuple(s) for s in streams}) == len(seeds.RandomStreams._fields)
