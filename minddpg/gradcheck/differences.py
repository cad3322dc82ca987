"""Finite differences along a line: the first look, and the second one where the first cannot tell.

A line is one element of one tensor, or a direction through all of its elements. Along it f is a function of t, and

    f'(0) = (f(h) - f(-h)) / 2h  +  O(h^2)  +  rounding,    |rounding| <= 4 eps |f| / h

The first look takes h = eps^(1/3) max(1, |x|), where both errors are about equal. The second look takes fifteen steps
from 1e-1 to 1e-8, extrapolates (Richardson), and keeps the estimate whose two errors together are smallest. What it
then cannot compare is called by its name:

- a kink: the slopes to the left and to the right stay apart as h shrinks (five points: -h, -h/2, 0, h/2, h);
- a wrong gradient g: the Taylor remainder |f(h) - f(-h) - 2 h g| shrinks like h^1; for a right one like h^3;
- noise: f jitters by more than rounding explains (it computes in float32 somewhere, or draws random numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import FloatArray

Inputs = dict[str, FloatArray]
Where = tuple[int, ...] | FloatArray  # an element's index, or a direction of the tensor's shape

EPS = float(np.finfo(np.float64).eps)
STEP = EPS ** (1 / 3)
STEPS = 10.0 ** -np.arange(1, 8.1, 0.5)  # of the second look
RESOLVED = 1e-3  # an error of the quotient above this share of its value leaves fewer than three digits to compare
RESOLVED_BLUR = 0.1  # the same for the error that a gradient of float32 brings along


class Probe:
    """f along lines through the inputs: sum(upstream * (function(inputs at t) - function(inputs)))."""

    def __init__(
        self,
        function: Callable[[Inputs], npt.ArrayLike],
        inputs: Inputs,
        upstream: FloatArray,
        pattern: Callable[[Inputs], npt.NDArray[np.bool_]] | None,
        batch_sizes: set[int],
    ):
        self.batch_sizes = batch_sizes  # for hints
        self.function, self.inputs, self.upstream, self.pattern = function, inputs, upstream, pattern
        self.centre = np.array(function(inputs), np.float64)
        if self.centre.shape != upstream.shape:
            raise ValueError(
                f"the function returns shape {self.centre.shape}, but upstream has shape {upstream.shape}; "
                "a function that returns an array needs an upstream gradient of that shape"
            )
        if not np.isfinite(self.centre).all():
            raise ValueError("the function returns a NaN or an infinity at the inputs")
        self.rounding = 4 * EPS * float(np.sum(np.abs(upstream * self.centre)))  # of f(h) - f(-h)
        self.branches = np.zeros(0, bool) if pattern is None else np.array(pattern(inputs))

    def step(self, name: str, where: Where) -> float:
        """The scale of a step along this line: max(1, |x|)."""
        return max(1.0, abs(float(self.inputs[name][where]))) if isinstance(where, tuple) else 1.0

    def at(self, name: str, where: Where, t: float) -> tuple[float, float, bool]:
        """-> f(t) - f(0), the t really taken, whether a branch changed on the way."""
        x = self.inputs[name]
        kept = x[where] if isinstance(where, tuple) else x.copy()
        try:
            if isinstance(where, tuple):
                x[where] = kept + t
                t = float(x[where]) - float(kept)  # x + t is rounded
            else:
                x += t * where
            value = np.asarray(self.function(self.inputs), np.float64)
            crossed = self.pattern is not None and not np.array_equal(self.pattern(self.inputs), self.branches)
        finally:
            if isinstance(where, tuple):
                x[where] = kept
            else:
                x[...] = kept
        return float(np.sum(self.upstream * (value - self.centre))), t, crossed


class Lines(NamedTuple):
    """The lines of one tensor. numbers (M,): flat indices of elements, or those of the directions (M, *shape)."""

    shape: tuple[int, ...]
    numbers: npt.NDArray[np.int64]
    directions: FloatArray | None

    def where(self, i: int) -> Where:
        """What `Probe.at` is to move."""
        return self.index_of(i) if self.directions is None else self.directions[i]

    def index_of(self, i: int) -> tuple[int, ...]:
        """The element's index, or the direction's number."""
        number = int(self.numbers[i])
        return (number,) if self.directions is not None else tuple(map(int, np.unravel_index(number, self.shape)))

    def slopes(self, gradient: FloatArray) -> FloatArray:
        """A gradient of the tensor's shape, along each line (M,)."""
        if self.directions is None:
            return gradient.reshape(-1)[self.numbers]
        return self.directions.reshape(len(self.numbers), -1) @ gradient.reshape(-1)


class Quotients(NamedTuple):
    """First looks at the lines of one tensor: (f(h) - f(-h)) / 2h, its rounding error, whether a branch changed."""

    numeric: FloatArray
    rounding: FloatArray
    kinked: npt.NDArray[np.bool_]


def first_look(probe: Probe, name: str, lines: Lines) -> Quotients:
    """Central differences along each line, (M,) each."""
    count = len(lines.numbers)
    found = Quotients(np.zeros(count), np.zeros(count), np.zeros(count, bool))
    for i in range(count):
        where = lines.where(i)
        h = STEP * probe.step(name, where)
        right, far, crossed = probe.at(name, where, h)
        left, near, crossed_left = probe.at(name, where, -h)
        if not math.isfinite(right - left):
            line = f"at {name}{where}" if isinstance(where, tuple) else f"in a random direction of {name}"
            raise ValueError(f"the function returns a NaN or an infinity within {h:.0e} of the inputs, {line}")
        found.numeric[i] = (right - left) / (far - near)
        found.rounding[i] = probe.rounding / h
        found.kinked[i] = crossed or crossed_left
    return found


