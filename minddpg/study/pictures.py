"""A study in one picture. Of each environment:

- learning curves: interquartile mean of the evaluations with its 95 % interval, each seed as a thin line;
- every run's score, by two measures, with interquartile mean and interval;
- performance profiles: what share of the runs scores more than tau;
- where something varies, the probability that a run of the best variant beats one of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..gradflow.canvas import GREY, new_figure, style
from ..gradflow.pictures import LINES, STEPS, _count_in_thousands, _drawable, _marker, _say, _shortened
from . import statistics
from .results import MEASURE, Study, Summary, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("last10", "best")
THRESHOLDS = 201


@style()
def study_figure(study: Study, measure: str = MEASURE) -> Figure:
    """The picture of a study. measure: of the profiles and the probabilities, one of results.MEASURES.

    Runs that are not done are in none of it. Raises PlotError where matplotlib is missing, RunError for a damaged file.
    """
    variants = list(study.plan.variants)
    second = max(1.9, 1.15 + 0.3 * len(variants))
    figure = new_figure(12, (4 + second) * len(study.plan.configs))
    rows = figure.subfigures(len(study.plan.configs), 1, squeeze=False)[:, 0]
    for part, env in zip(rows, study.plan.configs, strict=True):
        summaries = [study.summary(env, variant, measure) for variant in variants]
        done = sum(len(one.scores) for one in summaries)
        asked = sum(one.asked for one in summaries)
        runs = _runs(done) if done == asked else f"{done} of {_runs(asked)}"
        steps = study.plan.configs[env].steps
        part.suptitle(f"{_drawable(env[:60])}, {steps:,} steps, {runs}", fontweight="bold", parse_math=False)
        grid = part.add_gridspec(2, 1, height_ratios=(4, second))
        curves = part.add_subplot(grid[0])
        if not done:
            _say(curves, "", "no run is done yet")
            continue
        _curves(curves, study, env, summaries)
        below = grid[1].subgridspec(1, 4 if len(variants) > 1 else 3)
        first = part.add_subplot(below[0])
        for place, name in enumerate(SHOWN):
            axes = first if place == 0 else part.add_subplot(below[place], sharey=first)
            _scores(axes, [study.summary(env, variant, name) for variant in variants], name, names=place == 0)
        _profiles(part.add_subplot(below[2]), summaries, measure)
        if len(variants) > 1:
            _improvements(part.add_subplot(below[3], sharey=first), study, summaries, measure)
    return figure


def _curves(axes: Axes, study: Study, env: str, summaries: Sequence[Summary]) -> None:
    for place, one in enumerate(summaries):
        steps, curves = study.curves(env, one.variant)
        if not curves.size:
            continue
        color, dashes = _look(place)
        for curve in curves:
            axes.plot(steps, curve, color=color, linewidth=0.6, alpha=0.4, linestyle=dashes, marker=_marker(curve))
        centre, low, high = statistics.curve_interval(curves)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        label = f"{_name(one)}:  {number(float(centre[-1]))}"
        axes.plot(steps, centre, color=color, linewidth=2.2, linestyle=dashes, marker=_marker(centre), label=label)
    planned = max(job.steps for job in study.jobs if job.env == env)
    axes.set(xlabel=STEPS, ylabel="return of an evaluation, without noise", xlim=(0, 1.02 * planned))
    _count_in_thousands(axes)
    axes.set_title("Learning: interquartile mean, 95 % interval; thin: each seed", loc="left", fontsize=10)
    legend = axes.legend(
        title="at the end", loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8, title_fontsize=8,
        alignment="left", borderaxespad=0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _scores(axes: Axes, summaries: Sequence[Summary], measure: str, names: bool) -> None:
    for place, one in enumerate(summaries):
        if not one.scores.size:
            continue
        color, _ = _look(place)
        axes.plot(one.scores, np.full(len(one.scores), place), "|", color=color, markersize=9, alpha=0.6)
        axes.plot([one.iqm.low, one.iqm.high], [place, place], color=color, linewidth=5, alpha=0.3)
        axes.plot([one.iqm.value], [place], "o", color=color, markersize=6)
        axes.annotate(
            number(one.iqm.value), (one.iqm.value, place), (0, 7), textcoords="offset points", ha="center", fontsize=7
        )
    _one_row_each(axes, summaries, names)
    title = {"last10": "Last 10 evaluations", "best": "Best evaluation"}[measure]
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("return: IQM, interval, each run")


def _profiles(axes: Axes, summaries: Sequence[Summary], measure: str) -> None:
    every = np.concatenate([one.scores for one in summaries])
    low, high = float(every.min()), float(every.max())
    edge = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    thresholds = np.linspace(low - edge, high + edge, THRESHOLDS)
    for place, one in enumerate(summaries):
        if not one.scores.size:
            continue
        color, dashes = _look(place)
        shares = statistics.profile([one.scores], thresholds)
        if len(one.scores) > 1:
            below, above = statistics.interval(
                lambda scores: statistics.profile(scores, thresholds), [one.scores], repetitions=2_000
            )
            axes.fill_between(thresholds, below, above, color=color, alpha=0.15, linewidth=0)
        axes.plot(thresholds, shares, color=color, linestyle=dashes, linewidth=1.6)
    axes.set(xlabel=f"return tau ({measure})", ylim=(-0.03, 1.03))
    axes.set_title("Share of runs above tau", loc="left", fontsize=9)


def _improvements(axes: Axes, study: Study, summaries: Sequence[Summary], measure: str) -> None:
    scored = [one for one in summaries if one.scores.size]
    best = max(scored, key=lambda one: one.iqm.value)
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    for place, one in enumerate(summaries):
        if one is best:
            axes.annotate(
                "the best", (0.5, place), ha="center", va="center", fontsize=8, color=GREY, backgroundcolor="w"
            )
        elif one.scores.size:
            chance = study.improvement(best.variant, one.variant, measure, one.env)
            color, _ = _look(place)
            axes.plot([chance.low, chance.high], [place, place], color=color, linewidth=5, alpha=0.3)
            axes.plot([chance.value], [place], "o", color=color, markersize=6)
    axes.set(xlim=(-0.05, 1.05), xticks=(0, 0.5, 1), xlabel=f"probability ({measure})")
    axes.set_title("Does the best beat this one?", loc="left", fontsize=9)
    axes.tick_params(labelleft=False)


def _one_row_each(axes: Axes, summaries: Sequence[Summary], names: bool) -> None:
    axes.set_ylim(len(summaries) - 0.4, -0.8)
    labels = [_name(one) for one in summaries]
    axes.set_yticks(range(len(summaries)), labels, parse_math=False, fontsize=8)
    axes.tick_params(labelleft=names)
    axes.locator_params(axis="x", nbins=5)


def _look(place: int) -> tuple[str, str]:
    """Colour and line style of the place-th variant."""
    return LINES[place % len(LINES)], ("-", "--", ":", "-.")[place // len(LINES) % 4]


def _name(one: Summary) -> str:
    return _shortened(_drawable(one.variant or _runs(len(one.scores))))


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"
