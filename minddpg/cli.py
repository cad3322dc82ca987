"""The command `minddpg`. Imports late, so that --help and wrong options answer at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .config import PRESETS, Config, ConfigError, preset_name

if TYPE_CHECKING:
    import numpy.typing as npt

    from .ddpg import DDPG
    from .gradflow import Trace
    from .replay import Batch
    from .training import Environment, EpisodeRow

DEFAULT_ENV = "Pendulum-v1"
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(f"{message}; see '{self.prog} --help'")


def _fail(message: str) -> NoReturn:
    print(f"minddpg: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


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
        from .checkpoint import RunError
        from .gradflow.canvas import PlotError
        from .training import EnvError, TrainingError

        if isinstance(error, (ConfigError, RunError, EnvError, TrainingError, PlotError)):
            _fail(str(error))
        if isinstance(error, MemoryError):
            _fail(f"not enough memory ({error}); {'lower --buffer-size' if args.run is _train else 'ask for less'}")
        raise


# --- options ----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="minddpg",
        allow_abbrev=False,
        description="DDPG from scratch on NumPy, Numba and Gymnasium; every gradient by hand, named and checked.",
        epilog="Start with 'minddpg train': it learns Pendulum-v1 in seconds and shows the result.",
    )
    parser.add_argument("--version", action="version", version=f"minddpg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

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
    train.add_argument("--seed", type=_whole, default=0, metavar="S", help="seed of everything random; default: 0")
    train.add_argument(
        "--out", metavar="DIR", help="directory to write, which must not exist; default: runs/ENV-seedS, numbered"
    )
    train.add_argument(
        "--preset",
        metavar="NAME",
        help=f"hyperparameters to start from: {', '.join(sorted(PRESETS))}; default: the one made for ENV, if any",
    )
    train.add_argument("--episodes", type=_positive, default=10, metavar="N", help="evaluation episodes; default: 10")
    train.add_argument(
        "--profile",
        action="store_true",
        help="show where the time goes: environment, act, replay, critic step, actor step, optimiser",
    )
    train.add_argument(
        "--diagnose-every",
        type=_whole,
        default=250,
        metavar="N",
        help="updates between two looks at the gradients from inside, written to gradients.csv, with a warning when "
        "something is visibly wrong; 0: never; default: 250",
    )
    train.add_argument(
        "--evaluations",
        type=_whole,
        default=10,
        metavar="N",
        help="episodes without noise during training that compare Q with the return that follows; default: 10",
    )
    train.add_argument("--quiet", action="store_true", help="no progress while training")
    group = train.add_argument_group("hyperparameters (default: the preset's)")
    _add_fields(group, [field.name for field in dataclasses.fields(Config)])
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "eval",
        help="evaluate a trained agent",
        description="Run the policy of a run directory without noise and print the returns.",
    )
    evaluate.add_argument("directory", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    evaluate.add_argument("--env", metavar="ENV", help="another environment than the one of the run")
    evaluate.add_argument("--episodes", type=_positive, default=100, metavar="N", help="episodes; default: 100")
    evaluate.add_argument(
        "--seed", type=_whole, default=10_000, metavar="S", help="episode i starts from reset(seed=S+i); default: 10000"
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=_evaluate)

    check = commands.add_parser(
        "gradcheck",
        allow_abbrev=False,
        help="check every gradient against finite differences",
        description="Check every gradient of an agent, by name, against finite differences in float64, and what finite "
        "differences do not see. DIR: a trained agent, on transitions it learnt from; without DIR: a fresh agent on "
        "random ones. Exit status: 0 all right, 1 something wrong.",
        epilog="Examples: 'minddpg gradcheck', 'minddpg gradcheck runs/Pendulum-v1-seed0', "
        "'minddpg gradcheck --hidden-sizes 400,300 --action-layer 1 --final-init 3e-3 --batch-size 16', "
        "'minddpg gradcheck --planted'.",
    )
    check.add_argument("directory", nargs="?", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    check.add_argument("--planted", action="store_true", help="plant historical bugs instead: each must be caught")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.add_argument(
        "--mode",
        choices=("full", "sample", "directions"),
        help="every element; some of every tensor; or random directions through every tensor; default: full",
    )
    check.add_argument("--seed", type=_whole, metavar="S", help="of parameters, batch and sample; default: 0")
    check.add_argument("--batch-size", type=_positive, metavar="N", help="transitions; default: 32")
    _add_fresh_agent(check)
    check.set_defaults(run=_gradcheck)

    flow = commands.add_parser(
        "gradflow",
        allow_abbrev=False,
        help="follow the gradient from Q into the actor's weights",
        description="Trace one actor update, array by array, with the ten steps as headings; compare four routes to "
        "the same gradient; say what is visibly wrong. DIR: a trained agent, on transitions it learnt from; without "
        "DIR: a fresh agent on random ones.",
        epilog="Examples: 'minddpg gradflow', 'minddpg gradflow runs/Pendulum-v1-seed0 --report report.html', "
        "'minddpg gradflow runs/Pendulum-v1-seed0 --plot policy.png --picture policy'.",
    )
    flow.add_argument("directory", nargs="?", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    flow.add_argument("--plot", metavar="FILE", help="draw a picture, a .png or .svg (needs the extra plot)")
    flow.add_argument(
        "--picture",
        choices=("flow", "history", "action", "policy"),
        help="flow: the two networks, forward above, backward below; history: the gradient's way over training; "
        "action: Q over the action before and after an update; policy: mu and dQ/da over Pendulum's states; "
        "default: flow",
    )
    flow.add_argument(
        "--report", metavar="FILE", help="write all of it as one HTML file with a slider over training (extra plot)"
    )
    flow.add_argument("--json", action="store_true", help="print JSON")
    flow.add_argument("--seed", type=_whole, metavar="S", help="of parameters and batch; default: 0")
    flow.add_argument("--batch-size", type=_positive, metavar="N", help="transitions; default: 32")
    _add_fresh_agent(flow)
    flow.set_defaults(run=_gradflow)

    plot = commands.add_parser(
        "plot",
        allow_abbrev=False,
        help="draw a run on one page",
        description="One page per run: learning curve, Q against returns, saturation, dQ/da, dead units, targets "
        "(needs the extra plot).",
    )
    plot.add_argument("directories", nargs="+", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    plot.add_argument("--out", metavar="FILE", help="a .png or .svg; default: DIR/run.png")
    plot.set_defaults(run=_plot)

    warmup = commands.add_parser(
        "warmup",
        help="compile now instead of at the first run",
        description="Compile what training needs for this machine now, so that the first run starts at once.",
    )
    warmup.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    warmup.set_defaults(run=lambda args: _compile(args.dtype))
    return parser


def _add_fresh_agent(command: argparse.ArgumentParser) -> None:
    fresh = command.add_argument_group("the fresh agent (not with DIR)")
    fresh.add_argument("--obs-dim", type=_positive, metavar="N", help="length of an observation; default: 3")
    fresh.add_argument("--act-dim", type=_positive, metavar="N", help="length of an action; default: 1")
    _add_fields(fresh, ["hidden_sizes", "action_layer", "final_init", "critic_weight_decay"])


def _add_fields(group: argparse._ArgumentGroup, names: list[str]) -> None:
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


def _config_flags(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the flags that stand for fields of Config."""
    return {name.removeprefix("config_"): v for name, v in vars(args).items() if name.startswith("config_")}


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return number


