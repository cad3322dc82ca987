"""`minddpg explain`: what is wrong with somebody else's DDPG update."""

from __future__ import annotations

import argparse
import json

from .options import Commands, fail

FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "numpy")


def add(commands: Commands) -> None:
    """Register the command."""
    explain = commands.add_parser(
        "explain",
        help="say which mistake makes somebody else's actor gradient",
        description="Compare an update that any code computed with DDPG's: right, or which mistake of the catalogue "
        "reproduces it. FILE holds networks, a batch and the gradient under names such as actor.0.weight, "
        "actor_gradient.0.weight, obs, act. Exit status: 0 right, 1 wrong.",
        epilog="'minddpg explain --template torch' prints the few lines that write FILE from your code; "
        "'minddpg explain --catalogue' every mistake that is known. minddpg/gradcheck/explaining/README.md says more.",
    )
    explain.add_argument("file", nargs="?", metavar="FILE", help="an .npz")
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.add_argument("--template", choices=FRAMEWORKS, help="print the lines that write FILE from your code")
    explain.add_argument("--catalogue", action="store_true", help="print every mistake: what it does, what to look for")
    explain.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain."""
    wanted = [args.file is not None, args.template is not None, args.catalogue]
    if sum(wanted) != 1:
        fail("say one of FILE, --template and --catalogue; see 'minddpg explain --help'")
    from ..gradcheck.explaining.files import template

    if args.template is not None:
        print(template(args.template))
        return 0
    if args.catalogue:
        _catalogue(args.json)
        return 0
    return _explain(args.file, args.json)


def _explain(file: str, as_json: bool) -> int:
    import dataclasses

    from ..gradcheck.explaining import ExplainError, explain
    from ..gradcheck.explaining.files import read

    try:
        handed, notes = read(file)
        explanation = explain(**handed)
    except ExplainError as error:
        fail(str(error))
    explanation = dataclasses.replace(explanation, notes=(*explanation.notes, *notes))
    print(explanation.to_json() if as_json else explanation)
    return 0 if explanation.ok else 1


def _catalogue(as_json: bool) -> None:
    import dataclasses

    from ..gradcheck.explaining import DDPG_MISTAKES

    if as_json:
        print(json.dumps([dataclasses.asdict(mistake) for mistake in DDPG_MISTAKES.values()], indent=2))
        return
    for mistake in DDPG_MISTAKES.values():
        print(f"{mistake.name} ({', '.join(mistake.parts)}): {mistake.does}.\n    instead: {mistake.instead}")
        print("\n".join(f"    {line}" for line in mistake.printed()))
