"""n-step returns: a transition that covers up to n steps, and what its bootstrap is worth.

    R = r_0 + gamma r_1 + ... + gamma^(k-1) r_(k-1)        y = R + gamma^k (1 - terminated) Q'(s_k, mu'(s_k))

k is n, and less where the episode ended before: at a time limit too, whose last state keeps its value. The rewards are
those of the behaviour, noise included, without a correction. Of what an update reads, `terminated` is then a number,
1 - gamma^(k-1) (1 - terminated): gamma times one minus it is gamma^k (1 - terminated), so that the algorithm's page
need not know of n.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .fast.jit import FloatArray
from .replay import Batch, steps_of

Stored = tuple[FloatArray, FloatArray, float, FloatArray, bool, int]  # what ReplayBuffer.add takes


def factored(batch: Batch, gamma: float, dtype: str) -> Batch:
    """The batch as updates read it: `terminated` as a number (see above).

    batch: a LongBatch; or a Batch, whose transitions cover one step or have the number already.
    """
    over = np.asarray(batch.terminated, np.float64)
    if (steps := steps_of(batch)) is not None:
        over = 1 - gamma ** (np.asarray(steps, np.float64) - 1) * (1 - over)
    return Batch(*batch[:4], over.astype(dtype))


class Pending:
    """The last transitions of one environment, whose n rewards are not all there yet."""

    def __init__(self, n: int, gamma: float, obs_dim: int, act_dim: int):
        self.n, self.gamma = n, gamma
        self._obs, self._act = np.zeros((n, obs_dim)), np.zeros((n, act_dim))
        self._rew, self._steps = np.zeros(n), np.zeros(n, np.int64)
        self._next_obs = np.zeros(obs_dim)
        self.count = 0

    def add(
        self, obs: FloatArray, act: FloatArray, rew: float, next_obs: FloatArray, terminated: bool, truncated: bool
    ) -> Iterator[Stored]:
        """One step happened.    -> the transitions that are complete by it, oldest first"""
        i = self.count
        self._obs[i], self._act[i], self._rew[i], self._steps[i] = obs, act, 0.0, 0
        self._next_obs[:] = next_obs
        self.count += 1
        started = slice(0, self.count)
        self._rew[started] += self.gamma ** self._steps[started] * rew
        self._steps[started] += 1
        if terminated or truncated:
            yield from self.cut(terminated)
        elif self.count == self.n:
            yield self._pop(False)

    def cut(self, terminated: bool = False) -> Iterator[Stored]:
        """No more rewards will come: everything as far as it got."""
        while self.count:
            yield self._pop(terminated)

    def _pop(self, terminated: bool) -> Stored:
        rew, steps = float(self._rew[0]), int(self._steps[0])
        oldest = self._obs[0].copy(), self._act[0].copy(), rew, self._next_obs.copy(), bool(terminated), steps
        for array in (self._obs, self._act, self._rew, self._steps):
            array[:-1] = array[1:]
            array[-1] = 0
        self.count -= 1
        return oldest

    def state(self) -> dict[str, Any]:
        """What it needs to go on; copies."""
        arrays = {
            "obs": self._obs,
            "act": self._act,
            "rew": self._rew,
            "steps": self._steps,
            "next_obs": self._next_obs,
        }
        return {"count": self.count, **{name: array.copy() for name, array in arrays.items()}}

    def restore(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Go on from a state. Raises ValueError where it is none."""
        if not 0 <= int(state["count"]) < self.n or np.any(np.asarray(state["steps"])[int(state["count"]) :]):
            raise ValueError("it has more pending transitions than n_step allows")
        self.count = int(state["count"])
        self._obs[:], self._act[:], self._next_obs[:] = state["obs"], state["act"], state["next_obs"]
        self._rew[:], self._steps[:] = state["rew"], state["steps"]
