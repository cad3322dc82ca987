"""The promise: killed at any instant and resumed, a run leaves, byte for byte, the files of one that never stopped."""

import os
import random
import signal
import time
import warnings

import gymnasium
import numpy as np
import pytest

import minddpg
from minddpg import Config, RunError, training
from minddpg.environment import make_environments
from minddpg.training import Run

CONFIG = Config(
    steps=500, hidden_sizes=(8, 8), batch_size=16, learning_starts=80, noise="ou", buffer_size=350,
    evaluate_every=150, evaluation_episodes=1, diagnose_every=100,
)  # fmt: skip


def files(directory):
    """Every file's bytes by name, tables without their wall-clock column."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "progress.csv":
                rows = [line.rpartition(",") for line in content.decode().splitlines()]
                assert rows[0][2] == "seconds"
                content = "\n".join(row[0] for row in rows).encode()
            found[str(path.relative_to(directory))] = content
    return found


def assert_equal_files(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


@pytest.fixture
def often(monkeypatch):
    """Checkpoints every few milliseconds."""
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0.5)
    monkeypatch.setattr(training, "FIRST_CHECKPOINT", 0.001)


def in_child(work, killed_after):
    """Whether work() ended in a process of its own that the system ends after so many seconds, wherever it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # cannot be noticed, as SIGKILL cannot
            signal.setitimer(signal.ITIMER_REAL, killed_after)
            work()
            signal.setitimer(signal.ITIMER_REAL, 0)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def kill_and_resume(tmp_path, env, config, kills, seed=0):
    """-> the files of a whole run, and how many of the killed ones had other files in the end"""
    options = {"checkpoint_every": 0.01, "progress": False}
    started = time.perf_counter()
    minddpg.train(env, config, seed=3, out=tmp_path / "whole", **options)
    seconds = time.perf_counter() - started
    whole, instants, killed, number = files(tmp_path / "whole"), random.Random(seed), 0, 0
    while killed < kills:
        number += 1
        path = tmp_path / f"killed{number}"

        def work(path=path):
            if path.exists():
                minddpg.resume(path, env=env if callable(env) else None, **options)
            else:
                minddpg.train(env, config, seed=3, out=path, **options)

        while not in_child(work, 0.01 + instants.random() * 0.7 * seconds):
            killed += 1
        assert_equal_files(files(path), whole)
        assert [p for p in tmp_path.iterdir() if p.name.startswith(".") and path.name in p.name] == [] or killed
    return killed


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


@needs_fork
def test_killed_at_random_instants(tmp_path, often):
    assert kill_and_resume(tmp_path, "Pendulum-v1", CONFIG, 8) >= 8


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("env", ["Pendulum-v1", "HalfCheetah-v5"])
def test_killed_at_200_random_instants(tmp_path, often, env):
    if "Cheetah" in env:
        pytest.importorskip("mujoco")
    assert kill_and_resume(tmp_path, env, CONFIG.replace(steps=3_000), 200) >= 200


def in_pieces(tmp_path, config, pieces, env="Pendulum-v1"):
    minddpg.train(env, config, seed=5, out=tmp_path / "whole")
    size = config.steps // pieces
    minddpg.train(env, config.replace(steps=size), seed=5, out=tmp_path / "cut")
    for piece in range(2, pieces + 1):
        result = minddpg.resume(tmp_path / "cut", steps=piece * size)
        assert result.steps == piece * size
    assert_equal_files(files(tmp_path / "cut"), files(tmp_path / "whole"))


@pytest.mark.parametrize(
    "changes", [{}, {"noise": "gaussian", "update_every": 3, "updates_per_step": 2}, {"num_envs": 3}]
)
def test_a_run_in_pieces_is_the_whole_run(tmp_path, changes):
    """A step of three environments makes three steps, so pieces end where three divides."""
    in_pieces(tmp_path, CONFIG.replace(**{"steps": 450, **changes}), 5)


@pytest.mark.slow
def test_20_pieces_of_20000_steps(tmp_path):
    in_pieces(tmp_path, Config.preset("Pendulum-v1").replace(learning_starts=900), 20)


