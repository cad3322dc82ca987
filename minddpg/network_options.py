"""Networks with options: batch or layer normalisation, tanh in place of ReLU, an actor whose output is linear.

An OptionNetwork stands wherever a Network does. What is different for it is chosen by its type, while a caller is
compiled (`variant`): ddpg.py and td3.py read and run the same, and a plain Network pays nothing.

Normalised are what the first layer reads and every hidden layer's z, before its activation: in the actor all of them
but the output, whose small first weights (final_init) would be undone; in the critic those that the action has not
entered yet. Lillicrap et al., section 7. "Level l" is what layer l reads from below: level 0 the observation, level l
the hidden layer l - 1.

Forward never writes statistics: a checker calls it many times. `learn_statistics` does, once per update.
"""

# mypy: disable-error-code=arg-type
# An OptionNetwork is taken wherever a Network is, which types cannot say.

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .config import Config
from .fast.jit import FloatArray, each, jit, variant, where
from .layers import (
    NORM_EPSILON,
    batch_norm_backward,
    batch_norm_forward,
    batch_statistics,
    invert_gradient,
    layer_norm_backward,
    layer_norm_forward,
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
    PARAMS_START,
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
    copy_network,
    forward,
    hidden_backward,
    hidden_rows,
    join,
    layer_input,
    named_parameters,
    output,
    output_backward,
    weight,
)
from .optim import polyak

NORMALISATIONS = ("none", "batch", "layer")
NONE, BATCH, LAYER = range(3)
WIDTH, GAMMA_START, RUNNING_START, Z_START = range(4)  # columns of sites
STATISTICS_SHARE = 0.01  # of the last batch in the running statistics


class OptionNetwork(NamedTuple):
    """A Network (see there), and what is different in it.

    tanh: hidden layers have tanh instead of ReLU. unbounded: the actor's output is linear; its gradient is inverted
    at the bounds instead of going through tanh'. normalisation: NONE, BATCH or LAYER.
    sites (L, 4): of each level its width, or 0 where it is not normalised; where its gamma starts in the parameters,
    behind those of all layers (its beta follows); where its mean starts in `running` (its variance follows); and how
    many columns of the cache lie before its z. running: what BATCH uses when `training` is not set.
    """

    params: FloatArray
    action_layer: int
    act_dim: int
    layout: Layout
    tanh: bool
    unbounded: bool
    normalisation: int
    sites: Layout
    running: FloatArray
    training: bool


def has_kinks(network: Network | OptionNetwork) -> bool:
    """Whether its hidden layers are ReLU."""
    return not getattr(network, "tanh", False)


def mixes_rows(network: Network | OptionNetwork) -> bool:
    """Whether the rows of a batch depend on each other."""
    return isinstance(network, OptionNetwork) and network.normalisation == BATCH and network.training


def has_options(config: Config) -> bool:
    """Whether its networks are OptionNetworks."""
    return config.activation != "relu" or config.invert_gradients or config.normalisation != "none"


def new_sites(layout: Layout, action_layer: int, act_dim: int, normalisation: str) -> Layout:
    """The sites of a network of this layout; see OptionNetwork."""
    sites = np.zeros((len(layout) - 1, 4), np.int64)
    if normalisation != "none":
        top = action_layer if act_dim else len(layout) - 2
        sites[: top + 1, WIDTH] = layout[: top + 1, FAN_IN]
        sites[action_layer, WIDTH] -= act_dim
    before = np.cumsum(sites[:, WIDTH]) - sites[:, WIDTH]
    sites[:, GAMMA_START] = layout[-1, PARAMS_START] + 2 * before
    sites[:, RUNNING_START] = 2 * before
    sites[:, Z_START] = layout[-1, CACHE_START] + layout[-1, FAN_IN] + before
    return sites


def with_options(network: Network, config: Config) -> Network:
    """The network as the config has it: itself, where no option is on."""
    if not has_options(config):
        return network
    sites = new_sites(network.layout, network.action_layer, network.act_dim, config.normalisation)
    units = int(sites[:, WIDTH].sum())
    params = np.concatenate([network.params, np.zeros(2 * units, network.params.dtype)])
    running = np.zeros(2 * units, network.params.dtype)
    unbounded = config.invert_gradients and network.act_dim == 0
    found = OptionNetwork(
        params, *network[1:], config.activation == "tanh", unbounded, NORMALISATIONS.index(config.normalisation), sites,
        running, True,
    )  # fmt: skip
    for name, view in {**named_parameters(found), **named_statistics(found)}.items():
        if name.endswith((".gamma", ".var")):
            view[:] = 1
    return found  # type: ignore[return-value]


