"""The state of an environment, read and put back without pickling: by its own get_state and set_state, or MuJoCo's.

Where neither is certain to be everything, there is no state to read: __init__.py then plays the episode again.
"""

from __future__ import annotations

import operator
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
AnyEnv = gymnasium.Env[Any, Any]

# Gymnasium's wrappers of which it is known what they remember from one step to the next (besides what reset sets anew).
# RecordEpisodeStatistics remembers more, but what it remembers goes to the info alone.
_REMEMBERED: dict[str, tuple[str, ...]] = {
    "ClipAction": (),
    "ClipReward": (),
    "DtypeObservation": (),
    "FilterObservation": (),
    "FlattenObservation": (),
    "NormalizeObservation": ("obs_rms.mean", "obs_rms.var", "obs_rms.count", "_update_running_mean"),
    "NormalizeReward": (
        "return_rms.mean",
        "return_rms.var",
        "return_rms.count",
        "discounted_reward",
        "_update_running_mean",
    ),
    "OrderEnforcing": (),
    "PassiveEnvChecker": (),
    "RecordEpisodeStatistics": (),
    "RescaleAction": (),
    "RescaleObservation": (),
    "ReshapeObservation": (),
    "TimeAwareObservation": ("timesteps",),
    "TimeLimit": ("_elapsed_steps",),
}


# What wrappers that learn while they are used keep it in, and Gymnasium's wrapper that does.
LEARNED = {"obs_rms": "NormalizeObservation", "return_rms": "NormalizeReward"}


def wrappers_of(env: Any) -> list[Any]:
    """The wrappers around an environment or a vector environment, the outermost first."""
    wrappers = []
    while isinstance(env, gymnasium.Wrapper | gymnasium.vector.VectorWrapper):
        wrappers.append(env)
        env = env.env
    return wrappers


def learned_statistics(env: Any) -> str | None:
    """The name of the first wrapper around env that learns while it is used, as NormalizeObservation does."""
    for wrapper in wrappers_of(env):
        if LEARNED.keys() & vars(wrapper).keys():
            return type(wrapper).__name__
    return None


def read_state(env: AnyEnv) -> dict[str, Any] | None:
    """All that decides how env goes on, as a tree (see `copied`), or None where nobody can tell that it is all.

    Nothing is changed by reading it. The environment has been reset before.
    """
    try:
        wrappers = [[type(wrapper).__name__, _remembered(wrapper)] for wrapper in wrappers_of(env)]
        if _has_own_state(env.unwrapped):
            inner = {"own": copied(env.unwrapped.get_state())}  # type: ignore[attr-defined]
        elif _is_mujoco(env.unwrapped):
            inner = _mujoco_state(env.unwrapped)
        else:
            return None
        return {**inner, "generator": _generator_state(env.unwrapped), "wrappers": wrappers}
    except Exception:  # get_state is foreign code, and may mean something else than we do
        return None


def write_state(env: AnyEnv, state: dict[str, Any]) -> None:
    """Put env, which has just been reset, into a state that `read_state` gave. Raises an exception where it cannot."""
    inner = env.unwrapped
    if "own" in state:
        inner.set_state(restored(state["own"]))  # type: ignore[attr-defined]
    else:
        _set_mujoco_state(inner, state)
    if state["generator"] is not None:
        inner.np_random.bit_generator.state = restored(state["generator"])
    wrappers = wrappers_of(env)
    if [type(wrapper).__name__ for wrapper in wrappers] != [name for name, _ in state["wrappers"]]:
        raise ValueError("its wrappers are other ones")
    for wrapper, (_, values) in zip(wrappers, state["wrappers"], strict=True):
        for name, value in values.items():
            *way, last = name.split(".")
            setattr(operator.attrgetter(".".join(way))(wrapper) if way else wrapper, last, restored(value))


# --- trees ------------------------------------------------------------------------------------------------------------


def copied(tree: Any) -> Any:
    """A copy of a tree of dict, list, str, int, float, bool, None and NumPy arrays of numbers; it shares nothing.

    NumPy's scalars become arrays of no dimensions. Raises TypeError where anything else is in it.
    """
    if tree is None or type(tree) in (str, int, float, bool):
        return tree
    if type(tree) is list:
        return [copied(value) for value in tree]
    if type(tree) is dict and all(type(key) is str for key in tree):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | np.generic) and tree.dtype.kind in "biufc":
        return np.array(tree)
    raise TypeError(f"a {type(tree).__name__} is in it")


def restored(tree: Any) -> Any:
    """A copy of what `copied` gave, with NumPy's scalars again where arrays have no dimensions."""
    if isinstance(tree, list):
        return [restored(value) for value in tree]
    if isinstance(tree, dict):
        return {key: restored(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray):
        return tree.copy() if tree.ndim else tree[()]
    return tree


# --- the parts --------------------------------------------------------------------------------------------------------


def _remembered(wrapper: Any) -> dict[str, Any]:
    """What a wrapper remembers. Raises KeyError, AttributeError where that is not known."""
    kind = type(wrapper)
    if not kind.__module__.startswith("gymnasium.wrappers."):
        raise KeyError(kind)
    return {name: copied(operator.attrgetter(name)(wrapper)) for name in _REMEMBERED[kind.__name__]}


def _generator_state(env: Any) -> Any:
    """Of np_random, or None where there is none yet: asking for env.np_random would make one."""
    generator = getattr(env, "_np_random", None)
    return copied(generator.bit_generator.state) if isinstance(generator, np.random.Generator) else None


def _has_own_state(env: Any) -> bool:
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))


def _is_mujoco(env: Any) -> bool:
    """One of Gymnasium's own MuJoCo environments. Others' may remember things that MuJoCo does not know."""
    return type(env).__module__.startswith("gymnasium.envs.mujoco.") and hasattr(env, "model") and hasattr(env, "data")


def _mujoco_state(env: Any) -> dict[str, Any]:
    import mujoco

    what = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, what))
    mujoco.mj_getState(env.model, env.data, state, what)
    return {"mujoco": state, "derived": {name: array.copy() for name, array in _derived(env).items()}}


def _set_mujoco_state(env: Any, state: dict[str, Any]) -> None:
    import mujoco

    derived = _derived(env)
    if derived.keys() != state["derived"].keys():
        raise ValueError("it was saved by another version of mujoco")
    mujoco.mj_setState(env.model, env.data, state["mujoco"], mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, array in derived.items():
        array[...] = state["derived"][name]


def _derived(env: Any) -> dict[str, Array]:
    """The arrays in which MuJoCo keeps what it has derived, of the sizes that the model gives them.

    Environments read some of them before the next step (Ant: where the torso is), and MuJoCo leaves them one substep
    behind the state they are derived from, so that deriving them again gives other numbers.
    """
    import mujoco

    fresh = mujoco.MjData(env.model)
    arrays = {name: getattr(env.data, name) for name in dir(fresh) if not name.startswith("_")}
    return {
        name: array
        for name, array in arrays.items()
        if isinstance(array, np.ndarray)
        and array.dtype == np.float64
        and array.size  # those whose size depends on contacts are empty in a fresh one
        and array.shape == getattr(fresh, name).shape
    }
