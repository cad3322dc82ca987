"""`minddpg export`: a trained policy as one file, for programs that have no minddpg."""

from __future__ import annotations

import argparse

from .options import Commands, check_file


def add(commands: Commands) -> None:
    """Register the command."""
    export = commands.add_parser(
        "export",
        help="write a trained policy as .npz or .onnx",
        description="Write the policy of a run directory as one file for programs that have no minddpg: an .npz for "
        "NumPy, or an .onnx (extra onnx). Observations in, actions in the environment's units out. A FILE that is "
        "there is replaced.",
        epilog="minddpg/runs/README.md shows how to use both in ten lines.",
    )
    export.add_argument("directory", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    export.add_argument("file", metavar="FILE", help="an .npz or .onnx")
    export.add_argument("--best", action="store_true", help="the agent with the best evaluation, not the last one")
    export.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export."""
    check_file(args.file)

    from ..export import check_suffix, export
    from ..runs.directory import load_info

    load_info(args.directory)  # what is no run is said first
    check_suffix(args.file)
    export(args.directory, args.file, args.best)
    print(f"{args.directory}: {args.file}")
    return 0
