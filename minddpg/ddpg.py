"""DDPG on one screen: the critic step, the actor step, and their order. Lillicrap et al. 2015, algorithm 1.

The objective is J(theta) = mean_i Q(s_i, mu_theta(s_i)), to be maximised. Its gradient is the chain rule

    dJ/dtheta = mean_i  dQ(s_i, a)/da |_{a = mu(s_i)}  .  dmu(s_i)/dtheta

and `actor_gradient` below is that line, with the ten steps people are taught marked in it.

`for i in each(v):` visits every element of v when compiled; as plain NumPy, i is one slice that covers them all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .fast.jit import FloatArray, each, jit
from .layers import mean, mean_square, squared_error
from .networks import (
    Network,
    actor_forward,
    backward_to_action,
    backward_to_weights,
    critic_forward,
    output_backward,
    weight,
)
from .optim import Adam, adam, polyak
from .replay import Batch, gather


class Learner(NamedTuple):
    """All that an update reads and writes: four networks and two optimisers."""

    actor: Network
    critic: Network
    target_actor: Network
    target_critic: Network
    actor_adam: Adam
    critic_adam: Adam


class Rates(NamedTuple):
    """How fast an update forgets, follows, learns and decays: gamma per step, the others per update; see Config."""

    gamma: float
    tau: float
    actor_lr: float
    critic_lr: float
    critic_weight_decay: float


class Losses(NamedTuple):
    """What an update saw: losses before each step, means over the batch, and the RMS of dQ/da at mu(s)."""

    critic_loss: float
    actor_loss: float
    q_mean: float
    target_q_mean: float
    dq_dact_rms: float


# --- the critic -------------------------------------------------------------------------------------------------------


@jit
def bellman_target(target_actor: Network, target_critic: Network, batch: Batch, gamma: float) -> FloatArray:
    """y_i = r_i + gamma (1 - terminated_i) Q'(s'_i, mu'(s'_i)).    -> (N,)

    terminated, never truncated: a time limit does not make the future worthless. y is data; nothing flows back.
    """
    if not len(batch.rew) == len(batch.terminated) == len(batch.next_obs):
        raise ValueError("bellman_target: rew, terminated and next_obs must have one row per transition")
    next_act, _ = actor_forward(target_actor, batch.next_obs)
    next_q, _ = critic_forward(target_critic, batch.next_obs, next_act)
    target_q, discount = np.empty_like(next_q), next_q.dtype.type(gamma)
    for i in each(target_q):
        target_q[i] = batch.rew[i] + discount * (1 - batch.terminated[i]) * next_q[i]
    return target_q


@jit
def add_weight_decay(critic: Network, dparams: FloatArray, weight_decay: float) -> None:
    """dW += weight_decay W, in place: the gradient of weight_decay/2 |W|^2. Weights only, biases stay free."""
    for layer in range(len(critic.layout) - 1):
        w, dw = weight(critic, critic.params, layer), weight(critic, dparams, layer)
        flat, dflat, decay = w.reshape(w.size), dw.reshape(dw.size), w.dtype.type(weight_decay)
        for i in each(flat):
            dflat[i] += decay * flat[i]


@jit
def critic_gradient(
    critic: Network, obs: FloatArray, act: FloatArray, target_q: FloatArray, weight_decay: float
) -> tuple[float, FloatArray, FloatArray]:
    """loss = mean_i (Q(s_i, a_i) - y_i)^2; its gradient, with the weight decay's.    -> loss, dparams (P,), q (N,)"""
    q, cache = critic_forward(critic, obs, act)
    loss, dq = squared_error(q, target_q)
    dparams = backward_to_weights(critic, dq.reshape(len(dq), 1), cache)
    if weight_decay > 0:
        add_weight_decay(critic, dparams, weight_decay)
    return loss, dparams, q


# --- the actor: how does it get its gradient? -------------------------------------------------------------------------


@jit
def actor_gradient(actor: Network, critic: Network, obs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """loss = -mean_i Q(s_i, mu(s_i)) and its gradient in the actor.    -> dtheta (P,), dact (N, act_dim), q (N,)"""
    n = len(obs)
    # Steps 1, 2: the batch's states give mu(s), not the replayed action.
    act, actor_cache = actor_forward(actor, obs)
    # Step 3: judged by the critic, which has already made its own step.
    q, critic_cache = critic_forward(critic, obs, act)
    # Step 8, once and for all: loss = -mean(q). Minus, to climb by descending; 1/N, the actor's only one.
    dq = np.full((n, 1), -1 / n, obs.dtype)
    # Step 4: -(1/N) dQ/da. Backward to the action and no further: no critic weight gets a gradient.
    dact = backward_to_action(critic, dq, critic_cache)
    # Step 5 would feed the states to the actor again; actor_cache is that pass.
    # Steps 6, 7: dact . da/dtheta, multiplied from the left, layer by layer; da/dtheta itself is never formed.
    dz = output_backward(actor, dact, act)  # below the tanh
    dtheta = backward_to_weights(actor, dz, actor_cache)
    return dtheta, dact, q


# --- one update -------------------------------------------------------------------------------------------------------


@jit
def critic_step(learner: Learner, batch: Batch, rates: Rates) -> tuple[float, float, float]:
    """One Adam step of the critic towards the Bellman target.    -> critic_loss, q_mean, target_q_mean"""
    target_q = bellman_target(learner.target_actor, learner.target_critic, batch, rates.gamma)
    loss, dparams, q = critic_gradient(learner.critic, batch.obs, batch.act, target_q, rates.critic_weight_decay)
    adam(learner.critic.params, dparams, learner.critic_adam, rates.critic_lr)
    return loss, mean(q), mean(target_q)


@jit
def actor_step(learner: Learner, batch: Batch, rates: Rates) -> tuple[float, float]:
    """One Adam step of the actor, uphill on Q.    -> actor_loss, dq_dact_rms"""
    dtheta, dact, q = actor_gradient(learner.actor, learner.critic, batch.obs)
    # Steps 9, 10: the actor alone moves, and mean(q) rises.
    adam(learner.actor.params, dtheta, learner.actor_adam, rates.actor_lr)
    dq_dact_rms = np.sqrt(mean_square(dact)) * len(dact)  # dact is -(1/N) dQ/da
    return -mean(q), dq_dact_rms


@jit
def update(learner: Learner, transitions: Batch, indices: npt.NDArray[np.int64], rates: Rates) -> Losses:
    """One update from the transitions at `indices` (N,). The order is part of the algorithm."""
    batch = gather(transitions, indices)
    critic_loss, q_mean, target_q_mean = critic_step(learner, batch, rates)
    actor_loss, dq_dact_rms = actor_step(learner, batch, rates)  # through the critic that has just moved
    polyak(learner.target_critic.params, learner.critic.params, rates.tau)
    polyak(learner.target_actor.params, learner.actor.params, rates.tau)
    return Losses(critic_loss, actor_loss, q_mean, target_q_mean, dq_dact_rms)


@jit
def policy(actor: Network, obs: FloatArray) -> FloatArray:
    """mu(s).    obs (N, obs_dim) -> act (N, act_dim)"""
    act, _ = actor_forward(actor, obs)
    return act
