import math
import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from conftest import make_batch

from minddpg import DDPG, Config, gradflow

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex

from minddpg.gradflow import canvas, flow_picture
from minddpg.gradflow.flow_picture import (
    Scale,
    colour,
    colours,
    drawn,
    factor_text,
    flow_figure,
    is_gradient,
    rms_text,
    scale_of,
    stroke,
)

ARCHITECTURES = [
    *[((), 0, act_dim) for act_dim in (1, 3)],
    *[((8,), 0, act_dim) for act_dim in (1, 3)],
    *[((64, 64), joined, act_dim) for joined in (0, 1) for act_dim in (1, 3)],
    *[((7, 6, 5), joined, act_dim) for joined in (0, 1, 2) for act_dim in (1, 3)],
    ((4, 4, 4, 4, 4), 2, 2),
]


def traced(hidden_sizes=(64, 64), action_layer=0, act_dim=1, change=None):
    rng = np.random.default_rng(3)
    agent = DDPG(3, act_dim, Config(hidden_sizes=hidden_sizes, action_layer=action_layer, dtype="float64"), 0)
    if change:
        state = agent.state_dict()
        change(state)
        agent.load_state_dict(state)
    return gradflow.trace(agent, make_batch(rng, 6, 3, act_dim))


def kill(network, layer):
    """A layer of which no unit is ever above 0."""

    def change(state):
        state[f"{network}.{layer}.weight"][:] = 0
        state[f"{network}.{layer}.bias"][:] = -1

    return change


def parts(figure):
    """The artists by SVG id."""
    return {artist.get_gid(): artist for artist in figure.findobj() if artist.get_gid()}


@pytest.mark.parametrize(("hidden_sizes", "action_layer", "act_dim"), ARCHITECTURES)
def test_every_hop_has_its_bar_and_texts_and_nothing_overlaps(hidden_sizes, action_layer, act_dim):
    trace = traced(hidden_sizes, action_layer, act_dim)
    figure = flow_figure(trace)
    by_id = parts(figure)
    assert {hop.name for hop in drawn(trace)} >= {"obs", "act", "q", "dq", "dact", "dq_dact", "actor.0.dz", "dtheta"}
    scale = scale_of(hop.rms for hop in drawn(trace) if is_gradient(hop.name))
    for hop in drawn(trace):
        look = stroke(hop.rms, scale)
        height, paint = look.thickness, colour(look.colour)
        if not is_gradient(hop.name) and hop.rms:
            height, paint = flow_picture.PLAIN_THICKNESS, flow_picture.PLAIN
        assert by_id[f"box:{hop.name}"].get_height() == pytest.approx(height)
        assert to_hex(by_id[f"box:{hop.name}"].get_facecolor()) == ("#ffffff" if hop.rms == 0 else paint)
        assert by_id[f"rms:{hop.name}"].get_text() == rms_text(hop.rms)
        assert by_id[f"name:{hop.name}"].get_text() == hop.name
        assert (f"arrow:{hop.name}" in by_id) == bool(hop.of)
        if hop.of:
            assert by_id[f"factor:{hop.name}"].get_text() == factor_text(hop.name, hop.factor)
            assert to_hex(by_id[f"arrow:{hop.name}"].get_edgecolor()) == paint
            if hop.factor > 0 and hop.name != "dtheta":  # of the two numbers that stand beside it
                before, behind = (float(by_id[f"rms:{name}"].get_text()[4:]) for name in (hop.of, hop.name))
                assert float(factor_text(hop.name, hop.factor)[1:]) == pytest.approx(behind / before, rel=0.06)
    _nothing_overlaps(figure)


def test_nothing_overlaps_where_the_numbers_are_longest(monkeypatch):
    monkeypatch.setattr(flow_picture, "rms_text", lambda rms: "RMS 9.88e-05")
    monkeypatch.setattr(flow_picture, "factor_text", lambda name, factor: "x8.8e-05")
    for architecture in ARCHITECTURES:
        _nothing_overlaps(flow_figure(traced(*architecture)))


