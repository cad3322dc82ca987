"""Finite differences against hand-written gradients, in float64, with no absolute tolerance to hide behind.

    |analytic - numeric| <= rtol max(|analytic|, |numeric|) + error of the finite difference

The error is what rounding does to the quotient (see differences.py). Where it exceeds rtol, larger steps bring it
down; an element where it stays above a thousandth is unresolved: counted and named, and more than 1 % of them in a
tensor is a failure, as is a tensor where nothing was compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .differences import STEP, Inputs, Lines, Measure, Probe, is_resolved, measure, refine, second_look
from .hints import hint
from .report import Check, Report, TensorReport
from .structure import Backward, check_structure

Mode = Literal["full", "sample", "directions"]
Gradients = Mapping[str, npt.ArrayLike]
WORDS = ("right", "wrong", "zero", "kink", "noisy", "unresolved")
SAMPLES = 32  # elements per tensor
DIRECTIONS = 8  # per tensor
NOISY = "the function jitters: it computes in float32 somewhere, draws random numbers, or large terms in it cancel"
WORST_LOOKED_AT = 4  # second looks at a tensor's wrong elements; where all of them stay wrong, so do the others
KINKS_LOOKED_AT = 256  # second looks at a tensor's elements on kinks


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
    inputs: arrays by name. The check runs on float64 copies; arrays of whole numbers and bools without a gradient
    (labels, masks) keep their dtype.
    gradients: dloss/dinput by name for the tensors to check (not necessarily all), each of its tensor's shape; or,
    better, the backward itself, a function of (inputs), or of (inputs, upstream) where there is an upstream, that
    returns them. It is then run on the float64 copies, its float32 error is stated, and the structural checks are made
    that finite differences miss (see structure.py). Arrays of float32 are compared as exactly as float32 allows.
    mode: "full" checks every element. "sample" checks up to `samples` elements of every tensor, from all over its rows
    and columns, the largest among them. "directions" checks the slope along `directions` random directions of each
    tensor: two evaluations each however large the tensor is, but an element that is small beside the others may be
    wrong unseen.
    rtol: relative error allowed, per element. atol: absolute error allowed; leave it at 0 unless you know the scale.
    seed: of the sample and the directions.
    pattern: for piecewise functions, which branch each element takes (a ReLU's mask) as a bool array; elements whose
    steps all change it stand on a kink and are counted instead of compared. Without it, kinks are found by five points.
    batch: names of the inputs whose first axis is the batch, for functions that treat its rows independently; adds
    the checks that no row leaks into another's gradient and that a tripled batch does not change a mean's.

    Raises ValueError for shapes that do not fit, dtypes that are not numbers, NaN, and names that are unknown.
    """
    check_options(mode, samples, directions, rtol, atol)
    batch = (batch,) if isinstance(batch, str) else tuple(batch)
    arrays = _arrays(inputs, gradients)
    weights = _float64("upstream", 1.0 if upstream is None else upstream)
    lengths = {arrays[name].shape[:1] for name in batch if name in arrays}
    if any(name not in arrays for name in batch) or len(lengths) > 1 or () in lengths:
        raise ValueError(f"batch must name inputs whose first axes are equally long, not {', '.join(batch)}")
    probe = Probe(function, arrays, weights, pattern)
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
    batch_sizes = {n for array in known for n in array.shape[:1]}
    rng = np.random.default_rng(seed)
    tensors = []
    for name, gradient in analytic.items():
        checked = _checked_gradient(name, gradient, arrays)
        lines = choose_lines(checked, mode, samples, directions, rng)
        look = partial(measure, probe, name, lines)
        tensor = Judgement(probe, name, checked, lines, look, rtol, atol, _blur(gradient), batch_sizes).report()
        tensors.append(replace(tensor, float32_error=float32_errors.get(name, math.nan)))
    unchecked = tuple(name for name, array in arrays.items() if name not in analytic and array.dtype.kind == "f")
    return Report(tuple(tensors), tuple(checks), rtol, atol, mode, unchecked)


