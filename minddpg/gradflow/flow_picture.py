"""The gradient's way as a picture: values left to right above, d(loss)/d(value) right to left below.

Every array is a bar and every way into it an arrow. Thickness and colour of the gradients say their RMS, on a scale
from the smallest to the largest that is shown; the hop that shrinks most is framed. The parts have SVG ids, so that a
page can change them: `box:NAME`, `arrow:NAME`, `head:NAME`, `rms:NAME`, `factor:NAME`, `mark:NAME`, NAME as in a trace.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from .canvas import BLACK, BLUE, GREY, RED, new_figure, style
from .story import gradient_way
from .tracing import Hop, Trace, trace_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lengths are in points everywhere in this file, and in the SVG.
THINNEST, THICKEST = 2.0, 38.0
SHADES = 120
PLAIN, PLAIN_THICKNESS = "#b9c6d2", 12.0  # of values, which have no gradient's colour
ZERO = "#9a9a9a"
ARROW_SHARE = 0.28  # an arrow's thickness, of its bar's

PITCH, BAR, LEFT, RIGHT = 77.0, 44.0, 8.0, 84.0
HEAD, HEAD_HALF, MARK, WEIGHT_MARK, WEDGE = 6.0, 7.0, 34.0, 148.0, 60
LINE, SMALL, MIDDLE, NORMAL, LARGE = 9.5, 6.5, 7.2, 7.5, 11.0
HALF = THICKEST / 2
# Heights of the rows' middle lines; of the hanging bars, their tops.
HEIGHT = 502.0
FORWARD, BACKWARD, WEIGHTS, THETA = 376.0, 236.0, 172.0, 80.0
OBS_RAIL, ACT_RAIL, SUM_RAIL = FORWARD + HALF + 12, FORWARD - HALF - 3 * LINE - 13, THETA + 16


class Scale(NamedTuple):
    """Whole powers of ten around every RMS that is shown."""

    low: int
    high: int


def scale_of(sizes: Iterable[float]) -> Scale:
    """The scale for these RMS; those that are 0 or no number have no place on it."""
    logs = [math.log10(rms) for rms in sizes if 0 < rms < math.inf]
    low = math.floor(min(logs, default=0.0))
    return Scale(low, max(low + 1, math.ceil(max(logs, default=0.0))))


class Stroke(NamedTuple):
    """How an RMS looks. thickness: of a bar, in points. colour: its place in colours(); -1, grey and dashed: no RMS."""

    thickness: float
    colour: int


def stroke(rms: float, scale: Scale) -> Stroke:
    """Thickness and shade by the RMS's place on the scale. Exactly 0, or not a number, has none."""
    if rms == 0 or math.isnan(rms):
        return Stroke(THINNEST, -1)
    log = math.log10(rms) if rms < math.inf else math.inf
    place = min(max((log - scale.low) / (scale.high - scale.low), 0.0), 1.0)
    return Stroke(round(THINNEST + place * (THICKEST - THINNEST), 2), int(place * SHADES + 0.5))


@cache
def colours() -> tuple[str, ...]:
    """plasma without its palest part, from the lowest RMS to the highest; any colour vision tells them apart."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return tuple(to_hex(colormaps["plasma_r"](0.08 + 0.92 * shade / SHADES)) for shade in range(SHADES + 1))


def colour(place: int) -> str:
    """Of a place in colours(); grey for -1."""
    return colours()[place] if place >= 0 else ZERO


def rms_text(rms: float) -> str:
    """As written at a bar."""
    return f"RMS {rms:.3g}"


def factor_text(name: str, factor: float) -> str:
    """As written at an arrow. factor: NaN where nothing arrives that could grow or shrink."""
    if math.isnan(factor):
        return "-"
    if name == "dtheta":  # not on the way, but all of it
        return f"x{factor:.2g} of dact"
    if 100 <= factor < 1e5:
        return f"x{factor:.0f}"  # and not 1.6e+02
    return f"x{factor:.2g}" if factor else "x0 dies"


def slope_text(row: Mapping[str, float]) -> str:
    """Mean of tanh' = 1 - act^2, as written at the tanh'; with inverted gradients, of what is in its place."""
    return f"mean {row['room']:.2g}" if "room" in row else f"mean {max(0.0, 1 - row['rms.act'] ** 2):.2g}"


def title_text(updates: float, n: int) -> str:
    """The picture's heading."""
    return f"The gradient's way into the actor: after {updates:,.0f} updates, N = {n} samples"


