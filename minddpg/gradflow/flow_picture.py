"""The gradient's way as a picture: values left to right above, d(loss)/d(value) right to left below.

Every array is a bar and every way into it an arrow; thickness and colour say its RMS, by one scale that is the same in
every picture. The parts have SVG ids (`box:NAME`, `arrow:NAME`, `head:NAME`, `rms:NAME`, `factor:NAME`, NAME as in the
trace), so that a page can change them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from .canvas import BLACK, BLUE, GREY, RED, new_figure, style
from .tracing import Hop, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The scale. Lengths are in points everywhere in this file, and in the SVG.
LOWEST, HIGHEST = 1e-10, 1e2  # RMS; beyond, it is drawn like these
THINNEST, PER_DECADE = 2.0, 3.0
DECADES = round(math.log10(HIGHEST / LOWEST))
THICKEST = THINNEST + PER_DECADE * DECADES
COLOURS_PER_DECADE = 10
ZERO = "#9a9a9a"
ARROW_SHARE = 0.28  # an arrow's thickness, of its bar's
FADING = 1e-3  # a factor below this is red

PITCH, BAR, LEFT, RIGHT = 77.0, 44.0, 8.0, 84.0
HEAD, HEAD_HALF = 6.0, 7.0
LINE, SMALL, MIDDLE, NORMAL, LARGE = 9.5, 6.5, 7.2, 7.5, 11.0
HALF = THICKEST / 2
# Heights of the rows' middle lines; of the hanging bars, their tops.
HEIGHT = 472.0
FORWARD, BACKWARD, WEIGHTS, THETA = 376.0, 236.0, 172.0, 80.0
OBS_RAIL, ACT_RAIL, SUM_RAIL = FORWARD + HALF + 12, FORWARD - HALF - 3 * LINE - 13, THETA + 16


class Stroke(NamedTuple):
    """How an RMS looks. thickness: of a bar, in points. colour: its place in colours(); -1, grey and dashed: no RMS."""

    thickness: float
    colour: int


def stroke(rms: float) -> Stroke:
    """The scale: 3 points and 10 shades per decade. Exactly 0, or not a number, has no place on it."""
    if rms == 0 or math.isnan(rms):
        return Stroke(THINNEST, -1)
    decades = math.log10(min(max(rms, LOWEST), HIGHEST) / LOWEST)
    return Stroke(round(THINNEST + PER_DECADE * decades, 2), int(decades * COLOURS_PER_DECADE + 0.5))


@cache
def colours() -> tuple[str, ...]:
    """viridis, which people with any colour vision tell apart, from the lowest RMS to the highest."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    steps = DECADES * COLOURS_PER_DECADE
    return tuple(to_hex(colormaps["viridis"](step / steps)) for step in range(steps + 1))


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
    return f"x{factor:.2g}" if factor else "x0 dies"


def fades(factor: float) -> bool:
    """Whether the arrow's number is red."""
    return factor < FADING


def slope_text(act_rms: float) -> str:
    """Mean of tanh' = 1 - act^2, as written at the tanh'."""
    return f"mean {max(0.0, 1 - act_rms**2):.2g}"


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
    return [(start.x, start.y), (start.x, OBS_RAIL), (end.x, OBS_RAIL), (end.x, end.y + HALF)]


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
def flow_figure(trace: Trace) -> Figure:
    """The trace as a picture; its size grows with the number of layers. Raises PlotError where matplotlib is missing.

    Thickness and colour: RMS of an array. Numbers at arrows: norm over that of the array it was made from.
    """
    p = plan(trace)
    figure = new_figure(p.width / 72, HEIGHT / 72)
    figure.set_layout_engine("none")  # every place is known
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, p.width), ylim=(0, HEIGHT))
    axes.set_axis_off()
    _background(axes, p, trace)
    _plain_lines(axes, p)
    for hop in drawn(trace):
        if hop.of:
            _arrow(axes, hop, p)
        _bar(axes, hop, p)
    _tanh(axes, p, trace["act"].rms)
    _legend(axes, p)
    return figure


def _text(axes: Any, x: float, y: float, text: str, gid: str | None = None, **looks: Any) -> None:
    settings = {"fontsize": SMALL, "ha": "center", "va": "center", "color": BLACK} | looks
    axes.text(x, y, text, gid=gid, **settings)


def _background(axes: Any, p: Plan, trace: Trace) -> None:
    from matplotlib.patches import Rectangle

    _text(axes, LEFT, HEIGHT - 13, title_text(trace.updates, trace.n), "title", fontsize=LARGE, ha="left")
    for name, (left, right), tint in (
        ("actor: act = mu(obs)", p.actor, "#e6f1fa"),
        ("critic: q = Q(obs, act)", p.critic, "#fdf0d8"),
    ):
        axes.add_patch(Rectangle((left, 4), right - left, HEIGHT - 46, facecolor=tint, edgecolor="none"))
        _text(axes, left, HEIGHT - 34, name, fontsize=NORMAL + 1, ha="left", weight="bold")
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


