"""The command `minddpg`: one file per command. Imports late, so that --help and wrong options answer at once."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from .. import __version__
from ..config import ConfigError
from . import eval, explain, export, gradcheck, gradflow, plot, study, train, warmup, watch
from .options import Commands, Parser, did_you_mean, fail

COMMANDS = (train, eval, study, plot, export, gradcheck, explain, gradflow, watch, warmup)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.    -> exit status: 0 done, 2 bad input (one line on stderr), 130 interrupted"""
    for stream in (sys.stdout, sys.stderr):
        _say_anything(stream)
    if "" not in sys.path:
        sys.path.insert(0, "")  # where python itself looks first: for module:Env-v0 with a module of the user's
    words = sys.argv[1:] if argv is None else argv
    with _signals_as_exceptions():
        return _run(words)


def _run(words: list[str]) -> int:
    args = None
    try:
        parser, commands = _parser(words[1:])
        if not words:
            parser.print_help()
            return 0
        if words[0].startswith("-"):  # of these only --help and --version, which end here, are known
            parser.parse_known_args([words[0], "warmup"])
            parser.refuse(words[:1])
        if words[0] not in commands.parsers:
            parser.error(f"there is no command {words[0]!r}{did_you_mean(words[0], list(commands.parsers))}")
        args, unknown = parser.parse_known_args(words)
        if unknown:
            commands.parsers[args.command].refuse(unknown)
        return int(args.run(args))
    except KeyboardInterrupt as error:
        print("\ninterrupted", file=sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; say nothing more
        return 1
    except (ValueError, ArithmeticError, MemoryError, RuntimeError, OSError) as error:
        message = _one_line(error, args is not None and args.run is train.run)
        if message is None:
            raise
        fail(message)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP, where nothing is lost by stopping at once: a run that trains has handlers of its own."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise Ended(number)

    ours = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _one_line(error: Exception, training: bool) -> str | None:
    """What to say of an error that is not minddpg's own fault; None: of one that may be."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OSError):
        too_long = error.errno == errno.ENAMETOOLONG
        return f"{error.filename} is too long a name; choose a shorter one" if too_long else None
    from ..environment import EnvError, NotFinite
    from ..extras import ExtraError
    from ..gradflow.canvas import PlotError
    from ..runs.files import RunError
    from ..training import TrainingError
    from ..video import VideoError

    if isinstance(error, (RunError, EnvError, NotFinite, TrainingError, PlotError, ExtraError, VideoError)):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!a} cannot be written in {error.encoding}, the locale's encoding; try LC_ALL=C.UTF-8"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}); {'lower --buffer-size' if training else 'ask for less'}"
    return None


def _say_anything(stream: TextIO) -> None:
    """What the locale cannot encode, such as a name in another script, is escaped instead of a traceback."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _parser(words: list[str]) -> tuple[Parser, Commands]:
    """words: what stands behind the command's name."""
    parser = Parser(
        prog="minddpg",
        description="DDPG from scratch on NumPy, Numba and Gymnasium; every gradient by hand, named and checked.",
        epilog="Start with 'minddpg train': it learns Pendulum-v1 in seconds and shows the result.",
    )
    parser.add_argument("--version", action="version", version=f"minddpg {__version__}")
    commands = Commands(parser, words)
    for command in COMMANDS:
        command.add(commands)
    return parser, commands