def in_use(network: Network) -> Network:
    """The network as it acts and as a target: with its running statistics. On the same memory."""
    return network._replace(training=False) if isinstance(network, OptionNetwork) else network


@variant(copy_network, OptionNetwork)
def copy_option_network(network: OptionNetwork) -> OptionNetwork:
    """The same network on parameters and statistics of its own."""
    return network._replace(params=network.params.copy(), running=network.running.copy())


@variant(named_parameters, OptionNetwork)
def named_option_parameters(network: OptionNetwork) -> dict[str, FloatArray]:
    """As `networks.named_parameters`, then "obs.gamma", "obs.beta", "0.gamma", ... where they are."""
    views = named_parameters(Network(*network[:4]))
    for level in np.flatnonzero(network.sites[:, WIDTH]).tolist():
        views[f"{site_name(level)}.gamma"] = gamma_of(network, network.params, level)
        views[f"{site_name(level)}.beta"] = beta_of(network, network.params, level)
    return views


def without_effect(network: Network | OptionNetwork) -> set[str]:
    """The parameters by name whose gradient is 0, since a batch's own mean takes away what they add."""
    names: set[str] = set()
    if isinstance(network, OptionNetwork):
        for level in range(1, len(network.sites)):
            if takes_shifts_away(network, level):
                names |= {f"{level - 1}.bias", *(["obs.beta"] if level == 1 else [])}
    return names


def folded_parameters(network: Network | OptionNetwork) -> dict[str, FloatArray]:
    """Copies of weights and biases by name, with what BATCH does to them in use in them: it is one more product.

    y = a z + c with a = gamma / s and c = beta - a mean. Behind a layer: a W and a b + c. In front of the first one:
    a's rows of W, and b + c W. Raises ValueError for LAYER, which is no product.
    """
    views = {name: view.copy() for name, view in named_parameters(network).items()}
    if not isinstance(network, OptionNetwork) or network.normalisation == NONE:
        return views
    if network.normalisation == LAYER:
        raise ValueError("layer normalisation cannot be folded into weights")
    for level in np.flatnonzero(network.sites[:, WIDTH]).tolist():
        name, of_site = site_name(level), named_statistics(network)
        a = views.pop(f"{name}.gamma") / np.sqrt(of_site[f"{name}.var"] + NORM_EPSILON)
        c = views.pop(f"{name}.beta") - a * of_site[f"{name}.mean"]
        if level == 0:
            views["0.bias"] += c @ views["0.weight"]
            views["0.weight"] *= a[:, None]
        else:
            views[f"{name}.weight"] *= a
            views[f"{name}.bias"] = views[f"{name}.bias"] * a + c
    return views


def named_statistics(network: Network | OptionNetwork) -> dict[str, FloatArray]:
    """Views of running statistics by name: {"obs.mean": (obs_dim,), "obs.var": ..., "0.mean": ...}; BATCH alone."""
    views: dict[str, FloatArray] = {}
    if isinstance(network, OptionNetwork) and network.normalisation == BATCH:
        for level in np.flatnonzero(network.sites[:, WIDTH]).tolist():
            width, start = network.sites[level, [WIDTH, RUNNING_START]].tolist()
            views[f"{site_name(level)}.mean"] = network.running[start : start + width]
            views[f"{site_name(level)}.var"] = network.running[start + width : start + 2 * width]
    return views


def site_name(level: int) -> str:
    """What is normalised at a level: the observation, or a layer's z."""
    return str(level - 1) if level else "obs"


@jit
def gamma_of(network: OptionNetwork, params: FloatArray, level: int) -> FloatArray:
    """View (width,) of a level's gamma in params (P,)."""
    width, start = network.sites[level, WIDTH], network.sites[level, GAMMA_START]
    return params[start : start + width]


@jit
def beta_of(network: OptionNetwork, params: FloatArray, level: int) -> FloatArray:
    """View (width,) of a level's beta in params (P,)."""
    width, start = network.sites[level, WIDTH], network.sites[level, GAMMA_START]
    return params[start + width : start + 2 * width]


# --- normalisation ----------------------------------------------------------------------------------------------------


@jit
def samples_of(network: OptionNetwork, cache: FloatArray) -> int:
    """N of a cache."""
    return cache.size // (network.sites[-1, Z_START] + network.sites[-1, WIDTH])


