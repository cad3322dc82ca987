"""The pictures: how dQ/da travels while training, what a critic says of actions and states, a run on one page.

    history_figure(run)             where on its way the gradient shrinks, and when
    action_figure(run)              Q over the action, its slope at mu(s), before and after an update
    policy_figure(run)              Pendulum only: torque, dQ/da and Q over all states
    run_figure(run)                 learning curve, Q against returns, health of the gradient
    runs_figure([run, run, ...])    the learning curves of several runs, a panel per environment

`run` is a run directory. Each is a matplotlib Figure that shows itself in a notebook; canvas.save writes it. Nothing
is derived here: every number is a column of a run's tables, or comes from the functions that train.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..agent import DDPG
from ..fast.jit import FloatArray
from ..networks import Network, actor_forward, backward_to_action, critic_forward
from ..replay import Batch
from ..runs.directory import KEPT_TRANSITIONS, RunInfo, load, load_batch, load_info
from ..runs.tables import Columns, load_table
from .canvas import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, PlotError, new_figure, style
from .diagnosis import SATURATED
from .story import factor, gradient_way, tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

RunPath = str | os.PathLike[str]

LINES = (BLUE, ORANGE, GREEN, RED, SKY, PINK, BLACK)
STEPS = "environment steps"
RULE_OF_THUMB = 1e-3  # of Adam's step over the weights


# --- the gradient's way over training ---------------------------------------------------------------------------------


@style()
def history_figure(run: RunPath | Columns) -> Figure:
    """How large the gradient is at every array from dq to the first actor weight, over training.

    run: a run directory, or its table gradients. Top: RMS of each array, as a map over all looks, and at the last look
    as a waterfall, with the factor of every hop. Bottom: Adam's step as a share of each layer's weights. Raises
    PlotError where there was no look, RunError.
    """
    gradients = run if isinstance(run, Mapping) else load_table(run, "gradients")
    if not _rows(gradients):
        raise PlotError("no look at the gradient was written; train longer, or with a smaller --diagnose-every")
    last = {name: float(column[-1]) for name, column in gradients.items()}
    for needed in ("rms.dq", "rms.dact", "rms.actor.0.dweight"):
        gradients[needed]
    names = gradient_way(column.removeprefix("rms.") for column in gradients if column.startswith("rms."))
    rms = np.array([gradients[f"rms.{name}"] for name in names])
    story = tell(last)
    figure = new_figure(11, 5.4 + 0.25 * len(names))
    grid = figure.add_gridspec(2, 1, height_ratios=(0.25 * len(names) + 0.6, 2.4))
    top, bottom = grid[0].subgridspec(1, 2, width_ratios=(3, 2)), grid[1].subgridspec(1, 2)
    figure.suptitle(
        "The way of the gradient: from dq back to the actor's first weight\n"
        f"at the last look it {story.headline}\n{story.shares}"
        if not math.isnan(story.factor)
        else f"The way of the gradient: from dq back to the actor's first weight\n{story.headline}",
        fontweight="bold",
        fontsize=10,
    )
    heat, fall = figure.add_subplot(top[0]), figure.add_subplot(top[1])
    _heat_map(heat, gradients["step"], names, rms)
    _waterfall(fall, names, rms[:, 0], rms[:, -1], story.worst)
    for axes in (heat, fall):
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.axhline(names.index("dact") + 0.5, color=BLACK, linewidth=1)
    actor = figure.add_subplot(bottom[0])
    _step_shares(actor, gradients, "actor")
    _step_shares(figure.add_subplot(bottom[1], sharey=actor), gradients, "critic")
    return figure


def _heat_map(axes: Axes, steps: FloatArray, names: Sequence[str], rms: FloatArray) -> None:
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter

    passes = np.isfinite(rms) & (rms > 0)
    shown = np.ma.masked_array(np.log10(np.where(passes, rms, 1)), ~passes)
    low, high = (shown.min(), shown.max()) if passes.any() else (-1, 0)
    norm = Normalize(low, high if high > low else low + 1)
    mesh = axes.pcolormesh(
        _edges(steps), np.arange(len(names) + 1) - 0.5, shown, cmap="cividis", norm=norm, rasterized=True
    )
    bar = axes.figure.colorbar(mesh, ax=axes, label="RMS of d(loss)/d(array)", pad=0.02)
    bar.ax.tick_params(length=0)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.2g}"))
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)  # a dash beside a name or a number reads as a minus
    axes.set(xlabel=STEPS, ylabel="passed from top to bottom")
    _count_in_thousands(axes)
    handles = []
    if not passes.all():  # masked cells let the ground shine through
        axes.patch.set(facecolor="#dddddd", edgecolor=GREY, hatch="////", linewidth=0)
        what = "exactly 0: nothing passes" if np.isfinite(rms).all() else "0, or not a finite number"
        handles.append(Patch(facecolor="#dddddd", edgecolor=GREY, hatch="////", linewidth=0, label=what))
    _head(axes, "RMS at each array, over training", handles)


def _edges(steps: FloatArray) -> FloatArray:
    """Where the cells around these steps end: half-way to the next."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[2 * steps[0] - middle[0]], middle, [2 * steps[-1] - middle[-1]]])


