"""Diagnostics while training: every so many updates a look at one from inside, a row of numbers, and warnings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..agent import DDPG, smallest
from ..config import DIAGNOSE_EVERY, Config
from ..fast.jit import mark_warm
from ..replay import ReplayBuffer
from ..runs.checkpoint import check_like
from .diagnosis import Diagnosis, Statistics, diagnose, statistics
from .way import look

PAUSE = 60.0  # seconds between two warnings, at least
CONFIRMED = 3  # looks in a row that must see a thing before it is said: a single batch may be odd


class Finding(NamedTuple):
    """A diagnosis that lasted. first, last: the environment steps at which it was first and last seen."""

    diagnosis: Diagnosis
    first: int
    last: int

    def __str__(self) -> str:
        return f"steps {self.first:,} to {self.last:,}: {self.diagnosis}"


class Monitor:
    """Looks at every `every`th update (0: at none), at a batch of its own: training goes on as if nobody looked.

    write: called with a row of numbers (see diagnosis.statistics). warn: called with a diagnosis, at most once a
    minute. rng: of the batches. found: every diagnosis that was confirmed, by name, as it was when last seen.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        every: int = DIAGNOSE_EVERY,
        write: Callable[[Statistics], None] = lambda row: None,
        warn: Callable[[Diagnosis], None] = lambda diagnosis: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.rng, self.every, self.write, self.warn, self.clock = rng, every, write, warn, clock
        self.found: dict[str, Finding] = {}
        self._seen: dict[str, tuple[int, int]] = {}  # in looks in a row: since which step, how many
        self._rewards = (math.inf, -math.inf)  # lowest and highest so far; the replay forgets old ones
        self._said: dict[str, float] = {}  # when each was last said

    def after_updates(self, step: int, agent: DDPG, replay: ReplayBuffer, made: int = 1) -> bool:
        """To be called when `made` updates have been made; step: environment steps so far.    -> whether it looked"""
        due = self.every > 0 and agent.updates // self.every > (agent.updates - made) // self.every
        if due:
            self.look(step, agent, replay)
        return due

    def state(self) -> dict[str, Any]:
        """What it needs to go on to the bit."""
        return {
            "rng": self.rng.bit_generator.state,
            "rewards": self._rewards,
            "seen": self._seen,
            "found": [[*finding.diagnosis, finding.first, finding.last] for finding in self.found.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises KeyError, TypeError or ValueError where it is none."""
        check_like({**state, "seen": [], "found": []}, {**self.state(), "seen": [], "found": []})
        check_like(list(state["seen"].values()), [[0, 0]] * len(state["seen"]))
        check_like(state["found"], [["", "", "", 0, 0]] * len(state["found"]))
        self.rng.bit_generator.state = state["rng"]
        low, high = state["rewards"]
        self._rewards = float(low), float(high)
        self._seen = {str(name): (int(first), int(looks)) for name, (first, looks) in state["seen"].items()}
        for name, what, remedy, first, last in state["found"]:
            self.found[name] = Finding(Diagnosis(name, what, remedy), int(first), int(last))

    def look(self, step: int, agent: DDPG, replay: ReplayBuffer) -> None:
        """Look now."""
        batch = agent.prepared(replay.sample(agent.config.batch_size, self.rng))
        kept = replay.transitions.rew[: replay.size]
        self._rewards = min(self._rewards[0], float(kept.min())), max(self._rewards[1], float(kept.max()))
        seen = look(agent.learner, batch, agent.rates)
        # A return of n steps is to gamma^n what a reward is to gamma.
        row = statistics(agent.learner, seen, self._rewards, agent.config.gamma**agent.config.n_step)
        self.write({"step": step, "updates": agent.updates, **row})
        current = {diagnosis.name: diagnosis for diagnosis in diagnose(row)}
        since = {name: self._seen.get(name, (step, 0)) for name in current}
        self._seen = {name: (first, looks + 1) for name, (first, looks) in since.items()}
        for name, diagnosis in current.items():
            first, looks = self._seen[name]
            if looks >= CONFIRMED:
                first = self.found[name].first if name in self.found else first
                self.found[name] = Finding(diagnosis, first, step)
        self._say([diagnosis for name, diagnosis in current.items() if self._seen[name][1] >= CONFIRMED])

    def _say(self, lasting: list[Diagnosis]) -> None:
        """The one that was not said for the longest time, if a minute has passed since the last."""
        now = self.clock()
        if lasting and now >= max(self._said.values(), default=-math.inf) + PAUSE:
            longest = min(lasting, key=lambda diagnosis: self._said.get(diagnosis.name, -math.inf))
            self._said[longest.name] = now
            self.warn(longest)


def warm_look(dtype: str, like: Config | None = None) -> None:
    """Compile what a look needs. like: with the options of this Config."""
    agent, replay = smallest(dtype, like)
    Monitor(np.random.default_rng(0)).look(0, agent, replay)
    mark_warm("look", agent.kind)
