"""The one decorator of the package, and the cache of what it compiled.

The functions people read are the functions Numba compiles. With the environment variable NUMBA_DISABLE_JIT=1 the same
lines run as plain NumPy, so that a debugger can step through them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, overload

import numba
import numpy as np
import numpy.typing as npt
from llvmlite.binding import get_host_cpu_name
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from .parts import Part

FloatArray = npt.NDArray[np.floating[Any]]
Function = TypeVar("Function", bound=Callable[..., Any])

# An update frees megabytes that the next one needs again. glibc would return them to the system in between, at the
# price of some 400 page faults per update; having freed one large block, it keeps up to twice as much (mallopt(3)).
np.empty(31 << 20, np.uint8)

KEPT_CACHES = 4  # salted cache directories left in place: this version's and a few before it


def _sources_hash(package: Path) -> str:
    """A hash of every source file: Numba alone would not notice an edit in a file whose functions it inlined.

    And of where they stand, as Numba keeps code by path: another copy of the package has compiled nothing for this one.
    """
    digest = hashlib.sha256(str(package.resolve()).encode())
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cache_home() -> Path:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _private_directory(path: Path) -> None:
    """Make `path`, for this user alone: cache files are pickles, so whoever may write them may run code."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{path} can be written by others")
    probe = path / f".probe-{os.getpid()}"
    probe.touch()
    probe.unlink()


def _prune(home: Path, current: Path) -> None:
    """Remove all but the newest caches of other versions."""
    os.utime(current)
    old = sorted((p for p in home.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in old[KEPT_CACHES:]:
        shutil.rmtree(path, ignore_errors=True)


def _open_cache() -> Path | None:
    """The directory of this version's compiled code; None where nothing can be written (then nothing is cached)."""
    try:
        home = _cache_home() / "minddpg"
        current = home / _sources_hash(Path(__file__).parents[1])
        _private_directory(home)
        _private_directory(current)
        _prune(home, current)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    return current


CACHE = None if numba.config.DISABLE_JIT else _open_cache()


@overload
def jit(function: Function) -> Function: ...


@overload
def jit(*, fastmath: set[str]) -> Callable[[Function], Function]: ...


def jit(function: Any = None, *, fastmath: Any = False) -> Any:
    """Compile `function` on its first call; runs it as it stands under NUMBA_DISABLE_JIT=1.

    fastmath: set of LLVM flags for the one place that may reorder a sum (see matmul.py). Never {"nnan", "ninf"}:
    they delete NaN checks.
    """
    if function is None:
        return lambda f: jit(f, fastmath=fastmath)  # type: ignore[call-overload]
    before = numba.config.CACHE_DIR
    if CACHE is not None:
        numba.config.CACHE_DIR = str(CACHE)  # read once, while decorating
    try:
        # Numba's default error model checks each division for zero and so keeps Adam from vectorising. Numba's own
        # inlining (inline="always") is not used: with tuples among the arguments, 0.68 compiles it to wrong results.
        compiled = numba.njit(function, cache=CACHE is not None, error_model="numpy", fastmath=fastmath)
    finally:
        numba.config.CACHE_DIR = before
    if not numba.config.DISABLE_JIT and Part is not None:
        part = numba.njit(function, error_model="numpy", fastmath=fastmath, pipeline_class=Part)
        compiled.get_overload = part.get_overload  # what a compiled caller asks for; calls from Python do not
        compiled.get_call_template = lambda args, kws: part.get_call_template(
            [types.unliteral(arg) for arg in args],  # one version for f(x, 0) and f(x, i)
            kws,
        )
    return compiled


_machine_code: dict[tuple[Any, str], Callable[..., Any]] = {}


def call(function: Callable[..., Any], dtype: str, *arguments: Any) -> Any:
    """function(*arguments), for a compiled function whose arguments have the same types in every call of one dtype.

    Called as usual, Numba finds out the type of every array in every tuple, each time: 10 us for a Learner. Here the
    first call does so, and the others go straight to the machine code.
    """
    found = _machine_code.get((function, dtype))
    if found is None:
        compile_for = getattr(function, "compile", None)  # plain Python has none
        found = compile_for(tuple(map(numba.typeof, arguments))) if compile_for else function
        _machine_code[function, dtype] = found
    return found(*arguments)


def each(array: FloatArray) -> Iterable[Any]:
    """`for i in each(v):` visits every element of the vector v, one index at a time when compiled.

    As plain NumPy it yields one slice that covers them all: the loop's body then runs once, on whole arrays.
    """
    return (slice(None),)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """np.where inside an `each` loop. (Numba's own takes a detour over arrays, element by element.)"""
    return np.where(condition, yes, no)


if not numba.config.DISABLE_JIT:
    # Both become a few instructions in place, not calls: only so can LLVM turn the loops into vector code.

    @type_callable(each)
    def _type_each(context):  # type: ignore[no-untyped-def]
        return lambda array: types.range_state64_type if isinstance(array, types.Array) and array.ndim == 1 else None

    @lower_builtin(each, types.Array)
    def _each(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, args[0])
        steps = cgutils.create_struct_proxy(types.range_state64_type)(context, builder)
        steps.start, steps.stop, steps.step = array.nitems.type(0), array.nitems, array.nitems.type(1)
        return steps._getvalue()

    @type_callable(where)
    def _type_where(context):  # type: ignore[no-untyped-def]
        return lambda condition, yes, no: yes if yes == no and condition == types.boolean else None

    @lower_builtin(where, types.Boolean, types.Float, types.Float)
    def _where(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(*args)


def is_warm(dtype: str) -> bool:
    """Whether compiled code for this dtype is in the cache (or none is needed)."""
    return bool(numba.config.DISABLE_JIT) or (CACHE is not None and _flag(CACHE, dtype).exists())


def mark_warm(dtype: str) -> None:
    """Remember that everything has been compiled for this dtype."""
    if CACHE is not None:
        with suppress(OSError):
            _flag(CACHE, dtype).touch()


def _flag(cache: Path, dtype: str) -> Path:
    """Numba compiles anew for each version of itself and of Python, and for each CPU."""
    cpu = numba.config.CPU_NAME or get_host_cpu_name()
    return cache / f"{dtype}-numba{numba.__version__}-py{sys.version_info.major}.{sys.version_info.minor}-{cpu}.warm"