def _waterfall(axes: Axes, names: Sequence[str], first: FloatArray, last: FloatArray, worst: str) -> None:
    """A bar per hop, from the RMS before it to the RMS behind it. worst: the array whose hop is marked."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = np.arange(len(names))
    both = np.concatenate([first, last])
    positive = both[np.isfinite(both) & (both > 0)]
    low, high = (positive.min() / 3, positive.max() * 3) if positive.size else (0.1, 1.0)
    for row in range(1, len(names)):
        before, behind = last[row - 1], last[row]
        if before > 0:
            axes.plot(
                [before, max(behind, low)], [row, row], color=RED if behind < before else BLUE, linewidth=7,
                solid_capstyle="butt", alpha=0.75,
            )  # fmt: skip
    axes.plot(first, rows, "o", color=GREY, markerfacecolor="white", markersize=4)
    axes.plot(last, rows, "o", color=BLACK, markersize=4)
    nothing = rows[~(np.isfinite(last) & (last > 0))]
    axes.set_xlim(low, high)  # first: a scale that finds its own limits warns where every number is 0
    axes.set_xscale("log", nonpositive="mask")
    _log_labels(axes.xaxis, "3")
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    labels = axes.set_yticks(rows, ["", *(_factor(last[row - 1], last[row]) for row in rows[1:])])
    axes.tick_params(axis="y", length=0)
    if not math.isnan(factor(last[names.index(worst) - 1], last[names.index(worst)])):
        mark = {"color": RED, "fontweight": "bold", "bbox": {"boxstyle": "round,pad=0.2", "fc": "none", "ec": RED}}
        labels[names.index(worst)].label2.set(**mark)
    axes.set(xlabel="RMS of d(loss)/d(array)")
    axes.set_ylabel("RMS over the RMS before", labelpad=10)  # clear of the frame
    handles = [
        Patch(color=RED, alpha=0.75, label="shrinks"),
        Patch(color=BLUE, alpha=0.75, label="grows"),
        Line2D([], [], color=BLACK, marker="o", markersize=4, linestyle="", label="last"),
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", markersize=4, linestyle="", label="first"),
    ]
    if len(nothing):
        axes.plot(np.full(len(nothing), low), nothing, "x", color=BLACK, clip_on=False, zorder=5)
        what = "0" if np.isfinite(last).all() else "0, or not a finite number"
        handles.append(Line2D([], [], color=BLACK, marker="x", linestyle="", label=what))
    _head(axes, "The last look, hop by hop", handles, columns=5 if np.isfinite(last).all() else 3)


def _factor(before: float, behind: float) -> str:
    found = factor(before, behind)
    return "" if math.isnan(found) else f"x {found:.2g}"


def _step_shares(axes: Axes, gradients: Columns, network: str) -> None:
    shares = _layers(gradients, network, "step_share")
    for layer, share in enumerate(shares):
        _line(axes, gradients["step"], share, layer, label=f"layer {layer}" if share.any() else f"layer {layer}: 0")
    axes.axhline(RULE_OF_THUMB, color=GREY, linestyle=":", label=f"{RULE_OF_THUMB:g}")
    _log_scale(axes)
    _over_steps(
        axes, f"Adam's step in the {network} (rule of thumb: {RULE_OF_THUMB:g} of the weights)", "|step| / |weights|"
    )


def _layers(gradients: Columns, network: str, quantity: str) -> list[FloatArray]:
    found: list[FloatArray] = []
    while (column := f"{network}.{len(found)}.{quantity}") in gradients:
        found.append(gradients[column])
    return found


# --- Q over the action ------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """act = mu(s) (N, act_dim), q = Q(s, mu(s)) (N,), dq_dact there (N, act_dim)."""

    act: FloatArray
    q: FloatArray
    dq_dact: FloatArray


def judge(actor: Network, critic: Network, obs: FloatArray) -> Judged:
    """What the actor does in these states obs (N, obs_dim), and what the critic says of it."""
    act, _ = actor_forward(actor, obs)
    q, cache = critic_forward(critic, obs, act)
    return Judged(act, q, backward_to_action(critic, np.ones((len(obs), 1), obs.dtype), cache))


UNSEEN = 0.15  # of the longest arrow: what is shorter is hardly seen
MAY_MOVE_AGAINST = (
    "mu(s) may move against dQ/da: the actor's weights are shared by all states, so that others of the batch outvote\n"
    "this one, and Adam still follows the gradients of earlier updates (its momentum)."
)
WISH = 0.45  # the longest arrow, in units of the action
TANGENT = 0.25  # to either side of mu(s)


@style()
def action_figure(
    agent: DDPG | RunPath, batch: Batch | None = None, states: int = 4, seed: int = 0, dim: int = 0
) -> Figure:
    """Q(s, a) over the action's component `dim` in some states, mu(s) and the slope there, before and after an update.

    agent: or a run directory. batch None: of a run directory, all transitions that are kept. The other components stay
    at mu(s). states: how many, one of each part of the batch by Q; seed: which. The update is made with the whole
    batch, by a copy of the agent. Arrows: where dQ/da pushes the action, and what tanh' lets pass of that into the
    actor; all to one scale, or where most could not be seen on it each panel to its own, which is said. Raises
    PlotError, ShapeError, RunError.
    """
    if not isinstance(agent, DDPG):
        batch = load_batch(agent, KEPT_TRANSITIONS) if batch is None else batch
        agent = load(agent)
    if batch is None:
        raise PlotError("an agent needs a batch to draw; or give a run directory")
    if not 0 <= dim < agent.act_dim:
        raise PlotError(f"the agent's actions have {agent.act_dim} components; dim must be 0 to {agent.act_dim - 1}")
    if states < 1:
        raise PlotError("states must be 1 or more")
    checked, agent = agent.checked(batch), agent.bare()
    obs = _spread_by_q(agent, checked.obs, states, seed)
    updated = agent.copy()
    updated.update(checked)
    before, after = judge(agent.actor, agent.critic, obs), judge(updated.actor, updated.critic, obs)

    columns = math.ceil(math.sqrt(len(obs)))
    rows = math.ceil(len(obs) / columns)
    figure = new_figure(max(8.8, 4.4 * columns), 1.4 + 3 * rows)
    what = "the action" if agent.act_dim == 1 else f"a[{dim}], the others at mu(s)"
    figure.suptitle(f"Q over {what}: which way does the critic push the actor?", fontweight="bold")
    sizes = np.abs(before.dq_dact[:, dim]).astype(np.float64)
    longest, common = float(sizes.max()) or 1.0, bool(np.median(sizes) >= UNSEEN * sizes.max())
    for i in range(len(obs)):
        axes = figure.add_subplot(rows, columns, i + 1)
        _curve(axes, agent, obs[i], before.act[i], dim, color=BLUE, linestyle="-")
        _curve(axes, updated, obs[i], after.act[i], dim, color=BLACK, linestyle="--")
        _point_and_tangent(axes, before, after, i, dim)
        unit = longest if common else float(sizes[i]) or 1.0
        _arrows(axes, float(before.act[i, dim]), float(before.dq_dact[i, dim]) / unit)
        axes.set_title(_state_title(obs[i], before, after, i, dim), fontsize=8)
        axes.set(xlabel=_action_label(agent, dim), ylabel="Q(s, a), discounted return")
    _action_legend(figure, "" if common else " (to each panel's own scale: they differ too much for one)")
    return figure


def _spread_by_q(agent: DDPG, obs: FloatArray, states: int, seed: int) -> FloatArray:
    """One state of each of `states` equal parts of the batch, from the lowest Q to the highest."""
    ordered = obs[np.argsort(agent.q(obs, agent.act(obs)), kind="stable")]
    rng = np.random.default_rng(seed)
    parts = np.array_split(np.arange(len(ordered)), min(states, len(ordered)))
    return ordered[[int(rng.choice(part)) for part in parts]]


def _curve(axes: Axes, agent: DDPG, state: FloatArray, act: FloatArray, dim: int, **look: Any) -> None:
    along = np.linspace(-1, 1, 201, dtype=state.dtype)
    acts = np.tile(act, (len(along), 1))
    acts[:, dim] = along
    axes.plot(along, agent.q(np.tile(state, (len(along), 1)), acts), linewidth=1.6, **look)


def _point_and_tangent(axes: Axes, before: Judged, after: Judged, i: int, dim: int) -> None:
    at, slope = float(before.act[i, dim]), float(before.dq_dact[i, dim])
    ends = np.array([at - TANGENT, at + TANGENT])
    axes.plot(ends, float(before.q[i]) + slope * (ends - at), color=ORANGE, linewidth=3.5, solid_capstyle="round")
    axes.plot([at], [before.q[i]], "o", color=BLUE, markersize=8, zorder=4)
    axes.plot([after.act[i, dim]], [after.q[i]], "o", color=BLACK, markerfacecolor="white", markersize=5, zorder=5)


def _arrows(axes: Axes, at: float, wish: float) -> None:
    """Below the curves: dQ/da as a share of the longest, and how much of it passes the tanh."""
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.25 * (high - low), high)
    axes.set_xlim(-1.5, 1.5)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    for side in (-1, 1):  # where no action is
        axes.axvspan(side, 1.5 * side, color="#eeeeee", zorder=0)
    for height, length, color in ((0.13, wish, ORANGE), (0.05, wish * (1 - at**2), GREEN)):
        axes.plot([at], [height], "|", color=color, markersize=9, transform=axes.get_xaxis_transform())
        if abs(length) > 0.02:
            head = min(12, 60 * abs(length))  # no longer than the arrow
            arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0, "mutation_scale": head}
            tip = (at + WISH * length, height)
            axes.annotate("", tip, (at, height), xycoords=axes.get_xaxis_transform(), arrowprops=arrow)


def _state_title(state: FloatArray, before: Judged, after: Judged, i: int, dim: int) -> str:
    numbers = ", ".join(f"{x:.2g}" for x in state[:4]) + (f", ... {len(state)} numbers" if len(state) > 4 else "")
    at, slope = before.act[i, dim], before.dq_dact[i, dim]
    return f"s = ({numbers})\nmu(s) {at:.3f}, then {after.act[i, dim]:.3f}; dQ/da {slope:+.3g}; tanh' {1 - at**2:.2g}"


def _action_label(agent: DDPG, dim: int) -> str:
    return "action a, in [-1, 1]" if agent.act_dim == 1 else f"action a[{dim}], in [-1, 1]"


def _action_legend(figure: Figure, scale: str) -> None:
    from matplotlib.lines import Line2D

    def handle(label: str, **look: Any) -> Line2D:
        return Line2D([], [], label=label, **look)

    figure.legend(
        handles=[
            handle("Q(s, a) and mu(s)", color=BLUE, marker="o", markersize=8),
            handle("the same after one update", color=BLACK, linestyle="--", marker="o", markerfacecolor="white"),
            handle("slope dQ/da at mu(s)", color=ORANGE, linewidth=3.5),
            handle(f"arrow: where dQ/da pushes the action{scale}", color=ORANGE, marker=">"),
            handle("arrow: what tanh' lets pass (|: hardly any)", color=GREEN, marker=">"),
            handle("no actions here", color="#dddddd", linewidth=8),
        ],
        title=MAY_MOVE_AGAINST,
        loc="outside lower center",
        ncols=3 if not scale else 2,
        frameon=False,
    )


# --- all states of the pendulum ---------------------------------------------------------------------------------------

MAX_TORQUE, MAX_VELOCITY = 2.0, 8.0  # Pendulum-v1's, in N m and rad/s


@style()
def policy_figure(agent: DDPG | RunPath) -> Figure:
    """Pendulum over all its states: the torque mu(s), dQ/da there, and Q(s, mu(s)). agent: or a run directory.

    Hatched: where the actor is saturated, so that hardly anything of dQ/da passes its tanh. Raises PlotError for an
    agent that cannot be Pendulum's.
    """
    if not isinstance(agent, DDPG):
        agent = load(agent)
    if (agent.obs_dim, agent.act_dim) != (3, 1):
        raise PlotError(
            f"this picture is of Pendulum-v1 (3 observations, 1 action); the agent has {agent.obs_dim} and "
            f"{agent.act_dim}"
        )
    angle, velocity = np.linspace(-np.pi, np.pi, 241), np.linspace(-MAX_VELOCITY, MAX_VELOCITY, 181)
    act, q, dq_dact = _over_the_plane(agent, angle, velocity)
    figure = new_figure(12.5, 4.4)
    figure.suptitle(
        "Pendulum: what the actor does, which way the critic pushes it, and what it expects", fontweight="bold"
    )
    steep = float(np.quantile(np.abs(dq_dact), 0.99)) or 1.0  # a few steeper states would leave the others pale
    maps = (
        ("mu(s): the torque", act * MAX_TORQUE, "torque, N m", "PuOr", MAX_TORQUE),
        ("dQ/da at mu(s)", dq_dact, "dQ/da, return per unit of action", "RdBu_r", steep),
        ("Q(s, mu(s))", q, "Q, discounted return", "cividis", None),
    )
    for i, (title, values, label, colors, bound) in enumerate(maps):
        axes = figure.add_subplot(1, 3, i + 1)
        image = axes.imshow(
            values, origin="lower", extent=(-np.pi, np.pi, -MAX_VELOCITY, MAX_VELOCITY), aspect="auto", cmap=colors,
            interpolation="nearest", vmin=bound and -bound, vmax=bound,
        )  # fmt: skip
        figure.colorbar(image, ax=axes, label=label, location="bottom", extend="both" if bound == steep else "neither")
        axes.set_xticks(np.pi * np.array([-1, -0.5, 0, 0.5, 1]), ["-π", "-π/2", "0", "π/2", "π"])
        axes.set(xlabel="angle, rad (0: upright)", ylabel="angular velocity, rad/s")
        _head(axes, title, [_hatch_saturated(axes, angle, velocity, act)] if i == 1 else [])
    return figure


def _over_the_plane(agent: DDPG, angle: FloatArray, velocity: FloatArray) -> Judged:
    """Each as (velocities, angles)."""
    theta, speed = (part.ravel() for part in np.meshgrid(angle, velocity))
    obs = np.stack([np.cos(theta), np.sin(theta), speed], axis=1).astype(agent.config.dtype)
    judged = judge(agent.actor, agent.critic, agent.in_units(obs))
    return Judged(*(part.reshape(len(velocity), len(angle)) for part in judged))


def _hatch_saturated(axes: Axes, angle: FloatArray, velocity: FloatArray, act: FloatArray) -> Any:
    """Hatch where the actor is saturated.    -> handle for the legend"""
    from matplotlib.patches import Patch

    label, pale = f"|mu(s)| > {SATURATED:g}: saturated", (0, 0, 0, 0.4)
    if not (np.abs(act) > SATURATED).any():
        label += " (nowhere)"
    else:
        area = axes.contourf(angle, velocity, np.abs(act), levels=[SATURATED, 2], colors="none", hatches=["//"])
        area.set_edgecolor(pale)
        area.set_linewidth(0.8)
    return Patch(facecolor="white", edgecolor=pale, hatch="////", label=label)


# --- a run on one page ------------------------------------------------------------------------------------------------

EPISODES = 10  # of the running median
ESTIMATED = 0.5  # weight of what was not seen of a return, from which it says little about Q


@style()
def run_figure(directory: str | os.PathLike[str]) -> Figure:
    """A run on one page: did it learn, is Q right, and does the gradient arrive?

    A panel whose file is missing or empty says so. Raises RunError where there is no run, or a file is damaged.
    """
    info = load_info(directory)
    progress, gradients, evaluations = (
        load_table(directory, table) for table in ("progress", "gradients", "evaluations")
    )
    figure = new_figure(10, 12.5)
    grid = figure.add_gridspec(4, 1)
    pairs = [grid[row].subgridspec(1, 2) for row in (1, 2, 3)]  # each with margins of its own
    figure.suptitle(_run_title(info), fontweight="bold", parse_math=False)
    _learning_curve(figure.add_subplot(grid[0]), progress, evaluations)
    _q_against_returns(figure.add_subplot(pairs[0][0]), evaluations)
    panels = (_saturation, _slope, _td_error, _dead_units, _distance)
    for place, draw in enumerate(panels, start=1):
        draw(figure.add_subplot(pairs[place // 2][place % 2]), gradients)
    return figure


def _run_title(info: RunInfo) -> str:
    return f"{_drawable(info.env[:40])}, seed {info.seed}, {info.config.steps:,} steps"


def _drawable(name: str) -> str:
    """Names are anybody's: what the font lacks would make matplotlib warn."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in name)


