"""Files that are whole or not there, arrays that are checked before they are believed, and a lock. No pickles.

An array file is an .npz that NumPy can read: uncompressed members, one `name.npy` per array, behind a `meta.json` that
says what the file is; the archive's comment holds the SHA-256 of all that stands before it. The same arrays give the
same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

VERSION = 1  # of the array files; one with a higher version is of a later minddpg
META = "meta.json"
MOST_META = (
    4 << 20
)  # bytes of a meta.json, which takes 30 times that when read; a run of a million steps has some 20,000
MOST_NAMES = 4 << 20  # bytes of an archive's list of members, for the same reason
MEMBER = 512  # bytes that an array may take in its file besides its numbers: names, headers
SEAL = b"sha256:"  # in front of the digest, in the archive's comment
DIGEST = 64  # hexadecimal digits
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)  # names of what is being written

Array = npt.NDArray[Any]

# What zipfile, NumPy and json raise for bytes that are not theirs.
BROKEN = (ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError, struct.error,
          zipfile.BadZipFile, zipfile.LargeZipFile)  # fmt: skip


class RunError(ValueError):
    """A run directory that cannot be made, written or read; the message is one line.

    result: where a run had to stop because of it, what had been learnt by then (see training.TrainResult).
    """

    result: Any = None


class InUse(RunError):
    """Another process writes there."""


class Shape(NamedTuple):
    """What an array must be. dtype: as NumPy writes it, "<f4"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def shape_of(array: Array) -> Shape:
    """The Shape of an array at hand."""
    return Shape(array.dtype.str, array.shape)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either complete or not there, even if the power fails: under a temporary name in the same
    directory, to the disk, then renamed. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_all(file: int, content: bytes) -> None:
    """os.write, which may write a part only, until all is written."""
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def sync_directory(path: Path) -> None:
    """Bring a directory's names to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def remove_temporary(directory: Path) -> None:
    """Remove what writers that were killed have left behind."""
    with suppress(OSError):
        for path in directory.iterdir():
            if TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def array_file(kind: str, arrays: Mapping[str, Array], meta: Mapping[str, Any] | None = None) -> bytes:
    """The content of an array file. meta: what JSON can hold. Raises RunError where reading it would be refused."""
    content = io.BytesIO()
    text = json.dumps({"kind": kind, "version": VERSION, **(meta or {})}, separators=(",", ":"))
    if len(text) > MOST_META or sum(len(name) + 64 for name in arrays) > MOST_NAMES:
        raise RunError(f"the state is too large for a {kind} file: {len(text):,} bytes of text, {len(arrays):,} arrays")
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(META), text)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=array.nbytes > 1 << 30) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
        archive.comment = SEAL + b"0" * DIGEST
    sealed = content.getbuffer()
    digest = hashlib.sha256(sealed[:-DIGEST]).hexdigest()
    sealed[-DIGEST:] = digest.encode()
    del sealed
    return content.getvalue()


# --- reading ----------------------------------------------------------------------------------------------------------


class ArrayFile:
    """An array file, open for reading: its seal, members and meta.json have been checked, no array has been read yet.

    most: bytes it may have. Use `open_arrays`, which turns what goes wrong into a RunError.
    """

    def __init__(self, file: IO[bytes], kind: str, most: int):
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"it is larger than expected, {size:,} bytes")
        self.digest = _check_seal(file, size)
        _check_end(file, size)
        self._archive = zipfile.ZipFile(file)
        members = self._archive.infolist()
        self._members = {member.filename: member for member in members}
        if len(self._members) < len(members) or META not in self._members:
            raise ValueError(f"a member stands in it twice, or it has no {META}")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError("it is compressed")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its members are larger than it is itself")
        if self._members[META].file_size > MOST_META:
            raise ValueError(f"its {META} is too large")
        self.meta: dict[str, Any] = json.loads(self._archive.read(META))
        if not isinstance(self.meta, dict) or self.meta.get("kind") != kind:
            raise ValueError(f"it is no {kind} file of minddpg")
        if not isinstance(self.meta.get("version"), int) or self.meta["version"] > VERSION:
            raise ValueError("it is of a later version of minddpg; update minddpg")
        self.names = [name.removesuffix(".npy") for name in self._members if name != META]

    def read(self, expected: Mapping[str, Shape], finite: bool = True) -> dict[str, Array]:
        """These arrays, all of them checked before the first is read. finite: refuse NaN and infinity."""
        for name, shape in expected.items():
            self._check(name, shape)
        arrays = {}
        for name, shape in expected.items():
            with self._archive.open(f"{name}.npy") as member:
                _header(member)
                array = arrays[name] = np.empty(shape.shape, shape.dtype)
                view = memoryview(array.reshape(-1).view(np.uint8) if array.size else bytearray())  # type: ignore[arg-type]
                while view:
                    if not (count := member.readinto(view[: 1 << 20])):  # type: ignore[attr-defined]
                        raise EOFError(f"{name} is cut off")
                    view = view[count:]
                if member.read(1):  # which also makes zipfile look at the checksum
                    raise ValueError(f"{name} has more bytes than its shape")
            if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
                raise ValueError(f"{name} must hold 0 and 1 only")
            if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} must hold finite numbers only")
        return arrays

    def _check(self, name: str, shape: Shape) -> None:
        member = self._members.get(f"{name}.npy")
        if member is None:
            raise ValueError(f"{name} is missing")
        if not shape.nbytes <= member.file_size <= shape.nbytes + MEMBER:
            raise ValueError(f"{name} has {member.file_size} bytes, but must be {shape.dtype} {shape.shape}")
        with self._archive.open(member) as content:
            found, fortran, dtype = _header(content)
        if (dtype.str, found) != shape or fortran or dtype.hasobject:
            raise ValueError(f"{name} is {dtype} {found}, but must be {np.dtype(shape.dtype)} {shape.shape}")

    def none_but(self, expected: Mapping[str, Any]) -> None:
        """Raise unless these are all arrays of the file."""
        if set(self.names) != set(expected):
            differing = ", ".join(sorted(set(self.names) ^ set(expected))[:3])
            raise ValueError(f"{differing} is missing or unknown")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("an array's header is of an unknown version")
    return np.lib.format.read_array_header_1_0(member, max_header_size=MEMBER)


def _check_seal(file: IO[bytes], size: int) -> str:
    digest, left, tail = hashlib.sha256(), size - DIGEST, b""
    while left > 0:
        chunk = file.read(min(left, 1 << 20))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
        tail = (tail + chunk)[-len(SEAL) :]
    if left != 0 or not tail.endswith(SEAL) or file.read() != digest.hexdigest().encode():
        raise ValueError("its checksum is wrong")
    file.seek(0)
    return digest.hexdigest()


def _check_end(file: IO[bytes], size: int) -> None:
    """Before zipfile makes objects of all that an archive lists: that the list is no longer than one of ours."""
    record = struct.Struct("<4s4H2LH")
    at = size - len(SEAL) - DIGEST - record.size
    file.seek(max(0, at - 20 - 56))  # in front of it, the two records of an archive of more than 4 GB
    before, end = file.read(at - file.tell()) if at > 0 else b"", file.read(record.size)
    file.seek(0)
    signature, *_, listed, _, comment = record.unpack(end)
    if before[-20:-16] == b"PK\6\7":
        listed = struct.unpack("<Q", before[40:48])[0]
    if signature != b"PK\5\6" or comment != len(SEAL) + DIGEST or listed > MOST_NAMES:
        raise ValueError("its end is not what minddpg writes")


def open_regular(path: Path) -> int:
    """A descriptor of a file to read. What stands at the path may be anything; all but a file is an OSError at once."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no file")
    return file


