"""What the README says about gradient flow: a trained agent's trace, the classic mistakes, what a look costs.

    python scripts/gradient_flow.py                    trains Pendulum-v1 for 10,000 steps and prints trace and mistakes
    python scripts/gradient_flow.py --run DIR          the same for a run of yours
    python scripts/gradient_flow.py --learning         also trains with each mistake: 8 ways x 5 seeds, some minutes
    python scripts/gradient_flow.py --cost             also times a look while training against an update

With --out FILE, finished training runs are kept there, and a run that is there is not made again.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from reproduce import machine

import minddpg
from minddpg import DDPG, Batch, Config, ReplayBuffer, training
from minddpg.ddpg import Losses, bellman_target, critic_gradient
from minddpg.fast.jit import call
from minddpg.gradflow import MISTAKES, mistaken_gradient, mistakes, trace
from minddpg.gradflow.classic_mistakes import CRITIC_TOO, RIGHT, SUM
from minddpg.gradflow.monitor import EVERY, Monitor
from minddpg.optim import adam, polyak
from minddpg.replay import gather
from minddpg.runs.directory import load_transitions
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


def learn(mistake, sgd_lr, seed):
    """Train on Pendulum-v1 with a mistake.    -> mean return without noise over fixed starts"""
    wrong = type("Wrong", (Mistaken,), {"mistake": mistake, "sgd_lr": sgd_lr})
    config = Config.for_environment("Pendulum-v1").replace(steps=STEPS)
    with mock.patch.object(training, "DDPG", wrong), np.errstate(all="ignore"):
        try:
            agent = minddpg.train("Pendulum-v1", config.replace(diagnose_every=0, evaluate_every=0), seed=seed).agent
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


def sections(directory):
    """Trace and mistakes of a run."""
    agent, kept = minddpg.load(directory), load_transitions(directory)
    rows = np.random.default_rng(0).permutation(len(kept.rew))[: agent.config.batch_size]
    batch = Batch(*(array[rows] for array in kept))
    print(f"after {agent.updates:,} updates, on {len(rows)} transitions it learnt from\n\n{trace(agent, batch)}")
    print(f"\n{mistakes(agent, batch)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run directory; default: train one")
    parser.add_argument("--learning", action="store_true", help="train with each mistake")
    parser.add_argument("--cost", action="store_true", help="time a look against an update")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep finished training runs of --learning there")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.run
        if directory is None:
            directory = Path(temporary) / "run"
            minddpg.train("Pendulum-v1", steps=STEPS, out=directory)
        sections(directory)
    if args.cost:
        cost_section()
    if args.learning:
        learning_section(args.out)


if __name__ == "__main__":
    main()
