"""Flags that several commands share; those of the hyperparameters are made from Config."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import Config

if TYPE_CHECKING:
    from ..agent import DDPG
    from ..replay import Batch

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

Commands = Any  # what argparse calls _SubParsersAction


def fail(message: str) -> NoReturn:
    """End with one line on stderr and exit status 2."""
    print(f"minddpg: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """See `fail`."""
        fail(f"{message}; see '{self.prog} --help'")


def add_fresh_agent(command: argparse.ArgumentParser) -> None:
    """Flags for an agent that is not from a run."""
    fresh = command.add_argument_group("the fresh agent (not with DIR)")
    fresh.add_argument("--obs-dim", type=positive, metavar="N", help="length of an observation; default: 3")
    fresh.add_argument("--act-dim", type=positive, metavar="N", help="length of an action; default: 1")
    add_fields(fresh, ["hidden_sizes", "action_layer", "final_init", "critic_weight_decay"])


def add_fields(group: argparse._ArgumentGroup, names: list[str]) -> None:
    """Flags for these fields of Config."""
    for field in dataclasses.fields(Config):
        if field.name in names:
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                dest=f"config_{field.name}",
                default=argparse.SUPPRESS,
                metavar=_metavar(field),
                type=_value(field),
                help=field.metadata["help"],
            )


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
    return "N,N,..." if kind.startswith("tuple") else "N" if kind == "int" else "X" if "float" in kind else "NAME"


def _value(field: dataclasses.Field[Any]) -> Any:
    """How the text of a flag becomes the field's value; Config checks the range."""
    kind = str(field.type)

    def parse(text: str) -> Any:
        try:
            if kind.startswith("tuple"):
                return tuple(int(part) for part in text.split(","))
            if kind == "int":
                return int(float(text)) if float(text).is_integer() else int(text)
            if "None" in kind and text.lower() == "none":
                return None
            return float(text) if "float" in kind else text
        except (ValueError, OverflowError):
            expected = {"int": "a whole number", "str": "text"}.get(kind, "a number")
            expected = "whole numbers with commas between, like 64,64" if kind.startswith("tuple") else expected
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None

    return parse


def agent_and_batch(args: argparse.Namespace, without: str) -> tuple[DDPG, Batch, str]:
    """A run's agent and some transitions it learnt from, or a fresh agent and random ones; and what they are, in words.

    without: what flags for a fresh agent do not go with.
    """
    changes = config_flags(args)
    flags = [f"--{name.replace('_', '-')}" for name in changes]
    flags += [flag for flag, value in (("--obs-dim", args.obs_dim), ("--act-dim", args.act_dim)) if value]
    if flags and (args.directory is not None or without == "--planted"):
        fail(f"{flags[0]} is for a fresh agent; leave out {without} or the flag")
    config = Config(hidden_sizes=(64, 64), dtype="float32").replace(**changes)

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
    if not Path(path).name or Path(path).is_dir():
        fail(f"{path or 'an empty name'} is no name for a file; choose another")
    if not Path(path).absolute().parent.is_dir():
        fail(f"{Path(path).parent} is not a directory; make it first")