def read_regular(path: Path, most: int) -> bytes:
    """All of a file of `most` bytes or fewer. Raises OSError, and ValueError where it is larger."""
    with open(open_regular(path), "rb") as file:
        if len(content := file.read(most + 1)) > most:
            raise ValueError("it is too large")
    return content


@contextmanager
def open_arrays(path: Path, kind: str, most: int, why_missing: str) -> Iterator[ArrayFile]:
    """Open an array file; whatever goes wrong in the block is a RunError of one line that names the file."""
    try:
        with open(open_regular(path), "rb") as file:
            yield ArrayFile(file, kind, most)
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(f"{path.parent} holds no {path.name}: {why_missing}") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    except (MemoryError, OverflowError):
        raise RunError(f"{path} asks for more memory than there is") from None
    except BROKEN as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: BaseException) -> RunError:
    """What to raise where a file is not what minddpg writes."""
    return RunError(f"{path} is damaged ({first_line(error)[:120]}); restore it or train again")


def first_line(error: BaseException) -> str:
    """What an exception says in its first line, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- one process at a time --------------------------------------------------------------------------------------------

_locked: set[tuple[int, str]] = set()  # by which process: the system's locks are the process's, not the file's
_locking = threading.Lock()


class Lock:
    """An exclusive lock on a file, which a process that has died does not hold.

    Raises InUse where it is taken, by this process too, and OSError.
    """

    def __init__(self, path: Path):
        self._key = (os.getpid(), os.path.realpath(path))
        with _locking:
            # First of all: to close a file that this process has locked would unlock it.
            if self._key in _locked:
                raise _in_use(path)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                _take(self._file)
            except OSError as error:
                os.close(self._file)
                if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    raise _in_use(path) from None
                raise
            _locked.add(self._key)

    def moved(self, path: Path) -> None:
        """The locked file is now at `path`."""
        with _locking:
            _locked.discard(self._key)
            self._key = (self._key[0], os.path.realpath(path))
            _locked.add(self._key)

    def release(self) -> None:
        """Let others have it. Twice is no error."""
        with _locking:
            if self._key in _locked:
                _locked.discard(self._key)
                os.close(self._file)


def _in_use(path: Path) -> InUse:
    return InUse(f"{path.parent} is in use by another run; wait for it, or end it first")


def _take(file: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