def shape_text(hop: Hop) -> str:
    """With N for the size of the batch."""
    rest = [str(size) for size in hop.shape[1:]]
    first = "N" if is_batched(hop.name) else str(hop.shape[0])
    return "(" + ", ".join([first, *rest]) + ")"


def is_batched(name: str) -> bool:
    """Whether an array of this name has a row per sample; gradients of parameters do not."""
    return name != "dtheta" and not name.endswith(("weight", "bias"))


def is_gradient(name: str) -> bool:
    """Whether an array of this name is d(loss)/d(something), and has the scale's colours."""
    return name.split(".")[-1].startswith("d")


def look_of(name: str, rms: float, scale: Scale) -> Stroke:
    """How an array of this name and RMS is drawn: values are all alike, unless they are exactly 0."""
    return stroke(rms, scale) if is_gradient(name) or rms == 0 else Stroke(PLAIN_THICKNESS, 0)


def drawn(trace: Trace) -> list[Hop]:
    """The hops that the picture shows: all but Adam's steps."""
    return [hop for hop in trace.hops if hop.step < 9]


# --- where things stand -----------------------------------------------------------------------------------------------

Point = tuple[float, float]


class Place(NamedTuple):
    """A bar's middle, or the middle of its top edge if it hangs; its width."""

    x: float
    y: float
    hangs: bool = False
    width: float = BAR


class Plan(NamedTuple):
    """last, top: the last layer of actor and critic; joined: the critic's layer that the action enters."""

    places: dict[str, Place]
    last: int
    top: int
    joined: int
    tanh_x: float
    actor: Point  # from, to
    critic: Point
    width: float


def plan(trace: Trace) -> Plan:
    """One column per layer: two bars wide where there is something to pass backwards, one where there is not."""
    names = [hop.name for hop in trace.hops]
    last = next(int(name.split(".")[1]) for name in names if name.startswith("actor.") and name.endswith(".z"))
    top = sum(name.startswith("critic.") and name.endswith(".h") for name in names)
    joined = next(int(name.split(".")[1]) for name in names if name.startswith("critic.") and name.endswith(".x"))
    places: dict[str, Place] = {}
    x = LEFT + PITCH / 2
    places["obs"] = Place(x, FORWARD)
    for layer in range(last + 1):
        x += PITCH
        name = "h" if layer < last else "z"
        places[f"actor.{layer}.{name}"] = Place(x + (PITCH / 2 if layer < last else 0), FORWARD)
        places[f"actor.{layer}.dz"] = Place(x, BACKWARD)
        places[f"actor.{layer}.dweight"] = Place(x, WEIGHTS, hangs=True)
        x += PITCH
        if layer < last:
            places[f"actor.{layer}.dh"] = Place(x, BACKWARD)
        places[f"actor.{layer}.dbias"] = Place(x, WEIGHTS, hangs=True)
    tanh_x, actor = x, (LEFT + PITCH, x + PITCH / 2)
    places["dtheta"] = Place(sum(actor) / 2, THETA, hangs=True, width=actor[1] - actor[0] - PITCH + BAR)
    x += PITCH
    places["act"], places["dact"], places["dq_dact"] = Place(x, FORWARD), Place(x, BACKWARD), Place(x, WEIGHTS, True)
    critic_left = x + PITCH / 2
    for layer in range(top + 1):
        if layer == joined:
            x += PITCH
            places[f"critic.{layer}.x"] = Place(x, FORWARD)
        if layer < top:
            x += PITCH
            if layer < joined:
                places[f"critic.{layer}.h"] = Place(x, FORWARD)
                continue
            places[f"critic.{layer}.h"] = Place(x + PITCH / 2, FORWARD)
            places[f"critic.{layer}.dz"] = Place(x, BACKWARD)
            x += PITCH
            places[f"critic.{layer}.dh"] = Place(x, BACKWARD)
    x += PITCH
    places["q"], places["dq"] = Place(x, FORWARD), Place(x, BACKWARD)
    return Plan(places, last, top, joined, tanh_x, actor, (critic_left, x + PITCH / 2), x + PITCH / 2 + RIGHT)


