"""A run's state on the disk: a tree of JSON and arrays in checkpoint.npz, and the replay memory in files of its own.

checkpoint.npz is what a run goes on from. To replace it is the one moment in which a checkpoint comes into being: what
it names has been written before, what only its predecessor named is removed after.

The replay memory is a ring of up to millions of transitions, of which few are new since the last checkpoint. It is cut
into segments of fixed rows; a segment is written again, under another name, only if a row of it has changed. Names and
contents follow from the state alone, so that a run that was cut off leaves the files of one that was not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from ..agent import state_shapes
from ..config import Config
from ..replay import ReplayBuffer
from .files import (
    MOST_META,
    TEMPORARY,
    Array,
    RunError,
    Shape,
    array_file,
    open_arrays,
    shape_of,
    sync_directory,
    write_whole,
)

KIND, REPLAY_KIND = "checkpoint", "replay"
NUMBERS = "biufc"  # kinds of dtypes
MARK = "array"  # {"array": name} stands in the JSON for an array
SEGMENT = 4 << 20  # bytes of a segment, about: written in milliseconds, and few enough files for millions of rows
ELSEWHERE = 64 << 20  # bytes that all but agents may take: noise, environments
AGENTS = ("run/agent/", "best/agent/")  # where they stand in the tree
SEGMENT_NAME = re.compile(r"\d{10,}-\d{10,}\.npz")
LATER = "it has not come to its first checkpoint; train again"

Tree = dict[str, Any]


# --- trees ------------------------------------------------------------------------------------------------------------


def pack(tree: Any, way: str = "") -> tuple[Any, dict[str, Array]]:
    """A tree of dicts, lists, numbers, text and arrays as JSON, and arrays by name. Raises TypeError for others.

    An array's name is the way to it ("run/agent/actor.0.bias"), quoted as in a URL, so that no two have one name.
    """
    where = way[:-1] or "the state"
    arrays: dict[str, Array] = {}
    if isinstance(tree, np.ndarray):
        if tree.dtype.kind not in NUMBERS:
            raise TypeError(f"{where} holds an array of {tree.dtype}")
        return {MARK: way[:-1]}, {way[:-1]: tree}
    if isinstance(tree, np.generic):
        return tree.item(), {}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree, {}
    if not isinstance(tree, (Mapping, list, tuple)):
        raise TypeError(f"{where} holds a {type(tree).__name__}")
    if isinstance(tree, Mapping) and not (all(isinstance(key, str) for key in tree) and set(tree) != {MARK}):
        raise TypeError(f"{where} has keys that are not plain text")
    packed = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        packed[key], inner = pack(value, f"{way}{quote(str(key), safe='', errors='surrogatepass')}/")
        arrays |= inner
    return packed if isinstance(tree, Mapping) else list(packed.values()), arrays


def unpack(json: Any, arrays: Mapping[str, Array]) -> Any:
    """The inverse of `pack`."""
    if isinstance(json, dict):
        if set(json) == {MARK}:
            return arrays[json[MARK]]
        return {key: unpack(value, arrays) for key, value in json.items()}
    return [unpack(value, arrays) for value in json] if isinstance(json, list) else json


def check_like(saved: Any, own: Any, where: str = "the state") -> None:
    """Raise ValueError unless both are trees of the same keys, lengths, types and shapes, no number NaN or below 0.

    Floats may be below 0, and a list is as good as a tuple.
    """
    if isinstance(own, Mapping):
        like, parts = isinstance(saved, Mapping) and saved.keys() == own.keys(), list(own)
    elif isinstance(own, (list, tuple)):
        like, parts = isinstance(saved, (list, tuple)) and len(saved) == len(own), list(range(len(own)))
    elif isinstance(own, np.ndarray):
        like, parts = isinstance(saved, np.ndarray) and shape_of(saved) == shape_of(own), []
        like = like and not np.isnan(saved).any()
    else:
        like, parts = type(saved) is type(own) and saved == saved and not (type(own) is int and saved < 0), []
    if not like:
        raise ValueError(f"{where} is not like a run's")
    for part in parts:
        check_like(saved[part], own[part], f"{where}: {part}")


def most_elsewhere(act_dim: int, config: Config) -> int:
    """Bytes that all but agents may take; an environment may keep all actions of an episode."""
    return ELSEWHERE + 8 * (act_dim + 1) * config.steps


def write_checkpoint(directory: Path, tree: Tree, act_dim: int, config: Config) -> None:
    """Write checkpoint.npz. Raises OSError, and RunError for one that would not be read."""
    json, arrays = pack(tree)
    size, most = sum(a.nbytes for n, a in arrays.items() if not n.startswith(AGENTS)), most_elsewhere(act_dim, config)
    if size > most:
        raise RunError(f"the environment's state is too large to be kept: {size:,} bytes, {most:,} at most")
    shapes = {name: list(shape_of(array)) for name, array in arrays.items()}
    write_whole(directory / "checkpoint.npz", array_file(KIND, arrays, {"state": json, "arrays": shapes}))


def read_checkpoint(directory: Path, obs_dim: int, act_dim: int, config: Config) -> Tree:
    """The tree of checkpoint.npz; agents in it ("run/agent", "best/agent") must be of this shape. Raises RunError."""
    agent = {name: Shape(*shape) for name, shape in state_shapes(obs_dim, act_dim, config).items()}
    elsewhere = most_elsewhere(act_dim, config)
    most = 2 * sum(shape.nbytes + 1024 for shape in agent.values()) + elsewhere + 2 * MOST_META
    with open_arrays(directory / "checkpoint.npz", KIND, most, LATER) as file:
        declared = {
            name: Shape(str(dtype), tuple(map(int, shape))) for name, (dtype, shape) in file.meta["arrays"].items()
        }
        file.none_but(declared)
        if any(np.dtype(shape.dtype).kind not in NUMBERS for shape in declared.values()):
            raise ValueError("an array holds no numbers")
        for prefix in AGENTS:
            found = {name.removeprefix(prefix): s for name, s in declared.items() if name.startswith(prefix)}
            if found != agent and (found or prefix == AGENTS[0]):
                differing = sorted(set(found.items()) ^ set(agent.items()))
                raise ValueError(f"it is of another agent: {prefix}{differing[0][0]}")
        agents = {name: shape for name, shape in declared.items() if name.startswith(AGENTS)}
        others = {name: shape for name, shape in declared.items() if name not in agents}
        if sum(shape.nbytes for shape in others.values()) > elsewhere:
            raise ValueError("it is larger than this run's state")
        arrays = {**file.read(agents), **file.read(others, finite=False)}
        tree: Tree = unpack(file.meta["state"], arrays)
        if {name: id(array) for name, array in pack(tree)[1].items()} != {name: id(a) for name, a in arrays.items()}:
            raise ValueError("an array is not where its name says")
        _check_tree(tree, set(agent))
    return tree


def _check_tree(tree: Tree, agent: set[str]) -> None:
    """Raise unless the parts are there, and all that is not a state to be restored is what it must be."""
    best, tables, replay = tree["best"], tree["tables"], tree["replay"]
    if type(tree["run"]["steps"]) is not int or tree["run"]["steps"] < 0:
        raise ValueError(f"it says that {tree['run']['steps']!r} steps have been made")
    if best is not None and (
        type(best["step"]) is not int or type(best["mean"]) is not float or not math.isfinite(best["mean"])
        or set(best["agent"]) != agent
    ):  # fmt: skip
        raise ValueError("its best evaluation is none")
    if any(type(rows) is not int or rows < 0 for rows in tables.values()):
        raise ValueError("it says that a table has something else than a number of rows")
    for name, digest in (replay or {}).items():
        if not SEGMENT_NAME.fullmatch(name) or not isinstance(digest, str):
            raise ValueError(f"it names {name!r} as a part of the replay memory")


# --- the replay memory ------------------------------------------------------------------------------------------------


class Segment(NamedTuple):
    """Some rows of the ring in a file. written: how many transitions have ever been written into them."""

    start: int
    stop: int
    written: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.start:010d}-{self.written:010d}.npz"


def segments(added: int, capacity: int, rows: int) -> Iterator[Segment]:
    """The segments of a ring of `capacity` rows after `added` transitions, `rows` rows each, without the empty ones."""
    laps, position = divmod(added, capacity)
    for start in range(0, min(added, capacity), rows):
        end = min(start + rows, capacity)
        written = laps * (end - start) + min(max(position - start, 0), end - start)
        yield Segment(start, end if laps else min(end, position), written)


def segment_rows(transition_nbytes: int) -> int:
    """Rows of a segment: a power of two."""
    return 1 << max(0, (SEGMENT // max(1, transition_nbytes)).bit_length() - 1)


class ReplayFiles:
    """The segments of a run's replay memory. digests: of the files that the last checkpoint names."""

    def __init__(self, directory: Path, digests: Mapping[str, str] | None = None):
        self.directory, self.digests = directory / "replay", dict(digests or {})

    def write(self, replay: ReplayBuffer) -> dict[str, str]:
        """Write what has changed since the last time.    -> the digests of all, by name. Raises OSError."""
        if not self.directory.is_dir():
            self.directory.mkdir()
            sync_directory(self.directory.parent)
        found = {}
        for segment in segments(replay.added, replay.capacity, segment_rows(replay.nbytes // replay.capacity)):
            if segment.name not in self.digests:
                arrays = {
                    name: array[segment.start : segment.stop] for name, array in replay.transitions._asdict().items()
                }
                content = array_file(REPLAY_KIND, arrays, {"start": segment.start, "stop": segment.stop})
                write_whole(self.directory / segment.name, content)
                self.digests[segment.name] = content[-64:].decode()
            found[segment.name] = self.digests[segment.name]
        return found

    def keep(self, digests: Mapping[str, str]) -> None:
        """Remove all others, and nothing but segments; to be called when a checkpoint names these. Raises OSError."""
        self.digests = dict(digests)
        if not self.directory.is_dir():
            return
        for path in list(self.directory.iterdir()):
            ours = SEGMENT_NAME.fullmatch(path.name) or TEMPORARY.fullmatch(path.name)
            if ours and path.name not in digests:
                path.unlink()
        if not digests and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def read(self, replay: ReplayBuffer, added: int) -> None:
        """Fill a new replay memory with the `added` transitions of a run. Raises RunError."""
        for segment in segments(added, replay.capacity, segment_rows(replay.nbytes // replay.capacity)):
            expected = {
                name: Shape(array.dtype.str, (segment.stop - segment.start, *array.shape[1:]))
                for name, array in replay.transitions._asdict().items()
            }
            most = sum(shape.nbytes for shape in expected.values()) + (1 << 16)
            with open_arrays(self.directory / segment.name, REPLAY_KIND, most, "a part of the replay is lost") as file:
                if file.digest != self.digests.get(segment.name):
                    raise ValueError("it is not the one that the checkpoint names")
                file.none_but(expected)
                found = file.read(expected)
                for array, rows in zip(replay.transitions, (found[name] for name in expected), strict=True):
                    array[segment.start : segment.stop] = rows
        replay.added = added
