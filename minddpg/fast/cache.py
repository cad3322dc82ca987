"""Compiled code, kept for the next process: one file per function and types of its arguments, each with a checksum.

It stands in for Numba's own cache, which runs what it reads: a flipped bit of machine code unnoticed, a file cut short
with a traceback at every run; and which lets two processes that compile one function for two types at the same moment
write both to one file. Here nothing that goes wrong with the cache raises. It is said once, and the code is compiled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

PACKAGE = Path(__file__).parents[1]
DIGEST = hashlib.sha256().digest_size  # bytes, in front of the content

HOUR, DAY = 3600, 86400  # seconds
UNUSED = 30 * DAY  # a version's directory is removed after this long: who comes back later compiles for 15 s, once
MOST = 1 << 30  # bytes of all versions together, some 500 of them; beyond it those go that were not used for longest,
RECENT = DAY  # but none that was used within a day: it may be in use now


class CodeCache:
    """A directory of checked files. problem: why it cannot be used at all, if so. Nothing here raises an Exception."""

    def __init__(self, directory: Path, problem: str = ""):
        self.directory, self.problem = directory, problem
        self._used: set[str] = set()  # files of the code that this process runs
        self._lost = False  # this process runs code that could not be kept
        self._said = False

    def read(self, name: str) -> bytes | None:
        """The content of a file. None where there is none, or it is damaged: then it is removed."""
        if self.problem:
            return None
        try:
            sealed = (self.directory / name).read_bytes()
            if sealed[:DIGEST] != self._digest(name, sealed[DIGEST:]):
                raise ValueError("a checksum is wrong")
        except FileNotFoundError:
            return None
        except Exception as error:
            self.discard(name, error)
            return None
        return sealed[DIGEST:]

    def write(self, name: str, content: bytes) -> bool:
        """Write a file that is whole or not there.    -> whether it is there

        It is not brought to the disk at once: after a power failure, the checksum tells.
        """
        temporary = self.directory / f"{name}.{secrets.token_hex(4)}.tmp"
        try:
            if self.problem:
                raise OSError(self.problem)
            _private_directory(self.directory)  # it may have been removed meanwhile
            try:
                temporary.write_bytes(self._digest(name, content) + content)
                os.replace(temporary, self.directory / name)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        except Exception as error:
            self.not_kept(error)
            return False
        return True

    def discard(self, name: str, error: Exception) -> None:
        """Remove a file that is no good."""
        self._say(f"compiled code in {self.directory} was damaged ({_line(error)}); it is compiled again")
        with suppress(OSError):
            (self.directory / name).unlink()

    def not_kept(self, error: Exception) -> None:
        """Say that code could not be written."""
        self._lost = True
        self._say(
            f"compiled code cannot be kept in {self.directory} ({_line(error)}) and is compiled at every run; "
            "set NUMBA_CACHE_DIR to a directory that can be written"
        )

    def can_write(self) -> bool:
        """Whether there is room for a file now."""
        written = self.write("probe", bytes(4096))
        with suppress(OSError):
            (self.directory / "probe").unlink()
        return written

    def in_use(self, name: str) -> None:
        """This process runs the code in this file."""
        self._used.add(name)

    def is_warm(self, what: str) -> bool:
        """Whether all code that was in use when `what` was marked is there, undamaged."""
        names = (self.read(f"{what}.warm") or b"").decode().splitlines()
        return bool(names) and all(self.read(name) is not None for name in names)

    def mark_warm(self, what: str) -> None:
        """Remember what is in use now as what `what` needs; unless some of it could not be kept."""
        names = "\n".join(sorted(self._used)).encode()
        if not self._lost and names and names != self.read(f"{what}.warm"):
            self.write(f"{what}.warm", names)
            self._remove_temporary()

    def _remove_temporary(self) -> None:
        """Remove what writers that were killed have left behind."""
        with suppress(OSError):
            for path in self.directory.glob("*.tmp"):
                if time.time() - path.stat().st_mtime > HOUR:
                    path.unlink()

    def _digest(self, name: str, content: bytes) -> bytes:
        """Of a file at its place: under another name, or from another version, it is wrong."""
        return hashlib.sha256(f"{self.directory.name}/{name}\0".encode() + content).digest()

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            with suppress(OSError, ValueError):  # stderr may be closed
                print(f"minddpg: warning: {what}", file=sys.stderr, flush=True)


class FunctionCache:
    """The cache of one function, with the methods by which Numba's dispatcher asks for it (numba.core.caching._Cache).

    What else is used of Numba's inside stands within `try`, imports too: should a later Numba have changed it,
    everything works, and is compiled at every run.
    """

    def __init__(self, cache: CodeCache, function: Callable[..., Any]):
        self.cache, self.function = cache, function
        self.cache_path = str(cache.directory)
        self._stopped = False

    @staticmethod
    def fits(function: Callable[..., Any]) -> bool:
        """Whether the name of the cache's directory stands for all that this function's code depends on."""
        inside = function.__code__.co_filename.startswith(f"{PACKAGE}{os.sep}")
        return inside and function.__closure__ is None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled function for these types; None if it has to be compiled."""
        name = ""
        try:
            target_context.refresh()
            key, name = self._key(signature, target_context.codegen())
            content = None if self._stopped else self.cache.read(name)
            if content is None:
                return None
            from numba.core.compiler import CompileResult

            found, reduced = pickle.loads(content)
            if found != key:  # two types of the same name
                return None
            compiled = CompileResult._rebuild(target_context, *reduced)
        except Exception as error:
            raise_lost()
            self.cache.discard(name, error)
            return None
        raise_lost()
        self.cache.in_use(name)
        return compiled

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled for these types."""
        raise_lost()
        if self._stopped:
            return
        try:
            from numba.core.serialize import dumps

            if compiled.lifted or compiled.library.has_dynamic_globals:
                raise ValueError(f"{self.function.__name__} has addresses of this process in it")
            key, name = self._key(signature, compiled.codegen)
            content = dumps((key, compiled._reduce()))
        except Exception as error:
            self.cache.not_kept(error)
            return
        if self.cache.write(name, content):
            self.cache.in_use(name)

    def flush(self) -> None:
        """Numba is about to compile again because a global has changed: from now on the file does not stand for it."""
        self._stopped = True

    def enable(self) -> None:
        """It is."""

    disable = flush

    def _key(self, signature: Any, codegen: Any) -> tuple[Any, str]:
        """What the code was compiled for, and the name of its file."""
        key = signature, codegen.magic_tuple()
        function = self.function
        whole = repr((function.__module__, function.__qualname__, function.__code__.co_firstlineno, key))
        return key, f"{function.__name__.strip('<>')}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}.code"


_lost: list[BaseException] = []


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """Ctrl-C after seconds in LLVM is noticed in a callback of LLVM's, where Python prints a traceback and goes on.

    Such an exception is raised at the end of the block, or by `raise_lost` before.
    """
    if threading.current_thread() is not threading.main_thread():  # interrupts come to the main thread
        yield
        return
    before = sys.unraisablehook

    def keep(unraisable: Any) -> None:
        if unraisable.exc_value is None or isinstance(unraisable.exc_value, Exception):
            before(unraisable)
        else:
            _lost.append(unraisable.exc_value)

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = before
        raise_lost()


def raise_lost() -> None:
    """Raise what interrupted this block, if something did."""
    if _lost:
        lost = _lost[0]
        _lost.clear()
        raise lost


def open_cache() -> CodeCache:
    """The cache of this version of the package on this machine; other versions' are removed when they are old."""
    directory = Path("minddpg")
    try:
        home = _home() / "minddpg"
        directory = home / _version()
        _private_directory(home)
        new = not directory.exists()
        _private_directory(directory)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        return CodeCache(directory, _line(error))
    with suppress(OSError):
        os.utime(directory)  # in use
    if new:
        prune(home, directory)
    return CodeCache(directory)


