"""How many threads share the updates of a run: a given number, or the one with which its own updates are fastest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numba
import numpy as np

from .threads import TROUBLE, cpus

if TYPE_CHECKING:
    from ..agent import DDPG
    from ..ddpg import Losses
    from ..replay import ReplayBuffer

AUTO = "auto"
BEFORE = 20  # updates with one thread, until memory has found its place
ROUNDS, BLOCK = 3, 5  # a look: so many times so many updates with each number
SHORTEST = 250e-6  # seconds; helpers take 50 us to wake, so that a shorter update would gain nothing
MARGIN = 1.03  # an update must be so much faster with another number
HOPELESS = 3 * BLOCK  # usual updates that one may take: then the machine is busy, and the look goes on without it
PAUSE, LONGEST_PAUSE = 2.0, 120.0  # seconds of updates between looks, twice as long each time
SHARE = 0.01  # of the time that looks may cost
RECENT = 16  # updates that show whether a choice is still good


class Choice:
    """Which of several numbers makes updates fastest: it is tried out on them.

    Ask `next` before each update, and say what it `took`. number: the best so far. seconds: of an update with each
    number, when last looked at. news: what was chosen, until somebody takes it away.
    """

    def __init__(self, counts: Sequence[int]):
        """counts: 1, and the others to try."""
        self.counts, self.number, self.news = tuple(counts), 1, ""
        self.seconds: dict[int, float] = {}
        self.is_over = len(counts) < 2  # one number, for good
        self._plan = [] if self.is_over else [1] * BEFORE  # of the look in progress
        self._times: dict[int, list[float]] = {}
        self._pause = PAUSE
        self._since = self._lost = self._recent = 0.0

    @property
    def is_looking(self) -> bool:
        """Whether the next update is part of a look."""
        return bool(self._plan)

    @property
    def next(self) -> int:
        """The number for the next update."""
        return self._plan[0] if self._plan else self.number

    def took(self, seconds: float) -> None:
        """The update took so long."""
        if not self._plan:
            self._watch(seconds)
            return
        number = self._plan.pop(0)
        self._times.setdefault(number, []).append(seconds)
        if number > 1 and seconds > HOPELESS * self.seconds[1]:
            self._plan = [other for other in self._plan if other != number]
        if not self._plan and not self.seconds:
            self._first()
        elif not self._plan:
            self._decide()

    def _first(self) -> None:
        """The first updates are made, with one thread."""
        self.seconds = {1: statistics.median(self._times[1][BEFORE // 2 :])}
        if self.seconds[1] < SHORTEST:
            self.is_over = True
            self._say()
        else:
            self._look()

    def _look(self) -> None:
        self._times = {}
        self._plan = [number for _ in range(ROUNDS) for number in self.counts for _ in range(BLOCK)]

    def _decide(self) -> None:
        """The look is over."""
        before = self.number if len(self.seconds) > 1 else 0
        self.seconds = {number: statistics.median(times) for number, times in self._times.items()}
        fastest = min(self.seconds, key=lambda number: self.seconds[number])
        if self.seconds[fastest] * MARGIN < self.seconds.get(self.number, np.inf):
            self.number = fastest
        if self.seconds[1] < self.seconds[self.number] * MARGIN:
            self.number = 1
        usual = self.seconds[self.number]
        self._lost = sum(sum(times) - len(times) * usual for times in self._times.values())
        self._pause = PAUSE if self.number != before else min(2 * self._pause, LONGEST_PAUSE)
        self._since, self._recent = 0.0, usual
        if self.number != before:
            self._say()

    def _watch(self, seconds: float) -> None:
        """Between looks. The next one is due after a while, or when several threads are no better than one was."""
        self._since += seconds
        self._recent += (seconds - self._recent) / RECENT
        affordable = self._since > self._lost / SHARE
        worse = self.number > 1 and self._recent > MARGIN * self.seconds[1] and self._since > RECENT * self.seconds[1]
        if affordable and (worse or self._since > self._pause):
            self._look()

    def _say(self) -> None:
        self.news = str(self)

    def __str__(self) -> str:
        threads = "one thread" if self.number == 1 else f"{self.number} threads"
        times = ", ".join(f"{1e3 * seconds:.3g} ms with {number}" for number, seconds in sorted(self.seconds.items()))
        return f"{threads} for an update: {times}" if times else f"{threads} for an update"


class Threads:
    """How many threads make the updates of a run.

    wanted: a number, 1 or more, or "auto": 1, 2, 4, ... up to all CPUs are tried on the run's own updates, now and then
    again. No bit of the run depends on it. choice.news: a line that says what is used.
    """

    def __init__(self, wanted: int | str = 1):
        most = cpus() if wanted == AUTO and not TROUBLE else 1
        self.choice = Choice(sorted({1, most, *(2**n for n in range(most.bit_length()))}))
        if wanted != AUTO and not TROUBLE:
            self.choice.number = int(wanted)
        elif TROUBLE and wanted != 1 and not (wanted == AUTO and numba.config.DISABLE_JIT):  # plain NumPy as asked
            self.choice.news = f"one thread for an update: {TROUBLE}"
        self._times: list[float] = []

    def update(
        self, agent: DDPG, replay: ReplayBuffer, rng: np.random.Generator, opened: Callable[..., Losses] | None = None
    ) -> Losses:
        """`agent.update_from`. opened: as there; looks make whole updates all the same."""
        choice = self.choice
        agent.threads = choice.next
        if choice.is_over:
            return agent.update_from(replay, rng, opened)
        if choice.is_looking:
            opened = None
        started = time.perf_counter()
        losses = agent.update_from(replay, rng, opened)
        self._times.append(time.perf_counter() - started)
        config = agent.config
        if config.algorithm == "ddpg" or len(self._times) == config.policy_delay:  # one of so many has an actor step
            choice.took(sum(self._times) / len(self._times))
            self._times.clear()
        return losses


def is_number_of_threads(wanted: object) -> bool:
    """Whether `Threads` can be made of it."""
    return wanted == AUTO or (type(wanted) is int and wanted >= 1)
