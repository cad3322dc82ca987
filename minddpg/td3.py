"""TD3 on one screen: `diff ddpg.py td3.py` shows its three changes. Fujimoto et al. 2018, algorithm 1.

1. Twin critics: y is made with the smaller of two target critics' values, against overestimation.
2. A delayed policy: the actor and all targets move at every policy_delay-th update only.
3. Target smoothing: Q' is asked about mu'(s') with clipped noise, so that a narrow peak of Q' cannot be exploited.

dQ/da comes from the first critic, by name; the second only has a say in y. The policy is ddpg.py's.

`for i in each(v):` visits every element of v when compiled; as plain NumPy, i is one slice that covers them all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .ddpg import Losses
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


class Seen(NamedTuple):
    """What the last actor step saw, (1,) each: reported by the updates that make none."""

    actor_loss: FloatArray
    dq_dact_rms: FloatArray


class Learner(NamedTuple):
    """All that an update reads and writes: six networks and three optimisers."""

    actor: Network
    critic: Network
    critic2: Network
    target_actor: Network
    target_critic: Network
    target_critic2: Network
    actor_adam: Adam
    critic_adam: Adam
    critic2_adam: Adam
    seen: Seen


class Rates(NamedTuple):
    """How fast an update forgets, follows, learns and decays: gamma per step, the others per update; see Config."""

    gamma: float
    tau: float
    actor_lr: float
    critic_lr: float
    critic_weight_decay: float
    policy_delay: int
    target_noise_std: float
    target_noise_clip: float


# --- the critic -------------------------------------------------------------------------------------------------------


@jit
def smooth(act: FloatArray, noise: FloatArray, std: float, clip: float) -> None:
    """act = clip(act + clip(std noise, -clip, clip), -1, 1), in place.    act, noise (N, act_dim)"""
    if act.shape != noise.shape:
        raise ValueError("smooth: noise must have the shape of act")
    number = act.dtype.type
    most, one = number(clip), number(1)
    flat, drawn, size = act.reshape(act.size), noise.reshape(noise.size), number(std)
    for i in each(flat):
        push = np.minimum(np.maximum(size * drawn[i], -most), most)
        flat[i] = np.minimum(np.maximum(flat[i] + push, -one), one)


@jit
def bellman_target(
    target_actor: Network,
    target_critic: Network,
    target_critic2: Network,
    batch: Batch,
    rates: Rates,
    noise: FloatArray,
) -> FloatArray:
    """y_i = r_i + gamma (1 - terminated_i) min(Q1', Q2')(s'_i, a'_i), a'_i = mu'(s'_i) with clipped noise.    -> (N,)

    noise (N, act_dim): standard normal. terminated, never truncated: a time limit does not make the future worthless.
    y is data; nothing flows back.
    """
    if not len(batch.rew) == len(batch.terminated) == len(batch.next_obs):
        raise ValueError("bellman_target: rew, terminated and next_obs must have one row per transition")
    next_act, _ = actor_forward(target_actor, batch.next_obs)
    smooth(next_act, noise, rates.target_noise_std, rates.target_noise_clip)
    next_q, _ = critic_forward(target_critic, batch.next_obs, next_act)
    next_q2, _ = critic_forward(target_critic2, batch.next_obs, next_act)
    target_q, discount = np.empty_like(next_q), next_q.dtype.type(rates.gamma)
    for i in each(target_q):
        target_q[i] = batch.rew[i] + discount * (1 - batch.terminated[i]) * np.minimum(next_q[i], next_q2[i])
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
    # Step 3: judged by the critic, the first of the two, which has already made its own step.
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
def critic_step(learner: Learner, batch: Batch, rates: Rates, noise: FloatArray) -> tuple[float, float, float]:
    """One Adam step of both critics towards one Bellman target.    -> critic_loss (of both), q_mean, target_q_mean"""
    target_q = bellman_target(learner.target_actor, learner.target_critic, learner.target_critic2, batch, rates, noise)
    loss, dparams, q = critic_gradient(learner.critic, batch.obs, batch.act, target_q, rates.critic_weight_decay)
    adam(learner.critic.params, dparams, learner.critic_adam, rates.critic_lr)
    loss2, dparams2, _ = critic_gradient(learner.critic2, batch.obs, batch.act, target_q, rates.critic_weight_decay)
    adam(learner.critic2.params, dparams2, learner.critic2_adam, rates.critic_lr)
    return (loss + loss2) / 2, mean(q), mean(target_q)


@jit
def actor_step(learner: Learner, batch: Batch, rates: Rates) -> tuple[float, float]:
    """One Adam step of the actor, uphill on Q.    -> actor_loss, dq_dact_rms"""
    dtheta, dact, q = actor_gradient(learner.actor, learner.critic, batch.obs)
    # Steps 9, 10: the actor alone moves, and mean(q) rises.
    adam(learner.actor.params, dtheta, learner.actor_adam, rates.actor_lr)
    dq_dact_rms = np.sqrt(mean_square(dact)) * len(dact)  # dact is -(1/N) dQ/da
    return -mean(q), dq_dact_rms


@jit
def update(
    learner: Learner, transitions: Batch, indices: npt.NDArray[np.int64], rates: Rates, noise: FloatArray
) -> Losses:
    """One update from the transitions at `indices` (N,), noise (N, act_dim). The order is part of the algorithm."""
    batch = gather(transitions, indices)
    critic_loss, q_mean, target_q_mean = critic_step(learner, batch, rates, noise)
    seen = learner.seen
    if learner.critic_adam.t[0] % rates.policy_delay == 0:
        # through the first critic, which has just moved
        seen.actor_loss[0], seen.dq_dact_rms[0] = actor_step(learner, batch, rates)
        polyak(learner.target_critic.params, learner.critic.params, rates.tau)
        polyak(learner.target_critic2.params, learner.critic2.params, rates.tau)
        polyak(learner.target_actor.params, learner.actor.params, rates.tau)
    return Losses(critic_loss, seen.actor_loss[0], q_mean, target_q_mean, seen.dq_dact_rms[0])
