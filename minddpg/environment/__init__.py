"""The boundary to Gymnasium: what the agent sees are flat observations and actions in [-1, 1]; here they are scaled to
an environment's bounds, and whatever an environment does wrong becomes an EnvError of one line.

Behind it: making.py (ids and callables), values.py (what foreign code gives back, checked),
state.py (a state read and put back) and vector.py (vector environments).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .making import AnyEnv, make, name_of, vector_of_callable, vector_of_id
from .making import EnvironmentLike as EnvironmentLike
from .state import learned_statistics, read_state, write_state
from .values import EnvError as EnvError
from .values import Moment as Moment
from .values import NotFinite as NotFinite
from .values import Spaces, Unusable, after_reset, after_step, cause, failure, flag, short
from .values import full_id as full_id
from .values import within as within
from .vector import VectorEnvironments, close


class Environment:
    """A Gymnasium environment as the agent sees it: flat observations of one dtype, actions in [-1, 1].

    env: an id ("Pendulum-v1", "module:Env-v0") or a callable that makes an environment. Its action space must be a Box
    of floats with finite bounds, its observation space a Box. env_kwargs: for an id, what the environment is made with.
    low, high: (act_dim,) float64, the bounds of the actions in the environment's units.
    """

    def __init__(self, env: EnvironmentLike, dtype: str = "float32", env_kwargs: Mapping[str, Any] | None = None):
        made = make(env, env_kwargs)
        if isinstance(made, gymnasium.vector.VectorEnv):
            close(made, "it")
            raise EnvError(f"the callable made a vector environment, {short(made)}; one environment is needed here")
        name = name_of(env, made)
        try:
            self._hold(made, name, dtype)
        except BaseException:
            close(made, name)
            raise

    @classmethod
    def around(cls, made: AnyEnv, name: str, dtype: str) -> Environment:
        """An Environment of a Gymnasium environment at hand, which stays the caller's to close if it does not fit."""
        self = cls.__new__(cls)
        self._hold(made, name, dtype)
        return self

    def _hold(self, made: AnyEnv, name: str, dtype: str) -> None:
        self._env, self.name, self.dtype = made, name, dtype
        self.label = name  # in errors
        self._spaces = Spaces(name, *self._own_spaces(), dtype)
        self.low, self.high = self._spaces.low, self._spaces.high
        self.obs_dim, self.act_dim = self._spaces.obs_dim, self._spaces.act_dim
        self._steps = 0
        self._seed: int | None = None  # of the episode
        self._return = 0.0  # of the episode so far
        self._readable: bool | None = None  # its state; not yet known
        self._sent: bytearray | None = None  # the actions of the episode, where its state cannot be read

    def _own_spaces(self) -> tuple[Any, Any]:
        spaces = []
        for name in ("observation_space", "action_space"):
            try:
                spaces.append(getattr(self._env, name))
            except AttributeError:
                raise EnvError(f"{self.name} has no {name}; set self.{name} where it is made") from None
            except Exception as error:
                raise EnvError(f"{self.name} failed to give its {name}: {cause(error)}") from error
        return spaces[0], spaces[1]

    def reset(self, seed: int | None = None) -> FloatArray:
        """Start an episode.    -> obs (obs_dim,)"""
        seed = None if seed is None else int(seed)
        try:
            obs = self._spaces.observation(after_reset(self._env.reset(seed=seed)))
        except Unusable as bad:
            raise bad.error(self.label, self._at_reset()) from None
        except Exception as error:
            raise failure(self.label, self._at_reset(), error) from error
        self._seed, self._return = seed, 0.0
        if self._readable is None:
            self._readable = read_state(self._env) is not None
        self._sent = None if self._readable else bytearray()
        return obs

    def step(self, act: FloatArray) -> tuple[FloatArray, float, bool, bool]:
        """act (act_dim,) in [-1, 1] -> next_obs (obs_dim,), rew, terminated, truncated"""
        self._steps += 1
        sent = self._spaces.action(act)
        if self._sent is not None:
            self._sent += sent.tobytes()  # now: the environment may write to what it is given
        return self._step(sent)

    def _step(self, sent: Any) -> tuple[FloatArray, float, bool, bool]:
        try:
            obs, rew, terminated, truncated = after_step(self._env.step(sent))
            rew = self._spaces.reward(rew)
            terminated, truncated = flag(terminated, "terminated"), flag(truncated, "truncated")
            next_obs = self._spaces.observation(obs)
        except Unusable as bad:
            raise bad.error(self.label, f"at step {self._steps}") from None
        except Exception as error:
            raise failure(self.label, f"at step {self._steps}", error) from error
        self._return += rew
        return next_obs, rew, terminated, truncated

    def _at_reset(self) -> str:
        return f"at its reset after step {self._steps}" if self._steps else "at its reset"

    def state(self, obs: FloatArray) -> dict[str, Any]:
        """All that decides how the episode goes on, as a tree (see state.copied). Changes nothing.

        obs: the current one.
        """
        state: dict[str, Any] = {"seed": self._seed, "steps": self._steps, "return": self._return, "obs": obs.copy()}
        if self._sent is None:
            return {**state, "read": read_state(self._env)}
        return {**state, "sent": np.frombuffer(bytes(self._sent), np.uint8)}

    def restore(self, state: Mapping[str, Any]) -> tuple[FloatArray, str | None]:
        """Put the environment where `state` found it.    -> obs (obs_dim,), and why it could not be done, or None

        If it could not be done, the environment is at the start of that episode.
        """
        seed, steps = state["seed"], state["steps"]
        if type(steps) is not int or type(seed) not in (int, type(None)) or min(steps, seed or 0) < 0:
            raise ValueError(f"the state of {self.name} has the steps {steps!r} and the seed {seed!r}")
        if type(state["return"]) is not float or not np.isfinite(state["obs"]).all():
            raise ValueError(f"the state of {self.name} has a return or observations that are no numbers")
        self._steps = steps
        obs = self.reset(seed)
        reason = self._put_back(state, obs)
        if reason is None:
            self._return = float(state["return"])
            return np.array(state["obs"], self.dtype), None
        return self.reset(seed), reason

    def _put_back(self, state: Mapping[str, Any], obs: FloatArray) -> str | None:
        if state["obs"].shape != (self.obs_dim,) or state["obs"].dtype != self.dtype:
            return f"its observations were {state['obs'].size} numbers of {state['obs'].dtype}"
        if "sent" not in state:
            try:
                if state["read"] is None:
                    return "its get_state has given something else than numbers, text, lists, dicts and arrays"
                write_state(self._env, state["read"])
                return None
            except Exception as error:  # foreign code, or a state of another environment
                return f"its state could not be set: {cause(error)}"
        if state["seed"] is None:
            return "its episode was not started from a seed"
        over: list[bool] = []
        try:
            for action in self._spaces.sent(state["sent"]):
                if not any(over):
                    obs, _, *over = self._step(action.copy())
        except ValueError as error:  # an EnvError, or a state of an environment with other actions
            return f"its episode could not be played again: {error}"
        if any(over) or obs.tobytes() != state["obs"].tobytes() or self._return != state["return"]:
            return "it does not repeat itself: the same seed and actions gave another episode"
        if self._sent is not None:
            self._sent += state["sent"].tobytes()
        return None

    @property
    def learned_statistics(self) -> str | None:
        """The wrapper that learns statistics while it is used, if there is one."""
        return learned_statistics(self._env)

    def is_same(self, other: Environment) -> bool:
        """Whether both are one environment underneath."""
        return self.unwrapped is other.unwrapped

    @property
    def unwrapped(self) -> AnyEnv:
        """The environment without its wrappers."""
        return self._env.unwrapped

    def close(self) -> None:
        """Close the environment."""
        close(self._env, self.name)


