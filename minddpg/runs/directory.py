"""The directory of a run.

- config.json: what was run: environment, seed, shapes, hyperparameters, versions.
- agent.npz: every parameter and the optimisers' memory, by the names of DDPG.state_dict().
- best.npz: the same of the agent with the best evaluation so far.
- transitions.npz: some transitions of the replay memory, from its oldest to its newest: what the agent learnt from.
- progress.csv, eval.csv, evaluations.csv, gradients.csv: see tables.py.
- checkpoint.npz, replay/: what the run goes on from; see checkpoint.py.
- lock: held by the process that writes here. error.txt: the traceback of what last stopped the run, if anything did.

Every file is whole or not there. The directory itself comes into being at once, with a checkpoint of step 0 in it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..agent import DDPG, state_shapes
from ..config import Config
from ..replay import Batch, ReplayBuffer, replay_nbytes, take
from .checkpoint import KIND, LATER, ReplayFiles, Tree, read_checkpoint, write_checkpoint
from .files import (
    BROKEN,
    VERSION,
    Array,
    Lock,
    RunError,
    Shape,
    array_file,
    damaged,
    open_arrays,
    read_regular,
    remove_temporary,
    sync_directory,
    write_whole,
)
from .tables import TABLES, Row, Tables, load_table

KEPT_TRANSITIONS = 1024
VECTORS = ("sync", "async")  # ways to step several environments
MOST_DIM = 10**9  # numbers of an observation or action: enough for all, and small enough for every computation
MAX_JSON = 1 << 20  # bytes; a config.json has about 2,000
FILES = ("config.json", "agent.npz", "best.npz", "transitions.npz", "checkpoint.npz", "lock", "error.txt",
         *(f"{table}.csv" for table in TABLES))  # fmt: skip
NO_AGENT = "that run has made no checkpoint yet, or has diverged before its first"
MOST_NAME = 100  # characters of a default directory's name


class RunExists(RunError):
    """The directory is there already."""


class RunInfo(NamedTuple):
    """What a run was of. env: a Gymnasium id, or the name of the class where a callable made the environment.

    env_kwargs: what the id was made with. action_low, action_high (act_dim,): the bounds, in the environment's units.
    vectorization: of several environments, "sync" or "async". parameters_from: the run it started from, if any.
    """

    env: str
    seed: int
    obs_dim: int
    act_dim: int
    config: Config
    env_kwargs: dict[str, Any] = {}  # noqa: RUF012
    from_callable: bool = False
    vectorization: str = "sync"
    action_low: list[float] | None = None
    action_high: list[float] | None = None
    parameters_from: str | None = None


class RunDirectory:
    """A run directory being written: by one process at a time, and nothing that is there is ever overwritten.

    Use `create` for a new run, `open` for one to go on with. Every method that writes raises RunError.
    """

    def __init__(self, path: Path, info: RunInfo, lock: Lock, tables: Tables, replay: ReplayFiles):
        self.path, self.info, self._lock, self.tables, self._replay = path, info, lock, tables, replay
        self._best: float | None = None  # the evaluation that best.npz is of
        self.is_new = False
        self._made: list[Path] = []
        self._place: tuple[int, int] | None = None
        self._written: set[str] = set()  # names of files, by this object

    @classmethod
    def create(cls, paths: str | os.PathLike[str] | Iterator[Path], info: RunInfo, tree: Tree) -> RunDirectory:
        """A new directory with a first checkpoint. paths: one, or several of which the first free one is taken.

        Raises RunExists where the path is taken.
        """
        choices = iter([Path(paths)]) if isinstance(paths, (str, os.PathLike)) else paths
        path = next(choices)
        # Where the files are: under a temporary name until all are there.
        place = path.parent / f".{path.name[:MOST_NAME]}.{secrets.token_hex(4)}.tmp"
        made: list[Path] = []
        lock: Lock | None = None
        try:
            made += [p for p in path.parents if not os.path.lexists(p)]
            path.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir()
            lock = Lock(place / "lock")
            _write_config(place, info)
            write_checkpoint(place, {**tree, "tables": {}, "replay": {}}, info.act_dim, info.config)
            path = place = _rename_to_a_free_one(place, path, choices)
            lock.moved(path / "lock")
            for parent in {path.parent, *(p.parent for p in made)}:
                sync_directory(parent)
            directory = cls(path, info, lock, Tables(path), ReplayFiles(path))
        except BaseException as error:
            if lock:
                lock.release()
            shutil.rmtree(place, ignore_errors=True)
            for parent in made:
                with suppress(OSError):  # what is in use by now stays
                    parent.rmdir()
            if isinstance(error, RunError) or not isinstance(error, (OSError, ValueError)):
                raise
            why = getattr(error, "strerror", None) or error
            raise RunError(f"cannot make {path}: {why}; choose another directory (--out)") from None
        directory._made, directory.is_new = [path, *made], True
        directory._written |= {"config.json", "checkpoint.npz", "lock"}
        directory._place = _identity(path)
        return directory

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> tuple[RunDirectory, Tree]:
        """The directory of a run to go on with, as it was at its last checkpoint, and the state it had there."""
        path = Path(path)
        load_info(path)
        try:
            lock = Lock(path / "lock")
        except OSError as error:
            raise RunError(f"cannot write in {path}: {error.strerror or error}") from None
        try:
            info = load_info(path)  # again: another process may have extended the run until now
            tree = read_checkpoint(path, info.obs_dim, info.act_dim, info.config)
            remove_temporary(path)
            remove_temporary(path / "replay")
            rows = {table: tree["tables"].get(table, 0) for table in TABLES}
            return cls(path, info, lock, Tables(path, rows), ReplayFiles(path, tree["replay"])), tree
        except BaseException:
            lock.release()
            raise

    def append(self, table: str, row: Row) -> None:
        """Add a row to one of TABLES."""
        self.tables.append(table, row)

    def extend(self, steps: int) -> None:
        """Plan more steps than the run was made for."""
        self.info = self.info._replace(config=self.info.config.replace(steps=steps))
        with self._writing(self.path / "config.json"):
            _write_config(self.path, self.info)

    def save(self, tree: Tree, agent: DDPG, replay: ReplayBuffer, keep_replay: bool = True) -> None:
        """Make a checkpoint: of a run's state, and of its agent and replay memory, which stand in files of their own.

        The most precious first; what cannot be written leaves the last checkpoint as it was.
        """
        with self._writing(self.path):
            self.tables.sync()
        self.save_agent(agent)
        with self._writing(self.path / "replay"):
            kept = self._replay.write(replay) if keep_replay else {}
        with self._writing(self.path / "checkpoint.npz"):
            segments = kept if keep_replay or not replay.added else None
            tree_of_all = {**tree, "tables": self.tables.rows, "replay": segments}
            write_checkpoint(self.path, tree_of_all, self.info.act_dim, self.info.config)
        with self._writing(self.path / "best.npz"):
            best = tree.get("best")
            if best and best["mean"] != self._best:
                self._write("best.npz", array_file("agent", best["agent"]))
                self._best = best["mean"]
            elif not best:
                (self.path / "best.npz").unlink(missing_ok=True)
        with self._writing(self.path / "transitions.npz"):
            some = replay.spread(KEPT_TRANSITIONS)
            content = array_file("transitions", some._asdict(), {"rows": len(some.rew)})
            self._write("transitions.npz", content)
            (self.path / "error.txt").unlink(missing_ok=True)
            self._replay.keep(kept)

    def save_agent(self, agent: DDPG) -> None:
        """Write agent.npz alone."""
        with self._writing(self.path / "agent.npz"):
            self._write("agent.npz", array_file("agent", agent.state_dict()))

    def note_error(self, text: str) -> None:
        """Keep a traceback in error.txt, if it can be."""
        with suppress(OSError):
            self._write("error.txt", text.encode(errors="backslashreplace"))

    def read_replay(self, replay: ReplayBuffer, added: int) -> None:
        """Fill the replay memory of a run that goes on."""
        if added and not self._replay.digests:
            raise RunError(f"{self.path} kept no replay memory (--no-keep-replay), so it cannot go on; train again")
        self._replay.read(replay, added)

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.path / name, content)
        self._written.add(name)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the tables and let other processes have the directory."""
        self.tables.close()
        self._lock.release()

    def discard(self) -> None:
        """Take back a directory in which nothing worth keeping was written, and the ones made on the way to it."""
        self.close()
        if _identity(self.path) != self._place:  # moved away, and another may stand there by now
            return
        with suppress(OSError):
            self._replay.keep({})
        for name in [*self._written, *(f"{table}.csv" for table, rows in self.tables.rows.items() if rows)]:
            with suppress(OSError):
                (self.path / name).unlink(missing_ok=True)
        for directory in self._made:
            with suppress(OSError):  # what was not made, or is in use by now, stays
                directory.rmdir()


