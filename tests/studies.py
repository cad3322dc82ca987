"""What the tests of studies share: a study without training, an environment that ends its process, files compared."""

import json
from pathlib import Path

import numpy as np

from minddpg import Config
from minddpg.study import Plan, Study, grid

FATAL = '''
import os, signal, time
from pathlib import Path

import gymnasium
from gymnasium.envs.classic_control import PendulumEnv


class Fatal(PendulumEnv):
    """At its step `at`: ends its process, unless the file `once` is there, which it makes first; or fails.

    how="slow": takes its time, as long as that file is there.
    """

    def __init__(self, at=0, once=None, how="kill"):
        super().__init__()
        self.at, self.once, self.how, self.made = at, once, how, 0

    def step(self, action):
        self.made += 1
        if self.how == "slow" and os.path.exists(self.once):
            time.sleep(0.01)
        if self.made == self.at and not (self.once and os.path.exists(self.once)):
            if self.once:
                Path(self.once).touch()
            if self.how == "fail":
                raise ZeroDivisionError("of its own")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


gymnasium.register("Fatal-v0", Fatal, max_episode_steps=50)
'''

QUICK = {
    "steps": 240, "hidden_sizes": (6, 5), "batch_size": 8, "learning_starts": 200, "evaluate_every": 120,
    "evaluation_episodes": 1, "diagnose_every": 20,
}  # fmt: skip


def fake_study(path, envs=("Pendulum-v1",), seeds=4, vary=None, missing=(), failed=(), rises=100.0):
    """A study as if it had been made: the k-th variant's runs end at about 1,000 + k * rises, and learn on the way.

    missing, failed: the places of jobs, in the plan's order, that are not done.
    """
    configs = {env: Config(steps=20_000, evaluate_every=1_000) for env in envs}
    plan = Plan(configs, tuple(range(seeds)), grid(vary or {}))
    path = Path(path)
    path.mkdir(parents=True)
    plan.write(path)
    steps = np.arange(1_000, 20_001, 1_000)
    for place, job in enumerate(plan.jobs(path)):
        job.run.parent.mkdir(parents=True, exist_ok=True)
        if place in failed:
            job.record.write_text(json.dumps({"state": "failed", "error": "it was not to be"}))
        if place in (*missing, *failed):
            continue
        level = 1_000 + rises * list(plan.variants).index(job.variant) + 10 * job.seed
        means = level * (1 - np.exp(-steps / 4_000))
        job.run.mkdir()
        rows = [
            f"{step},3,{value!r},1.5,{value!r},{value!r}" for step, value in zip(steps, means.tolist(), strict=True)
        ]
        (job.run / "eval.csv").write_text("\n".join(["step,episodes,mean,std,low,high", *rows, ""]))
        record = {
            "state": "done", "planned": job.steps, "steps": job.steps, "episodes": job.episodes, "seconds": 12.5,
            "last10": float(means[-10:].mean()), "best": float(means[-1]), "best_step": 20_000, "final": level - 5.0,
            "final_std": 2.0, "best_agent": level - 4.0, "evaluations": 20, "warnings": [], "cpu": "an abacus",
            "versions": {"minddpg": "0.1.0", "numpy": "2.4.6"},
        }  # fmt: skip
        job.record.write_text(json.dumps(record))
    return Study(path)
