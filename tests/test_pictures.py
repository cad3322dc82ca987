import shutil
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from conftest import clean_environment, make_batch, new_run

import minddpg
from minddpg import DDPG, Config
from minddpg.gradflow import pictures
from minddpg.gradflow.canvas import PlotError, save, svg
from minddpg.gradflow.pictures import (
    EPISODES,
    TANGENT,
    action_figure,
    history_figure,
    judge,
    policy_figure,
    run_figure,
)
from minddpg.gradflow.story import gradient_way, tell
from minddpg.gradflow.tracing import trace
from minddpg.runs.directory import load, load_info, load_transitions
from minddpg.runs.tables import load_table

pytest.importorskip("matplotlib")

TINY = Config(hidden_sizes=(8, 7), batch_size=16, learning_starts=20, steps=60, final_init=None)


class Swing(gymnasium.Env):
    """Observations and actions of Pendulum-v1, in episodes of 15 steps that end."""

    observation_space = gymnasium.spaces.Box(-8, 8, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)
    cut = False

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1, 3), 0
        return self.x.astype("f4"), {}

    def step(self, action):
        self.t += 1
        self.x = 0.9 * self.x + 0.1 * action.mean()
        over = self.t == 15
        return self.x.astype("f4"), -float(self.x @ self.x), over and not self.cut, over and self.cut, {}


class TwoForces(Swing):
    """An action of two components."""

    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    cut = True


def make_run(path, env=Swing, config=TINY, **changes):
    settings = {"diagnose_every": 5, "evaluate_every": 20, "evaluation_episodes": 1, **changes}
    minddpg.train(env, config.replace(**settings), out=path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By name: a plain one, one as in the paper (the action enters later), one of two forces."""
    base = tmp_path_factory.mktemp("runs")
    return {
        "plain": make_run(base / "plain"),
        "paper": make_run(base / "paper", config=TINY.replace(action_layer=1, hidden_sizes=(8, 7, 6))),
        "two": make_run(base / "two", TwoForces),
    }


@pytest.fixture
def run(runs):
    return runs["plain"]


PICTURES = {
    "history": history_figure,
    "action": action_figure,
    "policy": policy_figure,
    "run": run_figure,
}


def titled(figure, start):
    """The axes whose title starts like this."""
    found = [ax for ax in figure.axes if (ax.get_title("left") or ax.get_title()).startswith(start)]
    assert len(found) == 1, start
    return found[0]


def labelled(axes, label):
    """The y data of the line of this label."""
    return next(line for line in axes.lines if line.get_label() == label).get_ydata()


def legend_texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def drawn_texts(figure, monkeypatch):
    """(text, box) of all that is really drawn: no tick labels outside the axes' limits, nothing hidden."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    drawn, draw = [], Text.draw
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer)))
        FigureCanvasAgg(figure).draw()
    shown = {id(text): text for text in drawn if text.get_visible() and text.get_text().strip()}.values()
    return [(text.get_text(), text.get_window_extent()) for text in shown]