def test_whoever_watches_changes_nothing(tmp_path, often):
    """Tables, evaluations, checkpoints, display and profile: with one of them changed, everything else is the same."""
    from minddpg.profile import Profile

    plain = minddpg.train("Pendulum-v1", CONFIG, seed=1, out=tmp_path / "plain")
    whole = files(tmp_path / "plain")
    for name, options in {
        "checkpoints": {"checkpoint_every": 0.01},
        "only at the end": {"checkpoint_every": 0},
        "display": {"progress": lambda step, history: None},
        "profile": {"profile": Profile()},
    }.items():
        minddpg.train("Pendulum-v1", CONFIG, seed=1, out=tmp_path / name, **options)
        assert_equal_files(files(tmp_path / name), whole)
    unwatched = minddpg.train(
        "Pendulum-v1", CONFIG.replace(evaluate_every=0, diagnose_every=0), seed=1, out=tmp_path / "un"
    )
    without = files(tmp_path / "un")
    assert set(whole) - set(without) == {"eval.csv", "evaluations.csv", "gradients.csv", "best.npz"}
    differing = {name for name in without if without[name] != whole[name]}
    assert differing == {"config.json", "checkpoint.npz"}  # which say what was asked for
    nowhere = minddpg.train("Pendulum-v1", CONFIG, seed=1)
    for result in (unwatched, nowhere):
        for name, value in plain.agent.state_dict().items():
            np.testing.assert_array_equal(result.agent.state_dict()[name], value)


def test_a_state_goes_on_in_memory():
    import copy

    first = Run(make_environments("Pendulum-v1"), CONFIG, seed=2)
    for _ in range(350):
        first.step()
    state, ring = copy.deepcopy(first.state()), copy.deepcopy(first.replay.transitions)

    def fill(replay, added):
        for array, rows in zip(replay.transitions, ring, strict=True):
            array[...] = rows
        replay.added = added

    second, lost = Run.resume(state, make_environments("Pendulum-v1"), fill, CONFIG)
    assert lost == []
    for _ in range(350):
        assert repr(first.step()) == repr(second.step())
    np.testing.assert_array_equal(first.agent.actor.params, second.agent.actor.params)
    for one, other in zip(first.replay.transitions, second.replay.transitions, strict=True):
        np.testing.assert_array_equal(one, other)
    assert repr(first.state()) == repr(second.state())


class Forgetful(gymnasium.Env):
    """Does not keep to its seed."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    made = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Forgetful.made += 1
        return np.full(2, Forgetful.made / 1000, np.float32), {}

    def step(self, action):
        return np.full(2, Forgetful.made / 1000, np.float32), 1.0, False, False, {}


def test_an_environment_that_does_not_repeat_itself_is_said(tmp_path):
    said = []
    minddpg.train(Forgetful, CONFIG.replace(steps=200, evaluate_every=0), out=tmp_path / "run")
    with pytest.raises(RunError, match="give it as env"):
        minddpg.resume(tmp_path / "run", 300)
    result = minddpg.resume(tmp_path / "run", 300, Forgetful, warn=said.append)
    assert result.steps == 300
    assert len(said) == 1
    assert "starts anew" in said[0]
    assert "does not repeat itself" in said[0]


def test_what_cannot_be_resumed_is_said(tmp_path):
    minddpg.train("Pendulum-v1", CONFIG.replace(steps=200), out=tmp_path / "run", keep_replay=False)
    assert not (tmp_path / "run" / "replay").exists()
    with pytest.raises(RunError, match="kept no replay memory"):
        minddpg.resume(tmp_path / "run", 300)
    minddpg.train("Pendulum-v1", CONFIG.replace(steps=200), out=tmp_path / "other")
    with pytest.raises(minddpg.ConfigError, match="fewer than the 200"):
        minddpg.resume(tmp_path / "other", 150)
    with pytest.raises(minddpg.EnvError, match="but the run was made with 3 and 1"):
        minddpg.resume(tmp_path / "other", 300, "MountainCarContinuous-v0")
    assert minddpg.resume(tmp_path / "other").steps == 300  # it is there already
    with pytest.raises(RunError, match="no config.json"):
        minddpg.resume(tmp_path)


def test_parameters_from_an_earlier_run(tmp_path):
    earlier = minddpg.train("Pendulum-v1", CONFIG, out=tmp_path / "run").agent
    config = CONFIG.replace(learning_starts=199, steps=200)
    agent = minddpg.train("Pendulum-v1", config, seed=9, parameters_from=tmp_path / "run").agent
    assert agent.updates == 1  # the optimisers are new
    np.testing.assert_allclose(agent.actor.params, earlier.actor.params, atol=2 * config.actor_lr)
    with pytest.raises(RunError, match="has another shape"):
        minddpg.train("Pendulum-v1", config.replace(hidden_sizes=(5,)), parameters_from=tmp_path / "run")
    for name, value in (
        ("activation", "tanh"),
        ("algorithm", "td3"),
        ("normalise_obs", True),
        ("invert_gradients", True),
    ):
        with pytest.raises(RunError, match=rf"action_layer 0, {name} (relu|ddpg|False)\); use the same"):
            minddpg.train("Pendulum-v1", config.replace(**{name: value}), parameters_from=tmp_path / "run")