def _route(hop: Hop, p: Plan) -> list[Point]:
    """The corners of the arrow into a hop."""
    here = p.places[hop.name]
    if hop.name == "dtheta":
        return [(here.x, SUM_RAIL), (here.x, here.y)]
    start = p.places[hop.of]
    if here.hangs:
        return [(start.x, start.y), (here.x, here.y)]
    if hop.of == "obs" and hop.name.startswith("critic"):
        return _over(start, here)
    way = math.copysign(1, here.x - start.x)
    out, into = (start.x + way * BAR / 2, start.y), (here.x - way * BAR / 2, here.y)
    if hop.name == f"critic.{p.joined}.x" and p.joined > 0:
        left, right = start.x + PITCH / 2, here.x - PITCH / 2
        return [out, (left, start.y), (left, ACT_RAIL), (right, ACT_RAIL), (right, here.y), into]
    return [out, into]


def _over(start: Place, end: Place) -> list[Point]:
    return [(start.x, start.y), (start.x, OBS_RAIL), (end.x, OBS_RAIL), (end.x, end.y + PLAIN_THICKNESS / 2)]


def _factor_place(hop: Hop, p: Plan, route: list[Point]) -> tuple[float, float, str]:
    """Where an arrow's number stands: x, y, horizontal alignment."""
    here = p.places[hop.name]
    above = THICKEST * ARROW_SHARE / 2 + 5
    if hop.name == "dtheta":
        return here.x + 10, (SUM_RAIL + THETA) / 2 + 2, "left"
    if hop.name.endswith("dbias"):
        return here.x - 8, here.y + 19, "left"
    if here.hangs:
        return here.x - 9, here.y + 15, "right"
    if len(route) > 2:  # a way around: at its long side
        (x0, y), (x1, _) = max(pairwise(route), key=lambda ends: abs(ends[1][0] - ends[0][0]))
        return (x0 + x1) / 2, y + (above if y > FORWARD else -above), "center"
    if hop.name == "act" or hop.of == "dact":  # beside the tanh
        return (route[-1][0] + p.tanh_x) / 2 + math.copysign(6, here.x - p.tanh_x), here.y + above, "center"
    return (route[0][0] + route[-1][0]) / 2, here.y + above, "center"


# --- drawing ----------------------------------------------------------------------------------------------------------


@style()
def flow_figure(trace: Trace | str | os.PathLike[str], scale: Scale | None = None) -> Figure:
    """The trace as a picture; its size grows with the number of layers.

    trace: or a run directory, whose agent is traced. scale: for more pictures than one; None: its own range. Numbers at
    arrows: RMS over that of the array it was made from, the quotient of the two that stand beside it. Raises PlotError
    where matplotlib is missing, RunError.
    """
    if not isinstance(trace, Trace):
        trace = trace_run(trace, routes=False)
    p = plan(trace)
    scale = scale or scale_of(hop.rms for hop in drawn(trace) if is_gradient(hop.name))
    figure = new_figure(p.width / 72, HEIGHT / 72)
    figure.set_layout_engine("none")  # every place is known
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, p.width), ylim=(0, HEIGHT))
    axes.set_axis_off()
    _background(axes, p, trace)
    _plain_lines(axes, p)
    for hop in drawn(trace):
        look = look_of(hop.name, hop.rms, scale)
        if hop.of:
            _arrow(axes, hop, p, look, hop.name == trace.story.worst)
        _bar(axes, hop, p, look)
    _tanh(axes, p, trace.statistics)
    _legend(axes, p, scale)
    return figure


def _text(axes: Any, x: float, y: float, text: str, gid: str | None = None, **looks: Any) -> None:
    settings = {"fontsize": SMALL, "ha": "center", "va": "center", "color": BLACK} | looks
    axes.text(x, y, text, gid=gid, **settings)


def _background(axes: Any, p: Plan, trace: Trace) -> None:
    from matplotlib.patches import Rectangle

    _text(axes, LEFT, HEIGHT - 13, title_text(trace.updates, trace.n), "title", fontsize=LARGE, ha="left")
    story = trace.story
    _text(axes, LEFT, HEIGHT - 28, story.headline, "headline", fontsize=LARGE - 2, ha="left", color=RED, weight="bold")
    _text(axes, LEFT, HEIGHT - 41, story.shares, "shares", fontsize=LARGE - 2, ha="left")
    for name, (left, right), tint in (
        ("actor: act = mu(obs)", p.actor, "#e6f1fa"),
        ("critic: q = Q(obs, act)", p.critic, "#fdf0d8"),
    ):
        axes.add_patch(Rectangle((left, 4), right - left, HEIGHT - 76, facecolor=tint, edgecolor="none"))
        _text(axes, left, HEIGHT - 64, name, fontsize=NORMAL + 1, ha="left", weight="bold")
    middle = (FORWARD + BACKWARD) / 2
    axes.plot([LEFT, p.critic[1]], [ACT_RAIL - 19] * 2, color=GREY, lw=0.6, ls=(0, (1, 3)), zorder=1.5)
    x = LEFT + PITCH / 2 - 4
    _text(axes, x, ACT_RAIL - 4, "values →", fontsize=NORMAL, weight="bold", color=BLUE)
    for line, text in enumerate(("← gradients", "d(loss)/d(value)", "loss = -mean(q)")):
        looks: dict[str, Any] = {"fontsize": NORMAL, "weight": "bold", "color": BLUE} if line == 0 else {}
        _text(axes, x, middle - 32 - line * (LINE + 1), text, **looks)


