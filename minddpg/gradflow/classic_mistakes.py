"""The classic mistakes in the actor's step, and what each does to the gradient: its direction and its length.

Each is the right step with one line changed; where they were seen is told in gradcheck/planted.py. What they do to
learning is measured by scripts/gradient_flow.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..agent import DDPG
from ..ddpg import actor_gradient
from ..fast.jit import FloatArray
from ..gradcheck import planted_bug
from ..networks import (
    Network,
    actor_forward,
    backward_to_action,
    backward_to_weights,
    critic_forward,
    output_backward,
)
from ..optim import new_adam
from ..replay import Batch, take
from ..showing import html_table, text_table
from .way import norm, stepped

RIGHT = "right"
NO_MINUS = "no minus"
SUM = "sum for mean"
REPLAYED = "replayed action"
NO_TANH = "tanh' missing"
CRITIC_TOO = "critic's weights moved too"
BATCHES = 100
EFFECTS_HEAD = ("mistake", "cosine", "length", "Adam: cosine", "Adam: length", "hands the critic")
MISTAKES = (NO_MINUS, SUM, REPLAYED, NO_TANH, CRITIC_TOO)
BUGS = {  # the same in the catalogue, which says where each was seen
    NO_MINUS: planted_bug("actor: the minus is missing"),
    SUM: planted_bug("actor: sum for mean"),
    REPLAYED: planted_bug("actor: dQ/da at the replayed action"),
    NO_TANH: planted_bug("actor: the step through tanh left out"),
    CRITIC_TOO: planted_bug("the actor step moves the critic"),
}


def mistaken_gradient(mistake: str, actor: Network, critic: Network, batch: Batch) -> tuple[FloatArray, FloatArray]:
    """The actor step's gradients with one mistake in it.    -> dtheta (P,), dcritic (P',)

    dcritic is zero, as it has to be, but for CRITIC_TOO, which also hands the critic the gradient of -mean Q.
    """
    n = len(batch.obs)
    act, actor_cache = actor_forward(actor, batch.obs)
    judged = batch.act if mistake == REPLAYED else act
    _, critic_cache = critic_forward(critic, batch.obs, judged)
    seed = {NO_MINUS: 1 / n, SUM: -1.0}.get(mistake, -1 / n)
    dq = np.full((n, 1), seed, batch.obs.dtype)
    dact = backward_to_action(critic, dq, critic_cache)
    dz = dact if mistake == NO_TANH else output_backward(actor, dact, act)
    dtheta = backward_to_weights(actor, dz, actor_cache)
    dcritic = backward_to_weights(critic, dq, critic_cache) if mistake == CRITIC_TOO else np.zeros_like(critic.params)
    return dtheta, dcritic


class Spread(NamedTuple):
    """Of a number over batches: the median, and between which values the middle eight tenths lie."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        low, median, high = (f"{number:.3g}" for number in self)
        return median if low == high else f"{median} ({low} to {high})"


class Effect(NamedTuple):
    """What a mistake does. cosine, length: of its gradient against the right one. adam_cosine, adam_length: the same of
    the step that Adam makes of it. critic: length of what it hands the critic, over that of the actor's gradient.
    """

    mistake: str
    cosine: Spread
    length: Spread
    adam_cosine: Spread
    adam_length: Spread
    critic: Spread


@dataclass(frozen=True, repr=False)
class Effects:
    """All of them. `print(effects)` is a table. batches, batch_size: over how many, of how many transitions each."""

    effects: tuple[Effect, ...]
    batches: int
    batch_size: int

    def __str__(self) -> str:
        over = f", {self.batches} of them: the median (10 % to 90 %)" if self.batches > 1 else ""
        last = "cosine, length: of the gradient against the right one; Adam: of the step made of it, from rest"
        return f"batches of {self.batch_size}{over}\n{text_table(EFFECTS_HEAD, self.rows())}\n{last}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table(EFFECTS_HEAD, self.rows())

    def record(self) -> dict[str, Any]:
        """As JSON can hold it."""
        effects = [
            {"mistake": e.mistake, **{k: e._asdict()[k]._asdict() for k in Effect._fields[1:]}} for e in self.effects
        ]
        return {"batches": self.batches, "batch_size": self.batch_size, "effects": effects}

    def rows(self) -> list[tuple[str, ...]]:
        """As written in tables."""
        return [
            (effect.mistake, *map(str, effect[1:5]), str(effect.critic) if effect.critic.high else "nothing")
            for effect in self.effects
        ]


def mistakes(
    agent: DDPG, transitions: Batch, batch_size: int | None = None, batches: int = BATCHES, seed: int = 0
) -> Effects:
    """What each classic mistake does to the gradient of this agent, in float64. Raises ShapeError.

    transitions: as many as there are, of which `batches` batches are drawn; batch_size None: one batch of them all. One
    batch alone may say anything of the replayed action. Adam's steps are what it settles at where gradients go on as
    this one: a first step from rest.
    """
    exact = agent.copy("float64")
    checked = exact.checked(transitions)
    rng, kept = np.random.default_rng(seed), len(checked.rew)
    drawn = [checked]
    if batch_size is not None and batch_size < kept:
        drawn = [take(checked, rng.permutation(kept)[:batch_size]) for _ in range(batches)]
    numbers = np.array([_effects(exact.actor, exact.critic, batch) for batch in drawn])  # (batches, mistakes, 5)
    low, median, high = np.quantile(numbers, (0.1, 0.5, 0.9), axis=0)
    effects = [
        Effect(mistake, *(Spread(low[i, k], median[i, k], high[i, k]) for k in range(5)))
        for i, mistake in enumerate(MISTAKES)
    ]
    return Effects(tuple(effects), len(drawn), len(drawn[0].rew))


def _effects(actor: Network, critic: Network, batch: Batch) -> list[tuple[float, ...]]:
    """The numbers of an Effect, for each of MISTAKES."""
    right, _, _ = actor_gradient(actor, critic, batch.obs)
    right_step = _first_step(actor, right)
    found: list[tuple[float, ...]] = []
    for mistake in MISTAKES:
        dtheta, dcritic = mistaken_gradient(mistake, actor, critic, batch)
        step = _first_step(actor, dtheta)
        lengths = norm(dtheta) / (norm(right) or 1.0), norm(step) / (norm(right_step) or 1.0)
        cosines = _cosine(dtheta, right), _cosine(step, right_step)
        found.append((cosines[0], lengths[0], cosines[1], lengths[1], norm(dcritic) / (norm(dtheta) or 1.0)))
    return found


def _first_step(actor: Network, gradient: FloatArray) -> FloatArray:
    _, step = stepped(actor, gradient, new_adam(gradient), 1e-3)
    return step.params


def _cosine(a: FloatArray, b: FloatArray) -> float:
    lengths = norm(a) * norm(b)
    return float(np.dot(a, b)) / lengths if lengths else 0.0
