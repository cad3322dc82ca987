"""Finite differences along a line: a first look, a refinement, and a second look where these cannot tell.

A line is one element of one tensor, or a direction through all of its elements. Along it f is a function of t, and

    f'(0) = (f(h) - f(-h)) / 2h  +  O(h^2)  +  rounding,    |rounding| <= 4 eps |f| / h

The first look takes h = eps^(1/3) max(1, |x|), where both errors are about equal. Where that is not exact enough,
larger steps follow, extrapolated to h = 0 (Richardson): a step ten times as large has a tenth of the rounding. What
then seems wrong, or stands at a kink, gets a second look: two more steps where these agree with the first, otherwise
steps from 1e-1 down to where x + h is x. They tell apart:

- a kink: the slopes to the left and right stay apart as h shrinks. A gradient between them is right; outside of them it
  is wrong, unless several units stand on their kinks at once, which the slopes at points close by show;
- a wrong gradient g: the Taylor remainder |f(h) - f(-h) - 2 h g| shrinks like h^1; for a right one like h^3;
- noise: what f does beyond rounding over the smallest steps (it computes in float32, draws random numbers, or large
  terms cancel in it). Where the noise is all there is, nothing is claimed;
- zero by an invariance: however far the step, f changes by its rounding alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray

Inputs = dict[str, FloatArray]
Where = tuple[int, ...] | FloatArray | Mapping[str, FloatArray]  # an element, a direction of a tensor, or of several

EPS = float(np.finfo(np.float64).eps)
STEP = EPS ** (1 / 3)
LARGER_STEPS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the refinement
STEPS = 10.0 ** -np.arange(1, 8.1, 0.5)  # of the second look; below them by decades
FAR_STEPS = 10.0 ** np.arange(0, 4)  # where an invariance still shows nothing
RESOLVED = 1e-3  # an error of the quotient above this share of its value leaves fewer than three digits to compare
RESOLVED_BLUR = 0.1  # the same for the error that a gradient of float32 brings along
HARDLY = 1e-10  # of a tensor's largest gradient: differences that leave no more room than this say zero
CURVED = 2.5  # a remainder that shrinks faster than this is curvature, not a wrong gradient
STABLE = 0.02  # relative change up to which quotients of different steps agree
NEARBY = 1e-4  # relative distance of the points whose slopes are asked about a kink
NEARBY_POINTS = 16


class Precision(NamedTuple):
    """What a function's arithmetic allows. step: of the first look. resolved: see RESOLVED."""

    dtype: type
    eps: float
    step: float
    resolved: float


FLOAT64 = Precision(np.float64, EPS, STEP, RESOLVED)
# Where the C compiler has more digits than float64 (on x86), NumPy computes with them if asked.
WIDE = Precision(np.longdouble, float(np.finfo(np.longdouble).eps), STEP, RESOLVED)
FLOAT32 = Precision(np.float32, float(np.finfo(np.float32).eps), float(np.finfo(np.float32).eps) ** (1 / 3), 0.05)


