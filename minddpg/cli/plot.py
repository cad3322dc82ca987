"""`minddpg plot`: a run on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Commands, check_file, fail


def add(commands: Commands) -> None:
    """Register the command."""
    plot = commands.add_parser(
        "plot",
        allow_abbrev=False,
        help="draw a run on one page",
        description="One page per run: learning curve, Q against returns, saturation, dQ/da, dead units, targets "
        "(needs the extra plot).",
    )
    plot.add_argument("directories", nargs="+", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    plot.add_argument("--out", metavar="FILE", help="a .png or .svg; default: DIR/run.png")
    plot.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw."""
    if args.out is not None and len(args.directories) > 1:
        fail("--out names one file; leave it out for more than one DIR (each gets its run.png)")

    from ..gradflow.canvas import check_path, require_matplotlib, save
    from ..runs.directory import load_info

    for directory in args.directories:
        load_info(directory)  # what is no run is said first
    require_matplotlib()

    from ..gradflow.pictures import run_figure

    for directory in args.directories:
        path = args.out if args.out is not None else str(Path(directory) / "run.png")
        check_path(path)
        check_file(path)
        save(run_figure(directory), path)
        print(f"{directory}: {path}")
    return 0
