"""DDPG on one screen: the critic step, the actor step, and their order. Lillicrap et al. 2015, algorithm 1.

The objective is J(theta) = mean_i Q(s_i, mu_theta(s_i)), to be maximised. Its gradient is the chain rule

    dJ/dtheta = mean_i  dQ(s_i, a)/da |_{a = mu(s_i)}  .  dmu(s_i)/dtheta

and `actor_gradient` below is that line, with the ten steps people are taught marked in it.

`for i in each(v):` visits every element of v when compiled; as plain NumPy, i is one slice that covers them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .config import Config, ConfigError
from .jit import FloatArray, call, each, jit, mark_warm
from .layers import squared_error, tanh_backward
from .networks import (
    Network,
    actor_forward,
    backward_to_action,
    backward_to_weights,
    copy_network,
    critic_forward,
    forward,
    named_parameters,
    new_actor,
    new_critic,
    output,
    weight,
)
from .optim import Adam, adam, new_adam, polyak
from .replay import Batch, ReplayBuffer, ShapeError, check_shapes, gather


class Learner(NamedTuple):
    """All that an update reads and writes: four networks and two optimisers."""

    actor: Network
    critic: Network
    target_actor: Network
    target_critic: Network
    actor_adam: Adam
    critic_adam: Adam


class Rates(NamedTuple):
    """The numbers of an update; see Config."""

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
    dz = tanh_backward(dact, act)  # below the tanh
    dtheta = backward_to_weights(actor, dz, actor_cache)
    return dtheta, dact, q


# --- one update -------------------------------------------------------------------------------------------------------


@jit
def critic_step(learner: Learner, batch: Batch, rates: Rates) -> tuple[float, float, float]:
    """One Adam step of the critic towards the Bellman target.    -> critic_loss, q_mean, target_q_mean"""
    target_q = bellman_target(learner.target_actor, learner.target_critic, batch, rates.gamma)
    loss, dparams, q = critic_gradient(learner.critic, batch.obs, batch.act, target_q, rates.critic_weight_decay)
    adam(learner.critic.params, dparams, learner.critic_adam, rates.critic_lr)
    return loss, q.mean(), target_q.mean()


@jit
def actor_step(learner: Learner, batch: Batch, rates: Rates) -> tuple[float, float]:
    """One Adam step of the actor, uphill on Q.    -> actor_loss, dq_dact_rms"""
    dtheta, dact, q = actor_gradient(learner.actor, learner.critic, batch.obs)
    # Steps 9, 10: the actor alone moves, and mean(q) rises.
    adam(learner.actor.params, dtheta, learner.actor_adam, rates.actor_lr)
    dq_dact_rms = np.sqrt(np.mean(dact * dact)) * len(dact)  # dact is -(1/N) dQ/da
    return -q.mean(), dq_dact_rms


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


# --- the agent --------------------------------------------------------------------------------------------------------


class DDPG:
    """An actor, a critic, their target networks and optimisers.

    obs_dim, act_dim: length of one observation and of one action. config: hyperparameters. seed: of the initial
    parameters. Actions are in [-1, 1]; scaling to an environment's bounds is the caller's (see training.py). Raises
    ShapeError for a dimension below 1, ConfigError for a negative seed.
    """

    def __init__(self, obs_dim: int, act_dim: int, config: Config | None = None, seed: int = 0):
        config = config or Config()
        if min(obs_dim, act_dim) < 1:
            raise ShapeError(f"obs_dim and act_dim must be 1 or more, not {obs_dim} and {act_dim}")
        rng = random_streams(seed).parameters
        actor = new_actor(obs_dim, act_dim, config.hidden_sizes, config.final_init, config.dtype, rng)
        critic = new_critic(
            obs_dim, act_dim, config.hidden_sizes, config.action_layer, config.final_init, config.dtype, rng
        )
        self.obs_dim, self.act_dim, self.config = obs_dim, act_dim, config
        self.learner = Learner(
            actor, critic, copy_network(actor), copy_network(critic), new_adam(actor.params), new_adam(critic.params)
        )
        self.rates = Rates(config.gamma, config.tau, config.actor_lr, config.critic_lr, config.critic_weight_decay)

    @property
    def actor(self) -> Network:
        """mu."""
        return self.learner.actor

    @property
    def critic(self) -> Network:
        """Q."""
        return self.learner.critic

    @property
    def target_actor(self) -> Network:
        """mu', which follows mu slowly."""
        return self.learner.target_actor

    @property
    def target_critic(self) -> Network:
        """Q', which follows Q slowly."""
        return self.learner.target_critic

    @property
    def updates(self) -> int:
        """Updates made so far; Adam counts them."""
        return int(self.learner.actor_adam.t[0])

    def act(self, obs: npt.ArrayLike) -> FloatArray:
        """mu(s) without noise.    obs (obs_dim,) -> (act_dim,), or (N, obs_dim) -> (N, act_dim); in [-1, 1]."""
        array = self._array("obs", obs)
        rows = array[None] if array.ndim == 1 else array
        if rows.ndim != 2 or rows.shape[1] != self.obs_dim:
            raise ShapeError(f"obs has shape {array.shape}, but must be ({self.obs_dim},) or (N, {self.obs_dim})")
        act = call(policy, self.config.dtype, self.learner.actor, rows)
        return act[0] if array.ndim == 1 else act

    def q(self, obs: FloatArray, act: FloatArray) -> FloatArray:
        """Q(s, a).    obs (N, obs_dim), act (N, act_dim) in [-1, 1], both of the agent's dtype -> (N,)"""
        cache = call(forward, self.config.dtype, self.learner.critic, obs, act)
        return output(self.learner.critic, cache).reshape(len(obs))

    def update(self, batch: Batch) -> Losses:
        """One full update: critic step, actor step, both target networks. Raises ShapeError."""
        checked = self.checked(batch)
        return self._update(checked, np.arange(len(checked.rew), dtype=np.int64))

    def checked(self, batch: Batch) -> Batch:
        """The batch in the agent's dtype, as compiled code expects it. Raises ShapeError."""
        obs, act = self._array("batch.obs", batch.obs), self._array("batch.act", batch.act)
        rew, next_obs = self._array("batch.rew", batch.rew), self._array("batch.next_obs", batch.next_obs)
        checked = Batch(obs, act, rew, next_obs, _plain(batch.terminated, "bool"))
        check_shapes(checked, self.obs_dim, self.act_dim)
        return checked

    def copy(self, dtype: str | None = None) -> DDPG:
        """The same agent on memory of its own, in another dtype if one is given."""
        clone = DDPG(self.obs_dim, self.act_dim, self.config.replace(dtype=dtype or self.config.dtype))
        clone.load_state_dict(self.state_dict())
        return clone

    def update_from(self, replay: ReplayBuffer, rng: np.random.Generator) -> Losses:
        """One full update from a batch drawn from the replay, in one compiled call."""
        stored = replay.transitions
        fits = (stored.obs.shape[1], stored.act.shape[1]) == (self.obs_dim, self.act_dim)
        if not fits or stored.obs.dtype != self.config.dtype:
            raise ShapeError(
                f"the replay holds {stored.obs.dtype} obs (N, {stored.obs.shape[1]}), act (N, {stored.act.shape[1]}), "
                f"but the agent needs {self.config.dtype} obs (N, {self.obs_dim}), act (N, {self.act_dim})"
            )
        return self._update(stored, replay.draw(self.config.batch_size, rng))

    def _update(self, transitions: Batch, indices: npt.NDArray[np.int64]) -> Losses:
        losses = call(update, self.config.dtype, self.learner, transitions, indices, self.rates)
        return Losses(*map(float, losses))

    def is_finite(self) -> bool:
        """Whether every parameter and moment is a finite number."""
        return all(bool(np.isfinite(view).all()) for view in self._views().values())

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Copies by name: "actor.0.weight" (in, out), "critic.1.bias" (out,), "target_actor.*", "actor_adam.m", ..."""
        return {name: view.copy() for name, view in self._views().items()}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over a state_dict of an agent of the same shape. Where it misfits, ValueError, and nothing changes."""
        views = self._views()
        if set(state) != set(views):
            differing = ", ".join(sorted(set(state) ^ set(views))[:3])
            raise ValueError(f"the state is of another agent: {differing} is missing or unknown")
        for name, view in views.items():
            value = np.asarray(state[name])
            if value.shape != view.shape:
                raise ShapeError(f"{name} has shape {value.shape}, but must be {view.shape}")
            with np.errstate(over="ignore"):
                if value.dtype.kind not in "fiu" or not np.isfinite(value.astype(view.dtype)).all():
                    raise ValueError(f"{name} must hold finite numbers only")
            if name.endswith((".v", ".t")) and value.min() < 0:
                raise ValueError(f"{name} must not be negative")
        for name, view in views.items():
            view[...] = state[name]

    def _views(self) -> dict[str, npt.NDArray[Any]]:
        views: dict[str, npt.NDArray[Any]] = {}
        for name, part in self.learner._asdict().items():
            inner = named_parameters(part) if isinstance(part, Network) else part._asdict()
            views.update({f"{name}.{key}": view for key, view in inner.items()})
        return views

    def _array(self, name: str, value: npt.ArrayLike) -> FloatArray:
        try:
            return _plain(value, self.config.dtype)
        except (TypeError, ValueError) as error:
            raise ShapeError(f"{name} must be an array of numbers: {error}") from None


