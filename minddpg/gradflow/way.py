"""The way of one actor update, taken apart: every array from the states to the actor's gradient, by name.

`walk` is `ddpg.actor_gradient`, with the same functions of layers.py and networks.py called one layer at a time, so
that what passes between them can be looked at. Its last array is bit for bit what `actor_gradient` returns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from .. import td3
from ..ddpg import Learner, Rates, bellman_target, critic_gradient
from ..fast.jit import FloatArray
from ..layers import linear_backward_input, linear_backward_weights
from ..network_options import WIDTH, OptionNetwork, without_effect
from ..networks import (
    Network,
    action_rows,
    actor_forward,
    bias,
    copy_network,
    forward,
    hidden_backward,
    hidden_rows,
    layer_input,
    named_parameters,
    output,
    output_backward,
    weight,
)
from ..optim import Adam, adam
from ..replay import Batch


class Passed(NamedTuple):
    """An array on the way. step: of the ten. of: the array it was made from, by name, "" for a first one."""

    step: int
    name: str
    of: str
    formula: str
    array: FloatArray


def walk(actor: Network, critic: Network, obs: FloatArray) -> Iterator[Passed]:
    """Everything that `actor_gradient(actor, critic, obs)` computes on its way, in its order.

    Names: actor.l.h is what layer l hands on after its ReLU, actor.l.z what the last one has before the tanh; dx is
    d(loss)/dx for loss = -mean(q), with x's shape. obs (N, obs_dim).
    """
    n, last, top, words = len(obs), len(actor.layout) - 2, len(critic.layout) - 2, formulas(actor)

    yield Passed(1, "obs", "", "s, from the replay", obs)
    actor_cache = forward(actor, obs, np.empty((n, 0), obs.dtype))
    below = "obs"
    if is_normalised(actor, 0):
        yield Passed(1, "actor.obs.x", below, "N(obs): normalised", layer_input(actor, actor_cache, 0))
        below = "actor.obs.x"
    for layer in range(last):
        h = layer_input(actor, actor_cache, layer + 1)
        yield Passed(1, f"actor.{layer}.h", below, words["h"].format(_short(below)), h)
        below = f"actor.{layer}.h"
    z = output(actor, actor_cache).copy()
    yield Passed(1, f"actor.{last}.z", below, f"{_short(below)} W + b", z)
    act, _ = actor_forward(actor, obs)
    yield Passed(2, "act", f"actor.{last}.z", words["act"], act)

    critic_cache = forward(critic, obs, act)
    q, below = output(critic, critic_cache).reshape(n), "obs"
    for layer in range(top + 1):
        if layer == critic.action_layer:
            x = layer_input(critic, critic_cache, layer)
            yield Passed(3, f"critic.{layer}.x", "act", f"[{_short(below)}, act]", x)
            below = f"critic.{layer}.x"
        if layer < top:
            h = layer_input(critic, critic_cache, layer + 1)[:, : len(hidden_rows(critic, layer + 1))]
            yield Passed(3, f"critic.{layer}.h", below, words["h"].format(_short(below)), h)
            below = f"critic.{layer}.h"
    yield Passed(3, "q", below, f"{_short(below)} W + b", q)

    dq = np.full((n, 1), -1 / n, obs.dtype)
    yield Passed(8, "dq", "", "-1/N for every sample", dq)

    dz, above = dq, "dq"
    for layer in range(top, critic.action_layer, -1):
        dh = linear_backward_input(dz, hidden_rows(critic, layer))
        yield Passed(4, f"critic.{layer - 1}.dh", above, f"{_short(above)} W^T", dh)
        dz = hidden_backward(critic, dh.copy(), critic_cache, layer, np.empty_like(critic.params))
        yield Passed(4, f"critic.{layer - 1}.dz", f"critic.{layer - 1}.dh", words["dz"], dz)
        above = f"critic.{layer - 1}.dz"
    dact = linear_backward_input(dz, action_rows(critic))
    yield Passed(4, "dact", above, f"{_short(above)} W^T with the action's rows of W", dact)
    yield Passed(4, "dq_dact", "dact", "-N dact: dQ/da itself, for every sample", -n * dact)

    dz = output_backward(actor, dact, act)
    yield Passed(7, f"actor.{last}.dz", "dact", words["out"], dz)
    dtheta, no_effect = actor._replace(params=np.empty_like(actor.params)), without_effect(actor)
    for layer in range(last, -1, -1):
        x, above = layer_input(actor, actor_cache, layer), f"actor.{layer}.dz"
        dweight, dbias = weight(dtheta, dtheta.params, layer), bias(dtheta, dtheta.params, layer)
        linear_backward_weights(x, dz, dweight, dbias)
        if f"{layer}.bias" in no_effect:
            dbias[:] = 0
        below = "obs" if layer == 0 else "h below"
        yield Passed(7, f"actor.{layer}.dweight", above, f"({below})^T dz", dweight)
        yield Passed(7, f"actor.{layer}.dbias", above, "sum of dz over the batch", dbias)
        if layer > 0:
            dh = linear_backward_input(dz, hidden_rows(actor, layer))
            yield Passed(7, f"actor.{layer - 1}.dh", above, "dz W^T", dh)
            dz = hidden_backward(actor, dh.copy(), actor_cache, layer, dtheta.params)
            yield Passed(7, f"actor.{layer - 1}.dz", f"actor.{layer - 1}.dh", words["dz"], dz)
    if is_normalised(actor, 0):
        hidden_backward(actor, linear_backward_input(dz, hidden_rows(actor, 0)), actor_cache, 0, dtheta.params)
    for name, array in named_parameters(dtheta).items():
        layer_name, kind = name.split(".")
        if kind in ("gamma", "beta"):
            above = f"actor.{layer_name}.dz" if f"actor.{layer_name}.dz" != "actor.obs.dz" else "actor.0.dz"
            what = "sum of dy over the batch" + (", times the normalised z" if kind == "gamma" else "")
            yield Passed(7, f"actor.{layer_name}.d{kind}", above, what, array)
    yield Passed(7, "dtheta", "dact", "all of the above, as one vector", dtheta.params)


def is_normalised(network: Network, level: int) -> bool:
    """Whether a level of the network is (see network_options.py)."""
    return isinstance(network, OptionNetwork) and bool(network.sites[level, WIDTH])


def formulas(actor: Network) -> dict[str, str]:
    """What stands beside the hops of an activation and of the actor's output. Both networks have one activation."""
    words = {"h": "max({} W + b, 0)", "dz": "dh [h > 0]", "act": "tanh(z)", "out": "dact (1 - act^2): the tanh'"}
    if getattr(actor, "tanh", False):
        words |= {"h": "tanh({} W + b)", "dz": "dh (1 - h^2)"}
    if is_normalised(actor, 0):
        words |= {"h": words["h"].replace("{} W + b", "N({} W + b)"), "dz": f"{words['dz']}, back through N"}
    if getattr(actor, "unbounded", False):
        words |= {
            "act": "z, clipped only where it acts",
            "out": "dact times the room to the bound it pushes to, over 2",
        }
    return words


