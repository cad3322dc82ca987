"""A run's state on the disk: a tree of JSON and arrays in checkpoint.npz, and the replay memory in files of its own.

checkpoint.npz is what a run goes on from. To replace it is the one moment in which a checkpoint comes into being: what
it names has been written before, what only its predecessor named is removed after.

The replay memory is a ring of up to millions of transitions, of which few are new since the last checkpoint. It is cut
into segments of fixed rows; a segment is written again, under another name, only if a row of it has changed. Names and
contents follow from the state alone, so that a run that was cut off leaves the files of one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..agent import state_shapes
from ..config import Config
from ..replay import Batch, ReplayBuffer
from .files import MOST_META, Array, Shape, array_file, open_arrays, shape_of, write_whole

KIND, REPLAY_KIND = "checkpoint", "replay"
MARK = "array"  # {"array": name} stands in the JSON for an array
SEGMENT = 4 << 20  # bytes of a segment, about: written in milliseconds, and few enough files for millions of rows
ELSEWHERE = 64 << 20  # bytes that all but agents may take: noise, environments
LATER = "it has not come to its first checkpoint; train again"

Tree = dict[str, Any]


# --- trees ------------------------------------------------------------------------------------------------------------


def pack(tree: Any, path: str = "") -> tuple[Any, dict[str, Array]]:
    """A tree of dicts, lists, numbers, text and arrays as JSON, and arrays by name. Raises TypeError for others."""
    if isinstance(tree, np.ndarray):
        return {MARK: path}, {path: tree}
    if isinstance(tree, Mapping):
        pairs = [(str(key), pack(value, f"{path}/{key}" if path else str(key))) for key, value in tree.items()]
        if not all(isinstance(key, str) for key in tree) or (len(tree) == 1 and MARK in tree):
            raise TypeError(f"{path or 'the state'} has keys that are not plain text")
        return {key: json for key, (json, _) in pairs}, {k: v for _, (_, arrays) in pairs for k, v in arrays.items()}
    if isinstance(tree, (list, tuple)):
        packed = [pack(value, f"{path}/{i}") for i, value in enumerate(tree)]
        return [json for json, _ in packed], {k: v for _, arrays in packed for k, v in arrays.items()}
    if isinstance(tree, np.generic):
        return tree.item(), {}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree, {}
    raise TypeError(f"{path or 'the state'} holds a {type(tree).__name__}")


def unpack(json: Any, arrays: Mapping[str, Array]) -> Any:
    """The inverse of `pack`."""
    if isinstance(json, dict):
        if set(json) == {MARK}:
            return arrays[json[MARK]]
        return {key: unpack(value, arrays) for key, value in json.items()}
    return [unpack(value, arrays) for value in json] if isinstance(json, list) else json


def write_checkpoint(directory: Path, tree: Tree) -> None:
    """Write checkpoint.npz. Raises OSError."""
    json, arrays = pack(tree)
    shapes = {name: list(shape_of(array)) for name, array in arrays.items()}
    write_whole(directory / "checkpoint.npz", array_file(KIND, arrays, {"state": json, "arrays": shapes}))


def read_checkpoint(directory: Path, obs_dim: int, act_dim: int, config: Config) -> Tree:
    """The tree of checkpoint.npz; agents in it ("run/agent", "best/agent") must be of this shape. Raises RunError."""
    agent = {name: Shape(*shape) for name, shape in state_shapes(obs_dim, act_dim, config).items()}
    size = sum(shape.nbytes for shape in agent.values())
    elsewhere = ELSEWHERE + 8 * (act_dim + 1) * config.steps  # where an episode's actions are kept
    most = 2 * size + elsewhere + MOST_META
    with open_arrays(directory / "checkpoint.npz", KIND, most, LATER) as file:
        declared = {
            name: Shape(str(dtype), tuple(map(int, shape))) for name, (dtype, shape) in file.meta["arrays"].items()
        }
        file.none_but(declared)
        if any(np.dtype(shape.dtype).kind not in "biuf" for shape in declared.values()):
            raise ValueError("an array holds no numbers")
        for prefix in ("run/agent/", "best/agent/"):
            found = {name.removeprefix(prefix): s for name, s in declared.items() if name.startswith(prefix)}
            if found != agent and (found or prefix == "run/agent/"):
                differing = sorted(set(found.items()) ^ set(agent.items()))
                raise ValueError(f"it is of another agent: {prefix}{differing[0][0]}")
        if sum(s.nbytes for name, s in declared.items() if "/agent/" not in name) > elsewhere:
            raise ValueError("it is larger than this run's state")
        agents = {name: shape for name, shape in declared.items() if "/agent/" in name}
        others = {name: shape for name, shape in declared.items() if name not in agents}
        tree = unpack(file.meta["state"], {**file.read(agents), **file.read(others, finite=False)})
        if not isinstance(tree, dict):
            raise ValueError("it holds no state")
    return tree


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
        self.directory.mkdir(exist_ok=True)
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
        """Remove all others; to be called when a checkpoint names these. Raises OSError."""
        self.digests = dict(digests)
        if not digests and self.directory.is_dir():
            for path in self.directory.iterdir():
                path.unlink()
            self.directory.rmdir()
        elif self.directory.is_dir():
            for path in self.directory.iterdir():
                if path.name not in digests:
                    path.unlink()

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
                for array, rows in zip(replay.transitions, Batch(**file.read(expected)), strict=True):
                    array[segment.start : segment.stop] = rows
        replay.added = added
