"""What people see: progress, charts, numbers in words."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


def count(number: int, noun: str) -> str:
    """'1 episode', '2,000 episodes'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def summary(returns: npt.NDArray[Any]) -> str:
    """Returns in a line."""
    spread = f"lowest {returns.min():.1f}, highest {returns.max():.1f}"
    return f"mean return {returns.mean():.1f} +- {returns.std():.1f} over {count(len(returns), 'episode')} ({spread})"


def chart(returns: list[float], width: int = 60, height: int = 8) -> str:
    """The learning curve in text: time to the right, the mean return of each column's episodes upwards."""
    columns = min(width, len(returns))
    cuts = [len(returns) * c // columns for c in range(columns + 1)]
    means = [sum(returns[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    rows = [round((mean - low) / ((high - low) or 1) * (height - 1)) for mean in means]
    lines = []
    for level in range(height - 1, -1, -1):
        label = f"{high:9.1f}" if level == height - 1 else f"{low:9.1f}" if level == 0 else " " * 9
        lines.append(f"{label} |" + "".join("*" if row == level else " " for row in rows).rstrip())
    scale = f"1{f' episode {len(returns)}':>{max(1, columns - 1)}}"
    return "\n".join(["return per episode while learning, noise included", *lines, " " * 10 + "+" + "-" * columns,
                      " " * 11 + scale])  # fmt: skip


def tell(what: str) -> None:
    """What is being done, on a terminal's last line; nothing takes it away."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what} ..." if what else "\r\033[K", end="", file=sys.stderr, flush=True)


def warn(what: object) -> None:
    """A warning, on stderr."""
    print(f"minddpg: warning: {what}", file=sys.stderr, flush=True)


def wants_colour() -> bool:
    """Whether stdout is a terminal that may be coloured."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