class Probe:
    """f along lines through the inputs: sum(upstream * (function(inputs at t) - function(inputs)))."""

    def __init__(
        self,
        function: Callable[[Inputs], npt.ArrayLike],
        inputs: Inputs,
        upstream: FloatArray,
        pattern: Callable[[Inputs], npt.NDArray[np.bool_]] | None,
        precision: Precision = FLOAT64,
        tick: Callable[[], None] | None = None,
        fixed: tuple[str, ...] = (),
    ):
        """tick: called before each evaluation. fixed: inputs that stay what they are, as constants do."""
        self.function, self.inputs, self.upstream, self.pattern = function, inputs, upstream, pattern
        self.precision, self.tick, self.fixed, self.evaluations = precision, tick, fixed, 0
        self._wide: list[Probe | None] = []  # once asked for
        self.centre = self._value()
        if self.centre.shape != upstream.shape:
            raise ValueError(
                f"the function returns shape {self.centre.shape}, but upstream has shape {upstream.shape}; "
                "a function that returns an array needs an upstream gradient of that shape"
            )
        bad = np.argwhere(~np.isfinite(self.centre))
        if len(bad):
            where = f", first in its output {tuple(map(int, bad[0]))}" if self.centre.ndim else ""
            raise ValueError(f"the function returns a NaN or an infinity at the inputs{where}")
        self.rounding = self._rounding(self.centre)  # of f(h) - f(-h) for small h
        self.branches = np.zeros(0, bool) if pattern is None else np.array(pattern(inputs))

    def _value(self) -> FloatArray:
        self.evaluations += 1
        if self.tick is not None:
            self.tick()
        with np.errstate(all="ignore"):  # a NaN is reported by name
            return output_array(self.function(self.inputs))

    def _rounding(self, value: FloatArray) -> float:
        return 4 * self.precision.eps * float(np.sum(np.abs(self.upstream * value)))

    def widened(self) -> Probe | None:
        """The same in extended precision; None where the machine has none, or the function computes in float64."""
        if not self._wide:
            self._wide.append(None)
            if self.precision is FLOAT64 and WIDE.eps < EPS / 100:
                inputs = {n: x.astype(np.longdouble) if x.dtype == np.float64 else x for n, x in self.inputs.items()}
                with suppress(Exception):
                    wide = Probe(self.function, inputs, self.upstream, None, WIDE, self.tick, self.fixed)
                    self._wide[0] = wide if wide.centre.dtype == np.longdouble else None
        return self._wide[0]

    def scale(self, name: str, where: Where) -> float:
        """What a relative step is relative to: max(1, |x|), |x| being an RMS for a direction."""
        if isinstance(where, tuple):
            return max(1.0, abs(float(self.inputs[name][where])))
        moved = where if isinstance(where, Mapping) else {name: where}
        return max(1.0, *(float(np.sqrt(np.mean(np.square(self.inputs[n])))) for n in moved))

    def smallest(self, name: str, where: Where) -> float:
        """The step below which x + h has no digits of h."""
        if isinstance(where, tuple):
            x = self.inputs[name]
            size = abs(float(x[where])) or float(np.sqrt(np.mean(np.square(x)))) or 1.0
        else:
            moved = where if isinstance(where, Mapping) else {name: where}
            size = math.hypot(*(float(np.linalg.norm(self.inputs[n][d != 0])) for n, d in moved.items())) or 1.0
        return 8 * self.precision.eps * size

    @contextmanager
    def elsewhere(self, moves: Mapping[str, FloatArray]) -> Iterator[None]:
        """Inside, f is looked at around the inputs plus these moves, and differences are of f(t) - f there."""
        kept = {name: self.inputs[name].copy() for name in moves}
        centre, branches, rounding = self.centre, self.branches, self.rounding
        try:
            for name, move in moves.items():
                self.inputs[name] += move
            self.centre = self._value()
            self.rounding = self._rounding(self.centre)
            yield
        finally:
            for name, x in kept.items():
                self.inputs[name][...] = x
            self.centre, self.branches, self.rounding = centre, branches, rounding

    def at(self, name: str, where: Where, t: float) -> tuple[float, float, bool, float]:
        """-> f(t) - f(0), the t really taken, whether a branch changed on the way, the rounding error of f there."""
        if isinstance(where, tuple):
            x = self.inputs[name]
            kept: Any = x[where]
            try:
                x[where] = kept + t
                taken = float(x[where] - kept)  # x + t is rounded
                value, crossed = self._look()
            finally:
                x[where] = kept
        else:
            moves = where if isinstance(where, Mapping) else {name: where}
            taken, kept = t, {n: self.inputs[n].copy() for n in moves}
            try:
                for n, direction in moves.items():
                    self.inputs[n] += self.precision.dtype(t) * direction
                value, crossed = self._look()
            finally:
                for n, array in kept.items():
                    self.inputs[n][...] = array
        rounding = max(self.rounding, self._rounding(value))
        return float(np.sum(self.upstream * (value - self.centre))), taken, crossed, rounding

    def _look(self) -> tuple[FloatArray, bool]:
        value = self._value()
        if value.shape != self.centre.shape:
            raise ValueError(f"the function returns shape {self.centre.shape} once and {value.shape} another time")
        return value, self.pattern is not None and not np.array_equal(self.pattern(self.inputs), self.branches)


