"""The files of a run directory: config.json, progress.csv, agent.npz. No pickles; written whole or not at all.

config.json    what was run: environment, seed, shapes, hyperparameters, versions
progress.csv   one line per finished episode
agent.npz      every parameter and the optimisers' memory, by the names of DDPG.state_dict()
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import __version__
from .config import Config
from .ddpg import DDPG

MAX_JSON = 1 << 20  # bytes; a config.json has about 1,000


class RunError(ValueError):
    """A run directory that cannot be made, written or read; the message is one line."""


class RunInfo(NamedTuple):
    """What config.json says of a run. env: a Gymnasium id, or the name of a callable."""

    env: str
    seed: int
    obs_dim: int
    act_dim: int
    config: Config


class RunDirectory:
    """A run directory being written. Making one that exists is an error: nothing is ever overwritten."""

    def __init__(self, path: str | os.PathLike[str], info: RunInfo):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise RunError(f"{self.path} exists; choose another --out, or remove it") from None
        except OSError as error:
            raise RunError(f"cannot make {self.path}: {error.strerror}; choose another --out") from None
        record = {**info._asdict(), "config": info.config.to_dict(), "versions": _versions()}
        _write_whole(self.path / "config.json", json.dumps(record, indent=2).encode() + b"\n")
        self._progress: IO[str] | None = None

    def append(self, row: Mapping[str, float]) -> None:
        """Add a line to progress.csv; the first call writes the header."""
        if self._progress is None:
            self._progress = open(self.path / "progress.csv", "x", encoding="utf-8", newline="\n")
            self._progress.write(",".join(row) + "\n")
        self._progress.write(",".join("" if value != value else repr(value) for value in row.values()) + "\n")
        self._progress.flush()

    def save(self, agent: DDPG) -> None:
        """Write agent.npz, in place of an earlier one."""
        with tempfile.TemporaryFile() as buffer:
            np.savez(buffer, **agent.state_dict())  # type: ignore[arg-type]
            buffer.seek(0)
            _write_whole(self.path / "agent.npz", buffer.read())

    def close(self) -> None:
        """Close progress.csv."""
        if self._progress is not None:
            self._progress.close()

    def discard(self) -> None:
        """Take back a directory in which nothing worth keeping was written."""
        self.close()
        for file in self.path.iterdir():
            file.unlink()
        self.path.rmdir()


def _versions() -> dict[str, str]:
    versions = {"minddpg": __version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "gymnasium", "mujoco", "box2d"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either complete or not there: to a temporary name, to the disk, then renamed."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_info(directory: str | os.PathLike[str]) -> RunInfo:
    """Read a run directory's config.json. Raises RunError."""
    path = Path(directory) / "config.json"
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError("it is too large")
        record = json.loads(path.read_text(encoding="utf-8"))
        info = RunInfo(
            str(record["env"]),
            int(record["seed"]),
            int(record["obs_dim"]),
            int(record["act_dim"]),
            Config.from_dict(record["config"]),
        )
        if min(info.obs_dim, info.act_dim) < 1:
            raise ValueError("a dimension is below 1")
    except FileNotFoundError:
        raise RunError(f"{directory} is not a run directory (no config.json); make one with 'minddpg train'") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({_first_line(error)}); restore it or train again") from None
    return info


def load(directory: str | os.PathLike[str]) -> DDPG:
    """The trained agent of a run directory, optimisers included. Raises RunError for a missing or damaged file."""
    info = load_info(directory)
    path = Path(directory) / "agent.npz"
    agent = DDPG(info.obs_dim, info.act_dim, info.config)
    try:
        agent.load_state_dict(_read_npz(path, agent.state_dict()))
    except FileNotFoundError:
        raise RunError(f"{directory} holds no agent.npz: that run has not finished") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise RunError(f"{path} is damaged ({_first_line(error)}); restore it or train again") from None
    return agent


def _read_npz(path: Path, expected: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz that should hold these names; its declared size is checked before anything is unpacked."""
    most = sum(array.nbytes + 1024 for array in expected.values())
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > most:
            raise ValueError("it is larger than this agent")
        if archive.testzip() is not None:
            raise ValueError("a checksum is wrong")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