def _learning_curve(axes: Axes, progress: Columns, evaluations: Columns) -> None:
    title = "Did it learn? Return of each episode"
    if not _rows(progress) and not _rows(evaluations):
        return _say(axes, title, "no episode ended in this run (progress.csv)")
    if _rows(progress):
        returns = progress["return"]
        median = [float(np.median(returns[max(0, i + 1 - EPISODES) : i + 1])) for i in range(len(returns))]
        marker = _marker(returns)
        axes.plot(progress["step"], returns, color=SKY, linewidth=0.8, marker=marker, label="training, with noise")
        axes.plot(
            progress["step"], median, color=BLUE, linewidth=2, marker=marker, label=f"median of the last {EPISODES}"
        )
    if _rows(evaluations):
        steps, first = np.unique(evaluations["step"], return_index=True)
        axes.plot(steps, evaluations["return"][first], "D", color=RED, markersize=6, label="evaluation, without noise")
    _over_steps(axes, title, "return, undiscounted")


def _q_against_returns(axes: Axes, evaluations: Columns) -> None:
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    title = "Is Q right? Q against the return that followed"
    if not _rows(evaluations):
        return _say(axes, title, "no evaluations in this run (evaluations.csv):\ntrain with --evaluate-every 2000")
    finite = np.isfinite(evaluations["q"]) & np.isfinite(evaluations["discounted_return"])
    if not finite.any():
        return _say(axes, title, "Q is no finite number in any evaluation (evaluations.csv)")
    seen = finite & (evaluations["tail"] < ESTIMATED)
    note = "" if seen.any() else "a time limit cut every return: Q stands for most of each"
    kept = seen if seen.any() else finite
    step, q, returns = (evaluations[name][kept] for name in ("step", "q", "discounted_return"))
    norm = Normalize(min(0, step.min()), step.max())
    points = axes.scatter(returns, q, c=step, cmap="cividis_r", norm=norm, s=18, edgecolors=GREY, linewidths=0.3)
    axes.figure.colorbar(points, ax=axes, label="evaluated at step", format=EngFormatter(sep=""))
    ends = [min(returns.min(), q.min()), max(returns.max(), q.max())]
    axes.plot(ends, ends, color=GREY, linestyle="--", zorder=0)
    axes.set(xlabel="discounted return", ylabel="Q(s, mu(s))")
    last = step == step.max()
    handles = [
        Line2D([], [], color=GREY, linestyle="--", label="Q = return"),
        Line2D([], [], linestyle="", label=f"last evaluation: {_bias(float(np.mean((q - returns)[last])))}"),
        *([Line2D([], [], linestyle="", label=note)] if note else []),
    ]
    _head(axes, title, handles, columns=1)


