import numpy as np
import pytest

from minddpg import Config
from minddpg.noise import GaussianNoise, OrnsteinUhlenbeckNoise, new_noise


def test_gaussian():
    noise = GaussianNoise(2, 0.3, np.random.default_rng(0))
    draws = np.array([noise.sample() for _ in range(20_000)])
    noise.reset()
    assert draws.shape == (20_000, 2)
    np.testing.assert_allclose(draws.std(axis=0), 0.3, rtol=0.03)
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.01)
    assert abs(np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]) < 0.03


def test_ornstein_uhlenbeck():
    noise = OrnsteinUhlenbeckNoise(1, 0.2, np.random.default_rng(0), theta=0.15)
    draws = np.array([noise.sample()[0] for _ in range(50_000)])
    np.testing.assert_allclose(draws.std(), 0.2 / np.sqrt(0.15 * (2 - 0.15)), rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(draws[1:], draws[:-1])[0, 1], 0.85, atol=0.02)


def test_ornstein_uhlenbeck_by_its_recurrence():
    noise, same = OrnsteinUhlenbeckNoise(2, 0.2, np.random.default_rng(5)), np.random.default_rng(5)
    first = noise.sample()
    second = noise.sample()
    np.testing.assert_allclose(first, 0.2 * same.standard_normal(2))
    np.testing.assert_allclose(second, 0.85 * first + 0.2 * same.standard_normal(2))
    noise.reset()
    np.testing.assert_allclose(noise.sample(), 0.2 * same.standard_normal(2))


@pytest.mark.parametrize(("kind", "cls"), [("gaussian", GaussianNoise), ("ou", OrnsteinUhlenbeckNoise)])
def test_the_config_chooses(kind, cls):
    noise = new_noise(Config(noise=kind, noise_std=0.7, noise_theta=0.4), 3, np.random.default_rng(0))
    assert isinstance(noise, cls)
    assert noise.std == 0.7
    assert getattr(noise, "theta", 0.4) == 0.4
    assert noise.sample().shape == (3,)
