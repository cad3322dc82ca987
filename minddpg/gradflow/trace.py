"""The trace of one actor update: every array on the way from the states to the actor's new weights, by name.

`walk` is `ddpg.actor_gradient` taken apart: the same functions of layers.py and networks.py, called one layer at a
time, so that what passes between them can be looked at. Its last arrays are bit for bit what `actor_gradient` returns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..ddpg import DDPG, Learner, Rates, actor_gradient, bellman_target, critic_gradient
from ..gradcheck.report import finite
from ..jit import FloatArray
from ..layers import linear_backward_input, linear_backward_weights, relu_backward, tanh_backward, tanh_forward
from ..networks import (
    Network,
    action_rows,
    bias,
    copy_network,
    forward,
    hidden_rows,
    layer_input,
    named_parameters,
    output,
    weight,
)
from ..optim import Adam, adam
from ..replay import Batch

HEADINGS = {
    1: "feed the batch's states to the actor",
    2: "its actions are mu(s), not the replayed ones",
    3: "the critic judges them; it has already made its own step",
    8: "divide by the batch size, once, in the seed; minus, to climb by descending: loss = -mean(q)",
    4: "dQ/da: backward through the critic to the action, and no further; no critic weight gets a gradient",
    5: "feed the states to the actor again: not needed, the layers' outputs above are kept",
    6: "da/dtheta: never formed",
    7: "dact times da/dtheta, from the left, layer by layer, as vector-Jacobian products",
    9: "Adam moves the actor alone",
    10: "mean Q(s, mu(s)) rises",
}


class Passed(NamedTuple):
    """An array on the way. step: of the ten. of: the array it was made from, by name, "" for a first one."""

    step: int
    name: str
    of: str
    formula: str
    array: FloatArray


def walk(actor: Network, critic: Network, obs: FloatArray) -> Iterator[Passed]:
    """Everything that `actor_gradient(actor, critic, obs)` computes on its way, in its order.

    Names: actor.l.h is what layer l hands on after its ReLU, actor.l.z what the last one has before the tanh; dx is
    d(loss)/dx for loss = -mean(q), with x's shape. obs (N, obs_dim).
    """
    n, last, top = len(obs), len(actor.layout) - 2, len(critic.layout) - 2

    yield Passed(1, "obs", "", "s, from the replay", obs)
    actor_cache = forward(actor, obs, np.empty((n, 0), obs.dtype))
    below = "obs"
    for layer in range(last):
        h = layer_input(actor, actor_cache, layer + 1)
        yield Passed(1, f"actor.{layer}.h", below, f"max({_short(below)} W + b, 0)", h)
        below = f"actor.{layer}.h"
    z = output(actor, actor_cache).copy()
    yield Passed(1, f"actor.{last}.z", below, f"{_short(below)} W + b", z)
    act = tanh_forward(output(actor, actor_cache))
    yield Passed(2, "act", f"actor.{last}.z", "tanh(z)", act)

    critic_cache = forward(critic, obs, act)
    q, below = output(critic, critic_cache).reshape(n), "obs"
    for layer in range(top + 1):
        if layer == critic.action_layer:
            x = layer_input(critic, critic_cache, layer)
            yield Passed(3, f"critic.{layer}.x", "act", f"[{_short(below)}, act]", x)
            below = f"critic.{layer}.x"
        if layer < top:
            h = layer_input(critic, critic_cache, layer + 1)[:, : len(hidden_rows(critic, layer + 1))]
            yield Passed(3, f"critic.{layer}.h", below, f"max({_short(below)} W + b, 0)", h)
            below = f"critic.{layer}.h"
    yield Passed(3, "q", below, f"{_short(below)} W + b", q)

    dq = np.full((n, 1), -1 / n, obs.dtype)
    yield Passed(8, "dq", "", "-1/N for every sample", dq)

    dz, above = dq, "dq"
    for layer in range(top, critic.action_layer, -1):
        x = layer_input(critic, critic_cache, layer)
        dh = linear_backward_input(dz, hidden_rows(critic, layer))
        yield Passed(4, f"critic.{layer - 1}.dh", above, f"{_short(above)} W^T", dh)
        dz = relu_backward(dh.copy(), x)
        yield Passed(4, f"critic.{layer - 1}.dz", f"critic.{layer - 1}.dh", "dh [h > 0]", dz)
        above = f"critic.{layer - 1}.dz"
    dact = linear_backward_input(dz, action_rows(critic))
    yield Passed(4, "dact", above, f"{_short(above)} W^T with the action's rows of W", dact)
    yield Passed(4, "dq_dact", "dact", "-N dact: dQ/da itself, for every sample", -n * dact)

    dz = tanh_backward(dact, act)
    yield Passed(7, f"actor.{last}.dz", "dact", "dact (1 - act^2): the tanh'", dz)
    dtheta = actor._replace(params=np.empty_like(actor.params))
    for layer in range(last, -1, -1):
        x, above = layer_input(actor, actor_cache, layer), f"actor.{layer}.dz"
        dweight, dbias = weight(dtheta, dtheta.params, layer), bias(dtheta, dtheta.params, layer)
        linear_backward_weights(x, dz, dweight, dbias)
        below = "obs" if layer == 0 else "h below"
        yield Passed(7, f"actor.{layer}.dweight", above, f"({below})^T dz", dweight)
        yield Passed(7, f"actor.{layer}.dbias", above, "sum of dz over the batch", dbias)
        if layer > 0:
            dh = linear_backward_input(dz, hidden_rows(actor, layer))
            yield Passed(7, f"actor.{layer - 1}.dh", above, "dz W^T", dh)
            dz = relu_backward(dh.copy(), x)
            yield Passed(7, f"actor.{layer - 1}.dz", f"actor.{layer - 1}.dh", "dh [h > 0]", dz)
    yield Passed(7, "dtheta", "dact", "all of the above, as one vector", dtheta.params)


def _short(name: str) -> str:
    return name.split(".")[-1]


@dataclass(frozen=True)
class Hop:
    """One array of a trace. factor: its norm over that of the array it was made from (`of`); NaN for a first one.

    zeros: share of elements that are exactly 0.
    """

    step: int
    name: str
    of: str
    formula: str
    array: FloatArray = field(repr=False)
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    @cached_property
    def norm(self) -> float:
        """Root of the sum of squares."""
        return norm(self.array)

    @property
    def rms(self) -> float:
        """Root of the mean square: norm / sqrt(number of elements)."""
        return self.norm / math.sqrt(max(1, self.array.size))

    @property
    def low(self) -> float:
        """Smallest element."""
        return float(self.array.min())

    @property
    def high(self) -> float:
        """Largest element."""
        return float(self.array.max())

    @property
    def zeros(self) -> float:
        """Share of elements that are exactly 0."""
        return float(np.mean(self.array == 0))


def norm(array: FloatArray) -> float:
    """Root of the sum of squares, summed in float64."""
    flat = array.ravel()
    return math.sqrt(float(np.dot(flat, flat) if flat.dtype == np.float64 else np.dot(wide := flat.astype("f8"), wide)))


@dataclass(frozen=True)
class Climb:
    """What a step of plain gradient descent, so short that Q is nearly straight along it, does to mean Q(s, mu(s)).

    lr: a ten-thousandth of |theta| / |dtheta|. predicted: lr |dtheta|^2. actual: measured, in float64. adam: what the
    step that the agent really makes does.
    """

    lr: float
    predicted: float
    actual: float
    adam: float

    @property
    def ratio(self) -> float:
        """actual / predicted: 1 but for curvature and kinks; NaN where there is no gradient."""
        return self.actual / self.predicted if self.predicted else math.nan


@dataclass(frozen=True)
class Trace:
    """One actor update. `print(trace)` is a table with the ten steps as headings; trace["dact"] is a hop by name."""

    hops: tuple[Hop, ...]
    climb: Climb
    parameters: int  # of the actor
    updates: int  # made before this one

    def __getitem__(self, name: str) -> Hop:
        """The hop of this name. Raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Hop]:
        return {hop.name: hop for hop in self.hops}

    @cached_property
    def arrays(self) -> dict[str, FloatArray]:
        """Every array by name."""
        return {hop.name: hop.array for hop in self.hops}

    @property
    def n(self) -> int:
        """Size of the batch."""
        return len(self["obs"].array)

    def __str__(self) -> str:
        named = max(len(hop.name) for hop in self.hops)
        shaped = max(len(_shape(hop.shape)) for hop in self.hops)
        head = (
            f"    {'tensor':<{named}}  {'shape':<{shaped}} {'norm':>9} {'RMS':>9} {'lowest':>10} {'highest':>10} "
            f"{'zeros':>6} {'x norm':>9}  formula"
        )
        lines = [head]
        for step, heading in HEADINGS.items():
            lines.append(f"{step:>2}  {heading}{self._detail(step)}")
            for hop in (hop for hop in self.hops if hop.step == step):
                factor = "" if math.isnan(hop.factor) else f"{hop.factor:.3g}"
                lines.append(
                    f"    {hop.name:<{named}}  {_shape(hop.shape):<{shaped}} {hop.norm:>9.3g} {hop.rms:>9.3g} "
                    f"{hop.low:>10.3g} {hop.high:>10.3g} {hop.zeros:>6.0%} {factor:>9}  {hop.formula}"
                )
        lines.append("x norm: the norm over that of the tensor it was made from; dx is d(loss)/dx, and has x's shape")
        return "\n".join(lines)

    def _detail(self, step: int) -> str:
        if step == 6:
            rows, act_dim = self["act"].shape
            nbytes = rows * act_dim * self.parameters * self["act"].array.itemsize
            return f"; it has {rows * act_dim:,} x {self.parameters:,} elements, {nbytes / 1e6:,.3g} MB"
        if step == 10:
            c = self.climb
            ratio = "" if math.isnan(c.ratio) else f", {c.ratio:.4f} of it"
            return (
                f"\n    a small plain step: lr |dtheta|^2 = {c.predicted:.4g} predicted, {c.actual:.4g} measured{ratio}"
                f"\n    the step that Adam makes: {c.adam:+.4g}"
            )
        return ""

    def to_json(self) -> str:
        """{"updates", "n", "climb": {...}, "hops": [{"step", "name", "of", "formula", "shape", "norm", ...}]}."""
        record = {
            "updates": self.updates,
            "n": self.n,
            "climb": {**vars(self.climb), "ratio": self.climb.ratio},
            "hops": [hop_record(hop) for hop in self.hops],
        }
        return json.dumps(finite(record), indent=2, allow_nan=False)