def _bias(bias: float) -> str:
    verdict = "over-estimated" if bias > 0 else "under-estimated" if bias < 0 else "as they are"
    return f"mean Q - return = {bias:+.3g}, {verdict}"


def _saturation(axes: Axes, gradients: Columns) -> None:
    title = "Can the gradient pass the tanh? Saturation of mu"
    if not _rows(gradients):
        return _say_no_looks(axes, title)
    _line(axes, gradients["step"], gradients["saturated"], 3, label=f"share of |mu(s)| > {SATURATED:g}")
    _line(axes, gradients["step"], gradients["tanh_slope"], 0, label="mean tanh'")
    axes.set_ylim(-0.03, 1.03)
    _over_steps(axes, title, "share of actions; slope")


def _slope(axes: Axes, gradients: Columns) -> None:
    title = "What does the critic send? dQ/da at mu(s)"
    if not _rows(gradients):
        return _say_no_looks(axes, title)
    _line(axes, gradients["step"], gradients["dq_dact_rms"], 0, label="RMS over the batch")
    _log_scale(axes)
    _over_steps(axes, title, "|dQ/da|, return per action")


def _td_error(axes: Axes, gradients: Columns) -> None:
    title = "Does the critic fit its targets? TD error"
    if not _rows(gradients):
        return _say_no_looks(axes, title)
    steps = gradients["step"]
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.fill_between(
        steps, gradients["td_10"], gradients["td_90"], color=SKY, alpha=0.5, linewidth=0.5 + (len(steps) < 2),
        label="10 % to 90 % of the batch",
    )  # fmt: skip
    _line(axes, steps, gradients["td_50"], 0, label="median")
    _over_steps(axes, title, "Q - y, discounted return")


