"""The agent: the networks and optimisers that `ddpg.update` works on, as an object to hold, ask, train and copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from . import td3
from .config import Config
from .ddpg import Learner, Losses, Rates, policy, update
from .fast.jit import FloatArray, call, mark_warm
from .network_options import (
    WIDTH,
    OptionNetwork,
    has_options,
    in_use,
    learn_statistics,
    named_statistics,
    new_sites,
    site_name,
    with_options,
)
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
from .observations import learn, new_statistics, normalised
from .optim import new_adam
from .replay import Batch, LongBatch, ReplayBuffer, ShapeError, check_shapes, steps_of, take
from .returns import factored
from .seeds import random_streams


class DDPG:
    """An actor, a critic, their target networks and optimisers. With algorithm="td3", TD3's: a second critic as well.

    obs_dim, act_dim: length of one observation and of one action. config: hyperparameters. seed: of the initial
    parameters. Actions are in [-1, 1]; scaling to an environment's bounds is the caller's (see training.py). Raises
    ShapeError for a dimension below 1, ConfigError for a negative seed.
    """

    def __init__(self, obs_dim: int, act_dim: int, config: Config | None = None, seed: int = 0):
        config = config or Config()
        if min(obs_dim, act_dim) < 1:
            raise ShapeError(f"obs_dim and act_dim must be 1 or more, not {obs_dim} and {act_dim}")
        streams = random_streams(seed)
        rng = streams.parameters
        actor = new_actor(obs_dim, act_dim, config.hidden_sizes, config.final_init, config.dtype, rng)
        actor = with_options(actor, config)
        shape = (obs_dim, act_dim, config.hidden_sizes, config.action_layer, config.final_init, config.dtype)
        critic = with_options(new_critic(*shape, rng), config)
        self.obs_dim, self.act_dim, self.config = obs_dim, act_dim, config
        self.kind = kind(config)
        self.smoothing = streams.smoothing  # draws the noise on TD3's target actions
        self.learner: Learner | td3.Learner = Learner(
            actor, critic, in_use(copy_network(actor)), in_use(copy_network(critic)),
            *(new_adam(network.params, config.max_grad_norm) for network in (actor, critic)),
        )  # fmt: skip
        rates = Rates(config.gamma, config.tau, config.actor_lr, config.critic_lr, config.critic_weight_decay)
        self.rates: Rates | td3.Rates = rates
        if config.algorithm == "td3":
            critic2, seen = with_options(new_critic(*shape, rng), config), td3.Seen(np.zeros(1), np.zeros(1))
            of_critic2 = in_use(copy_network(critic2)), new_adam(critic2.params, config.max_grad_norm)
            self.learner = td3.Learner(actor, critic, critic2, *self.learner[2:4], of_critic2[0],
                                       *self.learner[4:], of_critic2[1], seen)  # fmt: skip
            self.rates = td3.Rates(*rates, config.policy_delay, config.target_noise_std, config.target_noise_clip)
        self.statistics = new_statistics(obs_dim) if config.normalise_obs else None
        self.planned = config.updates  # until both learning rates have fallen to config.final_lr_share

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
        """Updates made so far; the critic's Adam counts them."""
        return int(self.learner.critic_adam.t[0])

    def act(self, obs: npt.ArrayLike) -> FloatArray:
        """mu(s) without noise.    obs (obs_dim,) -> (act_dim,), or (N, obs_dim) -> (N, act_dim); in [-1, 1]."""
        array = self._array("obs", obs)
        rows = array[None] if array.ndim == 1 else array
        if rows.ndim != 2 or rows.shape[1] != self.obs_dim:
            raise ShapeError(f"obs has shape {array.shape}, but must be ({self.obs_dim},) or (N, {self.obs_dim})")
        act = call(policy, self.kind, in_use(self.learner.actor), self.in_units(rows))
        if self.config.invert_gradients:
            act = np.clip(act, -1, 1)  # the one place where a linear output is held to its bounds
        return act[0] if array.ndim == 1 else act

    def q(self, obs: FloatArray, act: FloatArray) -> FloatArray:
        """Q(s, a).    obs (N, obs_dim), act (N, act_dim) in [-1, 1], both of the agent's dtype -> (N,)"""
        cache = call(forward, self.kind, in_use(self.learner.critic), self.in_units(obs), act)
        return output(self.learner.critic, cache).reshape(len(obs))

    def in_units(self, obs: FloatArray) -> FloatArray:
        """Observations (N, obs_dim) as the networks get them: normalised, if config.normalise_obs."""
        return obs if self.statistics is None else normalised(self.statistics, obs)

    def observe(self, obs: npt.ArrayLike) -> None:
        """To be called with every observation (obs_dim,) that is stored, for config.normalise_obs."""
        if self.statistics is not None:
            learn(self.statistics, obs)

    def update(self, batch: Batch) -> Losses:
        """One full update: critic step, actor step, both target networks. Raises ShapeError."""
        checked = self.checked(batch)
        return self._update(checked, np.arange(len(checked.rew), dtype=np.int64))

    def checked(self, batch: Batch) -> Batch:
        """The batch in the agent's dtype, as compiled code expects it and the networks get it. Raises ShapeError.

        That is: with normalised observations and `terminated` as a number, as the config has it.
        """
        obs, act = self._array("batch.obs", batch.obs), self._array("batch.act", batch.act)
        rew, next_obs = self._array("batch.rew", batch.rew), self._array("batch.next_obs", batch.next_obs)
        factored_already = self.config.n_step > 1 and np.asarray(batch.terminated).dtype.kind == "f"
        over = _plain(batch.terminated, self.config.dtype if factored_already else "bool")
        checked = Batch(obs, act, rew, next_obs, over)
        check_shapes(checked, self.obs_dim, self.act_dim)
        steps = steps_of(batch)
        return self.prepared(checked if steps is None else LongBatch(*checked, steps))  # type: ignore[arg-type]

    def prepared(self, batch: Batch) -> Batch:
        """A batch as it was stored, as the networks get it; in the dtype it has."""
        if self.statistics is not None:
            batch = batch._replace(obs=self.in_units(batch.obs), next_obs=self.in_units(batch.next_obs))
        if self.config.n_step > 1 or steps_of(batch) is not None:
            return factored(batch, self.config.gamma, batch.obs.dtype.name)
        return batch

    def copy(self, dtype: str | None = None) -> DDPG:
        """The same agent on memory of its own, in another dtype if one is given."""
        clone = DDPG(self.obs_dim, self.act_dim, self.config.replace(dtype=dtype or self.config.dtype))
        clone.load_state_dict(self.state_dict())
        clone.smoothing.bit_generator.state = self.smoothing.bit_generator.state
        clone.planned = self.planned
        clone.set_rates()
        return clone

    def bare(self) -> DDPG:
        """The same networks and optimisers, for batches and observations that have been `prepared` already."""
        clone = copy(self)
        clone.config, clone.statistics = self.config.replace(normalise_obs=False), None
        return clone

    def set_rates(self) -> None:
        """Let the learning rates be what they are after so many updates: linear from 1 to config.final_lr_share.

        After `planned` updates they stay there.
        """
        config = self.config
        if config.final_lr_share < 1:
            share = 1 - (1 - config.final_lr_share) * min(1.0, self.updates / max(1, self.planned))
            self.rates = self.rates._replace(actor_lr=share * config.actor_lr, critic_lr=share * config.critic_lr)

    def update_from(
        self, replay: ReplayBuffer, rng: np.random.Generator, opened: Callable[..., Losses] | None = None
    ) -> Losses:
        """One full update from a batch drawn from the replay, in one compiled call.

        opened: the update as a profile calls it, part by part; None: compiled whole.
        """
        stored = replay.transitions
        fits = (stored.obs.shape[1], stored.act.shape[1]) == (self.obs_dim, self.act_dim)
        if not fits or stored.obs.dtype != self.config.dtype:
            raise ShapeError(
                f"the replay holds {stored.obs.dtype} obs (N, {stored.obs.shape[1]}), act (N, {stored.act.shape[1]}), "
                f"but the agent needs {self.config.dtype} obs (N, {self.obs_dim}), act (N, {self.act_dim})"
            )
        indices = replay.draw(self.config.batch_size, rng)
        if self.statistics is not None or self.config.n_step > 1 or steps_of(stored) is not None:
            stored, indices = self.prepared(take(stored, indices)), np.arange(len(indices), dtype=np.int64)
        return self._update(stored, indices, opened)

    def _update(
        self, transitions: Batch, indices: npt.NDArray[np.int64], opened: Callable[..., Losses] | None = None
    ) -> Losses:
        # `terminated` as a number is another type to compiled code.
        what = self.kind if transitions.terminated.dtype == np.bool_ else f"{self.kind} factored"
        arguments: tuple[Any, ...] = (self.learner, transitions, indices, self.rates)
        if self.config.algorithm == "td3":
            arguments = (*arguments, self.draw_smoothing(self.smoothing, len(indices)))
        if opened is not None:
            losses = opened(*arguments)
        else:
            losses = call(td3.update if len(arguments) == 5 else update, what, *arguments)
        if self.config.normalisation == "batch":
            self._learn_statistics(transitions.obs[indices])
        if self.config.final_lr_share < 1:
            self.set_rates()
        return Losses(*map(float, losses))

    def _learn_statistics(self, obs: FloatArray) -> None:
        """Running statistics take in the batch that an update was made with; targets follow where they have moved."""
        learner, config = self.learner._asdict(), self.config
        moved = config.algorithm != "td3" or self.updates % config.policy_delay == 0
        for name in ("actor", "critic", "critic2"):
            if name in learner:
                # What is normalised lies below the action, which may be anything.
                act = np.zeros((len(obs), learner[name].act_dim), obs.dtype)
                pair = learner[name], learner[f"target_{name}"]
                call(learn_statistics, self.kind, *pair, obs, act, config.tau if moved else 0.0)

    def draw_smoothing(self, rng: np.random.Generator, n: int) -> FloatArray:
        """TD3's noise on n target actions, before its size and its clipping.    -> (n, act_dim), standard normal"""
        return rng.standard_normal((n, self.act_dim)).astype(self.config.dtype)

    def not_finite(self) -> list[str]:
        """The names of parameters and moments that hold a NaN or an infinity, as in `state_dict`."""
        return [name for name, view in self.views().items() if not np.isfinite(view).all()]

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.config.hidden_sizes)) or "no hidden layer"
        name = self.config.algorithm.upper()
        return f"{name}({self.obs_dim} observations, {self.act_dim} actions, {sizes}, {self.updates:,} updates)"

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
            if name.endswith((".v", ".t", ".number", ".m2", ".var")) and value.min() < 0:
                raise ValueError(f"{name} must not be negative")
        for name, view in views.items():
            view[...] = state[name]
        self.set_rates()

    def views(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `state_dict` themselves, not copies."""
        views: dict[str, npt.NDArray[Any]] = {}
        for name, part in self.learner._asdict().items():
            is_network = isinstance(part, (Network, OptionNetwork))
            inner = {**named_parameters(part), **named_statistics(part)} if is_network else part._asdict()
            views.update({f"{name}.{key}": view for key, view in inner.items() if isinstance(view, np.ndarray)})
        for name, view in self.statistics._asdict().items() if self.statistics is not None else ():
            views[f"obs_statistics.{name}"] = view
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
    sites_of = (
        new_sites(actor, 0, 0, config.normalisation),
        new_sites(critic, config.action_layer, act_dim, config.normalisation),
    )
    networks = {"actor": actor, "critic": critic, "target_actor": actor, "target_critic": critic}
    optimised = ["actor", "critic"]
    if config.algorithm == "td3":
        networks |= {"critic2": critic, "target_critic2": critic}
        optimised.append("critic2")
        shapes |= {f"seen.{name}": ("<f8", (1,)) for name in td3.Seen._fields}
    for name, layout in networks.items():
        for layer, (fan_in, fan_out) in enumerate(layout[:-1, [FAN_IN, FAN_OUT]].tolist()):
            shapes[f"{name}.{layer}.weight"] = (kind, (fan_in, fan_out))
            shapes[f"{name}.{layer}.bias"] = (kind, (fan_out,))
        for level, width in enumerate(sites_of[layout is critic][:, WIDTH].tolist()):
            of_site = ("gamma", "beta", "mean", "var") if config.normalisation == "batch" else ("gamma", "beta")
            shapes |= {f"{name}.{site_name(level)}.{part}": (kind, (width,)) for part in of_site if width}
    if config.normalise_obs:
        shapes |= {f"obs_statistics.{name}": ("<f8", (obs_dim,)) for name in ("mean", "m2")}
        shapes["obs_statistics.number"] = ("<f8", (1,))
    for name in optimised:
        size = int(networks[name][-1, PARAMS_START] + 2 * sites_of[name != "actor"][:, WIDTH].sum())
        shapes |= {
            f"{name}_adam.m": (kind, (size,)),
            f"{name}_adam.v": (kind, (size,)),
            f"{name}_adam.t": ("<i8", (1,)),
        }
    return shapes


def kind(config: Config) -> str:
    """What decides about the types that come in compiled code: two agents of one kind run the same machine code."""
    options = {
        "td3": config.algorithm == "td3",
        "n_step": config.n_step > 1,
        "max_grad_norm": config.max_grad_norm is not None,
        "options": has_options(config),
    }
    return " ".join([config.dtype, *(name for name, on in options.items() if on)])


def smallest(dtype: str, like: Config | None = None) -> tuple[DDPG, ReplayBuffer]:
    """An agent and a replay of the smallest size, to compile with: compiled code is the same for every size.

    like: with the options of this one.
    """
    small = {"hidden_sizes": (1,), "action_layer": 0, "batch_size": 1, "buffer_size": 1, "dtype": dtype}
    agent = DDPG(1, 1, (like or Config()).replace(**small))
    replay = ReplayBuffer(1, 1, 1, dtype, agent.config.n_step)
    replay.add([0.0], [0.0], 0.0, [0.0], True)
    return agent, replay


def warmup(dtype: str = "float32", like: Config | None = None) -> None:
    """Compile an update and the policy; takes seconds the first time, and next to nothing afterwards.

    like: with the options of this Config.
    """
    agent, replay = smallest(dtype, like)
    agent.update_from(replay, np.random.default_rng(0))
    agent.act([0.0])
    mark_warm(agent.kind)