def check_readable(figure, monkeypatch):
    """Every axis has a label, every text is inside the figure, and no two overlap."""
    for axes in figure.axes:
        if axes.axison and axes.get_label() != "<colorbar>":
            assert axes.get_xlabel()
            assert axes.get_ylabel()
        elif axes.axison:
            assert axes.get_xlabel() or axes.get_ylabel()
    boxes = drawn_texts(figure, monkeypatch)
    assert len(boxes) > 10
    for i, (text, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
        for other, second in boxes[:i]:
            apart = box.x0 >= second.x1 or second.x0 >= box.x1 or box.y0 >= second.y1 or second.y0 >= box.y1
            assert apart, (text, other)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("kind", ["plain", "paper", "two"])
def test_axes_are_labelled_and_texts_do_not_overlap(name, kind, runs, monkeypatch):
    if (name, kind) != ("policy", "two"):
        check_readable(PICTURES[name](runs[kind]), monkeypatch)


@pytest.mark.parametrize("name", PICTURES)
def test_png_and_svg_are_written_svg_with_text_and_the_same_each_time(name, run, tmp_path):
    figure = PICTURES[name](run)
    save(figure, tmp_path / "picture.svg")
    save(figure, tmp_path / "picture.png")
    save(figure, tmp_path / "picture.pdf")
    pdf = (tmp_path / "picture.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert b"/FontFile2" in pdf  # text stays text
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "picture.svg").read_text()
    words = {"history": "actor.0.dweight", "action": "one update", "policy": "torque, N m", "run": "Swing, seed 0"}
    assert "<text" in text
    assert words[name] in text
    assert text == svg(PICTURES[name](run))


def test_matplotlib_is_imported_late():
    code = "import sys, minddpg.gradflow.pictures; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=clean_environment(PYTHONPATH=":".join(sys.path)))


# --- history ----------------------------------------------------------------------------------------------------------


def way_in(table):
    return gradient_way(name.removeprefix("rms.") for name in table if name.startswith("rms."))


def test_the_way_is_named_from_dq_to_the_first_weight(runs):
    way = ["dq", "critic.1.dh", "critic.1.dz", "critic.0.dh", "critic.0.dz", "dact", "actor.2.dz",
           "actor.1.dh", "actor.1.dz", "actor.0.dh", "actor.0.dz", "actor.0.dweight"]  # fmt: skip
    assert way_in(load_table(runs["plain"], "gradients")) == way
    entered_later = way_in(load_table(runs["paper"], "gradients"))
    assert entered_later[:7] == ["dq", "critic.2.dh", "critic.2.dz", "critic.1.dh", "critic.1.dz", "dact", "actor.3.dz"]


def test_the_map_and_the_waterfall_hold_the_table(run):
    table = load_table(run, "gradients")
    figure = history_figure(table)
    names = way_in(table)
    heat, fall = titled(figure, "RMS at each array"), titled(figure, "The last look")
    shown = heat.collections[0].get_array()
    rms = np.array([table[f"rms.{name}"] for name in names])
    np.testing.assert_array_equal(shown.mask, rms == 0)
    np.testing.assert_allclose(10 ** shown.compressed(), rms[rms > 0])
    story = tell({name: column[-1] for name, column in table.items()})
    assert figure.get_suptitle().splitlines()[1:] == [f"at the last look it {story.headline}", story.shares]
    (marked,) = [i for i, tick in enumerate(fall.yaxis.get_major_ticks()) if tick.label2.get_bbox_patch()]
    assert names[marked] == story.worst
    for axes in (heat, fall, *[axes for axes in figure.axes if axes.get_label() == "<colorbar>"]):
        assert {line.get_markersize() for line in axes.get_yticklines()} == {0}  # dashes that read as minus signs
    assert [label.get_text() for label in heat.get_yticklabels()] == names
    dots = [line.get_xdata() for line in fall.lines if len(line.get_xdata()) == len(names)]
    np.testing.assert_array_equal(dots[0], rms[:, 0])
    np.testing.assert_array_equal(dots[1], rms[:, -1])
    factors = [label.get_text() for label in fall.get_yticklabels()]
    assert factors[names.index("actor.2.dz")] == f"x {table['rms.actor.2.dz'][-1] / table['rms.dact'][-1]:.2g}"
    assert heat.get_ylim() == fall.get_ylim()  # one row is one array in both


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_step_shares_are_the_tables_columns(network, run):
    table = load_table(run, "gradients")
    axes = titled(history_figure(table), f"Adam's step in the {network}")
    for layer in range(3):
        column = table[f"{network}.{layer}.step_share"]
        line = axes.lines[layer]
        np.testing.assert_array_equal(line.get_ydata(), column)
        np.testing.assert_array_equal(line.get_xdata(), table["step"])


@pytest.mark.parametrize("rows", [slice(None), slice(0, 1), slice(0, 2)], ids=["all looks", "one look", "two looks"])
def test_a_gradient_of_zero_is_drawn_as_zero(rows, run, monkeypatch):
    table = {name: column[rows].copy() for name, column in load_table(run, "gradients").items()}
    names = way_in(table)
    blocked = names[names.index("dact") + 1 :]
    for name in blocked:
        table[f"rms.{name}"][:] = 0
    for layer in range(3):
        table[f"actor.{layer}.step_share"][:] = 0
    figure = history_figure(table)
    heat, fall = titled(figure, "RMS at each array"), titled(figure, "The last look")
    assert heat.collections[0].get_array().mask.all(axis=1).tolist() == [name in blocked for name in names]
    assert legend_texts(heat) == ["exactly 0: nothing passes"]
    assert heat.patch.get_hatch()
    assert legend_texts(fall)[-1] == "0"
    assert [label.get_text() for label in fall.get_yticklabels()][-len(blocked) :] == ["x 0"] + [""] * (
        len(blocked) - 1
    )
    assert legend_texts(titled(figure, "Adam's step in the actor"))[0] == "layer 0: 0"
    check_readable(figure, monkeypatch)


@pytest.mark.parametrize("number", [0.0, np.nan, np.inf])
def test_no_number_at_all_is_no_crash(number, run, monkeypatch):
    table = load_table(run, "gradients")
    broken = {
        name: column if name in ("step", "updates") else np.full_like(column, number) for name, column in table.items()
    }
    figure = history_figure(broken)
    assert titled(figure, "RMS at each array").collections[0].get_array().mask.all()
    check_readable(figure, monkeypatch)


@pytest.mark.parametrize("table", [{}, {"step": np.empty(0), "rms.dq": np.empty(0), "rms.dact": np.empty(0)}])
def test_without_looks_there_is_no_history(table):
    with pytest.raises(PlotError, match="no look at the gradient"):
        history_figure(table)


# --- action -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("act_dim", "dim"), [(1, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("action_layer", [0, 1])
def test_curves_are_q_and_the_tangent_is_its_slope(act_dim, dim, action_layer, rng):
    agent, batch = (
        DDPG(3, act_dim, TINY.replace(action_layer=action_layer, dtype="float64")),
        make_batch(rng, 50, 3, act_dim),
    )
    agent.critic.params[:] *= 2
    updated = agent.copy()
    updated.update(batch)
    act = agent.act(batch.obs)
    q = agent.q(batch.obs, act)
    chosen = set()
    for axes in action_figure(agent, batch, dim=dim).axes:
        curve, after, tangent, point, moved = axes.lines[:5]
        i = np.abs(q - point.get_ydata()[0]).argmin()
        chosen.add(i)
        assert point.get_data() == pytest.approx(np.array([[act[i, dim]], [q[i]]]))
        assert moved.get_xdata()[0] == pytest.approx(updated.act(batch.obs[i])[dim])
        along = curve.get_xdata()
        assert (along[0], along[-1]) == (-1, 1)
        for line, judge_of in ((curve, agent), (after, updated)):
            acts = np.tile(judge_of.act(batch.obs[i]), (len(along), 1))
            acts[:, dim] = along
            expected = judge_of.q(np.tile(batch.obs[i], (len(along), 1)), acts)
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
            assert np.ptp(expected) > 1e-3
        assert after.get_linestyle() == "--"
        x, y = tangent.get_data()
        sides = np.tile(act[i], (2, 1))
        sides[:, dim] += [-1e-6, 1e-6]
        below, above = agent.q(np.tile(batch.obs[i], (2, 1)), sides)
        assert x[1] - x[0] == pytest.approx(2 * TANGENT)
        assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx((above - below) / 2e-6, rel=1e-5)
    assert len(chosen) == 4


def test_arrows_point_where_q_rises_and_shrink_by_tanh(run):
    agent, batch = load(run), load_transitions(run)
    agent.actor.params[:] *= 0.5
    for axes in action_figure(agent, batch).axes:
        tangent, at = axes.lines[2], axes.lines[3].get_xdata()[0]
        slope = np.diff(tangent.get_ydata())[0]
        lengths = [arrow.xy[0] - arrow.xyann[0] for arrow in axes.texts]
        assert lengths
        assert all(length * slope > 0 for length in lengths)
        if len(lengths) == 2:
            assert lengths[1] == pytest.approx(lengths[0] * (1 - at**2))


def test_arrows_that_could_not_be_seen_get_scales_of_their_own_and_it_is_said(run):
    agent, batch = load(run), load_transitions(run)
    agent.actor.params[:] *= 0.1

    def wishes(figure):
        found = [[arrow.xy[0] - arrow.xyann[0] for arrow in axes.texts] for axes in figure.axes]
        said = [text.get_text() for text in figure.legends[0].get_texts() if "pushes" in text.get_text()]
        return found, "own scale" in said[0]

    real, slopes = judge, []

    def steep(*networks_and_obs):
        judged = real(*networks_and_obs)
        judged.dq_dact[:, 0] = slopes
        return judged

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "judge", steep)
        slopes = [1.0, 0.8, -0.5, 0.3]
        lengths, own = wishes(action_figure(agent, batch))
        assert not own
        np.testing.assert_allclose([found[0] for found in lengths], 0.45 * np.array(slopes), rtol=1e-5)
        slopes = [1.0, 0.01, -0.02, 0.9e-3]  # three arrows of four would not be seen
        lengths, own = wishes(action_figure(agent, batch))
        assert own
        np.testing.assert_allclose([found[0] for found in lengths], [0.45, 0.45, -0.45, 0.45], rtol=1e-5)


