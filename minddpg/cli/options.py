"""Flags that several commands share; those of the hyperparameters are made from Config."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import Config, preset_name

if TYPE_CHECKING:
    from ..agent import DDPG
    from ..replay import Batch

FRESH = Config(hidden_sizes=(64, 64), dtype="float32")  # of an agent that is not from a run

FLATTEN = "flatten_obs"  # see environment/making.py, which takes a second to import

OTHER_NAMES = {  # what other libraries call them, without hyphens
    "learningrate": ("actorlr", "criticlr"),
    "lr": ("actorlr", "criticlr"),
    "nsteps": ("nstep",),
    "timesteps": ("steps",),
    "totaltimesteps": ("steps",),
}

# Where argparse keeps the flags that a parser, or a group of it, knows by name.
ParserOrGroup = argparse._ActionsContainer


def fail(message: str) -> NoReturn:
    """End with one line on stderr and exit status 2."""
    print(f"minddpg: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose errors are one line."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """See `fail`."""
        fail(f"{message}; see '{self.prog} --help'")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Fail because of words that stand for nothing, with the flag that may have been meant."""
        wrong = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if wrong is None:
            self.error(f"unrecognized arguments: {' '.join(words)}")
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        self.error(f"unrecognized arguments: there is no {wrong}{did_you_mean(wrong, flags)}")


class Commands:
    """Where commands register themselves. words: what stands behind the command's name on the command line."""

    def __init__(self, parser: Parser, words: Sequence[str]):
        self._subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
        self.words = words
        self.parsers: dict[str, Parser] = {}

    def add_parser(self, name: str, **kwargs: Any) -> Parser:
        """See argparse."""
        self.parsers[name] = parser = self._subparsers.add_parser(name, **kwargs)
        return parser


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """ "; did you mean --batch-size?", or nothing where no known word is near. Case and hyphens do not count."""
    import difflib

    plain = {_plain(name): name for name in known}
    near = OTHER_NAMES.get(_plain(word), ()) or difflib.get_close_matches(_plain(word), plain, 1, 0.7)
    meant = [plain[name] for name in near if name in plain]
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


def add_fresh_agent(command: argparse.ArgumentParser) -> None:
    """Flags for an agent that is not from a run."""
    fresh = command.add_argument_group("the fresh agent (not with DIR)")
    fresh.add_argument("--obs-dim", type=positive, metavar="N", help="length of an observation; default: 3")
    fresh.add_argument("--act-dim", type=positive, metavar="N", help="length of an action; default: 1")
    of_update = ["algorithm", "normalisation", "activation", "invert_gradients", "max_grad_norm"]
    add_fields(fresh, ["hidden_sizes", "action_layer", "final_init", "critic_weight_decay", *of_update], FRESH)


def add_fields(group: ParserOrGroup, names: Sequence[str], shown: Config | None = None) -> None:
    """Flags for these fields of Config. shown: whose values --help calls the defaults."""
    for field in dataclasses.fields(Config):
        if field.name in names:
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                dest=f"config_{field.name}",
                default=argparse.SUPPRESS,
                metavar=_metavar(field),
                type=field_value(field),
                help=_help(field, shown),
            )


def show_preset(train: Parser, group: argparse._ArgumentGroup, words: Sequence[str], default_env: str) -> None:
    """Let --help show the values of the preset that is asked for, by --preset or by ENV.

    To be called when `train` has all its flags, those of the group by `add_fields`. words: the command line.
    """
    others = [word for word in words if word not in ("-h", "--help")]
    if len(others) == len(words):
        return
    args, _ = train.parse_known_args(others)
    name = args.preset or preset_name(args.env or default_env) or "default"
    shown = Config.preset(name)
    group.title = f"hyperparameters (default: those of the preset {name})"
    for field in dataclasses.fields(Config):
        for action in group._group_actions:
            if action.dest == f"config_{field.name}":
                action.help = _help(field, shown)


def _help(field: dataclasses.Field[Any], shown: Config | None) -> str:
    text = str(field.metadata["help"])
    if shown is not None:
        value = getattr(shown, field.name)
        said = ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else value
        text += f"; default: {said}"
    return text.replace("%", "%%")


def add_env_kwargs(command: ParserOrGroup) -> None:
    """The flag --env-kwargs; `env_kwargs` reads what it gives."""
    command.add_argument(
        "--env-kwargs",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="what the environment is made with, each value a JSON literal or else text: g=9.81 hardcore=true",
    )
    command.add_argument(
        "--flatten-obs",
        action="append_const",
        dest="env_kwargs",
        const=f"{FLATTEN}=true",
        help=f"a Dict, a Tuple or a Discrete of observations becomes one vector; short for --env-kwargs {FLATTEN}=true",
    )


