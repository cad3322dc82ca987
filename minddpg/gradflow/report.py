"""A report of a run as one HTML file: the gradient's way and the trace with a slider over the updates, four routes, the
classic mistakes, the pictures.

The file needs no network and no other file. Everything in it that a run directory says is escaped, and its
Content-Security-Policy lets nothing run but the one script whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..gradcheck import json_value
from ..runs.directory import KEPT_TRANSITIONS, RunInfo, load, load_batch, load_info
from ..runs.files import RunError, write_whole
from ..runs.tables import Columns, load_table
from ..showing import html_table
from . import canvas, flow_picture
from .classic_mistakes import EFFECTS_HEAD, Effects, mistakes
from .diagnosis import Statistics, diagnose, explain
from .four_routes import ROUTES_HEAD
from .story import MEASURE, factor, percent, tell
from .tracing import HEADINGS, Hop, Trace, trace_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FRAMES = 100  # of the slider, the saved agent's not counted


def write_report(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    seed: int = 0,
    dim: int = 0,
) -> None:
    """Write the report of a run directory, whole or not at all.

    batch_size, seed: of the saved agent's trace, on transitions that it learnt from; None: the run's own size. dim: the
    component of the action that is drawn. Raises RunError, PlotError.
    """
    page = make_page(directory, batch_size, seed, dim)
    try:
        write_whole(Path(path), page.encode(errors="replace"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def make_page(
    directory: str | os.PathLike[str],
    batch_size: int | None = None,
    seed: int = 0,
    dim: int = 0,
    version: str | None = None,
) -> str:
    """The page itself. version: of a page that asks its server, from time to time, whether there is another one."""
    info, gradients = load_info(directory), load_table(directory, "gradients")
    asked = batch_size or info.config.batch_size
    traced = trace_run(directory, asked, seed)
    _check_columns(traced, gradients)
    effects = mistakes(load(directory), load_batch(directory, KEPT_TRANSITIONS), traced.n)
    pictures = {name: canvas.svg(figure) for name, figure in _figures(directory, info, gradients, dim)}
    return report_html(info, _versions(directory), traced, effects, gradients, pictures, asked, version)


def _versions(directory: str | os.PathLike[str]) -> dict[str, str]:
    record = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))  # load_info has checked it
    versions = record.get("versions")
    return {str(name): str(version) for name, version in versions.items()} if isinstance(versions, dict) else {}


def _figures(
    directory: str | os.PathLike[str], info: RunInfo, gradients: Columns, dim: int
) -> Iterator[tuple[str, Figure]]:
    from .pictures import action_figure, history_figure, policy_figure, run_figure

    if _looks(gradients):
        yield "While training", history_figure(gradients)
    yield "Q along the action", action_figure(directory, dim=dim)
    if info.env.startswith("Pendulum-") and (info.obs_dim, info.act_dim) == (3, 1):
        yield "The policy", policy_figure(directory)
    yield "The run", run_figure(directory)


def _looks(gradients: Columns) -> int:
    return len(next(iter(gradients.values()), ()))


# --- the page ---------------------------------------------------------------------------------------------------------


def report_html(
    info: RunInfo,
    versions: Mapping[str, str],
    traced: Trace,
    effects: Effects,
    gradients: Columns,
    pictures: Mapping[str, str],
    asked: int,
    version: str | None = None,
) -> str:
    """The page. gradients: of gradients.csv. pictures: SVG documents by title. asked: the size of the batch asked for.

    Raises RunError where gradients.csv lacks a column, PlotError where matplotlib is missing.
    """
    scale, frames = _frames(info, traced, gradients)
    last, template = frames[-1], (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    sizes = ", ".join(map(str, info.config.hidden_sizes)) or "no"
    fewer = f" {asked:,} were asked for; no more are kept of the run." if asked > traced.n else ""
    over = f"Over {effects.batches} batches of {effects.batch_size}: the median, and where the middle 80 % lie."
    said = {
        "env": info.env,
        "seed": str(info.seed),
        "updates": f"{traced.updates:,}",
        "networks": f"hidden layers of {sizes} units; the action enters the critic's layer {info.config.action_layer}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "an unknown version",
        "when": last["when"],
        "numbers": last["numbers"],
        "headline": last["headline"],
        "shares": last["shares"],
        "measure": f"{MEASURE}; dx is d(loss)/dx for loss = -mean(q), and has x's shape.",
        "traced": f"The saved agent's batch is of {traced.n} transitions that it learnt from.{fewer}",
        "over": over if effects.batches > 1 else f"On a batch of {effects.batch_size}.",
    }
    hints = [route.note for route in traced.routes.routes] if traced.routes else []
    parts = {
        "script_hash": _script_hash(template),
        "connect": "connect-src 'self'; " if version is not None else "",
        "diagnoses": _diagnoses(traced),
        "controls": _controls(len(frames)),
        "flow": _flow(traced, scale),
        "rows": "\n".join(_rows(traced)),
        "routes": html_table(ROUTES_HEAD, traced.routes.rows(), hints) if traced.routes else "",
        "mistakes": html_table(EFFECTS_HEAD, effects.rows()),
        "pictures": "\n".join(_picture(number, *item) for number, item in enumerate(pictures.items())),
        "config": "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in info.config.to_dict().items()),
        "data": _json({**_data(traced, frames), "version": version}),
    }
    filled = {name: escape(text) for name, text in said.items()} | parts
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def _script_hash(template: str) -> str:
    script = template[template.rindex("<script>") + len("<script>") : template.rindex("</script>")]
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(record: Any) -> str:
    """JSON that can stand in a <script>: ASCII, and nothing in it that HTML knows."""
    text = json.dumps(json_value(record), allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _diagnoses(traced: Trace) -> str:
    explained = "".join(f'<p class="fine">{escape(text)}.</p>' for text in explain(traced.statistics))
    if not traced.diagnoses:
        return '<p class="fine">At the last update, nothing is visibly wrong.</p>' + explained
    items = (
        f"<li><strong>{escape(d.name)}</strong>: {escape(d.what)}.<br>Remedy: {escape(d.remedy)}."
        for d in traced.diagnoses
    )
    return f'<ul class="wrong">{"".join(items)}</ul>{explained}'


def _controls(frames: int) -> str:
    if frames == 1:
        return (
            "<p>There is no slider over the updates: the run has no gradients.csv, because it was too short or trained "
            "with <code>--diagnose-every 0</code>.</p>"
        )
    return (
        '<div class="controls"><button id="play" type="button">Play</button><label for="frame">update</label>'
        f'<input id="frame" type="range" min="0" max="{frames - 1}" value="{frames - 1}" autocomplete="off"></div>'
    )


def _flow(traced: Trace, scale: flow_picture.Scale) -> str:
    text = _inline(canvas.svg(flow_picture.flow_figure(traced, scale)))
    width = float(re.search(r'width="([\d.]+)pt"', text)[1])  # type: ignore[index]
    style = f'style="width: 100%; min-width: {1.05 * width:.0f}px; max-width: {1.6 * width:.0f}px; height: auto"'
    return text.replace("<svg ", f"<svg {style} ", 1)


def _picture(number: int, title: str, svg: str) -> str:
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1p{number}-", _inline(svg))
    label = escape(title)
    return (
        f'<h2>{label}</h2>\n<div class="scroll picture" tabindex="0" role="group" aria-label="{label}">\n{text}\n</div>'
    )


def _inline(svg: str) -> str:
    """An SVG document as part of an HTML page."""
    text = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def _rows(traced: Trace) -> Iterator[str]:
    """Of the table. What is known of the saved agent's update alone is of the class "last"."""
    drawn = {hop.name for hop in flow_picture.drawn(traced)}
    for step, heading in HEADINGS.items():
        text, _, more = traced.detail(step).partition("\n")
        lines = f'<span class="last">\n{escape(more)}</span>' if more else ""
        heading = f"{escape(f'{step}. {heading}{text}')}{lines}"
        yield f'<tr class="step"><th colspan="8" scope="rowgroup">{heading}</th></tr>'
        for hop in (hop for hop in traced.hops if hop.step == step):
            shape = "(" + ", ".join(map(str, hop.shape)) + ")"
            moving = f"{hop.rms:.3g}", "" if math.isnan(hop.factor) else flow_picture.factor_text(hop.name, hop.factor)
            only_last = f"{hop.low:.3g}", f"{hop.high:.3g}", f"{hop.zeros:.0%}"
            cells = [("", hop.name), ("", shape), *(("" if hop.name in drawn else "last", text) for text in moving)]
            cells += [*(("last", text) for text in only_last), ("", hop.formula)]
            row = "".join(f'<td class="{kind}">{escape(text)}</td>' for kind, text in cells)
            yield f'<tr data-hop="{escape(hop.name)}">{row}</tr>'


