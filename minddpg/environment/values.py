"""What foreign code gives back, checked before anything of it is stored: spaces, observations, rewards, errors."""

from __future__ import annotations

import math
import numbers
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from ..agent import NotFinite as NotFinite
from ..fast.jit import FloatArray

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


class EnvError(ValueError):
    """An environment that cannot be made, that failed, or that returned something unusable; the message is one line.

    What the environment's own code raised is its __cause__. result: see runs.files.RunError.
    """

    result: Any = None


class Moment(NamedTuple):
    """What one step of n environments gave."""

    rows: tuple[int, ...]  # of the environments that took their action; the others only began an episode
    next_obs: FloatArray  # (n, obs_dim), of the episode that the action was in; of the others: what they began with
    rew: Sequence[float]  # of each
    terminated: Sequence[bool]
    truncated: Sequence[bool]


class Unusable(Exception):
    """A value that cannot be used: what it is, and what it must be."""

    def __init__(self, what: str, must: str):
        super().__init__(what, must)
        self.what, self.must = what, must

    def error(self, name: str, where: str) -> EnvError:
        """As the error of an environment. where: "at step 5"."""
        return EnvError(f"{name} returned {self.what} {where}; {self.must}")


class Spaces:
    """The agent's side of an environment's spaces: flat observations of one dtype, actions in [-1, 1].

    low, high: (act_dim,) float64, the bounds of the actions in the environment's units.
    """

    def __init__(self, name: str, obs_space: Any, act_space: Any, dtype: str):
        if not isinstance(act_space, gymnasium.spaces.Box) or act_space.dtype.kind != "f":
            continuous = newest_ids().get(re.sub(r"(^.*:|-v\d+$)", "", name) + "Continuous")
            hint = f"; did you mean {continuous!r}?" if continuous else ""
            raise EnvError(
                f"{name} has the action space {short(act_space)}; DDPG needs a Box of floats (continuous actions){hint}"
            )
        if not isinstance(obs_space, gymnasium.spaces.Box):
            raise EnvError(
                f"{name} has the observation space {short(obs_space)}; minddpg needs a Box, which "
                "--flatten-obs makes of a Dict, a Tuple or a Discrete (env_kwargs={'flatten_obs': True}; "
                "around an environment of yours: gymnasium.wrappers.FlattenObservation(env))"
            )
        self.low = act_space.low.astype(np.float64).ravel()
        self.high = act_space.high.astype(np.float64).ravel()
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise EnvError(
                f"{name} has an unbounded action space; give it bounds that suit its actions, as here -1 and 1: "
                "gymnasium.wrappers.TransformAction("
                "env, lambda a: a, gymnasium.spaces.Box(-1, 1, env.action_space.shape))"
            )
        self._half = 0.5 * (self.high - self.low)
        self.dtype, self._obs_dtype = dtype, np.dtype(dtype)
        self.obs_dim, self.act_dim = math.prod(obs_space.shape), math.prod(act_space.shape)
        if self.obs_dim == 0 or self.act_dim == 0:
            raise EnvError(f"{name} has observations or actions of no elements; there is nothing to learn")
        self._largest = float(np.finfo(dtype).max)
        self._act_dtype, self._act_shape = act_space.dtype, act_space.shape

    def action(self, act: FloatArray) -> Array:
        """(..., act_dim) in [-1, 1] -> (..., *shape) between the bounds, in the environment's dtype."""
        if not math.isfinite(np.vdot(act, act)):
            raise NotFinite("an action of the agent", "it was not sent to the environment")
        scaled = within(self.low + (act + 1.0) * self._half, self.low, self.high)
        return scaled.astype(self._act_dtype).reshape(act.shape[:-1] + self._act_shape)

    def sent(self, content: Array) -> Array:
        """The bytes of actions that `action` gave, one after the other    -> (n, *shape)"""
        return content.view(self._act_dtype).reshape(-1, *self._act_shape)

    def observation(self, obs: Any) -> FloatArray:
        """A copy, since environments may return the same array again with other numbers in it.    -> (obs_dim,)"""
        must = f"it must be {self.obs_dim} finite numbers"
        source = _numbers(obs)
        if source is None:
            raise Unusable(f"the observation {short(obs)}", must)
        if source.size != self.obs_dim:
            raise Unusable(f"an observation of {source.size} numbers", must)
        if source.dtype == self._obs_dtype:
            array = source.flatten()
        else:
            with np.errstate(over="ignore"):
                array = source.astype(self._obs_dtype).reshape(-1)
        if not math.isfinite(np.vdot(array, array)):  # a quarter of the time of np.isfinite(...).all()
            bad = np.flatnonzero(~np.isfinite(array))
            if bad.size:
                value = source.reshape(-1)[bad[0]]
                too_large = f", too large for {self.dtype}" if np.isfinite(value) else ""
                raise Unusable(
                    f"an observation whose element {bad[0]} of {self.obs_dim} is {value}{too_large}",
                    "it must be finite" if not too_large else "scale it down, or use dtype float64",
                )
        return array

    def reward(self, rew: Any) -> float:
        """One finite real number, in whatever numeric form."""
        if type(rew) is float:
            number = rew
        else:
            array = _numbers(rew)
            if array is not None and array.size == 1:
                number = float(array.item())
            elif isinstance(rew, numbers.Real):  # a Fraction, or an int that no array can hold
                number = _float(rew)
            else:
                raise Unusable(f"the reward {short(rew)}", "it must be one finite number")
        if not abs(number) <= self._largest:
            if math.isfinite(number):
                raise Unusable(f"the reward {short(rew)}, too large for {self.dtype}", "scale rewards down")
            raise Unusable(f"the reward {short(rew)}", "it must be one finite number")
        return number


