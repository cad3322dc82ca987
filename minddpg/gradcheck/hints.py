"""What a wrong gradient looks like, and the mistake that makes it look so."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..jit import FloatArray

ALIKE = 1e-3  # relative difference up to which two gradients, or two ratios, count as the same


def hint(
    analytic: FloatArray, numeric: FloatArray, wrong: npt.NDArray[np.bool_], x: FloatArray, batch_sizes: set[int]
) -> str:
    """The likeliest cause of a wrong gradient, in one line; empty where nothing known fits.

    analytic, numeric: of the tensor's shape, NaN where nothing was compared (or (M,) along M random directions).
    wrong: which of them differ. x: the tensor itself, for terms that are a multiple of it. batch_sizes: lengths that
    may be N.
    """
    compared = ~np.isnan(numeric)
    a, n = analytic[compared], numeric[compared]
    if not np.any(a):
        return "the gradient is zero everywhere and should not be: never written, detached, or a dropped bias"
    if not np.any(n):
        return "the function does not depend on this tensor here: detached on the way forward, or dead units"
    if np.all(wrong[compared] | ((a == 0) & (n == 0))):
        factor = float(a @ n / (a @ a))  # numeric = factor * analytic, by least squares
        if _alike(factor * a, n):
            return _of_a_factor(factor, batch_sizes)
    if analytic.ndim == 2 and compared.all():
        rows, columns = analytic.shape
        if rows == columns and _alike(analytic.T, numeric):
            return "the transposed gradient fits: dW = x^T dy, not dy^T x"
        if rows != columns and _alike(analytic.reshape(columns, rows).T, numeric):
            return "the transposed gradient fits: dW was written as (out, in) into memory laid out as (in, out)"
    if x.shape == analytic.shape:
        difference, weight = (analytic - numeric)[compared], x[compared]
        share = float(difference @ weight / (weight @ weight)) if np.any(weight) else 0.0
        if share and _alike(share * weight, difference):
            if share < 0:
                return f"{-share:.4g} times the tensor itself is missing: a weight decay left out of the gradient"
            return f"{share:.4g} times the tensor itself is too much: a weight decay that the function does not have"
    place = _place(analytic, wrong, compared)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (numeric / analytic)[wrong]
    between = np.all((ratio > 0) & (ratio < 1)) and len(ratio) > 1
    derivative = "too large by factors between 0 and 1: a local derivative is left out, such as tanh' = 1 - a^2"
    return "; ".join(part for part in (place, derivative if between else "") if part)


def _of_a_factor(factor: float, batch_sizes: set[int]) -> str:
    """numeric = factor * analytic in every element."""
    sign = "the sign is wrong, and " if factor < 0 else ""
    size = abs(factor)
    for n in sorted(batch_sizes - {0, 1}):
        if math.isclose(size, n, rel_tol=ALIKE):
            return f"{sign}too small by N = {n}: divided by the batch size twice"
        if math.isclose(size, 1 / n, rel_tol=ALIKE):
            return f"{sign}too large by N = {n}: a sum over the batch where the function takes the mean"
    if math.isclose(size, 1, rel_tol=ALIKE):
        return "the sign is wrong: ascent for descent, or a minus left out"
    if math.isclose(size, 2, rel_tol=ALIKE):
        return f"{sign}half of what it should be: the square's factor 2 is missing"
    if math.isclose(size, 0.5, rel_tol=ALIKE):
        return f"{sign}twice what it should be: a factor 2 for a loss with 1/2, or the gradient was added up twice"
    return f"{sign}a constant factor {size:.6g} is missing: a scale such as the action bound or a loss weight"


def _place(analytic: FloatArray, wrong: npt.NDArray[np.bool_], compared: npt.NDArray[np.bool_]) -> str:
    """Where all the wrong elements stand, when that is a part of the tensor."""
    if analytic.ndim == 0 or (wrong | ~compared).all():
        return ""
    for axis, name in zip(
        range(analytic.ndim), ("row", "column") if analytic.ndim == 2 else ("index",) * 9, strict=False
    ):
        others = tuple(i for i in range(analytic.ndim) if i != axis)
        hit = np.flatnonzero(wrong.any(axis=others))
        if 0 < len(hit) <= max(1, analytic.shape[axis] // 2) and wrong.sum() > 1:
            place = f"{name} {hit[0]}" if len(hit) == 1 else f"{name}s {', '.join(map(str, hit[:4]))}"
            what = "zero there" if not np.any(analytic[wrong]) else "the rest is right"
            return f"wrong only in {place}{', ...' if len(hit) > 4 else ''}: {what}"
    return ""


def _alike(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.linalg.norm(a - b) <= ALIKE * np.linalg.norm(b))