def check_options(mode: str, samples: int, directions: int, rtol: float, atol: float = 0.0) -> None:
    """Raises ValueError for options that make no sense."""
    if mode not in ("full", "sample", "directions"):
        raise ValueError(f"mode must be full, sample or directions, not {mode!r}")
    if samples < 1 or directions < 1 or not 0 <= rtol < 1 or not 0 <= atol < math.inf:
        raise ValueError("samples and directions must be 1 or more, rtol in [0, 1), atol 0 or more")


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


def _arrays(inputs: Mapping[str, npt.ArrayLike], gradients: Gradients | Backward) -> Inputs:
    """Copies of the inputs: in float64, but for whole numbers and bools that nobody wants a gradient of."""
    for what, given in (("inputs", inputs), ("gradients", gradients)):
        if not isinstance(given, Mapping) and not (what == "gradients" and callable(given)):
            raise ValueError(f"{what} must be arrays by name, like {{'x': x}}, not {type(given).__name__}")
    wanted = () if callable(gradients) else gradients
    arrays = {}
    for name, value in inputs.items():
        kept = np.asarray(value).dtype.kind in "iub" and name not in wanted
        arrays[name] = np.array(value) if kept else _float64(name, value)
    return arrays


def _float64(name: str, value: npt.ArrayLike) -> FloatArray:
    """A float64 copy."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype}, but must hold real numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a NaN or an infinity")
    return np.array(array, np.float64)


def _checked_gradient(name: str, gradient: npt.ArrayLike, arrays: Inputs) -> FloatArray:
    """The gradient of an input in float64. Raises ValueError where it does not fit."""
    if name not in arrays:
        raise ValueError(f"there is a gradient of {name}, but no input of that name; inputs: {', '.join(arrays)}")
    if np.shape(gradient) != arrays[name].shape:
        raise ValueError(
            f"the gradient of {name} has shape {np.shape(gradient)}, but {name} has shape {arrays[name].shape}"
        )
    if arrays[name].dtype.kind != "f":
        raise ValueError(f"there is a gradient of {name}, which holds {arrays[name].dtype}; give it as floats")
    return _float64(f"the gradient of {name}", gradient)


def _blur(gradient: npt.ArrayLike) -> float:
    """What a gradient of float32 does not know itself: some last bits of its largest element."""
    array = np.asarray(gradient)
    if array.dtype.kind != "f" or array.dtype.itemsize >= 8 or array.size == 0:
        return 0.0
    return 8 * float(np.finfo(array.dtype).eps) * float(np.abs(array).max())


def choose_lines(gradient: FloatArray, mode: Mode, samples: int, directions: int, rng: np.random.Generator) -> Lines:
    """The elements or directions to look at."""
    shape, size = gradient.shape, gradient.size
    if mode == "directions" and size:
        drawn = rng.standard_normal((directions, *shape))
        norms = np.linalg.norm(drawn.reshape(directions, -1), axis=1)
        return Lines(shape, np.arange(directions), drawn / norms.reshape(-1, *[1] * len(shape)))
    if mode != "sample" or size <= samples:
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


class Judgement:
    """One tensor's gradient, line by line. state: right, wrong, zero, kink, noisy or unresolved."""

    def __init__(
        self,
        probe: Probe,
        name: str,
        gradient: FloatArray,
        lines: Lines,
        look: Measure,
        rtol: float,
        atol: float,
        blur: float,
        batch_sizes: set[int],
    ):
        """look: first looks at lines. blur: rounding error of the gradient itself. batch_sizes: for hints."""
        self.probe, self.name, self.gradient, self.lines = probe, name, gradient, lines
        self.tolerances, self.batch_sizes = (rtol, atol, blur), batch_sizes
        self.analytic, count = lines.slopes(gradient), len(lines.numbers)
        first = look(np.arange(count), STEP)
        self.numeric, self.error = refine(look, first, self.analytic, rtol)
        self.slope = np.full(count, math.nan)
        size = np.maximum(np.abs(self.analytic), np.abs(self.numeric))
        near = np.abs(self.analytic - self.numeric) <= rtol * size + atol + self.error + blur
        self.state = np.full(count, "unresolved")
        self.state[near & (is_resolved(self.error, blur, size) | (atol > 0))] = "right"
        self.state[~near] = "wrong"
        self.state[size == 0] = "zero"
        self.state[first.kinked] = "kink"
        self._look_again()

    def _look_again(self) -> None:
        suspects = np.flatnonzero(self.state == "wrong")
        suspects = suspects[np.argsort(-self._relative_error()[suspects], kind="stable")]
        if any([self._second_look(i) != "wrong" for i in suspects[:WORST_LOOKED_AT]]):
            for i in suspects[WORST_LOOKED_AT:]:
                self._second_look(i)
        for i in np.flatnonzero(self.state == "kink")[:KINKS_LOOKED_AT]:
            self._second_look(i)

    def _second_look(self, i: np.intp) -> str:
        again = second_look(self.probe, self.name, self.lines.where(int(i)), float(self.analytic[i]), *self.tolerances)
        self.state[i], self.slope[i] = again.word, again.slope
        if not math.isnan(again.numeric):
            self.numeric[i], self.error[i] = again.numeric, again.error
        return again.word

    def _relative_error(self) -> FloatArray:
        size = np.maximum(np.abs(self.analytic), np.abs(self.numeric))
        return np.divide(np.abs(self.analytic - self.numeric), size, out=np.zeros_like(size), where=size > 0)

    def report(self) -> TensorReport:
        """The row of the table."""
        count = {word: int(np.sum(self.state == word)) for word in WORDS}
        wrong, compared = self.state == "wrong", (self.state == "right") | (self.state == "wrong")
        rank = np.where(compared | (self.state == "noisy"), self._relative_error() + wrong, -1.0)
        worst = int(np.argmax(rank)) if len(rank) and rank.max() >= 0 else None
        a, n, told = self.analytic[compared], self.numeric[compared], wrong & ~np.isnan(self.slope)
        size = np.maximum(np.abs(a), np.abs(n))
        tolerance = self.tolerances[0] + (self.error[compared] + self.tolerances[1]) / np.maximum(size, 1e-300)
        norm = max(float(np.linalg.norm(a)), float(np.linalg.norm(n)))
        return TensorReport(
            self.name,
            self.gradient.shape,
            looked=len(rank),
            checked=int(compared.sum()),
            zeros=count["zero"],
            kinks=count["kink"],
            unresolved=count["unresolved"],
            noisy=count["noisy"],
            wrong=count["wrong"],
            max_rel_error=0.0 if worst is None else float(self._relative_error()[worst]),
            tolerance=float(tolerance[~wrong[compared]].max(initial=0.0)),
            index=() if worst is None else self.lines.index_of(worst),
            analytic=0.0 if worst is None else float(self.analytic[worst]),
            numeric=0.0 if worst is None else float(self.numeric[worst]),
            rel_error=float(np.linalg.norm(a - n)) / norm if norm else 0.0,
            slope=float(np.median(self.slope[told])) if told.any() else math.nan,
            usual=bool(np.all(np.abs(a - n) <= 1e-5 + 1e-3 * np.abs(n))),
            hint=self._hint(),
            kinks_at=tuple(self.lines.index_of(int(i)) for i in np.flatnonzero(self.state == "kink")),
            unresolved_at=tuple(self.lines.index_of(int(i)) for i in np.flatnonzero(self.state == "unresolved")),
        )

    def _hint(self) -> str:
        wrong = self.state == "wrong"
        if not wrong.any():
            return NOISY if np.any(self.state == "noisy") else ""
        known = wrong | (self.state == "right") | (self.state == "zero")
        numeric, x = np.where(known, self.numeric, math.nan), self.probe.inputs[self.name]
        if len(numeric) == self.gradient.size and self.lines.directions is None:
            shape = self.gradient.shape
            return hint(self.gradient, numeric.reshape(shape), wrong.reshape(shape), x, self.batch_sizes)
        return hint(self.analytic, numeric, wrong, self.lines.slopes(x), self.batch_sizes)