def output_array(value: Any) -> FloatArray:
    """What a function returned, in float64. Raises ValueError with what to do where it is no array of numbers."""
    if isinstance(value, (tuple, list, dict)) or value is None:
        array = np.zeros(0, object)
        if isinstance(value, list) and not any(np.ndim(item) for item in value):
            array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise ValueError(_not_an_output(value))
        return np.array(array, np.float64)
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"the function returns {array.dtype}, but must return real numbers")
    return np.array(array, np.longdouble if array.dtype == np.longdouble else np.float64)


def _not_an_output(value: Any) -> str:
    if value is None:
        return "the function returns None; it must return its loss or output"
    if isinstance(value, dict):
        return "the function returns a dict; it must return one array: pick the entry that is the loss or output"
    first = "the function returns a " + (f"{type(value).__name__} of {len(value)}")
    if len(value) > 1 and all(isinstance(v, (np.ndarray, np.generic, float, int)) and np.ndim(v) for v in value):
        return (
            f"{first} arrays; join them into one, as in np.concatenate([a.ravel(), b.ravel()]), and upstream likewise"
        )
    return f"{first}, such as (loss, cache), but must return real numbers: return its loss or output alone"


class Lines(NamedTuple):
    """The lines of one tensor: first its elements, flat indices (M,), then directions (K, *shape), if any."""

    shape: tuple[int, ...]
    numbers: npt.NDArray[np.int64]
    directions: FloatArray | None

    @property
    def total(self) -> int:
        """M + K."""
        return len(self.numbers) + (0 if self.directions is None else len(self.directions))

    def where(self, i: int) -> Where:
        """What `Probe.at` is to move."""
        if i < len(self.numbers):
            return self.index_of(i)
        assert self.directions is not None
        return self.directions[i - len(self.numbers)]

    def index_of(self, i: int) -> tuple[int, ...]:
        """The element's index, or the direction's number."""
        if i >= len(self.numbers):
            return (i - len(self.numbers),)
        return tuple(map(int, np.unravel_index(int(self.numbers[i]), self.shape)))

    def slopes(self, gradient: FloatArray) -> FloatArray:
        """A gradient of the tensor's shape, along each line (M + K,)."""
        elements = gradient.reshape(-1)[self.numbers]
        if self.directions is None:
            return elements
        return np.concatenate([elements, self.directions.reshape(len(self.directions), -1) @ gradient.reshape(-1)])


class Quotients(NamedTuple):
    """(f(h) - f(-h)) / 2h along some lines (M,), with its rounding error, and whether a branch changed in between."""

    numeric: FloatArray
    rounding: FloatArray
    kinked: npt.NDArray[np.bool_]


Measure = Callable[[npt.NDArray[np.int64], float], Quotients]  # of the lines with these numbers, at this relative step


def measure(probe: Probe, name: str, lines: Lines, chosen: npt.NDArray[np.int64], relative: float) -> Quotients:
    """Central differences along the chosen lines (M,), with h = relative max(1, |x|)."""
    found = Quotients(np.zeros(len(chosen)), np.zeros(len(chosen)), np.zeros(len(chosen), bool))
    first = relative <= probe.precision.step
    for i, line in enumerate(chosen):
        where = lines.where(int(line))
        h = relative * probe.scale(name, where)
        right, left = probe.at(name, where, h), probe.at(name, where, -h)
        if not math.isfinite(right[0] - left[0]) and first and isinstance(where, tuple):
            h *= abs(float(probe.inputs[name][where])) or 1.0  # the edge of a domain: stay on this side of zero
            right, left = probe.at(name, where, h), probe.at(name, where, -h)
        if not math.isfinite(right[0] - left[0]) or right[1] == left[1]:
            if not first or right[1] == left[1]:
                found.kinked[i] = True  # too far, or too close
                continue
            line_name = f"at {name}{where}" if isinstance(where, tuple) else f"in a random direction of {name}"
            raise ValueError(f"the function returns a NaN or an infinity within {h:.0e} of the inputs, {line_name}")
        found.numeric[i] = (right[0] - left[0]) / (right[1] - left[1])
        found.rounding[i] = max(right[3], left[3]) / h
        found.kinked[i] = right[2] or left[2]
    return found