@variant(layer_input, OptionNetwork)
@jit
def option_layer_input(network: OptionNetwork, cache: FloatArray, layer: int) -> FloatArray:
    """As `networks.layer_input`: behind the blocks that it knows, a cache holds every z that is normalised."""
    n = samples_of(network, cache)
    start, columns = network.layout[layer, CACHE_START], network.layout[layer, FAN_IN]
    return cache[n * start : n * (start + columns)].reshape(n, columns)


@jit
def z_of(network: OptionNetwork, cache: FloatArray, level: int) -> FloatArray:
    """View (N, width) of what is normalised at a level."""
    n = samples_of(network, cache)
    start, columns = network.sites[level, Z_START], network.sites[level, WIDTH]
    return cache[n * start : n * (start + columns)].reshape(n, columns)


@jit
def statistics_of(network: OptionNetwork, z: FloatArray, level: int) -> tuple[FloatArray, FloatArray]:
    """mean and var (width,) that BATCH uses: the batch's own in training, else the running ones."""
    if network.training:
        return batch_statistics(z)
    width, start = network.sites[level, WIDTH], network.sites[level, RUNNING_START]
    return network.running[start : start + width], network.running[start + width : start + 2 * width]


@jit
def normalise(network: OptionNetwork, z: FloatArray, level: int, out: FloatArray) -> None:
    """out = gamma (z - mean) / s + beta.    z, out (N, width)"""
    gamma, beta = gamma_of(network, network.params, level), beta_of(network, network.params, level)
    if network.normalisation == LAYER:
        layer_norm_forward(z, gamma, beta, out)
    else:
        mean, var = statistics_of(network, z, level)
        batch_norm_forward(z, mean, var, gamma, beta, out)


@jit
def normalise_backward(
    network: OptionNetwork, dy: FloatArray, cache: FloatArray, level: int, dparams: FloatArray
) -> FloatArray:
    """dy (N, width) -> dz (N, width); writes dgamma and dbeta into dparams (P,).

    Of the observation's beta as of a bias: see layer_backward.
    """
    z, gamma = z_of(network, cache, level), gamma_of(network, network.params, level)
    dgamma, dbeta = gamma_of(network, dparams, level), beta_of(network, dparams, level)
    if network.normalisation == LAYER:
        return layer_norm_backward(dy, z, gamma, dgamma, dbeta)
    mean, var = statistics_of(network, z, level)
    dz = batch_norm_backward(dy, z, mean, var, gamma, dgamma, dbeta, network.training)
    if level == 0 and takes_shifts_away(network, 1):
        for j in each(dbeta):
            dbeta[j] = 0
    return dz


@jit
def learn_statistics(
    network: OptionNetwork, target: OptionNetwork, obs: FloatArray, act: FloatArray, tau: float
) -> None:
    """The running statistics of a network take in those of a batch; its target's follow by tau, as parameters do.

    Once per update, at the parameters that it has led to. Running ones are those of BATCH; LAYER has none.
    """
    cache, take_in = forward(network, obs, act), network.params.dtype.type(STATISTICS_SHARE)
    for level in range(len(network.sites)):
        width, start = network.sites[level, WIDTH], network.sites[level, RUNNING_START]
        if width > 0:
            mean, var = batch_statistics(z_of(network, cache, level))
            polyak(network.running[start : start + width], mean, take_in)
            polyak(network.running[start + width : start + 2 * width], var, take_in)
    polyak(target.running, network.running, tau)


# --- forward and backward ---------------------------------------------------------------------------------------------


@variant(forward, OptionNetwork)
@jit
def option_forward(network: OptionNetwork, obs: FloatArray, act: FloatArray) -> FloatArray:
    """As `networks.forward`, with what is different. The cache holds the z of every site behind its usual blocks."""
    last, n, sites = len(network.layout) - 2, len(obs), network.sites
    cache = np.empty(n * (sites[-1, Z_START] + sites[-1, WIDTH]), obs.dtype)
    if act.shape[1] != network.act_dim or len(act) != n:
        raise ValueError("forward: act must be (N, act_dim), with as many rows as obs")
    if obs.shape[1] != len(hidden_rows(network, 0)):
        raise ValueError("forward: obs must be (N, obs_dim)")
    h = np.empty((n, obs.shape[1]), obs.dtype)
    copy(obs, h)
    if sites[0, WIDTH] > 0:
        copy(obs, z_of(network, cache, 0))
        normalise(network, z_of(network, cache, 0), 0, h)
    for layer in range(last + 1):
        x = layer_input(network, cache, layer)
        if layer == network.action_layer:
            join(h, act, x)
        elif layer == 0:
            copy(h, x)
        w, b = weight(network, network.params, layer), bias(network, network.params, layer)
        y = layer_input(network, cache, layer + 1)
        h = np.empty((n, b.size), obs.dtype) if layer + 1 == network.action_layer else y
        if layer < last and sites[layer + 1, WIDTH] > 0:
            linear_forward(x, w, b, z_of(network, cache, layer + 1))
            normalise(network, z_of(network, cache, layer + 1), layer + 1, h)
            activate(network, h)
        elif layer < last and not network.tanh:
            linear_relu_forward(x, w, b, h)
        else:
            linear_forward(x, w, b, h)
            if layer < last:
                tanh_forward(h)
    return cache


