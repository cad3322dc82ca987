"""What every picture shares: matplotlib, imported late; one style; PNG, SVG and PDF files, written whole."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.files import RunError, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
GREY = "#777777"
SUFFIXES = (".png", ".svg", ".pdf")
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
    "svg.hashsalt": "minddpg",  # the same picture is the same file
}


class PlotError(RuntimeError):
    """A picture that cannot be drawn or written; the message is one line."""


def require_matplotlib() -> None:
    """Raises PlotError where it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PlotError("pictures need the extra plot; from a checkout: pip install '.[plot]'") from None


@contextmanager
def style() -> Iterator[None]:
    """minddpg's style while drawing, and the caller's again behind. Raises PlotError where matplotlib is missing."""
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches; to be called under `with style():` or `@style()`.

    It shows itself in a notebook, which asks for `_repr_png_`.
    """
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return _drawn(self, "png")

    return Picture(figsize=(width, height), layout="constrained", facecolor="white")


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises PlotError where `save` would refuse the name."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PlotError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG, SVG or PDF, by the name's suffix, whole or not at all. Raises PlotError, RunError."""
    check_path(path)
    path = Path(path)
    try:
        write_whole(path, _drawn(figure, path.suffix.lower()[1:]))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    return _drawn(figure, "svg").decode()


def _drawn(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    when = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}  # the same picture, again
    with style():
        figure.savefig(content, format=kind, dpi=150, metadata=when[kind])
    return content.getvalue()