def refine(
    look: Measure, first: Quotients, analytic: FloatArray, rtol: float, step: float = STEP
) -> tuple[FloatArray, FloatArray]:
    """Larger steps where the first look's rounding exceeds rtol.    -> numeric (M,), error (M,)

    The estimate after steps h < H, with r = (H/h)^2: q(h) - (q(H) - q(h)) / (r - 1). Its error: q(h)'s rounding, the
    whole of that correction, and what contradicts the estimate before.
    """
    numeric, error = first.numeric.copy(), first.rounding.copy()
    q, rounding, h = first.numeric.copy(), first.rounding.copy(), step
    at_work = ~first.kinked
    for larger in (larger for larger in LARGER_STEPS if larger > 2 * step):
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


def is_resolved(error: Any, blur: float, size: Any, resolved: float = RESOLVED) -> Any:
    """Whether errors of this size leave something to compare; elementwise."""
    return (error <= resolved * size) & (blur <= RESOLVED_BLUR * size)


class SecondLook(NamedTuple):
    """word: right, wrong, zero, flat, kink, noisy or unresolved. numeric +- error: the estimate. slope: TensorReport.

    flat: zero up to rounding, however far the step.
    """

    word: str
    numeric: float
    error: float
    slope: float
    step: float = math.nan  # relative, where the estimate was good


class Steps(NamedTuple):
    """f(h) - f(-h) and f(h) + f(-h) - 2 f(0) along a line, for h that falls (K,), with rounding errors."""

    h: FloatArray
    odd: FloatArray
    even: FloatArray
    rounding: FloatArray


def take_steps(probe: Probe, name: str, where: Where, sizes: FloatArray) -> Steps:
    """Those of the steps that stay on this branch and in the domain."""
    rows = []
    for h in sizes:
        right, left = probe.at(name, where, h), probe.at(name, where, -h)
        if not (right[2] or left[2]) and math.isfinite(right[0] - left[0]) and right[1] > 0 > left[1]:
            taken = (right[1] - left[1]) / 2
            even = taken * (right[0] / right[1] - left[0] / left[1])  # x + h is rounded: not both go equally far
            rows.append((taken, right[0] - left[0], even, max(right[3], left[3])))
    table = np.array(rows).reshape(-1, 4)
    return Steps(*table.T)


def second_look(
    probe: Probe,
    name: str,
    where: Where,
    analytic: float,
    rtol: float,
    atol: float = 0.0,
    blur: float = 0.0,
    known: float = math.nan,
    patient: bool = True,
    largest: float = 0.0,
    own: Callable[[], float] = lambda: 0.0,
    tried: float = math.nan,
) -> SecondLook | None:
    """Settle one line that seems wrong, or stands at a kink, or is not resolved.

    blur: rounding error of `analytic`, where that is of float32. known: the quotient of the first look. patient:
    whether to take all the steps where two of them do not tell; if not, that is None. largest: the tensor's largest
    gradient, beside which a rounding of it is zero. own: asked for the rounding of `analytic` where little else is
    left. tried: a relative step that served a neighbour.
    """
    first, scale = probe.precision.step, probe.scale(name, where)
    if not math.isnan(tried):
        found = _at_a_neighbours_step(probe, name, where, tried * scale, analytic, rtol, blur)
        if found is not None:
            return found
    quick = take_steps(probe, name, where, np.array([10 * first * scale, first * scale / 30]))
    found = _quick(quick, analytic, rtol, atol, blur, known)
    if len(quick.h) < 2:  # a pattern says that both cross a kink
        with _no_pattern(probe):
            quick = take_steps(probe, name, where, np.array([10 * first * scale, first * scale / 30]))
        found = _quick(quick, analytic, rtol, atol, blur, known)
        found = found if found is not None and found.word == "kink" else None
    if found is not None or not patient:
        return found
    sizes = all_steps(probe, name, where)
    steps = take_steps(probe, name, where, sizes[: len(STEPS)])
    if len(steps.h) > 3:
        soon = _compare(probe, name, where, steps, 0.0, analytic, rtol, atol, blur, False)
        if soon.word == "right":
            return soon
    smaller = take_steps(probe, name, where, sizes[len(STEPS) :])
    steps = Steps(*(np.concatenate(both) for both in zip(steps, smaller, strict=True)))
    crossed = len(steps.h) == 0  # by every step that a pattern sees
    if crossed:
        with _no_pattern(probe):
            steps = take_steps(probe, name, where, sizes)
    if len(steps.h) == 0:
        return SecondLook("unresolved", math.nan, math.inf, math.nan)
    judged = _judge(probe, name, where, steps, analytic, rtol, atol, blur, crossed)
    open_still = judged.word in ("unresolved", "noisy")
    hardly = open_still and abs(judged.numeric) <= judged.error <= HARDLY * largest
    if hardly and abs(analytic) <= max(16 * EPS * largest, own()):
        return judged._replace(word="flat", numeric=0.0)
    wide = probe.widened() if open_still else None
    if wide is None:
        return judged
    more = in_extended_precision(wide, name, where)
    if more is not None:
        numeric, error = more
        size = max(abs(analytic), abs(numeric))
        known_to = own()
        near = abs(analytic - numeric) <= rtol * size + error + max(blur, known_to)
        if near and (is_resolved(error, blur, size) or error <= known_to):
            return SecondLook("right", numeric, error + known_to, math.nan)
    return judged  # the gradient is of float64, and may be rounding itself: not to be called wrong by more digits


