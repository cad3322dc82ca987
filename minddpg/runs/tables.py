"""The tables of a run: CSV files that grow by a row at a time, and are cut back to where a run goes on from.

- progress.csv: a line per finished episode.
- eval.csv: a line per evaluation without noise.
- evaluations.csv: Q against the return that followed, state by state, in these evaluations.
- gradients.csv: a line per look at an update from inside (gradflow/diagnosis.py says what its columns are).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .files import RunError, damaged, read_regular, write_all

TABLES = ("progress", "eval", "evaluations", "gradients")
MOST_TABLE = 1 << 32  # bytes
WALL_CLOCK = ("seconds",)  # columns in which two runs of one seed may differ

Row = Mapping[str, float]
Columns = Mapping[str, npt.NDArray[np.float64]]  # some or all of a table, by name


class Tables:
    """The tables of a run directory, open for appending. rows: how many each has. Raises RunError."""

    def __init__(self, directory: Path, rows: Mapping[str, int] | None = None):
        """rows: as many as each table is to keep, of a run that goes on; what is behind them is cut off."""
        self.directory, self.rows = directory, {**dict.fromkeys(TABLES, 0), **(rows or {})}
        self._files: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}
        for table in TABLES:
            self._cut(table)

    def _path(self, table: str) -> Path:
        return self.directory / f"{table}.csv"

    def _cut(self, table: str) -> None:
        path, kept = self._path(table), self.rows[table]
        try:
            if not kept:
                path.unlink(missing_ok=True)
                return
            content, end = read_regular(path, MOST_TABLE), 0
            for _ in range(kept + 1):  # and the line of names
                end = content.find(b"\n", end) + 1
                if not end:
                    raise damaged(path, ValueError(f"it has not the {kept:,} rows of the checkpoint"))
            os.truncate(path, end)
            self._names[table] = content[: content.find(b"\n")].decode(errors="replace").split(",")
        except FileNotFoundError:
            raise damaged(path, ValueError(f"it has not the {kept:,} rows of the checkpoint")) from None
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from None

    def append(self, table: str, row: Row) -> None:
        """Add a line, whole or not at all; the first one writes the line of names too. A NaN is an empty cell.

        A table that another version began keeps its columns: others are left out, and what is not known is empty.
        """
        names = self._names.setdefault(table, list(row)) if self.rows[table] else list(row)
        cells = [row.get(name, math.nan) for name in names]
        line = ",".join("" if value != value else repr(value) for value in cells) + "\n"
        path = self._path(table)
        try:
            if table not in self._files:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
                self._files[table] = os.open(path, flags, 0o666)
            if not self.rows[table]:
                line = ",".join(row) + "\n" + line
            self._write(self._files[table], line.encode())
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from None
        self.rows[table] += 1

    def _write(self, file: int, line: bytes) -> None:
        end = os.lseek(file, 0, os.SEEK_END)
        try:
            write_all(file, line)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, end)
            raise

    def sync(self) -> None:
        """Bring all rows to the disk. Raises OSError."""
        for file in self._files.values():
            os.fsync(file)

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])


class Table(dict[str, npt.NDArray[np.float64]]):
    """The columns of a table by name. To ask for one that is not there is a RunError: the file is damaged."""

    def __init__(self, path: Path, columns: Mapping[str, npt.NDArray[np.float64]]):
        super().__init__(columns)
        self.path = path

    def __missing__(self, name: str) -> npt.NDArray[np.float64]:
        raise damaged(self.path, ValueError(f"it has no column {name}"))

    def as_rows(self) -> list[dict[str, float]]:
        """The same row by row; columns of whole numbers give ints."""
        whole = {n for n, column in self.items() if np.all((column == np.round(column)) & (abs(column) < 1 << 53))}
        columns = [(self[n].astype(np.int64) if n in whole else self[n]).tolist() for n in self]
        return [dict(zip(self, cells, strict=True)) for cells in zip(*columns, strict=True)]


def load_table(directory: str | os.PathLike[str], table: str) -> Table:
    """The columns of one of a run's TABLES by name; no rows where it has no such file.

    A last line that was cut off, as by a power failure, is left out. Raises RunError for a damaged file.
    """
    path = Path(directory) / f"{table}.csv"
    try:
        lines = read_regular(path, MOST_TABLE).decode().split("\n")
        if lines == [""]:
            return Table(path, {})
        names = lines[0].split(",")
        if len(lines) == 1:
            raise ValueError("its first line has no end")
        rows = [[float(cell) if cell else math.nan for cell in line.split(",")] for line in lines[1:-1]]
        if len(set(names)) < len(names) or any(len(row) != len(names) for row in rows):
            raise ValueError("its lines are not equally long")
    except FileNotFoundError:
        return Table(path, {})
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise damaged(path, error) from None
    return Table(path, dict(zip(names, np.array(rows).reshape(len(rows), len(names)).T, strict=True)))
