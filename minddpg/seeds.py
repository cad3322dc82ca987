"""One seed, one Generator per purpose."""

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
    warmup: np.random.Generator  # the uniform actions before the first update
    noise: np.random.Generator
    environment: np.random.Generator
    diagnosis: np.random.Generator  # which transitions are looked at; training does not depend on it


def random_streams(seed: int) -> RandomStreams:
    """Independent Generators from one seed. Evaluation has none: its starts are named by their own seeds."""
    children = np.random.SeedSequence(checked_seed(seed)).spawn(len(RandomStreams._fields))
    return RandomStreams(*(np.random.default_rng(child) for child in children))
