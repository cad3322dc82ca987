import os
import shutil
import signal

import numba
import numpy as np
import pytest
from hypothesis import settings

import minddpg
from minddpg import DDPG, Batch, Config
from minddpg.runs.directory import RunDirectory, RunInfo

settings.register_profile("default", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("default")

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored, and tests raise it

JIT = not numba.config.DISABLE_JIT


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    """Nothing is written but under tmp_path, and nothing depends on where pytest was started."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    config = Config(steps=60, hidden_sizes=(6, 5), learning_starts=40, batch_size=8)
    minddpg.train("Pendulum-v1", config, out=out, seed=3)
    return out


@pytest.fixture
def run_directory(_trained, tmp_path):
    """A run of Pendulum-v1 that has just been trained, in the working directory: "run"."""
    shutil.copytree(_trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def make_batch(rng, n, obs_dim, act_dim, dtype="float64"):
    return Batch(
        rng.standard_normal((n, obs_dim)).astype(dtype),
        rng.uniform(-1, 1, (n, act_dim)).astype(dtype),
        rng.standard_normal(n).astype(dtype),
        rng.standard_normal((n, obs_dim)).astype(dtype),
        rng.random(n) < 0.3,
    )


def clean_environment(**changes):
    """The environment for a subprocess, without pytest-cov's hooks."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_CORE", "COVERAGE", "PYTEST"))}
    return {**kept, **changes}


def random_agent(seed, dtype="float64", updates=0, units=24):
    """An agent of any small architecture and a batch for it; fresh, or after some updates."""
    rng = np.random.default_rng(seed)
    hidden = tuple(int(units) for units in rng.integers(1, units, rng.integers(0, 4)))
    obs_dim, act_dim, n = (int(rng.integers(1, most)) for most in (8, 4, 20))
    config = Config(
        hidden_sizes=hidden,
        action_layer=int(rng.integers(0, max(1, len(hidden)))),
        final_init=3e-3 if seed % 3 == 0 else None,
        critic_weight_decay=0.01 * (seed % 2),
        dtype=dtype,
    )
    agent, batch = DDPG(obs_dim, act_dim, config, seed), make_batch(rng, n, obs_dim, act_dim, dtype)
    for _ in range(updates):
        agent.update(batch)
    return agent, batch


def new_run(path, env="Some-v0", seed=5, obs_dim=3, act_dim=2, config=None, agent=None, **info):
    """The directory of a run that has made no step."""
    config = config or Config(hidden_sizes=(4, 3))
    agent = agent or DDPG(obs_dim, act_dim, config, seed)
    tree = {"run": {"steps": 0, "agent": agent.views()}, "best": None}
    return RunDirectory.create(path, RunInfo(env, seed, obs_dim, act_dim, config, **info), tree)


def save_run(directory, agent, replay):
    """A checkpoint as `train` makes it, of these alone."""
    directory.save({"run": {"steps": replay.added, "agent": agent.views()}, "best": None}, agent, replay)


SMALL = {"hidden_sizes": (8, 7), "batch_size": 5, "buffer_size": 100, "dtype": "float64"}


def agent_of(obs_dim=3, act_dim=2, seed=0, **changes):
    return DDPG(obs_dim, act_dim, Config(**{**SMALL, **changes}), seed)
