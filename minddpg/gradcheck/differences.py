"""Finite differences along a line: a first look, a refinement, and a second look where these cannot tell.

A line is one element of one tensor, or a direction through all of its elements. Along it f is a function of t, and

    f'(0) = (f(h) - f(-h)) / 2h  +  O(h^2)  +  rounding,    |rounding| <= 4 eps |f| / h

The first look takes h = eps^(1/3) max(1, |x|), where both errors are about equal. Where that is not exact enough,
larger steps follow, extrapolated to h = 0 (Richardson): a step ten times as large has a tenth of the rounding. What
then seems wrong, or stands at a kink, gets a second look of fifteen steps from 1e-1 to 1e-8, which tells apart:

- a kink: the slopes to the left and right stay apart as h shrinks (five points: -h, -h/2, 0, h/2, h), and a gradient
  outside of the two is wrong;
- a wrong gradient g: the Taylor remainder |f(h) - f(-h) - 2 h g| shrinks like h^1; for a right one like h^3;
- noise: f jitters by more than rounding explains (it computes in float32 somewhere, or draws random numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray

Inputs = dict[str, FloatArray]
Where = tuple[int, ...] | FloatArray  # an element's index, or a direction of the tensor's shape

EPS = float(np.finfo(np.float64).eps)
STEP = EPS ** (1 / 3)
LARGER_STEPS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the refinement
STEPS = 10.0 ** -np.arange(1, 8.1, 0.5)  # of the second look
RESOLVED = 1e-3  # an error of the quotient above this share of its value leaves fewer than three digits to compare
RESOLVED_BLUR = 0.1  # the same for the error that a gradient of float32 brings along
CURVED = 2.5  # a remainder that shrinks faster than this is curvature, not a wrong gradient


class Probe:
    """f along lines through the inputs: sum(upstream * (function(inputs at t) - function(inputs)))."""

    def __init__(
        self,
        function: Callable[[Inputs], npt.ArrayLike],
        inputs: Inputs,
        upstream: FloatArray,
        pattern: Callable[[Inputs], npt.NDArray[np.bool_]] | None,
    ):
        self.function, self.inputs, self.upstream, self.pattern = function, inputs, upstream, pattern
        self.centre = self._value()
        if self.centre.shape != upstream.shape:
            raise ValueError(
                f"the function returns shape {self.centre.shape}, but upstream has shape {upstream.shape}; "
                "a function that returns an array needs an upstream gradient of that shape"
            )
        if not np.isfinite(self.centre).all():
            raise ValueError("the function returns a NaN or an infinity at the inputs")
        self.rounding = 4 * EPS * float(np.sum(np.abs(upstream * self.centre)))  # of f(h) - f(-h) for small h
        self.branches = np.zeros(0, bool) if pattern is None else np.array(pattern(inputs))

    def _value(self) -> FloatArray:
        with np.errstate(all="ignore"):  # a NaN is reported by name
            value = np.asarray(self.function(self.inputs))
        if value.dtype.kind not in "fiu":
            raise ValueError(f"the function returns {value.dtype}, but must return real numbers")
        return np.array(value, np.float64)

    def scale(self, name: str, where: Where) -> float:
        """What a relative step is relative to: max(1, |x|)."""
        return max(1.0, abs(float(self.inputs[name][where]))) if isinstance(where, tuple) else 1.0

    def at(self, name: str, where: Where, t: float) -> tuple[float, float, bool, float]:
        """-> f(t) - f(0), the t really taken, whether a branch changed on the way, the rounding error of f there."""
        x = self.inputs[name]
        kept = x[where] if isinstance(where, tuple) else x.copy()
        try:
            if isinstance(where, tuple):
                x[where] = kept + t
                t = float(x[where]) - float(kept)  # x + t is rounded
            else:
                x += t * where
            value = self._value()
            crossed = self.pattern is not None and not np.array_equal(self.pattern(self.inputs), self.branches)
        finally:
            if isinstance(where, tuple):
                x[where] = kept
            else:
                x[...] = kept
        rounding = max(self.rounding, 4 * EPS * float(np.sum(np.abs(self.upstream * value))))
        return float(np.sum(self.upstream * (value - self.centre))), t, crossed, rounding


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
    """(f(h) - f(-h)) / 2h along some lines (M,), with its rounding error, and whether a branch changed in between."""

    numeric: FloatArray
    rounding: FloatArray
    kinked: npt.NDArray[np.bool_]


Measure = Callable[[npt.NDArray[np.int64], float], Quotients]  # of the lines with these numbers, at this relative step


def measure(probe: Probe, name: str, lines: Lines, chosen: npt.NDArray[np.int64], relative: float) -> Quotients:
    """Central differences along the chosen lines (M,), with h = relative max(1, |x|)."""
    found = Quotients(np.zeros(len(chosen)), np.zeros(len(chosen)), np.zeros(len(chosen), bool))
    for i, line in enumerate(chosen):
        where = lines.where(int(line))
        h = relative * probe.scale(name, where)
        right, left = probe.at(name, where, h), probe.at(name, where, -h)
        if not math.isfinite(right[0] - left[0]) and relative <= STEP and isinstance(where, tuple):
            h *= abs(float(probe.inputs[name][where])) or 1.0  # the edge of a domain: stay on this side of zero
            right, left = probe.at(name, where, h), probe.at(name, where, -h)
        if not math.isfinite(right[0] - left[0]):
            if relative > STEP:
                found.kinked[i] = True  # too far
                continue
            line_name = f"at {name}{where}" if isinstance(where, tuple) else f"in a random direction of {name}"
            raise ValueError(f"the function returns a NaN or an infinity within {h:.0e} of the inputs, {line_name}")
        found.numeric[i] = (right[0] - left[0]) / (right[1] - left[1])
        found.rounding[i] = max(right[3], left[3]) / h
        found.kinked[i] = right[2] or left[2]
    return found


def refine(look: Measure, first: Quotients, analytic: FloatArray, rtol: float) -> tuple[FloatArray, FloatArray]:
    """Larger steps where the first look's rounding exceeds rtol.    -> numeric (M,), error (M,)

    The estimate after steps h < H, with r = (H/h)^2: q(h) - (q(H) - q(h)) / (r - 1). Its error: q(h)'s rounding, the
    whole of that correction, and what contradicts the estimate before.
    """
    numeric, error = first.numeric.copy(), first.rounding.copy()
    q, rounding, h = first.numeric.copy(), first.rounding.copy(), STEP
    at_work = ~first.kinked
    for larger in LARGER_STEPS:
        size = np.maximum(np.abs(analytic), np.abs(numeric))
        at_work &= error > rtol * size
        chosen = np.flatnonzero(at_work)
        if len(chosen) == 0:
            break
        found = look(chosen, larger)
        at_work[chosen[found.kinked]] = False
        chosen, numbers, bound = chosen[~found.kinked], found.numeric[~found.kinked], found.rounding[~found.kinked]
        correction = (numbers - q[chosen]) / ((larger / h) ** 2 - 1)
        estimate = q[chosen] - correction
        contradiction = np.maximum(np.abs(estimate - numeric[chosen]) - error[chosen], 0)
        new_error = rounding[chosen] + np.abs(correction) + contradiction
        better = new_error < error[chosen]
        numeric[chosen[better]], error[chosen[better]] = estimate[better], new_error[better]
        q[chosen], rounding[chosen], h = numbers, bound, larger
    return numeric, error


def is_resolved(error: Any, blur: float, size: Any) -> Any:
    """Whether errors of this size leave something to compare; elementwise."""
    return (error <= RESOLVED * size) & (blur <= RESOLVED_BLUR * size)


class SecondLook(NamedTuple):
    """word: right, wrong, zero, kink, noisy or unresolved. numeric +- error: the estimate. slope: see TensorReport."""

    word: str
    numeric: float
    error: float
    slope: float


def second_look(
    probe: Probe, name: str, where: Where, analytic: float, rtol: float, atol: float = 0.0, blur: float = 0.0
) -> SecondLook:
    """Settle one line that seems wrong, or stands at a kink. blur: rounding error of `analytic` itself."""
    scale, x = probe.scale(name, where), abs(float(probe.inputs[name][where])) if isinstance(where, tuple) else 0.0
    steps, differences, roundings = [], [], []
    for h in np.concatenate([STEPS * scale, x * STEPS[x * STEPS < STEPS[-1]]]):  # the last ones for tiny x alone
        right, left = probe.at(name, where, h), probe.at(name, where, -h)
        if not (right[2] or left[2]) and math.isfinite(right[0] - left[0]) and right[1] > left[1]:
            steps.append((right[1] - left[1]) / 2)
            differences.append(right[0] - left[0])
            roundings.append(max(right[3], left[3]))
    h, difference, rounding = np.array(steps), np.array(differences), np.array(roundings)

    def compare(rounding: FloatArray, otherwise: str) -> SecondLook:
        """Right, not to be told (`otherwise`), or wrong, if f(h) - f(-h) is known to within `rounding` (K,)."""
        numeric, error = _best_estimate(h, difference, rounding)
        slope = _remainder_slope(h, difference - 2 * h * analytic, rounding)
        size = max(abs(analytic), abs(numeric))
        if size == 0 or (analytic == 0 and abs(numeric) <= error and slope > CURVED):
            return SecondLook("zero", 0.0, error, slope)
        if abs(analytic - numeric) <= rtol * size + atol + error + blur:
            told = "right" if is_resolved(error, blur, size) or atol > 0 else otherwise
            return SecondLook(told, numeric, error + blur, slope)
        return SecondLook(otherwise if slope > CURVED else "wrong", numeric, error + blur, slope)

    found = compare(rounding, "unresolved") if len(h) else SecondLook("kink", math.nan, math.inf, math.nan)
    if found.word not in ("wrong", "kink"):
        return found
    slopes = _kink(probe, name, where, scale)
    if slopes is not None:
        slack = 1e-3 * abs(slopes[1] - slopes[0])
        inside = min(slopes) - slack <= analytic <= max(slopes) + slack
        return found._replace(word="kink" if inside else "wrong", numeric=float(np.mean(slopes)))
    if len(h) == 0:
        return found
    jitter = np.maximum(rounding, 8 * _jitter(probe, name, where, scale, float(h.max())))  # 8: from an RMS to a bound
    return compare(jitter, "noisy") if np.any(jitter > rounding) else found


def _best_estimate(h: FloatArray, difference: FloatArray, rounding: FloatArray) -> tuple[float, float]:
    """The central or extrapolated quotient with the smallest error, and that error.

    h falls. Truncation is read off the change against the next larger step; and whatever smaller steps say beyond their
    own rounding counts as error too, or two large steps that agree by chance would be believed. Richardson's estimate
    of the limit is (q(h) r - q(H)) / (r - 1) with r = (H/h)^2.
    """
    central = difference / (2 * h)
    noise = rounding / h
    if len(h) == 1:
        return float(central[0]), float(noise[0])
    change = np.abs(np.diff(central, prepend=math.inf))
    ratio = (h[:-1] / h[1:]) ** 2
    limit = (central[1:] * ratio - central[:-1]) / (ratio - 1)
    estimates = np.concatenate([central, limit])
    errors = np.concatenate([change + noise, np.abs(np.diff(limit, prepend=math.inf)) + 2 * noise[1:]])
    places = np.concatenate([np.arange(len(h)), np.arange(1, len(h))])
    for i, place in enumerate(places):
        beyond = np.abs(central[place + 1 :] - estimates[i]) - noise[place + 1 :]
        errors[i] += max(0.0, float(beyond.max(initial=0.0)))
    best = int(np.argmin(errors))
    return float(estimates[best]), float(errors[best])


def _remainder_slope(h: FloatArray, remainder: FloatArray, rounding: FloatArray) -> float:
    """Slope of log |f(h) - f(-h) - 2 h g| over log h, over the smallest steps that stand clear of rounding."""
    clear = np.flatnonzero(np.abs(remainder) > 10 * rounding)[-5:]
    if len(clear) < 3:
        return math.nan
    return float(np.polyfit(np.log(h[clear]), np.log(np.abs(remainder[clear])), 1)[0])


def _kink(probe: Probe, name: str, where: Where, scale: float) -> tuple[float, float] | None:
    """The slopes to the left and right of a point where they stay apart as h shrinks; None where f is smooth.

    Five points: halving h halves the difference of the two slopes of a smooth f (it is h f''), and keeps a kink's. Not
    a hundred times larger than rounding, it is no evidence. Twice, so that neither a kink close by nor a cusp, whose
    slopes have no bounds, is taken for one.
    """
    slopes, before = [0.0, 0.0], math.nan
    for h in (scale * STEP, scale * STEP / 30):
        jumps = []
        for step in (h, h / 2):
            right, left = probe.at(name, where, step), probe.at(name, where, -step)
            slopes = [left[0] / left[1], right[0] / right[1]]
            jumps.append(slopes[1] - slopes[0])
        clear = abs(jumps[1]) > 100 * probe.rounding / h
        if not clear or not 0.75 < abs(jumps[1]) / max(abs(jumps[0]), 1e-300) < 1.5:
            return None
        if jumps[1] > 2 * before:
            return None
        before = jumps[1]
    return slopes[0], slopes[1]


def _jitter(probe: Probe, name: str, where: Where, scale: float, farthest: float) -> float:
    """How far f jumps about its own smooth course: third differences of nearby points, as Hamming taught.

    At three spacings: random numbers show at any, float32 arithmetic stands still over small ones. Around the centre
    and around the farthest step, where a function that vanishes here has its rounding. Of independent errors of size 1
    third differences have the mean square 1 + 9 + 9 + 1 = 20.
    """
    worst = 0.0
    for centre in (0.0, farthest):
        for spacing in (1e-9 * scale, 1e-6 * scale, 1e-4 * scale):
            values = [probe.at(name, where, centre + (i - 4) * spacing)[0] for i in range(9)]
            if centre == 0 or spacing < 1e-3 * farthest:
                worst = max(worst, float(np.sqrt(np.mean(np.diff(values, 3) ** 2) / 20)))
    return worst
