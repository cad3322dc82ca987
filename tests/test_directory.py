import json
import zipfile

import numpy as np
import pytest
from conftest import new_run, save_run

from minddpg import DDPG, Config, ReplayBuffer, RunError, load
from minddpg.runs.directory import KEPT_TRANSITIONS, MAX_JSON, load_info, load_transitions
from minddpg.runs.tables import load_table

CONFIG = Config(hidden_sizes=(4, 3))


def replay_of(count, capacity=3000):
    replay = ReplayBuffer(capacity, 3, 2)
    for i in range(count):
        replay.add([i, 0, 0], [0.5, -0.5], -i, [i + 1, 0, 0], i % 7 == 0)
    return replay


def written(path, agent=None):
    agent = agent or DDPG(3, 2, CONFIG, seed=5)
    directory = new_run(path)
    directory.append("progress", {"step": 10, "return": -1.5, "critic_loss": float("nan")})
    directory.append("progress", {"step": 20, "return": -0.1, "critic_loss": 0.25})
    save_run(directory, agent, replay_of(50))
    directory.close()
    return agent


def test_round_trip(tmp_path):
    agent = written(tmp_path / "a" / "run")
    loaded = load(tmp_path / "a" / "run")
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], value)
        assert loaded.state_dict()[name].dtype == value.dtype
    assert load_info(tmp_path / "a" / "run") == ("Some-v0", 5, 3, 2, CONFIG)
    text = (tmp_path / "a" / "run" / "progress.csv").read_text()
    assert text == "step,return,critic_loss\n10,-1.5,\n20,-0.1,0.25\n"
    record = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert {"minddpg", "python", "numpy", "numba", "gymnasium"} <= set(record["versions"])
    files = {"config.json", "progress.csv", "agent.npz", "transitions.npz"}
    assert {p.name for p in (tmp_path / "a" / "run").iterdir()} == files


def test_nothing_is_overwritten(tmp_path):
    written(tmp_path / "run")
    kept = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match="exists; choose another"):
        new_run(tmp_path / "run")
    assert kept == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make"):
        new_run(tmp_path / "file" / "run")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    agent = written(tmp_path / "run")
    directory = new_run(tmp_path / "other")
    save_run(directory, agent, replay_of(1))
    kept = (tmp_path / "other" / "agent.npz").read_bytes()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="no space"):
        save_run(directory, DDPG(3, 2, CONFIG, seed=6), replay_of(1))
    with pytest.raises(RunError, match="cannot make .*no space"):
        new_run(tmp_path / "on" / "the way")
    assert not (tmp_path / "on").exists()
    with pytest.raises(RunError, match="cannot make"):
        new_run(tmp_path / "on" / ("x" * 300))
    assert not (tmp_path / "on").exists()
    assert (tmp_path / "other" / "agent.npz").read_bytes() == kept
    assert {p.name for p in (tmp_path / "other").iterdir()} == {"config.json", "agent.npz", "transitions.npz"}
    directory.discard()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("cut", [0, 1, 30, 100, 0.3, 0.7, 0.99])
def test_a_cut_agent_is_named(tmp_path, cut):
    written(tmp_path / "run")
    path = tmp_path / "run" / "agent.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if cut < 1 else cut])
    with pytest.raises(RunError, match=r"agent.npz is damaged \(.*; restore it or train again"):
        load(tmp_path / "run")


def test_flipped_bytes_never_give_other_weights(tmp_path):
    agent = written(tmp_path / "run")
    path = tmp_path / "run" / "agent.npz"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for position in rng.integers(len(whole), size=120):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            loaded = load(tmp_path / "run")
        except RunError:
            refused += 1
        else:  # a byte that means nothing, such as a date
            assert all(np.array_equal(v, loaded.state_dict()[k]) for k, v in agent.state_dict().items())
    assert refused > 60


