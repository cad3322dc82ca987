"""Where the time of a training run goes: `minddpg train --profile`.

A run tells its profile when it has finished a part of a step. Of an update, which is one compiled call into which no
clock can look, the profile runs the same source as plain Python, around the compiled functions that it calls: the same
numbers, bit for bit, and a lap behind each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from . import ddpg, td3
from .agent import smallest
from .config import Config
from .ddpg import Losses
from .fast.choice import Choice
from .fast.jit import mark_warm

PARTS = ("environment", "act", "replay", "critic step", "actor step", "optimiser", "diagnostics", "the rest")
PER_UPDATE = ("critic step", "actor step", "optimiser")
CALLED = {  # by an update, or by what it calls: the part to which the time counts
    "gather": "replay",
    "bellman_target": "critic step",
    "critic_gradient": "critic step",
    "actor_gradient": "actor step",
    "adam": "optimiser",
    "polyak": "optimiser",
}
OPENED = ("critic_step", "actor_step")  # looked into


class Profile:
    """Seconds spent in each of PARTS, and the steps and updates made.

    replay: storing, drawing and gathering. critic step, actor step: up to their gradients. optimiser: both Adams and
    both target networks. diagnostics: looks from inside, evaluations, checkpoints. the rest: noise, progress,
    bookkeeping, clocks.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = self.updates = 0
        self.choice: Choice | None = None  # of threads, with the times of whole updates
        self._last: float | None = None

    def update(self, algorithm: str = "ddpg") -> Callable[..., Losses]:
        """The update of that algorithm, with a lap behind each part."""
        return self._opened({"ddpg": ddpg.update, "td3": td3.update}[algorithm])

    def start(self) -> None:
        """The first part begins now."""
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """What has passed since the last lap went into `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - (now if self._last is None else self._last)
        self._last = now

    def stop(self, steps: int, updates: int) -> None:
        """The end; so many steps and updates have been made since `start`."""
        self.lap("the rest")
        self._last, self.steps, self.updates = None, self.steps + steps, self.updates + updates

    def _opened(self, function: Any) -> Callable[..., Any]:
        """The source of a compiled function as plain Python, with a lap behind each of the CALLED."""
        plain = getattr(function, "py_func", function)  # without the JIT it is plain already
        names = dict(plain.__globals__)
        names.update({name: self._opened(names[name]) for name in OPENED if name in plain.__code__.co_names})
        names.update({name: self._timed(part, names[name]) for name, part in CALLED.items() if name in names})
        return FunctionType(plain.__code__, names)

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            self.lap("the rest")
            result = function(*arguments)
            self.lap(part)
            return result

        return timed

    def __str__(self) -> str:
        total, lines = sum(self.seconds.values()), ["where the time went:"]
        for part, seconds in self.seconds.items():
            count, what = (self.updates, "an update") if part in PER_UPDATE else (self.steps, "a step")
            mean = f"{1e6 * seconds / count:8.1f} us {what}" if count else ""
            lines.append(f"  {part:<12} {seconds / (total or 1):6.1%} {seconds:8.2f} s {mean}")
        lines.append(
            "timed part by part, with one thread; without --profile an update is one compiled call, and faster"
        )
        if self.choice:
            lines.append(f"whole: {self.choice}")
            alone, chosen = (self.choice.seconds.get(number) for number in (1, self.choice.number))
            if alone and chosen and self.choice.number > 1:
                lines[-1] += f"; {alone / chosen:.2f} times as fast"
        return "\n".join(lines)


def warm_profile(dtype: str, like: Config | None = None) -> None:
    """Compile the parts of an update. like: with the options of this Config."""
    agent, replay = smallest(dtype, like)
    agent.update_from(replay, np.random.default_rng(0), Profile().update(agent.config.algorithm))
    mark_warm("profile", agent.kind)
