"""`minddpg plot`: a run on one page, several runs in one picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Commands, check_file


def add(commands: Commands) -> None:
    """Register the command."""
    plot = commands.add_parser(
        "plot",
        help="draw a run on one page, several runs in one picture",
        description="One page per run: learning curve, Q against returns, saturation, dQ/da, dead units, targets; of "
        "several runs, their learning curves in one picture too (needs the extra plot). A picture that is there is "
        "replaced.",
    )
    plot.add_argument("directories", nargs="+", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    plot.add_argument(
        "--out",
        metavar="FILE",
        help="a .png, .svg or .pdf. Of one DIR: its page; default: DIR/run.png. Of several: the picture of all, beside "
        "each one's page at DIR/run.png; default: runs.png beside the first DIR",
    )
    plot.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw."""
    from ..gradflow.canvas import check_path, require_matplotlib, save
    from ..runs.directory import load_info
    from ..study.plan import is_study
    from .study import plot_study

    if any(map(is_study, args.directories)):
        return plot_study(args)
    directories = list({str(Path(directory).resolve()): directory for directory in args.directories}.values())
    for directory in directories:
        load_info(directory)  # what is no run is said first
    pages = {directory: str(Path(directory) / "run.png") for directory in directories}
    together = None
    if len(directories) > 1:
        together = args.out or str(Path(directories[0]).absolute().parent / "runs.png")
    elif args.out is not None:
        pages = {directories[0]: args.out}
    for path in (*pages.values(), *([together] if together else [])):
        check_path(path)
        check_file(path)
    require_matplotlib()

    from ..gradflow.pictures import run_figure, runs_figure

    for directory, path in pages.items():
        save(run_figure(directory), path)
        print(f"{directory}: {path}")
    if together:
        save(runs_figure(directories), together)
        print(f"all {len(directories)} together: {together}")
    return 0