def numbered(env: str, seed: int) -> Iterator[Path]:
    """Where a run goes by default: runs/ENV-seedS, runs/ENV-seedS-2, ..."""
    name = "".join(c if (c.isalnum() and c.isascii()) or c in "-_." else "-" for c in env)[:MOST_NAME].lstrip(".")
    path, number = Path("runs") / f"{name or 'env'}-seed{seed}", 1
    while True:
        yield path
        number += 1
        path = Path("runs") / f"{name or 'env'}-seed{seed}-{number}"


def _rename_to_a_free_one(temporary: Path, path: Path, choices: Iterator[Path]) -> Path:
    while True:
        try:
            if not os.path.lexists(path):
                os.rename(temporary, path)  # fails where somebody else's run has just come to stand there
                return path
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        taken, path = path, next(choices, path)
        if path == taken:
            raise RunExists(f"{path} exists; choose another --out, remove it, or go on with it: --resume")


def _identity(path: Path) -> tuple[int, int] | None:
    """By which the system knows a directory, whatever its name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_config(directory: Path, info: RunInfo) -> None:
    record = {"version": VERSION, **info._asdict(), "config": info.config.to_dict(), "versions": versions()}
    write_whole(directory / "config.json", json.dumps(record, indent=2).encode() + b"\n")


def versions() -> dict[str, str]:
    """Of all that decides about the bits of a run."""
    found = {"minddpg": __version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "gymnasium", "mujoco", "box2d"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def load_info(directory: str | os.PathLike[str]) -> RunInfo:
    """Read a run directory's config.json. Raises RunError."""
    return RunInfo(**{name: value for name, value in _load_record(directory).items() if name in RunInfo._fields})


