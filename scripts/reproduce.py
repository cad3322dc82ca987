"""The learning results in the README, as named tables: every seed, both measures, beside what others have published.

    python scripts/reproduce.py --table pendulum|classic|box2d|mujoco [--workers W] [--steps N] [--seeds N ...]

Each environment of a table is a study (minddpg/study/README.md) of its preset under --studies, on seeds that no preset
was chosen on; a study that is there goes on, and one that is done is only printed. Scores: the last agent over the 100
episodes from reset(seed=10000) to reset(seed=10099), the last ten evaluations while training, and the best one; all
without noise. Pendulum-v1 is also given as regret: what was lost against the best possible return from the same starts
(scripts/pendulum_optimum.py). A table as it stands writes its per-seed scores to scripts/results/; a trial, with
--steps or --seeds, only where --results says so.
"""

import argparse
import platform
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numba
import numpy as np

import minddpg
from minddpg.config import Config
from minddpg.study import interquartile_mean, run
from minddpg.study.board import Board
from minddpg.study.jobs import cpu
from minddpg.study.plan import EVALUATION_SEED
from minddpg.study.results import MEASURES, aligned, estimate, number, write_csv

RESULTS = Path(__file__).parent / "results"
ZOO = "RL Baselines3 Zoo, benchmark.md at 22e3ff2, one run"
TD3_PAPER = "Fujimoto et al. 2018, arXiv 1802.09477, ten seeds"
SPINNING_UP = "Spinning Up, docs/images/plots at 038665d, ten seeds, v3"
CLEANRL = "CleanRL, docs/benchmark at fe8d8a0, three seeds, v4, while training, with noise"


class Published(NamedTuple):
    """What somebody else reports."""

    who: str
    steps: str
    what: str
    source: str


class Row(NamedTuple):
    """An environment of a table. aim: what was asked for before it was measured. changes: of its preset."""

    env: str
    seeds: tuple[int, ...]
    aim: str
    published: tuple[Published, ...]
    changes: dict[str, int] = {}  # noqa: RUF012
    vary: dict[str, list[str]] = {}  # noqa: RUF012


BOTH = {"algorithm": ["ddpg", "td3"]} if "algorithm" in Config.__dataclass_fields__ else {}
TABLES = {
    "pendulum": [
        Row("Pendulum-v1", tuple(range(100, 120)), "IQM of regret at most 7, worst at most 12", (
            Published("DDPG", "20k", "-152.1, other starts", ZOO),
            Published("DDPG", "20k", "regrets 8.7, 10.6, 11.5 on these starts", "the Zoo's settings, three seeds"),
        )),
    ],
    "classic": [
        Row("MountainCarContinuous-v0", tuple(range(100, 110)), "at least 93 in 9 of 10", (
            Published("DDPG", "300k", "93.5", ZOO), Published("TD3", "300k", "93.5", ZOO),
        )),
    ],
    "box2d": [
        Row("LunarLanderContinuous-v3", tuple(range(100, 110)), "mean at least 240, none below 200", (
            Published("DDPG", "300k", "230.2 (v2)", ZOO), Published("TD3", "300k", "207.5 (v2)", ZOO),
        )),
        Row("BipedalWalker-v3", tuple(range(100, 103)), "mean at least 250", (
            Published("DDPG", "1M", "197.5", ZOO), Published("TD3", "1M", "306.0", ZOO),
        ), {"steps": 500_000}),
    ],
    "mujoco": [
        Row("InvertedPendulum-v5", tuple(range(100, 105)), "1000", (
            Published("Our DDPG", "1M", "1000 (best, v1)", TD3_PAPER), Published("DDPG", "1M", "642.7", CLEANRL),
        ), {"steps": 100_000}),
        Row("HalfCheetah-v5", tuple(range(100, 103)), "last ten evaluations at least 11,000", (
            Published("DDPG", "1M", "10,374 +- 157", CLEANRL),
            Published("DDPG", "1M", "10,110 +- 979", SPINNING_UP),
            Published("Our DDPG", "1M", "8,577 (best), 8,401 (last ten), v1", TD3_PAPER),
        )),
        Row("Hopper-v5", (100, 101), "DDPG above 1,736, TD3 above 3,000", (
            Published("DDPG", "1M", "1,736 +- 400", SPINNING_UP),
            Published("Our DDPG", "1M", "1,860 (best), 1,062 (last ten), v1", TD3_PAPER),
            Published("TD3", "1M", "3,564 (best), 3,305 (last ten), v1", TD3_PAPER),
        ), {}, BOTH),
    ],
}  # fmt: skip


