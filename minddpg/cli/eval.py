"""`minddpg eval`: the returns of a trained agent, without noise."""

from __future__ import annotations

import argparse
import json

from .options import Commands, fail, positive, whole
from .terminal import summary
from .warmup import compile_ahead, look_at


def add(commands: Commands) -> None:
    """Register the command."""
    evaluate = commands.add_parser(
        "eval",
        help="evaluate a trained agent",
        description="Run the policy of a run directory without noise and print the returns.",
    )
    evaluate.add_argument("directory", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    evaluate.add_argument("--env", metavar="ENV", help="another environment than the one of the run")
    evaluate.add_argument("--episodes", type=positive, default=100, metavar="N", help="episodes; default: 100")
    evaluate.add_argument(
        "--seed", type=whole, default=10_000, metavar="S", help="episode i starts from reset(seed=S+i); default: 10000"
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate."""
    from ..environment import EnvError
    from ..evaluation import evaluate
    from ..runs.directory import load, load_info

    info = load_info(args.directory)
    agent = load(args.directory)
    env = args.env or info.env
    try:
        look_at(env)
    except EnvError as error:
        if args.env:
            raise
        fail(f"{error}; if {args.directory} was trained from Python, name an environment with --env")
    if not args.json:
        compile_ahead(info.config.dtype, quietly=True)
    returns = evaluate(agent, env, args.episodes, args.seed)
    if args.json:
        print(json.dumps({"env": env, "seed": args.seed, "mean": returns.mean(), "returns": returns.tolist()}))
    else:
        print(f"{env}, {args.directory}: {summary(returns)}")
    return 0
