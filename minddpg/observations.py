"""Observation normalisation: the mean and the spread of what has been stored, and observations in their units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .fast.jit import FloatArray
from .replay import ShapeError, is_finite

TINY = 1e-8  # added to the variance: an observation that never changes is 0
MOST = 10.0  # what is farther than so many standard deviations from the mean is brought back to there


class Statistics(NamedTuple):
    """Of all observations stored so far: their number (1,), their mean and the sum of squared distances from it
    (obs_dim,), all in float64.
    """

    number: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    m2: npt.NDArray[np.float64]


def new_statistics(obs_dim: int) -> Statistics:
    """Of nothing."""
    return Statistics(np.zeros(1), np.zeros(obs_dim), np.zeros(obs_dim))


def learn(statistics: Statistics, obs: npt.ArrayLike) -> None:
    """Take in one observation (obs_dim,), in place. Welford 1962: no sum of squares, which would cancel.

    Raises ShapeError, before anything is written, where its square is more than a number can hold.
    """
    number, wide = statistics.number[0] + 1, np.asarray(obs, np.float64)
    off = wide - statistics.mean
    mean = statistics.mean + off / number
    with np.errstate(over="ignore"):
        m2 = statistics.m2 + off * (wide - mean)
    if not is_finite(m2):
        raise ShapeError(
            f"an observation of {float(np.abs(wide).max()):.2g} is too large to be normalised; scale it down"
        )
    statistics.number[0], statistics.mean[:], statistics.m2[:] = number, mean, m2


def centre_and_scale(statistics: Statistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """mean and 1 / sqrt(variance + TINY), (obs_dim,) each; 0 and 1 before there are two observations."""
    if statistics.number[0] < 2:
        return np.zeros_like(statistics.mean), np.ones_like(statistics.m2)
    return statistics.mean.copy(), 1 / np.sqrt(statistics.m2 / statistics.number[0] + TINY)


def normalised(statistics: Statistics, obs: FloatArray) -> FloatArray:
    """(obs - mean) / spread, within [-MOST, MOST], in the dtype of obs (N, obs_dim). Computed in float64."""
    mean, scale = centre_and_scale(statistics)
    return np.clip((obs - mean) * scale, -MOST, MOST).astype(obs.dtype)