def all_steps(probe: Probe, name: str, where: Where) -> FloatArray:
    """From a tenth down to where x + h has no digits of h."""
    scale, smallest = probe.scale(name, where), max(probe.smallest(name, where), 1e-290)
    below = 10.0 ** -np.arange(1.0, 320.0) * STEPS[-1] * scale
    return np.concatenate([STEPS * scale, below[below >= smallest]])


def in_extended_precision(wide: Probe, name: str, where: Where) -> tuple[float, float] | None:
    """The slope and its error; None where no step is in the domain."""
    steps = take_steps(wide, name, where, all_steps(wide, name, where))
    return estimate(steps.h, steps.odd, steps.rounding)[:2] if len(steps.h) > 1 else None


@contextmanager
def _no_pattern(probe: Probe) -> Iterator[None]:
    pattern, probe.pattern = probe.pattern, None
    try:
        yield
    finally:
        probe.pattern = pattern


def _quick(steps: Steps, analytic: float, rtol: float, atol: float, blur: float, known: float) -> SecondLook | None:
    """Wrong, or between the slopes of a kink, where two steps and the first look agree; None where they do not."""
    if len(steps.h) < 2 or math.isnan(known) or not np.any(steps.odd):
        return None
    quotient, jump, noise = steps.odd / (2 * steps.h), steps.even / steps.h, 2 * steps.rounding / steps.h
    numeric, error = float(quotient[1]), float(noise.max() + np.ptp([*quotient, known]))
    size = max(abs(analytic), abs(numeric), abs(known))
    if np.ptp([*quotient, known]) > STABLE * np.abs([*quotient, known]).min() + noise.sum():
        return None
    off = abs(analytic - numeric)
    same = abs(jump[1] - jump[0]) < 1e-3 * abs(jump[1]) + 2 * noise[1]
    if abs(jump[1]) > 100 * noise[1] and same and abs(jump[1]) > 10 * rtol * size:
        half = abs(float(jump[1])) / 2
        return SecondLook("kink", numeric, error, math.nan) if off <= half * (1 + 1e-3) else None
    if off > 5 * error + rtol * size + atol + blur and abs(jump[1]) < 0.1 * off:
        apart = np.abs(quotient - analytic)
        slope = 1 + math.log(apart[0] / apart[1]) / math.log(steps.h[0] / steps.h[1])
        return SecondLook("wrong", numeric, error + blur, slope)
    return None


