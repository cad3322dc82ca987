"""The actor mu(s) and the critic Q(s, a): perceptrons on one flat parameter vector, forward and backward by hand.

A network is its parameters, a shape table and the layer where the action comes in. Layer l maps its input x_l to
z_l = x_l W_l + b_l; hidden layers pass h = relu(z_l) on to the next, the last layer is linear, and the actor puts a
tanh behind it. The layer `action_layer` reads [h, act] instead of h. An actor is a network that joins an action of
zero columns.

Forward returns the output and a cache, which holds what backward needs: the input of every layer, then the output, one
block after the other in one flat array. Nothing is stored on the network, so a critic may be forwarded twice.

What is marked `by_type` is another function for another kind of network; see network_options.py.

Backward comes as three functions, not as one with a flag: to the weights, to the inputs, to both. A function that
cannot write a weight gradient is the reason why the actor step cannot touch the critic.

P parameters, L layers, N samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .fast.jit import FloatArray, by_type, each, jit
from .layers import (
    linear_backward_input,
    linear_backward_weights,
    linear_forward,
    linear_relu_forward,
    relu_backward,
    tanh_backward,
    tanh_forward,
)

Layout = npt.NDArray[np.int64]
FAN_IN, FAN_OUT, PARAMS_START, CACHE_START = range(4)  # columns of a layout


class Network(NamedTuple):
    """Parameters (P,), the layer where the action comes in, the action's columns (0 in an actor), and the layout.

    layout (L + 1, 4): per layer fan_in, fan_out, where its weight starts in the parameters (its bias follows), and how
    many columns of the cache lie before its input. The last row describes the output as if it were read once more.
    """

    params: FloatArray
    action_layer: int
    act_dim: int
    layout: Layout


def new_layout(obs_dim: int, act_dim: int, out_dim: int, hidden_sizes: tuple[int, ...], action_layer: int) -> Layout:
    """The layout of a network that is not there yet; see Network."""
    widths = [obs_dim, *hidden_sizes, out_dim]
    layout = np.zeros((len(widths), 4), np.int64)
    layout[:, FAN_IN] = widths
    layout[:-1, FAN_OUT] = widths[1:]
    layout[action_layer, FAN_IN] += act_dim
    layout[1:, PARAMS_START] = np.cumsum((layout[:-1, FAN_IN] + 1) * layout[:-1, FAN_OUT])
    layout[1:, CACHE_START] = np.cumsum(layout[:-1, FAN_IN])
    return layout


def new_network(
    obs_dim: int,
    act_dim: int,
    out_dim: int,
    hidden_sizes: tuple[int, ...],
    action_layer: int,
    final_init: float | None,
    dtype: str,
    rng: np.random.Generator,
) -> Network:
    """A network with weights and biases drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), layer by layer.

    final_init: draw the last layer from U(-final_init, final_init) instead. Lillicrap et al., section 7. fan_in counts
    the joined action.
    """
    layout = new_layout(obs_dim, act_dim, out_dim, hidden_sizes, action_layer)
    params = np.empty(layout[-1, PARAMS_START], dtype)
    for layer in range(len(layout) - 1):
        last = layer == len(layout) - 2
        bound = final_init if last and final_init is not None else 1 / math.sqrt(layout[layer, FAN_IN])
        start, stop = layout[layer : layer + 2, PARAMS_START]
        params[start:stop] = rng.uniform(-bound, bound, stop - start)
    return Network(params, action_layer, act_dim, layout)


def new_actor(
    obs_dim: int,
    act_dim: int,
    hidden_sizes: tuple[int, ...],
    final_init: float | None,
    dtype: str,
    rng: np.random.Generator,
) -> Network:
    """obs (N, obs_dim) -> act (N, act_dim) in [-1, 1]."""
    return new_network(obs_dim, 0, act_dim, hidden_sizes, 0, final_init, dtype, rng)


def new_critic(
    obs_dim: int,
    act_dim: int,
    hidden_sizes: tuple[int, ...],
    action_layer: int,
    final_init: float | None,
    dtype: str,
    rng: np.random.Generator,
) -> Network:
    """obs (N, obs_dim), act (N, act_dim) -> q (N,)."""
    return new_network(obs_dim, act_dim, 1, hidden_sizes, action_layer, final_init, dtype, rng)


@by_type
def copy_network(network: Network) -> Network:
    """The same network on parameters of its own."""
    return network._replace(params=network.params.copy())


@by_type
def named_parameters(network: Network) -> dict[str, FloatArray]:
    """Views by name: {"0.weight": (in, out), "0.bias": (out,), "1.weight": ...}. Writing to one changes the network."""
    views = {}
    for layer in range(len(network.layout) - 1):
        views[f"{layer}.weight"] = weight(network, network.params, layer)
        views[f"{layer}.bias"] = bias(network, network.params, layer)
    return views


# --- views: where a layer's numbers stand in the flat arrays ----------------------------------------------------------


@jit
def weight(network: Network, params: FloatArray, layer: int) -> FloatArray:
    """View (fan_in, fan_out) of a layer's weight in params (P,): its own, or a gradient laid out like them."""
    fan_in, fan_out = network.layout[layer, FAN_IN], network.layout[layer, FAN_OUT]
    start = network.layout[layer, PARAMS_START]
    return params[start : start + fan_in * fan_out].reshape(fan_in, fan_out)