def test_why_mu_may_move_against_its_slope_is_said(run):
    title = action_figure(run).legends[0].get_title().get_text()
    assert "may move against dQ/da" in title
    assert "shared by all states" in title
    assert "momentum" in title


def test_an_agent_without_a_batch_is_refused(run):
    with pytest.raises(PlotError, match="needs a batch"):
        action_figure(load(run))


def test_a_saturated_actor_gets_a_wish_but_nothing_passes(run):
    agent, batch = load(run), load_transitions(run)
    agent.actor.params[:] *= 50
    axes = max(action_figure(agent, batch).axes, key=lambda panel: len(panel.texts))
    assert abs(axes.lines[3].get_xdata()[0]) > 0.99
    assert len(axes.texts) == 1


def test_drawing_leaves_the_agent_as_it_was(run):
    agent, batch = load(run), load_transitions(run)
    before = agent.state_dict()
    action_figure(agent, batch)
    policy_figure(agent)
    after = agent.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_states_are_spread_over_q_and_chosen_by_seed(run):
    agent, batch = load(run), load_transitions(run)

    def heights(**settings):
        return [axes.lines[3].get_ydata()[0] for axes in action_figure(agent, batch, **settings).axes]

    first = heights(states=5)
    assert first == sorted(first)
    assert first == heights(states=5)
    assert first != heights(states=5, seed=1)
    q = np.sort(agent.q(batch.obs, agent.act(batch.obs)))
    assert first[0] <= q[len(q) // 5]
    assert first[-1] >= q[4 * len(q) // 5]


@pytest.mark.parametrize("states", [1, 2, 6])
def test_any_number_of_states(states, run, monkeypatch):
    figure = action_figure(load(run), load_transitions(run), states=states)
    assert len(figure.axes) == states
    check_readable(figure, monkeypatch)


def test_no_more_panels_than_states_and_long_states_are_cut(rng, monkeypatch):
    agent = DDPG(17, 2, TINY)
    figure = action_figure(agent, make_batch(rng, 3, 17, 2), states=9, dim=1)
    assert len(figure.axes) == 3
    assert "17 numbers" in figure.axes[0].get_title()
    check_readable(figure, monkeypatch)


@pytest.mark.parametrize(("settings", "what"), [({"dim": 1}, "dim"), ({"dim": -1}, "dim"), ({"states": 0}, "states")])
def test_settings_that_make_no_sense_are_errors(settings, what, run):
    with pytest.raises(PlotError, match=what):
        action_figure(load(run), load_transitions(run), **settings)


def test_judge_agrees_with_the_trace(run):
    """The trace's critic has made its step already: given that one, both say the same."""
    agent, batch = load(run), load_transitions(run)
    hops = trace(agent, batch)
    updated = agent.copy()
    updated.update(batch)
    judged = judge(agent.actor, updated.critic, batch.obs)
    np.testing.assert_array_equal(judged.act, hops["act"].array)
    np.testing.assert_allclose(judged.dq_dact, hops["dq_dact"].array, rtol=1e-4, atol=1e-7)


# --- policy -----------------------------------------------------------------------------------------------------------


def test_the_plane_shows_torque_slope_and_q(run):
    agent = load(run)
    torque, slope, q = (axes.images[0] for axes in policy_figure(agent).axes if axes.images)
    rows, columns = q.get_array().shape
    angle, speed = np.linspace(-np.pi, np.pi, columns), np.linspace(-8, 8, rows)
    exact = agent.copy("float64")
    for row, column in ((0, 0), (rows // 2, columns // 2), (7, 30), (rows - 1, columns // 3)):
        obs = np.array([np.cos(angle[column]), np.sin(angle[column]), speed[row]])
        act = exact.act(obs)
        assert torque.get_array()[row, column] == pytest.approx(2 * act[0], abs=1e-5)
        assert q.get_array()[row, column] == pytest.approx(exact.q(obs[None], act[None])[0], abs=1e-5)
        rise = exact.q(obs[None], act[None] + 1e-6) - exact.q(obs[None], act[None] - 1e-6)
        assert slope.get_array()[row, column] == pytest.approx(rise[0] / 2e-6, rel=1e-2, abs=1e-5)
    assert torque.get_clim() == (-2, 2)
    assert slope.get_clim()[0] == -slope.get_clim()[1]
    assert torque.origin == "lower"
    assert torque.get_extent() == pytest.approx([-np.pi, np.pi, -8, 8])


@pytest.mark.parametrize(("scale", "says"), [(0.01, "nowhere"), (1e3, "saturated")])
def test_saturated_states_are_hatched(scale, says, run):
    agent = load(run)
    agent.actor.params[:] *= scale
    axes = titled(policy_figure(agent), "dQ/da")
    assert says in legend_texts(axes)[0]
    assert bool(axes.collections) == (says != "nowhere")


def test_a_policy_picture_is_of_pendulum_only(runs):
    with pytest.raises(PlotError, match="Pendulum-v1") as caught:
        policy_figure(load(runs["two"]))
    assert "\n" not in str(caught.value)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_panels_hold_the_tables(run):
    figure = run_figure(run)
    progress, gradients, evaluations = (load_table(run, t) for t in ("progress", "gradients", "evaluations"))
    learning = titled(figure, "Did it learn?")
    np.testing.assert_array_equal(labelled(learning, "training, with noise"), progress["return"])
    assert labelled(learning, f"median of the last {EPISODES}")[-1] == np.median(progress["return"][-EPISODES:])
    evaluated = labelled(learning, "evaluation, without noise")
    steps = np.unique(evaluations["step"])
    assert len(steps) == 2  # the first was due before there had been an update
    assert evaluated.tolist() == [evaluations["return"][evaluations["step"] == s][0] for s in steps]
    saturation = titled(figure, "Can the gradient pass the tanh?")
    np.testing.assert_array_equal(labelled(saturation, "share of |mu(s)| > 0.99"), gradients["saturated"])
    np.testing.assert_array_equal(labelled(saturation, "mean tanh'"), gradients["tanh_slope"])
    slope = titled(figure, "What does the critic send?")
    np.testing.assert_array_equal(slope.lines[0].get_ydata(), gradients["dq_dact_rms"])
    td_error = titled(figure, "Does the critic fit")
    np.testing.assert_array_equal(labelled(td_error, "median"), gradients["td_50"])
    corners = td_error.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (gradients["td_10"].min(), gradients["td_90"].max())
    dead = titled(figure, "Dead ReLUs")
    for name in ("actor 0", "actor 1", "critic 0", "critic 1"):
        np.testing.assert_array_equal(labelled(dead, name), gradients[f"{name.replace(' ', '.')}.dead"])
    distance = titled(figure, "How far behind")
    np.testing.assert_array_equal(labelled(distance, "critic"), gradients["critic.distance"])


def test_q_is_drawn_against_the_returns_that_are_known(run):
    table = load_table(run, "evaluations")
    assert (table["tail"] == 0).all()  # Swing's episodes end
    axes = titled(run_figure(run), "Is Q right?")
    points = axes.collections[0]
    np.testing.assert_array_equal(points.get_offsets(), np.stack([table["discounted_return"], table["q"]], axis=1))
    np.testing.assert_array_equal(points.get_array(), table["step"])
    assert points.get_cmap()(0.0)[:3] > points.get_cmap()(1.0)[:3]  # late is darker
    diagonal = axes.lines[0]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    last = table["step"] == table["step"].max()
    bias = np.mean(table["q"][last] - table["discounted_return"][last])
    verdict = "over" if bias > 0 else "under"
    assert legend_texts(axes)[1:] == [f"last evaluation: mean Q - return = {bias:+.3g}, {verdict}-estimated"]


def test_returns_that_a_time_limit_cut_are_drawn_with_a_note(runs):
    table = load_table(runs["two"], "evaluations")
    assert (table["tail"] >= 0.5).all()
    axes = titled(run_figure(runs["two"]), "Is Q right?")
    assert len(axes.collections[0].get_offsets()) == len(table["q"])
    assert "time limit" in legend_texts(axes)[2]


def test_states_whose_return_is_mostly_estimated_are_left_out(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    lines = (run / "evaluations.csv").read_text().splitlines()
    lines[1:4] = [line.rsplit(",", 1)[0] + ",0.9" for line in lines[1:4]]
    (tmp_path / "run" / "evaluations.csv").write_text("\n".join(lines) + "\n")
    axes = titled(run_figure(tmp_path / "run"), "Is Q right?")
    assert len(axes.collections[0].get_offsets()) == len(lines) - 1 - 3


@pytest.mark.parametrize("how", ["missing", "empty", "header"])
@pytest.mark.parametrize("table", ["progress", "gradients", "evaluations"])
def test_a_table_without_rows_leaves_panels_that_say_so(table, how, run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / f"{table}.csv"
    header = path.read_text().split("\n")[0] + "\n"
    if how == "missing":
        path.unlink()
    else:
        path.write_text(header if how == "header" else "")
    figure = run_figure(tmp_path / "run")
    if how == "missing":
        check_readable(figure, monkeypatch)
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert sum(f"{table}.csv" in text for text in said) == {"progress": 0, "gradients": 5, "evaluations": 1}[table]
    if table == "progress":  # evaluations have returns too
        assert len(titled(figure, "Did it learn?").lines) == 1


def test_a_run_of_nothing_but_its_config_says_so_everywhere(run, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    shutil.copy(run / "config.json", tmp_path / "run")
    figure = run_figure(tmp_path / "run")
    assert all(not axes.axison and axes.texts for axes in figure.axes)
    check_readable(figure, monkeypatch)


def test_networks_without_hidden_layers(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", config=TINY.replace(hidden_sizes=()))
    figure = run_figure(run)
    assert "no hidden layers" in titled(figure, "Dead ReLUs").texts[0].get_text()
    assert way_in(load_table(run, "gradients")) == ["dq", "dact", "actor.0.dz", "actor.0.dweight"]
    check_readable(history_figure(load_table(run, "gradients")), monkeypatch)


def test_numbers_that_are_none_do_not_stop_a_run_picture(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    for table in ("gradients", "evaluations"):
        header, *lines = (run / f"{table}.csv").read_text().splitlines()
        broken = [",".join([line.split(",")[0], *[""] * header.count(",")]) for line in lines]
        (tmp_path / "run" / f"{table}.csv").write_text("\n".join([header, *broken]) + "\n")
    figure = run_figure(tmp_path / "run")
    assert "finite" in titled(figure, "Is Q right?").texts[0].get_text()
    check_readable(figure, monkeypatch)


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ("module:$x^2$-v0", "module:$x^2$-v0"),
        (r"$\frac{", r"$\frac{"),
        ("two\nlines\x07", "two?lines?"),
        ("振り子-v1", "???-v1"),
        ("<b>&amp;", "<b>&amp;"),
        ("W" * 500, "W" * 40),
    ],
)
def test_names_of_environments_are_taken_literally(env, shown, tmp_path, monkeypatch):
    new_run(tmp_path / "run", env, 3, 3, 1, TINY).close()
    assert load_info(tmp_path / "run").env == env
    figure = run_figure(tmp_path / "run")
    assert figure.get_suptitle() == f"{shown}, seed 3, 60 steps"
    check_readable(figure, monkeypatch)
    assert shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in svg(figure)