def _at_a_neighbours_step(
    probe: Probe, name: str, where: Where, h: float, analytic: float, rtol: float, blur: float
) -> SecondLook | None:
    """Right, where two steps of this size say so."""
    steps = take_steps(probe, name, where, np.array([3 * h, h]))
    if len(steps.h) < 2:
        return None
    quotient = steps.odd / (2 * steps.h)
    numeric = float(quotient[1])
    error = float(np.ptp(quotient) + 2 * steps.rounding[1] / steps.h[1])
    size = max(abs(analytic), abs(numeric))
    if abs(analytic - numeric) <= rtol * size + error + blur and is_resolved(
        error, blur, size, probe.precision.resolved
    ):
        return SecondLook("right", numeric, error + blur, math.nan, h / probe.scale(name, where))
    return None


def _judge(
    probe: Probe,
    name: str,
    where: Where,
    steps: Steps,
    analytic: float,
    rtol: float,
    atol: float,
    blur: float,
    crossed: bool,
) -> SecondLook:
    """What all the steps say."""
    found = _compare(probe, name, where, steps, 0.0, analytic, rtol, atol, blur, crossed)
    if found.word != "wrong":
        return found
    # A staircase has two slopes: a tread's, and that of the flight. Where the gradient has the second, look closer.
    quotient = steps.odd / (2 * steps.h)
    flight = steps.h[np.abs(quotient - analytic) < 0.1 * abs(found.numeric - analytic)]
    still = not np.any(steps.odd[-3:])
    if len(flight) == 0 and not still:
        return found
    widest = float(steps.h.max()) if still else float(flight.max())
    jitter = 8 * _jitter(probe, name, where, widest, float(steps.h.max()))  # 8: from an RMS to a bound
    if jitter <= float(steps.rounding.max()):
        return found
    return _compare(probe, name, where, steps, jitter, analytic, rtol, atol, blur, crossed)


def _compare(
    probe: Probe,
    name: str,
    where: Where,
    steps: Steps,
    jitter: float,
    analytic: float,
    rtol: float,
    atol: float,
    blur: float,
    crossed: bool,
) -> SecondLook:
    """What all the steps say, of an f that is known to jitter so much."""
    numeric, error, noise = estimate(steps.h, steps.odd, np.maximum(steps.rounding, jitter))
    agree = np.abs(steps.odd / (2 * steps.h) - numeric) <= error
    best = float(steps.h[agree].max()) / probe.scale(name, where) if agree.any() else math.nan
    noise = max(noise, jitter)
    noisy = noise > 10 * float(steps.rounding.min())
    slope = _remainder_slope(steps.h, steps.odd - 2 * steps.h * analytic, np.maximum(steps.rounding, noise))
    size = max(abs(analytic), abs(numeric))
    resolved = is_resolved(error, blur, size, probe.precision.resolved) or atol > 0
    near = abs(analytic - numeric) <= rtol * size + atol + error + blur
    if size == 0 or (analytic == 0 and abs(numeric) <= error and slope > CURVED):
        return SecondLook("zero", 0.0, error, slope)
    if near and resolved and not crossed:
        return SecondLook("right", numeric, error + blur, slope, best)
    sides = kink(steps, noise)
    if sides is not None:
        slack = 1e-3 * abs(sides[1] - sides[0]) + error
        inside = min(sides) - slack <= analytic <= max(sides) + slack
        inside = inside or _between_neighbours(probe, name, where, analytic, sides)
        return SecondLook("kink" if inside else "wrong", float(np.mean(sides)), error, slope)
    if near and resolved:
        return SecondLook("right", numeric, error + blur, slope)
    if _is_flat(probe, name, where, steps, analytic, numeric, error, noise):
        return SecondLook("flat", 0.0, error, slope)
    if noise > 0.01 * float(np.abs(steps.odd).max()) and noise > 100 * float(steps.rounding.min()):
        return SecondLook("unresolved", numeric, error, slope)  # f is noise: any quotient is
    if near or slope > CURVED:
        return SecondLook("noisy" if noisy else "unresolved", numeric, error + blur, slope)
    return SecondLook("wrong", numeric, error + blur, slope)


