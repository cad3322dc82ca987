"""The trace of one actor update: a table from the states to the actor's new weights, with the ten steps as headings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..agent import DDPG
from ..ddpg import actor_gradient
from ..fast.jit import FloatArray
from ..gradcheck import json_value, tuple_text
from ..networks import Network, named_parameters
from ..replay import Batch
from .diagnosis import Diagnosis, Statistics, diagnose, statistics
from .four_routes import Chain, Routes, compare
from .way import Passed, look, norm, rms

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
        return rms(self.array)

    @property
    def low(self) -> float:
        """Smallest element."""
        return float(self.array.min()) + 0.0  # no -0

    @property
    def high(self) -> float:
        """Largest element."""
        return float(self.array.max()) + 0.0

    @property
    def zeros(self) -> float:
        """Share of elements that are exactly 0."""
        return float(np.mean(self.array == 0))


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
    routes: Routes | None
    statistics: Statistics
    diagnoses: tuple[Diagnosis, ...]
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
        shaped = max(len(tuple_text(hop.shape)) for hop in self.hops)
        head = (
            f"    {'tensor':<{named}}  {'shape':<{shaped}} {'norm':>9} {'RMS':>9} {'lowest':>10} {'highest':>10} "
            f"{'zeros':>6} {'x norm':>9}  formula"
        )
        lines = [head]
        for step, heading in HEADINGS.items():
            lines.append(f"{step:>2}  {heading}{self.detail(step)}")
            for hop in (hop for hop in self.hops if hop.step == step):
                factor = "" if math.isnan(hop.factor) else f"{hop.factor:.3g}"
                lines.append(
                    f"    {hop.name:<{named}}  {tuple_text(hop.shape):<{shaped}} {hop.norm:>9.3g} {hop.rms:>9.3g} "
                    f"{hop.low:>10.3g} {hop.high:>10.3g} {hop.zeros:>6.0%} {factor:>9}  {hop.formula}"
                )
        lines.append("x norm: the norm over that of the tensor it was made from; dx is d(loss)/dx, and has x's shape")
        if self.routes:
            lines += ["", str(self.routes)]
        lines += ["", *(f"wrong: {diagnosis}" for diagnosis in self.diagnoses)]
        return "\n".join(lines if self.diagnoses else [*lines, "nothing is visibly wrong"])

    def detail(self, step: int) -> str:
        """What is to be said of a step beside its hops."""
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
        """{"updates", "n", "climb", "routes", "statistics", "diagnoses", "hops": [{"step", "name", "norm", ...}]}."""
        record = {
            "updates": self.updates,
            "n": self.n,
            "climb": {**vars(self.climb), "ratio": self.climb.ratio},
            "routes": [asdict(route) for route in self.routes.routes] if self.routes else None,
            "statistics": self.statistics,
            "diagnoses": [diagnosis._asdict() for diagnosis in self.diagnoses],
            "hops": [hop_record(hop) for hop in self.hops],
        }
        return json.dumps(json_value(record), indent=2, allow_nan=False)


def hop_record(hop: Hop) -> dict[str, Any]:
    """A hop without its array."""
    numbers = {name: getattr(hop, name) for name in ("norm", "rms", "low", "high", "zeros", "factor")}
    return {"step": hop.step, "name": hop.name, "of": hop.of, "formula": hop.formula, "shape": hop.shape, **numbers}


def trace(agent: DDPG, batch: Batch, routes: bool = True, rewards: tuple[float, float] | None = None) -> Trace:
    """Trace the actor's part of `agent.update(batch)`: after the critic's step, every array on the actor's way.

    batch: N transitions, as for `update`. In the agent's own dtype; the agent is left as it was. routes: whether to
    compare four routes to the same gradient (see four_routes.py). rewards: the lowest and the highest, for the bounds
    of Q; None: the batch's. Raises ShapeError.
    """
    checked = agent.checked(batch)
    seen = look(agent.learner, checked, agent.rates)
    rewards = rewards or (float(checked.rew.min()), float(checked.rew.max()))
    row = statistics(agent.learner, seen, rewards, agent.config.gamma)
    passed = seen.passed
    for name, array in named_parameters(seen.actor_step).items():
        layer, kind = name.split(".")
        gradient = f"actor.{layer}.d{kind}"
        passed.append(Passed(9, f"actor.{layer}.step_{kind}", gradient, f"what Adam adds to the {kind}", array))
    norms = {name: norm(array) for _, name, _, _, array in passed}
    hops = (Hop(*p, factor=norms[p.name] / norms[p.of] if p.of and norms[p.of] else math.nan) for p in passed)
    chain = Chain(_exact(agent.actor), _exact(seen.critic), checked.obs.astype("f8"))
    climb = _climb(*chain, _exact(seen.actor_step).params)
    compared = compare(chain) if routes else None
    found = tuple(diagnose(row))
    return Trace(tuple(hops), climb, compared, row, found, agent.actor.params.size, agent.updates)


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
