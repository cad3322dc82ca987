"""What people see: progress, charts, numbers in words."""

from __future__ import annotations

import os
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..training import EpisodeRow


def count(number: int, noun: str) -> str:
    """'1 episode', '2,000 episodes'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def megabytes(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


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


class Progress:
    """Progress of training: a tqdm bar where it is installed and stderr is a terminal, otherwise plain lines."""

    def __init__(self, steps: int):
        self.steps, self.started, self.shown, self.at = steps, time.perf_counter(), 0.0, 0
        self.bar: Any = None
        self.interval = 1.0  # seconds to the first plain line; then twice as long each time, up to 10
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                pass
            else:
                self.bar = tqdm(total=steps, unit="step", dynamic_ncols=True, leave=False)

    def __call__(self, step: int, history: list[EpisodeRow]) -> None:
        """To be called after every step."""
        if step % 64 and step != self.steps:
            return
        elapsed = time.perf_counter() - self.started
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            if elapsed - self.shown > 0.5:
                self.bar.set_postfix_str(f"episode {len(history):,}, {self._last(history)}")
                self.shown = elapsed
        elif elapsed - self.shown > self.interval:
            left = (self.steps - step) * (elapsed - self.shown) / max(1, step - self.at)
            speed = (step - self.at) / (elapsed - self.shown)
            self.shown, self.at, self.interval = elapsed, step, min(10.0, 2 * self.interval)
            print(
                f"step {step:,} of {self.steps:,}, episode {len(history):,}, {self._last(history)}, "
                f"{speed:,.0f} steps/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def warn(self, what: object) -> None:
        """Say it without tearing the bar apart."""
        if self.bar is not None:
            self.bar.clear()
        warn(what)

    @staticmethod
    def _last(history: list[EpisodeRow]) -> str:
        last = [row["return"] for row in history[-10:]]
        return f"last {len(last)} returns {sum(last) / len(last):.1f}" if last else "no episode finished yet"

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


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
