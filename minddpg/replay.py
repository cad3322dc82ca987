"""The replay memory: transitions in, batches out."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

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


class LongBatch(NamedTuple):
    """A Batch whose transitions cover `steps` (N,) steps each; see returns.py. rew: their discounted sum.

    Taken wherever a Batch is taken that has not been `checked` or `prepared`.
    """

    obs: FloatArray
    act: FloatArray
    rew: FloatArray
    next_obs: FloatArray
    terminated: npt.NDArray[np.bool_]
    steps: npt.NDArray[np.int64]


def steps_of(batch: Batch) -> npt.NDArray[np.int64] | None:
    """What a LongBatch has beyond a Batch; None of a Batch."""
    return getattr(batch, "steps", None)


@jit
def gather(transitions: Batch, indices: npt.NDArray[np.int64]) -> Batch:
    """The transitions at `indices` (N,), copied."""
    n, rows = len(indices), len(transitions.rew)
    if (
        not len(transitions.obs)
        == len(transitions.act)
        == len(transitions.next_obs)
        == len(transitions.terminated)
        == rows
    ):
        raise ValueError("gather: every array must have one row per transition")
    for i in range(n):
        if indices[i] < 0 or indices[i] >= rows:
            raise IndexError("gather: indices must be of transitions that are there")
    batch = Batch(
        np.empty((n, transitions.obs.shape[1]), transitions.obs.dtype),
        np.empty((n, transitions.act.shape[1]), transitions.act.dtype),
        np.empty(n, transitions.rew.dtype),
        np.empty((n, transitions.next_obs.shape[1]), transitions.next_obs.dtype),
        np.empty(n, transitions.terminated.dtype),
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
    """`gather` for plain Python, which need not be compiled first. Of a LongBatch, one."""
    return type(transitions)._make(array[indices] for array in transitions)


BOOL, INDEX = np.dtype(np.bool_), np.dtype(np.int64)
FEW = 32  # elements that Python adds up faster than NumPy
LARGE = 1e38  # float32 can hold it


class ShapeError(ValueError):
    """An array that does not fit, in its shape or in what it holds; the message names it, and the element."""


# --- the one conversion: what comes in from outside, as compiled code expects it --------------------------------------


def as_array(name: str, value: npt.ArrayLike, dtype: np.dtype[Any], finite: bool = False) -> npt.NDArray[Any]:
    """Real numbers as a plain array of this dtype in native byte order, C-contiguous, aligned and writeable.

    An array that is so already is returned itself, all else is copied. Raises ShapeError for what is not real numbers,
    and for a number that is too large for the dtype; finite: for a NaN or an infinity too. It names the element.
    """
    array = value if type(value) is np.ndarray else _as_ndarray(name, value)
    if array.dtype != dtype:
        if array.dtype.kind == dtype.kind == "f" and _is_moderate(array):  # the usual case, in a third of the time
            return array.astype(dtype, "C")
        array = _cast(name, array, dtype)
    if finite:
        check_finite(name, array)
    return array if array.flags.carray else array.copy()


def _is_moderate(array: FloatArray) -> bool:
    """False where an element may be a NaN, an infinity, or beyond float32."""
    if array.ndim == 1 and 0 < array.size < FEW:
        values = array.tolist()
        return min(values) > -LARGE and max(values) < LARGE and not math.isnan(sum(values))
    return float(np.vdot(array, array)) < LARGE**2


def _as_ndarray(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    if np.ma.is_masked(value):
        raise ShapeError(f"{name} has masked elements, which are no numbers")
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{name} must be an array of numbers: {error}") from None


def _cast(name: str, array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    kind = array.dtype.kind
    if kind == "O" and all(isinstance(number, numbers.Real) for number in array.flat):
        array = _as_floats(name, array)
    elif kind not in "fiub":
        raise ShapeError(f"{name} must be an array of numbers, not of {array.dtype}")
    if dtype.kind == "b":
        if not ((array == 0) | (array == 1)).all():
            raise ShapeError(f"{name} must hold True and False only, or 1 and 0")
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.isfinite(cast).all():
        where = np.argwhere(np.isinf(cast) & np.isfinite(array))
        if len(where):
            at = tuple(where[0].tolist())
            raise ShapeError(
                f"{_element(name, at)} is {array[at]:g}, too large for {dtype}; scale it down, or use dtype float64"
            )
    return cast


def _as_floats(name: str, array: npt.NDArray[Any]) -> FloatArray:
    floats = np.empty(array.shape)
    for at, number in np.ndenumerate(array):
        try:
            floats[at] = float(number)
        except OverflowError:  # a whole number beyond all floats
            raise ShapeError(f"{_element(name, at)} is too large for a float; scale it down") from None
    return floats


def _element(name: str, at: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, at))}]" if at else name


def check_finite(name: str, array: npt.NDArray[Any]) -> None:
    """Raises ShapeError where an element is a NaN or an infinity, and says which."""
    if not is_finite(array):
        at = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise ShapeError(f"{_element(name, at)} is {array[at]}; it must be finite")


def is_finite(array: npt.NDArray[Any]) -> bool:
    """Whether no element is a NaN or an infinity: np.isfinite(array).all() in a tenth of its time."""
    total = sum(array.tolist()) if array.ndim == 1 and array.size < FEW else np.vdot(array, array)
    return math.isfinite(total) or bool(np.isfinite(array).all())  # a sum may be infinite where no element is


def as_batch(batch: Batch, obs_dim: int, act_dim: int, dtype: np.dtype[Any], factored: bool = False) -> Batch:
    """The batch in this dtype, as compiled code expects it. Raises ShapeError, which names what misfits.

    A LongBatch stays one. factored: `terminated` may be a number; see returns.py.
    """
    obs, act, rew, next_obs, terminated = batch[:5]
    is_factor = factored and getattr(terminated, "dtype", BOOL).kind == "f"
    checked = Batch(
        as_array("batch.obs", obs, dtype),
        as_array("batch.act", act, dtype),
        as_array("batch.rew", rew, dtype),
        as_array("batch.next_obs", next_obs, dtype),
        as_array("batch.terminated", terminated, dtype if is_factor else BOOL),
    )
    if (steps := steps_of(batch)) is not None:
        checked = LongBatch(*checked, as_array("batch.steps", steps, INDEX))  # type: ignore[assignment]
    check_shapes(checked, obs_dim, act_dim)
    return checked


def check_batch_is_finite(batch: Batch) -> None:
    """Raises ShapeError where an element is a NaN or an infinity, and says which."""
    for name, array in batch._asdict().items():
        if array.dtype.kind == "f":
            check_finite(f"batch.{name}", array)


def check_shapes(batch: Batch, obs_dim: int, act_dim: int) -> None:
    """Raises ShapeError unless every array has one row per reward, at least one, and the right columns."""
    n = (*np.shape(batch.rew), 1)[0]
    shapes = ((n, obs_dim), (n, act_dim), (n,), (n, obs_dim), (n,), (n,))
    for name, array, shape in zip(batch._fields, batch, shapes, strict=False):
        if np.shape(array) != shape or n == 0:
            raise ShapeError(f"batch.{name} has shape {np.shape(array)}, but must be {shape}, one row or more")


def replay_nbytes(capacity: int, obs_dim: int, act_dim: int, dtype: str = "float32", n_step: int = 1) -> int:
    """Memory of a full ring, in bytes: two observations, an action, a reward and a bool per transition.

    n_step: of more than one, with the number of steps that it covers.
    """
    return capacity * ((2 * obs_dim + act_dim + 1) * np.dtype(dtype).itemsize + 1 + (8 if n_step > 1 else 0))


class ReplayBuffer:
    """A ring of the last `capacity` transitions in arrays made once; the oldest is overwritten first.

    n_step: of more than one, they are a LongBatch.
    """

    def __init__(self, capacity: int, obs_dim: int, act_dim: int, dtype: str = "float32", n_step: int = 1):
        self._dtype, self._largest = np.dtype(dtype), float(np.finfo(dtype).max)
        self._transitions: Batch = Batch(
            np.zeros((capacity, obs_dim), dtype),
            np.zeros((capacity, act_dim), dtype),
            np.zeros(capacity, dtype),
            np.zeros((capacity, obs_dim), dtype),
            np.zeros(capacity, np.bool_),
        )
        if n_step > 1:
            self._transitions = LongBatch(*self._transitions, np.ones(capacity, np.int64))  # type: ignore[assignment]
        self.capacity, self.obs_dim, self.act_dim, self.dtype = capacity, obs_dim, act_dim, self._dtype.name
        self.added = 0  # transitions in all; the next one goes to row `added % capacity`

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled; memory that came read-only is copied."""
        self.__dict__.update(state)
        arrays = (as_array("transitions", array, array.dtype) for array in self._transitions)
        self._transitions = type(self._transitions)._make(arrays)

    @property
    def transitions(self) -> Batch:
        """The ring itself, `capacity` rows: not a copy, and not to be replaced."""
        return self._transitions

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
        self,
        obs: npt.ArrayLike,
        act: npt.ArrayLike,
        rew: float,
        next_obs: npt.ArrayLike,
        terminated: bool,
        steps: int = 1,
    ) -> None:
        """Copy one transition in. obs, next_obs (obs_dim,); act (act_dim,) in [-1, 1]. All finite.

        steps: that it covers, 1 but in a LongBatch. Raises ShapeError, which names what misfits; nothing has been
        written then.
        """
        obs = self._checked("obs", obs, (self.obs_dim,), self._dtype)
        act = self._checked("act", act, (self.act_dim,), self._dtype)
        next_obs = self._checked("next_obs", next_obs, (self.obs_dim,), self._dtype)
        if type(rew) is not float or not abs(rew) <= self._largest:
            rew = self._checked("rew", rew, (), self._dtype).item()
        if type(terminated) is not bool:
            terminated = self._checked("terminated", terminated, (), BOOL).item()
        i, ring = self.added % self.capacity, self._transitions
        ring.obs[i], ring.act[i], ring.rew[i], ring.next_obs[i], ring.terminated[i] = (
            obs,
            act,
            rew,
            next_obs,
            terminated,
        )
        if (covered := steps_of(ring)) is not None:
            covered[i] = steps
        self.added += 1

    def _checked(
        self, name: str, value: npt.ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        array = as_array(name, value, dtype, finite=True)
        if array.shape != shape:
            raise ShapeError(f"{name} has shape {array.shape}, but must be {shape}")
        return array

    def draw(self, batch_size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Indices (batch_size,) of held transitions, uniform and with replacement."""
        if self.size == 0:
            raise ValueError("the replay is empty; add a transition before drawing")
        # A third of the time of rng.integers; 53 bits, so that no transition is likelier than another by 1e-9.
        return (rng.random(batch_size) * self.size).astype(np.int64)

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch of held transitions, uniform and with replacement."""
        return take(self.transitions, self.draw(batch_size, rng))

    def spread(self, count: int) -> Batch:
        """Up to `count` held transitions, evenly spread from the oldest to the newest; none where none is held."""
        oldest = self.added % self.capacity if self.size == self.capacity else 0
        steps = np.linspace(0, self.size - 1, min(count, self.size)).astype(np.int64)
        return take(self.transitions, (oldest + steps) % self.capacity)
