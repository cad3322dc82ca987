"""The agent: the networks and optimisers that `ddpg.update` works on, as an object to hold, ask, train and copy."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from . import td3
from .config import MOST, Config, ConfigError
from .ddpg import Learner, Losses, Rates, policy, update
from .fast.jit import FloatArray, call, jit, mark_warm
from .fast.threads import begin, compile_help, end, rest, team
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
    Layout,
    Network,
    copy_network,
    forward,
    named_parameters,
    new_actor,
    new_critic,
    new_layout,
    output,
)
from .observations import Statistics, learn, new_statistics, normalised
from .optim import new_adam
from .replay import (
    BOOL,
    INDEX,
    Batch,
    ReplayBuffer,
    ShapeError,
    as_array,
    as_batch,
    check_batch_is_finite,
    check_finite,
    is_finite,
    steps_of,
    take,
)
from .returns import factored
from .seeds import random_streams
from .showing import html_table, text_table

WRITTEN = ("params", "running", "m", "v", "t", "actor_loss", "dq_dact_rms")  # by an update, of a learner's parts
LAYERS_HEAD = ("parameters", "shape", "RMS")


class NotFinite(ArithmeticError):
    """An agent's action or update that cannot be computed; the agent is as it was. what, why: parts of the message."""

    def __init__(self, what: str, why: str):
        super().__init__(f"{what} is not finite ({why}); use an earlier agent, or scale observations and rewards")
        self.what, self.why = what, why


@jit
def shared_update(
    team: int, threads: int, learner: Learner, transitions: Batch, indices: npt.NDArray[np.int64], rates: Rates
) -> Losses:
    """`ddpg.update` with so many threads of a team."""
    begin(team, threads)
    losses = update(learner, transitions, indices, rates)
    end(team)
    return losses


