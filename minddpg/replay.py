"""The replay memory: transitions in, batches out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .fast.jit import FloatArray, each, jit
from .fast.threads import share

ROWS = 32  # of a batch that are one part of what threads share


class Batch(NamedTuple):
    """N transitions. obs, next_obs (N, obs_dim); act (N, act_dim) in [-1, 1]; rew (N,); terminated (N,) bool.

    `terminated`: the episode's last state has no future. A time limit (`truncated`) is not stored: it ends an episode
    but not the value of its last state.
    """

    obs: FloatArray
    act: FloatArray
    rew: FloatArray
    next_obs: FloatArray
    terminated: npt.NDArray[np.bool_]


@jit
def gather(transitions: Batch, indices: npt.NDArray[np.int64]) -> Batch:
    """The transitions at `indices` (N,), copied."""
    n = len(indices)
    batch = Batch(
        np.empty((n, transitions.obs.shape[1]), transitions.obs.dtype),
        np.empty((n, transitions.act.shape[1]), transitions.act.dtype),
        np.empty(n, transitions.rew.dtype),
        np.empty((n, transitions.next_obs.shape[1]), transitions.next_obs.dtype),
        np.empty(n, np.bool_),
    )
    share(_gather, -(-n // ROWS), 200 * n, (transitions, indices, batch))  # 200: each is far away in memory
    return batch


@jit
def _gather(first: int, last: int, transitions: Batch, indices: npt.NDArray[np.int64], batch: Batch) -> None:
    for i in range(first * ROWS, min(last * ROWS, len(indices))):
        k = indices[i]
        for j in each(batch.obs[i]):
            batch.obs[i, j] = transitions.obs[k, j]
            batch.next_obs[i, j] = transitions.next_obs[k, j]
        for j in each(batch.act[i]):
            batch.act[i, j] = transitions.act[k, j]
        batch.rew[i] = transitions.rew[k]
        batch.terminated[i] = transitions.terminated[k]


def take(transitions: Batch, indices: npt.NDArray[np.int64]) -> Batch:
    """`gather` for plain Python, which need not be compiled first."""
    t, rows = transitions, indices
    return Batch(t.obs[rows], t.act[rows], t.rew[rows], t.next_obs[rows], t.terminated[rows])


class ShapeError(ValueError):
    """An array whose shape does not fit; the message names it and both shapes."""


def check_shapes(batch: Batch, obs_dim: int, act_dim: int) -> None:
    """Raises ShapeError unless every array has one row per reward, at least one, and the right columns."""
    n = len(np.atleast_1d(batch.rew))
    shapes = ((n, obs_dim), (n, act_dim), (n,), (n, obs_dim), (n,))
    for name, array, shape in zip(Batch._fields, batch, shapes, strict=True):
        if np.shape(array) != shape or n == 0:
            raise ShapeError(f"batch.{name} has shape {np.shape(array)}, but must be {shape}, one row or more")


def replay_nbytes(capacity: int, obs_dim: int, act_dim: int, dtype: str = "float32") -> int:
    """Memory of a full ring, in bytes: two observations, an action, a reward and a bool per transition."""
    return capacity * ((2 * obs_dim + act_dim + 1) * np.dtype(dtype).itemsize + 1)


class ReplayBuffer:
    """A ring of the last `capacity` transitions in arrays made once; the oldest is overwritten first."""

    def __init__(self, capacity: int, obs_dim: int, act_dim: int, dtype: str = "float32"):
        self.transitions = Batch(
            np.zeros((capacity, obs_dim), dtype),
            np.zeros((capacity, act_dim), dtype),
            np.zeros(capacity, dtype),
            np.zeros((capacity, obs_dim), dtype),
            np.zeros(capacity, np.bool_),
        )
        self.capacity = capacity
        self.added = 0  # transitions in all; the next one goes to row `added % capacity`

    @property
    def size(self) -> int:
        """Transitions held."""
        return min(self.added, self.capacity)

    def __len__(self) -> int:
        return self.size

    @property
    def nbytes(self) -> int:
        """Memory of the full ring, in bytes."""
        return sum(array.nbytes for array in self.transitions)

    def add(
        self, obs: npt.ArrayLike, act: npt.ArrayLike, rew: float, next_obs: npt.ArrayLike, terminated: bool
    ) -> None:
        """Copy one transition in. obs, next_obs (obs_dim,); act (act_dim,) in [-1, 1]. Raises ShapeError."""
        i, ring = self.added % self.capacity, self.transitions
        for name, value, row in (
            ("obs", obs, ring.obs[i]),
            ("act", act, ring.act[i]),
            ("next_obs", next_obs, ring.obs[i]),
        ):
            if np.shape(value) != row.shape:
                raise ShapeError(f"{name} has shape {np.shape(value)}, but must be {row.shape}")
        ring.obs[i] = obs
        ring.act[i] = act
        ring.rew[i] = rew
        ring.next_obs[i] = next_obs
        ring.terminated[i] = terminated
        self.added += 1

    def draw(self, batch_size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Indices (batch_size,) of held transitions, uniform and with replacement."""
        if self.size == 0:
            raise ValueError("the replay is empty; add a transition before drawing")
        return (rng.random(batch_size) * self.size).astype(np.int64)  # rng.integers takes four times as long

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch of held transitions, uniform and with replacement."""
        return take(self.transitions, self.draw(batch_size, rng))

    def spread(self, count: int) -> Batch:
        """Up to `count` held transitions, evenly spread from the oldest to the newest; none where none is held."""
        oldest = self.added % self.capacity if self.size == self.capacity else 0
        steps = np.linspace(0, self.size - 1, min(count, self.size)).astype(np.int64)
        return take(self.transitions, (oldest + steps) % self.capacity)
