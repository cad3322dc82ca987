"""What must hold of a backward whatever its formula is, and what finite differences at one point do not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .differences import Inputs
from .report import Check

Function = Callable[[Inputs], npt.ArrayLike]
Backward = Callable[..., Mapping[str, npt.ArrayLike]]
Arrays = dict[str, npt.NDArray[Any]]
SAME = 1e-10  # relative difference of norms that a different order of summation may make


def check_structure(
    function: Function, backward: Backward, inputs: Inputs, upstream: FloatArray | None, batch: tuple[str, ...]
) -> tuple[Arrays, dict[str, float], list[Check]]:
    """Run the backward in all the ways that tell.    -> its gradients, their float32 errors, the checks"""
    rng = np.random.default_rng(0)

    def run(at: Mapping[str, npt.NDArray[Any]], seed: npt.NDArray[Any] | None = upstream) -> Arrays:
        """The gradients at copies of these inputs."""
        copies = {name: array.copy() for name, array in at.items()}
        found = backward(copies) if seed is None else backward(copies, seed.copy())
        if not isinstance(found, Mapping):
            raise ValueError(f"backward must return gradients by name, like {{'x': dx}}, not {type(found).__name__}")
        gradients = {name: np.array(gradient) for name, gradient in found.items()}
        return {name: g.astype(np.float64) if g.dtype.kind in "iu" else g for name, g in gradients.items()}

    analytic = run(inputs)
    checks = [
        _deterministic(function, inputs),
        _repeats(run(inputs), analytic),
        _writes_nothing(function, backward, inputs, upstream),
        _keeps_float64(analytic),
    ]
    if upstream is not None:
        other = rng.standard_normal(upstream.shape)
        checks.append(_zero(run(inputs, np.zeros_like(upstream))))
        checks.append(linear(run(inputs, 2 * upstream - 3 * other), analytic, run(inputs, other)))
    if batch:
        checks += _batch_checks(function, run, analytic, inputs, upstream, batch, rng)
    narrow: Arrays = {}
    with np.errstate(all="ignore"), suppress(Exception):  # a backward that is for float64 alone is no mistake
        narrow = run({name: _narrow(array) for name, array in inputs.items()}, _narrow(upstream))
    errors = {name: difference(narrow[name], analytic[name]) for name in analytic if name in narrow}
    return analytic, errors, checks


def difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """|a - b| / |b| as norms over all elements; 0 where both are zero, infinite where the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    error, size = float(np.linalg.norm(np.subtract(a, b, dtype=np.float64))), float(np.linalg.norm(b))
    return error / size if size else math.inf if error else 0.0


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two arrays are equal to the last bit, NaN included."""
    return a.shape == b.shape and a.dtype == b.dtype and np.ascontiguousarray(a).tobytes() == b.tobytes()


def _narrow(array: Any) -> Any:
    return array if array is None or array.dtype.kind != "f" else array.astype(np.float32)


def holds_but_for(wrong: list[str], name: str, what: str) -> Check:
    """A check that holds unless something is in `wrong`."""
    shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    return Check(name, not wrong, f"{shown} {what}".rstrip() if wrong else "")


def _deterministic(function: Function, inputs: Inputs) -> Check:
    first, second = (np.array(function({k: v.copy() for k, v in inputs.items()})) for _ in range(2))
    detail = "" if same_bits(first, second) else "two calls differ: draw random numbers (dropout, noise) outside of it"
    return Check("the function gives the same value twice", not detail, detail)


def _repeats(again: Arrays, analytic: Arrays) -> Check:
    wrong = [name for name in analytic if not same_bits(again[name], analytic[name])]
    return holds_but_for(
        wrong, "backward called twice is bit-equal", "changed: gradients added up, or state kept between calls"
    )


def _writes_nothing(function: Function, backward: Backward, inputs: Inputs, upstream: FloatArray | None) -> Check:
    copies = {name: array.copy() for name, array in inputs.items()}
    function(copies)
    by_function = [name for name in inputs if not same_bits(copies[name], inputs[name])]
    copies = {name: array.copy() for name, array in inputs.items()}
    if upstream is None:
        backward(copies)
        by_backward = []
    else:
        seed = upstream.copy()
        backward(copies, seed)
        by_backward = [] if same_bits(seed, upstream) else ["upstream"]
    by_backward += [name for name in inputs if not same_bits(copies[name], inputs[name])]
    written = [f"{name} (by the function)" for name in by_function] + [f"{name} (by backward)" for name in by_backward]
    return holds_but_for(written, "inputs, parameters and upstream are not written", "written")


def _keeps_float64(gradients: Arrays) -> Check:
    wrong = [f"{name} ({array.dtype})" for name, array in gradients.items() if array.dtype != np.float64]
    return holds_but_for(wrong, "float64 in, float64 gradients out", "of another dtype")


def _zero(gradients: Arrays) -> Check:
    wrong = [name for name, gradient in gradients.items() if np.any(gradient)]
    return holds_but_for(
        wrong, "zero upstream gives zero gradients", "not zero: something is added whatever the upstream is"
    )


def linear(combined: Arrays, first: Arrays, second: Arrays) -> Check:
    """combined: the gradients under 2 u - 3 v, first under u, second under v."""
    wrong = []
    for name, gradient in combined.items():
        expected = 2 * first[name] - 3 * second[name]
        size = 2 * np.linalg.norm(first[name]) + 3 * np.linalg.norm(second[name])
        if np.linalg.norm(gradient - expected) > SAME * size:
            wrong.append(name)
    return holds_but_for(wrong, "gradients are linear in upstream", "not: upstream is ignored, clipped or used twice")


def _batch_checks(
    function: Function,
    run: Callable[..., Arrays],
    analytic: Arrays,
    inputs: Inputs,
    upstream: FloatArray | None,
    batch: tuple[str, ...],
    rng: np.random.Generator,
) -> list[Check]:
    checks = []
    # Three times, not twice: halving is exact in any precision, and would not show a float32 on the way.
    rows = len(inputs[batch[0]])
    tripled = {k: np.concatenate([v] * 3) if k in batch else v for k, v in inputs.items()}
    seeds: tuple[FloatArray, ...] = ()
    if upstream is not None:
        seeds = (np.concatenate([upstream] * 3) if upstream.shape[:1] == (rows,) else upstream,)
    value = float(np.sum((1.0 if upstream is None else upstream) * np.asarray(function(dict(inputs)))))
    thrice = float(np.sum((seeds[0] if seeds else 1.0) * np.asarray(function(dict(tripled)))))
    growth = next((g for g in (1.0, 3.0) if math.isclose(thrice, g * value, rel_tol=1e-9)), None)
    if growth is None or value == 0:
        checks.append(Check("the gradient of a tripled batch", True, "not made: the function is no mean and no sum"))
    else:
        found, wrong, factor = run(tripled, *seeds), [], 1.0
        for name, gradient in analytic.items():
            # Each copy of a row gets its share of growth; a parameter gets all of it.
            expected = np.concatenate([gradient] * 3) * growth / 3 if name in batch else growth * gradient
            if difference(found[name], expected) > SAME:
                wrong.append(name)
                factor = float(np.linalg.norm(expected)) / max(float(np.linalg.norm(found[name])), 1e-300)
        kind = "the same, for a mean" if growth == 1 else "three times as large, for a sum"
        checks.append(
            holds_but_for(wrong, f"the gradient of a tripled batch is {kind}", f"not: off by a factor {factor:.3g}")
        )
    if rows > 1 and any(name in batch for name in analytic):
        moved, wrong, last = {k: v.copy() for k, v in inputs.items()}, [], rows - 1
        for name in batch:
            moved[name][last] += rng.standard_normal(moved[name][last].shape)
        found = run(moved)
        for name in analytic:
            if name in batch and difference(found[name][:last], analytic[name][:last]) > SAME:
                wrong.append(name)
        checks.append(
            holds_but_for(
                wrong,
                "row i of an input's gradient depends on row i only",
                "not: rows are mixed by a broadcast of (N, 1) with (N,), or by statistics of the batch",
            )
        )
    return checks