@jit
def shared_td3_update(
    team: int,
    threads: int,
    learner: td3.Learner,
    transitions: Batch,
    indices: npt.NDArray[np.int64],
    rates: td3.Rates,
    noise: FloatArray,
) -> Losses:
    """`td3.update` with so many threads of a team."""
    begin(team, threads)
    losses = td3.update(learner, transitions, indices, rates, noise)
    end(team)
    return losses


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
        self.obs_dim, self.act_dim, self.config, self._dtype = obs_dim, act_dim, config, np.dtype(config.dtype)
        self.kind = kind(config)
        streams = random_streams(seed)
        self.smoothing = streams.smoothing  # draws the noise on TD3's target actions
        self._learner = new_learner(obs_dim, act_dim, config, streams.parameters)
        self.learner = self._learner
        self.threads = 1  # that share an update; no bit of it depends on how many
        self._rates = new_rates(config)
        self.statistics = new_statistics(obs_dim) if config.normalise_obs else None
        self.planned = config.updates  # until both learning rates have fallen to config.final_lr_share

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled; memory that came read-only is copied, since an agent writes to its own."""
        self.__dict__.update(state)
        self.learner = self._learner
        if self.statistics is not None:
            arrays = (as_array("statistics", array, array.dtype) for array in self.statistics)
            self.statistics = Statistics(*arrays)

    @property
    def learner(self) -> Learner | td3.Learner:
        """All that an update reads and writes. What is put here must be of the same shapes; see `as_array`."""
        return self._learner

    @learner.setter
    def learner(self, learner: Learner | td3.Learner) -> None:
        written: list[npt.NDArray[Any]] = []
        own = self._learner._asdict()
        parts = [self._own_part(name, own[name], part, written) for name, part in learner._asdict().items()]
        self._learner, self._written = type(self._learner)._make(parts), tuple(written)
        views = self._learner._asdict()
        critics = [views[name] for name in ("critic", "critic2") if name in views]
        adams = [views[name] for name in ("critic_adam", "critic2_adam") if name in views]
        self._moves_first = [critic.params for critic in critics] + [array for adam in adams for array in adam[:3]]

    def _own_part(self, name: str, own: Any, part: Any, written: list[npt.NDArray[Any]]) -> Any:
        """A network or an optimiser of the learner: what an update writes of the part given, all else of `own`."""
        found: dict[str, Any] = {}
        if type(part) is not type(own):
            raise ShapeError(f"{name} is a {type(part).__name__}, but must be a {type(own).__name__}")
        for key, mine in own._asdict().items():
            value = getattr(part, key)
            if key not in WRITTEN and not np.array_equal(mine, value):
                raise ShapeError(f"{name} is a network of another shape than the agent's")
            if not isinstance(mine, np.ndarray):
                found[key] = mine
                continue
            found[key] = array = as_array(f"{name}.{key}", value if key in WRITTEN else mine, mine.dtype)
            if array.shape != mine.shape:
                raise ShapeError(f"{name}.{key} has shape {array.shape}, but must be {mine.shape}")
            if key in WRITTEN:
                written.append(array)
        return type(own)(**found)

    @property
    def rates(self) -> Rates | td3.Rates:
        """The numbers of an update, finite; see Config."""
        return self._rates

    @rates.setter
    def rates(self, rates: Rates | td3.Rates) -> None:
        for name, rate in zip(rates._fields, rates, strict=True):
            if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not math.isfinite(rate):
                raise ConfigError(f"{name} must be a finite number, not {rate!r}")
        own = self._rates  # of whose types compiled code is sure
        self._rates = type(own)._make(type(mine)(rate) for mine, rate in zip(own, rates, strict=True))

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
        """mu(s) without noise.    obs (obs_dim,) -> (act_dim,), or (N, obs_dim) -> (N, act_dim); in [-1, 1].

        Raises ShapeError where obs does not fit or is not finite, NotFinite where the actor cannot compute an action.
        """
        array = as_array("obs", obs, self._dtype, finite=True)
        rows = array[None] if array.ndim == 1 else array
        if rows.ndim != 2 or rows.shape[1] != self.obs_dim:
            raise ShapeError(f"obs has shape {array.shape}, but must be ({self.obs_dim},) or (N, {self.obs_dim})")
        act = call(policy, self.kind, in_use(self._learner.actor), self.in_units(rows))
        act = act[0] if array.ndim == 1 else act
        if not is_finite(act):
            raise NotFinite("an action of the actor", self._why({"obs": rows}))
        if self.config.invert_gradients:
            act = np.clip(act, -1, 1)  # the one place where a linear output is held to its bounds
        return act

    def q(self, obs: FloatArray, act: FloatArray) -> FloatArray:
        """Q(s, a).    obs (N, obs_dim), act (N, act_dim) in [-1, 1] -> (N,). Raises ShapeError."""
        given = {"obs": (self._array("obs", obs), self.obs_dim), "act": (self._array("act", act), self.act_dim)}
        rows = len(given["obs"][0]) if given["obs"][0].ndim else 0
        for name, (array, width) in given.items():
            if array.shape != (rows, width):
                raise ShapeError(f"{name} has shape {array.shape}, but must be ({rows or 'N'}, {width})")
        (obs, _), (act, _) = given.values()
        cache = call(forward, self.kind, in_use(self._learner.critic), self.in_units(obs), act)
        return output(self.critic, cache).reshape(rows)

    def in_units(self, obs: FloatArray) -> FloatArray:
        """Observations (N, obs_dim) as the networks get them: normalised, if config.normalise_obs."""
        return obs if self.statistics is None else normalised(self.statistics, obs)

    def observe(self, obs: npt.ArrayLike) -> None:
        """To be called with every observation (obs_dim,) that is stored, for config.normalise_obs."""
        if self.statistics is not None:
            learn(self.statistics, obs)

    def update(self, batch: Batch) -> Losses:
        """One full update: critic step, actor step, both target networks.

        Raises ShapeError where the batch does not fit or is not finite, NotFinite where the update cannot be computed;
        the agent is then as it was.
        """
        given = as_batch(batch, self.obs_dim, self.act_dim, self._dtype, factored=self.config.n_step > 1)
        check_finite("batch.next_obs", given.next_obs)  # of which a target may be made even where it is infinite
        if self.statistics is not None:
            check_finite("batch.obs", given.obs)  # an infinite one would be brought back to the range
        smoothing = self.smoothing.bit_generator.state if self.config.algorithm == "td3" else None
        before = [array.copy() for array in self._moves_first]
        try:
            return self._update(self.prepared(given), np.arange(len(given.rew), dtype=np.int64))
        except NotFinite:
            for array, kept in zip(self._moves_first, before, strict=True):
                array[...] = kept
            if smoothing is not None:
                self.smoothing.bit_generator.state = smoothing
            check_batch_is_finite(given)  # the others are looked at when they have made an update fail
            raise

    def checked(self, batch: Batch) -> Batch:
        """The batch in the agent's dtype, as compiled code expects it and the networks get it. Raises ShapeError.

        That is: with normalised observations and `terminated` as a number, as the config has it.
        """
        checked = as_batch(batch, self.obs_dim, self.act_dim, self._dtype, factored=self.config.n_step > 1)
        check_batch_is_finite(checked)
        return self.prepared(checked)

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
        clone.planned = self.planned
        clone.load_state_dict(self.state_dict())
        clone.smoothing.bit_generator.state = self.smoothing.bit_generator.state
        clone.rates = self.rates
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

        opened: the update as a profile calls it, part by part; None: compiled whole. Raises as `update` does; where
        the actor's step cannot be computed, the critic has made its own.
        """
        if (replay.obs_dim, replay.act_dim, replay.dtype) != (self.obs_dim, self.act_dim, self.config.dtype):
            raise ShapeError(
                f"the replay holds {replay.dtype} obs (N, {replay.obs_dim}), act (N, {replay.act_dim}), "
                f"but the agent needs {self.config.dtype} obs (N, {self.obs_dim}), act (N, {self.act_dim})"
            )
        indices, stored = as_array("indices", replay.draw(self.config.batch_size, rng), INDEX), replay.transitions
        if self.statistics is not None or self.config.n_step > 1 or steps_of(stored) is not None:
            stored, indices = self.prepared(take(stored, indices)), np.arange(len(indices), dtype=np.int64)
        return self._update(stored, indices, opened)

    def _update(
        self, transitions: Batch, indices: npt.NDArray[np.int64], opened: Callable[..., Losses] | None = None
    ) -> Losses:
        for array in self._written:
            if not array.flags.writeable:
                name = next(name for name, view in self.views().items() if not view.flags.writeable)
                raise ValueError(f"{name} is read-only, so the agent cannot learn; its flags.writeable must be True")
        arguments: tuple[Any, ...] = self._learner, transitions, indices, self._rates
        of_kind, made = self.kind, self.updates
        whole: Callable[..., Any] = shared_update
        if transitions.terminated.dtype != BOOL:  # another type to compiled code
            of_kind += " factored"
        if self.config.algorithm == "td3":
            whole, arguments = shared_td3_update, (*arguments, self.draw_smoothing(self.smoothing, len(indices)))
        try:
            if opened is None:
                losses = call(whole, of_kind, team(self.threads), self.threads, *arguments)
            else:
                losses = opened(*arguments)
        except FloatingPointError:  # of adam, before it wrote anything
            rest()
            why = self._why(take(transitions, indices)._asdict())
            raise NotFinite(f"the {self._whose_turn(made)}'s gradient", why) from None
        except BaseException:
            rest()
            raise
        if self.config.normalisation == "batch":
            self._learn_statistics(transitions.obs[indices])
        if self.config.final_lr_share < 1:
            self.set_rates()
        return Losses(*map(float, losses))

    def _whose_turn(self, made: int) -> str:
        """Who was to make a step when an update came to an end that would have followed so many."""
        if self.updates == made:
            return "critic"
        second = getattr(self._learner, "critic2_adam", None)
        return "actor" if second is None or second.t[0] == self.updates else "second critic"

    def _learn_statistics(self, obs: FloatArray) -> None:
        """Running statistics take in the batch that an update was made with; targets follow where they have moved."""
        learner, config = self._learner._asdict(), self.config
        moved = config.algorithm != "td3" or self.updates % config.policy_delay == 0
        for name in ("actor", "critic", "critic2"):
            if name in learner:
                # What is normalised lies below the action, which may be anything.
                act = np.zeros((len(obs), learner[name].act_dim), obs.dtype)
                pair = learner[name], learner[f"target_{name}"]
                call(learn_statistics, self.kind, *pair, obs, act, config.tau if moved else 0.0)

    def draw_smoothing(self, rng: np.random.Generator, n: int) -> FloatArray:
        """TD3's noise on n target actions, before its size and its clipping.    -> (n, act_dim), standard normal"""
        return rng.standard_normal((n, self.act_dim)).astype(self._dtype)

    def _why(self, given: Mapping[str, npt.NDArray[Any]]) -> str:
        """Why something that was computed from this is not finite: whose fault it is."""
        for name, array in given.items():
            if not np.isfinite(array).all():
                return f"{name} holds NaN or infinity"
        if found := self.not_finite():
            return f"{found[0]} holds NaN or infinity"
        sizes = {name: float(np.abs(array).max(initial=0)) for name, array in {**given, **self.views()}.items()}
        sizes = {name: size for name, size in sizes.items() if not name.endswith((".t", ".m", ".v"))}
        sizes |= {name: getattr(self.rates, name) for name in ("actor_lr", "critic_lr")}
        largest = max(sizes, key=lambda name: sizes[name])
        return f"{largest} is as large as {sizes[largest]:.2g}"

    def not_finite(self) -> list[str]:
        """The names of parameters and moments that hold a NaN or an infinity, as in `state_dict`."""
        return [name for name, view in self.views().items() if not np.isfinite(view).all()]

    def __repr__(self) -> str:
        return f"{self.title()}\n{text_table(LAYERS_HEAD, self._layers()[0])}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows, sizes = self._layers()
        return f"<p>{self.title()}</p>{html_table(LAYERS_HEAD, rows, sizes={2: sizes})}"

    def title(self) -> str:
        """The agent in a line."""
        sizes = "-".join(map(str, self.config.hidden_sizes)) or "no hidden layer"
        name = self.config.algorithm.upper()
        return f"{name}({self.obs_dim} observations, {self.act_dim} actions, {sizes}, {self.updates:,} updates)"

    def _layers(self) -> tuple[list[tuple[str, ...]], list[float]]:
        """A row per array of actor and critic, and each one's RMS."""
        rows: list[tuple[str, ...]] = []
        sizes: list[float] = []
        for name, network in (("actor", self.actor), ("critic", self.critic)):
            for key, array in named_parameters(network).items():
                sizes.append(float(np.sqrt(np.mean(array.astype(np.float64) ** 2))))
                rows.append((f"{name}.{key}", str(array.shape), f"{sizes[-1]:.3g}"))
        return rows, sizes

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
            with np.errstate(over="ignore", invalid="ignore"):
                if value.dtype.kind not in "fiu" or not np.isfinite(value.astype(view.dtype)).all():
                    raise ValueError(f"{name} must hold finite numbers only")
            if name.endswith((".v", ".t", ".number", ".m2", ".var")) and value.min() < 0:
                raise ValueError(f"{name} must not be negative")
            if name.endswith(".t") and (value.dtype.kind not in "iu" or value.max() > MOST):
                raise ValueError(f"{name} must be a number of updates, an int of {MOST:g} or less, not {value[0]}")
        for name, view in views.items():
            view[...] = state[name]
        self.set_rates()

    def views(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `state_dict` themselves, not copies."""
        statistics = {} if self.statistics is None else self.statistics._asdict()
        return {**views_of(self._learner), **{f"obs_statistics.{name}": view for name, view in statistics.items()}}

    def _array(self, name: str, value: npt.ArrayLike) -> FloatArray:
        return as_array(name, value, self._dtype)


def new_learner(obs_dim: int, act_dim: int, config: Config, rng: np.random.Generator) -> Learner | td3.Learner:
    """What updates of a new agent read and write."""
    shape = (obs_dim, act_dim, config.hidden_sizes, config.action_layer, config.final_init, config.dtype)
    actor = with_options(new_actor(obs_dim, act_dim, config.hidden_sizes, config.final_init, config.dtype, rng), config)
    critic = with_options(new_critic(*shape, rng), config)
    targets = in_use(copy_network(actor)), in_use(copy_network(critic))
    adams = new_adam(actor.params, config.max_grad_norm), new_adam(critic.params, config.max_grad_norm)
    if config.algorithm == "ddpg":
        return Learner(actor, critic, *targets, *adams)
    critic2 = with_options(new_critic(*shape, rng), config)
    return td3.Learner(
        actor,
        critic,
        critic2,
        *targets,
        in_use(copy_network(critic2)),
        *adams,
        new_adam(critic2.params, config.max_grad_norm),
        td3.Seen(np.zeros(1), np.zeros(1)),
    )


def new_rates(config: Config) -> Rates | td3.Rates:
    """The numbers of an update as the config has them."""
    rates = Rates(config.gamma, config.tau, config.actor_lr, config.critic_lr, config.critic_weight_decay)
    rates = Rates(*map(float, rates))
    if config.algorithm == "ddpg":
        return rates
    return td3.Rates(*rates, config.policy_delay, float(config.target_noise_std), float(config.target_noise_clip))


def views_of(learner: Learner | td3.Learner) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a learner by name, as in a state_dict: not copies."""
    views: dict[str, npt.NDArray[Any]] = {}
    for name, part in learner._asdict().items():
        if isinstance(part, (Network, OptionNetwork)):
            inner = {**named_parameters(part), **named_statistics(part)}  # type: ignore[arg-type]
        else:
            inner = {key: array for key, array in part._asdict().items() if key in WRITTEN}
        views.update({f"{name}.{key}": view for key, view in inner.items()})
    return views


def layouts(obs_dim: int, act_dim: int, config: Config) -> tuple[Layout, Layout]:
    """Of an actor and a critic."""
    actor = new_layout(obs_dim, 0, act_dim, config.hidden_sizes, 0)
    return actor, new_layout(obs_dim, act_dim, 1, config.hidden_sizes, config.action_layer)


def state_shapes(obs_dim: int, act_dim: int, config: Config) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every array of a state_dict, by name, without making one of them."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    kind = np.dtype(config.dtype).str
    actor, critic = layouts(obs_dim, act_dim, config)
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
    compile_help()
    mark_warm("update", agent.kind)
