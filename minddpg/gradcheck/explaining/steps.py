"""One optimiser step from the parameters before and after, and what the targets did: which, how long, which way.

Of Adam and RMSprop only a first step can be recomputed: later ones depend on moments that nobody handed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...optim import BETA1, BETA2
from .arrays import Array, Layers

# What Adam and RMSprop add to |g| in a first step: their epsilon, as torch, Keras, TensorFlow 1 and RMSprop place it.
EPSILONS = (1e-8, 1e-7, 1e-8 / math.sqrt(1 - BETA2), 1e-7 / math.sqrt(1 - BETA2), 1e-7 / math.sqrt(0.1), 1e-6, 1e-5)
FEWEST = 2  # elements that have to agree


@dataclass(frozen=True)
class StepFit:
    """A step that is explained. lr is negative where it climbs."""

    optimiser: str
    lr: float
    error: float


def flat(tensors: Sequence[Array]) -> Array:
    """One vector."""
    return np.concatenate([tensor.ravel() for tensor in tensors])


def spacing(before: Layers, after: Layers, eps: float) -> Array:
    """How far rounding puts each element of after - before."""
    return eps * (np.abs(flat(before.tensors())) + np.abs(flat(after.tensors())))


def _unit(gradient: Array, epsilon: float | None) -> Array:
    """A step with lr = 1, downhill: SGD's where epsilon is None, else Adam's or RMSprop's first."""
    return -gradient if epsilon is None else -gradient / (np.abs(gradient) + epsilon)


def first_step(delta: Array, gradients: Sequence[Array], rounding: Array, relative: float) -> StepFit | None:
    """The optimiser whose first step delta is, or None.

    gradients: the gradient, then what rounding may have made of it. rounding: of delta, per element. relative: of the
    optimiser's own arithmetic.
    """
    gradient, *others = gradients
    if delta.size < FEWEST or not gradient.any() or not delta.any():
        return None
    best: StepFit | None = None
    for epsilon in (None, *EPSILONS):
        unit = _unit(gradient, epsilon)
        lr = float(delta @ unit) / float(unit @ unit)
        spread = np.sqrt(np.mean([(_unit(g, epsilon) - unit) ** 2 for g in others], axis=0)) if others else 0.0
        allowed = 4 * rounding + abs(lr) * (8 * spread + 64 * relative * np.abs(unit))
        off = np.abs(delta - lr * unit)
        large = np.abs(lr * unit) > 4 * allowed
        if int(large.sum()) >= FEWEST and np.all(off <= allowed):
            error = float(np.linalg.norm(delta - lr * unit) / np.linalg.norm(delta))
            if best is None or error < best.error:
                best = StepFit("SGD" if epsilon is None else "Adam", lr, error)
    return best


def two_steps(
    delta: Array, before: Layers, gradient_at: Callable[[Layers], Array], rounding: Array, relative: float
) -> StepFit | None:
    """Two steps of SGD or Adam, the gradient computed anew for the second; or None."""
    start = gradient_at(before)
    if delta.size < FEWEST or not start.any() or not delta.any():
        return None
    for epsilon in (None, *EPSILONS[:4]):
        name = "SGD" if epsilon is None else "Adam"
        unit = _unit(start, epsilon)
        lr = float(delta @ unit) / float(unit @ unit) / 2
        for _ in range(20):
            second = gradient_at(_moved(before, lr * unit))
            if epsilon is None:
                total = lr * (unit - second)
            else:
                m = (BETA1 * (1 - BETA1) * start + (1 - BETA1) * second) / (1 - BETA1**2)
                v = (BETA2 * (1 - BETA2) * start**2 + (1 - BETA2) * second**2) / (1 - BETA2**2)
                total = lr * (unit - m / (np.sqrt(v) + epsilon))
            ratio = float(delta @ total) / (float(total @ total) or 1.0)
            lr *= ratio
            if abs(ratio - 1) < 1e-15:
                break
        # The second gradient is read where rounding of the first step has put the parameters.
        allowed = 4 * rounding + 1e4 * relative * (abs(lr) * np.abs(unit) + np.abs(total))
        one = lr * 2 * unit
        if lr and np.all(np.abs(delta - total) <= allowed) and np.any(np.abs(delta - one) > 4 * allowed):
            return StepFit(name, lr, float(np.linalg.norm(delta - total) / np.linalg.norm(delta)))
    return None


def _moved(layers: Layers, by: Array) -> Layers:
    at, weights, biases = 0, [], []
    for w, b in zip(layers.weights, layers.biases, strict=True):
        weights.append(w + by[at : at + w.size].reshape(w.shape))
        at += w.size
        biases.append(b + by[at : at + b.size])
        at += b.size
    return Layers(tuple(weights), tuple(biases))


@dataclass(frozen=True)
class Followed:
    """What a target did: the mistake, or none; in words."""

    mistake: str
    said: str
    told: bool = True


def target_step(target: Layers, after: Layers, online: Layers, online_after: Layers | None, eps: float) -> Followed:
    """target -> after, for a network that moved online -> online_after."""
    start, delta = flat(target.tensors()), flat(after.tensors()) - flat(target.tensors())
    rounding = 2 * spacing(target, after, eps)
    if not delta.any():
        if online_after is not None:
            moved, towards = flat(online_after.tensors()) - flat(online.tensors()), start - flat(online.tensors())
            tau, fits = _follows(moved, towards, 2 * spacing(online, online_after, eps) + eps * np.abs(towards))
            if moved.any() and 0 < tau <= 1 and fits:
                return Followed("swapped", f"the network moved towards its target, by {tau:.4g}")
        if not (flat((online_after or online).tensors()) - start).any():
            return Followed("", "the same as its network, which did not move: nothing can be told", False)
        return Followed("not moved", "the target is what it was")
    for name, network in (("", online_after), (" as it was before its step", online)):
        if network is None:
            continue
        way = flat(network.tensors()) - start
        allowed = rounding + 2 * eps * np.abs(flat(network.tensors()))
        tau, fits = _follows(delta, way, allowed)
        if np.all(np.abs(delta - way) <= allowed):
            return Followed("hard copy", f"the target is a copy of its network{name}: tau = 1")
        if tau > 0 and fits:
            if tau > 0.5:
                return Followed("tau reversed", f"tau = {tau:.4g}, where {1 - tau:.1g} was meant")
            return Followed("", f"tau = {tau:.4g}, towards its network{name}")
    return Followed("?", "the target moved, and not towards its network")


def _follows(delta: Array, way: Array, rounding: Array) -> tuple[float, bool]:
    """The tau with which delta = tau way, and whether that holds; rounding: of delta, from which tau is only read."""
    square = float(way @ way) or 1.0
    tau = float(delta @ way) / square
    unsure = float(rounding @ np.abs(way)) / square
    return tau, bool(np.all(np.abs(delta - tau * way) <= rounding + unsure * np.abs(way)))