def _dead_units(axes: Axes, gradients: Columns) -> None:
    title = "Dead ReLUs: units that are 0 for a whole batch"
    if not _rows(gradients):
        return _say_no_looks(axes, title)
    for network, linestyle in (("actor", "-"), ("critic", "--")):
        for layer, dead in enumerate(_layers(gradients, network, "dead")):
            _line(axes, gradients["step"], dead, layer, label=f"{network} {layer}", linestyle=linestyle)
    if not axes.lines:
        return _say(axes, title, "these networks have no hidden layers")
    axes.set_ylim(-0.03, 1.03)
    _over_steps(axes, title, "share of a layer's units")


def _distance(axes: Axes, gradients: Columns) -> None:
    title = "How far behind are the targets?"
    if not _rows(gradients):
        return _say_no_looks(axes, title)
    for color, network in enumerate(("actor", "critic")):
        _line(axes, gradients["step"], gradients[f"{network}.distance"], color, label=network)
    _log_scale(axes)
    _over_steps(axes, title, "|online - target| / |online|")


# --- several runs in one picture --------------------------------------------------------------------------------------

LONGEST = 44  # characters of a run's name in a legend


@style()
def runs_figure(directories: Sequence[str | os.PathLike[str]]) -> Figure:
    """The learning curves of several runs, a panel per environment.

    A run with evaluations (eval.csv): their mean as a line, one standard deviation on either side as an area, and its
    returns while training thin behind them; a run without: the mean of the last 10 returns while training. The legend
    stands beside the panel, in the order of the last values. Raises RunError where there is no run, or a file is
    damaged.
    """
    names = [Path(directory).name for directory in directories]
    if len(set(names)) < len(names):
        names = [os.fspath(directory) for directory in directories]
    panels: dict[str, list[_Run]] = {}
    for directory, name in zip(directories, names, strict=True):
        runs = panels.setdefault(load_info(directory).env, [])
        runs.append(_Run(name, len(runs), load_table(directory, "progress"), load_table(directory, "eval")))
    heights = [max(3.4, 1.1 + 0.2 * len(runs)) for runs in panels.values()]
    figure = new_figure(11, sum(heights))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, (env, runs) in zip(grid[:, 0], panels.items(), strict=True):
        _learning_curves(axes, env, runs)
    return figure


