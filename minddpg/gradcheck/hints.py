"""What a wrong gradient looks like, and the mistake that makes it look so."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray

ALIKE = 1e-3  # relative difference up to which two gradients, or two ratios, count as the same


def hint(
    analytic: FloatArray,
    numeric: FloatArray,
    wrong: npt.NDArray[np.bool_],
    x: FloatArray,
    is_batch_size: Callable[[int], bool],
    place: str | None = None,
) -> str:
    """The likeliest cause of a wrong gradient, in one line; empty where nothing known fits.

    analytic, numeric: of the tensor's shape, NaN where nothing was compared (or (M,) along M lines).
    wrong: which of them differ. x: the tensor itself, for terms that are a multiple of it. is_batch_size: whether a
    number is the length of a batch. place: where the wrong ones are, if that is known already; "" for all over.
    """
    compared = ~np.isnan(numeric)
    a, n = analytic[compared], numeric[compared]
    if place is None and not np.any(a):
        return "the gradient is zero everywhere and should not be: never written, detached, or a dropped bias"
    if not np.any(n):
        return "the function does not depend on this tensor here: detached on the way forward, or dead units"
    factor = float(a @ n / (a @ a)) if np.any(a) else 0.0  # numeric = factor * analytic, by least squares
    if place is None or not place:
        if factor and _explains(factor * a, a, n):
            return _of_a_factor(factor, is_batch_size)
        whole = _nearly_right(analytic[wrong], numeric[wrong]) or _of_the_whole(analytic, numeric, x, compared)
        if whole:
            return whole
    place = _place(analytic, wrong, compared) if place is None else place
    return "; ".join(part for part in (place, _local(analytic, numeric, wrong)) if part)


def _of_the_whole(analytic: FloatArray, numeric: FloatArray, x: FloatArray, compared: npt.NDArray[np.bool_]) -> str:
    """What shows in a tensor as a whole: transposed, summed over the units, a weight decay, a mean left out."""
    a, n = analytic[compared], numeric[compared]
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
    if compared.all():
        for axis in range(analytic.ndim - 1, -1, -1):
            if analytic.shape[axis] > 1 and _adds_up_to_zero(numeric, axis):
                along = ("each column", "each row")[axis] if analytic.ndim == 2 else f"each slice along axis {axis}"
                along = "it" if analytic.ndim == 1 else along
                if not _adds_up_to_zero(analytic, axis):
                    return (
                        f"{along} must add up to zero, as in front of a normalisation or a softmax, and does not: "
                        "the term of the mean (of the sum, for a softmax) is left out"
                    )
                if np.ptp(a) > 0:
                    return (
                        f"{along} adds up to zero, as it must in front of a normalisation or a softmax: the term of "
                        "the mean is there; gamma, or the term with the normalised input, may be left out"
                    )
    return ""


def _adds_up_to_zero(gradient: FloatArray, axis: int) -> bool:
    largest = np.abs(gradient).sum(axis).max()
    return bool(largest > 0) and bool(np.all(np.abs(gradient.sum(axis)) <= 1e-6 * largest))


def _nearly_right(a: FloatArray, n: FloatArray) -> str:
    size = np.maximum(np.abs(a), np.abs(n))
    apart = float(np.max(np.abs(a - n) / np.where(size > 0, size, 1.0), initial=0.0))
    if apart > ALIKE or len(a) < 2:
        return ""
    return (
        f"off by {apart:.0e} of itself at most: a small constant of the function that the gradient leaves out, such as "
        "the epsilon in a log, a root or a denominator, or float32 on the way"
    )


def _local(analytic: FloatArray, numeric: FloatArray, wrong: npt.NDArray[np.bool_]) -> str:
    """What the wrong elements alone say of a local derivative."""
    a, n = analytic[wrong], numeric[wrong]
    if np.sum((a == 0) & (n != 0)) > 1 and np.sum((n == 0) & (a != 0)) > 1:
        return "zero where it should not be, and not zero where it should be: a mask (ReLU's) of another array"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = n / a
    if len(ratio) > 1 and np.all((ratio > 0) & (ratio < 1)) and np.ptp(ratio) > ALIKE:
        return "too large by factors between 0 and 1: a local derivative is left out, such as tanh' = 1 - a^2"
    return ""


def _of_a_factor(factor: float, is_batch_size: Callable[[int], bool]) -> str:
    """numeric = factor * analytic in every element."""
    sign = "the sign is wrong, and " if factor < 0 else ""
    size = abs(factor)
    for n in (round(size), round(1 / size)):
        if n > 2 and math.isclose(size, n, rel_tol=ALIKE) and is_batch_size(n):
            return f"{sign}too small by N = {n}: divided by the batch size twice"
        if n > 2 and math.isclose(size, 1 / n, rel_tol=ALIKE) and is_batch_size(n):
            return f"{sign}too large by N = {n}: a sum over the batch where the function takes the mean"
    if math.isclose(size, 1, rel_tol=1e-9):
        return "the sign is wrong: ascent for descent, or a minus left out" if factor < 0 else ""
    if math.isclose(size, 1, rel_tol=ALIKE):
        return f"{sign}off by a factor {size:.9g}"
    if math.isclose(size, 2, rel_tol=ALIKE):
        return f"{sign}half of what it should be: the square's factor 2 is missing"
    if math.isclose(size, 0.5, rel_tol=ALIKE):
        return f"{sign}twice what it should be: a factor 2 for a loss with 1/2, or the gradient was added up twice"
    for n in (round(size), round(1 / size)):
        if n > 2 and math.isclose(size, n, rel_tol=ALIKE):
            return f"{sign}too small by a factor of {n}: a scale, or a mean over the wrong axis"
        if n > 2 and math.isclose(size, 1 / n, rel_tol=ALIKE):
            return f"{sign}too large by a factor of {n}: a scale, or a sum where the function takes a mean"
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
