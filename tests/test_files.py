import errno
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import Died, Faults, clean_environment, resealed

from minddpg import RunError
from minddpg.runs import files
from minddpg.runs.files import (
    MOST_META,
    MOST_NAMES,
    SEAL,
    Lock,
    array_file,
    open_arrays,
    read_regular,
    remove_temporary,
    shape_of,
    write_whole,
)

ARRAYS = {
    "actor.0.weight": np.arange(12, dtype="<f4").reshape(3, 4),
    "x": np.linspace(-1, 1, 5),
    "t": np.array([7], "<i8"),
    "flags": np.array([True, False, True]),
    "scalar": np.array(2.5),
    "none": np.zeros((0, 3), "<f4"),
}
EXPECTED = {name: shape_of(array) for name, array in ARRAYS.items()}
GOOD = array_file("agent", ARRAYS, {"rows": 3})


def read(path, most=1 << 20, expected=EXPECTED):
    with open_arrays(path, "agent", most, "train first") as file:
        file.none_but(expected)
        return file.read(expected)


def outcome(path, content, **options):
    """The arrays of a file of that content, or the message of the one error that may come of it."""
    path.write_bytes(content)
    try:
        return read(path, **options)
    except RunError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return message


def archive_of(members, kind="agent", version=1, compression=zipfile.ZIP_STORED, **meta):
    """An archive of these members (bytes by name), under a seal that fits."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr("meta.json", json.dumps({"kind": kind, "version": version, **meta}))
        for name, member in members:
            archive.writestr(name, member)
        archive.comment = SEAL + b"0" * 64
    return resealed(content.getvalue())


def npy(array, **options):
    content = io.BytesIO()
    np.lib.format.write_array(content, array, **options)
    return content.getvalue()


def npys(**changed):
    return [(f"{name}.npy", npy(changed.get(name, array))) for name, array in ARRAYS.items()]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    found = outcome(tmp_path / "a.npz", GOOD)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
    assert array_file("agent", {n: a.copy(order="F") for n, a in ARRAYS.items()}, {"rows": 3}) == GOOD
    with np.load(tmp_path / "a.npz") as loaded:  # NumPy reads it too
        np.testing.assert_array_equal(loaded["x"], ARRAYS["x"])


def test_cut_off_anywhere(tmp_path):
    for percent in range(100):
        assert "damaged" in outcome(tmp_path / "a.npz", GOOD[: percent * len(GOOD) // 100])
    assert "damaged" in outcome(tmp_path / "a.npz", GOOD[:-1])
    assert "damaged" in outcome(tmp_path / "a.npz", GOOD + b"\0")


def same_or_refused(found, expected=EXPECTED):
    """What a resealed file may give: nothing, or arrays of these shapes that hold numbers. Whether it was refused."""
    if isinstance(found, str):
        return True
    assert {name: shape_of(array) for name, array in found.items()} == expected
    assert all(np.isfinite(array).all() for array in found.values())
    assert found["flags"].view(np.uint8).max() <= 1
    return False


def test_a_flip_of_every_header_byte(tmp_path):
    arrays = {name: ARRAYS[name] for name in ("actor.0.weight", "flags")}
    expected, content = {name: EXPECTED[name] for name in arrays}, array_file("agent", arrays)
    numbers = [range(start := content.index(a.tobytes()), start + a.nbytes) for a in arrays.values()]
    headers = [position for position in range(len(content)) if not any(position in part for part in numbers)]
    assert len(headers) == len(content) - 51
    refused = 0
    for position in headers:
        flipped = bytearray(content)
        flipped[position] ^= 0x41
        assert "its checksum is wrong" in outcome(tmp_path / "a.npz", bytes(flipped), expected=expected)
        if position < len(content) - 64:
            found = outcome(tmp_path / "a.npz", resealed(bytes(flipped)), expected=expected)
            refused += same_or_refused(found, expected)
    assert refused > len(headers) / 2


def mutate(rng, content):
    """Some change: bytes flipped, set, cut out, inserted, or moved."""
    content, start = bytearray(content), int(rng.integers(len(content)))
    stop = min(len(content), start + int(rng.integers(1, 40)))
    match rng.integers(6):
        case 0:
            content[start] ^= 1 << int(rng.integers(8))
        case 1:
            content[start:stop] = bytes(stop - start)
        case 2:
            content[start:stop] = b"\xff" * (stop - start)
        case 3:
            del content[start:stop]
        case 4:
            content[start:start] = rng.bytes(stop - start)
        case 5:
            target = int(rng.integers(len(content)))
            content[target : target + stop - start] = content[start:stop]
    return bytes(content)


def mutations(path, count):
    rng, refused = np.random.default_rng(3), 0
    for _ in range(count):
        mutated = mutate(rng, GOOD)
        if mutated != GOOD:
            assert "damaged" in outcome(path, mutated)
        tracemalloc.start()
        refused += same_or_refused(outcome(path, resealed(mutated)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * len(GOOD) + 200_000
    return refused


def test_random_mutations(tmp_path):
    assert mutations(tmp_path / "a.npz", 250) > 125


@pytest.mark.slow
def test_10_000_random_mutations(tmp_path):
    assert mutations(tmp_path / "a.npz", 10_000) > 5_000


def test_what_minddpg_does_not_write_is_refused(tmp_path):
    path, weight = tmp_path / "a.npz", ARRAYS["actor.0.weight"]
    refused = {
        "compressed": archive_of(npys(), compression=zipfile.ZIP_DEFLATED),
        "missing or unknown": archive_of([*npys(), ("../x.npy", npy(weight))]),
        "/x is missing or unknown": archive_of([*npys(), ("/x.npy", npy(weight))]),
        "t is missing": archive_of(npys()[:2] + npys()[3:]),
        "must be float32": archive_of(npys(**{"actor.0.weight": weight.T.copy()})),
        "is float32 \\(3, 4\\), but": archive_of([("actor.0.weight.npy", npy(np.asfortranarray(weight))), *npys()[1:]]),
        "is >f4": archive_of(npys(**{"actor.0.weight": weight.astype(">f4")})),
        "is float16": archive_of(npys(x=ARRAYS["x"].astype("f2")))
        and archive_of(npys(**{"actor.0.weight": np.zeros((6, 4), "f2")})),
        "object": archive_of(
            [("actor.0.weight.npy", npy(np.array([[None] * 4] * 3, object), allow_pickle=True)), *npys()[1:]]
        ),
        "finite": archive_of(npys(x=np.array([0, 0, np.nan, 0, 0]))),
        "finite numbers": archive_of(npys(x=np.array([0, 0, np.inf, 0, 0]))),
        "0 and 1 only": archive_of(npys(flags=np.array([1, 2, 0], np.uint8).view(bool))),
        "update minddpg": archive_of(npys(), version=2),
        "no agent file": archive_of(npys(), kind="replay"),
        "unknown version": archive_of([("actor.0.weight.npy", npy(weight, version=(2, 0))), *npys()[1:]]),
    }
    for message, content in refused.items():
        path.write_bytes(content)
        with pytest.raises(RunError, match=message.replace("object", "is object|bytes, but must be")):
            read(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive_of([*npys(), *npys()[:1]])
    assert "twice" in outcome(path, twice)
    assert "larger than expected" in outcome(path, GOOD, most=len(GOOD) - 1)
    no_meta = io.BytesIO()
    np.savez(no_meta, **ARRAYS)
    assert "checksum" in outcome(path, no_meta.getvalue())
    assert isinstance(outcome(path, archive_of(npys())), dict)  # so that it was the change that was refused


@pytest.mark.parametrize(
    "meta",
    [
        "", "{", "[]", "null", "1e999", "{}", '{"kind": "agent"}', '{"kind": "agent", "version": "1"}', "\0",
        '"\\ud800"', '{"kind": "agent", "version": 1e400}', "[" * 100_000,
        '{"a":' * 5_000, "9" * 5_000, '{"kind": NaN, "version": 1}',
    ],
)  # fmt: skip
def test_a_meta_that_is_none(tmp_path, meta):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("meta.json", meta)
        for name, member in npys():
            archive.writestr(name, member)
        archive.comment = SEAL + b"0" * 64
    assert "damaged" in outcome(tmp_path / "a.npz", resealed(content.getvalue()))


def claiming(size):
    """The last member is listed as one of so many bytes."""
    content = bytearray(GOOD)
    start = content.rindex(b"PK\1\2")
    content[start + 20 : start + 28] = struct.pack("<2L", size, size)
    return resealed(bytes(content))


def test_bombs_take_no_memory(tmp_path):
    """Not more than the file itself and what reading it as it should be takes."""
    many = archive_of([(f"{i}.npy", b"") for i in range(100)])
    entries, end = many.index(b"PK\1\2"), many.rindex(b"PK\5\6")
    entries = many[entries:end] * 1_000
    record = many[end : end + 8] + struct.pack("<2H2L", 1, 1, len(entries), many.index(b"PK\1\2")) + many[end + 20 :]
    huge = npy(np.zeros(1)).replace(b"(1,), }         ", b"(9999999999,), }")
    bombs = {
        "it is compressed": archive_of([("x.npy", bytes(50_000_000))], compression=zipfile.ZIP_DEFLATED),
        "its end": resealed(many[: many.index(b"PK\1\2")] + entries + record),
        "is missing or unknown": archive_of([("x.npy", archive_of([("x.npy", npy(np.zeros(1000)))]))]),
        "x is float64 \\(9999999999,\\), but": archive_of([npys()[0], ("x.npy", huge), *npys()[2:]]),
        "its members are larger": claiming(0x7FFFFFFF),
        "its meta.json is too large": archive_of(npys(), lists=[[]] * (MOST_META // 2)),
    }
    for message, content in bombs.items():
        (tmp_path / "a.npz").write_bytes(content)
        tracemalloc.start()
        with pytest.raises(RunError, match=message):
            read(tmp_path / "a.npz", most=1 << 30)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * 1e6 + 1.2 * len(content), message


def test_the_list_of_members_is_bounded_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_NAMES", 200)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # would be called
    assert "its end is not what minddpg writes" in outcome(tmp_path / "a.npz", GOOD)
    end = GOOD.rindex(b"PK\5\6")
    large = b"PK\6\6" + bytes(36) + struct.pack("<Q", 1 << 40) + bytes(8) + b"PK\6\7" + bytes(16)
    small = GOOD[end : end + 12] + struct.pack("<L", 100) + GOOD[end + 16 :]
    monkeypatch.setattr(files, "MOST_NAMES", MOST_NAMES)
    assert "its end is not what minddpg writes" in outcome(tmp_path / "a.npz", resealed(GOOD[:end] + large + small))


def test_what_would_not_be_read_is_not_written():
    with pytest.raises(RunError, match="too large for a agent file"):
        array_file("agent", {}, {"text": "x" * MOST_META})
    with pytest.raises(ValueError, match="Object arrays"):
        array_file("agent", {"x": np.array([{}])})


def in_the_way(path):
    """What may stand in a file's place."""
    yield "directory", path.mkdir, path.rmdir
    yield "pipe", lambda: os.mkfifo(path), path.unlink
    yield "device", lambda: path.symlink_to("/dev/zero"), path.unlink
    yield "loop", lambda: path.symlink_to(path.name), path.unlink
    yield "nowhere", lambda: path.symlink_to("nowhere"), path.unlink


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_is_no_file_is_refused_at_once(tmp_path):
    path = tmp_path / "a.npz"
    for what, make, remove in in_the_way(path):
        make()
        with pytest.raises(RunError, match=r"cannot read|holds no a.npz") as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1, what
        with pytest.raises(OSError, match="."):
            read_regular(path, 100)
        remove()
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(ValueError, match="too large"):
        read_regular(path, 4)