def _short(name: str) -> str:
    return name.split(".")[-1]


class Look(NamedTuple):
    """One update, looked at from inside. passed: the actor's way, dtheta last.

    dcritic: the critic's gradient; actor_step, critic_step: what Adam adds; each laid out as the network. critic: after
    its step. q, target_q (N,): of the replayed actions, before it.
    """

    passed: list[Passed]
    critic: Network
    dcritic: Network
    critic_step: Network
    actor_step: Network
    q: FloatArray
    target_q: FloatArray


def targets(learner: Learner | td3.Learner, batch: Batch, rates: Rates | td3.Rates) -> FloatArray:
    """y (N,) as the learner's algorithm makes it; TD3's without noise on the target's actions."""
    if isinstance(learner, td3.Learner) and isinstance(rates, td3.Rates):
        twins = learner.target_critic, learner.target_critic2
        return td3.bellman_target(learner.target_actor, *twins, batch, rates, np.zeros_like(batch.act))
    return bellman_target(learner.target_actor, learner.target_critic, batch, rates.gamma)


def look(learner: Learner | td3.Learner, batch: Batch, rates: Rates | td3.Rates) -> Look:
    """What an update would do with this batch, but for the target networks. Nothing given is changed.

    Of TD3: what an update with an actor step would do; of its two critics the first, which dQ/da comes from.
    """
    target_q = targets(learner, batch, rates)
    _, dcritic, q = critic_gradient(learner.critic, batch.obs, batch.act, target_q, rates.critic_weight_decay)
    critic, critic_step = stepped(learner.critic, dcritic, learner.critic_adam, rates.critic_lr)
    passed = list(walk(learner.actor, critic, batch.obs))
    _, actor_step = stepped(learner.actor, passed[-1].array, learner.actor_adam, rates.actor_lr)
    return Look(passed, critic, critic._replace(params=dcritic), critic_step, actor_step, q, target_q)


def stepped(network: Network, gradient: FloatArray, state: Adam, lr: float) -> tuple[Network, Network]:
    """The network after a step of Adam, and the step, laid out like it. Nothing given is changed."""
    moved = copy_network(network)
    with suppress(FloatingPointError):  # such a step is refused, and nothing moves
        adam(moved.params, gradient, state._replace(m=state.m.copy(), v=state.v.copy(), t=state.t.copy()), lr)
    return moved, moved._replace(params=moved.params - network.params)


def norm(array: FloatArray) -> float:
    """Root of the sum of squares, summed in float64."""
    flat = array.ravel()
    wide = flat if flat.dtype == np.float64 else flat.astype(np.float64)
    return math.sqrt(float(np.dot(wide, wide)))


def rms(array: FloatArray) -> float:
    """Root of the mean square."""
    return norm(array) / math.sqrt(max(1, array.size))
