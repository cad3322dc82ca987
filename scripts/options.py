"""What does each option do? One at a time beside the plain preset: return, update time, and the gradient's way.

    python scripts/options.py [--envs Pendulum-v1 LunarLanderContinuous-v3] [--seeds N] [--steps N ...] [--table]

Per option and seed a run of the environment's preset with that option, on seeds that no preset was chosen on. return:
of the last agent, the mean over 20 episodes without noise. IQM: mean of the middle half of the seeds. update: the time
of one update over that of a plain agent of the same sizes. output: what is below the actor's output over
dact, RMS (what tanh' lets through); way: the actor's first weight gradient over dq, RMS. shrinks most: where in most
runs. These of the last agent, on transitions it learnt from; the median over seeds.

Every finished run is a line of scripts/results/options.csv, and a run that is there is not made again. --table: print
only.
"""

import argparse
import csv
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from reproduce import RESULTS, machine

import minddpg
from minddpg import Config
from minddpg.gradflow import trace
from minddpg.study import interquartile_mean

OPTIONS = {
    "plain": {},
    "TD3": {"algorithm": "td3"},
    "batch normalisation": {"normalisation": "batch"},
    "batch normalisation, action at layer 1": {"normalisation": "batch", "action_layer": 1},
    "layer normalisation": {"normalisation": "layer"},
    "hidden tanh": {"activation": "tanh"},
    "normalised observations": {"normalise_obs": True},
    "rewards x 0.1": {"reward_scale": 0.1},
    "3-step returns": {"n_step": 3},
    "gradients of norm 1 at most": {"max_grad_norm": 1.0},
    "inverted gradients": {"invert_gradients": True},
    "learning rates to a tenth": {"final_lr_share": 0.1},
}
STEPS = {"Pendulum-v1": 20_000, "LunarLanderContinuous-v3": 30_000}
FIRST_SEED, EPISODES, FIRST_EPISODE = 100, 20, 10_000
COLUMNS = ("env", "option", "seed", "steps", "return", "seconds", "update", "output", "way", "worst", "error")


def run(env, option, seed, steps):
    """One run's line."""
    config = Config.for_environment(env).replace(**OPTIONS[option], steps=steps, evaluate_every=0, diagnose_every=0)
    line = {"env": env, "option": option, "seed": seed, "steps": steps}
    with tempfile.TemporaryDirectory() as directory:
        out, started = Path(directory) / "run", time.perf_counter()
        try:
            agent = minddpg.train(env, config, seed=seed, out=out, progress=False, checkpoint_every=0, threads=1).agent
        except minddpg.TrainingError as error:
            return {**line, "error": str(error).split(";")[0]}
        seconds, batch = time.perf_counter() - started, minddpg.load_batch(out, 256)
    traced = trace(agent, batch, routes=False)
    returns = minddpg.evaluate(agent, env, EPISODES, FIRST_EPISODE)
    numbers = {
        "return": returns.mean(),
        "seconds": seconds,
        "update": update_time(agent, batch),
        "output": traced[f"actor.{len(config.hidden_sizes)}.dz"].factor,
        "way": traced.story.total,
    }
    return {**line, **{name: f"{number:.6g}" for name, number in numbers.items()}, "worst": traced.story.where}


def update_time(agent, batch, rounds=100, updates=4):
    """The time of one update over that of a plain agent of the same sizes: of the quickest of many short turns."""
    sizes = {name: getattr(agent.config, name) for name in ("hidden_sizes", "action_layer", "dtype")}
    plain, n = minddpg.DDPG(agent.obs_dim, agent.act_dim, Config(**sizes)), agent.config.batch_size
    own = type(batch)._make(array[:n] for array in batch)
    both, turns = ((agent.copy(), own), (plain, minddpg.Batch(*own[:5]))), ([], [])
    for _ in range(rounds):
        for (one, given), seconds in zip(both, turns, strict=True):
            started = time.perf_counter()
            for _ in range(updates):
                one.update(given)
            seconds.append(time.perf_counter() - started)
    return min(turns[0]) / min(turns[1])


def table(lines, env, steps):
    """The rows of one environment in Markdown; options without any run are left out."""
    rows = [f"**{env}, {steps:,} steps**", ""]
    rows += [
        "| option | runs | return, IQM | worst to best | update | output | way | shrinks most at |",
        "|---" * 8 + "|",
    ]
    for option in OPTIONS:
        made = [line for line in lines if (line["env"], line["option"], int(line["steps"])) == (env, option, steps)]
        done = [line for line in made if not line["error"]]
        runs = f"{len(made)} ({len(made) - len(done)} diverged)" if len(done) < len(made) else str(len(made))
        if not done:
            rows += [f"| {option} | {runs} | - | - | - | - | - | - |"] if made else []
            continue
        returns = np.array([float(line["return"]) for line in done])
        update, output, way = (np.median([float(line[name]) for line in done]) for name in ("update", "output", "way"))
        place, times = Counter(line["worst"] for line in done).most_common(1)[0]
        rows.append(
            f"| {option} | {runs} | {interquartile_mean([returns]):.1f} | {returns.min():.1f} to {returns.max():.1f} | "
            f"x {update:.2f} | {output:.2g} | {way:.2g} | {place} ({times} of {len(done)}) |"
        )
    return "\n".join(rows)


def read(path):
    """The lines of a CSV file; none where it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=list(STEPS))
    parser.add_argument("--options", nargs="+", choices=list(OPTIONS), default=list(OPTIONS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, help=f"seeds {FIRST_SEED} and following")
    parser.add_argument("--steps", type=int, nargs="+", help="of every run, one number per environment")
    parser.add_argument("--results", type=Path, default=RESULTS / "options.csv", help="where finished runs are kept")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    steps = dict(zip(args.envs, args.steps, strict=True)) if args.steps else {env: STEPS[env] for env in args.envs}
    lines = read(args.results)
    print(machine())
    for env in args.envs:
        for seed in range(FIRST_SEED, FIRST_SEED + (0 if args.table else args.seeds)):  # so that all options are early
            for option in args.options:
                name = (env, option, str(seed), str(steps[env]))
                if name in {(line["env"], line["option"], line["seed"], line["steps"]) for line in lines}:
                    continue
                made = run(env, option, seed, steps[env])
                lines.append({column: str(made.get(column, "")) for column in COLUMNS})
                print(lines[-1], flush=True)
                write(args.results, lines)
        print(f"\n{table(lines, env, steps[env])}\n")


def write(path, lines):
    """All lines, or the file as it was."""
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    scratch.replace(path)


if __name__ == "__main__":
    main()