# --- writing ----------------------------------------------------------------------------------------------------------


def calls_of_a_write(path):
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch)
        write_whole(path, b"new content")
    return len(faults.calls)


@pytest.mark.parametrize("how", ["EIO", "ENOSPC", "died"])
def test_a_write_is_whole_or_not_there(tmp_path, how):
    path, happened = tmp_path / "file", 0
    path.write_bytes(b"old")
    calls = calls_of_a_write(tmp_path / "other")
    (tmp_path / "other").unlink()
    assert calls >= 6
    for at in range(calls):
        path.write_bytes(b"old")
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, how)
            try:
                write_whole(path, b"new content")
            except (OSError, Died):
                happened += 1
            else:
                assert not faults.happened
        assert path.read_bytes() in (b"old", b"new content")
        if how == "died":
            remove_temporary(tmp_path)
        assert list(tmp_path.iterdir()) == [path]
    assert happened >= (2 if how == "ENOSPC" else calls)


def test_a_short_write_goes_on(tmp_path, monkeypatch):
    faults = Faults(monkeypatch, how="short")
    write_whole(tmp_path / "file", bytes(range(256)))
    assert (tmp_path / "file").read_bytes() == bytes(range(256))
    assert faults.calls.count("write") == 9


def test_only_our_temporary_files_are_removed(tmp_path):
    kept = [".notes.tmp", ".swap.12345678.tmp~", "x.0a0b0c0d.tmp", ".x.0A0B0C0D.tmp"]
    for name in [*kept, ".checkpoint.npz.0a0b0c0d.tmp"]:
        (tmp_path / name).write_text("")
    (tmp_path / ".directory.0a0b0c0d.tmp").mkdir()
    remove_temporary(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".directory.0a0b0c0d.tmp"}
    remove_temporary(tmp_path / "nowhere")


