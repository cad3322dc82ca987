"""The boundary to Gymnasium, and the only file that knows it: what the agent sees are flat observations and actions in
[-1, 1]; here is the one place where they are scaled to an environment's bounds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from .fast.jit import FloatArray
from .runs.files import first_line

EnvironmentLike = str | Callable[[], "gymnasium.Env[Any, Any]"]


class EnvError(ValueError):
    """An environment that cannot be made, or that returned something unusable; the message is one line."""


class Environment:
    """A Gymnasium environment as the agent sees it: flat observations of one dtype, actions in [-1, 1].

    env: an id ("Pendulum-v1", "module:Env-v0") or a callable that makes an environment. Its action space must be a Box
    of floats with finite bounds, its observation space a Box.
    """

    def __init__(self, env: EnvironmentLike, dtype: str = "float32", env_kwargs: Any = None):
        self._env = _make(env)
        if not isinstance(env, str):
            self.name = type(self._env.unwrapped).__name__
        else:  # with its version, even if it was asked for without, so that a run says what it was
            self.name = env if ":" in env or self._env.spec is None else self._env.spec.id
        self.dtype = dtype
        self._steps = 0
        try:
            self._check_spaces()
        except BaseException:
            self._env.close()
            raise

    def _check_spaces(self) -> None:
        obs_space, act_space = self._env.observation_space, self._env.action_space
        if not isinstance(act_space, gymnasium.spaces.Box) or act_space.dtype.kind != "f":
            raise EnvError(
                f"{self.name} has the action space {_short(act_space)}; DDPG needs a Box of floats (continuous actions)"
            )
        if not isinstance(obs_space, gymnasium.spaces.Box):
            raise EnvError(
                f"{self.name} has the observation space {_short(obs_space)}; minddpg needs a Box "
                "(gymnasium.wrappers.FlattenObservation makes one of a Dict or Tuple)"
            )
        self._low = act_space.low.astype(np.float64).ravel()
        self._high = act_space.high.astype(np.float64).ravel()
        if not (np.isfinite(self._low).all() and np.isfinite(self._high).all()):
            raise EnvError(
                f"{self.name} has an unbounded action space; give it bounds with gymnasium.wrappers.RescaleAction"
            )
        self._half = 0.5 * (self._high - self._low)
        self.obs_dim, self.act_dim = math.prod(obs_space.shape), math.prod(act_space.shape)
        if self.obs_dim == 0 or self.act_dim == 0:
            raise EnvError(f"{self.name} has observations or actions of no elements; there is nothing to learn")
        self._act_space = act_space

    def reset(self, seed: int | None = None) -> FloatArray:
        """Start an episode.    -> obs (obs_dim,)"""
        obs, _ = self._env.reset(seed=seed)
        return self._observation(obs)

    def step(self, act: FloatArray) -> tuple[FloatArray, float, bool, bool]:
        """act (act_dim,) in [-1, 1] -> next_obs (obs_dim,), rew, terminated, truncated"""
        self._steps += 1
        scaled = within(self._low + (act + 1.0) * self._half, self._low, self._high)
        space = self._act_space
        obs, rew, terminated, truncated, _ = self._env.step(scaled.astype(space.dtype).reshape(space.shape))
        try:
            number = float(np.asarray(rew).item())
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise EnvError(
                f"{self.name} returned the reward {rew!r} at step {self._steps}; it must be one finite number"
            )
        return self._observation(obs), number, bool(terminated), bool(truncated)

    def _observation(self, obs: Any) -> FloatArray:
        try:  # a copy: environments may return the same array again, with other numbers in it
            with np.errstate(over="ignore"):
                array = np.array(obs, self.dtype).reshape(-1)
        except (TypeError, ValueError):
            raise EnvError(
                f"{self.name} returned the observation {_short(obs)} at step {self._steps}; it must be all numbers"
            ) from None
        if array.size != self.obs_dim or not np.isfinite(array).all():
            too_large = f"with a NaN, an infinity or a number too large for {self.dtype}"
            what = too_large if array.size == self.obs_dim else f"of {array.size} numbers"
            raise EnvError(
                f"{self.name} returned an observation {what} at step {self._steps}; "
                f"it must be {self.obs_dim} finite numbers"
            )
        return array

    def is_same(self, other: Environment) -> bool:
        """Whether both are one environment underneath."""
        return self._env.unwrapped is other._env.unwrapped

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _make(env: EnvironmentLike) -> gymnasium.Env[Any, Any]:
    if not isinstance(env, str):
        if not callable(env):
            raise EnvError(f"env must be an environment id or a callable that makes one, not {env!r}")
        made = env()
        if not isinstance(made, gymnasium.Env):
            raise EnvError(f"the callable that should make an environment made {made!r}")
        return made
    try:
        with warnings.catch_warnings(record=True) as caught:  # where it fails, one line says why
            made = gymnasium.make(env, disable_env_checker=True)  # Environment checks what training needs
    except gymnasium.error.DependencyNotInstalled as error:
        text = str(error).lower()
        extra = "box2d" if "box2d" in text else "mujoco" if "mujoco" in text else None
        remedy = f"install the extra {extra}, from a checkout: pip install '.[{extra}]'" if extra else first_line(error)
        raise EnvError(f"{env} needs a package that is not installed; {remedy}") from None
    except Exception as error:  # whatever the code of an environment, or of the module it is in, raises
        raise EnvError(f"cannot make {env!r}: {first_line(error)}") from None
    for warning in caught:
        warnings.warn(str(warning.message), warning.category, stacklevel=4)
    return made


def _short(space: Any) -> str:
    return str(space)[:60]


def within(values: FloatArray, low: float | FloatArray, high: float | FloatArray) -> FloatArray:
    """np.clip in a quarter of its time, which every step pays."""
    return np.minimum(np.maximum(values, low), high)


class Moment(NamedTuple):
    rows: Sequence[int]
    next_obs: FloatArray
    rew: Any
    terminated: Any
    truncated: Any


class Environments:
    num = 1
    acting = (0,)
    learned_statistics = None

    def __init__(self, env, dtype, kwargs=None):
        self.one = Environment(env, dtype)
        self.name, self.obs_dim, self.act_dim = self.one.name, self.one.obs_dim, self.one.act_dim
        self.low, self.high = self.one._low, self.one._high

    def start(self, seeds):
        return self.restart([0], seeds)

    def step(self, act):
        self.actions.append(np.array(act[0]))
        o, r, te, tr = self.one.step(act[0])
        self.obs = o[None]
        return Moment((0,), o[None], np.array([r]), np.array([te]), np.array([tr]))

    def restart(self, rows, seeds):
        self.seed = seeds[0]
        self.actions = []
        self.obs = self.one.reset(seed=seeds[0])[None]
        return self.obs

    def observations(self):
        return self.obs

    def state(self):
        return {"seed": self.seed, "actions": np.array(self.actions), "obs": self.obs}

    def restore(self, state):
        self.restart([0], [state["seed"]])
        for a in state["actions"]:
            self.step(a[None])
        assert np.array_equal(self.obs, state["obs"])
        return []

    def is_same(self, other):
        return self.one.is_same(other)

    def close(self):
        self.one.close()


def make_environments(env, dtype, num_envs=1, vectorization="sync", env_kwargs=None):
    return Environments(env, dtype)
