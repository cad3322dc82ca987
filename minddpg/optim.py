"""Adam and Polyak averaging, on flat parameter vectors and in place."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .fast.jit import FloatArray, by_type, each, jit, variant, where

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
    """
    state.t[0] += 1
    t = state.t[0]
    number = params.dtype.type  # a Python float would turn float32 arithmetic into float64 when compiled
    keep1, take1 = number(BETA1), number(1 - BETA1)
    keep2, take2 = number(BETA2), number(1 - BETA2)
    step = number(lr / (1 - BETA1**t))
    root = number(math.sqrt(1 - BETA2**t))
    eps, zero, flush = number(EPSILON), number(0), number(FLUSH)
    m, v = state.m, state.v
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
    """
    wide = gradient.astype(np.float64)
    total = np.sum(wide * wide)
    shorter, share = np.empty_like(gradient), gradient.dtype.type(1)
    if total > max_norm * max_norm:
        share = gradient.dtype.type(max_norm / math.sqrt(total))
    for i in each(shorter):
        shorter[i] = share * gradient[i]
    return shorter


@variant(adam, ClippingAdam)
@jit
def clipping_adam(params: FloatArray, gradient: FloatArray, state: ClippingAdam, lr: float) -> None:
    """A step of Adam with the clipped gradient. Pascanu et al. 2013, algorithm 1."""
    adam(params, clipped(gradient, state.max_norm), Adam(state.m, state.v, state.t), lr)


@jit
def polyak(target: FloatArray, online: FloatArray, tau: float) -> None:
    """target += tau (online - target), in place. tau = 1 copies, 0 does nothing. Lillicrap et al., algorithm 1."""
    share = target.dtype.type(tau)
    for i in each(target):
        target[i] += share * (online[i] - target[i])