def prune(home: Path, current: Path) -> None:
    """Remove what other versions have compiled and nobody uses: by age, then by size. Others may do so just now."""
    now, found = time.time(), []
    with suppress(OSError), os.scandir(home) as entries:
        for entry in entries:
            if _is_version(entry.name) and entry.name != current.name and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    found.append((now - entry.stat().st_mtime, _size(entry), entry.path))
    total = sum(size for _, size, _ in found)
    for age, size, path in sorted(found, reverse=True):
        if age > UNUSED or (total > MOST and age > RECENT):
            shutil.rmtree(path, ignore_errors=True)
            total -= size


def _size(directory: os.DirEntry[str]) -> int:
    return sum(path.lstat().st_size for path in Path(directory).rglob("*"))


def _version() -> str:
    """A hash of all that compiled code depends on: Numba alone would not notice an edit in a file whose functions it
    inlined, nor another NumPy.

    And of where the package stands: two installs of one version are used, and grow old, each on its own.
    """
    config = numba.config
    try:
        features = sorted(name for name, there in get_host_cpu_features().items() if there)
    except RuntimeError:  # LLVM does not know them here
        features = []
    machine = get_host_cpu_name(), features, config.CPU_NAME, config.CPU_FEATURES
    versions = numba.__version__, llvmlite.__version__, np.__version__, sys.implementation.cache_tag
    digest = hashlib.sha256(repr((str(PACKAGE.resolve()), versions, machine)).encode())
    for source in sorted(PACKAGE.rglob("*.py")):
        digest.update(source.relative_to(PACKAGE).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _is_version(name: str) -> bool:
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def _home() -> Path:
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
            raise PermissionError("others can write to it, or it is not yours")


def _line(error: Exception) -> str:
    reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return reason.splitlines()[0]