def _jitter(probe: Probe, name: str, where: Where, widest: float, farthest: float) -> float:
    """How far f jumps about its own smooth course: third differences of nearby points, as Hamming taught.

    At three spacings up to `widest`: random numbers show at any, float32 arithmetic stands still over small ones.
    Around the centre and around the farthest step, where a function that vanishes here has its rounding. Of independent
    errors of size 1 third differences have the mean square 1 + 9 + 9 + 1 = 20; the sixth largest of 18 leaves out
    those that a kink makes.
    """
    worst, scale = 0.0, probe.scale(name, where)
    with _no_pattern(probe):
        for centre, spacings in ((0.0, (1e-9, 1e-6, 1e-4)), (farthest, (1e-6, 1e-4))):
            for spacing in spacings:
                if spacing * scale > widest:
                    continue
                values = [probe.at(name, where, centre + (i - 10) * spacing * scale)[0] for i in range(21)]
                jumps = np.abs(np.diff(values, 3))
                if np.isfinite(jumps).all():
                    worst = max(worst, float(np.sort(jumps)[-6]) / math.sqrt(20))
    return worst


def estimate(h: FloatArray, difference: FloatArray, rounding: FloatArray) -> tuple[float, float, float]:
    """The slope, its error, and the noise of f as the steps below the best one show it.

    What f does over those beyond slope times step is no derivative; it is taken for noise of that size at every step.
    """
    value, error, place = _best_estimate(h, difference, rounding)
    noise = 0.0
    for _ in range(3):
        beyond = np.abs(difference - 2 * h * value)[place + 1 :]
        more = 2 * float(beyond.max(initial=0.0))
        if more <= max(noise, float(rounding.min())):
            break
        noise = more
        value, error, place = _best_estimate(h, difference, np.maximum(rounding, noise))
    return value, 3 * error if noise > 10 * float(rounding[place]) else error, noise  # noise is known roughly


def _best_estimate(h: FloatArray, difference: FloatArray, rounding: FloatArray) -> tuple[float, float, int]:
    """The central or extrapolated quotient with the smallest error, that error, and the number of its step.

    h falls. Truncation is read off the change against the next larger step; and whatever smaller steps say beyond their
    own rounding counts as error too, or two large steps that agree by chance would be believed. Richardson's estimate
    of the limit is (q(h) r - q(H)) / (r - 1) with r = (H/h)^2.
    """
    central = difference / (2 * h)
    noise = rounding / h
    if len(h) == 1:
        return float(central[0]), math.inf, 0
    change = np.abs(np.diff(central, prepend=math.inf))
    ratio = (h[:-1] / h[1:]) ** 2
    limit = (central[1:] * ratio - central[:-1]) / (ratio - 1)
    estimates = np.concatenate([central, limit])
    errors = np.concatenate([change + noise, np.abs(np.diff(limit, prepend=math.inf)) + 2 * noise[1:]])
    places = np.concatenate([np.arange(len(h)), np.arange(1, len(h))])
    for i, place in enumerate(places):
        beyond = np.abs(central[place + 1 :] - estimates[i]) - noise[place + 1 :]
        errors[i] += max(0.0, float(beyond.max(initial=0.0)))
    if len(h) > 8:
        errors[places >= len(h) - 3] = math.inf  # nothing smaller to contradict them
    best = int(np.argmin(errors))
    return float(estimates[best]), float(errors[best]), int(places[best])


def _remainder_slope(h: FloatArray, remainder: FloatArray, rounding: FloatArray) -> float:
    """Slope of log |f(h) - f(-h) - 2 h g| over log h, over the smallest steps that stand clear of rounding."""
    clear = np.flatnonzero(np.abs(remainder) > 10 * rounding)[-5:]
    if len(clear) < 3:
        return math.nan
    return float(np.polyfit(np.log(h[clear]), np.log(np.abs(remainder[clear])), 1)[0])


def kink(steps: Steps, noise: float) -> tuple[float, float] | None:
    """The slopes to the left and right of a point where they stay apart as h shrinks; None where f is smooth.

    Halving h halves the difference of the two slopes of a smooth f (it is h f''), and keeps a kink's. So a kink's has a
    limit, known to a tenth of itself; that of a cusp, whose slopes have no bounds, has none.
    """
    if len(steps.h) < 4:
        return None
    rounding = np.maximum(steps.rounding, noise)
    jump, error, place = _best_estimate(steps.h, 2 * steps.even, rounding)
    if not 0 <= 10 * error < abs(jump) or abs(jump) < 100 * float(rounding[place] / steps.h[place]):
        return None
    middle, _, _ = _best_estimate(steps.h, steps.odd, rounding)
    return middle - jump / 2, middle + jump / 2


