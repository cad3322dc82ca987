"""`minddpg gradcheck`: every gradient of an agent against finite differences."""

from __future__ import annotations

import argparse
import json
import sys

from .options import Commands, add_fresh_agent, agent_and_batch, fail, positive, whole
from .terminal import tell, wants_colour


def add(commands: Commands) -> None:
    """Register the command."""
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
        choices=("auto", "full", "sample", "directions"),
        help="every element as far as that is cheap, directions and a sample of what is larger; every element; some of "
        "every tensor; or random directions through every tensor; default: auto",
    )
    check.add_argument("--seed", type=whole, metavar="S", help="of parameters, batch and sample; default: 0")
    check.add_argument("--batch-size", type=positive, metavar="N", help="transitions; default: 32")
    add_fresh_agent(check)
    check.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check."""
    if args.planted and (args.mode or args.batch_size or args.seed is not None):
        fail("--planted has a batch, seed and mode of its own; leave out --batch-size, --seed and --mode")
    if args.planted and args.directory is not None:
        fail("--planted checks copies of minddpg, not a run; leave DIR out")
    agent, batch, what = agent_and_batch(args, "--planted" if args.planted else "DIR")
    if args.planted:
        return _planted(args.json)

    from ..fast.jit import is_warm, mark_warm
    from ..gradcheck import check_agent

    out = sys.stderr if args.json else sys.stdout
    numbers = f"{agent.actor.params.size:,} parameters of the actor, {agent.critic.params.size:,} of the critic"
    print(f"{what}\n{numbers}, batch of {len(batch.rew)}", file=out)
    if not is_warm("gradcheck"):
        print("compiling the checks (first run of this version on this machine, about a minute)", file=out)
    report = check_agent(agent, batch, mode=args.mode or "auto", seed=args.seed or 0, progress=tell)
    mark_warm("gradcheck")
    tell("")
    print(report.to_json() if args.json else "\n" + report.table(wants_colour()))
    return 0 if report.ok else 1


def _planted(as_json: bool) -> int:
    from ..gradcheck.planted import CATALOGUE, text, verdict

    verdicts = []
    for number, bug in enumerate(CATALOGUE, 1):
        tell(f"{number} of {len(CATALOGUE)}: {bug.name}")
        verdicts.append(verdict(bug))
        tell("")
        if not as_json:
            print(text(verdicts[-1]), flush=True)
    caught = sum(v.caught for v in verdicts)
    structural = sum(not v.by_differences for v in verdicts)
    small = sum(v.wrong_with_small_weights and v.usual != "fail" for v in verdicts)
    if as_json:
        records = [{"source": v.bug.source, **v._asdict(), "bug": v.bug.name, "caught": v.caught} for v in verdicts]
        print(json.dumps(records, indent=2))
    else:
        print(
            f"\n{caught} of {len(verdicts)} bugs caught, {structural} of them by structure alone. Finite differences "
            f"with atol=1e-5, rtol=1e-3\nwould have passed {small} more: wrong gradients of an agent with the paper's "
            "small weights."
        )
    return 0 if caught == len(verdicts) else 1
