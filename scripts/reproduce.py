"""The learning results in the README: train the preset with several seeds, evaluate on fixed starts, print every run.

    python scripts/reproduce.py Pendulum-v1 MountainCarContinuous-v0 [--seeds 10] [--steps N] [--out results.json]

Each run is evaluated without noise over 100 episodes from reset(seed=10000) to reset(seed=10099). Pendulum-v1 is also
given as regret: what was lost against the best possible return from the same starts (scripts/pendulum_optimum.py).
With --out, finished runs are kept in the file, and a run that is already there is not made again.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import gymnasium
import numba
import numpy as np
from pendulum_optimum import optimal_returns

import minddpg
from minddpg.agent import warmup

STARTS, FIRST = 100, 10_000


def interquartile_mean(values):
    """Mean of the middle half; runs at its edge count by the part that lies inside."""
    ordered, n = np.sort(values), len(values)
    edges = np.arange(n + 1) / n
    inside = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float(ordered @ inside / inside.sum())


def run(env, config, seed):
    started = time.perf_counter()
    result = minddpg.train(env, config, seed=seed)
    seconds = time.perf_counter() - started
    returns = minddpg.evaluate(result.agent, env, STARTS, FIRST)
    return {"env": env, "seed": seed, "return": returns.mean(), "std": returns.std(), "seconds": seconds,
            "steps": config.steps, "config": config.to_dict()}  # fmt: skip


def seed_range(text):
    """'10' -> seeds 0-9, '10-19' -> those."""
    first, _, last = text.rpartition("-")
    return range(int(first), int(last) + 1) if first else range(int(last))


def machine():
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":")[1].strip() if lines else cpu
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}"
    return (
        f"{versions}, Gymnasium {gymnasium.__version__}, minddpg {minddpg.__version__}; {cpu}, {os.cpu_count()} cores"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("envs", nargs="+", metavar="ENV")
    parser.add_argument("--seeds", type=seed_range, default=range(10), help="how many, or first-last; default: 10")
    parser.add_argument("--steps", type=int, help="environment steps; default: the preset's")
    parser.add_argument("--out", type=Path, help="keep finished runs in this JSON file")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text()) if args.out and args.out.exists() else []
    print(machine())
    warmup()
    for env in args.envs:
        config = minddpg.Config.for_environment(env)
        config = config.replace(steps=args.steps) if args.steps else config
        for seed in args.seeds:
            if not any((r["env"], r["seed"], r["config"]) == (env, seed, config.to_dict()) for r in rows):
                rows.append(run(env, config, seed))
                if args.out:
                    args.out.write_text(json.dumps(rows))
        optimum = optimal_returns(FIRST, STARTS).mean() if env == "Pendulum-v1" else None
        mine = [r for r in rows if r["env"] == env and r["config"] == config.to_dict() and r["seed"] in args.seeds]
        report(env, sorted(mine, key=lambda r: r["seed"]), optimum)


def report(env, rows, optimum):
    print(f"\n{env}, {rows[0]['steps']:,} steps, {STARTS} evaluation starts from seed {FIRST}")
    if optimum is not None:
        print(f"best possible mean return on these starts: {optimum:.1f}")
    print(
        f"{'seed':>4} {'return':>8} {'std':>7}"
        + (f" {'regret':>7}" if optimum is not None else "")
        + f" {'seconds':>8}"
    )
    for r in rows:
        regret = f" {optimum - r['return']:7.1f}" if optimum is not None else ""
        print(f"{r['seed']:>4} {r['return']:8.1f} {r['std']:7.1f}{regret} {r['seconds']:8.1f}")
    returns = np.array([r["return"] for r in rows])
    seconds = np.median([r["seconds"] for r in rows])
    print(f"return: IQM {interquartile_mean(returns):.1f}, lowest {returns.min():.1f}, highest {returns.max():.1f}; "
          f"median {seconds:.1f} s of training")  # fmt: skip
    if optimum is not None:
        regrets = optimum - returns
        print(
            f"regret: IQM {interquartile_mean(regrets):.1f}, {np.sum(regrets <= 15)} of {len(regrets)} runs at most 15"
        )


if __name__ == "__main__":
    main()