def _between_neighbours(probe: Probe, name: str, where: Where, analytic: float, sides: tuple[float, float]) -> bool:
    """Whether a gradient at a kink lies between the slopes that f has at points close by.

    Where several units stand on their kinks at once, the slopes on the two sides of a line are but two of many: with
    units a right gradient may follow either branch. What it cannot be is outside of them all. Half of the points move
    each tensor to one side only, as switches all of its units on or off.
    """
    slopes = neighbouring_slopes(probe, name, where)
    width = abs(sides[1] - sides[0])
    elsewhere = [s for s in slopes if min(abs(s - side) for side in sides) > 0.01 * width]
    if not elsewhere:
        return False  # a kink of one unit has two slopes
    return reaches([*slopes, *sides], analytic, 1)


def reaches(slopes: list[float], analytic: float, units: int) -> bool:
    """Whether slopes of points close by, as samples of more, leave room for this gradient. units: on their kinks."""
    spread = max(8.0, 2 * math.sqrt(units)) * float(np.std(slopes)) + 1e-6 * float(np.abs(slopes).max())
    mean = float(np.mean(slopes))
    return min(slopes) - spread <= analytic <= max(slopes) + spread or abs(analytic - mean) <= spread


def spread_out(slopes: list[float]) -> bool:
    """Whether they are those of different branches."""
    return len(slopes) > 1 and float(np.ptp(slopes)) > 0.01 * float(np.abs(slopes).max())


def stirs(probe: Probe, name: str, where: Where) -> bool:
    """Whether f depends on this line at all, but by its rounding alone, however far the step."""
    scale, changes = probe.scale(name, where), []
    with _no_pattern(probe):
        for far in (0.1, *FAR_STEPS):
            for side in (far * scale, -far * scale):
                change, _, _, rounding = probe.at(name, where, side)
                if not math.isfinite(change) or abs(change) > (1 + far) * 100 * rounding:
                    return False
                changes.append(change)
    return any(changes)


def neighbouring_slopes(probe: Probe, name: str, where: Where) -> list[float]:
    """Slopes along the same line at points close by."""
    rng, found = np.random.default_rng(0), []
    movable = {n: x for n, x in probe.inputs.items() if x.dtype.kind == "f" and x.size and n not in probe.fixed}
    for point in range(NEARBY_POINTS):
        moves = {}
        for n, x in movable.items():
            drawn = rng.standard_normal(x.shape)
            size = float(np.sqrt(np.mean(np.square(x)))) or 1.0
            if point % 2:
                drawn = np.abs(drawn) * (1 if rng.random() < 0.5 else -1) * 10 ** rng.uniform(-2, 0)
            moves[n] = np.asarray(NEARBY * size * drawn, x.dtype)
        with probe.elsewhere(moves), _no_pattern(probe):
            h = probe.precision.step * NEARBY * probe.scale(name, where)
            h = max(h, 100 * probe.smallest(name, where))
            right, left = probe.at(name, where, h), probe.at(name, where, -h)
            if math.isfinite(right[0] - left[0]) and right[1] > left[1]:
                found.append((right[0] - left[0]) / (right[1] - left[1]))
    return found


def _is_flat(
    probe: Probe, name: str, where: Where, steps: Steps, analytic: float, numeric: float, error: float, noise: float
) -> bool:
    """Whether f does not change but by rounding, however far the step, and the gradient is no more than rounding."""
    if abs(numeric) > error or abs(analytic) > 100 * error:
        return False
    rounding = 10 * max(noise, float(steps.rounding.min()))
    if np.any(np.abs(steps.odd) > rounding) or np.any(np.abs(steps.even) > rounding):
        return False
    scale = probe.scale(name, where)
    for far in FAR_STEPS:
        for side in (far * scale, -far * scale):
            with _no_pattern(probe):
                change, _, _, there = probe.at(name, where, side)
            if math.isfinite(change) and abs(change) > (1 + far) * max(rounding, 10 * there):
                return False
    return True
