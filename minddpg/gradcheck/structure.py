"""What must hold of a backward whatever its formula is, and what finite differences at one point do not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .differences import EPS, FLOAT64, Inputs, Precision, output_array
from .report import Check

Function = Callable[[Inputs], npt.ArrayLike]
Backward = Callable[..., Mapping[str, npt.ArrayLike]]
Arrays = dict[str, npt.NDArray[Any]]
SAME = 1e-10  # relative difference of norms that a different order of summation may make
SAME_FLOAT32 = 1e-3
ROUNDING = 100.0  # the same, as a multiple of what a change of the inputs' last bits makes
NOT_WRITTEN = "inputs, parameters and upstream are not written"


class Structure:
    """A backward and all the ways to run it that tell. The function runs before it: layers may keep what it needs."""

    def __init__(
        self,
        function: Function,
        backward: Backward,
        inputs: Inputs,
        upstream: FloatArray | None,
        constants: tuple[str, ...] = (),
        precision: Precision = FLOAT64,
    ):
        self.function, self.backward, self.inputs = function, backward, inputs
        self.upstream, self.constants = upstream, constants
        self.wide = precision is FLOAT64
        self.tolerance = SAME if self.wide else SAME_FLOAT32
        self.analytic = self.run(inputs)
        self._floors: dict[str, float] | None = None

    def run(self, at: Mapping[str, npt.NDArray[Any]], seed: Any = None) -> Arrays:
        """The gradients at copies of these inputs; under the check's own upstream unless another one is given."""
        seed = self.upstream if seed is None else seed
        self.function(copies(at))
        found = self.backward(copies(at)) if seed is None else self.backward(copies(at), seed.copy())
        if not isinstance(found, Mapping):
            raise ValueError(f"backward must return gradients by name, like {{'x': dx}}, not {type(found).__name__}")
        gradients = {name: gradient_array(name, gradient) for name, gradient in found.items()}
        return {name: g.astype(np.float64) if g.dtype.kind in "iu" else g for name, g in gradients.items()}

    def differ(self, name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any], size: float = 1.0) -> bool:
        """Whether these are two gradients of an input, and not one with other rounding. size: of the terms added up."""
        if found.shape != expected.shape:
            return True
        apart = float(np.linalg.norm(np.subtract(found, expected, dtype=np.float64)))
        if apart <= self.tolerance * float(np.linalg.norm(expected)):
            return False
        return not apart <= ROUNDING * size * self.rounding_of(name)

    def rounding_of(self, name: str) -> float:
        """What the last bits of the inputs make of a gradient, as a norm; found out when first asked for."""
        if self._floors is None:
            self._floors = dict.fromkeys(self.analytic, 0.0)
            rng = np.random.default_rng(1)
            for _ in range(3):
                shaken = {
                    k: v * (1 + 4 * EPS * rng.standard_normal(v.shape)) if v.dtype == np.float64 else v
                    for k, v in self.inputs.items()
                }
                for key, gradient in self.run(shaken).items():
                    if key in self.analytic and gradient.shape == self.analytic[key].shape:
                        apart = float(np.linalg.norm(np.subtract(gradient, self.analytic[key], dtype=np.float64)))
                        self._floors[key] = max(self._floors[key], apart)
        return self._floors[name]

    def float32_errors(self) -> dict[str, float]:
        """Of the same gradients computed in float32, relative, as norms; none of a gradient that is rounding alone."""
        narrow: Arrays = {}
        with np.errstate(all="ignore"), suppress(Exception):  # a backward that is for float64 alone is no mistake
            seed = None if self.upstream is None else self.upstream.astype(np.float32)
            narrow = self.run({name: _narrow(array) for name, array in self.inputs.items()}, seed)
        errors = {}
        for name, gradient in self.analytic.items():
            if name in narrow:
                errors[name] = difference(narrow[name], gradient)
                if errors[name] > 1 and np.linalg.norm(gradient) <= ROUNDING * self.rounding_of(name):
                    errors[name] = math.nan
        return errors

    def checks(self, batch: tuple[str, ...]) -> list[Check]:
        """All of them."""
        rng = np.random.default_rng(0)
        checks = [self._deterministic(), self._repeats(), self._writes_nothing()]
        if self.wide:
            checks.append(self._keeps_float64())
        if self.upstream is not None:
            size = float(np.sqrt(np.mean(np.square(self.upstream)))) if self.upstream.size else 1.0
            other = np.asarray((size or 1.0) * rng.standard_normal(self.upstream.shape), self.upstream.dtype)
            checks.append(_zero(self.run(self.inputs, np.zeros_like(self.upstream))))
            combined = self.run(self.inputs, 2 * self.upstream - 3 * other)
            checks.append(linear(combined, self.analytic, self.run(self.inputs, other), self.differ))
        return checks + (self._batch(batch, rng) if batch else [])

    def _deterministic(self) -> Check:
        first, second = (output_array(self.function(copies(self.inputs))) for _ in range(2))
        told = (
            "" if same_bits(first, second) else "two calls differ: draw random numbers (dropout, noise) outside of it"
        )
        return Check("the function gives the same value twice", not told, told)

    def _repeats(self) -> Check:
        again = self.run(self.inputs)
        wrong = [name for name in self.analytic if name not in again or not same_bits(again[name], self.analytic[name])]
        return holds_but_for(
            wrong, "backward called twice is bit-equal", "changed: gradients added up, or state kept between calls"
        )

    def _writes_nothing(self) -> Check:
        given, seed = copies(self.inputs), None if self.upstream is None else self.upstream.copy()
        self.function(copies(self.inputs))
        _ = self.backward(given) if seed is None else self.backward(given, seed)
        wrong = [] if seed is None or same_bits(seed, np.asarray(self.upstream)) else ["upstream"]
        wrong += written(given, self.inputs)
        return holds_but_for([f"{name} (by backward)" for name in wrong], NOT_WRITTEN, "written")

    def _keeps_float64(self) -> Check:
        wrong = [f"{name} ({array.dtype})" for name, array in self.analytic.items() if array.dtype != np.float64]
        return holds_but_for(wrong, "float64 in, float64 gradients out", "of another dtype")

    # --- the batch ----------------------------------------------------------------------------------------------------

    def _batch(self, batch: tuple[str, ...], rng: np.random.Generator) -> list[Check]:
        # Three times, not twice: halving is exact in any precision, and would not show a float32 on the way.
        axis, growth = self._growth(batch)
        rows = self.inputs[batch[0]].shape[axis]
        if growth is None:
            checks = [Check("the gradient of a tripled batch", True, "not made: the function is no mean and no sum")]
        else:
            try:
                found = self.run(tripled(self.inputs, batch, axis), _tripled_upstream(self.upstream, rows, axis))
            except Exception as error:
                raise _while_tripling(batch, axis, error) from error
            wrong, off = [], 0.0
            for name, gradient in self.analytic.items():
                # Each copy of a row gets its share of growth; a parameter gets all of it.
                share = np.concatenate([gradient] * 3, axis) * growth / 3 if name in batch else growth * gradient
                if name not in found or self.differ(name, found[name], share, 10.0):
                    wrong.append(name)
                    off = max(off, difference(found[name], share) if name in found else math.inf)
            kind = "the same, for a mean" if growth == 1 else "three times as large, for a sum"
            cause = "a sum for a mean, or divided by N twice" if off > 1e-3 else "float32 on the way"
            checks = [holds_but_for(wrong, f"the gradient of a tripled batch is {kind}", f"off by {off:.1g}: {cause}")]
        movable = [name for name in batch if self.inputs[name].dtype.kind == "f" and name not in self.constants]
        if rows > 1 and any(name in movable for name in self.analytic):
            moved, wrong, others = copies(self.inputs), [], range(rows - 1)
            for name in movable:
                last = np.moveaxis(moved[name], axis, 0)[-1:]
                size = float(np.sqrt(np.mean(np.square(moved[name])))) or 1.0
                last += np.asarray(size * rng.standard_normal(last.shape), last.dtype)
            found = self.run(moved)
            for name in movable:
                if name in self.analytic and name in found:
                    before, after = self.analytic[name].take(others, axis), found[name].take(others, axis)
                    wrong += [name] if self.differ(name, after, before) else []
            checks.append(
                holds_but_for(
                    wrong,
                    "row i of an input's gradient depends on row i only",
                    "not: rows are mixed by a broadcast of (N, 1) with (N,), or by statistics of the batch",
                )
            )
        return checks

    def _growth(self, batch: tuple[str, ...]) -> tuple[int, float | None]:
        """-> the batch's axis, and by what a tripled batch multiplies the function: 1, 3, or None for neither."""
        failed: ValueError | None = None
        axes = batch_axes([self.inputs[name] for name in batch])
        for axis in axes:
            try:
                growth = growth_when_tripled(self.function, self.inputs, self.upstream, batch, axis)
            except Exception as error:
                failed = failed or _while_tripling(batch, axis, error)
                continue
            if growth is not None or axis == axes[-1]:
                return axis, growth
        assert failed is not None
        raise failed