@jit
def bias(network: Network, params: FloatArray, layer: int) -> FloatArray:
    """View (fan_out,) of a layer's bias in params (P,)."""
    stop = network.layout[layer + 1, PARAMS_START]
    return params[stop - network.layout[layer, FAN_OUT] : stop]


@by_type
@jit
def layer_input(network: Network, cache: FloatArray, layer: int) -> FloatArray:
    """View (N, fan_in) of what a layer read; for layer = L (N, out), the network's output."""
    n = cache.size // (network.layout[-1, CACHE_START] + network.layout[-1, FAN_IN])
    start, columns = network.layout[layer, CACHE_START], network.layout[layer, FAN_IN]
    return cache[n * start : n * (start + columns)].reshape(n, columns)


@jit
def output(network: Network, cache: FloatArray) -> FloatArray:
    """View (N, out) of the output in a cache."""
    return layer_input(network, cache, len(network.layout) - 1)


@jit
def hidden_rows(network: Network, layer: int) -> FloatArray:
    """The rows of a layer's weight that meet the layer below (or the observation), without those for the action."""
    full = weight(network, network.params, layer)
    return full[: len(full) - network.act_dim] if layer == network.action_layer else full


@jit
def action_rows(network: Network) -> FloatArray:
    """The rows of the joined layer's weight that meet the action."""
    full = weight(network, network.params, network.action_layer)
    return full[len(full) - network.act_dim :]


# --- any perceptron with a joined action and a linear output ----------------------------------------------------------


@jit
def join(h: FloatArray, act: FloatArray, out: FloatArray) -> None:
    """out = [h, act], row by row."""
    if not len(h) == len(act) == len(out) or h.shape[1] + act.shape[1] != out.shape[1]:
        raise ValueError("join: h, act and out must have the same rows, and out the columns of both")
    for i in range(len(out)):
        left, right = out[i, : h.shape[1]], out[i, h.shape[1] :]
        for j in each(left):
            left[j] = h[i, j]
        for j in each(right):
            right[j] = act[i, j]


@jit
def copy(source: FloatArray, out: FloatArray) -> None:
    """out[...] = source, of one shape. (Numba's slice assignment compiles for seconds, for the text of its errors.)"""
    if source.size != out.size:
        raise ValueError("copy: source and out must be of one shape")
    flat, result = source.reshape(source.size), out.reshape(out.size)
    for i in each(result):
        result[i] = flat[i]


