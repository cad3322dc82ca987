"""`minddpg warmup`: compile now instead of at the first run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Commands

if TYPE_CHECKING:
    from ..config import Config
    from ..environment import Environment


def add(commands: Commands) -> None:
    """Register the command."""
    warmup = commands.add_parser(
        "warmup",
        help="compile now instead of at the first run",
        description="Compile what training needs for this machine now, so that the first run starts at once.",
    )
    warmup.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    warmup.set_defaults(run=lambda args: compile_ahead(args.dtype))


def made_and_closed(env: str, env_kwargs: dict[str, Any] | None = None) -> Environment:
    """The environment, made and closed again: what is wrong with it shows before anything is compiled."""
    from ..environment import Environment

    environment = Environment(env, env_kwargs=env_kwargs)
    environment.close()
    return environment


def compile_ahead(dtype: str, quietly: bool = False, profile: bool = False, like: Config | None = None) -> int:
    """Compile; says so when it takes long. quietly: say nothing where nothing is left to do. profile: its parts too.

    like: with the options of this Config, whose dtype is `dtype`.
    """
    from numba import config

    from ..agent import kind, warmup
    from ..config import Config
    from ..fast.jit import CACHE, is_warm
    from ..gradflow.monitor import warm_look
    from ..profile import warm_profile

    if config.DISABLE_JIT:
        print("NUMBA_DISABLE_JIT is set: running as plain NumPy, slowly")
        return 0
    of_kind = kind(like or Config(dtype=dtype))
    warmups = {"update": warmup, "look": warm_look}
    if profile:
        warmups["profile"] = warm_profile
    warm_already = {what: is_warm(what, of_kind) for what in warmups}
    if quietly and all(warm_already.values()):
        return 0
    kept = CACHE is not None and (all(warm_already.values()) or CACHE.can_write())
    if all(warm_already.values()):
        why = "is there already"
    elif kept:
        why = "once for this version on this machine, under a minute"
    else:
        why = "at every run, as it cannot be kept"
    print(f"compiling for {of_kind} ({why}) ...", end="", flush=True)
    started = time.perf_counter()
    beside = _process_that_compiles_looks(dtype, like)
    with beside if kept and not warm_already["look"] else nullcontext():
        warmup(dtype, like)
    for warm in warmups.values():
        warm(dtype, like)  # what is compiled by now is read from the cache
    print(f" {time.perf_counter() - started:.1f} s")
    return 0


@contextmanager
def _process_that_compiles_looks(dtype: str, like: Config | None) -> Iterator[None]:
    """Next to an update, looks take longest to compile, so that a second core is of use. It may fail unseen."""
    wanted = "None" if like is None else f"Config.from_dict({like.to_dict()!r})"
    code = f"from minddpg.gradflow.monitor import Config, warm_look; warm_look({dtype!r}, {wanted})"
    try:
        beside = subprocess.Popen(
            [sys.executable, "-P", "-c", code],  # -P and the path: this package, and not one in the working directory
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # no process to be had: looks are compiled after the update
        yield
        return
    try:
        yield
        beside.wait()
    finally:
        beside.kill()
        beside.wait()
