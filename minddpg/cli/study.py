"""`minddpg study`: many runs, and what they say together."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PRESETS, Config
from .options import (
    Commands,
    add_env_kwargs,
    add_fields,
    check_file,
    config_flags,
    did_you_mean,
    env_kwargs,
    fail,
    field_value,
    positive,
    whole,
)
from .terminal import count

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..study.plan import Plan
    from ..study.results import Study

SEEDS = tuple(range(5))
OF_A_NEW_STUDY = ("vary", "out", "preset", "env_kwargs", "episodes")


def add(commands: Commands) -> None:
    """Register the command."""
    study = commands.add_parser(
        "study",
        help="many runs: seeds x environments x settings, and their statistics",
        description="Make many runs, one per core, and show what they say together. A study that was stopped, by "
        "whatever, goes on with --resume. 'minddpg study DIR' shows the results of one that is there, "
        "'minddpg plot DIR' draws them.",
        epilog="Examples: 'minddpg study Pendulum-v1 --seeds 10', "
        "'minddpg study Pendulum-v1 MountainCarContinuous-v0 --seeds 5 --vary actor_lr=1e-4,1e-3 tau=0.005,0.02', "
        "'minddpg study studies/Pendulum-v1 --best', 'minddpg study --resume studies/Pendulum-v1 --seeds 20', "
        "'minddpg study HalfCheetah-v5 --dask tcp://scheduler:8786'.",
    )
    study.add_argument("envs", nargs="*", metavar="ENV", help="environment ids; or a study's directory, to look at it")
    study.add_argument("--seeds", type=seeds, metavar="N", help="so many, or 10-19, or 3,5,8; default: 5")
    study.add_argument(
        "--vary",
        nargs="+",
        action="extend",
        type=varied,
        metavar="NAME=VALUE,VALUE",
        help="a hyperparameter's values; of several, every combination is made: actor_lr=1e-4,1e-3 "
        "hidden_sizes=64x64,256x256",
    )
    study.add_argument("--out", metavar="DIR", help="directory to write; default: studies/ENV, numbered")
    study.add_argument("--resume", metavar="DIR", help="go on with a study; with --seeds: with more of them")
    study.add_argument("--best", action="store_true", help="of a study that varies something: name the best variant")
    study.add_argument(
        "--measure",
        choices=("last10", "best", "final", "best_agent"),
        default="last10",
        help="what is the best by; default: last10",
    )
    study.add_argument("--workers", type=positive, metavar="N", help="runs at a time; default: one per core")
    study.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="make the runs on a Dask cluster: its scheduler's address, or local (extra dask)",
    )
    study.add_argument("--preset", metavar="NAME", help=f"hyperparameters to start from: {', '.join(sorted(PRESETS))}")
    add_env_kwargs(study)
    study.add_argument(
        "--episodes", type=positive, metavar="N", help="of the evaluations at the end of each run; default: 100"
    )
    study.add_argument(
        "--checkpoint-every", type=positive, default=60, metavar="SECONDS", help="time between checkpoints; default: 60"
    )
    study.add_argument("--quiet", action="store_true", help="no progress meanwhile")
    group = study.add_argument_group("hyperparameters of all runs (default: the preset's)")
    add_fields(group, [field.name for field in dataclasses.fields(Config)])
    study.set_defaults(run=run)


def seeds(text: str) -> tuple[int, ...]:
    """'10': 0 to 9. '10-19', '3,5,8': those."""
    try:
        if "," in text:
            found = tuple(whole(part) for part in text.split(","))
        else:
            first, is_range, last = text.partition("-")
            found = tuple(range(whole(first), whole(last) + 1)) if is_range else tuple(range(positive(text)))
    except argparse.ArgumentTypeError:
        found = ()
    if not found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} must be how many seeds, or which: 5, 10-19, or 3,5,8")
    return found


def varied(text: str) -> tuple[str, list[Any]]:
    """'actor_lr=1e-4,1e-3' as the field's name and its values."""
    name, is_there, values = text.partition("=")
    fields = {field.name: field for field in dataclasses.fields(Config)}
    name = name.removeprefix("--").replace("-", "_")
    if not is_there or not values:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE,VALUE, like actor_lr=1e-4,1e-3")
    if name not in fields:
        raise argparse.ArgumentTypeError(f"there is no hyperparameter {name!r}{did_you_mean(name, list(fields))}")
    parse = field_value(fields[name])
    sizes = str(fields[name].type).startswith("tuple")
    return name, [parse(part.replace("x", ",") if sizes else part) for part in values.split(",")]


def run(args: argparse.Namespace) -> int:
    """Make, go on with, or show."""
    from ..study.plan import is_study

    if args.resume is None and len(args.envs) == 1 and (args.best or is_study(args.envs[0])):
        return _show(args)
    if args.best:
        fail("--best is of one study that is there: minddpg study DIR --best")
    return _resume(args) if args.resume is not None else _make(args)


def _show(args: argparse.Namespace) -> int:
    from ..study.results import Study

    study = Study(args.envs[0])
    given = [name for name in (*OF_A_NEW_STUDY, "seeds", "workers", "dask") if getattr(args, name) is not None]
    given += list(config_flags(args))
    if given:
        fail(f"{args.envs[0]} is a study that is there; to go on with it: --resume; leave out {_flag(given[0])}")
    if args.best:
        for env in study.plan.configs:
            print(_in_words(study, env, args.measure))
        return 0
    _report(study, write=False)
    return 0


