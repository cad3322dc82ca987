"""Networks with options: tanh in place of ReLU, an actor whose output is linear.

An OptionNetwork stands wherever a Network does. What is different for it is chosen by its type, while a caller is
compiled (`variant`): ddpg.py and td3.py read and run the same, and a plain Network pays nothing.
"""

# mypy: disable-error-code=arg-type
# An OptionNetwork is taken wherever a Network is, which types cannot say.

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .config import Config
from .fast.jit import FloatArray, jit, variant
from .layers import (
    invert_gradient,
    linear_backward_input,
    linear_backward_weights,
    linear_forward,
    linear_relu_forward,
    relu_backward,
    tanh_backward,
    tanh_forward,
    tanh_hidden_backward,
)
from .networks import (
    CACHE_START,
    FAN_IN,
    Layout,
    Network,
    action_rows,
    actor_forward,
    backward,
    backward_to_action,
    backward_to_obs,
    backward_to_weights,
    bias,
    copy,
    forward,
    hidden_backward,
    hidden_rows,
    join,
    layer_input,
    output,
    output_backward,
    weight,
)


class OptionNetwork(NamedTuple):
    """A Network (see there), and what is different in it.

    tanh: hidden layers have tanh instead of ReLU. unbounded: the actor's output is linear; its gradient is inverted
    at the bounds instead of going through tanh'.
    """

    params: FloatArray
    action_layer: int
    act_dim: int
    layout: Layout
    tanh: bool
    unbounded: bool


def has_kinks(network: Network | OptionNetwork) -> bool:
    """Whether its hidden layers are ReLU."""
    return not getattr(network, "tanh", False)


def with_options(network: Network, config: Config) -> Network:
    """The network as the config has it: itself, where no option is on."""
    unbounded = config.invert_gradients and network.act_dim == 0
    if config.activation == "relu" and not config.invert_gradients:
        return network
    return OptionNetwork(*network, config.activation == "tanh", unbounded)  # type: ignore[return-value]


# --- hidden layers ----------------------------------------------------------------------------------------------------


@variant(forward, OptionNetwork)
@jit
def option_forward(network: OptionNetwork, obs: FloatArray, act: FloatArray) -> FloatArray:
    """As `networks.forward`, with tanh where the network has it."""
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
        if layer < last and not network.tanh:
            linear_relu_forward(x, w, b, h)
        else:
            linear_forward(x, w, b, h)
            if layer < last:
                tanh_forward(h)
        x = y
    return cache


@variant(hidden_backward, OptionNetwork)
@jit
def activation_backward(network: OptionNetwork, dh: FloatArray, h: FloatArray) -> FloatArray:
    """As `networks.hidden_backward`."""
    return tanh_hidden_backward(dh, h) if network.tanh else relu_backward(dh, h)


@variant(backward_to_weights, OptionNetwork)
@jit
def option_backward_to_weights(network: OptionNetwork, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """As `networks.backward_to_weights`."""
    dparams = np.empty_like(network.params)
    for layer in range(len(network.layout) - 2, -1, -1):
        x = layer_input(network, cache, layer)
        linear_backward_weights(x, dz, weight(network, dparams, layer), bias(network, dparams, layer))
        if layer > 0:
            dz = activation_backward(network, linear_backward_input(dz, hidden_rows(network, layer)), x)
    return dparams


@variant(backward_to_action, OptionNetwork)
@jit
def option_backward_to_action(network: OptionNetwork, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """As `networks.backward_to_action`."""
    for layer in range(len(network.layout) - 2, network.action_layer, -1):
        x = layer_input(network, cache, layer)
        dz = activation_backward(network, linear_backward_input(dz, hidden_rows(network, layer)), x)
    return linear_backward_input(dz, action_rows(network))


@variant(backward_to_obs, OptionNetwork)
@jit
def option_backward_to_obs(network: OptionNetwork, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """As `networks.backward_to_obs`."""
    for layer in range(len(network.layout) - 2, 0, -1):
        x = layer_input(network, cache, layer)
        dz = activation_backward(network, linear_backward_input(dz, hidden_rows(network, layer)), x)
    return linear_backward_input(dz, hidden_rows(network, 0))


@variant(backward, OptionNetwork)
@jit
def option_backward(
    network: OptionNetwork, dz: FloatArray, cache: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As `networks.backward`."""
    dparams, dact = np.empty_like(network.params), np.empty((len(dz), network.act_dim), dz.dtype)
    for layer in range(len(network.layout) - 2, -1, -1):
        x = layer_input(network, cache, layer)
        linear_backward_weights(x, dz, weight(network, dparams, layer), bias(network, dparams, layer))
        if layer == network.action_layer:
            dact = linear_backward_input(dz, action_rows(network))
        dh = linear_backward_input(dz, hidden_rows(network, layer))
        dz = activation_backward(network, dh, x) if layer > 0 else dh
    return dparams, dz, dact


# --- the actor's output -----------------------------------------------------------------------------------------------


@variant(actor_forward, OptionNetwork)
@jit
def option_actor_forward(actor: OptionNetwork, obs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As `networks.actor_forward`; act = z of an unbounded actor, which may leave [-1, 1] a little."""
    cache = forward(actor, obs, np.empty((len(obs), 0), obs.dtype))
    act = output(actor, cache)
    return (act if actor.unbounded else tanh_forward(act)), cache


@variant(output_backward, OptionNetwork)
@jit
def option_output_backward(actor: OptionNetwork, dact: FloatArray, act: FloatArray) -> FloatArray:
    """As `networks.output_backward`, or the gradient inverted at the bounds."""
    return invert_gradient(dact, act) if actor.unbounded else tanh_backward(dact, act)
