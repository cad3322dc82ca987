"""The trace of one actor update: a table from the states to the actor's new weights, with the ten steps as headings."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from html import escape
from typing import Any, NamedTuple

import numpy as np

from ..agent import DDPG
from ..ddpg import actor_gradient
from ..fast.jit import FloatArray
from ..gradcheck import json_value, tuple_text
from ..networks import Network, actor_forward, backward_to_weights, named_parameters
from ..replay import Batch
from ..runs.directory import load, load_batch, load_info, reward_range
from ..showing import html_table, text_table
from .diagnosis import Diagnosis, Statistics, diagnose, explain, statistics
from .four_routes import Chain, Routes, compare
from .story import MEASURE, Story, factor, gradient_way, tell
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


STRAIGHT = 1e-3  # what a measured rise may be off the predicted one
DROWNED = 1e-12  # a rise of less than this times |Q| is lost in float64's rounding


@dataclass(frozen=True)
class Hop:
    """One array of a trace. factor: its RMS over that of the array it was made from (`of`); NaN for a first one."""

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
    def rms(self) -> float:
        """Root of the mean square: the measure of everything here (see story.py)."""
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


class Step(NamedTuple):
    """A step of plain gradient descent. predicted: lr |dtheta|^2. actual: by how much mean Q(s, mu(s)) rose."""

    lr: float
    predicted: float
    actual: float

    @property
    def ratio(self) -> float:
        """actual / predicted; NaN where there is no gradient."""
        return self.actual / self.predicted if self.predicted else math.nan


class Climb(NamedTuple):
    """What steps do to mean Q(s, mu(s)), in float64. adam: the step that the agent really makes.

    steps: three of plain gradient descent, each a tenth of the one before. The last is so short that Q is straight
    along it (halved until what is measured is what is predicted to a thousandth, or would drown in rounding); the
    longer ones bend, and open or shut ReLUs.
    """

    steps: tuple[Step, Step, Step]
    adam: float

    @property
    def ratio(self) -> float:
        """Of the shortest step: 1; NaN where there is no gradient."""
        return self.steps[-1].ratio


@dataclass(frozen=True, repr=False)
class Trace:
    """One actor update. `print(trace)` is a table with the ten steps as headings; trace["dact"] is a hop by name.

    statistics: the row of numbers that gradients.csv has of a look. diagnoses: what is visibly wrong.
    """

    hops: tuple[Hop, ...]
    climb: Climb
    routes: Routes | None
    statistics: Statistics
    diagnoses: tuple[Diagnosis, ...]
    parameters: int  # of the actor
    updates: int  # made before this one
    algorithm: str = "ddpg"

    def __getitem__(self, name: str) -> Hop:
        """The hop of this name. Raises KeyError, which lists the names."""
        if name not in self._by_name:
            raise KeyError(f"there is no {name!r}; there are {', '.join(self._by_name)}")
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

    @cached_property
    def story(self) -> Story:
        """Where the gradient shrinks most, and why."""
        return tell(self.statistics)

    @property
    def said(self) -> list[str]:
        """The answer in words, a line each: the story, what is wrong, what only looks like it."""
        wrong = [f"wrong: {diagnosis}" for diagnosis in self.diagnoses] or ["nothing is visibly wrong"]
        return [f"{self.story.headline};", self.story.shares, *explain(self.statistics), *wrong]

    @property
    def way(self) -> list[Hop]:
        """The hops from dq to the actor's first weight."""
        return [self[name] for name in gradient_way(self._by_name)]

    def __str__(self) -> str:
        named = max(len(hop.name) for hop in self.hops)
        shaped = max(len(tuple_text(hop.shape)) for hop in self.hops)
        head = (
            f"    {'tensor':<{named}}  {'shape':<{shaped}} {'RMS':>9} {'x RMS':>9} {'lowest':>10} {'highest':>10} "
            f"{'zeros':>6}  formula"
        )
        lines = [f"{MEASURE}; dx is d(loss)/dx, and has x's shape", "", head]
        for step, heading in HEADINGS.items():
            lines.append(f"{step:>2}  {heading}{self.detail(step)}")
            for hop in (hop for hop in self.hops if hop.step == step):
                mark = "  <- shrinks most" if hop.name == self.story.worst and self.story.factor < 1 else ""
                lines.append(
                    f"    {hop.name:<{named}}  {tuple_text(hop.shape):<{shaped}} {hop.rms:>9.3g} "
                    f"{factor_text(hop.factor):>9} {hop.low:>10.3g} {hop.high:>10.3g} {hop.zeros:>6.0%}  "
                    f"{hop.formula}{mark}"
                )
        if self.routes:
            lines += ["", str(self.routes)]
        return "\n".join([*lines, "", *self.said])

    def __repr__(self) -> str:
        title = f"Trace: after {self.updates:,} updates, N = {self.n}; print() shows all of it"
        rows = [(hop.name, tuple_text(hop.shape), f"{hop.rms:.3g}", factor_text(hop.factor)) for hop in self.way]
        table = text_table(("tensor", "shape", "RMS", "x RMS"), rows)
        return "\n".join([title, table, *self.said])

    def _repr_html_(self) -> str:
        """For notebooks: every array; colour by size, and the formula when pointed at."""
        rows, hints = [], []
        for hop in self.hops:
            numbers = (f"{hop.rms:.3g}", factor_text(hop.factor), f"{hop.low:.3g}", f"{hop.high:.3g}")
            rows.append((hop.name, tuple_text(hop.shape), *numbers))
            hints.append(f"{hop.step}. {HEADINGS[hop.step]}: {hop.formula}; zeros {hop.zeros:.0%}")
        head = ("tensor", "shape", "RMS", "x RMS", "lowest", "highest")
        table = html_table(head, rows, hints, {2: [hop.rms for hop in self.hops]})
        said = [f"Trace: after {self.updates:,} updates, N = {self.n}", *self.said]
        return "".join(f"<p>{escape(line)}</p>" for line in said) + table

    def detail(self, step: int) -> str:
        """What is to be said of a step beside its hops."""
        if step == 3 and self.algorithm == "td3":
            return "; of TD3's two critics it is the first"
        if step == 6:
            rows, act_dim = self["act"].shape
            nbytes = rows * act_dim * self.parameters * self["act"].array.itemsize
            return f"; it has {rows * act_dim:,} x {self.parameters:,} elements, {nbytes / 1e6:,.3g} MB"
        if step == 10:
            lines = ["\n    a plain step of lr    lr |dtheta|^2, the rise predicted    measured    of it"]
            for c in self.climb.steps:
                ratio = "" if math.isnan(c.ratio) else f"{c.ratio:.4f}"
                lines.append(f"    {c.lr:<21.3g} {c.predicted:<32.4g} {c.actual:<11.4g} {ratio}".rstrip())
            return "\n".join([*lines, f"    the step that Adam makes {self.climb.adam:+.4g}"])
        return ""

    def to_json(self) -> str:
        """{"updates", "n", "story", "climb", "routes", "statistics", "diagnoses", "hops": [{"step", "rms", ...}]}."""
        record = {
            "updates": self.updates,
            "n": self.n,
            "story": {**self.story._asdict(), "text": str(self.story)},
            "climb": {
                "steps": [{**step._asdict(), "ratio": step.ratio} for step in self.climb.steps],
                "adam": self.climb.adam,
            },
            "routes": [asdict(route) for route in self.routes.routes] if self.routes else None,
            "statistics": self.statistics,
            "diagnoses": [diagnosis._asdict() for diagnosis in self.diagnoses],
            "explanations": explain(self.statistics),
            "hops": [hop_record(hop) for hop in self.hops],
        }
        return json.dumps(json_value(record), indent=2, allow_nan=False)