def hop_record(hop: Hop) -> dict[str, Any]:
    """A hop without its array."""
    numbers = {name: getattr(hop, name) for name in ("norm", "rms", "low", "high", "zeros", "factor")}
    return {"step": hop.step, "name": hop.name, "of": hop.of, "formula": hop.formula, "shape": hop.shape, **numbers}


class Look(NamedTuple):
    """One update, looked at from inside. passed: the actor's way, dtheta last.

    dcritic: the critic's gradient; actor_step, critic_step: what Adam adds; each laid out as the network. critic: after
    its step. q, target_q (N,): of the replayed actions, before it.
    """

    passed: list[Passed]
    critic: Network
    dcritic: Network
    critic_step: Network
    actor_step: Network
    q: FloatArray
    target_q: FloatArray


def look(learner: Learner, batch: Batch, rates: Rates) -> Look:
    """What `ddpg.update` would do with this batch, but for the target networks. Nothing given is changed."""
    target_q = bellman_target(learner.target_actor, learner.target_critic, batch, rates.gamma)
    _, dcritic, q = critic_gradient(learner.critic, batch.obs, batch.act, target_q, rates.critic_weight_decay)
    critic, critic_step = _stepped(learner.critic, dcritic, learner.critic_adam, rates.critic_lr)
    passed = list(walk(learner.actor, critic, batch.obs))
    _, actor_step = _stepped(learner.actor, passed[-1].array, learner.actor_adam, rates.actor_lr)
    return Look(passed, critic, critic._replace(params=dcritic), critic_step, actor_step, q, target_q)