def steps_made(directory: str | os.PathLike[str]) -> int:
    """Environment steps that a run had made at its last checkpoint. Raises RunError."""
    path = Path(directory) / "checkpoint.npz"
    with open_arrays(path, KIND, 1 << 62, LATER) as file:
        steps = file.meta["state"]["run"]["steps"]
        if type(steps) is not int or steps < 0:
            raise ValueError(f"it says that {steps!r} steps have been made")
        return steps


def other_versions(directory: str | os.PathLike[str]) -> list[str]:
    """What has another version now than when the run was made, in words. Raises RunError."""
    then, now = _load_record(directory).get("versions"), versions()
    then = then if isinstance(then, dict) else {}
    return [f"{name} {then.get(name)} then, {now.get(name)} now" for name in sorted({*then, *now})
            if then.get(name) != now.get(name)]  # fmt: skip


def _load_record(directory: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(directory) / "config.json"
    try:
        record = json.loads(read_regular(path, MAX_JSON))
        if type(record.get("version", VERSION)) is not int or record.get("version", VERSION) > VERSION:
            raise ValueError("it is of a later version of minddpg; update minddpg")
        env, seed, obs_dim, act_dim = (record[name] for name in ("env", "seed", "obs_dim", "act_dim"))
        whole = all(type(number) is int for number in (seed, obs_dim, act_dim))
        if not isinstance(env, str) or not whole or seed < 0 or not all(0 < n <= MOST_DIM for n in (obs_dim, act_dim)):
            raise ValueError("env, seed, obs_dim or act_dim is not what minddpg writes")
        record["config"] = Config.from_dict(record["config"])
        if not isinstance(record.get("env_kwargs", {}), dict) or record.get("vectorization", "sync") not in VECTORS:
            raise ValueError("env_kwargs or vectorization is not what minddpg writes")
        if type(record.get("from_callable", False)) is not bool:
            raise ValueError("from_callable is not what minddpg writes")
        if not isinstance(record.get("parameters_from"), str | None):
            raise ValueError("parameters_from is not what minddpg writes")
        for name in ("action_low", "action_high"):
            bounds = record.get(name)
            if bounds is not None and not (len(bounds) == act_dim and all(math.isfinite(bound) for bound in bounds)):
                raise ValueError(f"{name} is not what minddpg writes")
    except FileNotFoundError:
        raise RunError(f"{directory} is not a run directory (no config.json); make one with 'minddpg train'") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    except BROKEN as error:
        raise damaged(path, error) from None
    return dict(record)


def load(directory: str | os.PathLike[str], best: bool = False) -> DDPG:
    """The agent of a run directory as it last was, optimisers included. Raises RunError.

    best: the one with the best evaluation instead.
    """
    info, path = load_info(directory), Path(directory) / ("best.npz" if best else "agent.npz")
    with open_agent(path, info) as state:
        agent = DDPG(info.obs_dim, info.act_dim, info.config)
        agent.load_state_dict(state)
    return agent


@contextmanager
def open_agent(path: Path, info: RunInfo) -> Iterator[dict[str, Array]]:
    """The state_dict in an agent.npz or best.npz, checked against the run's config before it is read."""
    missing = "that run has not been evaluated yet, or never is (evaluate_every 0)" if "best" in path.name else NO_AGENT
    expected = {name: Shape(*shape) for name, shape in state_shapes(info.obs_dim, info.act_dim, info.config).items()}
    most = sum(shape.nbytes + 1024 for shape in expected.values()) + (1 << 16)
    with open_arrays(path, "agent", most, missing) as file:
        file.none_but(expected)
        yield file.read(expected)


def load_transitions(directory: str | os.PathLike[str]) -> Batch:
    """What is kept of a run's replay memory: 1,024 transitions or fewer, in order. Raises RunError."""
    info = load_info(directory)
    path = Path(directory) / "transitions.npz"
    row = replay_nbytes(1, info.obs_dim, info.act_dim, info.config.dtype, info.config.n_step)
    with open_arrays(path, "transitions", KEPT_TRANSITIONS * row + (1 << 16), NO_AGENT) as file:
        n = file.meta["rows"]
        if type(n) is not int or not 0 <= n <= KEPT_TRANSITIONS:
            raise ValueError(f"it says that it holds {n!r} transitions")
        if n == 0:
            raise RunError(f"{directory} holds no transition yet; train on, or look later")
        empty = ReplayBuffer(0, info.obs_dim, info.act_dim, info.config.dtype, info.config.n_step).transitions
        expected = {name: Shape(array.dtype.str, (n, *array.shape[1:])) for name, array in empty._asdict().items()}
        file.none_but(expected)
        return type(empty)(**file.read(expected))


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
def reading_state(path: Path, *passing: type[Exception]) -> Iterator[None]:
    """What goes wrong in the block with numbers from this file is a RunError: it is damaged.

    passing: what is not the file's fault.
    """
    try:
        yield
    except BROKEN as error:
        if isinstance(error, (RunError, *passing)):
            raise
        raise damaged(path, error) from None
