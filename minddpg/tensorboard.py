"""The tables of a run as TensorBoard shows them (extra tensorboard)."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .extras import need
from .runs.files import RunError, write_all
from .runs.tables import WALL_CLOCK

LARGEST = 3.4028234663852886e38  # of float32, which is what an event holds


class TensorBoard:
    """Writes rows of tables to an event file of its own in a directory, each at once and in one piece.

    first_step: of a run that goes on, the first step it will make again: what TensorBoard has of this step and later
    ones is taken back. Raises ExtraError where tensorboardX is missing, RunError where the file cannot be written.
    """

    # Of tensorboardX only the format: its SummaryWriter writes in a thread, where a full disk is a traceback, and two
    # writers of one second, as of a run that was resumed at once, overwrite each other's file.

    def __init__(self, directory: str | os.PathLike[str], first_step: int = 0):
        self._events = need("tensorboardX.proto.event_pb2", "tensorboard", "TensorBoard")
        self._crc = need("tensorboardX.record_writer", "tensorboard", "TensorBoard").masked_crc32c
        self.directory, self._file = Path(directory), -1
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = self._new_file()
        except OSError as error:
            raise self._cannot_write(error) from None
        self._write(file_version="brain.Event:2")
        if first_step > 0:
            self._write(step=first_step, session_log=self._events.SessionLog(status=self._events.SessionLog.START))

    def _new_file(self) -> int:
        """TensorBoard reads files in the order of their names."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        for number in itertools.count():
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{number:06d}"
            try:
                return os.open(self.directory / name, flags, 0o666)
            except FileExistsError:
                continue
        raise AssertionError

    def row(self, table: str, row: Mapping[str, float]) -> None:
        """Each finite float32 of the row as the scalar table/column at row["step"]; wall-clock columns are left out.

        Raises RunError.
        """
        left_out = ("step", *WALL_CLOCK)
        finite = {name: float(row[name]) for name in row if name not in left_out and abs(row[name]) <= LARGEST}
        if finite:
            values = [{"tag": f"{table}/{name}", "simple_value": number} for name, number in finite.items()]
            self._write(step=int(row["step"]), summary={"value": values})

    def _write(self, **content: Any) -> None:
        """A record: length, its checksum, event, its checksum."""
        event = self._events.Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        parts = (length, struct.pack("<I", self._crc(length)), event, struct.pack("<I", self._crc(event)))
        try:
            write_all(self._file, b"".join(parts))
        except OSError as error:
            raise self._cannot_write(error) from None

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _cannot_write(self, error: OSError) -> RunError:
        return RunError(f"cannot write TensorBoard's file in {self.directory}: {error.strerror or error}")
