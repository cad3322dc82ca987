"""What several runs say together, after Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", NeurIPS 2021, arXiv 2108.13264 (section 4), and its code rliable.

Scores are a sequence of arrays, one per task (environment), each (..., runs): a score per run, higher is better. Axes
in front of the last one are samples, each taken for itself; the bootstrap uses them. Scores of several tasks must be on
one scale before they are averaged (normalised); the probability of improvement needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Scores = Sequence[FloatArray]

REPETITIONS = 10_000  # of a bootstrap; rliable takes 50,000 for its papers, which moves the third digit
LEVEL = 0.95


def mean(scores: Scores) -> FloatArray:
    """Mean over tasks of the means over runs.    -> (...)"""
    return np.mean([task.mean(axis=-1) for task in scores], axis=0)


def median(scores: Scores) -> FloatArray:
    """Of one task, the median over its runs; of several, the median over tasks of the means over runs.    -> (...)

    The second is what the paper calls the median. For one task it would be the mean.
    """
    if len(scores) == 1:
        return np.median(scores[0], axis=-1)
    return np.median([task.mean(axis=-1) for task in scores], axis=0)


def interquartile_mean(scores: Scores) -> FloatArray:
    """Mean of the middle half of all runs of all tasks    -> (...)

    Of n runs the n // 4 lowest and the n // 4 highest are left out, as rliable and scipy.stats.trim_mean do it.
    """
    ordered = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    n = ordered.shape[-1]
    return ordered[..., n // 4 : n - n // 4].mean(axis=-1)


def improvement(scores: Scores, others: Scores) -> FloatArray:
    """Probability that a run of `scores` beats one of `others`, averaged over tasks    -> (...)

    A tie is a half. Of each task it is Mann and Whitney's U over the number of pairs.
    """
    chances = []
    for task, other in zip(scores, others, strict=True):
        pairs = task[..., :, None] - other[..., None, :]
        chances.append(((pairs > 0) + 0.5 * (pairs == 0)).mean(axis=(-2, -1)))
    return np.mean(chances, axis=0)


def profile(scores: Scores, thresholds: FloatArray) -> FloatArray:
    """Share of all runs of all tasks that score more than each of the thresholds (t,).    -> (..., t)"""
    every = np.concatenate(scores, axis=-1)
    return np.stack([(every > threshold).mean(axis=-1) for threshold in thresholds], axis=-1)


def interval(
    statistic: Callable[..., FloatArray],
    *groups: Scores,
    level: float = LEVEL,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval of statistic(*groups) by stratified bootstrap.    -> low, high, each as the statistic is

    Stratified: the runs of each task are drawn anew, with replacement, from the runs of that task; the tasks stay. Each
    group is drawn for itself. The same scores and seed give the same interval. One run per task has none: NaN.
    """
    if any(task.shape[-1] < 2 for group in groups for task in group):
        nothing = np.full(np.shape(statistic(*groups)), np.nan)
        return nothing, nothing
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, repetitions, 1_000):  # in pieces, for the memory
        n = min(1_000, repetitions - start)
        drawn = [[task[rng.integers(len(task), size=(n, len(task)))] for task in group] for group in groups]
        found.append(statistic(*drawn))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def curve_interval(
    curves: FloatArray, level: float = LEVEL, repetitions: int = 2_000, seed: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Learning curves (runs, points)    -> interquartile mean at each point (points,), and its interval: low, high

    Whole runs are drawn, so that a curve stays one.
    """
    centre = interquartile_mean([curves.T])
    if len(curves) < 2:
        return centre, np.full_like(centre, np.nan), np.full_like(centre, np.nan)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(curves), size=(repetitions, len(curves)))
    low, high = np.empty_like(centre), np.empty_like(centre)
    for point, values in enumerate(curves.T):
        ends = [(1 - level) / 2, (1 + level) / 2]
        low[point], high[point] = np.quantile(interquartile_mean([values[draws]]), ends)
    return centre, low, high
