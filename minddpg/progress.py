"""Progress of training: a tqdm bar in a terminal or notebook where tqdm is installed, otherwise plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

ASKED_EVERY = 64  # steps; between them nothing is looked at


def is_watched() -> bool:
    """Whether somebody sees stderr: a terminal, or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Progress:
    """Shows how far a run has come. steps: of the whole run; at: made before now."""

    def __init__(self, steps: int, at: int = 0):
        self.steps, self.at = steps, at
        self.started, self.shown = time.perf_counter(), 0.0
        self.interval = 1.0  # seconds to the first plain line; then twice as long each time, up to 10
        self.bar: Any = None
        if is_watched():
            try:
                from tqdm.auto import tqdm
            except ImportError:
                pass
            else:
                self.bar = tqdm(total=steps, initial=at, unit="step", dynamic_ncols=True, leave=False)

    def __call__(self, step: int, history: Sequence[Mapping[str, float]]) -> None:
        """To be called after every step."""
        if step % ASKED_EVERY and step < self.steps:
            return
        elapsed = time.perf_counter() - self.started
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            if elapsed - self.shown > 0.5:
                self.bar.set_postfix_str(f"episode {len(history):,}, {_last(history)}")
                self.shown = elapsed
        elif elapsed - self.shown > self.interval:
            left = (self.steps - step) * (elapsed - self.shown) / max(1, step - self.at)
            speed = (step - self.at) / (elapsed - self.shown)
            self.shown, self.at, self.interval = elapsed, step, min(10.0, 2 * self.interval)
            print(
                f"step {step:,} of {self.steps:,}, episode {len(history):,}, {_last(history)}, "
                f"{speed:,.0f} steps/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def say(self, text: str) -> None:
        """A line on stderr that does not tear the bar apart."""
        if self.bar is not None:
            self.bar.clear()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def _last(history: Sequence[Mapping[str, float]]) -> str:
    last = [row["return"] for row in history[-10:]]
    return f"last {len(last)} returns {sum(last) / len(last):.1f}" if last else "no episode finished yet"
