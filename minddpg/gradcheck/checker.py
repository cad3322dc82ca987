"""Finite differences against hand-written gradients, in float64, with no absolute tolerance to hide behind.

    |analytic - numeric| <= rtol max(|analytic|, |numeric|) + rounding,    rounding = 4 eps |f| / h

The last term is what rounding alone does to the quotient (see differences.py). What is smaller than it resolves is
looked at again, in a direction through all such elements and then one by one; what stays unresolved is counted and
named, and more than 1 % of a tensor is a failure, as is a tensor where nothing was compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..jit import FloatArray
from .differences import Inputs, Lines, Probe, Quotients, first_look, is_resolved, second_look
from .hints import hint
from .report import Check, Report, TensorReport
from .structure import Backward, check_structure

Mode = Literal["full", "sample", "directions"]
Gradients = Mapping[str, npt.ArrayLike]
SAMPLES = 32  # elements per tensor
DIRECTIONS = 8  # per tensor
NOISY = "the function computes in float32 somewhere, or draws random numbers; let it keep the dtype of its inputs"
WORST_LOOKED_AT = 4  # of a tensor's wrong elements; where all of them stay wrong, so do the others
DOUBTFUL_LOOKED_AT = 64  # of a tensor's elements below rounding, or on kinks where there is nothing else


def check_gradient(
    function: Callable[[Inputs], npt.ArrayLike],
    inputs: Mapping[str, npt.ArrayLike],
    gradients: Gradients | Backward,
    *,
    upstream: npt.ArrayLike | None = None,
    mode: Mode = "full",
    samples: int = SAMPLES,
    directions: int = DIRECTIONS,
    rtol: float = 1e-6,
    atol: float = 0.0,
    seed: int = 0,
    pattern: Callable[[Inputs], npt.NDArray[np.bool_]] | None = None,
    batch: tuple[str, ...] = (),
) -> Report:
    """Compare hand-written gradients with central differences.

    function: maps a dict of float64 arrays to a scalar loss, or to an array, which then needs `upstream`: the loss is
    sum(upstream * function(inputs)). It must not keep or write its inputs.
    inputs: arrays by name, any float dtype; the check runs on float64 copies.
    gradients: dloss/dinput by name for the tensors to check (not necessarily all), each of its tensor's shape; or,
    better, the backward itself, a function of (inputs), or of (inputs, upstream) where there is an upstream, that
    returns them. It is then run on the float64 copies, its float32 error is stated, and the structural checks are made
    that finite differences miss (see structure.py). Arrays of float32 are compared as exactly as float32 allows.
    mode: "full" checks every element. "sample" checks up to `samples` elements of every tensor, from all over its rows
    and columns, the largest among them. "directions" checks the slope along `directions` random directions of each
    tensor: two evaluations each however large the tensor is, but a single wrong element of P may hide behind the others
    if it is wrong by less than about rtol sqrt(P).
    rtol: relative error allowed, per element. atol: absolute error allowed; leave it at 0 unless you know the scale.
    seed: of the sample and the directions.
    pattern: for piecewise functions, which branch each element takes (a ReLU's mask) as a bool array; elements whose
    step changes it stand on a kink and are counted instead of compared. Without it, kinks are found by five points.
    batch: names of the inputs whose first axis is the batch, for functions that treat its rows independently; adds
    the checks that no row leaks into another's gradient and that a doubled batch does not change a mean's.

    Raises ValueError for shapes that do not fit, dtypes that are not numbers, NaN, and names that are unknown.
    """
    arrays = {name: _float64(name, value) for name, value in inputs.items()}
    weights = _float64("upstream", 1.0 if upstream is None else upstream)
    if mode not in ("full", "sample", "directions"):
        raise ValueError(f"mode must be full, sample or directions, not {mode!r}")
    if samples < 1 or directions < 1 or not 0 <= rtol < 1 or not 0 <= atol < math.inf:
        raise ValueError("samples and directions must be 1 or more, rtol in [0, 1), atol 0 or more")
    for name in batch:
        if name not in arrays or arrays[name].ndim == 0:
            raise ValueError(f"batch names {name!r}, which is no input with a first axis")
    analytic: Gradients
    checks: list[Check] = []
    float32_errors: dict[str, float] = {}
    if callable(gradients):
        given = None if upstream is None else weights
        analytic, float32_errors, checks = check_structure(function, gradients, arrays, given, batch)
    else:
        analytic = gradients
    if not analytic:
        raise ValueError("no gradients to check")
    known = [arrays[name] for name in batch] or [weights, *(x for name, x in arrays.items() if name not in analytic)]
    probe = Probe(function, arrays, weights, pattern, {n for array in known for n in array.shape[:1]})
    rng = np.random.default_rng(seed)
    tensors = []
    for name, gradient in analytic.items():
        checked = checked_gradient(name, gradient, arrays)
        lines = choose_lines(checked.shape, checked, mode, samples, directions, rng)
        tensor = judge(probe, name, checked, lines, first_look(probe, name, lines), rtol, atol, _blur(gradient))
        tensors.append(replace(tensor, float32_error=float32_errors.get(name, math.nan)))
    return Report(tuple(tensors), tuple(checks), rtol, atol, mode)


def assert_gradients(
    function: Callable[[Inputs], npt.ArrayLike],
    inputs: Mapping[str, npt.ArrayLike],
    gradients: Gradients | Backward,
    **options: Any,
) -> Report:
    """`check_gradient` for tests, with the same options: raises AssertionError with the table unless all is right."""
    report = check_gradient(function, inputs, gradients, **options)
    if not report.ok:
        raise AssertionError("the gradients are not right\n" + str(report))
    return report


def _float64(name: str, value: npt.ArrayLike) -> FloatArray:
    """A float64 copy."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype}, but must hold real numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a NaN or an infinity")
    return np.array(array, np.float64)


