"""What the checker says of every kind of case that outside use found, right and wrong, and of random networks.

    python scripts/gradcheck_kinds.py [--networks 1000] [--json]

The first table is the one in minddpg/gradcheck/README.md. --networks also draws so many random networks (see
tests/random_networks.py), each right and with one local derivative spoiled by 1e-4 or more, and counts false alarms,
misses and places found: a thousand take some ten minutes.
"""

import argparse
import json
import sys
from pathlib import Path

from minddpg.gradcheck import check_gradient
from minddpg.gradcheck.situations import SITUATIONS

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def rows():
    """(kind, name, source, verdict on the right one, on the wrong one, what is said of the wrong one)."""
    found = []
    for s in SITUATIONS:
        wrong = s.check()
        right = "none" if s.right is None else "passes" if s.check(wrong=False).ok else "FALSE ALARM"
        said = [t.hint for t in wrong.tensors if t.hint] + [wrong.start, *(c.detail for c in wrong.checks if not c.ok)]
        said = [text for text in said if text] or [t.verdict for t in wrong.tensors if not t.ok]
        found.append((s.kind, s.name, s.source, right, "MISSED" if wrong.ok else "fails", said[0] if said else ""))
    return found


def random_networks(count):
    """Numbers over so many seeds."""
    from random_networks import changed, is_located, random_network

    alarms, missed, unlocated, spoiled = [], [], [], 0
    for seed in range(count):
        right, wrong = random_network(seed), random_network(seed, spoiled=True)
        if not check_gradient(right.function, right.inputs, right.backward, upstream=right.upstream).ok:
            alarms.append(seed)
        if changed(wrong, right):
            spoiled += 1
            report = check_gradient(wrong.function, wrong.inputs, wrong.backward, upstream=wrong.upstream)
            if report.ok:
                missed.append(seed)
            elif not is_located(wrong, right, report):
                unlocated.append(seed)
    return {
        "right": count, "false alarms": alarms, "spoiled": spoiled, "missed": missed, "not located": unlocated,
    }  # fmt: skip


def main():
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=0, metavar="N", help="random networks; default: none")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    table, networks = rows(), random_networks(args.networks) if args.networks else None
    if args.json:
        print(json.dumps({"kinds": table, "networks": networks}, indent=2))
        return
    print("| kind | case | seen at | right variant | wrong variant | what is said of the wrong one |")
    print("|---|---|---|---|---|---|")
    for row in table:
        print(f"| {' | '.join(row)} |")
    if networks:
        n, spoiled = networks["right"], networks["spoiled"]
        alarms, missed, lost = (networks[key] for key in ("false alarms", "missed", "not located"))
        print(f"\n{n:,} right networks: {len(alarms)} false alarms (seeds {alarms}).")
        print(
            f"{spoiled:,} spoiled ones: {len(missed)} missed (seeds {missed}), "
            f"{100 * (1 - len(lost) / spoiled):.1f} % located (not: seeds {lost})."
        )


if __name__ == "__main__":
    main()
