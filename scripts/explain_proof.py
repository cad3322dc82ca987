"""Mistakes planted into DDPG implementations of the tests' own, NumPy's and PyTorch's: what `explain` says.

    python scripts/explain_proof.py [--right 1000] [--planted 400] [--steps 100] [--shown 10]

Random architectures, layouts, bounds, activations and dtypes (tests/planted_ddpg.py). --right: right ones, none of
which may be accused; --planted: so many with one mistake and so many with two, of the actor's and of the critic's
gradient, by each framework that is installed; --steps: optimiser and target steps, parameters alone handed over. A
combination of which a mistake cannot be seen (left out, the gradient is the same to 1e-4) is drawn again, and so is
one whose factor is another one's as well (N, act_dim, 2 and the bound may coincide).
"""

import argparse
import collections
import importlib.util
import itertools
import sys
from pathlib import Path

from minddpg.gradcheck import explain

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

KINDS = ("exact", "among several", "hidden, and said", "other name", "not explained", "missed")


def steps(count):
    """Of so many steps: how many were told as planted; lines of the others."""
    from planted_ddpg import STEPS, TARGETS, planted_step

    told, others = 0, []
    pairs = [(m, t) for m, t in itertools.product(STEPS, TARGETS) if t != "swapped" or "critic" not in m]
    for seed, (mistake, target) in zip(range(count), itertools.cycle(pairs), strict=False):
        found = explain(**planted_step(seed, mistake, target)).mistakes
        wanted = {mistake, target} - {""}
        if {*found} - {"no minus"} == wanted or (target == "swapped" and wanted <= {*found}):
            told += 1
        else:
            others.append(f"step, seed {seed}: {wanted} -> {found}")
    return told, others


def main():
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--right", type=int, default=1000, metavar="N", help="right implementations; default: 1000")
    parser.add_argument("--planted", type=int, default=400, metavar="N", help="of each kind; default: 400")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps; default: 100")
    parser.add_argument("--shown", type=int, default=10, metavar="N", help="lines of what went otherwise; default: 10")
    args = parser.parse_args()
    from planted_ddpg import outcome

    frameworks = ["numpy", *(["torch"] if importlib.util.find_spec("torch") else [])]
    ways = list(itertools.product(frameworks, ("actor", "critic")))
    lines = []
    right = [outcome(seed, *ways[seed % len(ways)], 0) for seed in range(args.right)]
    accused = [line for kind, line in right if kind == "accused"]
    print(f"{len(right):,} right implementations ({', '.join(frameworks)}): {len(accused)} accused\n")
    print(f"| planted | cases | {' | '.join(KINDS)} |")
    print(f"|---|---|{'---|' * len(KINDS)}")
    total = collections.Counter()
    for (framework, which), many in itertools.product(ways, (1, 2)):
        count = collections.Counter()
        for seed in range(args.planted):
            kind, line = outcome(seed, framework, which, many)
            count[kind] += 1
            if kind != "exact":
                lines.append(line)
        total += count
        name = f"{framework}, {which}, {'one mistake' if many == 1 else 'two mistakes'}"
        print(f"| {name} | {args.planted} | {' | '.join(str(count[kind]) for kind in KINDS)} |", flush=True)
    cases = sum(total.values())
    print(f"| all | {cases:,} | {' | '.join(str(total[kind]) for kind in KINDS)} |")
    if cases:
        print(f"\n{100 * total['exact'] / cases:.1f} % named exactly, {total['other name']} by a wrong name.")
    told, others = steps(args.steps)
    print(f"{told} of {args.steps} steps told as planted.")
    print("\n".join([*accused, *lines[: args.shown], *others[: args.shown]]))


if __name__ == "__main__":
    main()