def _while_tripling(batch: tuple[str, ...], axis: int, error: Exception) -> ValueError:
    where = "first" if axis == 0 else "last"
    return ValueError(
        f"while tripling the batch ({', '.join(batch)} along their {where} axis), the function or backward failed: "
        f"{type(error).__name__}: {error}"
    )


def batch_axes(arrays: list[npt.NDArray[Any]]) -> list[int]:
    """Along which axis these may hold a batch: the first, where all are as long there, or the last (columns)."""
    axes = []
    if all(array.ndim for array in arrays) and len({array.shape[0] for array in arrays}) == 1:
        axes.append(0)
    if all(array.ndim > 1 for array in arrays) and len({array.shape[-1] for array in arrays}) == 1:
        axes.append(-1)
    return axes


def tripled(inputs: Mapping[str, npt.NDArray[Any]], batch: tuple[str, ...], axis: int) -> Arrays:
    """Copies of the inputs, those of the batch three times along its axis."""
    return {k: np.concatenate([v] * 3, axis) if k in batch else v.copy() for k, v in inputs.items()}


def _tripled_upstream(upstream: FloatArray | None, rows: int, axis: int) -> FloatArray | None:
    if upstream is None or upstream.ndim < (1 if axis == 0 else 2) or upstream.shape[axis] != rows:
        return upstream
    return np.concatenate([upstream] * 3, axis)