def _positive(text: str) -> int:
    if (number := _whole(text)) == 0:
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


# --- commands ---------------------------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> int:
    changes = _config_flags(args)
    if args.out is not None and Path(args.out).exists():
        _fail(f"{Path(args.out)} exists; choose another --out, or remove it")

    from .profile import Profile
    from .replay import replay_nbytes
    from .training import evaluate, train

    environment = _look_at(args.env)
    env, obs_dim, act_dim = environment.name, environment.obs_dim, environment.act_dim
    name = args.preset or preset_name(env) or "default"
    config = Config.preset(name).replace(**changes)
    capacity = min(config.buffer_size, config.steps)
    nbytes = replay_nbytes(capacity, obs_dim, act_dim, config.dtype)
    print(
        f"{env}: {_count(obs_dim, 'observation')}, {_count(act_dim, 'action')}; "
        f"preset {name}, seed {args.seed}, {config.steps:,} steps\n"
        f"replay memory: {capacity:,} transitions, {_megabytes(nbytes)}"
    )
    _compile(config.dtype, quietly=True, profile=args.profile)
    profile = Profile() if args.profile else None
    out = Path(args.out) if args.out is not None else _free_directory(env, args.seed)
    report = None if args.quiet else _Progress(config.steps)
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
            warn=report.warn if report else _warn,
        )
    finally:
        if report:
            report.close()
    seconds = time.perf_counter() - started
    print(f"{result.steps:,} steps, {_count(len(result.history), 'episode')} in {seconds:.1f} s -> {out}")
    if profile:
        print(f"\n{profile}")
    again = f"minddpg eval {shlex.quote(str(out))}"
    if result.interrupted:
        print(f"interrupted: the agent as it was is saved in {out}; try it with '{again}'")
        return INTERRUPTED
    if len(result.history) > 1:
        print("\n" + _chart([row["return"] for row in result.history]))
    returns = evaluate(result.agent, env, args.episodes, seed=10_000)
    print(f"\nevaluation without noise: {_summary(returns)}")
    for finding in result.diagnoses:
        print(f"seen while training, {finding}")
    print(f"look further: {again} --episodes 100, or follow the gradients: minddpg gradflow {shlex.quote(str(out))}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from .checkpoint import load, load_info
    from .training import EnvError, evaluate

    info = load_info(args.directory)
    agent = load(args.directory)
    env = args.env or info.env
    try:
        _look_at(env)
    except EnvError as error:
        if args.env:
            raise
        _fail(f"{error}; if {args.directory} was trained from Python, name an environment with --env")
    if not args.json:
        _compile(info.config.dtype, quietly=True)
    returns = evaluate(agent, env, args.episodes, args.seed)
    if args.json:
        print(json.dumps({"env": env, "seed": args.seed, "mean": returns.mean(), "returns": returns.tolist()}))
    else:
        print(f"{env}, {args.directory}: {_summary(returns)}")
    return 0


def _gradcheck(args: argparse.Namespace) -> int:
    if args.planted and (args.mode or args.batch_size or args.seed is not None):
        _fail("--planted has a batch, seed and mode of its own; leave out --batch-size, --seed and --mode")
    if args.planted and args.directory is not None:
        _fail("--planted checks copies of minddpg, not a run; leave DIR out")
    agent, batch, what = _agent_and_batch(args, "--planted" if args.planted else "DIR")
    if args.planted:
        return _planted(args.json)

    from .gradcheck import check_agent
    from .jit import is_warm, mark_warm

    out = sys.stderr if args.json else sys.stdout
    numbers = f"{agent.actor.params.size:,} parameters of the actor, {agent.critic.params.size:,} of the critic"
    print(f"{what}\n{numbers}, batch of {len(batch.rew)}", file=out)
    if not is_warm("gradcheck"):
        print("compiling the checks (first run of this version on this machine, about a minute)", file=out)
    report = check_agent(agent, batch, mode=args.mode or "full", seed=args.seed or 0, progress=_tell)
    mark_warm("gradcheck")
    _tell("")
    print(report.to_json() if args.json else "\n" + report.table(_wants_colour()))
    return 0 if report.ok else 1


def _agent_and_batch(args: argparse.Namespace, without: str) -> tuple[DDPG, Batch, str]:
    """A run's agent and some transitions it learnt from, or a fresh agent and random ones; and what they are, in words.

    without: what flags for a fresh agent do not go with.
    """
    changes = _config_flags(args)
    flags = [f"--{name.replace('_', '-')}" for name in changes]
    flags += [flag for flag, value in (("--obs-dim", args.obs_dim), ("--act-dim", args.act_dim)) if value]
    if flags and (args.directory is not None or without == "--planted"):
        _fail(f"{flags[0]} is for a fresh agent; leave out {without} or the flag")
    config = Config(hidden_sizes=(64, 64), dtype="float32").replace(**changes)

    import numpy as np

    from .checkpoint import load, load_batch, load_info
    from .ddpg import DDPG
    from .replay import Batch

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


def _gradflow(args: argparse.Namespace) -> int:
    if args.report is not None and args.directory is None:
        _fail("--report is of a run; name its DIR")
    if args.picture is not None and args.plot is None:
        _fail("--picture chooses what --plot FILE draws; add --plot FILE")
    if args.picture == "history" and args.directory is None:
        _fail("the picture history is of a run; name its DIR")
    if args.report is not None and not args.report.endswith((".html", ".htm")):
        _fail(f"--report {args.report!r} must end in .html")
    for path in (args.plot, args.report):
        if path is not None:
            _check_file(path)

    from .checkpoint import load_info
    from .gradflow.canvas import check_path, require_matplotlib

    if args.plot is not None:
        check_path(args.plot)
    if args.plot is not None or args.report is not None:
        if args.directory is not None:
            load_info(args.directory)  # what is no run is said first
        require_matplotlib()
    agent, batch, what = _agent_and_batch(args, "DIR")

    from .checkpoint import reward_range
    from .gradflow import trace
    from .jit import is_warm, mark_warm

    out = sys.stderr if args.json else sys.stdout
    print(f"{what}, batch of {len(batch.rew)}", file=out)
    if not is_warm("gradflow"):
        print("compiling (first run of this version on this machine, under a minute)", file=out, flush=True)
    rewards = reward_range(args.directory) if args.directory is not None else None
    traced = trace(agent, batch, rewards=rewards)
    mark_warm("gradflow")
    print(traced.to_json() if args.json else f"\n{traced}")
    if args.plot is not None:
        _draw(args, agent, batch, traced)
        print(f"picture: {args.plot}", file=out)
    if args.report is not None:
        from .gradflow.report import write_report

        write_report(args.directory, args.report, len(batch.rew), args.seed or 0)
        print(f"report: {args.report}; open it in a browser", file=out)
    return 0


def _draw(args: argparse.Namespace, agent: DDPG, batch: Batch, traced: Trace) -> None:
    from .checkpoint import load_table
    from .gradflow.canvas import save
    from .gradflow.flow_picture import flow_figure
    from .gradflow.pictures import action_figure, history_figure, policy_figure

    picture = args.picture or "flow"
    if picture == "flow":
        figure = flow_figure(traced)
    elif picture == "history":
        figure = history_figure(load_table(args.directory, "gradients"))
    elif picture == "action":
        figure = action_figure(agent, batch)
    else:
        figure = policy_figure(agent)
    save(figure, args.plot)


def _plot(args: argparse.Namespace) -> int:
    if args.out is not None and len(args.directories) > 1:
        _fail("--out names one file; leave it out for more than one DIR (each gets its run.png)")

    from .checkpoint import load_info
    from .gradflow.canvas import check_path, require_matplotlib, save

    for directory in args.directories:
        load_info(directory)  # what is no run is said first
    require_matplotlib()

    from .gradflow.pictures import run_figure

    for directory in args.directories:
        path = args.out if args.out is not None else str(Path(directory) / "run.png")
        check_path(path)
        _check_file(path)
        save(run_figure(directory), path)
        print(f"{directory}: {path}")
    return 0


def _check_file(path: str) -> None:
    """What can be said of a file to be written before the work is done."""
    if not Path(path).name or Path(path).is_dir():
        _fail(f"{path or 'an empty name'} is no name for a file; choose another")
    if not Path(path).absolute().parent.is_dir():
        _fail(f"{Path(path).parent} is not a directory; make it first")


def _planted(as_json: bool) -> int:
    from .gradcheck.planted import BUGS, text, verdict

    verdicts = []
    for number, bug in enumerate(BUGS, 1):
        _tell(f"{number} of {len(BUGS)}: {bug.name}")
        verdicts.append(verdict(bug))
        _tell("")
        if not as_json:
            print(text(verdicts[-1]), flush=True)
    caught = sum(v.caught for v in verdicts)
    structural = sum(not v.by_differences for v in verdicts)
    small = sum(v.wrong_with_small_weights and v.usual != "fail" for v in verdicts)
    if as_json:
        records = [{**v.bug._asdict(), **v._asdict(), "bug": v.bug.name, "caught": v.caught} for v in verdicts]
        print(json.dumps(records, indent=2))
    else:
        print(
            f"\n{caught} of {len(verdicts)} bugs caught, {structural} of them by structure alone. Finite differences "
            f"with atol=1e-5, rtol=1e-3\nwould have passed {small} more: wrong gradients of an agent with the paper's "
            "small weights."
        )
    return 0 if caught == len(verdicts) else 1


def _tell(what: str) -> None:
    """What is being done, on a terminal's last line; nothing takes it away."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what} ..." if what else "\r\033[K", end="", file=sys.stderr, flush=True)


def _warn(what: object) -> None:
    print(f"minddpg: warning: {what}", file=sys.stderr, flush=True)


def _wants_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _look_at(env: str) -> Environment:
    """The environment, made and closed again: what is wrong with it shows before anything is compiled."""
    from .training import Environment

    environment = Environment(env)
    environment.close()
    return environment


def _compile(dtype: str, quietly: bool = False, profile: bool = False) -> int:
    """Compile; says so when it takes long. quietly: say nothing where nothing is left to do. profile: its parts too."""
    from numba import config

    from .ddpg import warmup
    from .gradflow.monitor import warm_look
    from .jit import CACHE, is_warm
    from .profile import warm_profile

    if config.DISABLE_JIT:
        print("NUMBA_DISABLE_JIT is set: running as plain NumPy, slowly")
        return 0
    warmups = {dtype: warmup, f"look-{dtype}": warm_look}
    if profile:
        warmups[f"profile-{dtype}"] = warm_profile
    if quietly and all(map(is_warm, warmups)):
        return 0
    if all(map(is_warm, warmups)):
        why = "is there already"
    elif CACHE:
        why = "first run of this version on this machine, under a minute"
    else:
        why = "at every run: no cache directory can be written"
    print(f"compiling for {dtype} ({why}) ...", end="", flush=True)
    started = time.perf_counter()
    with _process_that_compiles_looks(dtype) if CACHE and not is_warm(f"look-{dtype}") else nullcontext():
        warmup(dtype)
    for warm in warmups.values():
        warm(dtype)  # what is compiled by now is read from the cache
    print(f" {time.perf_counter() - started:.1f} s")
    return 0


@contextmanager
def _process_that_compiles_looks(dtype: str) -> Iterator[None]:
    """Next to an update, looks take longest to compile, so that a second core is of use. It may fail unseen."""
    code = f"from minddpg.gradflow.monitor import warm_look; warm_look({dtype!r})"
    beside = subprocess.Popen(
        [sys.executable, "-P", "-c", code],  # -P and the path: this package, and not one in the working directory
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        beside.wait()
    finally:
        beside.kill()
        beside.wait()


# --- what people see --------------------------------------------------------------------------------------------------


def _free_directory(env: str, seed: int) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in env)
    path, number = Path("runs") / f"{name}-seed{seed}", 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-seed{seed}-{number}"
    return path


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _summary(returns: npt.NDArray[Any]) -> str:
    spread = f"lowest {returns.min():.1f}, highest {returns.max():.1f}"
    return f"mean return {returns.mean():.1f} +- {returns.std():.1f} over {_count(len(returns), 'episode')} ({spread})"


def _chart(returns: list[float], width: int = 60, height: int = 8) -> str:
    """The learning curve in text: time to the right, the mean return of each column's episodes upwards."""
    columns = min(width, len(returns))
    cuts = [len(returns) * c // columns for c in range(columns + 1)]
    means = [sum(returns[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    rows = [round((mean - low) / ((high - low) or 1) * (height - 1)) for mean in means]
    lines = []
    for level in range(height - 1, -1, -1):
        label = f"{high:9.1f}" if level == height - 1 else f"{low:9.1f}" if level == 0 else " " * 9
        lines.append(f"{label} |" + "".join("*" if row == level else " " for row in rows).rstrip())
    scale = f"1{f' episode {len(returns)}':>{max(1, columns - 1)}}"
    return "\n".join(["return per episode while learning, noise included", *lines, " " * 10 + "+" + "-" * columns,
                      " " * 11 + scale])  # fmt: skip


class _Progress:
    """Progress of training: a tqdm bar where it is installed and stderr is a terminal, otherwise plain lines."""

    def __init__(self, steps: int):
        self.steps, self.started, self.shown, self.at = steps, time.perf_counter(), 0.0, 0
        self.bar: Any = None
        self.interval = 1.0  # seconds to the first plain line; then twice as long each time, up to 10
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                pass
            else:
                self.bar = tqdm(total=steps, unit="step", dynamic_ncols=True, leave=False)

    def __call__(self, step: int, history: list[EpisodeRow]) -> None:
        if step % 64 and step != self.steps:
            return
        elapsed = time.perf_counter() - self.started
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            if elapsed - self.shown > 0.5:
                self.bar.set_postfix_str(f"episode {len(history):,}, {self._last(history)}")
                self.shown = elapsed
        elif elapsed - self.shown > self.interval:
            left = (self.steps - step) * (elapsed - self.shown) / max(1, step - self.at)
            speed = (step - self.at) / (elapsed - self.shown)
            self.shown, self.at, self.interval = elapsed, step, min(10.0, 2 * self.interval)
            print(
                f"step {step:,} of {self.steps:,}, episode {len(history):,}, {self._last(history)}, "
                f"{speed:,.0f} steps/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def warn(self, what: object) -> None:
        """Say it without tearing the bar apart."""
        if self.bar is not None:
            self.bar.clear()
        _warn(what)

    @staticmethod
    def _last(history: list[EpisodeRow]) -> str:
        last = [row["return"] for row in history[-10:]]
        return f"last {len(last)} returns {sum(last) / len(last):.1f}" if last else "no episode finished yet"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
