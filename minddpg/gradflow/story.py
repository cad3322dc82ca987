"""The measure, and the answer to "where does my gradient shrink, and why?", in numbers and in words.

The measure is the RMS of an array, the root of the mean square of its elements; a hop's factor is the RMS of an array
over the RMS of the one it was made from. It is the RMS and not the norm, because the norm also counts elements: where
one number fans out to 64 of the same size the norm grows eightfold, and no gradient has become larger.

Everything is told by a row of numbers (see diagnosis.statistics), so that the table, the pictures, the report and
gradients.csv cannot tell different stories.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

MEASURE = "RMS: root of the mean square; x RMS: the RMS over that of the array it was made from"


def factor(before: float, behind: float) -> float:
    """By how much an RMS has grown or shrunk; NaN where nothing arrives that could, or no finite number."""
    return behind / before if 0 < before < math.inf else math.nan


def percent(share: float) -> str:
    """As written in sentences."""
    return f"{100 * share:.0f} %"


def gradient_way(names: Iterable[str]) -> list[str]:
    """Of arrays by name, those from dq to actor.0.dweight, in the order the gradient passes them."""
    ends = ("dq", "dact", "actor.0.dweight")
    return [name for name in names if name in ends or name.endswith((".dh", ".dz"))]


def way_of(row: Mapping[str, float]) -> dict[str, float]:
    """RMS by name of the arrays from dq to actor.0.dweight."""
    prefix = "rms."
    names = [column.removeprefix(prefix) for column in row if column.startswith(prefix)]
    return {name: row[prefix + name] for name in gradient_way(names)}


class Story(NamedTuple):
    """What a gradient's way is like, from dq to the actor's first weight.

    worst: the array behind the hop that shrinks most, and its factor; where, why: that hop in words. died: whether
    nothing passes it. total, critic, actor: factors from dq to actor.0.dweight, to dact, and from there on.
    """

    worst: str
    factor: float
    where: str
    why: str
    total: float
    critic: float
    actor: float

    @property
    def died(self) -> bool:
        """Whether the gradient is exactly 0 behind the worst hop."""
        return self.factor == 0

    @property
    def headline(self) -> str:
        """The worst hop."""
        if math.isnan(self.factor):
            return "the gradient is not finite, or 0 from the start"
        why = f": {self.why}" if self.why else ""
        if self.died:
            return f"dies at {self.where}{why}"
        if self.factor >= 1:
            return f"shrinks nowhere (least growth: {self.where}, x {self.factor:.2g})"
        return f"shrinks most at {self.where} (x {self.factor:.2g}){why}"

    @property
    def shares(self) -> str:
        """All of the way, and whose share is what."""
        return (
            f"from dq to the actor's first weight x {self.total:.2g} in all; "
            f"the critic's share x {self.critic:.2g}, the actor's x {self.actor:.2g}"
        )

    def __str__(self) -> str:
        return f"{self.headline}; {self.shares}"


def tell(row: Mapping[str, float]) -> Story:
    """The story of a row of numbers (see diagnosis.statistics). Raises KeyError where it is none."""
    way = way_of(row)
    dq, dact, end = way["dq"], way["dact"], way["actor.0.dweight"]
    hops = {name: factor(way[before], way[name]) for before, name in pairwise(way)}
    known = {name: x for name, x in hops.items() if not math.isnan(x)}
    worst = min(known, key=lambda name: known[name]) if known else "dq"
    if not known or not all(map(math.isfinite, way.values())):
        return Story(worst, math.nan, "", "", math.nan, math.nan, math.nan)
    where, why = place(worst, row)
    return Story(worst, known.get(worst, math.nan), where, why, factor(dq, end), factor(dq, dact), factor(dact, end))


def place(name: str, row: Mapping[str, float]) -> tuple[str, str]:
    """The hop into an array of the way, in words; and its cause, "" where the row does not tell it."""
    if name == "dact":
        return "the action's weights in the critic", _said(row, "action.weight_rms", "they have RMS {:.2g}")
    if name == "actor.0.dweight":
        return "the sum over the batch", _said(row, "rms.obs", "samples disagree; the observations have RMS {:.2g}")
    network, layer, kind = name.split(".")
    if f"rms.{network}.{layer}.dh" not in row:  # no ReLU: the actor's last layer
        if "room" in row:
            return "the inverted gradient", _said(row, "room", "on average {:.2g} of the range is left to the bound")
        return "tanh'", _said(row, "saturated", "{:.0%} of the actions are beyond 0.99")
    if kind == "dz":
        of, normalised = f"of the {network}'s layer {layer}", f"{network}.{layer}.gamma_rms" in row
        of = f"and the normalisation {of}" if normalised else of
        if f"{network}.{layer}.slope" in row:
            return f"the tanh' {of}", _said(row, f"{network}.{layer}.slope", "it is {:.2g} on average")
        return f"the ReLUs {of}", _said(row, f"{network}.{layer}.shut", "{:.0%} are shut")
    above = f"{network}.{int(layer) + 1}"
    return f"the weights of the {network}'s layer {int(layer) + 1}", _said(
        row, f"{above}.weight_rms", "they have RMS {:.2g}"
    )


def _said(row: Mapping[str, float], column: str, text: str) -> str:
    return text.format(row[column]).replace("%", " %") if math.isfinite(row.get(column, math.nan)) else ""