def test_foreign_arrays_are_refused(tmp_path):
    agent = written(tmp_path / "run")
    path, state = tmp_path / "run" / "agent.npz", agent.state_dict()
    bad = {
        "another agent": {k: v for k, v in state.items() if k != "actor.0.bias"},
        "must be": {**state, "actor.0.bias": np.zeros(9)},
        "finite": {**state, "actor.0.bias": np.full(4, np.nan)},
        "allow_pickle": {**state, "actor.0.bias": np.array([{}] * 4, object)},
        "larger": {**state, "actor.0.bias": np.zeros(10**6)},
    }
    for message, arrays in bad.items():
        np.savez(path, **arrays)
        with pytest.raises(RunError, match=message):
            load(tmp_path / "run")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("actor.0.bias.npy", b"\0" * 50_000_000)
    with pytest.raises(RunError, match="larger"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"env": "x"}', "\xff", "[" * 100_000, " " * (MAX_JSON + 1)],
)
def test_a_damaged_config_is_named(tmp_path, text):
    written(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"config.json is damaged") as caught:
        load(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_impossible_values_in_config_are_named(tmp_path):
    written(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    changes = [
        {"obs_dim": 0}, {"obs_dim": 1.9}, {"obs_dim": 10**30}, {"obs_dim": 10**15}, {"seed": None}, {"env": None},
        {"seed": float("inf")}, {"config": {"gamma": 7}}, {"config": {"magic": 1}}, {"config": {"noise_std": 10**400}},
        {"config": {"hidden_sizes": [2**62]}}, {"config": {"hidden_sizes": [10**6] * 3}},
    ]  # fmt: skip
    for change in changes:
        path.write_text(json.dumps({**record, **change}))
        with pytest.raises(RunError, match="damaged"):
            load(tmp_path / "run")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        load(tmp_path / "nowhere")
    written(tmp_path / "run")
    (tmp_path / "run" / "agent.npz").unlink()
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "run" / "config.json").mkdir()
    with pytest.raises(RunError, match="cannot read"):
        load(tmp_path / "run")


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
    for changed, message in (
        ({"obs": good["obs"][:, :2]}, "obs is"),
        ({"act": good["act"].astype("f8")}, "act is float64"),
        ({"rew": good["rew"][:3]}, "obs is"),
        ({"rew": np.full_like(good["rew"], np.nan)}, "rew holds a NaN"),
        ({"truncated": good["terminated"]}, "truncated"),
    ):
        np.savez(path, **{**good, **changed})
        with pytest.raises(RunError, match=rf"transitions.npz is damaged \(.*{message}"):
            load_transitions(tmp_path / "run")
    np.savez(path, **{name: array[:0] for name, array in good.items()})
    with pytest.raises(RunError, match="no transition"):
        load_transitions(tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"obs_dim": 3', '"obs_dim": 1000000000000000'))
    with pytest.raises(RunError, match="more memory than there is"):
        load_transitions(tmp_path / "run")
    config.write_text(whole)
    path.unlink()
    with pytest.raises(RunError, match=r"holds no transitions.npz: .*train again"):
        load_transitions(tmp_path / "run")


def test_tables_are_read_back_and_damage_is_named(tmp_path):
    directory = new_run(tmp_path / "run")
    directory.append("gradients", {"step": 1, "x": 0.1})
    directory.append("gradients", {"step": 2, "x": float("nan")})
    directory.close()
    path = tmp_path / "run" / "gradients.csv"
    table = load_table(tmp_path / "run", "gradients")
    np.testing.assert_array_equal(table["step"], [1, 2])
    np.testing.assert_array_equal(table["x"], [0.1, np.nan])
    path.write_text(path.read_text() + "3,0.")  # cut off in the middle of a line
    np.testing.assert_array_equal(load_table(tmp_path / "run", "gradients")["step"], [1, 2])
    assert load_table(tmp_path / "run", "evaluations") == {}
    with pytest.raises(RunError, match=r"gradients.csv is damaged \(it has no column y\)"):
        load_table(tmp_path / "run", "gradients")["y"]
    path.write_text("")
    assert load_table(tmp_path / "run", "gradients") == {}
    for damage in ("\0" * 100, "step,x\n1,2\n1\n", "step,x\n1,high\n", "step,step\n1,1\n", "\xff\n1,\n"):
        path.write_text(damage)
        with pytest.raises(RunError, match=r"gradients.csv is damaged"):
            load_table(tmp_path / "run", "gradients")
