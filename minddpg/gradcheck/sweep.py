"""Finite differences in every parameter of a network, compiled: first looks for differences.py.

A step in one weight of layer l changes one unit of that layer, and that unit only for the samples where its input is
not zero and its ReLU open. So for each such sample, and nothing else, the new value of the unit is carried on: into
the next layer as one row of its weight, from there by the package's own forward. What a step does not change is not
computed again; what it changes is computed at the moved point, and no derivative is used anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray, jit
from ..layers import linear_forward, tanh_forward
from ..networks import (
    CACHE_START,
    FAN_IN,
    FAN_OUT,
    PARAMS_START,
    Network,
    action_rows,
    actor_forward,
    bias,
    critic_forward,
    forward,
    join,
    layer_input,
    output,
    weight,
)
from .differences import Quotients

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
ROWS = 1024  # of samples carried on at once: some 64 units wide they stay in the second-level cache


class Loss(NamedTuple):
    """f behind a network's output. kind: THROUGH_CRITIC for an actor, UPSTREAM or SQUARED_ERROR for a critic itself.

    f = sum_i weights_i Q_i for the first two, and mean_i (Q_i - weights_i)^2 for SQUARED_ERROR. critic, z, act, q: the
    critic, its pre-activations (as `pre_activations`), the actions and values at the centre.
    """

    kind: int
    critic: Network
    z: FloatArray
    act: FloatArray
    q: FloatArray
    weights: FloatArray


THROUGH_CRITIC, UPSTREAM, SQUARED_ERROR = range(3)


Sweep = Callable[[Flags, float], Quotients]  # of the wanted parameters (P,), at this relative step


def sweep_critic(
    critic: Network, obs: FloatArray, act: FloatArray, weights: FloatArray, kind: int, rounding: float
) -> Sweep:
    """d f / d parameter of the critic. weights (N,): see Loss. rounding: of f(h) - f(-h)."""
    q, cache = critic_forward(critic, obs, act)
    z = pre_activations(critic, act, cache)
    return partial(_quotients, critic, act, cache, z, Loss(kind, critic, z, act, q, weights), rounding)


def sweep_actor(actor: Network, critic: Network, obs: FloatArray, weights: FloatArray, rounding: float) -> Sweep:
    """d sum_i weights_i Q(s_i, mu(s_i)) / d theta for the parameters of the actor."""
    act, cache = actor_forward(actor, obs)
    q, critic_cache = critic_forward(critic, obs, act)
    loss = Loss(THROUGH_CRITIC, critic, pre_activations(critic, act, critic_cache), act, q, weights)
    none = np.empty((len(obs), 0))
    return partial(_quotients, actor, none, cache, pre_activations(actor, none, cache), loss, rounding)


def _quotients(
    network: Network,
    act: FloatArray,
    cache: FloatArray,
    z: FloatArray,
    loss: Loss,
    rounding: float,
    wanted: Flags,
    relative: float,
) -> Quotients:
    numeric, width, kinked, touched = sweep(network, act, cache, z, loss, wanted, relative)
    # What no step touches does not depend on the parameter: that difference is zero, and not by rounding.
    return Quotients(numeric, np.where(touched, 2 * rounding / width, 0.0), kinked)


@jit
def pre_activations(network: Network, act: FloatArray, cache: FloatArray) -> FloatArray:
    """z of every layer, laid out like the cache: z of layer l stands where layer l + 1 has its input."""
    found = np.zeros_like(cache)
    for layer in range(len(network.layout) - 1):
        x, b = layer_input(network, cache, layer), bias(network, network.params, layer)
        z = np.empty((len(x), b.size), x.dtype)
        linear_forward(x, weight(network, network.params, layer), b, z)
        join(z, act[:, : network.layout[layer + 1, FAN_IN] - b.size], layer_input(network, found, layer + 1))
    return found


@jit
def tail(network: Network, first: int) -> Network:
    """The layers from `first` on, as a network that reads what the layer below it hands up."""
    layout = network.layout[first:].copy()
    layout[:, PARAMS_START] -= network.layout[first, PARAMS_START]
    layout[:, CACHE_START] -= network.layout[first, CACHE_START]
    params = network.params[network.layout[first, PARAMS_START] :]
    if network.action_layer < first:
        return Network(params, 0, 0, layout)
    return Network(params, network.action_layer - first, network.act_dim, layout)


@jit
def rows_of(array: FloatArray, samples: Indices, columns: int) -> FloatArray:
    """array[samples, :columns], copied."""
    rows = np.empty((len(samples), columns), array.dtype)
    for r in range(len(samples)):
        for j in range(columns):
            rows[r, j] = array[samples[r], j]
    return rows


@jit
def note_crossings(h: FloatArray, z: FloatArray, samples: Indices, columns: int, crossed: Flags) -> None:
    """Mark the rows where a ReLU stands on another side than it did for the same sample before the step."""
    for r in range(len(samples)):
        for j in range(columns):
            crossed[r] |= (h[r, j] > 0) != (z[samples[r], j] > 0)


@jit
def carry_on(
    network: Network, layer: int, moved: FloatArray, samples: Indices, act: FloatArray, z: FloatArray, crossed: Flags
) -> FloatArray:
    """The output (R, out) for rows whose pre-activation in `layer` is `moved` (R, fan_out), for these samples (R,)."""
    last = len(network.layout) - 2
    if layer == last:
        return moved
    columns = moved.shape[1]
    note_crossings(moved, layer_input(network, z, layer + 1), samples, columns, crossed)
    h = np.maximum(moved, 0)
    rest = tail(network, layer + 1)
    cache = forward(rest, h, rows_of(act, samples, rest.act_dim))
    for i in range(1, last - layer):
        columns = network.layout[layer + i, FAN_OUT]
        note_crossings(layer_input(rest, cache, i), layer_input(network, z, layer + 1 + i), samples, columns, crossed)
    return output(rest, cache)


@jit
def values(loss: Loss, out: FloatArray, samples: Indices, crossed: Flags) -> FloatArray:
    """f with one sample's output moved, minus f at the centre, for each row (R,)."""
    q, found = out, np.empty(len(samples))
    if loss.kind == THROUGH_CRITIC:
        critic, layer = loss.critic, loss.critic.action_layer
        act = tanh_forward(out)
        w = action_rows(critic)
        moved = rows_of(layer_input(critic, loss.z, layer + 1), samples, w.shape[1])
        for r in range(len(samples)):
            for k in range(len(w)):
                change = act[r, k] - loss.act[samples[r], k]
                for j in range(w.shape[1]):
                    moved[r, j] += change * w[k, j]
        q = carry_on(critic, layer, moved, samples, loss.act, loss.z, crossed)
    for r in range(len(samples)):
        i = samples[r]
        change = q[r, 0] - loss.q[i]
        if loss.kind == SQUARED_ERROR:
            found[r] = change * (q[r, 0] + loss.q[i] - 2 * loss.weights[i]) / len(loss.q)
        else:
            found[r] = change * loss.weights[i]
    return found