def _plain_lines(axes: Any, p: Plan) -> None:
    """What belongs to the way, but is nobody's gradient: the critic's other input, the turn at the loss, the sum."""

    def line(points: list[Point], arrow: bool = True) -> None:
        axes.plot(*zip(*points, strict=True), color=GREY, lw=1.0, zorder=2, solid_joinstyle="miter")
        if arrow:
            _head(axes, points[-2], points[-1], GREY, None, 0.6)

    at = p.places
    joined = at[f"critic.{p.joined}.x"]
    if p.joined == 0:
        line(_over(at["obs"], joined))
    else:
        below = at[f"critic.{p.joined - 1}.h"]
        line([(below.x + BAR / 2, FORWARD), (joined.x - BAR / 2, FORWARD)])
    right = at["q"].x + BAR / 2
    line([(right, FORWARD), (right + 34, FORWARD), (right + 34, BACKWARD), (right, BACKWARD)])
    for place, text in enumerate(("loss =", "-mean(q);", "seed dq =", "-1/N")):
        _text(axes, right + 38, (FORWARD + BACKWARD) / 2 + LINE * (1.5 - place), text, ha="left")
    hanging = [place.x for name, place in at.items() if name.endswith(("dweight", "dbias"))]
    for x in hanging:
        line([(x, WEIGHTS - THICKEST - 3 * LINE - 3), (x, SUM_RAIL)], arrow=False)
    line([(min(hanging), SUM_RAIL), (max(hanging), SUM_RAIL)], arrow=False)


def _head(axes: Any, before: Point, tip: Point, paint: str, gid: str | None, size: float = 1.0) -> None:
    from matplotlib.patches import Polygon

    length = math.dist(before, tip)
    ux, uy = (tip[0] - before[0]) / length, (tip[1] - before[1]) / length
    back, half = HEAD * size, HEAD_HALF * size
    base = tip[0] - back * ux, tip[1] - back * uy
    corners = [tip, (base[0] - half * uy, base[1] + half * ux), (base[0] + half * uy, base[1] - half * ux)]
    axes.add_patch(Polygon(corners, facecolor=paint, edgecolor="none", lw=0, gid=gid, zorder=2.5))


def _paint(name: str, look: Stroke) -> str:
    return PLAIN if look.colour >= 0 and not is_gradient(name) else colour(look.colour)


def _arrow(axes: Any, hop: Hop, p: Plan, look: Stroke, worst: bool) -> None:
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path

    route, paint, width = _route(hop, p), _paint(hop.name, look), look.thickness * ARROW_SHARE
    (x0, y0), (x1, y1) = route[-2:]
    short = 1 - HEAD / math.dist(route[-2], route[-1])
    points = [*route[:-1], (x0 + (x1 - x0) * short, y0 + (y1 - y0) * short)]
    dashes = (0, (4, 3)) if look.colour < 0 else "-"
    axes.add_patch(
        PathPatch(Path(points), facecolor="none", edgecolor=paint, lw=width, ls=dashes, joinstyle="miter",
                  capstyle="butt", gid=f"arrow:{hop.name}", zorder=2.2)
    )  # fmt: skip
    _head(axes, route[-2], route[-1], paint, f"head:{hop.name}")
    x, y, ha = _factor_place(hop, p, route)
    on_the_way = hop.name in gradient_way([hop.name])
    looks: dict[str, Any] = {"color": RED, "weight": "bold"} if worst else {}
    _text(axes, x, y, factor_text(hop.name, hop.factor), f"factor:{hop.name}", ha=ha, **looks)
    if on_the_way:  # a frame around the number and its arrow, seen where the gradient shrinks most
        wide, high = (MARK, WEIGHTS - WEIGHT_MARK) if hop.name.endswith("dweight") else (MARK, THICKEST * 0.5 + 13)
        left = x - wide if ha == "right" else x - wide / 2
        bottom = y - high / 2 if hop.name.endswith("dweight") else y - high + 6
        axes.add_patch(
            FancyBboxPatch((left, bottom), wide, high, boxstyle="round,pad=1,rounding_size=3", facecolor="none",
                           edgecolor=RED, lw=1.8, alpha=float(worst), gid=f"mark:{hop.name}", zorder=4)
        )  # fmt: skip


