"""The files of a run directory. No pickles.

- config.json: what was run: environment, seed, shapes, hyperparameters, versions. Written whole or not at all.
- progress.csv: one line per finished episode, appended as it ends.
- gradients.csv: one line per look at an update from inside (gradflow/diagnosis.py says what its columns are).
- evaluations.csv: Q against the return that followed, state by state, in episodes without noise during training.
- agent.npz: every parameter and the optimisers' memory, by the names of DDPG.state_dict(). Whole or not at all.
- transitions.npz: some transitions of the replay memory, from its oldest to its newest: what the agent learnt from.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..agent import DDPG
from ..config import Config
from ..replay import Batch, ReplayBuffer, take
from .files import RunError, damaged, first_line, write_whole
from .tables import load_table

KEPT_TRANSITIONS = 1024
MAX_JSON = 1 << 20  # bytes; a config.json has about 1,000


class RunInfo(NamedTuple):
    """What a run was of. env: a Gymnasium id, or the name of the class where a callable made the environment."""

    env: str
    seed: int
    obs_dim: int
    act_dim: int
    config: Config


class RunDirectory:
    """A run directory being written. Making one that exists is an error: nothing is ever overwritten."""

    def __init__(self, path: str | os.PathLike[str], info: RunInfo):
        self.path = Path(path)
        self._tables: dict[str, IO[str]] = {}
        self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        record = {**info._asdict(), "config": info.config.to_dict(), "versions": _versions()}
        try:
            self.path.mkdir(parents=True)
            write_whole(self.path / "config.json", json.dumps(record, indent=2).encode() + b"\n")
        except FileExistsError:
            raise RunError(f"{self.path} exists; choose another --out, or remove it") from None
        except OSError as error:
            self.discard()
            raise RunError(f"cannot make {self.path}: {error.strerror or error}; choose another --out") from None

    def append(self, table: str, row: Mapping[str, float]) -> None:
        """Add a line to table.csv; the first call writes the header."""
        path = self.path / f"{table}.csv"
        try:
            if table not in self._tables:
                self._tables[table] = open(path, "x", encoding="utf-8", newline="\n")
                self._tables[table].write(",".join(row) + "\n")
            file = self._tables[table]
            file.write(",".join("" if value != value else repr(value) for value in row.values()) + "\n")
            file.flush()
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from None

    def save(self, agent: DDPG, replay: ReplayBuffer) -> None:
        """Write agent.npz and transitions.npz, in place of earlier ones."""
        kept = replay.spread(KEPT_TRANSITIONS)
        for name, arrays in (("transitions.npz", kept._asdict()), ("agent.npz", agent.state_dict())):
            content, path = io.BytesIO(), self.path / name
            np.savez(content, **arrays)
            try:
                write_whole(path, content.getvalue())
            except OSError as error:
                raise RunError(f"cannot write {path}: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the tables."""
        for file in self._tables.values():
            file.close()

    def discard(self) -> None:
        """Take back a directory in which nothing worth keeping was written, and the ones made on the way to it."""
        self.close()
        with suppress(OSError):
            for file in self.path.iterdir():
                file.unlink()
        for directory in self._made:
            with suppress(OSError):  # what was not made, or is in use by now, stays
                directory.rmdir()


def _versions() -> dict[str, str]:
    versions = {"minddpg": __version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "gymnasium", "mujoco", "box2d"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def load_info(directory: str | os.PathLike[str]) -> RunInfo:
    """Read a run directory's config.json. Raises RunError."""
    path = Path(directory) / "config.json"
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError("it is too large")
        record = json.loads(path.read_text(encoding="utf-8"))
        env, seed, obs_dim, act_dim = (record[name] for name in ("env", "seed", "obs_dim", "act_dim"))
        whole = all(type(number) is int for number in (seed, obs_dim, act_dim))
        if not isinstance(env, str) or not whole or seed < 0 or min(obs_dim, act_dim) < 1:
            raise ValueError("env, seed, obs_dim or act_dim is not what minddpg writes")
        info = RunInfo(env, seed, obs_dim, act_dim, Config.from_dict(record["config"]))
    except FileNotFoundError:
        raise RunError(f"{directory} is not a run directory (no config.json); make one with 'minddpg train'") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    return info


def load(directory: str | os.PathLike[str]) -> DDPG:
    """The trained agent of a run directory, optimisers included. Raises RunError for a missing or damaged file."""
    info = load_info(directory)
    path = Path(directory) / "agent.npz"
    with _reading(path, "that run has not finished, or has diverged"):
        agent = DDPG(info.obs_dim, info.act_dim, info.config)
        agent.load_state_dict(_read_npz(path, agent.state_dict()))
    return agent


def load_transitions(directory: str | os.PathLike[str]) -> Batch:
    """What is kept of a run's replay memory: 1,024 transitions or fewer, in order. Raises RunError."""
    info = load_info(directory)
    path = Path(directory) / "transitions.npz"
    with _reading(path, "that run has not finished, or is of an earlier version; train again"):
        expected = ReplayBuffer(KEPT_TRANSITIONS, info.obs_dim, info.act_dim, info.config.dtype).transitions
        batch = Batch(**_read_npz(path, expected._asdict()))
        if len(batch.rew) == 0:
            raise ValueError("it holds no transition")
        for name, array, full in zip(Batch._fields, batch, expected, strict=True):
            if array.shape != (len(batch.rew), *full.shape[1:]) or array.dtype != full.dtype:
                raise ValueError(f"{name} is {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds a NaN or an infinity")
    return batch


def load_batch(directory: str | os.PathLike[str], n: int, seed: int = 0) -> Batch:
    """n of the transitions kept of a run, or as many as there are, drawn without replacement. Raises RunError."""
    kept = load_transitions(directory)
    return take(kept, np.random.default_rng(seed).permutation(len(kept.rew))[:n])


def reward_range(directory: str | os.PathLike[str]) -> tuple[float, float]:
    """The lowest and highest reward that is known of a run. Raises RunError."""
    rew, looks = load_transitions(directory).rew, load_table(directory, "gradients")
    known = [rew, *(looks[name][-1:] for name in ("rew_low", "rew_high") if name in looks)]
    return float(min(a.min(initial=math.inf) for a in known)), float(max(a.max(initial=-math.inf) for a in known))


@contextmanager
def _reading(path: Path, why_missing: str) -> Iterator[None]:
    """Turn what can go wrong while an .npz is read into a RunError of one line."""
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{path.parent} holds no {path.name}: {why_missing}") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    except (OverflowError, MemoryError):
        raise RunError(f"{path.parent}/config.json is damaged (it asks for more memory than there is)") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise damaged(path, error) from None


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
