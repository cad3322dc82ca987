"""Where in a large tensor a wrong gradient is wrong: bisection of a direction, along each axis."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .differences import Probe

BLOCKS = 8  # an axis is cut into first; where most are wrong, it is wrong all over
MOST_PLACES = 4  # along an axis; more are "all over"


def locate(
    probe: Probe, name: str, gradient: FloatArray, direction: FloatArray, rtol: float, samples: int
) -> tuple[npt.NDArray[np.int64], str]:
    """Elements (flat indices, at most `samples`) where a gradient is wrong that is wrong along this direction.

    -> also in words, where that is a part of the tensor; "" where it is wrong all over.
    """
    places = [_wrong_along(probe, name, gradient, direction, axis, rtol) for axis in range(gradient.ndim)]
    axes = [np.arange(n) if p is None else np.array(p) for n, p in zip(gradient.shape, places, strict=True)]
    rng = np.random.default_rng(0)
    total = math.prod(len(axis) for axis in axes)
    picked = np.arange(total) if total <= samples else rng.choice(total, samples, replace=False)
    where = np.unravel_index(picked, [len(axis) for axis in axes])
    numbers = np.ravel_multi_index(tuple(axis[w] for axis, w in zip(axes, where, strict=True)), gradient.shape)
    block = gradient[np.ix_(*axes)]
    return np.asarray(numbers, np.int64), _in_words(places, gradient.ndim, bool(np.any(block)))


def _wrong_along(
    probe: Probe, name: str, gradient: FloatArray, direction: FloatArray, axis: int, rtol: float
) -> list[int] | None:
    """The indices along an axis that are wrong; None where these are many."""
    found: list[int] = []

    def is_wrong(low: int, high: int) -> bool:
        part = np.zeros_like(direction)
        window = [slice(None)] * direction.ndim
        window[axis] = slice(low, high)
        part[tuple(window)] = direction[tuple(window)]
        length = float(np.linalg.norm(part))
        if length == 0:
            return False
        part /= length
        analytic = float(np.sum(part * gradient))
        h = probe.precision.step * probe.scale(name, part)
        right, left = probe.at(name, part, h), probe.at(name, part, -h)
        numeric = (right[0] - left[0]) / (2 * h)
        error = max(right[3], left[3]) / h
        return abs(numeric - analytic) > max(rtol, 1e-6) * max(abs(analytic), abs(numeric)) + error

    def search(low: int, high: int) -> bool:
        """Whether the wrong ones in [low, high) are few; they are added to `found`."""
        if high - low == 1:
            found.append(low)
            return len(found) <= MOST_PLACES
        middle = (low + high) // 2
        left = is_wrong(low, middle)
        right = is_wrong(middle, high) if left else True
        return (not left or search(low, middle)) and (not right or search(middle, high))

    length = gradient.shape[axis]
    if length == 1:
        return [0]
    cuts = np.unique(np.linspace(0, length, min(length, BLOCKS) + 1).astype(int))
    blocks: list[tuple[int, int]] = []
    for low, high in pairwise(cuts.tolist()):
        blocks += [(low, high)] if is_wrong(low, high) else []
        if len(blocks) > MOST_PLACES:
            return None
    if not blocks or not all(search(*block) for block in blocks):
        return None
    return None if len(found) > max(1, length // 2) else found


def _in_words(places: list[list[int] | None], ndim: int, nonzero: bool) -> str:
    what = "the rest is right" if nonzero else "zero there"
    known = [place for place in places if place is not None]
    if not known or (ndim == 1 and places[0] is None):
        return ""
    if all(place is not None and len(place) == 1 for place in places):
        return f"wrong only at {tuple(place[0] for place in known)}: {what}"
    parts = []
    for axis, place in enumerate(places):
        if place is not None:
            noun = ("row", "column")[axis] if ndim == 2 else "element" if ndim == 1 else f"index of axis {axis}"
            parts.append(f"{noun}{'s' if len(place) > 1 else ''} {', '.join(map(str, place))}")
    return f"wrong only in {' and '.join(parts)}: {what}"
