import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Died, Faults, clean_environment, new_run, resealed, save_run

import minddpg
from minddpg import DDPG, Config, ReplayBuffer, RunError, load
from minddpg.runs import checkpoint
from minddpg.runs import directory as run_directories
from minddpg.runs.directory import (
    KEPT_TRANSITIONS,
    MAX_JSON,
    RunDirectory,
    RunExists,
    load_info,
    load_transitions,
    numbered,
    reading_state,
    steps_made,
)
from minddpg.runs.files import array_file
from minddpg.runs.tables import load_table

CONFIG = Config(hidden_sizes=(4, 3))


def add(replay, count):
    for i in range(replay.added, replay.added + count):
        replay.add([i, 0, 0], [0.5, -0.5], -i, [i + 1, 0, 0], i % 7 == 0)
    return replay


def replay_of(count, capacity=3000):
    return add(ReplayBuffer(capacity, 3, 2), count)


def written(path, agent=None):
    agent = agent or DDPG(3, 2, CONFIG, seed=5)
    directory = new_run(path)
    directory.append("progress", {"step": 10, "return": -1.5, "critic_loss": float("nan")})
    directory.append("progress", {"step": 20, "return": -0.1, "critic_loss": 0.25})
    save_run(directory, agent, replay_of(50))
    directory.close()
    return agent


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


FILES = {"config.json", "progress.csv", "agent.npz", "transitions.npz", "checkpoint.npz", "lock",
         "replay/0000000000-0000000050.npz"}  # fmt: skip


def test_round_trip(tmp_path):
    agent = written(tmp_path / "a" / "run")
    loaded = load(tmp_path / "a" / "run")
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], value)
        assert loaded.state_dict()[name].dtype == value.dtype
    info = load_info(tmp_path / "a" / "run")
    assert info[:5] == ("Some-v0", 5, 3, 2, CONFIG)
    assert steps_made(tmp_path / "a" / "run") == 50
    text = (tmp_path / "a" / "run" / "progress.csv").read_text()
    assert text == "step,return,critic_loss\n10,-1.5,\n20,-0.1,0.25\n"
    record = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert {"minddpg", "python", "numpy", "numba", "gymnasium"} <= set(record["versions"])
    assert contents(tmp_path / "a" / "run").keys() == FILES
    directory, tree = RunDirectory.open(tmp_path / "a" / "run")
    replay = ReplayBuffer(3000, 3, 2)
    directory.read_replay(replay, tree["run"]["steps"])
    np.testing.assert_array_equal(replay.transitions.obs, replay_of(50).transitions.obs)
    directory.close()


