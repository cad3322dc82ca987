"""The agent: the networks and optimisers that `ddpg.update` works on, as an object to hold, ask, train and copy."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import MOST, Config, ConfigError
from .ddpg import Learner, Losses, Rates, policy, update
from .fast.jit import FloatArray, call, jit, mark_warm
from .fast.threads import begin, compile_help, end, rest, team
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
from .optim import Adam, new_adam
from .replay import (
    INDEX,
    Batch,
    ReplayBuffer,
    ShapeError,
    as_array,
    as_batch,
    check_batch_is_finite,
    check_finite,
    is_finite,
    take,
)
from .seeds import random_streams
from .showing import html_table, text_table

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
        self.obs_dim, self.act_dim, self.config, self._dtype = obs_dim, act_dim, config, np.dtype(config.dtype)
        self.learner = Learner(
            actor, critic, copy_network(actor), copy_network(critic), new_adam(actor.params), new_adam(critic.params)
        )
        self.threads = 1  # that share an update; no bit of it depends on how many
        self.rates = Rates(config.gamma, config.tau, config.actor_lr, config.critic_lr, config.critic_weight_decay)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled; memory that came read-only is copied, since an agent writes to its own."""
        self.__dict__.update(state)
        self.learner = self._learner

    @property
    def learner(self) -> Learner:
        """All that an update reads and writes. What is put here must be of the same shapes; see `as_array`."""
        return self._learner

    @learner.setter
    def learner(self, learner: Learner) -> None:
        actor, critic = layouts(self.obs_dim, self.act_dim, self.config)
        joined = self.config.action_layer, self.act_dim
        own = (actor, 0, 0), (critic, *joined), (actor, 0, 0), (critic, *joined)
        names = Learner._fields
        networks: list[Network] = []
        for name, network, (layout, action_layer, act_dim) in zip(names, learner[:4], own, strict=False):
            if not np.array_equal(network.layout, layout) or network[1:3] != (action_layer, act_dim):
                raise ShapeError(f"{name} is a network of another shape than the agent's")
            params = self._owned(f"{name}.params", network.params, (layout[-1, PARAMS_START],))
            networks.append(Network(params, action_layer, act_dim, layout))
        adams: list[Adam] = []
        for name, (m, v, t), network in zip(names[4:], learner[4:], networks, strict=False):
            size = network.params.shape
            m, v = self._owned(f"{name}.m", m, size), self._owned(f"{name}.v", v, size)
            adams.append(Adam(m, v, self._owned(f"{name}.t", t, (1,), INDEX)))
        self._learner = Learner(networks[0], networks[1], networks[2], networks[3], adams[0], adams[1])
        self._written = (*(network.params for network in networks), *(array for adam in adams for array in adam))

    def _owned(self, name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> Any:
        array = as_array(name, value, dtype or self._dtype)
        if array.shape != shape:
            raise ShapeError(f"{name} has shape {array.shape}, but must be {shape}")
        return array

    @property
    def rates(self) -> Rates:
        """The numbers of an update, finite; see Config."""
        return self._rates

    @rates.setter
    def rates(self, rates: Rates) -> None:
        for name, rate in zip(Rates._fields, rates, strict=True):
            if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not math.isfinite(rate):
                raise ConfigError(f"{name} must be a finite number, not {rate!r}")
        self._rates = Rates(*map(float, rates))

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
        """mu(s) without noise.    obs (obs_dim,) -> (act_dim,), or (N, obs_dim) -> (N, act_dim); in [-1, 1].

        Raises ShapeError where obs does not fit or is not finite, NotFinite where the actor cannot compute an action.
        """
        array = as_array("obs", obs, self._dtype, finite=True)
        rows = array[None] if array.ndim == 1 else array
        if rows.ndim != 2 or rows.shape[1] != self.obs_dim:
            raise ShapeError(f"obs has shape {array.shape}, but must be ({self.obs_dim},) or (N, {self.obs_dim})")
        act = call(policy, self.config.dtype, self._learner.actor, rows)
        act = act[0] if array.ndim == 1 else act
        if not is_finite(act):
            raise NotFinite("an action of the actor", self._why({"obs": rows}))
        return act

    def q(self, obs: FloatArray, act: FloatArray) -> FloatArray:
        """Q(s, a).    obs (N, obs_dim), act (N, act_dim) in [-1, 1] -> (N,). Raises ShapeError."""
        given = {"obs": (self._array("obs", obs), self.obs_dim), "act": (self._array("act", act), self.act_dim)}
        rows = len(given["obs"][0]) if given["obs"][0].ndim else 0
        for name, (array, width) in given.items():
            if array.shape != (rows, width):
                raise ShapeError(f"{name} has shape {array.shape}, but must be ({rows or 'N'}, {width})")
        (obs, _), (act, _) = given.values()
        cache = call(forward, self.config.dtype, self._learner.critic, obs, act)
        return output(self.critic, cache).reshape(rows)

    def update(self, batch: Batch) -> Losses:
        """One full update: critic step, actor step, both target networks.

        Raises ShapeError where the batch does not fit or is not finite, NotFinite where the update cannot be computed;
        the agent is then as it was.
        """
        given = as_batch(batch, self.obs_dim, self.act_dim, self._dtype)
        check_finite("batch.next_obs", given.next_obs)  # of which a target may be made even where it is infinite
        critic = (self.critic.params, *self._learner.critic_adam)  # moves first, and may be alone in that
        before = [array.copy() for array in critic]
        try:
            return self._update(given, np.arange(len(given.rew), dtype=np.int64))
        except NotFinite:
            for array, kept in zip(critic, before, strict=True):
                array[...] = kept
            check_batch_is_finite(given)  # the others are looked at when they have made an update fail
            raise

    def checked(self, batch: Batch) -> Batch:
        """The batch in the agent's dtype, as compiled code expects it. Raises ShapeError."""
        checked = as_batch(batch, self.obs_dim, self.act_dim, self._dtype)
        check_batch_is_finite(checked)
        return checked

    def copy(self, dtype: str | None = None) -> DDPG:
        """The same agent on memory of its own, in another dtype if one is given."""
        clone = DDPG(self.obs_dim, self.act_dim, self.config.replace(dtype=dtype or self.config.dtype))
        clone.load_state_dict(self.state_dict())
        clone.rates = self.rates
        return clone

    def update_from(
        self, replay: ReplayBuffer, rng: np.random.Generator, opened: Callable[..., Losses] | None = None
    ) -> Losses:
        """One full update from a batch drawn from the replay, in one compiled call.

        opened: `ddpg.update` as a profile calls it, part by part; None: compiled whole. Raises as `update` does; where
        the actor's step cannot be computed, the critic has made its own.
        """
        if (replay.obs_dim, replay.act_dim, replay.dtype) != (self.obs_dim, self.act_dim, self.config.dtype):
            raise ShapeError(
                f"the replay holds {replay.dtype} obs (N, {replay.obs_dim}), act (N, {replay.act_dim}), "
                f"but the agent needs {self.config.dtype} obs (N, {self.obs_dim}), act (N, {self.act_dim})"
            )
        indices = as_array("indices", replay.draw(self.config.batch_size, rng), INDEX)
        return self._update(replay.transitions, indices, opened)

    def _update(
        self, transitions: Batch, indices: npt.NDArray[np.int64], opened: Callable[..., Losses] | None = None
    ) -> Losses:
        for array in self._written:
            if not array.flags.writeable:
                name = next(name for name, view in self.views().items() if not view.flags.writeable)
                raise ValueError(f"{name} is read-only, so the agent cannot learn; its flags.writeable must be True")
        arguments = self._learner, transitions, indices, self._rates
        try:
            if opened is None:
                losses = call(shared_update, self.config.dtype, team(self.threads), self.threads, *arguments)
            else:
                losses = opened(*arguments)
        except FloatingPointError:  # of adam, before it wrote anything
            rest()
            whose = "critic" if self._learner.critic_adam.t[0] == self._learner.actor_adam.t[0] else "actor"
            why = self._why(take(transitions, indices)._asdict())
            raise NotFinite(f"the {whose}'s gradient", why) from None
        except BaseException:
            rest()
            raise
        return Losses(*map(float, losses))

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
        return f"DDPG({self.obs_dim} observations, {self.act_dim} actions, {sizes}, {self.updates:,} updates)"

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
            if name.endswith((".v", ".t")) and value.min() < 0:
                raise ValueError(f"{name} must not be negative")
            if name.endswith(".t") and (value.dtype.kind not in "iu" or value.max() > MOST):
                raise ValueError(f"{name} must be a number of updates, an int of {MOST:g} or less, not {value[0]}")
        for name, view in views.items():
            view[...] = state[name]

    def views(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `state_dict` themselves, not copies."""
        return views_of(self.learner)

    def _array(self, name: str, value: npt.ArrayLike) -> FloatArray:
        return as_array(name, value, self._dtype)


def views_of(learner: Learner) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a learner by name, as in a state_dict: not copies."""
    views: dict[str, npt.NDArray[Any]] = {}
    for name, part in learner._asdict().items():
        inner = named_parameters(part) if isinstance(part, Network) else part._asdict()
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
    mark_warm("update", dtype)
