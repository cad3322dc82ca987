"""Vector environments of Gymnasium as the agent sees them, whichever way they start the next episode."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from ..fast.jit import FloatArray
from .state import LEARNED, learned_statistics
from .values import (
    Bools,
    EnvError,
    Moment,
    Spaces,
    Unusable,
    after_reset,
    after_step,
    failure,
    flag,
    short,
)

AnyVector = gymnasium.vector.VectorEnv[Any, Any, Any]


class VectorEnvironments:
    """A vector environment, see `environment.Environments`.

    reseed: start each episode from the seed it is given, which takes AutoresetMode.DISABLED. Otherwise `start` alone
    uses seeds and episodes go on with the generators of the environments, so that all modes give the same.
    """

    def __init__(self, vector: AnyVector, name: str, dtype: str, reseed: bool = False):
        self._vector, self.name, self._reseed = vector, name, reseed
        try:
            mode = (vector.metadata or {}).get("autoreset_mode")
            try:
                self._mode = AutoresetMode(mode)
            except ValueError:
                raise EnvError(
                    f"{name} says metadata['autoreset_mode'] = {short(mode)}; "
                    "it must be one of gymnasium.vector.AutoresetMode, so that one knows how episodes begin"
                ) from None
            try:
                self.num = int(vector.num_envs)
                spaces = vector.single_observation_space, vector.single_action_space
            except Exception as error:
                raise EnvError(
                    f"{name} must have num_envs, single_observation_space and single_action_space: {short(error)}"
                ) from error
            self._spaces = Spaces(name, *spaces, dtype)
        except BaseException:
            self.close()
            raise
        self.dtype, self.low, self.high = dtype, self._spaces.low, self._spaces.high
        self.obs_dim, self.act_dim = self._spaces.obs_dim, self._spaces.act_dim
        self.acting = self._all = tuple(range(self.num))
        self._beginning = np.zeros(self.num, np.bool_)  # rows that a NEXT_STEP vector begins anew at the next step
        self._obs = np.zeros((self.num, self.obs_dim), dtype)
        self._begun = self._obs  # SAME_STEP: what the episodes after the ones that have just ended began with
        self._seeds: list[int] = [0] * self.num
        self._elsewhere = hasattr(vector.unwrapped, "processes")
        self._warned: dict[Any, Any] = {}
        self._steps = 0

    def start(self, seeds: Sequence[int]) -> FloatArray:
        """Reset all.    -> obs (n, obs_dim)"""
        self._seeds = [int(seed) for seed in seeds]
        of_rows = isinstance(self._vector.unwrapped, gymnasium.vector.SyncVectorEnv | gymnasium.vector.AsyncVectorEnv)
        used: Any = list(self._seeds) if of_rows else self._seeds[0]  # others take one seed for all
        given = self._call(lambda: self._vector.reset(seed=used), "at its reset")
        self._obs = self._observations(self._check(after_reset, given, "at its reset"), "at its reset")
        self._expect(np.zeros(self.num, np.bool_))
        return self._obs.copy()

    def step(self, act: FloatArray) -> Moment:
        """act (n, act_dim) in [-1, 1], of which only the rows in `acting` count"""
        self._steps += 1
        where = f"at step {self._steps}"
        if len(self.acting) < self.num:
            act = np.where(self._beginning[:, None], 0.0, act)
        sent = self._spaces.action(act)
        obs, *others, infos = self._check(
            after_step_of_vector, self._call(lambda: self._vector.step(sent), where), where
        )
        rew, terminated, truncated = (
            self._column(value, name, where) for value, name in zip(others, COLUMNS, strict=True)
        )
        next_obs = self._observations(obs, where)
        ended = terminated | truncated
        self._begun = next_obs
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            next_obs = next_obs.copy()
            for row in np.flatnonzero(ended).tolist():
                next_obs[row] = self._last_observation(infos, row, where)
        rows, self._obs = self.acting, next_obs
        self._expect(ended & (self._mode is AutoresetMode.NEXT_STEP))
        return Moment(rows, next_obs, rew.tolist(), terminated.tolist(), truncated.tolist())

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> FloatArray:
        """Begin the next episodes of rows, which have ended.    -> obs (n, obs_dim)"""
        for row, seed in zip(rows, seeds, strict=True):
            self._seeds[row] = int(seed)
        if self._mode is AutoresetMode.DISABLED:
            mask = np.zeros(self.num, np.bool_)
            mask[list(rows)] = True
            used: Any = [self._seeds[row] for row in self._all] if self._reseed else None
            where = f"at its reset after step {self._steps}"
            given = self._call(lambda: self._vector.reset(seed=used, options={"reset_mask": mask}), where)
            obs = self._observations(self._check(after_reset, given, where), where)
            self._obs = np.where(mask[:, None], obs, self._obs)
        elif self._mode is AutoresetMode.SAME_STEP:
            self._obs = self._obs.copy()
            self._obs[list(rows)] = self._begun[list(rows)]
        return self._obs.copy()

    def observations(self) -> FloatArray:
        """The current ones.    -> obs (n, obs_dim)"""
        return self._obs.copy()

    def state(self) -> dict[str, Any]:
        """The seeds of the episodes: a vector environment keeps all else to itself."""
        return {"seeds": list(self._seeds), "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> list[tuple[int, str]]:
        """Begin all episodes again: no row can be put back."""
        if len(state["seeds"]) != self.num:
            raise EnvError(f"{self.name} has {self.num} environments, but {len(state['seeds'])} were saved")
        self._steps = int(state["steps"])
        self.start(state["seeds"])
        return [(row, "a vector environment keeps its state to itself") for row in self._all]

    def is_same(self, other: Any) -> bool:
        """Whether one of them is this environment.Environment underneath."""
        return any(one.unwrapped is other.unwrapped for one in getattr(self._vector.unwrapped, "envs", ()))

    @property
    def learned_statistics(self) -> str | None:
        """The wrapper that learns statistics while training, if there is one."""
        if self._elsewhere:
            for attribute, wrapper in LEARNED.items():
                if any(self._vector.unwrapped.call("has_wrapper_attr", attribute)):  # type: ignore[attr-defined]
                    return wrapper
        inner = getattr(self._vector.unwrapped, "envs", ())
        return next(filter(None, map(learned_statistics, [self._vector, *inner])), None)

    def close(self) -> None:
        """Close all, and end the processes that they run in."""
        close(self._vector, self.name)

    def _expect(self, beginning: Bools) -> None:
        self._beginning = beginning
        self.acting = tuple(np.flatnonzero(~beginning).tolist()) if beginning.any() else self._all

    def _call(self, function: Callable[[], Any], where: str) -> Any:
        try:
            return self._listening(function) if self._elsewhere else function()
        except (EOFError, ConnectionError) as error:
            raise EnvError(
                f"{self.name} failed {where}: the process of an environment has ended ({type(error).__name__})"
            ) from error
        except _Told as told:
            raise failure(self._of(told.row), where, told.error, told.trace) from told.error
        except Exception as error:
            raise failure(self.name, where, error) from error

    def _listening(self, function: Callable[[], Any]) -> Any:
        """function(), where environments run in other processes: Gymnasium tells in warnings what happened there."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                given = function()
            except Exception as error:
                text = "\n".join(str(warning.message) for warning in caught)
                worker = re.search(r"Worker-(\d+)", text)
                if worker is None:
                    raise
                raise _Told(int(worker[1]), error, text) from None
        for warning in caught:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno, registry=self._warned
            )
        return given

    def _of(self, row: int) -> str:
        return f"{self.name} (environment {row + 1} of {self.num})"

    def _check(self, function: Callable[..., Any], value: Any, where: str) -> Any:
        try:
            return function(value)
        except Unusable as bad:
            raise bad.error(self.name, where) from None

    def _observations(self, obs: Any, where: str) -> FloatArray:
        """A copy: vectors made with copy=False give the same array again.    -> (n, obs_dim)"""
        if not isinstance(obs, np.ndarray) or obs.shape[:1] != (self.num,):
            raise EnvError(f"{self.name} returned {short(obs)} {where}; it must be {self.num} rows of observations")
        return np.stack([self._row(obs[row], row, where) for row in self._all])

    def _row(self, obs: Any, row: int, where: str) -> FloatArray:
        try:
            return self._spaces.observation(obs)
        except Unusable as bad:
            raise bad.error(self._of(row), where) from None

    def _column(self, values: Any, name: str, where: str) -> Any:
        """rew, terminated or truncated: zero in rows that only begin an episode.    -> (n,)"""
        array = np.asarray(values)
        if array.shape != (self.num,):
            raise EnvError(f"{self.name} returned {name} = {short(values)} {where}; it must be {self.num} values")
        column: Any = np.zeros(self.num, np.float64 if name == "rew" else np.bool_)
        for row in self.acting:
            try:
                value = array[row]
                column[row] = self._spaces.reward(value) if name == "rew" else flag(value, name)
            except Unusable as bad:
                raise bad.error(self._of(row), where) from None
        return column

    def _last_observation(self, infos: Any, row: int, where: str) -> FloatArray:
        try:
            last = infos["final_obs"][row]
        except Exception:
            last = None
        if last is None:
            raise EnvError(
                f"{self.name} ended an episode {where} without its last observation; a vector environment of "
                "AutoresetMode.SAME_STEP must give it in infos['final_obs']"
            )
        return self._row(last, row, where)


class _Told(Exception):
    """An exception in the process of an environment, with its traceback as text."""

    def __init__(self, row: int, error: Exception, trace: str):
        super().__init__(row, error, trace)
        self.row, self.error, self.trace = row, error, trace


COLUMNS = ("rew", "terminated", "truncated")


def after_step_of_vector(given: Any) -> Any:
    """All five values that a vector's step returned."""
    after_step(given)
    return given


def close(env: Any, name: str) -> None:
    """Close an environment. What goes wrong is a warning: by now all that matters has been kept."""
    try:
        env.close()
    except Exception as error:
        for process in getattr(env.unwrapped, "processes", ()):
            process.terminate()
        env.unwrapped.closed = True  # or else Gymnasium closes it again when it is collected
        warnings.warn(f"{name} could not be closed: {short(error)}", stacklevel=3)
