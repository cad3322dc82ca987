"""The classic mistakes in the actor's step, and what each does to the gradient: its direction and its length.

Each is the right step with one line changed; where they were seen is told in gradcheck/planted.py. What they do to
learning is measured by scripts/gradient_flow.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..agent import DDPG
from ..ddpg import actor_gradient
from ..fast.jit import FloatArray
from ..gradcheck import planted_bug
from ..layers import tanh_backward
from ..networks import Network, actor_forward, backward_to_action, backward_to_weights, critic_forward
from ..optim import new_adam
from ..replay import Batch
from .way import norm, stepped

RIGHT = "right"
NO_MINUS = "no minus"
SUM = "sum for mean"
REPLAYED = "replayed action"
NO_TANH = "tanh' missing"
CRITIC_TOO = "critic's weights moved too"
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
    dz = dact if mistake == NO_TANH else tanh_backward(dact, act)
    dtheta = backward_to_weights(actor, dz, actor_cache)
    dcritic = backward_to_weights(critic, dq, critic_cache) if mistake == CRITIC_TOO else np.zeros_like(critic.params)
    return dtheta, dcritic


@dataclass(frozen=True)
class Effect:
    """What a mistake does. cosine, length: of its gradient against the right one. adam_cosine, adam_length: the same of
    the step that Adam makes of it. critic: length of what it hands the critic, over that of the actor's gradient.
    """

    mistake: str
    cosine: float
    length: float
    adam_cosine: float
    adam_length: float
    critic: float


@dataclass(frozen=True)
class Effects:
    """All of them. `print(effects)` is a table."""

    effects: tuple[Effect, ...]

    def __str__(self) -> str:
        named = max(len(effect.mistake) for effect in self.effects)
        lines = [f"{'mistake':<{named}} {'cosine':>8} {'length':>9} {'Adam: cosine':>13} {'length':>8}"]
        for e in self.effects:
            critic = f"  and hands the critic {e.critic:.3g} times that" if e.critic else ""
            lines.append(
                f"{e.mistake:<{named}} {e.cosine:>8.4f} {e.length:>9.4g} {e.adam_cosine:>13.4f} {e.adam_length:>8.4g}"
                f"{critic}"
            )
        lines.append("cosine, length: of the gradient against the right one; Adam: of the step made of it, from rest")
        return "\n".join(lines)


def mistakes(agent: DDPG, batch: Batch) -> Effects:
    """What each classic mistake does to the gradient of this agent on this batch, in float64. Raises ShapeError.

    Adam's steps are what it settles at where gradients go on as this one: a first step from rest.
    """
    exact = agent.copy("float64")
    checked = exact.checked(batch)
    actor, critic = exact.actor, exact.critic
    right, _, _ = actor_gradient(actor, critic, checked.obs)
    right_step = _first_step(actor, right)
    effects = []
    for mistake in MISTAKES:
        dtheta, dcritic = mistaken_gradient(mistake, actor, critic, checked)
        step = _first_step(actor, dtheta)
        effects.append(
            Effect(
                mistake,
                _cosine(dtheta, right),
                norm(dtheta) / (norm(right) or 1.0),
                _cosine(step, right_step),
                norm(step) / (norm(right_step) or 1.0),
                norm(dcritic) / (norm(dtheta) or 1.0),
            )
        )
    return Effects(tuple(effects))


def _first_step(actor: Network, gradient: FloatArray) -> FloatArray:
    _, step = stepped(actor, gradient, new_adam(gradient), 1e-3)
    return step.params


def _cosine(a: FloatArray, b: FloatArray) -> float:
    lengths = norm(a) * norm(b)
    return float(np.dot(a, b)) / lengths if lengths else 0.0
