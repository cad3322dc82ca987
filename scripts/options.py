"""What does each option do? One at a time beside the plain preset: return, update time, and the gradient's way.

    python scripts/options.py [--envs Pendulum-v1 LunarLanderContinuous-v3] [--seeds 5] [--out options.json] [--steps N]

Per option and seed a run of the environment's preset with that option, evaluated without noise over the starts of
reproduce.py. IQM: mean of the middle half. us: the median time of one update, in turns with the plain one. output: the
gradient's norm below the actor's output over that of dact (tanh' lets that much through); way: the norm of dtheta over
that of dact. Both of the last agent, the median over seeds, on transitions it learnt from.

It takes hours. With --out, finished runs are kept, and a run that is there is not made again.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from reproduce import FIRST, STARTS, interquartile_mean, machine

import minddpg
from minddpg import Config
from minddpg.gradflow import trace

OPTIONS = {
    "plain": {},
    "TD3": {"algorithm": "td3"},
    "batch normalisation": {"normalisation": "batch"},
    "layer normalisation": {"normalisation": "layer"},
    "batch normalisation, action at layer 1": {"normalisation": "batch", "action_layer": 1},
    "hidden tanh": {"activation": "tanh"},
    "normalised observations": {"normalise_obs": True},
    "rewards x 0.1": {"reward_scale": 0.1},
    "3-step returns": {"n_step": 3},
    "gradients of norm 1 at most": {"max_grad_norm": 1.0},
    "inverted gradients": {"invert_gradients": True},
    "learning rates to a tenth": {"final_lr_share": 0.1},
}


def key(env, option, seed, steps):
    return f"{env}, {option}, {seed}, {steps}"


def run(env, option, seed, steps):
    """One run's record."""
    config = Config.for_environment(env).replace(**OPTIONS[option], evaluate_every=0, diagnose_every=0)
    config = config.replace(
        steps=steps or config.steps, learning_starts=min(config.learning_starts, (steps or 10**9) // 2)
    )
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        try:
            agent = minddpg.train(env, config, seed=seed, out=out, progress=False, checkpoint_every=0).agent
        except minddpg.TrainingError as error:
            return {"error": str(error)}
        batch = minddpg.load_batch(out, 256)
    traced = trace(agent, batch, routes=False)
    last = len(config.hidden_sizes)
    returns = minddpg.evaluate(agent, env, STARTS, FIRST)
    record = {"return": float(returns.mean()), "us": update_time(agent, batch)}
    return {**record, "output": traced[f"actor.{last}.dz"].factor, "way": traced["dtheta"].factor}


def update_time(agent, batch, rounds=7, updates=50):
    """Median microseconds of one update over those of a plain agent of the same sizes, in turns, times the latter."""
    plain = minddpg.DDPG(agent.obs_dim, agent.act_dim, Config(
        hidden_sizes=agent.config.hidden_sizes, action_layer=agent.config.action_layer, dtype=agent.config.dtype
    ))  # fmt: skip
    n = agent.config.batch_size
    agent, whole = agent.copy(), batch
    batch = type(whole)(*(array[:n] for array in whole))
    bare = minddpg.Batch(*batch[:5])
    seconds = {name: [] for name in ("own", "plain")}
    for _ in range(rounds):
        for name, one, given in (("own", agent, batch), ("plain", plain, bare)):
            started = time.perf_counter()
            for _ in range(updates):
                one.update(given)
            seconds[name].append((time.perf_counter() - started) / updates)
    ratios = np.array(seconds["own"]) / np.array(seconds["plain"])
    return float(1e6 * np.median(ratios) * np.median(seconds["plain"]))


def table(results, env, seeds, steps):
    """The rows of one environment in Markdown; options without any run are left out."""
    lines = [f"**{env}**", "", "| option | runs | return, IQM | from | to | us | output | way |", "|---" * 8 + "|"]
    for option in OPTIONS:
        made = [results[name] for seed in seeds if (name := key(env, option, seed, steps)) in results]
        done = [record for record in made if "error" not in record]
        diverged = f" ({len(made) - len(done)} diverged)" if len(done) < len(made) else ""
        if done:
            returns = [record["return"] for record in done]
            middle = [float(np.median([record[name] for record in done])) for name in ("us", "output", "way")]
            lines.append(
                f"| {option} | {len(made)}{diverged} | {interquartile_mean(returns):.1f} | {min(returns):.1f} | "
                f"{max(returns):.1f} | {middle[0]:.0f} | {middle[1]:.2g} | {middle[2]:.2g} |"
            )
        elif made:
            lines.append(f"| {option} | {len(made)}{diverged} | - | - | - | - | - | - |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=["Pendulum-v1", "LunarLanderContinuous-v3"])
    parser.add_argument("--options", nargs="+", choices=list(OPTIONS), default=list(OPTIONS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--steps", type=int, default=0, help="of every run; default: the preset's")
    parser.add_argument("--out", help="JSON file that keeps finished runs")
    args = parser.parse_args()
    path = Path(args.out) if args.out else None
    results = json.loads(path.read_text()) if path and path.exists() else {}
    print(machine())
    for env in args.envs:
        for seed in range(args.seeds):  # seed by seed, so that a table of all options is there early
            for option in args.options:
                name = key(env, option, seed, args.steps)
                if name not in results:
                    results[name] = run(env, option, seed, args.steps)
                    print(name, results[name], flush=True)
                    if path:
                        path.with_suffix(".tmp").write_text(json.dumps(results, indent=1))
                        path.with_suffix(".tmp").replace(path)
        print(f"\n{table(results, env, range(args.seeds), args.steps)}\n")


if __name__ == "__main__":
    main()
