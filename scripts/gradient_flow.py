"""What the README says about gradient flow: a trained agent's trace, classic mistakes, diagnoses, what a look costs.

    python scripts/gradient_flow.py                    trains Pendulum-v1 for 10,000 steps and prints trace and mistakes
    python scripts/gradient_flow.py --run DIR          the same for a run of yours
    python scripts/gradient_flow.py --steps 20000      the same after more steps
    python scripts/gradient_flow.py --picture FILE     also draws the way; the README's is minddpg/gradflow/way.svg
    python scripts/gradient_flow.py --diagnoses        also trains runs made sick on purpose, ten seeds each
    python scripts/gradient_flow.py --healthy          also trains with the presets as they are, ten seeds each: an hour
    python scripts/gradient_flow.py --learning         also trains with each mistake: 8 ways x 5 seeds, some minutes
    python scripts/gradient_flow.py --cost             also times a look while training against an update

With --out FILE, finished training runs of --learning, --diagnoses and --healthy are kept there, and one that is there
is not made again. --healthy takes names of environments, for some of them alone.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import gymnasium
import numpy as np
from reproduce import machine

import minddpg
from minddpg import DDPG, Config, ReplayBuffer, training
from minddpg.config import DIAGNOSE_EVERY as EVERY
from minddpg.ddpg import Losses, bellman_target, critic_gradient
from minddpg.fast.jit import call
from minddpg.gradflow import MISTAKES, flow_figure, mistaken_gradient, mistakes, save
from minddpg.gradflow.classic_mistakes import CRITIC_TOO, RIGHT, SUM
from minddpg.gradflow.monitor import Monitor
from minddpg.gradflow.tracing import trace_run
from minddpg.optim import adam, polyak
from minddpg.replay import gather
from minddpg.runs.directory import KEPT_TRANSITIONS
from minddpg.study import interquartile_mean

STEPS, SEEDS, STARTS = 10_000, 5, 50
SGD_LR = 0.01  # plain descent needs another rate: the best for the right gradient of 0.003, 0.01, 0.03, 0.1, 0.3
SHAPES = (((64, 64), 64, 3, 1), ((256, 256), 256, 3, 1), ((400, 300), 100, 3, 1))


class Mistaken(DDPG):
    """DDPG whose actor step has a mistake in it. The rest is as it should be; one part after the other."""

    mistake, sgd_lr = RIGHT, 0.0

    def _update(self, transitions, indices):
        dtype, learner, rates = self.config.dtype, self.learner, self.rates
        actor, critic = learner.actor, learner.critic
        batch = call(gather, dtype, transitions, indices)
        y = call(bellman_target, dtype, learner.target_actor, learner.target_critic, batch, rates.gamma)
        loss, dparams, q = call(critic_gradient, dtype, critic, batch.obs, batch.act, y, rates.critic_weight_decay)
        call(adam, dtype, critic.params, dparams, learner.critic_adam, rates.critic_lr)
        dtheta, dcritic = mistaken_gradient(self.mistake, actor, critic, batch)
        if self.mistake == CRITIC_TOO:
            call(adam, dtype, critic.params, dcritic, learner.critic_adam, rates.critic_lr)
        if self.sgd_lr:
            actor.params[:] -= np.float32(self.sgd_lr) * dtheta
            learner.actor_adam.t[0] += 1  # it counts the updates
        else:
            call(adam, dtype, actor.params, dtheta, learner.actor_adam, rates.actor_lr)
        call(polyak, dtype, learner.target_critic.params, critic.params, rates.tau)
        call(polyak, dtype, learner.target_actor.params, actor.params, rates.tau)
        return Losses(float(loss), 0.0, float(q.mean()), float(y.mean()), 0.0)


def whole(result):
    """The result, unless a signal cut the run short: then nothing of it is kept, and nothing else is started."""
    if result.interrupted:
        raise SystemExit("interrupted")
    return result


def learn(mistake, sgd_lr, seed):
    """Train on Pendulum-v1 with a mistake.    -> mean return without noise over fixed starts"""
    wrong = type("Wrong", (Mistaken,), {"mistake": mistake, "sgd_lr": sgd_lr})
    config = Config.for_environment("Pendulum-v1").replace(steps=STEPS)
    with mock.patch.object(training, "DDPG", wrong), np.errstate(all="ignore"):
        try:
            config = config.replace(diagnose_every=0, evaluate_every=0)
            agent = whole(minddpg.train("Pendulum-v1", config, seed=seed)).agent
        except minddpg.TrainingError:
            return None  # diverged
    return float(minddpg.evaluate(agent, "Pendulum-v1", STARTS, 10_000).mean())


def learning_section(out):
    """Train with each mistake."""
    rows = json.loads(out.read_text()) if out and out.exists() else {}
    ways = [(mistake, 0.0) for mistake in (RIGHT, *MISTAKES)] + [(RIGHT, SGD_LR), (SUM, SGD_LR)]
    print(f"\nPendulum-v1 after {STEPS:,} steps with the mistake in, return without noise over {STARTS} starts, "
          f"seeds 0-{SEEDS - 1}\n{'mistake':<28} {'optimiser':<16} {'IQM':>8}  each seed")  # fmt: skip
    for mistake, sgd_lr in ways:
        optimiser = f"descent, {sgd_lr:g}" if sgd_lr else "Adam"
        returns = []
        for seed in range(SEEDS):
            key = f"{mistake}, {optimiser}, {seed}"
            if key not in rows:
                rows[key] = learn(mistake, sgd_lr, seed)
                if out:
                    out.write_text(json.dumps(rows))
            returns.append(rows[key])
        finite = [r for r in returns if r is not None]
        iqm = f"{interquartile_mean([np.array(finite)]):8.1f}" if len(finite) == SEEDS else "       -"
        each = ", ".join("diverged" if r is None else f"{r:.0f}" for r in returns)
        print(f"{mistake:<28} {optimiser:<16} {iqm}  {each}", flush=True)


def cost_section():
    """What a look takes, by an update's time: both timed in turns, medians."""
    print(f"\na look every {EVERY} updates")
    for hidden, batch, obs_dim, act_dim in SHAPES:
        rng = np.random.default_rng(0)
        agent = DDPG(obs_dim, act_dim, Config(hidden_sizes=hidden, batch_size=batch))
        replay, monitor = ReplayBuffer(5000, obs_dim, act_dim), Monitor(rng)
        for _ in range(5000):
            obs, next_obs = rng.standard_normal((2, obs_dim))
            replay.add(obs, rng.uniform(-1, 1, act_dim), rng.standard_normal(), next_obs, False)
        updates, looks = [], []
        for _ in range(100):
            started = time.perf_counter()
            agent.update_from(replay, rng)
            middle = time.perf_counter()
            monitor.look(0, agent, replay)
            updates.append(middle - started)
            looks.append(time.perf_counter() - middle)
        update, look = statistics.median(updates), statistics.median(looks)
        print(f"{'-'.join(map(str, hidden))}, batch {batch}: an update {1e3 * update:.3f} ms, a look "
              f"{1e3 * look:.3f} ms: {look / update / EVERY:.1%} of the updates' time")  # fmt: skip