class Environments(Protocol):
    """n environments as the agent sees them, n = 1 included.

    acting: the rows that take the next action: all, but those whose episode a vector environment is about to begin.
    Nobody writes to arrays that are returned: neither the caller, nor a later step.
    """

    num: int
    name: str
    obs_dim: int
    act_dim: int
    dtype: str
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    acting: tuple[int, ...]

    def start(self, seeds: Sequence[int]) -> FloatArray:
        """Reset all, each with its seed.    -> obs (n, obs_dim)"""

    def step(self, act: FloatArray) -> Moment:
        """act (n, act_dim) in [-1, 1]; rows that are not in `acting` are ignored."""

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> FloatArray:
        """Begin the next episodes of rows, which have ended, each from its seed where the environment takes one.

        -> the current observation of every row (n, obs_dim)
        """

    def observations(self) -> FloatArray:
        """The current observation of every row.    -> (n, obs_dim)"""

    def state(self) -> dict[str, Any]:
        """All that decides how the episodes go on, as far as it can be known, as a tree (state.copied)."""

    def restore(self, state: dict[str, Any]) -> list[tuple[int, str]]:
        """Put every environment where `state` found it.    -> the rows for which it could not be done, each with why

        Those have been reset with the seed of their current episode.
        """

    def is_same(self, other: Environment) -> bool:
        """Whether one of them is this environment underneath."""

    @property
    def learned_statistics(self) -> str | None:
        """The wrapper that learns statistics while training, if there is one: elsewhere it will know other ones."""

    def close(self) -> None:
        """Close all."""