def factor_text(number: float) -> str:
    """A hop's factor as written in tables."""
    return "" if math.isnan(number) else f"{number:.3g}"


def hop_record(hop: Hop) -> dict[str, Any]:
    """A hop without its array."""
    numbers = {name: getattr(hop, name) for name in ("rms", "factor", "low", "high", "zeros")}
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
    row = statistics(agent.learner, seen, rewards, agent.config.gamma**agent.config.n_step)
    passed = seen.passed
    for name, array in named_parameters(seen.actor_step).items():
        layer, kind = name.split(".")
        gradient = f"actor.{layer}.d{kind}"
        passed.append(Passed(9, f"actor.{layer}.step_{kind}", gradient, f"what Adam adds to the {kind}", array))
    sizes = {p.name: rms(p.array) for p in passed}
    hops = (Hop(*p, factor=factor(sizes[p.of], sizes[p.name]) if p.of else math.nan) for p in passed)
    chain = Chain(_exact(agent.actor), _exact(seen.critic), checked.obs.astype("f8"))
    climb = _climb(*chain, _exact(seen.actor_step).params)
    compared = compare(chain) if routes else None
    found = tuple(diagnose(row))
    size, algorithm = agent.actor.params.size, agent.config.algorithm
    return Trace(tuple(hops), climb, compared, row, found, size, agent.updates, algorithm)


def trace_run(
    directory: str | os.PathLike[str], batch_size: int | None = None, seed: int = 0, routes: bool = True
) -> Trace:
    """Trace a run's agent on transitions it learnt from. batch_size None: the run's own. Raises RunError."""
    n = batch_size or load_info(directory).config.batch_size
    return trace(load(directory), load_batch(directory, n, seed), routes, reward_range(directory))


def _exact(network: Network) -> Network:
    return network._replace(**{
        name: part.astype("f8") for name, part in network._asdict().items() if getattr(part, "dtype", None) == "f4"
    })  # fmt: skip


def _climb(actor: Network, critic: Network, obs: FloatArray, adam_step: FloatArray) -> Climb:
    """critic: after its step."""
    dtheta, dact, q = actor_gradient(actor, critic, obs)
    length = norm(dtheta)
    along = length**2
    if getattr(actor, "unbounded", False):  # not the gradient of mean Q, so not as far uphill
        _, cache = actor_forward(actor, obs)
        along = float(dtheta @ backward_to_weights(actor, dact, cache))

    def rise(step: FloatArray) -> float:
        _, _, moved_q = actor_gradient(actor._replace(params=actor.params + step), critic, obs)
        return float(np.mean(moved_q - q))

    def step(lr: float) -> Step:
        return Step(lr, lr * along, rise(-lr * dtheta))

    straight = step(1e-4 * norm(actor.params) / length if length else 0.0)
    drowned = DROWNED * float(np.abs(q).max())
    while abs(straight.ratio - 1) > STRAIGHT and straight.predicted > 2 * drowned:
        straight = step(straight.lr / 2)
    return Climb((step(100 * straight.lr), step(10 * straight.lr), straight), rise(adam_step))