SMALL = Config(steps=3_000, hidden_sizes=(32, 32), batch_size=64, learning_starts=500, evaluate_every=0)
SICK = {"nothing": {}, "observations x 1e-6": {"obs": 1e-6}, "observations x 1e4": {"obs": 1e4},
        "rewards x 1e6": {"rew": 1e6}, "rewards x 1e-4": {"rew": 1e-4}, "rewards x 0": {"rew": 0.0}}  # fmt: skip

# Steps of each preset that are run; 10,000 of MuJoCo's are random.
HEALTHY = {"Pendulum-v1": 20_000, "MountainCarContinuous-v0": 50_000, "LunarLanderContinuous-v3": 60_000,
           "HalfCheetah-v5": 12_000, "Hopper-v5": 12_000, "Walker2d-v5": 12_000, "Ant-v5": 12_000}  # fmt: skip


class Sick(gymnasium.Wrapper):
    """Pendulum-v1 with its observations and rewards multiplied."""

    def __init__(self, obs=1.0, rew=1.0):
        super().__init__(gymnasium.make("Pendulum-v1"))
        box = self.env.observation_space
        self.observation_space = gymnasium.spaces.Box(obs * box.low, obs * box.high, dtype=np.float32)
        self.obs, self.rew = np.float32(obs), rew

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        return self.obs * obs, info

    def step(self, action):
        obs, rew, *rest = self.env.step(action)
        return self.obs * obs, float(self.rew * rew), *rest