class SerialEnvironments:
    """Environments in this process, stepped one after the other; one environment is the usual case."""

    def __init__(self, made: Sequence[AnyEnv], name: str, dtype: str, owner: Any = None):
        """owner: the vector environment that they are part of; it closes them."""
        self.num, self.name, self.dtype, self._made, self._owner = len(made), name, dtype, made, owner
        try:
            if len({id(one.unwrapped) for one in made}) < self.num:
                raise EnvError(f"the callable made the same {name} twice; it must make a new one at each call")
            self._environments = [Environment.around(one, name, dtype) for one in made]
            if len({(one.obs_dim, one.act_dim, *one.low, *one.high) for one in self._environments}) > 1:
                raise EnvError(f"the callable made {name} with different spaces; they must be the same")
        except BaseException:
            self.close()
            raise
        for row, one in enumerate(self._environments if self.num > 1 else ()):
            one.label = f"{name} (environment {row + 1} of {self.num})"
        first = self._environments[0]
        self.obs_dim, self.act_dim, self.low, self.high = first.obs_dim, first.act_dim, first.low, first.high
        self.acting = tuple(range(self.num))
        self._obs = np.zeros((self.num, self.obs_dim), dtype)

    def start(self, seeds: Sequence[int]) -> FloatArray:
        """See `Environments`."""
        self._obs = np.stack([one.reset(seed) for one, seed in zip(self._environments, seeds, strict=True)])
        return self._obs

    def step(self, act: FloatArray) -> Moment:
        """See `Environments`."""
        if self.num == 1:  # the usual case, in half the time
            obs, number, terminates, truncates = self._environments[0].step(act[0])
            self._obs = obs[None]
            return Moment(self.acting, self._obs, (number,), (terminates,), (truncates,))
        given = [one.step(its) for one, its in zip(self._environments, act, strict=True)]
        self._obs = np.stack([obs for obs, _, _, _ in given])
        _, rew, terminated, truncated = zip(*given, strict=True)
        return Moment(self.acting, self._obs, rew, terminated, truncated)

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> FloatArray:
        """See `Environments`."""
        obs = self._obs.copy()
        for row, seed in zip(rows, seeds, strict=True):
            obs[row] = self._environments[row].reset(seed)
        self._obs = obs
        return obs

    def observations(self) -> FloatArray:
        """See `Environments`."""
        return self._obs

    def state(self) -> dict[str, Any]:
        """See `Environments`."""
        return {"environments": [one.state(obs) for one, obs in zip(self._environments, self._obs, strict=True)]}

    def restore(self, state: dict[str, Any]) -> list[tuple[int, str]]:
        """See `Environments`."""
        if len(state["environments"]) != self.num:
            raise EnvError(f"{self.name} has {self.num} environments, but {len(state['environments'])} were saved")
        put_back = [one.restore(its) for one, its in zip(self._environments, state["environments"], strict=True)]
        self._obs = np.stack([obs for obs, _ in put_back])
        return [(row, reason) for row, (_, reason) in enumerate(put_back) if reason is not None]

    @property
    def learned_statistics(self) -> str | None:
        """See `Environments`."""
        return self._environments[0].learned_statistics

    def is_same(self, other: Environment) -> bool:
        """See `Environments`."""
        return any(one.is_same(other) for one in self._environments)

    def close(self) -> None:
        """See `Environments`."""
        for one in self._made if self._owner is None else [self._owner]:
            close(one, self.name)


# --- making -----------------------------------------------------------------------------------------------------------


def make_environments(
    env: EnvironmentLike,
    dtype: str = "float32",
    num_envs: int = 1,
    vectorization: str = "sync",
    env_kwargs: Mapping[str, Any] | None = None,
) -> Environments:
    """num_envs environments: of an id, of a callable that makes one, or the vector environment that a callable makes.

    vectorization: "sync", in this process, or "async", each in a process of its own. env_kwargs: see `Environment`.
    Raises EnvError.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise EnvError(f"num_envs must be 1 or more, not {num_envs!r}")
    if vectorization not in ("sync", "async"):
        raise EnvError(f"vectorization must be 'sync' or 'async', not {vectorization!r}")
    made: Any
    if isinstance(env, str) and num_envs > 1:
        made = vector_of_id(env, num_envs, vectorization, env_kwargs)
    else:
        made = make(env, env_kwargs)
    name = name_of(env, made)
    if isinstance(made, gymnasium.vector.VectorEnv) and not isinstance(env, str):
        if num_envs not in (1, made.num_envs):
            close(made, name)
            raise EnvError(f"num_envs is {num_envs}, but the callable made a vector of {made.num_envs} environments")
        return VectorEnvironments(made, name, dtype)
    if vectorization == "async" and num_envs > 1:
        if not isinstance(env, str):
            close(made, name)
            made = vector_of_callable(env, num_envs)
        return VectorEnvironments(made, name, dtype, reseed=True)
    if num_envs == 1:
        return SerialEnvironments([made], name, dtype)
    if isinstance(env, str):
        return SerialEnvironments(made.envs, name, dtype, owner=made)
    several = [made]
    try:
        several.extend(make(env) for _ in range(num_envs - 1))
    except BaseException:
        for one in several:
            close(one, name)
        raise
    return SerialEnvironments(several, name, dtype)