def _arrow(axes: Any, hop: Hop, p: Plan) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    route, look = _route(hop, p), stroke(hop.rms)
    paint, width = colour(look.colour), look.thickness * ARROW_SHARE
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
    looks: dict[str, Any] = {"color": RED, "weight": "bold"} if fades(hop.factor) else {}
    _text(axes, x, y, factor_text(hop.name, hop.factor), f"factor:{hop.name}", ha=ha, **looks)


def _bar(axes: Any, hop: Hop, p: Plan) -> None:
    from matplotlib.patches import Rectangle

    x, y, hangs, width = p.places[hop.name]
    look = stroke(hop.rms)
    low = y - look.thickness if hangs else y - look.thickness / 2
    zero = look.colour < 0
    axes.add_patch(
        Rectangle((x - width / 2, low), width, look.thickness, facecolor="white" if zero else colour(look.colour),
                  edgecolor=ZERO if zero else BLACK, lw=0.7, ls=(0, (4, 3)) if zero else "-", gid=f"box:{hop.name}",
                  zorder=3)
    )  # fmt: skip
    if y == BACKWARD:
        first = y + HALF + 2.6 * LINE
    else:
        first = y - (THICKEST if hangs else HALF) - 0.7 * LINE
    _text(axes, x, first, hop.name, f"name:{hop.name}", fontsize=MIDDLE, weight="bold")
    _text(axes, x, first - LINE, shape_text(hop), f"shape:{hop.name}", fontsize=MIDDLE)
    _text(axes, x, first - 2 * LINE, rms_text(hop.rms), f"rms:{hop.name}", fontsize=MIDDLE)


def _tanh(axes: Any, p: Plan, act_rms: float) -> None:
    for y, name in ((FORWARD, "tanh"), (BACKWARD, "tanh'")):
        axes.plot([p.tanh_x], [y], "o", ms=27, mfc="white", mec=RED, mew=1.6, zorder=4)
        _text(axes, p.tanh_x, y, name, fontsize=NORMAL, weight="bold", zorder=5)
    _text(axes, p.tanh_x, BACKWARD + HALF + 1.6 * LINE, "x (1 - act²),")
    _text(axes, p.tanh_x, BACKWARD + HALF + 0.6 * LINE, slope_text(act_rms), "tanh_slope")


def _legend(axes: Any, p: Plan) -> None:
    """Below the critic, where its weights' gradients would be if it got any."""
    middle = sum(p.critic) / 2
    said = "No weight of the critic gets a", "gradient here: the way back ends", "at dact and goes on in the actor."
    for line, text in enumerate(said):
        _text(axes, middle, WEIGHTS + 18 - line * (LINE + 1), text, fontsize=NORMAL, weight="bold", color=RED)
    scale, left, bottom = 132.0, middle - 66, 66.0
    for left_edge, look in _wedge(scale):
        _scale_piece(axes, left + left_edge, bottom, scale / (4 * DECADES), look)
    for decade in range(0, DECADES + 1, 4):
        x = left + scale * decade / DECADES
        axes.plot([x, x], [bottom - HALF - 4, bottom - HALF], color=BLACK, lw=0.7, zorder=3)
        _text(axes, x, bottom - HALF - 9, f"1e{round(math.log10(LOWEST)) + decade:+d}".replace("+", ""))
    _text(axes, middle, bottom + HALF + 13, "thickness, colour: RMS of the array")
    x = left + 2
    axes.plot([x, x + 22], [bottom + HALF, bottom + HALF], color=ZERO, lw=THINNEST, ls=(0, (2, 1.5)), zorder=3)
    _text(axes, x + 26, bottom + HALF, "exactly 0", ha="left")
    _text(axes, middle, 24, "arrows, x: the norm over that of")
    _text(axes, middle, 24 - LINE, "the array before; red: below 1/1000")


def _wedge(scale: float) -> Iterator[tuple[float, Stroke]]:
    pieces = 4 * DECADES
    for piece in range(pieces):
        yield scale * piece / pieces, stroke(LOWEST * 10 ** (DECADES * (piece + 0.5) / pieces))


def _scale_piece(axes: Any, x: float, y: float, width: float, look: Stroke) -> None:
    from matplotlib.patches import Rectangle

    paint = colour(look.colour)
    axes.add_patch(Rectangle((x, y - look.thickness / 2), width, look.thickness, facecolor=paint, ec=paint, lw=0.2))
