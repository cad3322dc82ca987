import errno
import hashlib
import os
import shutil
import signal
from pathlib import Path

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

CHECKOUT = str(Path(minddpg.__file__).parent.parent)  # what is tested

JIT = not numba.config.DISABLE_JIT
# Every option has machine code of its own, and to compile the check of one takes half a minute: as plain NumPy by
# default, compiled among the slow tests.
compiles_long = pytest.mark.slow if JIT else pytest.mark.skipif(False, reason="")


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
    path = changes.get("PYTHONPATH", CHECKOUT).split(os.pathsep)
    assert any(Path(place, "minddpg").is_dir() for place in path), "the installed package would be tested"
    return {**kept, "PYTHONPATH": CHECKOUT, **changes}


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


def resealed(content):
    """An array file that was tampered with, under a seal that fits: only what is checked behind it protects."""
    return content[:-64] + hashlib.sha256(content[:-64]).hexdigest().encode()


class Died(BaseException):
    """The process is gone: nothing catches it, and nothing is done any more."""


class Faults:
    """Counts the calls that change files or bring them to the disk, and lets the `at`-th of them fail.

    how: "ENOSPC" (and whatever takes space from then on), "EIO" (that call alone), "died" (that call and all after it),
    "short" (no failure: every os.write writes a part).
    """

    CALLS = ("open", "write", "fsync", "replace", "truncate", "ftruncate", "unlink", "mkdir", "rename", "rmdir")
    TAKING_SPACE = ("open", "write", "mkdir")

    def __init__(self, monkeypatch, at=-1, how="EIO"):
        self.calls, self.at, self.how, self.happened = [], at, how, False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, real):
        def call(*args, **kwargs):
            number = len(self.calls)
            self.calls.append(name)
            again = self.how == "died" or (self.how == "ENOSPC" and name in self.TAKING_SPACE)
            reads = name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if self.how == "short" and name == "write":
                return real(args[0], args[1][: max(1, len(args[1]) // 2)])
            if self.at >= 0 and (number == self.at or (number > self.at and again)) and self.how != "short":
                if self.how == "died":
                    self.happened = True
                    if name == "write" and number == self.at:  # in the middle of it
                        real(args[0], args[1][: len(args[1]) // 2])
                    raise Died
                if not (self.how == "ENOSPC" and (reads or name not in self.TAKING_SPACE)):
                    self.happened = True
                    code = errno.ENOSPC if self.how == "ENOSPC" else errno.EIO
                    raise OSError(code, os.strerror(code))
            return None if name == "fsync" else real(*args, **kwargs)  # the disk is not what is tested, and slow

        return call


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    profile = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={profile / 'user'}",
        f"disk-cache-dir={profile / 'cache'}", "window-size=1280,1000",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    home = {**clean_environment(), "HOME": str(profile), "TMPDIR": str(profile), "XDG_CONFIG_HOME": str(profile)}
    service = webdriver.ChromeService(driver, env=home)
    started = webdriver.Chrome(options=options, service=service)
    try:
        yield started
    finally:
        started.quit()