def test_nothing_is_overwritten(tmp_path):
    written(tmp_path / "run")
    kept = contents(tmp_path / "run")
    with pytest.raises(RunExists, match="exists; choose another"):
        new_run(tmp_path / "run")
    assert kept == contents(tmp_path / "run")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for taken in ("file", "empty", "link"):
        with pytest.raises(RunExists, match="exists; choose another"):
            new_run(tmp_path / taken)
    for place in (tmp_path / "file" / "run", tmp_path / "on" / ("x" * 300), tmp_path / ("y" * 300) / "run", "a\0b"):
        with pytest.raises(RunError, match="cannot make .*; choose another directory") as caught:
            new_run(place)
        assert len(str(caught.value).splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run", "file", "empty", "link"}


# --- files that were tampered with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 30, 100, 0.3, 0.7, 0.99])
def test_a_cut_agent_is_named(tmp_path, cut):
    written(tmp_path / "run")
    path = tmp_path / "run" / "agent.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if cut < 1 else cut])
    with pytest.raises(RunError, match=r"agent.npz is damaged \(.*; restore it or train again"):
        load(tmp_path / "run")


def test_flipped_bytes_never_give_other_weights(tmp_path):
    written(tmp_path / "run")
    path = tmp_path / "run" / "agent.npz"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(len(whole), size=120):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        with pytest.raises(RunError, match="its checksum is wrong"):
            load(tmp_path / "run")


def test_foreign_arrays_are_refused(tmp_path):
    agent = written(tmp_path / "run")
    path, state = tmp_path / "run" / "agent.npz", agent.state_dict()
    bad = {
        "actor.0.bias is missing or unknown": {k: v for k, v in state.items() if k != "actor.0.bias"},
        "extra is missing or unknown": {**state, "extra": np.zeros(1)},
        "actor.0.bias is float64": {**state, "actor.0.bias": np.zeros(4)},
        "actor.0.bias is float32 .5,., but must be": {**state, "actor.0.bias": np.zeros(5, "f4")},
        "finite": {**state, "actor.0.bias": np.full(4, np.nan, "f4")},
        "larger": {**state, "actor.0.bias": np.zeros(10**6)},
        "actor_adam.v must not be negative": {**state, "actor_adam.v": -1 - state["actor_adam.v"]},
    }
    for message, arrays in bad.items():
        path.write_bytes(array_file("agent", arrays))
        with pytest.raises(RunError, match=rf"agent.npz is damaged \({message}|agent.npz is damaged .*{message}"):
            load(tmp_path / "run")
    path.write_bytes(array_file("transitions", state))
    with pytest.raises(RunError, match="no agent file of minddpg"):
        load(tmp_path / "run")
    np.savez(path, **state)
    with pytest.raises(RunError, match="its checksum is wrong"):
        load(tmp_path / "run")
    path.write_bytes(array_file("agent", state, {"version": 2}))
    with pytest.raises(RunError, match="it is of a later version of minddpg; update minddpg"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"env": "x"}',
        "\xff",
        "[" * 100_000,
        " " * (MAX_JSON + 1),
        "NaN",
        '{"version": "x"}',
        '"\\ud800"',
    ],
)
def test_a_damaged_config_is_named(tmp_path, text):
    written(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"config.json is damaged") as caught:
        load(tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


def test_impossible_values_in_config_are_named(tmp_path):
    written(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    changes = [
        {"obs_dim": 0}, {"obs_dim": 1.9}, {"obs_dim": 10**30}, {"obs_dim": 10**15}, {"seed": None}, {"env": None},
        {"seed": float("inf")}, {"config": {"gamma": 7}}, {"config": {"magic": 1}}, {"config": {"noise_std": 10**400}},
        {"config": {"hidden_sizes": [2**62]}}, {"config": {"hidden_sizes": [10**6] * 3}}, {"config": 5},
        {"config": {"hidden_sizes": [10**6, 10**6]}}, {"env_kwargs": []}, {"vectorization": "x"}, {"vectorization": []},
        {"action_low": 1}, {"action_low": [1]}, {"action_high": [1, 10**400]}, {"action_high": ["a", "b"]},
        {"seed": True}, {"config": [1]},
        {"from_callable": 1}, {"parameters_from": 3}, {"config": {"steps": "many"}}, {"act_dim": 2**62},
        {"version": 2}, {"version": None}, {"action_low": [float("nan"), 0]}, {"config": {"a\nb": 1}},
    ]  # fmt: skip
    for change in changes:
        path.write_text(json.dumps({**record, **change}))
        with pytest.raises(RunError, match="damaged") as caught:
            load(tmp_path / "run")
        assert len(str(caught.value).splitlines()) == 1
    path.write_text(json.dumps({**record, "version": 2}))
    with pytest.raises(RunError, match="it is of a later version of minddpg; update minddpg"):
        load_info(tmp_path / "run")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    written(tmp_path / "run")
    for best, name, why in (
        (False, "agent.npz", "no checkpoint yet"),
        (True, "best.npz", "has not been evaluated yet"),
    ):
        (tmp_path / "run" / name).unlink(missing_ok=True)
        with pytest.raises(RunError, match=f"holds no {name}: .*{why}"):
            load(tmp_path / "run", best)
    (tmp_path / "run" / "checkpoint.npz").unlink()
    with pytest.raises(RunError, match="holds no checkpoint.npz: it has not come to its first checkpoint"):
        RunDirectory.open(tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_is_no_file_is_refused_at_once(tmp_path):
    written(tmp_path / "run")
    readers = {
        "config.json": load, "agent.npz": load, "transitions.npz": load_transitions,
        "checkpoint.npz": RunDirectory.open, "lock": RunDirectory.open, "progress.csv": RunDirectory.open,
    }  # fmt: skip
    for name, read in readers.items():
        path = tmp_path / "run" / name
        kept = path.read_bytes()
        for what in ("directory", "pipe", "device", "loop"):
            path.unlink()
            if what == "directory":
                path.mkdir()
            elif what == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to("/dev/zero" if what == "device" else path.name)
            if name != "lock" or what in ("directory", "loop"):
                with pytest.raises(RunError, match="cannot") as caught:
                    read(tmp_path / "run")
                assert len(str(caught.value).splitlines()) == 1
            if what == "directory":
                path.rmdir()
                path.touch()
        path.unlink()
        path.write_bytes(kept)
    RunDirectory.open(tmp_path / "run")[0].close()


def test_transitions_are_spread_over_the_replay(tmp_path):
    written(tmp_path / "run")
    batch = load_transitions(tmp_path / "run")
    np.testing.assert_array_equal(batch.obs[:, 0], np.arange(50))
    np.testing.assert_array_equal(batch.rew, -np.arange(50))
    np.testing.assert_array_equal(batch.next_obs[:, 0], np.arange(1, 51))
    np.testing.assert_array_equal(batch.terminated, np.arange(50) % 7 == 0)
    spread = replay_of(5000).spread(KEPT_TRANSITIONS)  # the oldest 2,000 are overwritten
    assert len(spread.rew) == KEPT_TRANSITIONS
    assert (spread.obs[0, 0], spread.obs[-1, 0]) == (2000, 4999)
    assert np.all(np.diff(spread.obs[:, 0]) > 0)


def test_transitions_that_misfit_are_refused(tmp_path):
    written(tmp_path / "run")
    path = tmp_path / "run" / "transitions.npz"
    good = load_transitions(tmp_path / "run")._asdict()
    for changed, rows, message in (
        ({"obs": good["obs"][:, :2]}, 50, "obs has|obs is"),
        ({"act": good["act"].astype("f8")}, 50, "act has|act is float64"),
        ({"rew": good["rew"][:3]}, 50, "rew has|rew is"),
        ({"rew": np.full_like(good["rew"], np.nan)}, 50, "rew must hold finite numbers"),
        ({"terminated": np.full(50, 2, np.uint8).view(bool)}, 50, "terminated must hold 0 and 1"),
        ({"truncated": good["terminated"]}, 50, "truncated is missing or unknown"),
        ({}, 49, "obs is"),
        ({}, -1, "it says that it holds -1 transitions"),
        ({}, True, "it says that it holds True transitions"),
        ({}, 10**30, "it says that it holds 10"),
        ({"act": good["act"][:, :1].astype("f8")}, 50, "act is float64 .50, 1., but must be float32 .50, 2."),
    ):
        path.write_bytes(array_file("transitions", {**good, **changed}, {"rows": rows}))
        with pytest.raises(RunError, match=rf"transitions.npz is damaged \(({message})"):
            load_transitions(tmp_path / "run")
    path.write_bytes(array_file("transitions", {name: array[:0] for name, array in good.items()}, {"rows": 0}))
    with pytest.raises(RunError, match="no transition"):
        load_transitions(tmp_path / "run")
    path.unlink()
    with pytest.raises(RunError, match=r"holds no transitions.npz"):
        load_transitions(tmp_path / "run")


def test_what_goes_wrong_with_a_state_is_one_line(tmp_path):
    for error in (KeyError("x"), AttributeError("x"), ZeroDivisionError("x"), RecursionError("x\ny"), OverflowError()):
        with (
            pytest.raises(RunError, match=r"a.npz is damaged \(") as caught,
            reading_state(tmp_path / "a.npz", ConnectionError),
        ):
            raise error
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RunError, match="^as it is$"), reading_state(tmp_path / "a.npz"):
        raise RunError("as it is")
    with pytest.raises(KeyError), reading_state(tmp_path / "a.npz", KeyError):
        raise KeyError


def test_a_config_that_is_not_the_checkpoints_is_named(run_directory):
    path = run_directory / "config.json"
    whole = path.read_text()
    for old, new, message in (
        ('"gamma": 0.99', '"gamma": 0.98', "config.json has other hyperparameters"),
        ('"seed": 3', '"seed": 4', "config.json has another seed"),
    ):
        assert old in whole
        path.write_text(whole.replace(old, new))
        with pytest.raises(RunError, match=message):
            minddpg.resume(run_directory, steps=61, progress=False)
    path.write_text(whole)
    assert minddpg.resume(run_directory, steps=61, progress=False).steps == 61


# --- disks that fail, processes that die ------------------------------------------------------------------------------


def tree_of(agent, steps, best):
    return {"run": {"steps": steps, "agent": agent.views()}, "best": best}


@pytest.fixture
def two_states(tmp_path, monkeypatch):
    """A run directory at its second checkpoint, what it takes to make the third, and what both are."""
    replay = ReplayBuffer(24, 3, 2)
    monkeypatch.setattr(checkpoint, "SEGMENT", 8 * (replay.nbytes // 24))
    agents = [DDPG(3, 2, CONFIG, seed) for seed in range(3)]
    best = [{"step": seed, "mean": float(seed), "agent": agent.state_dict()} for seed, agent in enumerate(agents)]
    directory = new_run(tmp_path / "base", agent=agents[0])
    for step in range(2):
        directory.append("progress", {"step": step, "return": 0.5})
    add(replay, 20)
    directory.save(tree_of(agents[1], 20, best[1]), agents[1], replay)
    directory.append("progress", {"step": 2, "return": 1.5})  # after the checkpoint
    directory.append("eval", {"step": 2, "mean": 1.5})
    directory.close()
    before = Batches(replay)
    add(replay, 10)
    after = Batches(replay)
    replay.added -= 10
    return tmp_path / "base", agents, best, {20: (agents[1], before, 2, 0), 30: (agents[2], after, 4, 1)}


class Batches:
    def __init__(self, replay):
        self.arrays = [array.copy() for array in replay.transitions]


def third_checkpoint(path, agents, best, replay_state):
    """Open the run and make its third checkpoint."""
    directory, tree = RunDirectory.open(path)
    try:
        replay = ReplayBuffer(24, 3, 2)
        directory.read_replay(replay, tree["run"]["steps"])
        for array, kept in zip(replay.transitions, replay_state.arrays, strict=True):
            array[...] = kept
        replay.added = 30
        while directory.tables.rows["progress"] < 4:
            directory.append("progress", {"step": directory.tables.rows["progress"], "return": 0.25})
        if not directory.tables.rows["eval"]:
            directory.append("eval", {"step": 2, "mean": 1.5})
        directory.save(tree_of(agents[2], 30, best[2]), agents[2], replay)
    finally:
        directory.close()


def steps_after(path, agents, states):
    """The steps of the state in which a run is found; all of it must be that state's, or there as it was."""
    for agent in (load(path), load(path, best=True)):
        weight = agent.actor.params.tobytes()
        assert weight in [known.actor.params.tobytes() for known in agents[1:]]
    assert len(load_transitions(path).rew) in (20, 24)
    load_table(path, "progress")
    directory, tree = RunDirectory.open(path)
    try:
        steps = tree["run"]["steps"]
        agent, batches, rows, evaluations = states[steps]
        for name, array in agent.views().items():
            assert tree["run"]["agent"][name].tobytes() == array.tobytes()
        replay = ReplayBuffer(24, 3, 2)
        directory.read_replay(replay, steps)
        held = min(steps, 24)
        for array, kept in zip(replay.transitions, batches.arrays, strict=True):
            assert array[:held].tobytes() == kept[:held].tobytes()
        assert directory.tables.rows["progress"] == rows == len(load_table(path, "progress")["step"])
        assert len(load_table(path, "eval").get("step", [])) == evaluations
    finally:
        directory.close()
    assert [p for p in path.rglob("*") if p.name.endswith(".tmp")] == []
    return steps


@pytest.mark.parametrize("how", ["ENOSPC", "EIO", "died"])
def test_whatever_fails_a_run_is_before_or_after_a_checkpoint(tmp_path, two_states, how):
    """At a third of the calls; together the three ways to fail come to every one."""
    fail(tmp_path, two_states, how, ["ENOSPC", "EIO", "died"].index(how), 3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ENOSPC", "EIO", "died"])
def test_at_every_call_a_run_is_before_or_after_a_checkpoint(tmp_path, two_states, how):
    fail(tmp_path, two_states, how, 0, 1)


def fail(tmp_path, two_states, how, first, step):
    """Let the calls of a checkpoint fail, one at a time."""
    base, agents, best, states = two_states
    shutil.copytree(base, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        calls = Faults(patch).calls
        third_checkpoint(tmp_path / "whole", agents, best, states[30][1])
    assert steps_after(tmp_path / "whole", agents, states) == 30
    whole, outcomes = contents(tmp_path / "whole"), []
    assert sum(name.startswith("replay") for name in whole) == 3  # what the ring has overwritten is gone
    assert {"open", "write", "fsync", "replace", "truncate", "unlink"} <= set(calls)
    for at in range(first, len(calls), step):
        path = tmp_path / f"at{at}"
        shutil.copytree(base, path)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, how)
            message = ""
            try:
                third_checkpoint(path, agents, best, states[30][1])
            except RunError as error:
                message = str(error)
            except Died:
                pass
            assert message or not faults.happened or how == "died" or calls[at] == "unlink"
            assert len(message.splitlines()) <= 1
        outcomes.append(steps_after(path, agents, states))
        third_checkpoint(path, agents, best, states[30][1])  # it goes on, and in the end nothing is left of what failed
        assert contents(path) == whole
        shutil.rmtree(path)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {20, 30} or how == "ENOSPC"


@pytest.mark.parametrize("how", ["ENOSPC", "EIO", "died"])
def test_a_directory_comes_into_being_at_once(tmp_path, how):
    agent = DDPG(3, 2, CONFIG, 0)
    with pytest.MonkeyPatch.context() as patch:
        calls = Faults(patch).calls
        new_run(tmp_path / "whole" / "run", agent=agent).close()
    whole = contents(tmp_path / "whole" / "run")
    shutil.rmtree(tmp_path / "whole")
    for at in range(len(calls)):
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, how)
            try:
                new_run(tmp_path / "on" / "run", agent=agent).close()
            except RunError as error:
                message = str(error)
            except Died:
                message = "died"
            else:
                message = ""
        assert bool(message) == faults.happened
        assert len(message.splitlines()) <= 1
        if how == "died":
            if (tmp_path / "on" / "run").exists():
                assert contents(tmp_path / "on" / "run") == whole
                RunDirectory.open(tmp_path / "on" / "run")[0].close()
                shutil.rmtree(tmp_path / "on")
            new_run(tmp_path / "on" / "run", agent=agent).close()
            shutil.rmtree(tmp_path / "on")
        elif message:
            assert list(tmp_path.iterdir()) == []
            new_run(tmp_path / "on" / "run", agent=agent).close()  # and nothing is locked
            assert contents(tmp_path / "on" / "run") == whole
            shutil.rmtree(tmp_path / "on")
        else:
            shutil.rmtree(tmp_path / "on")


def test_a_full_disk_leaves_the_agent_of_before(tmp_path, monkeypatch):
    agent = written(tmp_path / "run")
    directory, _ = RunDirectory.open(tmp_path / "run")
    kept = contents(tmp_path / "run")
    Faults(monkeypatch, 0, "ENOSPC")
    with pytest.raises(RunError, match=r"cannot write .*agent.npz: No space left on device"):
        save_run(directory, DDPG(3, 2, CONFIG, seed=6), replay_of(60))
    directory.note_error("cannot be kept, and that is no error")
    directory.close()
    assert contents(tmp_path / "run") == kept
    assert load(tmp_path / "run").actor.params.tobytes() == agent.actor.params.tobytes()


def test_a_directory_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    written(tmp_path / "run")
    kept, real = contents(tmp_path / "run"), os.open

    def read_only(path, flags, *mode, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RunError, match="cannot write in .*run: Read-only file system"):
        RunDirectory.open(tmp_path / "run")
    load(tmp_path / "run")
    monkeypatch.undo()
    assert contents(tmp_path / "run") == kept
    RunDirectory.open(tmp_path / "run")[0].close()


# --- several at once --------------------------------------------------------------------------------------------------


def test_a_run_is_written_by_one(tmp_path):
    directory = new_run(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(RunError, match="is in use by another run; wait for it, or end it first"):
            RunDirectory.open(tmp_path / "run")
    directory.close()
    again, _ = RunDirectory.open(tmp_path / "run")
    again.close()


def test_what_cannot_be_opened_is_not_locked(tmp_path):
    written(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.npz"
    whole = path.read_bytes()
    for content in (b"", resealed(whole[:-100] + whole[-64:])):
        path.write_bytes(content)
        with pytest.raises(RunError, match="damaged"):
            RunDirectory.open(tmp_path / "run")
    path.write_bytes(whole)
    RunDirectory.open(tmp_path / "run")[0].close()


START = """
import sys, time
from conftest import new_run
from minddpg.runs.directory import numbered
sys.stdin.read()  # until all are there
directory = new_run(numbered("Some-v0", 5))
print(directory.path)
directory.close()
"""


def test_runs_that_start_at_once_get_a_directory_each(tmp_path):
    here = os.path.dirname(__file__)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
            env=clean_environment(PYTHONPATH=os.pathsep.join([os.path.dirname(here), here])),
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        process.stdin.close()
        process.stdin = None
    names = sorted(process.communicate()[0].strip() for process in processes)
    expected = [os.path.join("runs", f"Some-v0-seed5{number}") for number in ("", "-2", "-3")]
    assert names == expected
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [os.path.basename(name) for name in expected]


def test_a_directory_that_another_takes_meanwhile(tmp_path, monkeypatch):
    real = run_directories.write_checkpoint

    def meanwhile(*args):
        if not (tmp_path / "run").exists():
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "theirs").write_text("")
        real(*args)

    monkeypatch.setattr(run_directories, "write_checkpoint", meanwhile)
    with pytest.raises(RunExists, match="run exists; choose another --out"):
        new_run(tmp_path / "run")
    directory = new_run(iter([tmp_path / "run", tmp_path / "run-2"]))
    assert directory.path == tmp_path / "run-2"
    directory.discard()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["run", os.path.join("run", "theirs")]


def test_default_names(tmp_path):
    names = numbered("module.x:Env/v0 \n", 3)
    assert [str(next(names)) for _ in range(2)] == [
        os.path.join("runs", "module.x-Env-v0---seed3" + n) for n in ("", "-2")
    ]
    assert next(numbered("..", 0)).name == "env-seed0"
    assert len(next(numbered("x" * 1000, 0)).name) < 120


def test_discarding_removes_nothing_that_is_not_ours(tmp_path):
    directory = new_run(tmp_path / "on" / "run")
    save_run(directory, DDPG(3, 2, CONFIG, 0), replay_of(5))
    directory.append("progress", {"step": 1})
    directory.note_error("what")
    (tmp_path / "on" / "run" / "notes.txt").write_text("mine")
    (tmp_path / "on" / "run" / "replay" / "notes.txt").write_text("mine")
    directory.discard()
    assert contents(tmp_path) == {"on/run/notes.txt": b"mine", "on/run/replay/notes.txt": b"mine"}
    directory = new_run(tmp_path / "named" / "run")
    theirs = {
        f"named/run/{name}": b"mine" for name in ("agent.npz", "best.npz", "error.txt", "eval.csv", "transitions.npz")
    }
    for name, content in theirs.items():
        (tmp_path / name).write_bytes(content)
    directory.discard()
    assert {name: content for name, content in contents(tmp_path).items() if name.startswith("named")} == theirs
    directory = new_run(tmp_path / "moved" / "run")
    (tmp_path / "moved" / "run").rename(tmp_path / "moved" / "elsewhere")
    other = new_run(tmp_path / "moved" / "run")
    before = contents(tmp_path / "moved")
    directory.discard()
    assert contents(tmp_path / "moved") == before
    other.close()
    directory = new_run(tmp_path / "a" / "b" / "run")
    save_run(directory, DDPG(3, 2, CONFIG, 0), replay_of(5))
    directory.discard()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kept", [[], [-1.0], [2.0, -3.0], [0.5, 0.25]])
@pytest.mark.parametrize(
    "looks", [{}, {"rew_low": [-9.0, -4.0], "rew_high": [1.0, 7.0]}, {"rew_low": [], "rew_high": []}]
)
def test_the_range_of_rewards_is_of_the_transitions_kept_and_of_the_last_look(monkeypatch, kept, looks):
    columns = {name: np.array(values) for name, values in looks.items()}
    monkeypatch.setattr(run_directories, "load_transitions", lambda path: SimpleNamespace(rew=np.array(kept)))
    monkeypatch.setattr(run_directories, "load_table", lambda path, table: columns)
    known = [*kept, *(value for values in looks.values() for value in values[-1:])]
    expected = (min(known, default=np.inf), max(known, default=-np.inf))
    assert run_directories.reward_range("run") == expected