def _bar(axes: Any, hop: Hop, p: Plan, look: Stroke) -> None:
    from matplotlib.patches import Rectangle

    x, y, hangs, width = p.places[hop.name]
    low = y - look.thickness if hangs else y - look.thickness / 2
    zero = look.colour < 0
    axes.add_patch(
        Rectangle((x - width / 2, low), width, look.thickness, facecolor="white" if zero else _paint(hop.name, look),
                  edgecolor=ZERO if zero else BLACK, lw=0.7, ls=(0, (4, 3)) if zero else "-", gid=f"box:{hop.name}",
                  zorder=3)
    )  # fmt: skip
    if y == BACKWARD:
        first = y + HALF + 2.6 * LINE
    else:
        first = y - (THICKEST + 0.8 * LINE if hangs else PLAIN_THICKNESS / 2 + 1.1 * LINE)
    _text(axes, x, first, hop.name, f"name:{hop.name}", fontsize=MIDDLE, weight="bold")
    _text(axes, x, first - LINE, shape_text(hop), f"shape:{hop.name}", fontsize=MIDDLE)
    _text(axes, x, first - 2 * LINE, rms_text(hop.rms), f"rms:{hop.name}", fontsize=MIDDLE)


def _tanh(axes: Any, p: Plan, row: Mapping[str, float]) -> None:
    inverted = "room" in row
    for y, name in ((FORWARD, "z" if inverted else "tanh"), (BACKWARD, "invert" if inverted else "tanh'")):
        axes.plot([p.tanh_x], [y], "o", ms=27, mfc="white", mec=RED, mew=1.6, zorder=4)
        _text(axes, p.tanh_x, y, name, fontsize=NORMAL, weight="bold", zorder=5)
    _text(axes, p.tanh_x, BACKWARD + HALF + 1.6 * LINE, "x room / 2," if inverted else "x (1 - act²),")
    _text(axes, p.tanh_x, BACKWARD + HALF + 0.6 * LINE, slope_text(row), "tanh_slope")


def _legend(axes: Any, p: Plan, scale: Scale) -> None:
    """Below the critic, where its weights' gradients would be if it got any."""
    middle = sum(p.critic) / 2
    said = "No weight of the critic gets a", "gradient here: the way back ends", "at dact and goes on in the actor."
    for line, text in enumerate(said):
        _text(axes, middle, WEIGHTS + 18 - line * (LINE + 1), text, fontsize=NORMAL, weight="bold", color=RED)
    long, left, bottom = 132.0, middle - 66, 74.0
    decades = scale.high - scale.low
    for piece in range(WEDGE):
        look = stroke(10 ** (scale.low + decades * (piece + 0.5) / WEDGE), scale)
        _scale_piece(axes, left + long * piece / WEDGE, bottom, long / WEDGE, look)
    for decade in range(0, decades + 1, max(1, math.ceil(decades / 4))):
        x = left + long * decade / decades
        axes.plot([x, x], [bottom - HALF - 4, bottom - HALF], color=BLACK, lw=0.7, zorder=3)
        _text(axes, x, bottom - HALF - 9, f"1e{scale.low + decade}")
    _text(axes, middle, bottom + HALF + 11, "thickness, colour: RMS of a gradient")
    x = left + 2
    axes.plot([x, x + 22], [bottom + HALF - 3, bottom + HALF - 3], color=ZERO, lw=THINNEST, ls=(0, (2, 1.5)), zorder=3)
    _text(axes, x + 26, bottom + HALF - 3, "exactly 0", ha="left")
    _text(axes, middle, 31, "arrows, x: the RMS over that of")
    _text(axes, middle, 31 - LINE, "the array it was made from;")
    _text(axes, middle, 31 - 2 * LINE, "framed: shrinks most")


def _scale_piece(axes: Any, x: float, y: float, width: float, look: Stroke) -> None:
    from matplotlib.patches import Rectangle

    paint = colour(look.colour)
    axes.add_patch(Rectangle((x, y - look.thickness / 2), width, look.thickness, facecolor=paint, ec=paint, lw=0.2))
