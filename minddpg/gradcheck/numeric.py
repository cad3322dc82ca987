"""Central differences of one array, without a verdict."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .differences import STEP, Probe, measure, refine
from .judgement import SAMPLES, Mode, choose_lines


def numeric_gradient(
    function: Callable[[], npt.ArrayLike],
    x: FloatArray,
    upstream: FloatArray,
    near: FloatArray,
    *,
    pattern: Callable[[], npt.NDArray[np.bool_]] | None = None,
    mode: Mode = "sample",
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """d sum(upstream * function()) / dx by central differences.    -> like x, NaN where not looked; told, bool

    function: reads x, float64, which is written to and put back. near: a gradient, of x's shape; differences go on
    until they agree with it or no step agrees better. pattern, mode, samples, seed: see check_gradient. told: looked
    at, and no branch changes within the step.
    """
    branches = None if pattern is None else lambda _: pattern()
    probe = Probe(lambda _: function(), {"x": x}, upstream, branches)
    lines = choose_lines(near, mode, samples, 0, np.random.default_rng(seed))
    look = partial(measure, probe, "x", lines)
    first = look(np.arange(len(lines.numbers)), STEP)
    estimates, _ = refine(look, first, near.ravel()[lines.numbers], 1e-12)
    numeric, told = np.full(x.shape, np.nan), np.zeros(x.shape, bool)
    numeric.ravel()[lines.numbers], told.ravel()[lines.numbers] = estimates, ~first.kinked
    return numeric, told
