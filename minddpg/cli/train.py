"""`minddpg train`: train an agent, save it, evaluate it."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from pathlib import Path

from ..config import PRESETS, Config, preset_name
from .options import INTERRUPTED, Commands, add_fields, config_flags, fail, positive, whole
from .terminal import Progress, chart, count, megabytes, summary, warn
from .warmup import compile_ahead, look_at

DEFAULT_ENV = "Pendulum-v1"


def add(commands: Commands) -> None:
    """Register the command."""
    train = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="train an agent, save it, evaluate it",
        description="Train an agent on a Gymnasium environment with continuous actions, save it, evaluate it.",
        epilog="Examples: 'minddpg train', 'minddpg train MountainCarContinuous-v0 --seed 1', "
        "'minddpg train my_module:MyEnv-v0 --steps 50000 --noise ou'.",
    )
    train.add_argument(
        "env",
        nargs="?",
        default=DEFAULT_ENV,
        metavar="ENV",
        help=f"environment id, or module:id to import a module of yours first; default: {DEFAULT_ENV}",
    )
    train.add_argument("--seed", type=whole, default=0, metavar="S", help="seed of everything random; default: 0")
    train.add_argument(
        "--out", metavar="DIR", help="directory to write, which must not exist; default: runs/ENV-seedS, numbered"
    )
    train.add_argument(
        "--preset",
        metavar="NAME",
        help=f"hyperparameters to start from: {', '.join(sorted(PRESETS))}; default: the one made for ENV, if any",
    )
    train.add_argument("--episodes", type=positive, default=10, metavar="N", help="evaluation episodes; default: 10")
    train.add_argument(
        "--profile",
        action="store_true",
        help="show where the time goes: environment, act, replay, critic step, actor step, optimiser",
    )
    train.add_argument(
        "--diagnose-every",
        type=whole,
        default=250,
        metavar="N",
        help="updates between two looks at the gradients from inside, written to gradients.csv, with a warning when "
        "something is visibly wrong; 0: never; default: 250",
    )
    train.add_argument(
        "--evaluations",
        type=whole,
        default=10,
        metavar="N",
        help="episodes without noise during training that compare Q with the return that follows; default: 10",
    )
    train.add_argument("--quiet", action="store_true", help="no progress while training")
    group = train.add_argument_group("hyperparameters (default: the preset's)")
    add_fields(group, [field.name for field in dataclasses.fields(Config)])
    train.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train."""
    changes = config_flags(args)
    if args.out is not None and Path(args.out).exists():
        fail(f"{Path(args.out)} exists; choose another --out, or remove it")

    from ..evaluation import evaluate
    from ..profile import Profile
    from ..replay import replay_nbytes
    from ..training import train

    environment = look_at(args.env)
    env, obs_dim, act_dim = environment.name, environment.obs_dim, environment.act_dim
    name = args.preset or preset_name(env) or "default"
    config = Config.preset(name).replace(**changes)
    capacity = min(config.buffer_size, config.steps)
    nbytes = replay_nbytes(capacity, obs_dim, act_dim, config.dtype)
    print(
        f"{env}: {count(obs_dim, 'observation')}, {count(act_dim, 'action')}; "
        f"preset {name}, seed {args.seed}, {config.steps:,} steps\n"
        f"replay memory: {capacity:,} transitions, {megabytes(nbytes)}"
    )
    compile_ahead(config.dtype, quietly=True, profile=args.profile)
    profile = Profile() if args.profile else None
    out = Path(args.out) if args.out is not None else free_directory(env, args.seed)
    report = None if args.quiet else Progress(config.steps)
    started = time.perf_counter()
    try:
        result = train(
            env,
            config,
            seed=args.seed,
            out=out,
            progress=report,
            profile=profile,
            diagnose_every=args.diagnose_every,
            evaluations=args.evaluations,
            warn=report.warn if report else warn,
        )
    finally:
        if report:
            report.close()
    seconds = time.perf_counter() - started
    print(f"{result.steps:,} steps, {count(len(result.history), 'episode')} in {seconds:.1f} s -> {out}")
    if profile:
        print(f"\n{profile}")
    again = f"minddpg eval {shlex.quote(str(out))}"
    if result.interrupted:
        print(f"interrupted: the agent as it was is saved in {out}; try it with '{again}'")
        return INTERRUPTED
    if len(result.history) > 1:
        print("\n" + chart([row["return"] for row in result.history]))
    returns = evaluate(result.agent, env, args.episodes, seed=10_000)
    print(f"\nevaluation without noise: {summary(returns)}")
    for finding in result.diagnoses:
        print(f"seen while training, {finding}")
    print(f"look further: {again} --episodes 100, or follow the gradients: minddpg gradflow {shlex.quote(str(out))}")
    return 0


def free_directory(env: str, seed: int) -> Path:
    """runs/ENV-seedS, or with the first number behind it that is free."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in env)
    path, number = Path("runs") / f"{name}-seed{seed}", 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-seed{seed}-{number}"
    return path