# --- the lock ---------------------------------------------------------------------------------------------------------

TRY = """
import sys
from pathlib import Path
from minddpg.runs.files import Lock, RunError
try:
    lock = Lock(Path(sys.argv[1]))
except RunError as error:
    print(error)
else:
    print("taken", flush=True)
    sys.stdin.read()
"""


def another_process(path):
    return subprocess.Popen(
        [sys.executable, "-c", TRY, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=clean_environment(),
    )  # fmt: skip


def is_refused(path):
    with another_process(path) as process:
        return "in use by another run" in process.communicate("")[0]


def test_a_second_attempt_does_not_take_the_lock_away(tmp_path):
    """Closing a file that one has locked unlocks it; a second attempt must not come to that."""
    lock = Lock(tmp_path / "lock")
    with pytest.raises(RunError, match=f"{tmp_path} is in use by another run; wait for it, or end it first"):
        Lock(tmp_path / "lock")
    assert is_refused(tmp_path / "lock")
    lock.release()
    lock.release()
    assert not is_refused(tmp_path / "lock")
    Lock(tmp_path / "lock").release()


def test_a_killed_process_holds_no_lock(tmp_path):
    with another_process(tmp_path / "lock") as process:
        assert process.stdout.readline() == "taken\n"
        with pytest.raises(RunError, match="in use"):
            Lock(tmp_path / "lock")
        process.send_signal(signal.SIGKILL)
        process.wait()
        Lock(tmp_path / "lock").release()


def test_of_many_threads_one_gets_the_lock(tmp_path):
    taken, refused, start = [], [], threading.Barrier(8)

    def take():
        start.wait()
        try:
            taken.append(Lock(tmp_path / "lock"))
        except RunError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)
    taken[0].release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of a fork beside threads
def test_a_fork_neither_has_the_lock_nor_ends_it(tmp_path):
    lock, (reading, writing) = Lock(tmp_path / "lock"), os.pipe()

    def work(number):
        with pytest.raises(RunError):
            Lock(tmp_path / "lock")  # the parent has it
        if number == 0:
            lock.release()
            return
        os.read(reading, 1)  # until the parent has given it back
        Lock(tmp_path / "lock").release()

    def fork(number):
        if (child := os.fork()) == 0:
            status = 1
            try:
                work(number)
                status = 0
            finally:
                os._exit(status)
        return child

    def status(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert status(fork(0)) == 0
    second = fork(1)
    assert is_refused(tmp_path / "lock")
    lock.release()
    os.write(writing, b"x")
    assert status(second) == 0
    os.close(reading)
    os.close(writing)


def test_a_lock_that_the_system_cannot_give_is_not_in_use(tmp_path, monkeypatch):
    def no_locks(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "_take", no_locks)
    with pytest.raises(OSError, match="No locks available"):
        Lock(tmp_path / "lock")
    monkeypatch.undo()
    Lock(tmp_path / "lock").release()
