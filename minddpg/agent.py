"""The agent: the networks and optimisers that `ddpg.update` works on, as an object to hold, ask, train and copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import Config
from .ddpg import Learner, Losses, Rates, policy, update
from .fast.jit import FloatArray, call, jit, mark_warm
from .fast.threads import begin, compile_help, end, rest, team
from .networks import (
    FAN_IN,
    FAN_OUT,
    PARAMS_START,
    Network,
    copy_network,
    forward,
    named_parameters,
    new_actor,
    new_critic,
    new_layout,
    output,
)
from .optim import new_adam
from .replay import Batch, ReplayBuffer, ShapeError, check_shapes
from .seeds import random_streams


@jit
def shared_update(
    team: int, threads: int, learner: Learner, transitions: Batch, indices: npt.NDArray[np.int64], rates: Rates
) -> Losses:
    """`ddpg.update` with so many threads of a team."""
    begin(team, threads)
    losses = update(learner, transitions, indices, rates)
    end(team)
    return losses


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
        self.threads = 1  # that share an update; no bit of it depends on how many
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

    def update_from(
        self, replay: ReplayBuffer, rng: np.random.Generator, opened: Callable[..., Losses] | None = None
    ) -> Losses:
        """One full update from a batch drawn from the replay, in one compiled call.

        opened: `ddpg.update` as a profile calls it, part by part; None: compiled whole.
        """
        stored = replay.transitions
        fits = (stored.obs.shape[1], stored.act.shape[1]) == (self.obs_dim, self.act_dim)
        if not fits or stored.obs.dtype != self.config.dtype:
            raise ShapeError(
                f"the replay holds {stored.obs.dtype} obs (N, {stored.obs.shape[1]}), act (N, {stored.act.shape[1]}), "
                f"but the agent needs {self.config.dtype} obs (N, {self.obs_dim}), act (N, {self.act_dim})"
            )
        indices = replay.draw(self.config.batch_size, rng)
        if opened is not None:
            return Losses(*map(float, opened(self.learner, stored, indices, self.rates)))
        return self._update(stored, indices)

    def _update(self, transitions: Batch, indices: npt.NDArray[np.int64]) -> Losses:
        try:
            losses = call(
                shared_update,
                self.config.dtype,
                team(self.threads),
                self.threads,
                self.learner,
                transitions,
                indices,
                self.rates,
            )
        except BaseException:
            rest()
            raise
        return Losses(*map(float, losses))

    def not_finite(self) -> list[str]:
        """The names of parameters and moments that hold a NaN or an infinity, as in `state_dict`."""
        return [name for name, view in self.views().items() if not np.isfinite(view).all()]

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.config.hidden_sizes)) or "no hidden layer"
        return f"DDPG({self.obs_dim} observations, {self.act_dim} actions, {sizes}, {self.updates:,} updates)"

    def is_finite(self) -> bool:
        """Whether every parameter and moment is a finite number."""
        return not self.not_finite()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Copies by name: "actor.0.weight" (in, out), "critic.1.bias" (out,), "target_actor.*", "actor_adam.m", ..."""
        return {name: view.copy() for name, view in self.views().items()}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over a state_dict of an agent of the same shape. Where it misfits, ValueError, and nothing changes."""
        views = self.views()
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

    def views(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `state_dict` themselves, not copies."""
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


def state_shapes(obs_dim: int, act_dim: int, config: Config) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every array of a state_dict, by name, without making one of them."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    kind = np.dtype(config.dtype).str
    actor = new_layout(obs_dim, 0, act_dim, config.hidden_sizes, 0)
    critic = new_layout(obs_dim, act_dim, 1, config.hidden_sizes, config.action_layer)
    networks = {"actor": actor, "critic": critic, "target_actor": actor, "target_critic": critic}
    for name, layout in networks.items():
        for layer, (fan_in, fan_out) in enumerate(layout[:-1, [FAN_IN, FAN_OUT]].tolist()):
            shapes[f"{name}.{layer}.weight"] = (kind, (fan_in, fan_out))
            shapes[f"{name}.{layer}.bias"] = (kind, (fan_out,))
    for name in ("actor", "critic"):
        size = int(networks[name][-1, PARAMS_START])
        shapes |= {
            f"{name}_adam.m": (kind, (size,)),
            f"{name}_adam.v": (kind, (size,)),
            f"{name}_adam.t": ("<i8", (1,)),
        }
    return shapes


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
    compile_help()
    mark_warm(dtype)