def _stepped(network: Network, gradient: FloatArray, state: Adam, lr: float) -> tuple[Network, Network]:
    """The network after a step of Adam, and the step."""
    moved = copy_network(network)
    adam(moved.params, gradient, Adam(state.m.copy(), state.v.copy(), state.t.copy()), lr)
    return moved, moved._replace(params=moved.params - network.params)


def trace(agent: DDPG, batch: Batch) -> Trace:
    """Trace the actor's part of `agent.update(batch)`: after the critic's step, every array on the actor's way.

    batch: N transitions, as for `update`. In the agent's own dtype; the agent is left as it was. Raises ShapeError.
    """
    checked = agent.checked(batch)
    seen = look(agent.learner, checked, agent.rates)
    passed = seen.passed
    for name, array in named_parameters(seen.actor_step).items():
        layer, kind = name.split(".")
        gradient = f"actor.{layer}.d{kind}"
        passed.append(Passed(9, f"actor.{layer}.step_{kind}", gradient, f"what Adam adds to the {kind}", array))
    norms = {name: norm(array) for _, name, _, _, array in passed}
    hops = (Hop(*p, factor=norms[p.name] / norms[p.of] if p.of and norms[p.of] else math.nan) for p in passed)
    climb = _climb(_exact(agent.actor), _exact(seen.critic), checked.obs.astype("f8"), _exact(seen.actor_step).params)
    return Trace(tuple(hops), climb, agent.actor.params.size, agent.updates)


def _exact(network: Network) -> Network:
    return network._replace(params=network.params.astype("f8"))


def _climb(actor: Network, critic: Network, obs: FloatArray, adam_step: FloatArray) -> Climb:
    """In float64. critic: after its step."""
    dtheta, _, q = actor_gradient(actor, critic, obs)
    length = norm(dtheta)
    lr = 1e-4 * norm(actor.params) / length if length else 0.0

    def rise(step: FloatArray) -> float:
        _, _, moved_q = actor_gradient(actor._replace(params=actor.params + step), critic, obs)
        return float(np.mean(moved_q - q))

    return Climb(lr, lr * length**2, rise(-lr * dtheta), rise(adam_step))


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ",".join(map(str, shape)) + ")"
