"""One seed, one Generator per purpose, and a seed for each episode."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .config import ConfigError


def checked_seed(seed: int) -> int:
    """The seed as an int. Raises ConfigError for what is none."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be a whole number, 0 or more, not {seed!r}")
    return int(seed)


class RandomStreams(NamedTuple):
    """One Generator per purpose, all from one seed: using more of one does not move the others."""

    parameters: np.random.Generator
    replay: np.random.Generator
    first_actions: np.random.Generator  # the uniform actions before the first update
    noise: np.random.Generator
    diagnosis: np.random.Generator  # which transitions are looked at; training does not depend on it
    smoothing: np.random.Generator  # the noise on TD3's target actions


EPISODES, EVALUATION = 100, 101  # further purposes, which need seeds, not Generators


def random_streams(seed: int, environment: int = 0) -> RandomStreams:
    """Independent Generators from one seed; `environment`: of several side by side, each has its own."""
    root = np.random.SeedSequence(checked_seed(seed), spawn_key=(environment,) if environment else ())
    return RandomStreams(*(np.random.default_rng(child) for child in root.spawn(len(RandomStreams._fields))))


def episode_seed(seed: int, environment: int, number: int) -> int:
    """For reset(seed=...) of the number-th episode of an environment: a run can go on from any of them."""
    return _seed(seed, EPISODES, environment, number)


def evaluation_seed(seed: int, number: int) -> int:
    """For reset(seed=...) of the number-th episode of every evaluation: all evaluations have the same starts."""
    return _seed(seed, EVALUATION, number)


def _seed(seed: int, *purpose: int) -> int:
    return int(np.random.SeedSequence(checked_seed(seed), spawn_key=purpose).generate_state(1)[0] >> 1)