def flag(value: Any, name: str) -> bool:
    """terminated or truncated: a bool, or an array of one bool. Integers are refused: nobody means them."""
    if value is True or value is False:
        return value
    try:
        array = np.asarray(value)
    except Exception:
        array = np.zeros(0)
    if array.dtype != np.bool_ or array.size != 1:
        raise Unusable(f"{name} = {short(value)}", "it must be a bool")
    return bool(array.item())


def after_reset(given: Any) -> Any:
    """The observation of what reset returned."""
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
        raise Unusable(f"{short(given)} from reset", "reset must return (obs, info), info being a dict")
    return given[0]


def after_step(given: Any) -> tuple[Any, Any, Any, Any]:
    """obs, rew, terminated, truncated of what step returned."""
    if not (isinstance(given, tuple) and len(given) == 5):
        what = f"{len(given)} values" if isinstance(given, tuple) else short(given)
        raise Unusable(f"{what} from step", "step must return (obs, reward, terminated, truncated, info)")
    return given[:4]


def failure(name: str, where: str, error: Exception, trace: str = "") -> EnvError:
    """An exception of the environment's own code as an error of one line; raise it from the exception.

    where: "at step 5". trace: the traceback as text, where the exception comes from another process.
    """
    text = str(error)
    if isinstance(error, gymnasium.error.DependencyNotInstalled):
        return EnvError(f"{name} needs a package that is not installed {where}; {said(error)}")
    if isinstance(error, TypeError) and re.search(r"unexpected keyword argument '(seed|options)'", text):
        return EnvError(
            f"{name} has a reset of the old interface, that failed {where}: {said(error)}; "
            "it must be reset(self, *, seed=None, options=None) and return (obs, info)"
        )
    if isinstance(error, ValueError) and re.search(r"values to unpack \(expected [25]", text):
        return EnvError(
            f"{name} failed {where}: {said(error)}{_place(error, trace)}; "
            "reset must return (obs, info), step (obs, reward, terminated, truncated, info)"
        )
    return EnvError(f"{name} failed {where}: {cause(error, trace)}")


def cause(error: Exception, trace: str = "") -> str:
    """What was raised, and where: "ZeroDivisionError: division by zero (my_env.py:37)"."""
    kind, text = type(error).__name__, said(error)
    return (f"{kind}: {text}" if text else kind) + _place(error, trace)


def said(error: Exception) -> str:
    """The first line of what an exception says that is not blank, or nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _place(error: Exception, trace: str) -> str:
    """The innermost line of code that is neither ours nor of the libraries beneath, or else of no one's but ours."""
    if trace:
        lines = [(file, number) for file, number in re.findall(r'File "(.+)", line (\d+), in', trace)]
        foreign = [line for line in lines if not re.search(r"[/\\](gymnasium[/\\](?!envs)|numpy[/\\])", line[0])]
        places = foreign or lines
    else:
        frames = [(frame, str(number)) for frame, number in traceback.walk_tb(error.__traceback__)]
        modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in frames]
        numbered = [(frame.f_code.co_filename, number) for frame, number in frames]
        others = [i for i, module in enumerate(modules) if module.split(".")[0] != __package__]
        users = [i for i in others if not _is_beneath(modules[i])]
        places = [numbered[i] for i in users or others]
    return f" ({Path(places[-1][0]).name}:{places[-1][1]})" if places else ""


def _is_beneath(module: str) -> bool:
    root = module.split(".")[0]
    machinery = root == "gymnasium" and not module.startswith("gymnasium.envs.")
    return machinery or module == "gymnasium.envs.registration" or root == "numpy" or root in sys.stdlib_module_names


def full_id(env: str) -> str:
    """An environment id with its version, the newest one where it has none."""
    return newest_ids().get(env, env)


def newest_ids() -> dict[str, str]:
    """The registered environments without their versions, each with its newest id."""
    newest: dict[str, gymnasium.envs.registration.EnvSpec] = {}
    for spec in gymnasium.registry.values():
        kind = f"{spec.namespace}/{spec.name}" if spec.namespace else spec.name
        if kind not in newest or (spec.version or 0) > (newest[kind].version or 0):
            newest[kind] = spec
    return {kind: spec.id for kind, spec in newest.items()}


def short(value: Any) -> str:
    """A value in one line of at most 60 characters."""
    try:
        text = " ".join((str if isinstance(value, gymnasium.Space) else repr)(value).split())
    except Exception:  # the repr of a foreign class
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def within(values: FloatArray, low: float | FloatArray, high: float | FloatArray) -> FloatArray:
    """np.clip in a quarter of its time, which every step pays."""
    return np.minimum(np.maximum(values, low), high)


def _numbers(value: Any) -> Array | None:
    """As an array, if it is one of real numbers: text, objects and complex numbers are none."""
    if type(value) is not np.ndarray:
        try:
            value = np.asarray(value)
        except Exception:  # ragged lists, or what a foreign __array__ raises
            return None
    return value if value.dtype.kind in "fiub" else None


def _float(number: numbers.Real) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