@by_type
@jit
def forward(network: Network, obs: FloatArray, act: FloatArray) -> FloatArray:
    """obs (N, obs_dim), act (N, act_dim) -> cache. The output is its last block."""
    layout, last = network.layout, len(network.layout) - 2
    cache = np.empty(len(obs) * (layout[-1, CACHE_START] + layout[-1, FAN_IN]), obs.dtype)
    if act.shape[1] != network.act_dim or len(act) != len(obs):
        raise ValueError("forward: act must be (N, act_dim), with as many rows as obs")
    if obs.shape[1] != len(hidden_rows(network, 0)):
        raise ValueError("forward: obs must be (N, obs_dim)")
    x, h = layer_input(network, cache, 0), obs
    for layer in range(last + 1):
        if layer == network.action_layer:
            join(h, act, x)
        elif layer == 0:
            copy(obs, x)
        w, b = weight(network, network.params, layer), bias(network, network.params, layer)
        y = layer_input(network, cache, layer + 1)
        h = np.empty((len(obs), b.size), obs.dtype) if layer + 1 == network.action_layer else y
        if layer < last:
            linear_relu_forward(x, w, b, h)
        else:
            linear_forward(x, w, b, h)
        x = y
    return cache


@by_type
@jit
def backward_to_weights(network: Network, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """dz (N, out) of the last layer -> dparams (P,), laid out like the parameters. No input gradient is computed."""
    dparams = np.empty_like(network.params)
    for layer in range(len(network.layout) - 2, -1, -1):
        x = layer_input(network, cache, layer)
        linear_backward_weights(x, dz, weight(network, dparams, layer), bias(network, dparams, layer))
        if layer > 0:
            dz = relu_backward(linear_backward_input(dz, hidden_rows(network, layer)), x)
    return dparams


@by_type
@jit
def backward_to_action(network: Network, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """dz (N, out) of the last layer -> dact (N, act_dim). Goes no further down than the joined layer."""
    for layer in range(len(network.layout) - 2, network.action_layer, -1):
        x = layer_input(network, cache, layer)
        dz = relu_backward(linear_backward_input(dz, hidden_rows(network, layer)), x)
    return linear_backward_input(dz, action_rows(network))


@by_type
@jit
def backward_to_obs(network: Network, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """dz (N, out) of the last layer -> dobs (N, obs_dim)."""
    for layer in range(len(network.layout) - 2, 0, -1):
        x = layer_input(network, cache, layer)
        dz = relu_backward(linear_backward_input(dz, hidden_rows(network, layer)), x)
    return linear_backward_input(dz, hidden_rows(network, 0))


@by_type
@jit
def backward(network: Network, dz: FloatArray, cache: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """dz (N, out) of the last layer -> dparams (P,), dobs (N, obs_dim), dact (N, act_dim), in one pass."""
    dparams, dact = np.empty_like(network.params), np.empty((len(dz), network.act_dim), dz.dtype)
    for layer in range(len(network.layout) - 2, -1, -1):
        x = layer_input(network, cache, layer)
        linear_backward_weights(x, dz, weight(network, dparams, layer), bias(network, dparams, layer))
        if layer == network.action_layer:
            dact = linear_backward_input(dz, action_rows(network))
        dh = linear_backward_input(dz, hidden_rows(network, layer))
        dz = relu_backward(dh, x) if layer > 0 else dh
    return dparams, dz, dact


@by_type
@jit
def hidden_backward(network: Network, dh: FloatArray, cache: FloatArray, layer: int, dparams: FloatArray) -> FloatArray:
    """dh (N, dim) of what `layer` reads from below becomes dz of the layer below, in place.

    dparams (P,): where what lies between has parameters, their gradient is written there.
    """
    return relu_backward(dh, layer_input(network, cache, layer))


# --- the actor mu(s) and the critic Q(s, a) ---------------------------------------------------------------------------


@by_type
@jit
def actor_forward(actor: Network, obs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """obs (N, obs_dim) -> act = tanh(z) (N, act_dim) in [-1, 1], cache."""
    cache = forward(actor, obs, np.empty((len(obs), 0), obs.dtype))
    return tanh_forward(output(actor, cache)), cache


@by_type
@jit
def output_backward(actor: Network, dact: FloatArray, act: FloatArray) -> FloatArray:
    """dact (N, act_dim) -> dz (N, act_dim), below the actor's tanh."""
    return tanh_backward(dact, act)


@jit
def critic_forward(critic: Network, obs: FloatArray, act: FloatArray) -> tuple[FloatArray, FloatArray]:
    """obs (N, obs_dim), act (N, act_dim) -> q (N,), cache."""
    cache = forward(critic, obs, act)
    return output(critic, cache).reshape(len(obs)), cache