def _make(args: argparse.Namespace) -> int:
    if not args.envs:
        fail("which environment? for example: minddpg study Pendulum-v1 --seeds 5")
    if args.preset is not None:
        Config.preset(args.preset)
    vary: dict[str, list[Any]] = {}
    for name, values in args.vary or ():
        if name in vary:
            fail(f"--vary names {name} twice; give all its values in one")
        vary[name] = values

    from ..study.plan import EPISODES, numbered
    from ..study.results import make_directory, make_plan

    plan = make_plan(
        args.envs,
        args.seeds or SEEDS,
        config_flags(args),
        vary,
        env_kwargs(args.env_kwargs),
        args.episodes or EPISODES,
        args.checkpoint_every,
        args.preset,
    )
    with _executor(args) as start:
        path = make_directory(iter([Path(args.out)]) if args.out is not None else numbered(plan.configs), plan)
        return _lead(args, plan, path, start)


def _resume(args: argparse.Namespace) -> int:
    given = [name for name in OF_A_NEW_STUDY if getattr(args, name) is not None] + list(config_flags(args))
    if args.envs or given:
        fail(f"--resume goes on with the study as it is; leave out {args.envs[0] if args.envs else _flag(given[0])}")

    from ..study.plan import Plan
    from ..study.results import with_seeds

    path = Path(args.resume)
    plan = Plan.read(path)
    if args.seeds:
        plan = with_seeds(plan, dataclasses.replace(plan, seeds=args.seeds), path)
    with _executor(args) as start:
        return _lead(args, plan, path, start)


@contextmanager
def _executor(args: argparse.Namespace) -> Iterator[Callable[[Path], AbstractContextManager[Executor]]]:
    """What is wrong with it is said before anything is made.    -> how to have it for a study's path"""
    from ..study.leading import dask, processes
    from ..study.results import cores

    if args.dask is None:
        yield lambda path: processes(args.workers or cores(), path)
    else:
        with dask(args.dask, args.workers or cores()) as executor:
            yield lambda path: nullcontext(executor)


def _lead(
    args: argparse.Namespace, plan: Plan, path: Path, start: Callable[[Path], AbstractContextManager[Executor]]
) -> int:
    from ..study.board import Board
    from ..study.leading import lead, leading
    from ..study.results import Study
    from .warmup import compile_ahead

    jobs = plan.jobs(path)
    runs = f"{count(len(jobs), 'run')}: {count(len(plan.configs), 'environment')}"
    runs += f" x {len(plan.variants)} variants" if len(plan.variants) > 1 else ""
    print(f"{runs} x {count(len(plan.seeds), 'seed')} -> {path}")
    if args.dask is None or args.dask == "local":
        for dtype in sorted({str(job.config["dtype"]) for job in jobs}):
            compile_ahead(dtype, quietly=True)
    board = Board()
    with leading(path):
        plan.write(path)
        with start(path) as executor:
            try:
                state = lead(path, jobs, executor, (lambda state: None) if args.quiet else board, board.say)
            finally:
                board.close()
    study = Study(path)
    _report(study)
    here = shlex.quote(str(path))
    if state.signal is not None:
        print(f"interrupted: all of it is saved; go on with: minddpg study --resume {here}")
        return 128 + state.signal
    best = f", name the best variant: minddpg study {here} --best" if len(plan.variants) > 1 else ""
    print(f"look further: minddpg plot {here}{best}")
    return 1 if study.failed else 0


def _report(study: Study, write: bool = True) -> None:
    print("\n" + study.table())
    for path in study.write_tables() if write else ():
        print(f"every run: {path}" if path.name == "results.csv" else f"every evaluation: {path}")
    for job, why in study.failed:
        print(f"failed, and in no figure above: {job.label}: {why}")
    said = [(job, text) for job in study.jobs for text in study.records.get(job.name, {}).get("warnings", [])]
    for job, text in said[:5]:
        print(f"seen while training {job.label}: {text}")
    if len(said) > 5:
        print(f"and {count(len(said) - 5, 'warning')} more, in the runs' .json files")


def _in_words(study: Study, env: str, measure: str) -> str:
    found = study.best(env, measure)
    best, second, chance = found
    text = f"{env}: {best.variant} is best by {measure}: IQM {best.iqm} over {count(len(best.scores), 'run')}"
    if second is not None and chance is not None:
        text += f"; second {second.variant}: {second.iqm}; "
        text += f"a run of the best beats one of the second with probability {chance}"
    return text + ". The best of several is lucky too: measure it again on other seeds."


def plot_study(args: argparse.Namespace) -> int:
    """`minddpg plot STUDY`."""
    from ..gradflow.canvas import check_path, require_matplotlib, save
    from ..study.pictures import study_figure
    from ..study.results import Study

    if len(args.directories) > 1:
        fail("one study at a time, and no runs beside it")
    study = Study(args.directories[0])
    out = args.out or str(study.path / "study.png")
    check_path(out)
    check_file(out)
    require_matplotlib()
    _report(study)
    save(study_figure(study), out)
    print(f"picture: {out}")
    return 0


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