def env_kwargs(texts: Sequence[str] | None) -> dict[str, Any]:
    """{"g": 9.81} of ["g=9.81"]. A value is what it is in JSON, or None, True, False; else it is text."""
    kwargs: dict[str, Any] = {}
    for text in texts or ():
        name, is_there, value = text.partition("=")
        if not is_there or not name.isidentifier():
            fail(f"--env-kwargs {text!r} must be name=value, like g=9.81; other arguments stand before it")
        if name in kwargs:
            fail(f"--env-kwargs names {name} twice; leave one out")
        kwargs[name] = _literal(value)
    return kwargs


def _literal(text: str) -> Any:
    if text in ("None", "True", "False"):  # as Python has them; as text they would be true, all three
        return {"None": None, "True": True, "False": False}[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def config_flags(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the flags that stand for fields of Config."""
    return {name.removeprefix("config_"): v for name, v in vars(args).items() if name.startswith("config_")}


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return number


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if (number := whole(text)) == 0:
        raise argparse.ArgumentTypeError("0 is too few; give 1 or more")
    return number


def _metavar(field: dataclasses.Field[Any]) -> str:
    kind = str(field.type)
    if kind.startswith("tuple"):
        return "N,N,..."
    return {"int": "N", "bool": "true|false"}.get(kind, "X" if "float" in kind else "NAME")


def field_value(field: dataclasses.Field[Any]) -> Any:
    """How the text of a flag becomes the field's value; Config checks the range."""
    kind = str(field.type)

    def parse(text: str) -> Any:
        try:
            if kind.startswith("tuple"):
                return tuple(int(part) for part in text.split(","))
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(float(text)) if float(text).is_integer() else int(text)
            if "None" in kind and text.lower() == "none":
                return None
            return float(text) if "float" in kind else text
        except (ValueError, OverflowError, KeyError):
            expected = {"int": "a whole number", "str": "text", "bool": "true or false"}.get(kind, "a number")
            expected = "whole numbers with commas between, like 64,64" if kind.startswith("tuple") else expected
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None

    return parse


def fresh_config(args: argparse.Namespace, without: str) -> Config:
    """Of a fresh agent. without: what flags for one do not go with."""
    changes = config_flags(args)
    flags = [f"--{name.replace('_', '-')}" for name in changes]
    flags += [flag for flag, value in (("--obs-dim", args.obs_dim), ("--act-dim", args.act_dim)) if value]
    if flags and (args.directory is not None or without == "--planted"):
        fail(f"{flags[0]} is for a fresh agent; leave out {without} or the flag")
    return FRESH.replace(**changes)


def agent_and_batch(args: argparse.Namespace, without: str) -> tuple[DDPG, Batch, str]:
    """A run's agent and some transitions it learnt from, or a fresh agent and random ones; and what they are, in words.

    without: see `fresh_config`.
    """
    config = fresh_config(args, without)

    import numpy as np

    from ..agent import DDPG
    from ..replay import Batch
    from ..runs.directory import load, load_batch, load_info

    seed, n = args.seed or 0, args.batch_size or 32
    if args.directory is not None:
        agent, batch = load(args.directory), load_batch(args.directory, n, seed)
        what = f"{args.directory}: {load_info(args.directory).env}, {agent.updates:,} updates"
        return agent, batch, f"{what}; transitions it learnt from"
    rng = np.random.default_rng(seed)
    obs_dim, act_dim = args.obs_dim or 3, args.act_dim or 1
    obs, next_obs = rng.standard_normal((n, obs_dim)), rng.standard_normal((n, obs_dim))
    act, rew, over = rng.uniform(-1, 1, (n, act_dim)), rng.standard_normal(n), rng.random(n) < 0.2
    what = f"a fresh agent, seed {seed}; random transitions"
    return DDPG(obs_dim, act_dim, config, seed), Batch(obs, act, rew, next_obs, over), what


def check_file(path: str) -> None:
    """What can be said of a file to be written before the work is done."""
    if not Path(path).name or os.path.isdir(path):
        fail(f"{path or 'an empty name'} is no name for a file; choose another")
    if not os.path.isdir(Path(path).absolute().parent):
        fail(f"{Path(path).parent} is not a directory; make it first")
    check_length(path)


def check_length(path: str) -> None:
    """Names that are too long for the file system end here, and not after the work."""
    try:
        os.lstat(Path(path).with_name(f".{Path(path).name}.{'0' * 8}.tmp"))  # what `write_whole` writes first
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            fail(f"{path} is too long a name; choose a shorter one")
