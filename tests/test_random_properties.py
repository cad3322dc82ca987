"""What random numbers must be like: noise, uniform actions and draws, over components, lags, streams and time.

By their statistics alone, so that a generator may be used otherwise than today. Bounds are six standard errors.
"""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpg import DDPG, Config, ReplayBuffer
from minddpg.environment import make_environments
from minddpg.noise import GaussianNoise, OrnsteinUhlenbeckNoise, new_noise
from minddpg.seeds import random_streams
from minddpg.training import Run

N = 6_000
ROOM = 6 / np.sqrt(N)


def assert_independent(rows, std, lags=(1, 2, 7)):
    """Rows (N, components): mean 0, this std, no correlation between components or over time."""
    assert np.abs(rows.mean(axis=0)).max() < ROOM * std
    np.testing.assert_allclose(rows.std(axis=0), std, rtol=ROOM)
    scaled = rows / std
    for lag in (0, *lags):
        products = scaled[: len(rows) - lag].T @ scaled[lag:] / (len(rows) - lag)
        np.testing.assert_allclose(products, np.eye(rows.shape[1]) if lag == 0 else 0, atol=1.5 * ROOM)


def quantiles_of_normal(values):
    """Shares within one, two and three standard deviations."""
    return [float(np.mean(np.abs(values) < k)) for k in (1, 2, 3)]


@pytest.mark.parametrize("std", [0.1, 0.7])
@pytest.mark.parametrize("act_dim", [1, 3])
def test_gaussian_noise_over_components_and_lags(act_dim, std):
    noise = GaussianNoise(act_dim, std, np.random.default_rng(1))
    rows = np.array([noise.sample() for _ in range(N)])
    assert_independent(rows, std)
    np.testing.assert_allclose(quantiles_of_normal(rows / std), [0.6827, 0.9545, 0.9973], atol=0.03)


