"""Exploration noise, in units of actions in [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

from .config import Config
from .fast.jit import FloatArray


class GaussianNoise:
    """Independent at every step: N(0, std^2) per action component."""

    def __init__(self, act_dim: int, std: float, rng: np.random.Generator):
        self.act_dim, self.std, self.rng = act_dim, std, rng

    def reset(self) -> None:
        """Nothing to forget: there is no state."""

    def sample(self) -> FloatArray:
        """The noise of one step, (act_dim,)."""
        return self.std * self.rng.standard_normal(self.act_dim)

    def state(self) -> dict[str, Any]:
        """What it needs to go on, besides its Generator: nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class OrnsteinUhlenbeckNoise:
    """Noise with a memory: x <- x - theta x + std N(0, 1), so that a push lasts about 1/theta steps.

    Lillicrap et al., section 7, with a time step of 1. The spread it settles at is std / sqrt(theta (2 - theta)), 1.9
    times std for theta = 0.15.
    """

    def __init__(self, act_dim: int, std: float, rng: np.random.Generator, theta: float = 0.15):
        self.std, self.theta, self.rng = std, theta, rng
        self.x = np.zeros(act_dim)

    def reset(self) -> None:
        """Forget the last push; called at the start of every episode."""
        self.x = np.zeros_like(self.x)

    def sample(self) -> FloatArray:
        """The noise of one step, (act_dim,)."""
        self.x = self.x - self.theta * self.x + self.std * self.rng.standard_normal(len(self.x))
        return self.x

    def state(self) -> dict[str, Any]:
        """What it needs to go on, besides its Generator: the last push."""
        return {"x": self.x}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.x = np.array(state["x"], np.float64).reshape(self.x.shape)


def new_noise(config: Config, act_dim: int, rng: np.random.Generator) -> GaussianNoise | OrnsteinUhlenbeckNoise:
    """The noise that the config asks for."""
    if config.noise == "ou":
        return OrnsteinUhlenbeckNoise(act_dim, config.noise_std, rng, config.noise_theta)
    return GaussianNoise(act_dim, config.noise_std, rng)