@jit
def sweep(
    network: Network,
    act: FloatArray,
    cache: FloatArray,
    z: FloatArray,
    loss: Loss,
    wanted: Flags,
    relative: float,
) -> tuple[FloatArray, FloatArray, Flags, Flags]:
    """Central differences in the wanted parameters (P,), with h = relative max(1, |x|).

    -> quotients (P,), the steps 2h really taken (P,), kinks (P,), whether a step changes anything (P,)
    """
    n, last = len(loss.q), len(network.layout) - 2
    difference, width = np.zeros(network.params.size), np.ones(network.params.size)
    kinked, touched = np.zeros(network.params.size, np.bool_), np.zeros(network.params.size, np.bool_)
    samples, parameters = np.empty(ROWS + 2 * n, np.int64), np.empty(ROWS + 2 * n, np.int64)
    changes, signs = np.empty(ROWS + 2 * n), np.empty(ROWS + 2 * n)
    crossed = np.empty(ROWS + 2 * n, np.bool_)
    for layer in range(last + 1):
        x, z_layer = layer_input(network, cache, layer), layer_input(network, z, layer + 1)
        fan_in, fan_out = network.layout[layer, FAN_IN], network.layout[layer, FAN_OUT]
        for unit in range(fan_out):
            count = 0
            for j in range(fan_in + 1):  # the last one is the bias, whose input is 1
                p = network.layout[layer, PARAMS_START] + j * fan_out + unit
                value = network.params[p]
                step = relative * max(1.0, abs(value))
                up, down = (value + step) - value, (value - step) - value
                if wanted[p]:
                    width[p] = up - down
                for side in range(2 if wanted[p] else 0):
                    move = down if side else up
                    for i in range(n):
                        before = z_layer[i, unit]
                        after = before + move * (x[i, j] if j < fan_in else 1.0)
                        flips = layer < last and (after > 0) != (before > 0)
                        if layer < last:
                            before, after = max(before, 0.0), max(after, 0.0)
                        if after != before or flips:
                            samples[count], parameters[count] = i, p
                            changes[count], signs[count], crossed[count] = after - before, 1 - 2 * side, flips
                            touched[p] = True
                            count += 1
                if count >= ROWS or (j == fan_in and count > 0):
                    out = moved_output(network, layer, unit, samples[:count], changes[:count], act, z, crossed[:count])
                    found = values(loss, out, samples[:count], crossed[:count])
                    for r in range(count):
                        difference[parameters[r]] += signs[r] * found[r]
                        kinked[parameters[r]] |= crossed[r]
                    count = 0
    return difference / width, width, kinked, touched


@jit
def moved_output(
    network: Network,
    layer: int,
    unit: int,
    samples: Indices,
    changes: FloatArray,
    act: FloatArray,
    z: FloatArray,
    crossed: Flags,
) -> FloatArray:
    """The output (R, out) where one unit's output changes by `changes` (R,) for these samples (R,)."""
    if layer == len(network.layout) - 2:
        out = rows_of(layer_input(network, z, layer + 1), samples, network.layout[layer, FAN_OUT])
        for r in range(len(samples)):
            out[r, unit] += changes[r]
        return out
    w = weight(network, network.params, layer + 1)[unit]
    moved = rows_of(layer_input(network, z, layer + 2), samples, w.size)
    for r in range(len(samples)):
        for j in range(w.size):
            moved[r, j] += changes[r] * w[j]
    return carry_on(network, layer + 1, moved, samples, act, z, crossed)
