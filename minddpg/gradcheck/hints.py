"""What a wrong gradient looks like, and the mistake that makes it look so."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray

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
    factor = float(a @ n / (a @ a))  # numeric = factor * analytic, by least squares
    if _explains(factor * a, a, n):
        return _of_a_factor(factor, batch_sizes)
    if len(a) > 1 and np.ptp(a) == 0 and math.isclose(float(a[0]), float(n.sum()), rel_tol=ALIKE):
        return "all elements are the same: summed over the units too"
    if analytic.ndim == 2 and min(analytic.shape) > 1 and compared.all():
        rows, columns = analytic.shape
        if rows == columns and _explains(analytic.T, analytic, numeric):
            return "the transposed gradient fits: dW = x^T dy, not dy^T x"
        if rows != columns and _explains(analytic.reshape(columns, rows).T, analytic, numeric):
            return "the transposed gradient fits: dW was written as (out, in) into memory laid out as (in, out)"
    if x.shape == analytic.shape:
        difference, weight = (analytic - numeric)[compared], x[compared]
        share = float(difference @ weight / (weight @ weight)) if np.any(weight) else 0.0
        if share and _explains(a - share * weight, a, n):
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
    for n in sorted(batch_sizes - {0, 1, 2}):
        if math.isclose(size, n, rel_tol=ALIKE):
            return f"{sign}too small by N = {n}: divided by the batch size twice"
        if math.isclose(size, 1 / n, rel_tol=ALIKE):
            return f"{sign}too large by N = {n}: a sum over the batch where the function takes the mean"
    if math.isclose(size, 1, rel_tol=ALIKE):
        return "the sign is wrong: ascent for descent, or a minus left out" if factor < 0 else ""
    if math.isclose(size, 2, rel_tol=ALIKE):
        return f"{sign}half of what it should be: the square's factor 2 is missing"
    if math.isclose(size, 0.5, rel_tol=ALIKE):
        return f"{sign}twice what it should be: a factor 2 for a loss with 1/2, or the gradient was added up twice"
    return f"{sign}a constant factor {size:.6g} is missing: a scale such as the action bound or a loss weight"


def _place(analytic: FloatArray, wrong: npt.NDArray[np.bool_], compared: npt.NDArray[np.bool_]) -> str:
    """Where all the wrong elements stand, when that is a part of the tensor."""
    if analytic.ndim == 0 or (wrong | ~compared).all():
        return ""
    if wrong.sum() == 1 and analytic.size > 1:
        return f"wrong only at {tuple(int(i) for i in np.argwhere(wrong)[0])}: the rest is right"
    for axis in range(analytic.ndim):
        name = ("row", "column")[axis] if analytic.ndim == 2 else "element"
        others = tuple(i for i in range(analytic.ndim) if i != axis)
        hit = np.flatnonzero(wrong.any(axis=others))
        if 0 < len(hit) <= analytic.shape[axis] // 2:
            place = ", ".join(map(str, hit[:4])) + (", ..." if len(hit) > 4 else "")
            plural = "" if len(hit) == 1 else "s"
            what = "zero there" if not np.any(analytic[wrong]) else "the rest is right"
            return f"wrong only in {name}{plural} {place}: {what}"
    return ""


def _explains(corrected: FloatArray, analytic: FloatArray, numeric: FloatArray) -> bool:
    """Whether a corrected gradient fits, and takes away nearly all of the error there was."""
    left = float(np.linalg.norm(corrected - numeric))
    return left <= ALIKE * float(np.linalg.norm(numeric)) and left <= 0.05 * float(np.linalg.norm(analytic - numeric))
