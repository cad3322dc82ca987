"""How much memory there is, so that a run asks before it takes it, and not in the middle of the night."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .config import ConfigError

GROUPS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup v2, v1


def memory_limit(groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may take: of the machine, or of the container it is in. None where nobody says."""
    limits = []
    with suppress(AttributeError, OSError, ValueError):  # no sysconf on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in GROUPS:
        with suppress(OSError, ValueError):  # "max" is no number
            limits.append(int((groups / name).read_text()))
    return min(limits, default=None)


def check_memory(nbytes: int, what: str, remedy: str) -> None:
    """Raise ConfigError where `what` takes more bytes than there are."""
    limit = memory_limit()
    if limit is not None and nbytes > limit:
        raise ConfigError(f"{what} takes {in_words(nbytes)}, but there are {in_words(limit)} of memory; {remedy}")


def in_words(nbytes: float) -> str:
    """'33.0 MB'."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes / 1e3:,.1f} kB"
