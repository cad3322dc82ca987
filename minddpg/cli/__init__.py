"""The command `minddpg`: one file per command. Imports late, so that --help and wrong options answer at once."""

from __future__ import annotations

import sys

from .. import __version__
from ..config import ConfigError
from . import eval, gradcheck, gradflow, plot, train, warmup
from .options import INTERRUPTED, Parser, fail

COMMANDS = (train, eval, gradcheck, gradflow, plot, warmup)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.    -> exit status: 0 done, 2 bad input (one line on stderr), 130 interrupted"""
    args = _parser().parse_args(argv)
    if "" not in sys.path:
        sys.path.insert(0, "")  # where python itself looks first: for module:Env-v0 with a module of the user's
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; say nothing more
        return 1
    except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
        from ..environment import EnvError
        from ..gradflow.canvas import PlotError
        from ..runs.files import RunError
        from ..training import TrainingError

        if isinstance(error, (ConfigError, RunError, EnvError, TrainingError, PlotError)):
            fail(str(error))
        if isinstance(error, MemoryError):
            fail(f"not enough memory ({error}); {'lower --buffer-size' if args.run is train.run else 'ask for less'}")
        raise


def _parser() -> Parser:
    parser = Parser(
        prog="minddpg",
        allow_abbrev=False,
        description="DDPG from scratch on NumPy, Numba and Gymnasium; every gradient by hand, named and checked.",
        epilog="Start with 'minddpg train': it learns Pendulum-v1 in seconds and shows the result.",
    )
    parser.add_argument("--version", action="version", version=f"minddpg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
