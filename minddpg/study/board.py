"""What is shown while a study is made: a line per running job and the total, in a terminal; now and then, elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from typing import Any, TextIO

from .leading import State
from .plan import Job

BAR = 20  # characters


class Board:
    """Shows how far a study is."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self.started = time.monotonic()
        self._drawn = 0  # lines, on a terminal
        self._next, self._pause = self.started + 2.0, 2.0  # of plain lines: then twice as long, up to a minute
        self._begun: dict[str, tuple[float, int]] = {}  # where a job was when it was first seen, and when, by its clock
        self._speeds: dict[tuple[str, str], float] = {}  # steps a second, by environment and variant

    def __call__(self, state: State) -> None:
        """To be called now and then."""
        now = time.monotonic()
        for name, marker in state.running.items():
            if "step" in marker and name not in self._begun:
                self._begun[name] = marker["when"], marker["step"]
        if self.is_terminal:
            self._draw(self.lines(state))
        elif now >= self._next:
            self._pause = min(60.0, 2 * self._pause)
            self._next = now + self._pause
            print("\n".join(self.lines(state)), file=self.stream, flush=True)

    def lines(self, state: State) -> list[str]:
        """One per running job, and the total."""
        running = [job for job in state.jobs if job.name in state.running and job.name not in state.records]
        waiting = [job for job in state.jobs if job.name not in state.running and job.name not in state.records]
        width = max((len(job.label) for job in running), default=0)
        shown, left = [], 0.0
        at = sum(job.steps for job in state.jobs if job.name in state.records)
        for job in running:
            marker = state.running[job.name]
            step = int(marker.get("step", job.steps if marker.get("state", "").startswith("trained") else 0))
            speed = self._speed(job, marker)
            at += step
            left += (job.steps - step) / speed if speed else math.nan
            shown.append(_line(job, marker, speed, width))
        usual = sum(self._speeds.values()) / len(self._speeds) if self._speeds else math.nan
        left += sum(job.steps / self._speeds.get((job.env, job.variant), usual) for job in waiting)
        return [*shown, self._total(state, at, left / max(1, len(running)), len(running), len(waiting))]

    def _speed(self, job: Job, marker: dict[str, Any]) -> float | None:
        """Steps a second; of others of its kind where its own is not known yet."""
        if job.name in self._begun and "step" in marker:
            begun, first = self._begun[job.name]
            if marker["step"] > first and marker["when"] > begun:
                self._speeds[job.env, job.variant] = (marker["step"] - first) / (marker["when"] - begun)
        return self._speeds.get((job.env, job.variant))

    def _total(self, state: State, at: int, left: float, running: int, waiting: int) -> str:
        counts = {"done": len(state.over("done")), "failed": len(state.over("failed")), "running": running,
                  "waiting": waiting}  # fmt: skip
        words = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        share = at / sum(job.steps for job in state.jobs)
        time_left = "" if math.isnan(left) or not left else f", {in_time(left)} left"
        return f"{len(state.jobs)} runs: {words or 'none begun'}; {100 * share:.0f} % of all steps{time_left}"

    def say(self, text: str) -> None:
        """A line that stays."""
        self._draw([])
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Take away what is drawn."""
        self._draw([])

    def _draw(self, lines: list[str]) -> None:
        if not self.is_terminal:
            return
        size = shutil.get_terminal_size()
        width, most = size.columns - 1, max(2, size.lines - 2)
        if len(lines) > most:  # what has scrolled away cannot be drawn over
            lines = [*lines[: most - 2], f"and {len(lines) - most + 1} more", lines[-1]]
        up = f"\033[{self._drawn}F" if self._drawn else ""
        print(f"{up}\033[J" + "".join(f"{line[:width]}\n" for line in lines), end="", file=self.stream, flush=True)
        self._drawn = len(lines)


def _line(job: Job, marker: dict[str, Any], speed: float | None, width: int) -> str:
    if "step" not in marker:
        return f"{job.label:{width}}  {marker.get('state', 'starting')}"
    step = int(marker["step"])
    bar = f"{'#' * (BAR * step // job.steps):-<{BAR}}"
    last = marker.get("last")
    returned = f"  return {last:,.1f}" if isinstance(last, float) else ""
    pace = f"  {speed:,.0f} steps/s" if speed else ""
    return f"{job.label:{width}}  [{bar}] {step:>{len(f'{job.steps:,}')},} of {job.steps:,}{returned}{pace}"


def in_time(seconds: float) -> str:
    """'40 s', '12 min', '3 h 20 min'."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
