import os
import signal

import numba
import numpy as np
import pytest
from hypothesis import settings

from minddpg import Batch

settings.register_profile("default", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("default")

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored, and tests raise it

JIT = not numba.config.DISABLE_JIT


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    """Nothing is written but under tmp_path, and nothing depends on where pytest was started."""
    monkeypatch.chdir(tmp_path)


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
