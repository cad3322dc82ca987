"""Making what Gymnasium knows by an id, or a callable makes; where that fails, one line says what to do."""

from __future__ import annotations

import difflib
import inspect
import multiprocessing
import os
import re
import signal
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from .values import EnvError, cause, newest_ids, said, short
from .vector import AnyVector

FLATTEN = "flatten_obs"  # among env_kwargs: not for the environment, but to have its observations made one vector

AnyEnv = gymnasium.Env[Any, Any]
EnvironmentLike = str | Callable[[], "AnyEnv | AnyVector"]


def make(env: EnvironmentLike, env_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The environment, or vector environment, of an id or a callable; EnvError where there is none."""
    if isinstance(env, str):
        flat, env_kwargs = flattened_and_rest(env_kwargs)
        made = _of_id(env, env_kwargs, lambda kwargs: gymnasium.make(env, **kwargs))
        return gymnasium.wrappers.FlattenObservation(made) if flat else made
    if not callable(env):
        raise EnvError(f"env must be an environment id or a callable that makes one, not {short(env)}")
    if env_kwargs:
        raise EnvError("env_kwargs go with an environment id; a callable makes its environment as it likes")
    try:
        made = env()
    except Exception as error:
        raise EnvError(f"the callable that should make an environment failed: {cause(error)}") from error
    if not isinstance(made, gymnasium.Env | gymnasium.vector.VectorEnv):
        old = any(kind.__module__.split(".")[0] == "gym" for kind in type(made).__mro__)
        remedy = "it is of the old package gym" if old else "it must be a gymnasium.Env"
        raise EnvError(f"the callable that should make an environment made {short(made)}; {remedy}")
    return made


def name_of(env: EnvironmentLike, made: Any) -> str:
    """What an environment is called: by its id, with the version even where it was asked for without, or its class."""
    if isinstance(env, str):
        return env if ":" in env or made.unwrapped.spec is None else made.unwrapped.spec.id
    first = made.unwrapped.envs[0] if isinstance(made.unwrapped, gymnasium.vector.SyncVectorEnv) else made
    return type(first.unwrapped).__name__


def vector_of_id(env: str, num: int, vectorization: str, env_kwargs: Mapping[str, Any] | None) -> AnyVector:
    """num environments of an id in one vector, which begins no episode by itself; "async": in processes."""
    vector_kwargs: dict[str, Any] = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
    flat, env_kwargs = flattened_and_rest(env_kwargs)
    wrappers: list[Any] = [gymnasium.wrappers.FlattenObservation] if flat else []
    if vectorization == "async":
        vector_kwargs["context"] = _start_method()
        wrappers.append(_deaf())

    def make_vector(kwargs: dict[str, Any]) -> AnyVector:
        return gymnasium.make_vec(
            env,
            num_envs=num,
            vectorization_mode=vectorization,
            vector_kwargs=vector_kwargs,
            wrappers=wrappers,
            **kwargs,
        )

    return _of_id(env, env_kwargs, make_vector)


def flattened_and_rest(env_kwargs: Mapping[str, Any] | None) -> tuple[bool, dict[str, Any]]:
    """Whether observations are to be flattened, and what the environment itself is made with."""
    kwargs = dict(env_kwargs or {})
    flattened = kwargs.pop(FLATTEN, False)
    if type(flattened) is not bool:
        raise EnvError(f"{FLATTEN} must be true or false, not {short(flattened)}")
    return flattened, kwargs


def vector_of_callable(env: Callable[[], Any], num: int) -> AnyVector:
    """num environments that a callable makes, each in a process, in a vector that begins no episode by itself."""
    deaf = _deaf()
    try:
        return gymnasium.vector.AsyncVectorEnv(
            [lambda: deaf(env())] * num,
            context=_start_method(),
            autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
        )
    except Exception as error:
        raise EnvError(
            f"the environments cannot be made in processes of their own: {cause(error)}{_unguarded(error)}"
        ) from error


def _unguarded(error: Exception) -> str:
    """What to do where a process has ended at its start, or would start others at its own start."""
    if isinstance(error, EOFError | ConnectionError) or "bootstrapping" in str(error):
        return "; processes import the script anew, which must do this under: if __name__ == '__main__':"
    return ""


def _start_method() -> str:
    """Never fork: OpenMP's and BLAS's threads do not survive it."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _deaf() -> Callable[[AnyEnv], AnyEnv]:
    """Ctrl-C and a closed terminal reach all processes; the run ends its step first, for which it needs the others.

    A nested function, so that it goes there as code: importing this module there would take a second.
    """
    here = os.getpid()

    def deaf(env: AnyEnv) -> AnyEnv:
        if os.getpid() != here:
            for name in ("SIGINT", "SIGHUP"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
        return env

    return deaf


def _of_id(env: str, env_kwargs: Mapping[str, Any] | None, function: Callable[[dict[str, Any]], Any]) -> Any:
    """function(keyword arguments), which makes env; where it fails, one line says why."""
    kwargs = {"disable_env_checker": True, **(env_kwargs or {})}  # what training needs is checked here
    if env.startswith("dm_control/"):
        try:
            import shimmy  # noqa: F401  (registers them)
        except ImportError:
            raise EnvError(f"{env} needs the extra dm-control; from a checkout: pip install '.[dm-control]'") from None
    try:
        with warnings.catch_warnings(record=True) as caught:
            made = function(kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        text = str(error).lower()
        extra = "box2d" if "box2d" in text else "mujoco" if "mujoco" in text else None
        remedy = f"install the extra {extra}, from a checkout: pip install '.[{extra}]'" if extra else said(error)
        raise EnvError(f"{env} needs a package that is not installed; {remedy}") from error
    except gymnasium.error.UnregisteredEnv as error:
        text = "no environment of this name is registered" if ":" not in env else said(error)
        raise EnvError(f"cannot make {env!r}: {text}{_did_you_mean(env)}") from error
    except (gymnasium.error.Error, ImportError) as error:
        raise EnvError(f"cannot make {env!r}: {said(error)}{_did_you_mean(env)}") from error
    except Exception as error:  # whatever the code of an environment, or of the module it is in, raises
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and unknown and unknown[1] in kwargs:
            raise EnvError(f"{env} takes no argument {unknown[1]!r}{_arguments(env)}") from error
        raise EnvError(f"cannot make {env!r}: {cause(error)}{_unguarded(error)}") from error
    for warning in caught:
        warnings.warn(str(warning.message), warning.category, stacklevel=5)
    return made


def _did_you_mean(env: str) -> str:
    """The registered ids that are nearest, each in its newest version."""
    module, _, name = env.rpartition(":")
    newest = newest_ids()
    kind = re.sub(r"-v\d+$", "", name)
    if kind in newest:
        near = [newest[kind]] if newest[kind] != name else []
    else:
        kinds = {other.lower(): other for other in newest}
        near = [newest[kinds[other]] for other in difflib.get_close_matches(kind.lower(), kinds, n=2, cutoff=0.75)]
    hint = f"; did you mean {' or '.join(repr(f'{module}:{i}' if module else i) for i in near)}?" if near else ""
    if kind in newest or module:
        return hint
    return f"{hint or ';'} if it is defined in a module of yours, write my_module:{env}"


def _arguments(env: str) -> str:
    """What an environment can be made with."""
    try:
        entry = gymnasium.spec(env.rpartition(":")[2]).entry_point
        maker = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        parameters = inspect.signature(maker).parameters.values()  # type: ignore[arg-type]
    except Exception:  # foreign code; the hint is left out then
        return ""
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return f"; it takes {', '.join(names) or 'none'}"