def _nothing_overlaps(figure):
    """No text on a text or a bar, and none cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.axes[0]
    everything = [(t.get_text(), t.get_window_extent(renderer)) for t in axes.findobj(Text) if t.get_text()]
    for (one, box), (other, other_box) in combinations(everything, 2):
        assert {one, other} & {"tanh", "tanh'"} or not box.overlaps(other_box), (one, other)
    bars = {gid: a.get_window_extent(renderer) for gid, a in parts(figure).items() if gid.startswith("box:")}
    for text, box in everything:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text
        for gid, bar in bars.items():
            assert not box.overlaps(bar), (text, gid)
    assert len(everything) > 4 * len(bars)


def test_the_scale_is_its_own_range_monotone_and_clipped():
    scale = scale_of([3e-5, 0.0, 0.2, math.nan, 1e-3, math.inf])
    assert scale == Scale(-5, 0)
    assert scale_of([1e-3]) == Scale(-3, -2)
    assert scale_of([0.0]) == Scale(0, 1)
    looks = [stroke(value, scale) for value in 10.0 ** np.linspace(-4.95, -0.05, 60)]
    assert all(a.thickness < b.thickness and a.colour < b.colour for a, b in pairwise(looks))
    assert stroke(1e-300, scale) == stroke(1e-5, scale) == (flow_picture.THINNEST, 0)
    assert stroke(math.inf, scale) == stroke(1.0, scale) == (flow_picture.THICKEST, len(colours()) - 1)
    assert stroke(0.0, scale) == stroke(math.nan, scale) == (flow_picture.THINNEST, -1)
    assert colour(-1) == flow_picture.ZERO
    assert len(set(colours())) == len(colours())


def test_numbers_at_arrows():
    assert factor_text("act", 0.0633) == "x0.063"
    assert factor_text("act", 0.0) == "x0 dies"
    assert factor_text("act", math.nan) == "-"
    assert factor_text("dtheta", 4.386) == "x4.4 of dact"
    assert [factor_text("act", x) for x in (163.2, 99.1, 2.3e6)] == ["x163", "x99", "x2.3e+06"]


def framed(by_id):
    return [gid[5:] for gid, artist in by_id.items() if gid.startswith("mark:") and artist.get_alpha() == 1]


@pytest.mark.parametrize("change", [None, "actor.1.weight", "critic.0.weight"])
def test_the_worst_hop_is_framed_and_told_and_the_others_are_not(change):
    def shrink(state):
        if change:
            state[change][:] *= 1e-4

    trace = traced((8, 8), change=shrink)
    by_id = parts(flow_figure(trace))
    worst = trace.story.worst
    assert framed(by_id) == [worst]
    assert {gid[5:] for gid in by_id if gid.startswith("mark:")} == {hop.name for hop in trace.way[1:]}
    red = [
        gid for gid, artist in by_id.items() if gid.startswith("factor:") and to_hex(artist.get_color()) == canvas.RED
    ]
    assert red == [f"factor:{worst}"]
    assert by_id["headline"].get_text() == trace.story.headline
    assert by_id["shares"].get_text() == trace.story.shares
    frame, arrow = (by_id[f"{kind}:{worst}"].get_window_extent() for kind in ("mark", "arrow"))
    assert frame.overlaps(arrow)


def test_a_run_directory_is_drawn_too(run_directory):
    figure = flow_figure(run_directory)
    assert parts(figure)["title"].get_text().endswith("after 20 updates, N = 8 samples")
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook asks for


def test_a_dead_critic_layer_makes_everything_behind_it_grey():
    trace = traced((8, 8), 0, change=kill("critic", 0))
    by_id = parts(flow_figure(trace))
    alive = {"obs", "actor.0.h", "actor.1.h", "actor.2.z", "act", "critic.0.x", "critic.1.h", "q", "dq"}
    alive |= {"critic.1.dh", "critic.1.dz", "critic.0.dh"}
    grey = {hop.name for hop in drawn(trace) if to_hex(by_id[f"box:{hop.name}"].get_edgecolor()) == flow_picture.ZERO}
    assert grey == {hop.name for hop in drawn(trace)} - alive
    for name in grey:
        assert by_id[f"box:{name}"].get_height() == flow_picture.THINNEST
        assert by_id[f"box:{name}"].get_linestyle() not in ("-", "solid")
    assert by_id["factor:critic.0.dz"].get_text() == "x0 dies"
    assert to_hex(by_id["factor:critic.0.dz"].get_color()) == canvas.RED
    assert by_id["factor:dact"].get_text() == "-"
    assert to_hex(by_id["factor:dact"].get_color()) == canvas.BLACK


def test_a_saturated_actor_is_seen_to_stop_at_the_tanh():
    def change(state):
        state["actor.1.bias"][:] = 50

    by_id = parts(flow_figure(traced((8,), 0, change=change)))
    assert by_id["factor:actor.1.dz"].get_text() == "x0 dies"
    assert by_id["tanh_slope"].get_text() == "mean 0"


def test_the_svg_has_the_ids_once():
    trace = traced((7, 6, 5), 1)
    ids = re.findall(r' id="([^"]*)"', canvas.svg(flow_figure(trace)))
    assert len(ids) == len(set(ids))
    for hop in drawn(trace):
        assert {f"box:{hop.name}", f"rms:{hop.name}", f"name:{hop.name}"} <= set(ids)
        assert not hop.of or {f"arrow:{hop.name}", f"head:{hop.name}", f"factor:{hop.name}"} <= set(ids)


def test_the_picture_is_the_same_every_time_and_grows_with_the_layers():
    small, large = traced((8,)), traced((8, 8, 8, 8, 8))
    assert canvas.svg(flow_figure(small)) == canvas.svg(flow_figure(small))
    widths = [flow_figure(trace).get_figwidth() for trace in (traced(()), small, large)]
    assert widths == sorted(widths)
    assert widths[0] < widths[1] < widths[2]