# --- what the slider shows --------------------------------------------------------------------------------------------


def _data(traced: Trace, frames: list[dict[str, Any]]) -> dict[str, Any]:
    places, way = flow_picture.plan(traced).places, {hop.name for hop in traced.way}
    hops = [
        {
            "name": hop.name,
            "shape": flow_picture.shape_text(hop),
            "formula": hop.formula,
            "last": f"lowest {hop.low:.3g}, highest {hop.high:.3g}, zeros {hop.zeros:.0%}",
            "place": _place(places[hop.name]),
            "plain": not flow_picture.is_gradient(hop.name),
            "way": hop.name in way,
        }
        for hop in flow_picture.drawn(traced)
    ]
    return {
        "colours": flow_picture.colours(),
        "zero": flow_picture.ZERO,
        "plain": flow_picture.PLAIN,
        "red": canvas.RED,
        "arrow_share": flow_picture.ARROW_SHARE,
        "hops": hops,
        "frames": frames,
    }


def _place(place: flow_picture.Place) -> tuple[float, float, float, bool]:
    """Left, right, and the middle or the top, as SVG counts: downwards."""
    return place.x - place.width / 2, place.x + place.width / 2, flow_picture.HEIGHT - place.y, place.hangs


def _frames(info: RunInfo, traced: Trace, gradients: Columns) -> tuple[flow_picture.Scale, list[dict[str, Any]]]:
    """What the slider shows, all of it as text and lengths, so that the page has no arithmetic of its own.

    The scale is one for all of them.
    """
    n = info.config.batch_size
    _check_columns(traced, gradients)
    moments: list[tuple[str, float, int, Statistics]] = []
    for line in _spread(_looks(gradients)):
        row = {name: float(column[line]) for name, column in gradients.items()}
        when = f"Step {row['step']:,.0f}, update {row['updates']:,.0f}, a batch of {n}."
        moments.append((when, row["updates"], n, row))
    when = f"The saved agent's next update, after {traced.updates:,}, a batch of {traced.n}."
    moments.append((when, traced.updates, traced.n, traced.statistics))
    hops = flow_picture.drawn(traced)
    shown = [hop.name for hop in hops if flow_picture.is_gradient(hop.name)]
    scale = flow_picture.scale_of(row[f"rms.{name}"] for *_, row in moments for name in shown)
    return scale, [_frame(info, hops, scale, *moment) for moment in moments]


