"""`minddpg gradflow`: the gradient's way from Q into the actor's weights."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from .options import Commands, add_fresh_agent, agent_and_batch, check_file, fail, fresh_config, positive, whole

if TYPE_CHECKING:
    from ..agent import DDPG
    from ..gradflow import Trace
    from ..replay import Batch


def add(commands: Commands) -> None:
    """Register the command."""
    flow = commands.add_parser(
        "gradflow",
        allow_abbrev=False,
        help="follow the gradient from Q into the actor's weights",
        description="Trace one actor update, array by array, with the ten steps as headings; compare four routes to "
        "the same gradient; say where it shrinks most and why, and what is visibly wrong. DIR: a trained agent, on "
        "transitions it learnt from; without DIR: a fresh agent on random ones.",
        epilog="Examples: 'minddpg gradflow', 'minddpg gradflow runs/Pendulum-v1-seed0 --report report.html', "
        "'minddpg gradflow runs/Pendulum-v1-seed0 --plot policy.pdf --picture policy', "
        "'minddpg gradflow runs/Pendulum-v1-seed0 --mistakes'.",
    )
    flow.add_argument("directory", nargs="?", metavar="DIR", help="run directory, as 'minddpg train' wrote it")
    flow.add_argument("--plot", metavar="FILE", help="draw a picture, a .png, .svg or .pdf (needs the extra plot)")
    flow.add_argument(
        "--picture",
        choices=("flow", "history", "action", "policy"),
        help="flow: the two networks, forward above, backward below; history: the gradient's way over training; "
        "action: Q over the action before and after an update; policy: mu and dQ/da over Pendulum's states; "
        "default: flow",
    )
    flow.add_argument(
        "--dim", type=whole, metavar="K", help="of the picture action: which component of the action; default: 0"
    )
    flow.add_argument(
        "--mistakes",
        action="store_true",
        help="instead of the trace: what each classic mistake does to the gradient, over many batches",
    )
    flow.add_argument(
        "--report", metavar="FILE", help="write all of it as one HTML file with a slider over training (extra plot)"
    )
    flow.add_argument("--json", action="store_true", help="print JSON")
    flow.add_argument("--seed", type=whole, metavar="S", help="of parameters and batch; default: 0")
    flow.add_argument("--batch-size", type=positive, metavar="N", help="transitions; default: the run's, or 32")
    add_fresh_agent(flow)
    flow.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trace, draw, report."""
    fresh_config(args, "DIR")  # what goes wrong with the flags alone is said first
    if args.report is not None and args.directory is None:
        fail("--report is of a run; name its DIR")
    if args.mistakes and (args.plot is not None or args.report is not None):
        fail("--mistakes prints a table and nothing else; leave out --plot and --report (the report has it too)")
    if args.picture is not None and args.plot is None:
        fail("--picture chooses what --plot FILE draws; add --plot FILE")
    if args.dim is not None and ((args.plot is not None and args.picture != "action") or args.plot is args.report):
        fail("--dim is of the picture action; add --plot FILE --picture action, or --report FILE")
    if args.picture == "history" and args.directory is None:
        fail("the picture history is of a run; name its DIR")
    if args.report is not None and not args.report.endswith((".html", ".htm")):
        fail(f"--report {args.report!r} must end in .html")
    for path in (args.plot, args.report):
        if path is not None:
            check_file(path)

    from ..gradflow.canvas import check_path, require_matplotlib
    from ..runs.directory import KEPT_TRANSITIONS, load_batch, load_info, reward_range

    if args.plot is not None:
        check_path(args.plot)
    asked = args.batch_size
    if args.directory is not None:
        asked = args.batch_size = asked or load_info(args.directory).config.batch_size  # what is no run is said first
    agent, batch, what = agent_and_batch(args, "DIR")
    if args.dim is not None and args.dim >= agent.act_dim:
        fail(f"--dim {args.dim} is too much: the actions have {agent.act_dim} components, 0 to {agent.act_dim - 1}")
    if args.plot is not None or args.report is not None:
        require_matplotlib()

    from ..fast.jit import is_warm, mark_warm
    from ..gradflow import mistakes, trace

    out = sys.stderr if args.json else sys.stdout
    print(f"{what}, batch of {len(batch.rew)}", file=out)
    if asked is not None and asked > len(batch.rew):
        print(f"asked for {asked:,}, but no more transitions are kept of the run", file=out)
    if not is_warm("gradflow"):
        print("compiling (first run of this version on this machine, under a minute)", file=out, flush=True)
    if args.mistakes:
        kept = batch if args.directory is None else load_batch(args.directory, KEPT_TRANSITIONS)
        effects = mistakes(agent, kept, len(batch.rew))
        print(json.dumps(effects.record(), indent=2) if args.json else f"\n{effects}")
        return 0
    rewards = reward_range(args.directory) if args.directory is not None else None
    traced = trace(agent, batch, rewards=rewards)
    mark_warm("gradflow")
    print(traced.to_json() if args.json else f"\n{traced}")
    if args.plot is not None:
        _draw(args, agent, batch, traced)
        print(f"picture: {args.plot}", file=out)
    if args.report is not None:
        from ..gradflow.report import write_report

        write_report(args.directory, args.report, args.batch_size, args.seed or 0, args.dim or 0)
        print(f"report: {args.report}; open it in a browser", file=out)
    return 0


def _draw(args: argparse.Namespace, agent: DDPG, batch: Batch, traced: Trace) -> None:
    from ..gradflow.canvas import save
    from ..gradflow.flow_picture import flow_figure
    from ..gradflow.pictures import action_figure, history_figure, policy_figure

    picture = args.picture or "flow"
    if picture == "flow":
        figure = flow_figure(traced)
    elif picture == "history":
        figure = history_figure(args.directory)
    elif picture == "action":
        figure = action_figure(agent, batch, dim=args.dim or 0)
    else:
        figure = policy_figure(agent)
    save(figure, args.plot)
