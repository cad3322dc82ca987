"""Learning tests that take seconds and cannot pass by luck: the right answer is known."""

import gymnasium
import numpy as np
import pytest

from minddpg import Config, networks, train


class OneStep(gymnasium.Env):
    """The best action is half the observation; an episode is one step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1, 1, 1)
        return self.obs, {}

    def step(self, action):
        reward = -((action[0] - 0.5 * self.obs[0]) ** 2)
        return self.obs, reward, True, False, {}


def test_a_known_optimal_policy_is_learned():
    config = Config(
        steps=6000, hidden_sizes=(32, 32), batch_size=64, learning_starts=2000, actor_lr=3e-4, critic_lr=1e-3,
        tau=0.05, noise_std=0.2,
    )  # fmt: skip
    agent = train(OneStep, config, seed=0).agent
    obs = np.linspace(-0.9, 0.9, 19)[:, None]
    error = np.abs(agent.act(obs) - 0.5 * obs)
    assert error.mean() < 0.05
    assert error.max() < 0.1


class OneState(gymnasium.Env):
    """One state, reward 1 for anything. Ends after `length` steps, by termination or by a time limit."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, length, terminates):
        self.length, self.terminates = length, terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.length
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        over = self.left == 0
        return np.ones(1, np.float32), 1, over and self.terminates, over and not self.terminates, {}


@pytest.mark.parametrize(("length", "terminates", "value"), [(3, False, 1 / (1 - 0.8)), (1, True, 1.0)])
def test_a_time_limit_does_not_end_the_value(length, terminates, value):
    """Truncated and never terminated: Q = r / (1 - gamma). Terminated at once: Q = r."""
    config = Config(
        steps=2500, hidden_sizes=(16,), batch_size=16, learning_starts=50, gamma=0.8, tau=0.05, critic_lr=3e-3,
        noise_std=0.5,
    )  # fmt: skip
    agent = train(lambda: OneState(length, terminates), config, seed=0).agent
    act = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    q, _ = networks.critic_forward(agent.critic, np.ones((9, 1), np.float32), act)
    np.testing.assert_allclose(q, value, rtol=0.03)