@jit
def activate(network: OptionNetwork, h: FloatArray) -> None:
    """h = max(h, 0) or tanh(h), in place."""
    if network.tanh:
        tanh_forward(h)
    else:
        flat, zero = h.reshape(h.size), h.dtype.type(0)
        for i in each(flat):
            flat[i] = where(flat[i] < zero, zero, flat[i])


@variant(hidden_backward, OptionNetwork)
@jit
def option_hidden_backward(
    network: OptionNetwork, dh: FloatArray, cache: FloatArray, layer: int, dparams: FloatArray
) -> FloatArray:
    """As `networks.hidden_backward`; of layer 0, the observation's dz."""
    x = layer_input(network, cache, layer)
    dy = dh
    if layer > 0:
        dy = tanh_hidden_backward(dh, x) if network.tanh else relu_backward(dh, x)
    return normalise_backward(network, dy, cache, layer, dparams) if network.sites[layer, WIDTH] > 0 else dy


@jit
def takes_shifts_away(network: OptionNetwork, level: int) -> bool:
    """Whether a batch's own mean is subtracted at a level: what is added to every row below does not matter."""
    own = network.normalisation == BATCH and network.training
    return own and level < len(network.sites) and network.sites[level, WIDTH] > 0


@jit
def layer_backward(network: OptionNetwork, dz: FloatArray, cache: FloatArray, layer: int, dparams: FloatArray) -> None:
    """dz (N, fan_out) -> the gradient of a layer's weight and bias, into dparams (P,).

    A batch's own mean takes away what a bias adds to every row: its gradient is 0. Rounding would leave 1e-17 of it,
    which Adam makes steps of.
    """
    dbias = bias(network, dparams, layer)
    linear_backward_weights(layer_input(network, cache, layer), dz, weight(network, dparams, layer), dbias)
    if takes_shifts_away(network, layer + 1):
        for j in each(dbias):
            dbias[j] = 0


@variant(backward_to_weights, OptionNetwork)
@jit
def option_backward_to_weights(network: OptionNetwork, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """As `networks.backward_to_weights`."""
    dparams = np.empty_like(network.params)
    for layer in range(len(network.layout) - 2, -1, -1):
        layer_backward(network, dz, cache, layer, dparams)
        if layer > 0 or network.sites[0, WIDTH] > 0:
            dh = linear_backward_input(dz, hidden_rows(network, layer))
            dz = hidden_backward(network, dh, cache, layer, dparams)
    return dparams


@variant(backward_to_action, OptionNetwork)
@jit
def option_backward_to_action(network: OptionNetwork, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """As `networks.backward_to_action`."""
    unused = np.empty_like(network.params)
    for layer in range(len(network.layout) - 2, network.action_layer, -1):
        dz = hidden_backward(network, linear_backward_input(dz, hidden_rows(network, layer)), cache, layer, unused)
    return linear_backward_input(dz, action_rows(network))


@variant(backward_to_obs, OptionNetwork)
@jit
def option_backward_to_obs(network: OptionNetwork, dz: FloatArray, cache: FloatArray) -> FloatArray:
    """As `networks.backward_to_obs`."""
    unused = np.empty_like(network.params)
    for layer in range(len(network.layout) - 2, -1, -1):
        dz = hidden_backward(network, linear_backward_input(dz, hidden_rows(network, layer)), cache, layer, unused)
    return dz


@variant(backward, OptionNetwork)
@jit
def option_backward(
    network: OptionNetwork, dz: FloatArray, cache: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As `networks.backward`."""
    dparams, dact = np.empty_like(network.params), np.empty((len(dz), network.act_dim), dz.dtype)
    for layer in range(len(network.layout) - 2, -1, -1):
        layer_backward(network, dz, cache, layer, dparams)
        if layer == network.action_layer:
            dact = linear_backward_input(dz, action_rows(network))
        dh = linear_backward_input(dz, hidden_rows(network, layer))
        dz = hidden_backward(network, dh, cache, layer, dparams)
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