def checked_gradient(name: str, gradient: npt.ArrayLike, arrays: Inputs) -> FloatArray:
    """The gradient of an input in float64. Raises ValueError where it does not fit."""
    if name not in arrays:
        raise ValueError(f"there is a gradient of {name}, but no input of that name; inputs: {', '.join(arrays)}")
    if np.shape(gradient) != arrays[name].shape:
        raise ValueError(
            f"the gradient of {name} has shape {np.shape(gradient)}, but {name} has shape {arrays[name].shape}"
        )
    return _float64(f"the gradient of {name}", gradient)


def _blur(gradient: npt.ArrayLike) -> float:
    """What a gradient of float32 does not know itself: some last bits of its largest element."""
    array = np.asarray(gradient)
    if array.dtype.kind != "f" or array.dtype.itemsize >= 8 or array.size == 0:
        return 0.0
    return 8 * float(np.finfo(array.dtype).eps) * float(np.abs(array).max())


def choose_lines(
    shape: tuple[int, ...], gradient: FloatArray, mode: Mode, samples: int, directions: int, rng: np.random.Generator
) -> Lines:
    """The elements or directions to look at."""
    size = math.prod(shape)
    if mode == "directions":
        drawn = rng.standard_normal((directions, *shape))
        norms = np.linalg.norm(drawn.reshape(directions, -1), axis=1)
        return Lines(shape, np.arange(directions), drawn / norms.reshape(-1, *[1] * len(shape)))
    if mode == "full" or size <= samples:
        return Lines(shape, np.arange(size), None)
    # Each axis is gone through in an order of its own: min(samples, rows) rows are met, and as many columns.
    orders = [np.concatenate([rng.permutation(length) for _ in range(-(-samples // length))]) for length in shape]
    chosen = {int(np.abs(gradient).argmax())}
    for where in zip(*orders, strict=False):
        if len(chosen) < samples:
            chosen.add(int(np.ravel_multi_index(where, shape)))
    while len(chosen) < samples:
        chosen.add(int(rng.integers(size)))
    return Lines(shape, np.array(sorted(chosen)), None)


class _Judgement:
    """One tensor's lines, each in one of the states of TensorReport."""

    def __init__(
        self,
        probe: Probe,
        name: str,
        gradient: FloatArray,
        lines: Lines,
        looked: Quotients,
        rtol: float,
        atol: float,
        blur: float,
    ):
        self.probe, self.name, self.gradient, self.lines = probe, name, gradient, lines
        self.tolerances = rtol, atol, blur
        self.analytic = lines.slopes(gradient)
        self.numeric, self.rounding, self.kink = looked.numeric.copy(), looked.rounding + blur, looked.kinked.copy()
        size = np.maximum(np.abs(self.analytic), np.abs(self.numeric))
        right = np.abs(self.analytic - self.numeric) <= rtol * size + atol + self.rounding
        self.zero = (size == 0) & ~self.kink
        self.wrong = ~right & ~self.kink
        clear = is_resolved(looked.rounding, blur, size) | (atol > 0)
        self.unresolved = right & ~clear & ~self.zero & ~self.kink
        self.noisy, self.settled = np.zeros(len(size), bool), np.zeros(len(size), bool)
        self.jointly = np.zeros(len(size), bool)  # settled as one line: of each alone nothing is known
        self.slope = np.full(len(size), math.nan)

    def look_again(self) -> None:
        """Second looks at what is wrong, then at what is unresolved: all of it along one line, then one by one."""
        suspects = np.flatnonzero(self.wrong)
        suspects = suspects[np.argsort(-self._relative_error()[suspects], kind="stable")]
        if any([self._second_look(i) != "wrong" for i in suspects[:WORST_LOOKED_AT]]):
            for i in suspects[WORST_LOOKED_AT:]:
                self._second_look(i)
        if self.unresolved.sum() > 1 and self.lines.directions is None:
            # Along the gradient itself they add up to its norm, which is the largest number there is to compare.
            along = np.zeros(self.gradient.size)
            along[self.lines.numbers[self.unresolved]] = self.analytic[self.unresolved]
            length = float(np.linalg.norm(along))
            if length:
                direction = (along / length).reshape(self.gradient.shape)
                if second_look(self.probe, self.name, direction, length, *self.tolerances).word == "right":
                    self.jointly |= self.unresolved
                    self.settled |= self.unresolved
                    self.unresolved[:] = False
        for i in np.flatnonzero(self.unresolved)[:DOUBTFUL_LOOKED_AT]:
            self._second_look(i)
        if self.kink.any() and not self._compared().any():
            for i in np.flatnonzero(self.kink)[:DOUBTFUL_LOOKED_AT]:  # smaller steps may not cross
                self._second_look(i)

    def _second_look(self, i: np.intp) -> str:
        where = self.lines.where(int(i))
        again = second_look(self.probe, self.name, where, float(self.analytic[i]), *self.tolerances)
        for word, marked in (
            ("wrong", self.wrong), ("kink", self.kink), ("noisy", self.noisy), ("unresolved", self.unresolved),
            ("right", self.settled), ("zero", self.zero),
        ):  # fmt: skip
            marked[i] = again.word == word
        if not math.isnan(again.numeric):
            self.numeric[i], self.rounding[i] = again.numeric, again.error
        self.slope[i] = again.slope
        return again.word

    def _compared(self) -> npt.NDArray[np.bool_]:
        return ~(self.zero | self.kink | self.unresolved | self.noisy)

    def _relative_error(self) -> FloatArray:
        size = np.maximum(np.abs(self.analytic), np.abs(self.numeric))
        return np.divide(np.abs(self.analytic - self.numeric), size, out=np.zeros_like(size), where=size > 0)

    def report(self) -> TensorReport:
        """The row of the table."""
        compared = self._compared()
        rank = self._relative_error() + self.wrong  # a wrong one comes before a noisy one
        rank[~(compared | self.noisy) | self.jointly] = -1
        worst = int(np.argmax(rank)) if len(rank) and rank.max() >= 0 else None
        a, n = self.analytic[compared], self.numeric[compared]
        norm = max(float(np.linalg.norm(a)), float(np.linalg.norm(n)))
        told = self.wrong & ~np.isnan(self.slope)
        return TensorReport(
            self.name,
            self.gradient.shape,
            looked=len(rank),
            checked=int(compared.sum()),
            zeros=int(self.zero.sum()),
            kinks=int(self.kink.sum()),
            unresolved=int(self.unresolved.sum()),
            noisy=int(self.noisy.sum()),
            wrong=int(self.wrong.sum()),
            settled=int(self.settled.sum()),
            max_rel_error=0.0 if worst is None else float(self._relative_error()[worst]),
            index=() if worst is None else self.lines.index_of(worst),
            analytic=0.0 if worst is None else float(self.analytic[worst]),
            numeric=0.0 if worst is None else float(self.numeric[worst]),
            rel_error=float(np.linalg.norm(a - n)) / norm if norm else 0.0,
            slope=float(np.nanmedian(self.slope[self.wrong])) if told.any() else math.nan,
            usual=bool(np.all(np.abs(a - n) <= 1e-5 + 1e-3 * np.abs(n))),
            hint=self._hint(compared) if self.wrong.any() else NOISY if self.noisy.any() else "",
            kinks_at=tuple(self.lines.index_of(int(i)) for i in np.flatnonzero(self.kink)),
            unresolved_at=tuple(self.lines.index_of(int(i)) for i in np.flatnonzero(self.unresolved)),
        )

    def _hint(self, compared: npt.NDArray[np.bool_]) -> str:
        numeric = np.where(compared | self.zero, self.numeric, math.nan)
        x, lengths = self.probe.inputs[self.name], self.probe.batch_sizes
        if len(numeric) == self.gradient.size and self.lines.directions is None:
            shape = self.gradient.shape
            return hint(self.gradient, numeric.reshape(shape), self.wrong.reshape(shape), x, lengths)
        return hint(self.analytic, numeric, self.wrong, self.lines.slopes(x), lengths)


def judge(
    probe: Probe,
    name: str,
    gradient: FloatArray,
    lines: Lines,
    looked: Quotients,
    rtol: float,
    atol: float = 0.0,
    blur: float = 0.0,
) -> TensorReport:
    """Compare one tensor's gradient with its first looks, and take second ones where they are needed."""
    judgement = _Judgement(probe, name, gradient, lines, looked, rtol, atol, blur)
    judgement.look_again()
    return judgement.report()
