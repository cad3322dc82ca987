"""`minddpg eval`: the returns of a trained agent, without noise."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext

from ..config import EVALUATION_SEED
from .options import Commands, add_env_kwargs, check_file, env_kwargs, fail, positive, whole
from .terminal import summary
from .warmup import compile_ahead


def add(commands: Commands) -> None:
    """Register the command."""
    evaluate = commands.add_parser(
        "eval",
        help="evaluate a trained agent",
        description="Run the policy of a run directory without noise and print the returns.",
        epilog="Examples: 'minddpg eval runs/Pendulum-v1-seed0', "
        "'minddpg eval runs/Pendulum-v1-seed0 --best --video best.mp4 --env-kwargs g=9.81'.",
    )
    evaluate.add_argument("directory", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    evaluate.add_argument("--best", action="store_true", help="the agent with the best evaluation, not the last one")
    evaluate.add_argument("--env", metavar="ENV", help="another environment than the one of the run")
    add_env_kwargs(evaluate)
    evaluate.add_argument("--episodes", type=positive, default=100, metavar="N", help="episodes; default: 100")
    evaluate.add_argument(
        "--seed",
        type=whole,
        default=EVALUATION_SEED,
        metavar="S",
        help=f"episode i starts from reset(seed=S+i); default: {EVALUATION_SEED}",
    )
    evaluate.add_argument("--video", metavar="FILE", help="record the first episode as an .mp4 (needs the extra video)")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate."""
    changes = env_kwargs(args.env_kwargs)
    if args.video is not None:
        check_file(args.video)

    from ..environment import EnvError, Environment
    from ..evaluation import evaluate
    from ..export import kept_agent
    from ..runs.directory import load_info
    from ..video import check_path, recorded

    info = load_info(args.directory)
    agent = kept_agent(args.directory, args.best)
    env = args.env or info.env
    kwargs = {**({} if args.env else getattr(info, "env_kwargs", {})), **changes}
    if args.video is not None:
        check_path(args.video)
    try:
        Environment(env, env_kwargs=kwargs).close()  # what is wrong with it shows before anything is compiled
    except EnvError as error:
        if args.env:
            raise
        fail(f"{error}; if {args.directory} was trained from Python, name an environment with --env")
    with recorded(env, args.video, kwargs) if args.video is not None else nullcontext() as recording:
        if not args.json:
            compile_ahead(info.config.dtype, quietly=True, like=info.config)
        if recording:
            returns = evaluate(agent, recording, args.episodes, args.seed)
        else:
            returns = evaluate(agent, env, args.episodes, args.seed, env_kwargs=kwargs)
    record = {"env": env, "seed": args.seed, "mean": returns.mean(), "returns": returns.tolist()}
    print(json.dumps(record) if args.json else f"{env}, {args.directory}: {summary(returns)}")
    if args.video is not None:
        out = sys.stderr if args.json else sys.stdout
        print(f"video of the first episode, return {returns[0]:.1f}: {args.video}", file=out)
    return 0
