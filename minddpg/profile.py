"""Where the time of a training run goes: `minddpg train --profile`.

Normally an update is one compiled call, into which no clock can look. Under a profile its parts are called one by one,
in the same order and with the same parameters (losses to rounding), and everything the training loop calls is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .agent import DDPG, smallest
from .ddpg import Losses, actor_gradient, bellman_target, critic_gradient
from .fast.jit import call, mark_warm
from .optim import adam, polyak
from .replay import Batch, ReplayBuffer, gather

if TYPE_CHECKING:
    from .environment import Environment
    from .evaluation import Evaluator
    from .gradflow.monitor import Monitor

PARTS = ("environment", "act", "replay", "critic step", "actor step", "optimiser", "diagnostics", "the rest")
PER_UPDATE = ("critic step", "actor step", "optimiser")


class Profile:
    """Seconds spent in each of PARTS, and the steps and updates made.

    replay: storing, drawing and gathering. critic step, actor step: up to their gradients. optimiser: both Adams and
    both target networks. diagnostics: looks from inside, evaluations. the rest: noise, progress, bookkeeping, clocks.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = self.updates = 0
        self._last, self._inside = 0.0, False

    def _lap(self, part: str) -> None:
        """What has passed since the last lap went into `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    @contextmanager
    def watching(
        self,
        environment: Environment,
        agent: DDPG,
        replay: ReplayBuffer,
        monitor: Monitor,
        evaluator: Evaluator | None,
    ) -> Iterator[None]:
        """Time what is called on these, until the end of the block."""
        watched: list[tuple[str, Any, str]] = [
            ("environment", environment, "reset"),
            ("environment", environment, "step"),
            ("act", agent, "act"),
            ("replay", replay, "add"),
            ("replay", replay, "draw"),
            ("diagnostics", monitor, "look"),
        ]
        if evaluator:
            watched.append(("diagnostics", evaluator, "evaluate"))
        for part, owner, name in watched:
            setattr(owner, name, self._timed(part, getattr(owner, name)))
        vars(agent)["_update"] = lambda transitions, indices: self._update(agent, transitions, indices)
        self._last, updates = time.perf_counter(), agent.updates
        try:
            yield
        finally:
            self._lap("the rest")
            self.updates += agent.updates - updates
            del vars(agent)["_update"]
            for _, owner, name in watched:
                delattr(owner, name)

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside:  # an evaluation acts too
                return function(*arguments, **named)
            self._lap("the rest")
            self._inside = True
            try:
                return function(*arguments, **named)
            finally:
                self._lap(part)
                self._inside = False

        return timed

    def _update(self, agent: DDPG, transitions: Batch, indices: npt.NDArray[np.int64]) -> Losses:
        """ddpg.update, part by part."""
        (actor, critic, target_actor, target_critic, actor_adam, critic_adam), rates = agent.learner, agent.rates
        dtype = agent.config.dtype
        self._lap("the rest")
        batch = call(gather, dtype, transitions, indices)
        self._lap("replay")
        target_q = call(bellman_target, dtype, target_actor, target_critic, batch, rates.gamma)
        loss, dparams, q = call(
            critic_gradient, dtype, critic, batch.obs, batch.act, target_q, rates.critic_weight_decay
        )
        q_mean, target_q_mean = q.mean(), target_q.mean()
        self._lap("critic step")
        call(adam, dtype, critic.params, dparams, critic_adam, rates.critic_lr)
        self._lap("optimiser")
        dtheta, dact, q = call(actor_gradient, dtype, actor, critic, batch.obs)
        with np.errstate(over="ignore"):
            actor_loss, dq_dact_rms = -q.mean(), np.sqrt(np.mean(dact * dact)) * len(dact)
        self._lap("actor step")
        call(adam, dtype, actor.params, dtheta, actor_adam, rates.actor_lr)
        call(polyak, dtype, target_critic.params, critic.params, rates.tau)
        call(polyak, dtype, target_actor.params, actor.params, rates.tau)
        self._lap("optimiser")
        return Losses(*map(float, (loss, actor_loss, q_mean, target_q_mean, dq_dact_rms)))

    def __str__(self) -> str:
        total, lines = sum(self.seconds.values()), ["where the time went:"]
        for part, seconds in self.seconds.items():
            count, what = (self.updates, "an update") if part in PER_UPDATE else (self.steps, "a step")
            mean = f"{1e6 * seconds / count:8.1f} us {what}" if count else ""
            lines.append(f"  {part:<12} {seconds / (total or 1):6.1%} {seconds:8.2f} s {mean}")
        lines.append("timed part by part; without --profile an update is one compiled call, and faster")
        return "\n".join(lines)


def warm_profile(dtype: str) -> None:
    """Compile the parts of an update."""
    agent, replay = smallest(dtype)
    Profile()._update(agent, replay.transitions, replay.draw(1, np.random.default_rng(0)))
    mark_warm(f"profile-{dtype}")