USED = ("tanh_slope", "saturated", "held", "dq_dact_rms", "q_mean", "q_std", "q_low", "q_high", "td_50",
        "possible_low", "possible_high")  # fmt: skip


def _check_columns(traced: Trace, gradients: Columns) -> None:
    """Raise RunError where a column is missing that the slider shows; what tells causes may be, in older tables."""
    rms = {f"rms.{hop.name}" for hop in flow_picture.drawn(traced)}
    dead = {column for column in traced.statistics if column.endswith(".dead")}
    missing = {"step", "updates", *USED, *rms, *dead} - {*gradients}
    if gradients and missing:
        raise RunError(f"gradients.csv is damaged (it has no column {min(missing)}); restore it or train again")


def _spread(rows: int) -> list[int]:
    return sorted({round(line) for line in np.linspace(0, rows - 1, min(rows, MOST_FRAMES))})


def _frame(
    info: RunInfo, hops: list[Hop], scale: flow_picture.Scale, when: str, updates: float, n: int, row: Statistics
) -> dict[str, Any]:
    story, looks = tell(row), []
    for hop in hops:
        rms = row[f"rms.{hop.name}"]
        look = flow_picture.look_of(hop.name, rms, scale)
        text = flow_picture.factor_text(hop.name, factor(row[f"rms.{hop.of}"], rms) if hop.of else math.nan)
        looks.append([*look, flow_picture.rms_text(rms), text, hop.name == story.worst])
    return {
        "title": flow_picture.title_text(updates, n),
        "headline": story.headline,
        "shares": story.shares,
        "when": when,
        "numbers": _numbers(info, row),
        "tanh_slope": flow_picture.slope_text(row),
        "hops": looks,
    }


def _numbers(info: RunInfo, row: Statistics) -> str:
    found = [
        f"dQ/da {row['dq_dact_rms']:.3g} (RMS)",
        f"mean room to the bound {row['room']:.3g}" if "room" in row else f"mean tanh' {row['tanh_slope']:.3g}",
        f"{percent(row['saturated'])} of the actions beyond 0.99",
        f"Q {row['q_mean']:.4g} on average",
    ]
    sizes = info.config.hidden_sizes
    for network in ("actor", "critic") if sizes else ():
        dead = sum(row[f"{network}.{layer}.dead"] * size for layer, size in enumerate(sizes))
        found.append(f"{dead:.0f} of the {network}'s {sum(sizes)} units dead")
    wrong = ", ".join(diagnosis.name for diagnosis in diagnose(row))
    return "; ".join(found) + "; " + (f"visibly wrong: {wrong}." if wrong else "nothing visibly wrong.")
