"""Small tables: as text for a `repr`, as HTML for a notebook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side; all but the first are to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    hints: Sequence[str] = (),
    sizes: Mapping[int, Sequence[float]] | None = None,
) -> str:
    """The same as HTML. hints: shown when a row is pointed at. sizes: numbers by column, which colour it by their log.

    Everything is escaped. The colours can be read on a light page and on a dark one.
    """
    grounds = {column: _grounds(numbers) for column, numbers in (sizes or {}).items()}
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [f"<table><thead><tr>{names}</tr></thead><tbody>"]
    for i, row in enumerate(rows):
        hint = f' title="{escape(hints[i])}"' if hints else ""
        cells = []
        for column, cell in enumerate(row):
            ground = f' style="background:{grounds[column][i]}"' if column in grounds else ""
            cells.append(f"<td{ground}>{escape(cell)}</td>")
        lines.append(f"<tr{hint}>{''.join(cells)}</tr>")
    return "".join(lines) + "</tbody></table>"


def _grounds(numbers: Sequence[float]) -> list[str]:
    """From nothing for the smallest to blue for the largest; red for 0 and what is no number."""
    logs = [math.log10(x) if 0 < x < math.inf else None for x in numbers]
    known = [x for x in logs if x is not None]
    low, span = min(known, default=0.0), (max(known, default=0.0) - min(known, default=0.0)) or 1.0
    return ["rgba(213,94,0,.45)" if x is None else f"rgba(0,114,178,{0.05 + 0.5 * (x - low) / span:.2f})" for x in logs]
