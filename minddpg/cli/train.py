"""`minddpg train`: train an agent, save it, evaluate it; or go on with a run."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CHECKPOINT_EVERY, EPISODES, EVALUATION_SEED, PRESETS, Config, preset_name
from .options import Commands, add_env_kwargs, add_fields, config_flags, env_kwargs, fail, positive, show_preset, whole
from .terminal import chart, count, summary, warn
from .warmup import compile_ahead, made_and_closed

if TYPE_CHECKING:
    from ..profile import Profile
    from ..training import TrainResult

DEFAULT_ENV = "Pendulum-v1"
OF_A_NEW_RUN = ("env", "seed", "out", "preset", "from", "env_kwargs", "vectorization")


def add(commands: Commands) -> None:
    """Register the command."""
    train = commands.add_parser(
        "train",
        help="train an agent, save it, evaluate it",
        description="Train an agent on a Gymnasium environment with continuous actions, save it, evaluate it. A run "
        "that was stopped, by whatever, goes on with --resume as if it had not been, to the bit.",
        epilog="Examples: 'minddpg train', 'minddpg train MountainCarContinuous-v0 --seed 1', "
        "'minddpg train my_module:MyEnv-v0 --steps 50000 --noise ou', "
        "'minddpg train --resume runs/Pendulum-v1-seed0 --steps 40000', "
        "'minddpg train HalfCheetah-v5 --help' (the values of its preset).",
    )
    train.add_argument(
        "env",
        nargs="?",
        metavar="ENV",
        help=f"environment id, or module:id to import a module of yours first; default: {DEFAULT_ENV}",
    )
    train.add_argument("--seed", type=whole, metavar="S", help="seed of everything random; default: 0")
    train.add_argument(
        "--out", metavar="DIR", help="directory to write, which must not exist; default: runs/ENV-seedS, numbered"
    )
    train.add_argument(
        "--preset",
        metavar="NAME",
        help=f"hyperparameters to start from: {', '.join(sorted(PRESETS))}; default: the one made for ENV, if any",
    )
    train.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with a run from its last checkpoint; with --steps N: until it has N steps in all",
    )
    train.add_argument(
        "--from",
        metavar="DIR",
        help="start a new run with the networks of that run's agent, and with its hyperparameters",
    )
    add_env_kwargs(train)
    train.add_argument(
        "--vectorization",
        choices=("sync", "async"),
        help="with --num-envs: step them one after the other, or each in a process of its own; default: sync",
    )
    train.add_argument(
        "--checkpoint-every",
        type=_seconds,
        default=CHECKPOINT_EVERY,
        metavar="SECONDS",
        help="time between checkpoints, of which the first ones come sooner; 0: only at the end; "
        f"default: {CHECKPOINT_EVERY:g}",
    )
    train.add_argument(
        "--no-keep-replay", action="store_true", help="keep no replay memory at the end: the run can't be extended then"
    )
    train.add_argument(
        "--episodes",
        type=positive,
        default=EPISODES,
        metavar="N",
        help=f"episodes of the evaluation at the end; default: {EPISODES}",
    )
    train.add_argument(
        "--profile",
        action="store_true",
        help="show where the time goes: environment, act, replay, critic step, actor step, optimiser",
    )
    train.add_argument(
        "--tensorboard", action="store_true", help="also write event files (needs the extra tensorboard)"
    )
    train.add_argument(
        "--threads",
        type=_threads,
        default="auto",
        metavar="N",
        help="threads that share an update, or auto: as many as make this run fastest; the same bits; default: auto",
    )
    train.add_argument("--quiet", action="store_true", help="no progress while training")
    group = train.add_argument_group("hyperparameters (default: the preset's)")
    add_fields(group, [field.name for field in dataclasses.fields(Config)])
    train.set_defaults(run=run)
    show_preset(train, group, commands.words, DEFAULT_ENV)


def run(args: argparse.Namespace) -> int:
    """Train."""
    return _resume(args) if args.resume is not None else _train(args)


def _train(args: argparse.Namespace) -> int:
    if args.out is not None and Path(args.out).exists():
        fail(f"{Path(args.out)} exists; choose another --out, remove it, or go on with it: --resume")
    earlier = getattr(args, "from")
    if earlier is not None and args.preset is not None:
        fail("--from takes the hyperparameters of that run, --preset others; leave one out")

    from ..memory import in_words
    from ..replay import replay_nbytes
    from ..runs.directory import load, load_info, numbered
    from ..training import train

    kwargs, seed, changes = env_kwargs(args.env_kwargs), args.seed or 0, config_flags(args)
    wanted = args.env
    if earlier is not None:
        info = load_info(earlier)
        load(earlier)  # what is wrong with it is said before anything is made
        wanted, kwargs = wanted or info.env, kwargs or info.env_kwargs
    environment = made_and_closed(wanted or DEFAULT_ENV, kwargs)
    env, obs_dim, act_dim = environment.name, environment.obs_dim, environment.act_dim
    if earlier is not None:
        name, config = f"of {earlier}", info.config.replace(**changes)
    else:
        name = args.preset or preset_name(env) or "default"
        config = Config.preset(name).replace(**changes)
    capacity = min(config.buffer_size, config.steps)
    nbytes = replay_nbytes(capacity, obs_dim, act_dim, config.dtype, config.n_step)
    print(
        f"{env}: {count(obs_dim, 'observation')}, {count(act_dim, 'action')}; "
        f"preset {name}, seed {seed}, {config.steps:,} steps\n{_values(config)}\n"
        f"replay memory: {capacity:,} transitions, {in_words(nbytes)}"
    )
    compile_ahead(config.dtype, quietly=True, profile=args.profile, like=config)

    def drive(**options: Any) -> TrainResult:
        return train(
            env,
            config,
            seed=seed,
            out=args.out if args.out is not None else numbered(env, seed),
            env_kwargs=kwargs,
            vectorization=args.vectorization or "sync",
            parameters_from=earlier,
            **options,
        )

    return _drive(args, drive, config.steps, 0, env, kwargs)


def _resume(args: argparse.Namespace) -> int:
    changes = config_flags(args)
    given = [name for name in OF_A_NEW_RUN if getattr(args, name) is not None]
    given += [name for name in changes if name != "steps"]
    if given:
        flag = "ENV" if given[0] == "env" else f"--{given[0].replace('_', '-')}"
        fail(f"--resume goes on with the run as it is; leave out {flag}")

    from ..runs.directory import load_info, steps_made
    from ..training import resume

    info, made = load_info(args.resume), steps_made(args.resume)
    steps = changes.get("steps", info.config.steps)
    if info.from_callable:
        fail(
            f"{args.resume} was trained from Python on {info.env}; go on with minddpg.resume({args.resume!r}, env=...)"
        )
    print(f"{info.env}, seed {info.seed}: going on with {args.resume} from step {made:,} of {steps:,}")
    if made >= steps and "steps" not in changes:
        print(f"it has made all its steps; more with: minddpg train --resume {shlex.quote(args.resume)} --steps N")
    compile_ahead(info.config.dtype, quietly=True, profile=args.profile, like=info.config)

    def drive(**options: Any) -> TrainResult:
        return resume(args.resume, steps=changes.get("steps"), **options)

    return _drive(args, drive, steps, made, info.env, info.env_kwargs)


def _drive(
    args: argparse.Namespace,
    drive: Callable[..., TrainResult],
    steps: int,
    made: int,
    env: str,
    kwargs: dict[str, Any],
) -> int:
    """Train, and show what came of it."""
    from ..evaluation import evaluate
    from ..profile import Profile
    from ..progress import Progress

    profile: Profile | None = Profile() if args.profile else None
    show = None if args.quiet else Progress(steps, made)
    started = time.perf_counter()
    try:
        result = drive(
            progress=show or False,
            checkpoint_every=args.checkpoint_every,
            keep_replay=not args.no_keep_replay,
            tensorboard=args.tensorboard,
            profile=profile,
            threads=args.threads,
            warn=(lambda text: show.say(f"minddpg: warning: {text}")) if show else warn,
        )
    finally:
        if show:
            show.close()
    seconds = time.perf_counter() - started
    out = result.directory
    print(f"{result.steps:,} steps, {count(len(result.history), 'episode')} in {seconds:.1f} s -> {out}")
    if profile:
        print(f"\n{profile}")
    here = shlex.quote(str(out))
    if result.signal is not None:
        print(f"interrupted: all of it is saved; go on with: minddpg train --resume {here}")
        return 128 + result.signal
    if len(result.history) > 1:
        print("\n" + chart([row["return"] for row in result.history]))
    returns = evaluate(result.agent, env, args.episodes, EVALUATION_SEED, env_kwargs=kwargs)
    print(f"\nevaluation without noise: {summary(returns)}")
    if result.evaluations:
        best = max(result.evaluations, key=lambda row: row["mean"])
        print(f"best while training: {best['mean']:.1f} at step {best['step']:,.0f} (minddpg eval {here} --best)")
    for finding in result.diagnoses:
        print(f"seen while training, {finding}")
    print(f"look further: minddpg eval {here} --episodes 100, or follow the gradients: minddpg gradflow {here}")
    return 0


def _values(config: Config) -> str:
    """The hyperparameters, but steps, in some lines."""
    shown = []
    for name, value in config.to_dict().items():
        text = ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else f"{value}"
        shown.append(f"{name}\N{NO-BREAK SPACE}{text}")
    filled = textwrap.fill(", ".join(shown[1:]), 110, initial_indent="  ", subsequent_indent="  ")
    return filled.replace("\N{NO-BREAK SPACE}", " ")


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return number


def _threads(text: str) -> int | str:
    return text if text == "auto" else positive(text)
