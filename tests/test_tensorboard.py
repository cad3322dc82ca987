import errno
import os
import struct
import sys

import pytest

from minddpg import RunError
from minddpg.extras import ExtraError

RUN = [{"step": 10, "return": -3.5, "length": 10, "seconds": 9.0}, {"step": 20, "return": float("nan"), "length": 10}]


@pytest.fixture
def board():
    pytest.importorskip("tensorboardX")
    from minddpg.tensorboard import TensorBoard

    return TensorBoard


def events(directory):
    """As TensorBoard reads them: files by name, records with their checksums."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            head, (length,) = content[:8], struct.unpack("<Q", content[:8])
            data = content[12 : 12 + length]
            assert struct.unpack("<I", content[8:12]) == (masked_crc32c(head),)
            assert struct.unpack("<I", content[12 + length : 16 + length]) == (masked_crc32c(data),)
            found.append(Event.FromString(data))
            content = content[16 + length :]
    return found


def test_rows_are_read_back(board, tmp_path):
    writer = board(tmp_path / "logs" / "run")
    for row in RUN:
        writer.row("progress", row)
    writer.row("eval", {"step": 20, "mean": float("inf"), "std": 1e300})  # nothing that a float32 holds
    read = events(tmp_path / "logs" / "run")  # while it is open: a row is there at once
    assert read[0].file_version == "brain.Event:2"
    scalars = [(event.step, value.tag, value.simple_value) for event in read for value in event.summary.value]
    assert scalars == [(10, "progress/return", -3.5), (10, "progress/length", 10), (20, "progress/length", 10)]
    assert all(event.session_log.status == 0 for event in read)
    writer.close()
    writer.close()


def test_a_run_that_goes_on_takes_back_what_it_makes_again(board, tmp_path):
    """In a file of its own behind the first one's, even if both are of the same second."""
    for first_step in (0, 11, 11):
        writer = board(tmp_path, first_step)
        writer.row("progress", RUN[0])
        writer.close()
    assert len(list(tmp_path.iterdir())) == 3
    read = events(tmp_path)
    started = [(event.step, event.session_log.status) for event in read if event.HasField("session_log")]
    assert started == [(11, 1), (11, 1)]  # 1: SessionLog.START
    assert sum(len(event.summary.value) for event in read) == 6


def test_a_full_disk_is_one_line(board, monkeypatch, tmp_path):
    writer = board(tmp_path)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.write", full)
    with pytest.raises(RunError, match="cannot write TensorBoard's file in .*: No space left on device"):
        writer.row("progress", RUN[0])
    monkeypatch.undo()
    writer.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write TensorBoard's file in .*file"):
        board(tmp_path / "file")


def test_the_extra_is_named(board, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    with pytest.raises(
        ExtraError, match=r"^TensorBoard needs the extra tensorboard; .* pip install '.\[tensorboard\]'$"
    ):
        board(tmp_path / "logs")
    assert list(tmp_path.iterdir()) == []