@pytest.mark.parametrize("theta", [0.01, 0.05, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("act_dim", [1, 3])
def test_ornstein_uhlenbeck_noise_over_components_and_lags(act_dim, theta):
    """What is left of a push after one step is 1 - theta; what comes anew is independent, of every component."""
    noise = new_noise(Config(noise="ou", noise_std=0.3, noise_theta=theta), act_dim, np.random.default_rng(2))
    rows = np.array([np.zeros(act_dim), *(noise.sample() for _ in range(N))])
    assert_independent(rows[1:] - (1 - theta) * rows[:-1], 0.3)
    kept = np.sum(rows[1:] * rows[:-1], axis=0) / np.sum(rows[:-1] ** 2, axis=0)
    np.testing.assert_allclose(kept, 1 - theta, atol=6 * np.sqrt((1 - (1 - theta) ** 2) / N))
    if theta >= 0.15:  # slower ones settle too late for so few
        settled = rows[200:]
        np.testing.assert_allclose(settled.std(axis=0), 0.3 / np.sqrt(theta * (2 - theta)), rtol=0.2)
        for lag in (1, 3):
            autocovariance = np.mean(settled[lag:] * settled[:-lag]) / np.mean(settled**2)
            assert autocovariance == pytest.approx((1 - theta) ** lag, abs=0.1)


@settings(max_examples=20)
@given(samples=st.lists(st.integers(0, 5), min_size=1, max_size=6), theta=st.floats(0, 1), act_dim=st.integers(1, 3))
def test_every_reset_forgets(samples, theta, act_dim):
    """The first sample after a reset is what a new noise would give; what was sampled stays as it was."""
    noise = OrnsteinUhlenbeckNoise(act_dim, 0.3, np.random.default_rng(3), theta)
    for count in samples:
        kept = [(row, row.copy()) for row in (noise.sample() for _ in range(count))]
        noise.reset()
        new = OrnsteinUhlenbeckNoise(act_dim, 0.3, np.random.default_rng(0), theta)
        new.rng.bit_generator.state = noise.rng.bit_generator.state
        np.testing.assert_array_equal(noise.sample(), new.sample())
        assert all(np.array_equal(row, copy) for row, copy in kept)
        noise.reset()


@pytest.mark.parametrize("kind", ["gaussian", "ou"])
def test_a_noise_goes_on_from_its_state(kind):
    noise, other = (new_noise(Config(noise=kind), 2, np.random.default_rng(seed)) for seed in (4, 5))
    for _ in range(3):
        noise.sample()
    other.restore({name: np.array(value) for name, value in noise.state().items()})
    other.rng.bit_generator.state = noise.rng.bit_generator.state
    for _ in range(3):
        np.testing.assert_array_equal(noise.sample(), other.sample())


class Still(gymnasium.Env):
    """An action of three components; nothing happens."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (3,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_uniform_actions_over_components_environments_and_time():
    config = Config(steps=4001, learning_starts=4000, hidden_sizes=(), num_envs=2, batch_size=1, dtype="float64")
    run = Run(make_environments(Still, "float64", 2), config, seed=6)
    while run.steps < 4000:
        run.step()
    acts = run.replay.spread(4000).act.reshape(2000, 6)
    assert np.abs(acts).max() <= 1
    assert np.abs(acts).max() > 0.99
    scaled = acts * np.sqrt(3)
    room = 6 / np.sqrt(len(acts))
    for lag in (0, 1, 2):
        products = scaled[: len(acts) - lag].T @ scaled[lag:] / (len(acts) - lag)
        np.testing.assert_allclose(products, np.eye(6) if lag == 0 else 0, atol=room)
    np.testing.assert_allclose(np.mean(acts < -0.5, axis=0), 0.25, atol=room / 2)
    np.testing.assert_allclose(np.mean(acts < 0.5, axis=0), 0.75, atol=room / 2)


def test_noise_of_each_environment_is_its_own():
    """An actor that gives 0 everywhere: the actions are the noise."""
    config = Config(steps=4001, learning_starts=0, hidden_sizes=(), num_envs=2, batch_size=1, dtype="float64",
                    noise_std=0.1, update_every=10_000)  # fmt: skip
    run = Run(make_environments(Still, "float64", 2), config, seed=7)
    run.agent.load_state_dict({k: np.zeros_like(v) for k, v in run.agent.state_dict().items()})
    while run.steps < 4000:
        run.step()
    acts = run.replay.spread(4000).act.reshape(2000, 6) / 0.1
    for lag in (0, 1):
        products = acts[: len(acts) - lag].T @ acts[lag:] / (len(acts) - lag)
        np.testing.assert_allclose(products, np.eye(6) if lag == 0 else 0, atol=7 / np.sqrt(len(acts)))


def ring_of(capacity, added):
    """Every transition holds its number."""
    replay = ReplayBuffer(capacity, 1, 1, "float64")
    for i in range(added):
        replay.add([i], [i], i, [i], False)
    return replay


def chi_square(values, expected):
    """The statistic, less its mean, in standard deviations."""
    counts = np.array([np.sum(values == value) for value in expected])
    assert counts.sum() == len(values), "only what is held"
    mean = len(values) / len(expected)
    return (np.sum((counts - mean) ** 2) / mean - (len(expected) - 1)) / np.sqrt(2 * max(1, len(expected) - 1))


@pytest.mark.parametrize(("capacity", "added"), [(10, 1), (10, 2), (10, 9), (10, 10), (10, 11), (10, 19), (10, 25)])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_draws_are_uniform_over_all_that_is_held(capacity, added, batch_size):
    """The oldest and the newest too, with replacement, in every place of a batch, which may be larger than that."""
    replay, rng = ring_of(capacity, added), np.random.default_rng(8)
    held = range(max(0, added - capacity), added)
    batches = np.array([replay.sample(batch_size, rng).rew for _ in range(3_000 // batch_size + 60)])
    assert batches.shape[1] == batch_size
    assert chi_square(batches.ravel(), held) < 6
    if len(held) > 1:  # one draw says nothing of the next, nor of the next batch's
        one, other = batches.ravel()[:-1], batches.ravel()[1:]
        assert np.mean(one == other) == pytest.approx(1 / len(held), abs=6 / np.sqrt(len(one)))
        assert abs(np.corrcoef(one, other)[0, 1]) < 6 / np.sqrt(len(one))
        same_place = np.mean(batches[1:] == batches[:-1])
        assert same_place == pytest.approx(1 / len(held), abs=6 / np.sqrt(batches[1:].size))


def test_updates_draw_whole_batches_from_all_that_is_held():
    """Seen by the losses of a critic that cannot learn: a mean of q over batch_size draws has so much spread."""
    replay = ReplayBuffer(8, 1, 1, "float64")
    for i in range(11):
        replay.add([float(i)], [0.0], 0.0, [0.0], True)
    for batch_size in (4, 64):
        config = Config(hidden_sizes=(), batch_size=batch_size, dtype="float64", actor_lr=1e-300, critic_lr=1e-300)
        agent, rng = DDPG(1, 1, config), np.random.default_rng(9)
        state = {name: np.zeros_like(value) for name, value in agent.state_dict().items()}
        agent.load_state_dict({**state, "critic.0.weight": np.array([[1.0], [0.0]])})  # Q(s, a) = s
        means = np.array([agent.update_from(replay, rng).q_mean for _ in range(150)])
        held = np.arange(3, 11)
        error = held.std() / np.sqrt(batch_size)
        assert means.mean() == pytest.approx(held.mean(), abs=6 * error / np.sqrt(len(means)))
        assert means.std() == pytest.approx(error, rel=0.35)
    assert agent.updates == 150


def test_streams_are_independent():
    """Of one seed, of neighbouring seeds, of environments side by side: no two give alike numbers."""
    streams = [g for seed in range(3) for i in range(3) for g in random_streams(seed, i)]
    rows = np.array([g.standard_normal(2_000) for g in streams])
    correlations = rows @ rows.T / rows.shape[1]
    np.testing.assert_allclose(correlations, np.eye(len(rows)), atol=7 / np.sqrt(rows.shape[1]))
    again = [g for seed in range(3) for i in range(3) for g in random_streams(seed, i)]
    np.testing.assert_array_equal(rows, [g.standard_normal(2_000) for g in again])
    assert len({g.bit_generator.state["state"]["state"] for g in again}) == len(streams)
