"""A report of a run as one HTML file: the gradient's way with a slider over the updates, the trace, the pictures.

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

from ..agent import DDPG
from ..gradcheck import json_value
from ..replay import Batch
from ..runs.directory import RunInfo, load, load_batch, load_info, reward_range
from ..runs.files import RunError, write_whole
from ..runs.tables import Columns, load_table
from . import canvas, flow_picture
from .diagnosis import Statistics, diagnose
from .tracing import HEADINGS, Hop, Trace, trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FRAMES = 100  # of the slider, the saved agent's not counted


def write_report(
    directory: str | os.PathLike[str], path: str | os.PathLike[str], batch_size: int = 32, seed: int = 0
) -> None:
    """Write the report of a run directory, whole or not at all.

    batch_size, seed: of the saved agent's trace, on transitions that it learnt from. Raises RunError, PlotError.
    """
    info, agent = load_info(directory), load(directory)
    gradients, batch = load_table(directory, "gradients"), load_batch(directory, batch_size, seed)
    traced = trace(agent, batch, rewards=reward_range(directory))
    _check_columns(traced.statistics, gradients)
    pictures = {name: canvas.svg(figure) for name, figure in _figures(directory, agent, batch, gradients)}
    page = report_html(info, _versions(directory), traced, gradients, pictures)
    try:
        write_whole(Path(path), page.encode(errors="replace"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def _versions(directory: str | os.PathLike[str]) -> dict[str, str]:
    record = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))  # load_info has checked it
    versions = record.get("versions")
    return {str(name): str(version) for name, version in versions.items()} if isinstance(versions, dict) else {}


def _figures(
    directory: str | os.PathLike[str], agent: DDPG, batch: Batch, gradients: Columns
) -> Iterator[tuple[str, Figure]]:
    from .pictures import action_figure, history_figure, run_figure

    if _looks(gradients):
        yield "While training", history_figure(dict(gradients))
    yield "Q along the action", action_figure(agent, batch)
    yield "The run", run_figure(directory)


def _looks(gradients: Columns) -> int:
    return len(next(iter(gradients.values()), ()))


# --- the page ---------------------------------------------------------------------------------------------------------


def report_html(
    info: RunInfo,
    versions: Mapping[str, str],
    traced: Trace,
    gradients: Columns,
    pictures: Mapping[str, str],
) -> str:
    """The page. gradients: of gradients.csv. pictures: SVG documents by title.

    Raises RunError where gradients.csv lacks a column, PlotError where matplotlib is missing.
    """
    frames = _frames(info, traced, gradients)
    last, template = frames[-1], (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    sizes = ", ".join(map(str, info.config.hidden_sizes)) or "no"
    said = {
        "env": info.env,
        "seed": str(info.seed),
        "updates": f"{traced.updates:,}",
        "networks": f"hidden layers of {sizes} units; the action enters the critic's layer {info.config.action_layer}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "an unknown version",
        "when": last["when"],
        "numbers": last["numbers"],
        "traced": f"A batch of {traced.n} transitions that the agent learnt from. Nothing is changed by looking.",
    }
    parts = {
        "script_hash": _script_hash(template),
        "diagnoses": _diagnoses(traced),
        "controls": _controls(len(frames)),
        "flow": _flow(traced),
        "rows": "\n".join(_rows(traced)),
        "pictures": "\n".join(_picture(number, *item) for number, item in enumerate(pictures.items())),
        "config": "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in info.config.to_dict().items()),
        "data": _json(_data(traced, frames)),
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
    if not traced.diagnoses:
        return '<p class="fine">At the last update, nothing is visibly wrong.</p>'
    items = (
        f"<li><strong>{escape(d.name)}</strong>: {escape(d.what)}.<br>Remedy: {escape(d.remedy)}."
        for d in traced.diagnoses
    )
    return f'<ul class="wrong">{"".join(items)}</ul>'


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


def _flow(traced: Trace) -> str:
    text = _inline(canvas.svg(flow_picture.flow_figure(traced)))
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
    for step, heading in HEADINGS.items():
        text = escape(f"{step}. {heading}{traced.detail(step)}")
        yield f'<tr class="step"><th colspan="9" scope="rowgroup">{text}</th></tr>'
        for hop in (hop for hop in traced.hops if hop.step == step):
            shape = "(" + ", ".join(map(str, hop.shape)) + ")"
            factor = "" if math.isnan(hop.factor) else f"{hop.factor:.3g}"
            numbers = (f"{hop.norm:.3g}", f"{hop.rms:.3g}", f"{hop.low:.3g}", f"{hop.high:.3g}", f"{hop.zeros:.0%}")
            cells = (hop.name, shape, *numbers, factor, hop.formula)
            yield f'<tr data-hop="{escape(hop.name)}">' + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"


# --- what the slider shows --------------------------------------------------------------------------------------------


def _data(traced: Trace, frames: list[dict[str, Any]]) -> dict[str, Any]:
    places = flow_picture.plan(traced).places
    hops = [
        {
            "name": hop.name,
            "shape": flow_picture.shape_text(hop),
            "formula": hop.formula,
            "last": f"lowest {hop.low:.3g}, highest {hop.high:.3g}, zeros {hop.zeros:.0%}",
            "place": _place(places[hop.name]),
        }
        for hop in flow_picture.drawn(traced)
    ]
    return {
        "colours": flow_picture.colours(),
        "zero": flow_picture.ZERO,
        "red": canvas.RED,
        "arrow_share": flow_picture.ARROW_SHARE,
        "hops": hops,
        "frames": frames,
    }


def _place(place: flow_picture.Place) -> tuple[float, float, float, bool]:
    """Left, right, and the middle or the top, as SVG counts: downwards."""
    return place.x - place.width / 2, place.x + place.width / 2, flow_picture.HEIGHT - place.y, place.hangs


def _frames(info: RunInfo, traced: Trace, gradients: Columns) -> list[dict[str, Any]]:
    """What the slider shows, all of it as text and lengths, so that the page has no arithmetic of its own."""
    hops, n = flow_picture.drawn(traced), info.config.batch_size
    _check_columns(traced.statistics, gradients)
    frames = []
    for line in _spread(_looks(gradients)):
        looked = {name: float(column[line]) for name, column in gradients.items()}
        rms = {hop.name: looked[f"rms.{hop.name}"] for hop in hops}
        when = f"Step {looked['step']:,.0f}, update {looked['updates']:,.0f}, a batch of {n}."
        frames.append(_frame(info, hops, when, looked["updates"], n, rms, looked))
    when = f"The saved agent's next update, after {traced.updates:,}, a batch of {traced.n}."
    rms = {hop.name: hop.rms for hop in hops}
    return [*frames, _frame(info, hops, when, traced.updates, traced.n, rms, traced.statistics)]


def _check_columns(row: Statistics, gradients: Columns) -> None:
    missing = {"step", "updates", *row} - {*gradients}
    if gradients and missing:
        raise RunError(f"gradients.csv is damaged (it has no column {min(missing)}); restore it or train again")


def _spread(rows: int) -> list[int]:
    return sorted({round(line) for line in np.linspace(0, rows - 1, min(rows, MOST_FRAMES))})


def _frame(
    info: RunInfo, hops: list[Hop], when: str, updates: float, n: int, rms: Mapping[str, float], row: Statistics
) -> dict[str, Any]:
    norms = {hop.name: rms[hop.name] * math.sqrt(_elements(hop, n)) for hop in hops}
    looks = []
    for hop in hops:
        factor = norms[hop.name] / norms[hop.of] if hop.of and norms[hop.of] else math.nan
        text, fades = flow_picture.factor_text(hop.name, factor), flow_picture.fades(factor)
        look = flow_picture.stroke(rms[hop.name])
        looks.append([*look, flow_picture.rms_text(rms[hop.name]), text, fades, f"{norms[hop.name]:.3g}"])
    return {
        "title": flow_picture.title_text(updates, n),
        "when": when,
        "numbers": _numbers(info, row),
        "tanh_slope": flow_picture.slope_text(rms["act"]),
        "hops": looks,
    }


def _elements(hop: Hop, n: int) -> int:
    """Of the same array for a batch of n."""
    return math.prod((n, *hop.shape[1:]) if flow_picture.is_batched(hop.name) else hop.shape)


def _numbers(info: RunInfo, row: Statistics) -> str:
    found = [
        f"dQ/da {row['dq_dact_rms']:.3g} (RMS)",
        f"mean tanh' {row['tanh_slope']:.3g}",
        f"{row['saturated']:.0%} of the actions beyond 0.99",
        f"Q {row['q_mean']:.4g} on average",
    ]
    sizes = info.config.hidden_sizes
    for network in ("actor", "critic") if sizes else ():
        dead = sum(row[f"{network}.{layer}.dead"] * size for layer, size in enumerate(sizes))
        found.append(f"{dead:.0f} of the {network}'s {sum(sizes)} units dead")
    wrong = ", ".join(diagnosis.name for diagnosis in diagnose(row))
    return "; ".join(found) + "; " + (f"visibly wrong: {wrong}." if wrong else "nothing visibly wrong.")
