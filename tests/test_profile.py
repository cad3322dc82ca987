"""A profile: the same run, and times that add up."""

import time

import gymnasium
import numpy as np

from minddpg import Config, train
from minddpg.profile import PARTS, Profile

CONFIG = Config(steps=300, hidden_sizes=(8, 8), batch_size=16, learning_starts=50, critic_weight_decay=1e-2)


class Slow(gymnasium.Env):
    """An environment in which a step takes two milliseconds."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2), {}

    def step(self, action):
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass
        return self.np_random.uniform(-1, 1, 2), float(action[0]), False, False, {}


def test_a_profiled_run_learns_the_same_agent():
    profile = Profile()
    plain, profiled = train("Pendulum-v1", CONFIG, seed=3), train("Pendulum-v1", CONFIG, seed=3, profile=profile)
    for name, value in plain.agent.state_dict().items():
        np.testing.assert_array_equal(profiled.agent.state_dict()[name], value, err_msg=name)
    np.testing.assert_allclose(
        [list(row.values())[:-1] for row in profiled.history], [list(row.values())[:-1] for row in plain.history], 1e-5
    )
    assert (profile.steps, profile.updates) == (300, 250)
    assert "_update" not in vars(profiled.agent)  # the clocks are taken away again
    assert "act" not in vars(profiled.agent)


def test_the_parts_add_up_and_the_slow_one_shows():
    profile, started = Profile(), time.perf_counter()
    train(Slow, CONFIG, profile=profile)
    assert 0 < sum(profile.seconds.values()) <= time.perf_counter() - started
    assert profile.seconds["environment"] >= 0.6
    assert all(seconds > 0 for part, seconds in profile.seconds.items() if part != "diagnostics")  # none is due yet
    shares = [float(line.split("%")[0].split()[-1]) for line in str(profile).splitlines()[1 : 1 + len(PARTS)]]
    assert abs(sum(shares) - 100) < 0.5
    assert "us an update" in str(profile)


def test_an_empty_profile_prints():
    assert "environment" in str(Profile())