def _plain(value: npt.ArrayLike, dtype: str) -> npt.NDArray[Any]:
    """The array as compiled code expects it: C-contiguous, aligned, writeable. (np.require does it in 2 us.)"""
    array = np.asarray(value, dtype)
    return array if array.flags.carray else array.copy()


def checked_seed(seed: int) -> int:
    """The seed as an int. Raises ConfigError for what is none."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be a whole number, 0 or more, not {seed!r}")
    return int(seed)


class RandomStreams(NamedTuple):
    """One Generator per purpose, all from one seed: using more of one does not move the others."""

    parameters: np.random.Generator
    replay: np.random.Generator
    warmup: np.random.Generator  # the uniform actions before the first update
    noise: np.random.Generator
    environment: np.random.Generator
    diagnosis: np.random.Generator  # which transitions are looked at; training does not depend on it


def random_streams(seed: int) -> RandomStreams:
    """Independent Generators from one seed. Evaluation has none: its starts are named by their own seeds."""
    children = np.random.SeedSequence(checked_seed(seed)).spawn(len(RandomStreams._fields))
    return RandomStreams(*(np.random.default_rng(child) for child in children))


def smallest(dtype: str) -> tuple[DDPG, ReplayBuffer]:
    """An agent and a replay of the smallest size, to compile with: compiled code is the same for every size."""
    agent = DDPG(1, 1, Config(hidden_sizes=(1,), batch_size=1, dtype=dtype))
    replay = ReplayBuffer(1, 1, 1, dtype)
    replay.add([0.0], [0.0], 0.0, [0.0], True)
    return agent, replay


def warmup(dtype: str = "float32") -> None:
    """Compile an update and the policy; takes seconds the first time, and next to nothing afterwards."""
    agent, replay = smallest(dtype)
    agent.update_from(replay, np.random.default_rng(0))
    agent.act([0.0])
    mark_warm(dtype)
