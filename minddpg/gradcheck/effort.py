"""How much a check may do, and what it says meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Tell = Callable[[str], None]

FULL_BUDGET = 20_000  # evaluations up to which mode "auto" looks at every element
FULL_NUMBERS = 200_000_000  # the same, as evaluations times numbers that the function is given
AGAIN = 2  # looking again may take as many times the evaluations of the first looks
AGAIN_SECONDS = 1.0  # or this long, where that is more
AGAIN_EVALUATIONS = 20_000  # but not more than these
SILENT, INTERVAL = 2.0, 0.5  # seconds until the first progress, and between


class Effort:
    """Evaluations done, to come, and left for looking again."""

    def __init__(self, expected: int, tell: Tell | None = None):
        """expected: evaluations of the first looks."""
        self.expected, self.done, self.what, self.again = expected, 0, "", 0
        self.tell = on_a_terminal if tell is None and sys.stderr.isatty() else tell
        self.started = self.last = time.monotonic()
        self.allowed = max(AGAIN * expected, AGAIN_EVALUATIONS)

    def tick(self) -> None:
        """One more evaluation."""
        self.done += 1
        if self.tell is None:
            return
        now = time.monotonic()
        if now - self.started > SILENT and now - self.last > INTERVAL:
            self.last = now
            left = (now - self.started) / self.done * max(0, self.expected - self.done)
            self.tell(
                f"gradient check, {self.what}: {self.done:,} of about {max(self.expected, self.done):,} evaluations, "
                f"{left:.0f} s left"
            )

    def pace(self, seconds: float) -> None:
        """Where an evaluation takes `seconds`, looking again is for what is left of the time."""
        self.allowed = max(AGAIN * self.expected, min(AGAIN_EVALUATIONS, int(AGAIN_SECONDS / max(seconds, 1e-9))))

    def left(self) -> bool:
        """Whether to look again."""
        return self.again < self.allowed

    def close(self) -> None:
        """Take the progress away."""
        if self.tell is not None and self.last > self.started:
            self.tell("")


def on_a_terminal(text: str) -> None:
    """The last line of a terminal."""
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