def is_resolved(rounding: Any, blur: float, size: Any) -> Any:
    """Whether errors of this size leave something to compare; elementwise."""
    return (rounding <= RESOLVED * size) & (blur <= RESOLVED_BLUR * size)


class SecondLook(NamedTuple):
    """word: right, wrong, zero, kink, noisy or unresolved. numeric +- error: the estimate. slope: see TensorReport."""

    word: str
    numeric: float
    error: float
    slope: float


def second_look(
    probe: Probe, name: str, where: Where, analytic: float, rtol: float, atol: float = 0.0, blur: float = 0.0
) -> SecondLook:
    """Settle one line that the first look could not, or found wrong. blur: rounding error of `analytic` itself."""
    scale = probe.step(name, where)
    steps, differences = [], []
    for h in STEPS * scale:
        (right, far, crossed), (left, back, crossed_left) = probe.at(name, where, h), probe.at(name, where, -h)
        if not (crossed or crossed_left) and math.isfinite(right - left):
            steps.append((far - back) / 2)
            differences.append(right - left)
    if not steps:
        return SecondLook("kink", math.nan, math.inf, math.nan)
    h, difference = np.array(steps), np.array(differences)

    def compare(rounding: float, otherwise: str) -> SecondLook:
        """Right, not to be told (`otherwise`), or wrong, if f(h) - f(-h) is known to within `rounding`."""
        numeric, error = _best_estimate(h, difference, rounding)
        slope = _remainder_slope(h, difference - 2 * h * analytic, rounding)
        size = max(abs(analytic), abs(numeric))
        if size == 0:
            return SecondLook("zero", 0.0, error, slope)
        near = abs(analytic - numeric) <= rtol * size + atol + error + blur
        told = "right" if is_resolved(error, blur, size) or atol > 0 else otherwise
        return SecondLook(told if near else "wrong", numeric, error + blur, slope)

    found = compare(probe.rounding, "unresolved")
    if found.word != "wrong":
        return found
    slopes = _kink(probe, name, where, scale)
    if slopes is not None:
        slack = 1e-3 * abs(slopes[1] - slopes[0])
        inside = min(slopes) - slack <= analytic <= max(slopes) + slack
        return found._replace(word="kink" if inside else "wrong")
    jitter = 8 * _jitter(probe, name, where, scale)
    return compare(jitter, "noisy") if jitter > probe.rounding else found


def _best_estimate(h: FloatArray, difference: FloatArray, rounding: float) -> tuple[float, float]:
    """The central or extrapolated quotient with the smallest error, and that error: truncation and rounding.

    h falls. Truncation is read off the change against the next larger step; Richardson's estimate of the limit is
    (q(h) r - q(H)) / (r - 1) with r = (H/h)^2.
    """
    central = difference / (2 * h)
    noise = rounding / h
    if len(h) == 1:
        return float(central[0]), float(noise[0])
    change = np.abs(np.diff(central, prepend=math.inf))
    ratio = (h[:-1] / h[1:]) ** 2
    limit = (central[1:] * ratio - central[:-1]) / (ratio - 1)
    limit_change = np.abs(np.diff(limit, prepend=math.inf))
    estimates = np.concatenate([central, limit])
    errors = np.concatenate([change + noise, limit_change + 2 * noise[1:]])
    best = int(np.nanargmin(errors))
    return float(estimates[best]), float(errors[best])


def _remainder_slope(h: FloatArray, remainder: FloatArray, rounding: float) -> float:
    """Slope of log |f(h) - f(-h) - 2 h g| over log h, over the smallest steps that stand clear of rounding."""
    clear = np.flatnonzero(np.abs(remainder) > 10 * rounding)[-5:]
    if len(clear) < 3:
        return math.nan
    return float(np.polyfit(np.log(h[clear]), np.log(np.abs(remainder[clear])), 1)[0])


def _kink(probe: Probe, name: str, where: Where, scale: float) -> tuple[float, float] | None:
    """The slopes to the left and right of a point where they stay apart as h shrinks; None where f is smooth.

    Five points: halving h halves the difference of the two slopes of a smooth f (it is h f''), and keeps a kink's.
    """
    slopes = []
    for h in (scale * STEP, scale * STEP / 30):
        jumps = []
        for step in (h, h / 2):
            (f_right, far, _), (f_left, near, _) = probe.at(name, where, step), probe.at(name, where, -step)
            slopes = [f_left / near, f_right / far]
            jumps.append(slopes[1] - slopes[0])
        clear = abs(jumps[1]) > 100 * probe.rounding / h
        if not clear or not 0.75 < abs(jumps[1]) / max(abs(jumps[0]), 1e-300) < 1.5:
            return None
    return slopes[0], slopes[1]


def _jitter(probe: Probe, name: str, where: Where, scale: float) -> float:
    """How far f jumps about its own smooth course: third differences of nearby points, as Hamming taught.

    At three spacings: random numbers show at any, float32 arithmetic stands still over small ones.
    """
    worst = 0.0
    for spacing in (1e-9 * scale, 1e-6 * scale, 1e-4 * scale):
        values = [probe.at(name, where, (i - 4) * spacing)[0] for i in range(9)]
        worst = max(worst, float(np.sqrt(np.mean(np.diff(values, 3) ** 2) / 20)))
    return worst