def machine():
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}"
    return f"{versions}, Gymnasium {gymnasium.__version__}, minddpg {minddpg.__version__}; {cpu()}"


def make(row, args):
    """The study of a row, made or gone on with."""
    trial = f"-{args.steps}" if args.steps else ""
    config = {"steps": args.steps} if args.steps else row.changes
    board = Board()
    try:
        return run(
            args.studies / f"{row.env}{trial}", row.env, args.seeds or row.seeds, config, vary=row.vary,
            workers=args.workers, show=board, say=board.say,
        )  # fmt: skip
    finally:
        board.close()


def regrets(study, variant):
    """Of the last agents on Pendulum-v1, by seed; None elsewhere."""
    if "Pendulum-v1" not in study.plan.configs:
        return None
    from pendulum_optimum import optimal_returns

    return optimal_returns(EVALUATION_SEED, study.plan.episodes).mean() - study.scores("Pendulum-v1", variant, "final")


def report(row, study):
    for variant in study.plan.variants:
        done = study.done(row.env, variant)
        lost = regrets(study, variant)
        print(f"\n{' '.join([row.env, variant]).strip()}, {study.plan.configs[row.env].steps:,} steps; aim: {row.aim}")
        lines = [["seed", "final", "regret", "last10", "best", "best agent", "seconds"]]
        for place, (job, record) in enumerate(done):
            regret = "-" if lost is None else number(lost[place])
            scores = [number(record[name]) for name in ("last10", "best", "best_agent")]
            lines.append([str(job.seed), number(record["final"]), regret, *scores, number(record["seconds"] or np.nan)])
        print("\n".join(aligned([[cell for cell, name in zip(line, lines[0], strict=True)
                                  if name != "regret" or lost is not None] for line in lines])))  # fmt: skip
        for name in MEASURES:
            one = study.summary(row.env, variant, name)
            if one.scores.size:
                ends = f"lowest {number(one.scores.min())}, highest {number(one.scores.max())}"
                print(f"{name}: IQM {one.iqm}, mean {one.mean}, median {number(one.median.value)}; {ends}")
        if lost is not None and lost.size:
            print(f"regret: IQM {estimate(interquartile_mean, [lost])}, worst {number(lost.max())}")
    for job, why in study.failed:
        print(f"failed: {job.label}: {why}")
    for other in row.published:
        print(f"published: {other.who}, {other.steps} steps: {other.what} ({other.source})")


def write_results(row, study, folder):
    """A line per seed, and a line per evaluation, as they are committed."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("variant", "seed", "steps", *MEASURES, "final_std", "best_step", "evaluations", "episodes", "seconds")
    rows = []
    for variant in study.plan.variants:
        lost = regrets(study, variant)
        for place, (job, record) in enumerate(study.done(row.env, variant)):
            about = [" ".join(f"{name} {version}" for name, version in record["versions"].items()), record["cpu"]]
            values = [variant, job.seed, *(record[name] for name in names[2:])]
            rows.append([row.env, *values, "" if lost is None else lost[place], *about])
    path = write_csv(folder / f"{row.env}.csv", ("env", *names, "regret", "versions", "machine"), rows)
    points = [
        [variant, job.seed, int(step), mean]
        for variant in study.plan.variants
        for place, (job, _) in enumerate(study.done(row.env, variant))
        for step, mean in zip(*(part.tolist() for part in _curve(study, row.env, variant, place)), strict=True)
    ]
    write_csv(folder / f"{row.env}-curves.csv", ("variant", "seed", "step", "mean"), points)
    print(f"written: {path}")


def _curve(study, env, variant, place):
    steps, curves = study.curves(env, variant)
    return steps, curves[place]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, required=True)
    parser.add_argument("--studies", type=Path, default=Path("studies/reproduce"), help="where the runs go, or are")
    parser.add_argument("--workers", type=int, help="runs at a time; default: one per core")
    parser.add_argument("--steps", type=int, help="environment steps; default: the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the table's")
    parser.add_argument("--results", type=Path, help="folder for the scores as CSV; default: scripts/results")
    args = parser.parse_args()
    print(machine())
    minddpg.agent.warmup()
    for row in TABLES[args.table]:
        study = make(row, args)
        report(row, study)
        if args.results or not (args.steps or args.seeds):
            write_results(row, study, args.results or RESULTS)


if __name__ == "__main__":
    main()