def growth_when_tripled(
    function: Function, inputs: Inputs, upstream: FloatArray | None, batch: tuple[str, ...], axis: int
) -> float | None:
    """By what a tripled batch multiplies sum(upstream * function): 1 for a mean, 3 for a sum, None for neither."""
    rows = inputs[batch[0]].shape[axis]
    once = output_array(function(copies(inputs)))
    thrice = output_array(function(tripled(inputs, batch, axis)))
    seed = _tripled_upstream(upstream, rows, axis)
    value = float(np.sum((1.0 if upstream is None else upstream) * once))
    more = float(np.sum((1.0 if seed is None else seed) * thrice))
    near = 1e-4 if any(v.dtype == np.float32 for v in inputs.values()) else 1e-9
    size = float(np.sum(np.abs((1.0 if upstream is None else upstream) * once)))
    if size == 0:
        return None
    return next((g for g in (1.0, 3.0) if abs(more - g * value) <= near * size), None)


def copies(inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Of every array."""
    return {name: array.copy() for name, array in inputs.items()}


def written(given: Mapping[str, npt.NDArray[Any]], originals: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """Which of the arrays given to a function are no longer what they were."""
    return [name for name, array in originals.items() if name not in given or not same_bits(given[name], array)]


def gradient_array(name: str, gradient: Any) -> npt.NDArray[Any]:
    """A gradient as an array. Raises ValueError with its name and what to do."""
    if gradient is None:
        raise ValueError(f"the gradient of {name} is None: it was not computed, or not returned")
    if isinstance(gradient, tuple) and len(gradient) == 2 and np.ndim(gradient[0]) and np.ndim(gradient[1]):
        raise ValueError(
            f"the gradient of {name} is a pair of arrays; if these are indices and values, make it dense: "
            f"d = np.zeros_like({name}); np.add.at(d, indices, values)"
        )
    if hasattr(gradient, "toarray"):
        raise ValueError(f"the gradient of {name} is a sparse {type(gradient).__name__}: give its .toarray()")
    try:
        array = np.array(gradient)
    except ValueError as error:
        raise ValueError(f"the gradient of {name} is no array: {error}") from error
    if array.dtype.kind not in "fiubc":
        raise ValueError(f"the gradient of {name} holds {array.dtype}, but must hold real numbers")
    return array


def difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """|a - b| / |b| as norms over all elements; 0 where both are zero, infinite where the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    error, size = float(np.linalg.norm(np.subtract(a, b, dtype=np.float64))), float(np.linalg.norm(b))
    return error / size if size else math.inf if error else 0.0


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two arrays are equal to the last bit, NaN included."""
    return a.shape == b.shape and a.dtype == b.dtype and np.ascontiguousarray(a).tobytes() == b.tobytes()


def _narrow(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def holds_but_for(wrong: list[str], name: str, what: str) -> Check:
    """A check that holds unless something is in `wrong`."""
    shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    return Check(name, not wrong, f"{shown} {what}".rstrip() if wrong else "")


def _zero(gradients: Arrays) -> Check:
    wrong = [name for name, gradient in gradients.items() if np.any(gradient)]
    return holds_but_for(
        wrong, "zero upstream gives zero gradients", "not zero: something is added whatever the upstream is"
    )


def linear(
    combined: Arrays,
    first: Arrays,
    second: Arrays,
    differ: Callable[[str, npt.NDArray[Any], npt.NDArray[Any], float], bool] | None = None,
) -> Check:
    """combined: the gradients under 2 u - 3 v, first under u, second under v. differ: beyond rounding, by name."""
    wrong = []
    for name, gradient in combined.items():
        expected = 2 * first[name] - 3 * second[name]
        size = 2 * np.linalg.norm(first[name]) + 3 * np.linalg.norm(second[name])
        if np.linalg.norm(gradient - expected) > SAME * size and (
            differ is None or differ(name, gradient, expected, 10.0)
        ):
            wrong.append(name)
    return holds_but_for(wrong, "gradients are linear in upstream", "not: upstream is ignored, clipped or used twice")