def diagnoses_section(out):
    """Train with each sickness, and print what is said."""
    print(f"\nPendulum-v1, {SMALL.steps:,} steps, 32-32, seeds 0-9\n{'what was done':<22} said, and of how many seeds")
    for sickness, factors in SICK.items():
        print(f"{sickness:<22} {said_of_ten(sickness, lambda f=factors: Sick(**f), SMALL, out)}", flush=True)


def healthy_section(environments, out):
    """Train with the presets, and print what is said: nothing should be."""
    print(f"\npresets as they are, seeds 0-9\n{'environment':<26} {'steps':>9}  said, and of how many seeds")
    for env in environments or HEALTHY:
        steps = HEALTHY[env]
        config = Config.for_environment(env).replace(steps=steps, evaluate_every=0)
        print(f"{env:<26} {steps:>9,}  {said_of_ten(f'{env}, {steps}', env, config, out)}", flush=True)


def said_of_ten(name, env, config, out):
    """Train ten seeds.    -> the names of the diagnoses that lasted, and at how many seeds each did"""
    rows = json.loads(out.read_text()) if out and out.exists() else {}
    said = {}
    for seed in range(10):
        key = f"{name}, {seed}"
        if key not in rows:
            found = whole(minddpg.train(env, config, seed=seed, warn=lambda text: None)).diagnoses
            rows[key] = {finding.diagnosis.name: str(finding) for finding in found}
            if out:
                out.write_text(json.dumps(rows, indent=1))
        for diagnosis in rows[key] or ["nothing"]:
            said[diagnosis] = said.get(diagnosis, 0) + 1
    return ", ".join(f"{diagnosis} ({count})" for diagnosis, count in said.items())


def sections(directory, picture):
    """Trace and mistakes of a run."""
    agent = minddpg.load(directory)
    print(f"after {agent.updates:,} updates, on transitions it learnt from\n\n{trace_run(directory)}")
    print(f"\n{mistakes(agent, minddpg.load_batch(directory, KEPT_TRANSITIONS), agent.config.batch_size)}")
    if picture:
        save(flow_figure(directory), picture)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run directory; default: train one")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"of the run trained; default: {STEPS}")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the gradient's way")
    parser.add_argument("--diagnoses", action="store_true", help="train runs made sick on purpose")
    parser.add_argument("--healthy", nargs="*", choices=HEALTHY, metavar="ENV", help="train with the presets")
    parser.add_argument("--learning", action="store_true", help="train with each mistake")
    parser.add_argument("--cost", action="store_true", help="time a look against an update")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep finished training runs there")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.run
        if directory is None:
            directory = Path(temporary) / "run"
            minddpg.train("Pendulum-v1", steps=args.steps, out=directory)
        sections(directory, args.picture)
    if args.cost:
        cost_section()
    if args.diagnoses:
        diagnoses_section(args.out)
    if args.healthy is not None:
        healthy_section(args.healthy, args.out)
    if args.learning:
        learning_section(args.out)


if __name__ == "__main__":
    main()