class _Run(NamedTuple):
    """What a learning curve is drawn of. number: which of its panel's."""

    name: str
    number: int
    progress: Columns
    evaluations: Columns


def _learning_curves(axes: Axes, env: str, runs: Sequence[_Run]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for run in runs:
        color, linestyle = LINES[run.number % len(LINES)], ("-", "--", ":", "-.")[run.number // len(LINES) % 4]
        last = _learning_curve_of(axes, run, {"color": color, "linestyle": linestyle})
        label = f"{_shortened(_drawable(run.name))}:  {_last_value(last)}"
        handles.append((last, Line2D([], [], color=color, linestyle=linestyle, linewidth=2, label=label)))
    handles.sort(key=lambda entry: (math.isnan(entry[0]), -entry[0]))
    axes.set(xlabel=STEPS, ylabel="return, undiscounted")
    _count_in_thousands(axes)
    axes.set_title(_drawable(env[:LONGEST]), loc="left", fontsize=10, fontweight="bold", parse_math=False)
    if any(_rows(run.evaluations) for run in runs):
        what = f"evaluation: mean, standard deviation; thin: training, mean of {EPISODES} episodes"
    else:
        what = f"training, mean of {EPISODES} episodes"
    axes.set_title(what, loc="right", fontsize=8, color=GREY)
    legend = axes.legend(
        handles=[handle for _, handle in handles], title="run: last value", loc="upper left",
        bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8, title_fontsize=8,
        alignment="left", borderaxespad=0, handlelength=3,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _learning_curve_of(axes: Axes, run: _Run, look: Mapping[str, Any]) -> float:
    """-> the last value, NaN where there is none"""
    last, thin = math.nan, bool(_rows(run.evaluations))
    if _rows(run.progress):
        returns = run.progress["return"]
        smooth = _running_mean(returns, EPISODES)
        last = float(smooth[-1])
        width, alpha = (0.8, 0.45) if thin else (1.6, 1)
        axes.plot(run.progress["step"], smooth, linewidth=width, alpha=alpha, marker=_marker(returns), **look)
    if thin:
        step, mean, std = (run.evaluations[name] for name in ("step", "mean", "std"))
        axes.fill_between(step, mean - std, mean + std, color=look["color"], alpha=0.12, linewidth=0)
        axes.plot(step, mean, linewidth=2, marker=_marker(mean), **look)
        last = float(mean[-1])
    return last


def _last_value(value: float) -> str:
    return "no episode ended" if math.isnan(value) else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _running_mean(values: FloatArray, n: int) -> FloatArray:
    """Of the last n, or of as many as there are by then."""
    return np.array([values[max(0, i + 1 - n) : i + 1].mean() for i in range(len(values))])


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 2]}...{name[-(LONGEST // 2 - 1) :]}"


# --- what the panels share --------------------------------------------------------------------------------------------


def _rows(table: Columns) -> int:
    return len(table["step"]) if table else 0


def _marker(values: Sequence[float] | FloatArray) -> str:
    """A line through few points needs them marked; through one there is no line."""
    return "." if len(values) < 10 else ""


def _line(axes: Axes, steps: FloatArray, values: FloatArray, color: int, **look: Any) -> None:
    wrapped = {"linestyle": ("-", "-.", ":")[color // len(LINES) % 3], **look}
    axes.plot(steps, values, color=LINES[color % len(LINES)], marker=_marker(values), linewidth=1.3, **wrapped)


def _log_scale(axes: Axes) -> None:
    """For values that span enough of one."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size and positive.max() >= 3 * positive.min():
        axes.set_yscale("log", nonpositive="mask")
        _log_labels(axes.yaxis, "25")


def _log_labels(axis: Axis, between: str) -> None:
    """Plain numbers at the powers of ten; where these are few, also at numbers that begin with the digits `between`."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    def minor(value: float, _: int | None) -> str:
        return f"{value:g}" if f"{value:.0e}"[0] in between else ""

    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(minor) if high < 100 * low else NullFormatter())


def _over_steps(axes: Axes, title: str, quantity: str) -> None:
    axes.set(xlabel=STEPS, ylabel=quantity)
    _count_in_thousands(axes)
    handles, _ = axes.get_legend_handles_labels()
    _head(axes, title, handles)


def _count_in_thousands(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _head(axes: Axes, title: str, handles: Sequence[Any], columns: int = 4) -> None:
    """Title and legend above the axes, where they cover nothing."""
    rows = math.ceil(len(handles) / columns)
    axes.set_title(title, loc="left", pad=6 + 14 * rows, fontsize=10)
    if handles:
        legend = axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=8,
            borderaxespad=0.2, borderpad=0.2, handlelength=2.2, columnspacing=1.2,
        )  # fmt: skip
        legend.set_in_layout(False)  # the title's distance makes room for it


def _say(axes: Axes, title: str, what: str) -> None:
    """A panel that says why it is empty."""
    _head(axes, title, [])
    axes.text(0.5, 0.5, what, ha="center", va="center", color=GREY, transform=axes.transAxes)
    axes.set_axis_off()


def _say_no_looks(axes: Axes, title: str) -> None:
    _say(axes, title, "no look at the gradient in this run (gradients.csv):\ntrain longer, or with --diagnose-every 50")
