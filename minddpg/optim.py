"""Adam and Polyak averaging, on flat parameter vectors and in place."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .fast.jit import FloatArray, by_type, each, jit, squares_are_finite, variant, where
from .fast.threads import PIECE, share

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
FLUSH = 1e-30  # float32's denormals start at 1e-38 and are slow; the moments of a dead unit get there in 800 updates


class Adam(NamedTuple):
    """Adam's memory of one parameter vector: two moments (P,) of its dtype, and the steps made, int64 (1,)."""

    m: FloatArray
    v: FloatArray
    t: npt.NDArray[np.int64]


class ClippingAdam(NamedTuple):
    """An Adam that shortens gradients longer than max_norm first."""

    m: FloatArray
    v: FloatArray
    t: npt.NDArray[np.int64]
    max_norm: float


def new_adam(params: FloatArray, max_norm: float | None = None) -> Adam:
    """The state before the first step: both moments zero. With a max_norm, a ClippingAdam's."""
    state = Adam(np.zeros_like(params), np.zeros_like(params), np.zeros(1, np.int64))
    return state if max_norm is None else ClippingAdam(*state, max_norm)  # type: ignore[return-value]


@by_type
@jit
def adam(params: FloatArray, gradient: FloatArray, state: Adam, lr: float) -> None:
    """One step downhill, in place: params -= lr m^ / (sqrt(v^) + eps).    params, gradient (P,).

    m and v are running means of the gradient and of its square; m^ and v^ divide out their start at zero by
    (1 - beta1^t) and (1 - beta2^t). Kingma & Ba 2014, algorithm 1, with PyTorch's place for eps = 1e-8.

    Raises FloatingPointError, before anything is written, where the gradient or its square, which v holds, is not
    finite: such a step would leave parameters that are no numbers, or that never move again.
    """
    if not len(params) == len(gradient) == len(state.m) == len(state.v):
        raise ValueError("adam: params, gradient, m and v must be of one length")
    if not squares_are_finite(gradient):
        raise FloatingPointError("adam: the gradient or its square is not finite")
    state.t[0] += 1
    t = state.t[0]
    number = params.dtype.type  # a Python float would turn float32 arithmetic into float64 when compiled
    step = number(lr / (1 - BETA1**t))
    root = number(math.sqrt(1 - BETA2**t))
    share(_adam, -(-params.size // PIECE), 10 * params.size, (params, gradient, state.m, state.v, step, root))


@jit
def _adam(
    start: int,
    stop: int,
    params: FloatArray,
    gradient: FloatArray,
    m: FloatArray,
    v: FloatArray,
    step: float,
    root: float,
) -> None:
    number = params.dtype.type
    keep1, take1 = number(BETA1), number(1 - BETA1)
    keep2, take2 = number(BETA2), number(1 - BETA2)
    eps, zero, flush = number(EPSILON), number(0), number(FLUSH)
    start, stop = start * PIECE, stop * PIECE
    params, gradient, m, v = params[start:stop], gradient[start:stop], m[start:stop], v[start:stop]
    for i in each(params):
        first = keep1 * m[i] + take1 * gradient[i]
        second = keep2 * v[i] + take2 * gradient[i] * gradient[i]
        first = where(np.abs(first) < flush, zero, first)
        second = where(second < flush, zero, second)
        m[i] = first
        v[i] = second
        params[i] -= step * first / (np.sqrt(second) / root + eps)


@jit
def clipped(gradient: FloatArray, max_norm: float) -> FloatArray:
    """gradient min(1, max_norm / |gradient|).    gradient (P,) -> (P,)

    |gradient| is the root of the sum of squares over all parameters of one network, in float64. The direction stays.
    Raises FloatingPointError where that sum is not finite.
    """
    wide = gradient.astype(np.float64)
    total = np.sum(wide * wide)
    if not total < np.inf:
        raise FloatingPointError("adam: the gradient or its square is not finite")
    shorter, factor = np.empty_like(gradient), gradient.dtype.type(1)
    if total > max_norm * max_norm:
        factor = gradient.dtype.type(max_norm / math.sqrt(total))
    for i in each(shorter):
        shorter[i] = factor * gradient[i]
    return shorter


@variant(adam, ClippingAdam)
@jit
def clipping_adam(params: FloatArray, gradient: FloatArray, state: ClippingAdam, lr: float) -> None:
    """A step of Adam with the clipped gradient. Pascanu et al. 2013, algorithm 1. Raises as `adam`."""
    adam(params, clipped(gradient, state.max_norm), Adam(state.m, state.v, state.t), lr)


@jit
def polyak(target: FloatArray, online: FloatArray, tau: float) -> None:
    """target += tau (online - target), in place. tau = 1 copies, 0 does nothing. Lillicrap et al., algorithm 1."""
    if len(target) != len(online):
        raise ValueError("polyak: target and online must be of one length")
    share(_polyak, -(-target.size // PIECE), 3 * target.size, (target, online, target.dtype.type(tau)))


@jit
def _polyak(start: int, stop: int, target: FloatArray, online: FloatArray, tau: float) -> None:
    target, online = target[start * PIECE : stop * PIECE], online[start * PIECE : stop * PIECE]
    if tau == 1:  # to the bit, which a sum and a difference are not
        for i in each(target):
            target[i] = online[i]
        return
    for i in each(target):
        target[i] += tau * (online[i] - target[i])
