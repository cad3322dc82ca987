import errno
import inspect
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_agent
from hypothesis import given, settings
from hypothesis import strategies as st

import minddpg
from minddpg import Config, RunError, cli
from minddpg.environment import Environment
from minddpg.export import action_bounds, export, npz_file, onnx_file, policy_arrays, scale_and_offset
from minddpg.extras import ExtraError

DOCUMENTED = (Path(minddpg.__file__).parent / "runs" / "README.md").read_text(encoding="utf-8")
TINY = Config(steps=60, hidden_sizes=(6, 5), learning_starts=40, batch_size=8)
KNOWS_BEST = "best" in inspect.signature(minddpg.load).parameters


def snippet(start):
    return re.search(rf"```python\n({start}.*?)```", DOCUMENTED, re.S).group(1)


def in_units_of_the_environment(agent, obs, low, high):
    exact = agent.copy("float64").act(obs)
    return low + (exact + 1) * (high - low) / 2


def test_the_loader_in_the_documentation_gives_the_agents_actions(run_directory, rng):
    export(run_directory, "actor.npz")
    text, names = snippet("import numpy as np\n\nactor"), {}
    assert len(text.split("\n\n", 1)[1].splitlines()) <= 10
    exec(text, names)
    obs = rng.standard_normal((50, 3)).astype("float32")
    act = names["act"](obs)
    expected = in_units_of_the_environment(minddpg.load(run_directory), obs, -2, 2)
    assert act.dtype == np.float32
    assert np.ptp(act) > 1e-3
    np.testing.assert_allclose(act, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(names["act"](obs[7]), expected[7], rtol=1e-5, atol=1e-6)


def test_the_onnx_example_in_the_documentation_runs(run_directory, rng):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    export(run_directory, "actor.onnx")
    names = {"obs": rng.standard_normal((50, 3)).astype("float32")}
    exec(snippet("import onnxruntime"), names)
    expected = in_units_of_the_environment(minddpg.load(run_directory), names["obs"], -2, 2)
    np.testing.assert_allclose(names["act"], expected, rtol=1e-5, atol=1e-6)


def test_what_the_documentation_says_of_agent_npz_is_what_is_in_it(run_directory):
    with np.load(run_directory / "agent.npz") as archive:
        members = {name for name in archive.files if name != "meta.json"}
        dtypes = {name: archive[name].dtype for name in members}
        params = sum(archive[name].size for name in members if name.startswith("actor."))
        assert archive["actor_adam.m"].shape == archive["actor_adam.v"].shape == (params,)
        assert archive["actor.0.weight"].shape == (3, 6)
    assert {name for name, dtype in dtypes.items() if dtype == np.int64} == {"actor_adam.t", "critic_adam.t"}
    section = DOCUMENTED.split("## agent.npz")[1].split("## Export")[0]
    named = re.findall(r"`([a-z_.0-9*]+)`", section)
    for member in members:
        prefix = member.split(".")[0]
        assert member in named or f"{prefix}.*" in named or f"{prefix}.0.weight" in named, member


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_npz_and_onnx_agree_with_the_agent_for_any_architecture(dtype, seed):
    """Architectures of 0 to 3 hidden layers, with the action at any of the critic's."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    agent, batch = random_agent(seed, dtype, updates=2)
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 10, agent.act_dim)
    high = low + rng.uniform(0, 5, agent.act_dim)
    arrays = policy_arrays(agent, low, high)
    expected = in_units_of_the_environment(agent, batch.obs, low, high)
    accuracy = {"rtol": 20 * np.finfo(dtype).eps, "atol": 200 * np.finfo(dtype).eps}

    session = runtime.InferenceSession(onnx_file(arrays), providers=["CPUExecutionProvider"])
    (obs,), (act,) = session.get_inputs(), session.get_outputs()
    assert (obs.name, obs.shape, act.name, act.shape) == ("obs", ["batch", agent.obs_dim], "act", ["batch", len(low)])
    for n in (len(batch.obs), 1, 0):
        found = session.run(["act"], {"obs": batch.obs[:n]})[0]
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected[:n], **accuracy)

    Path("actor.npz").write_bytes(npz_file(arrays))
    names = {}
    exec(snippet("import numpy as np\n\nactor"), names)
    assert names["actor"]["obs_dim"] == agent.obs_dim
    np.testing.assert_allclose(names["act"](batch.obs), expected, **accuracy)


def test_an_onnx_is_made_of_five_plain_operators_and_the_same_again():
    onnx = pytest.importorskip("onnx")
    agent, _ = random_agent(1)
    arrays = policy_arrays(agent, -np.ones(agent.act_dim), np.ones(agent.act_dim))
    content = onnx_file(arrays)
    assert {node.op_type for node in onnx.load_from_string(content).graph.node} <= {
        "Gemm",
        "Relu",
        "Tanh",
        "Mul",
        "Add",
    }
    assert onnx_file(arrays) == content


@given(
    ends=st.tuples(*[st.floats(-1e6, 1e6) | st.floats(-1e-3, 1e-3) | st.integers(-5, 5)] * 2),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_an_action_never_leaves_its_bounds_and_reaches_them(ends, dtype):
    low, high = np.array([float(min(ends))]), np.array([float(max(ends))])
    scale, offset = scale_and_offset(low, high, dtype)
    assert scale.dtype == offset.dtype == dtype
    last_place = np.spacing(np.abs([low, high]).max().astype(dtype))
    if high - low < 8 * last_place:  # a range that the dtype hardly resolves
        return
    act = offset + scale * np.array([-1, 1], dtype)
    assert low <= act[0] <= act[1] <= high
    np.testing.assert_allclose(act, [low[0], high[0]], rtol=0, atol=4 * last_place)


def test_actions_that_the_dtype_cannot_hold_are_refused():
    agent, _ = random_agent(1, "float32")
    most = np.full(agent.act_dim, 1e300)
    with pytest.raises(RunError, match="larger than float32 can hold; train with --dtype float64"):
        policy_arrays(agent, -most, most)


def test_bounds_are_the_runs_and_else_the_environments():
    info = SimpleNamespace(env="Pendulum-v1", act_dim=1, action_low=[-5.0], action_high=[3.0])
    assert [bound.tolist() for bound in action_bounds(info)] == [[-5.0], [3.0]]
    assert [bound.tolist() for bound in action_bounds(SimpleNamespace(env="Pendulum-v1", act_dim=1))] == [[-2.0], [2.0]]
    with pytest.raises(RunError, match="has 1 actions here, but the run had 2"):
        action_bounds(SimpleNamespace(env="Pendulum-v1", act_dim=2))


def test_what_is_exported_is_what_the_environment_is_given(run_directory):
    """The boundary in environment.py says the same, action by action."""
    environment = Environment("Pendulum-v1")
    given_to = []
    step = environment._env.unwrapped.step
    environment._env.unwrapped.step = lambda action: (given_to.append(action), step(action))[1]
    agent, obs = minddpg.load(run_directory), environment.reset(seed=5)
    export(run_directory, "actor.npz")
    names = {}
    exec(snippet("import numpy as np\n\nactor"), names)
    for _ in range(5):
        expected = names["act"](obs)
        obs = environment.step(agent.act(obs))[0]
        np.testing.assert_allclose(given_to[-1], expected, rtol=1e-5, atol=1e-6)
    environment.close()


@pytest.mark.skipif(not KNOWS_BEST, reason="load knows no best")
def test_the_best_agent_is_exported(run_directory, tmp_path):
    minddpg.train("Pendulum-v1", TINY, out="other", seed=4)
    shutil.copy("other/agent.npz", run_directory / "best.npz")
    export(run_directory, "best.npz", best=True)
    export("other", "other.npz")
    export(run_directory, "last.npz")
    assert Path("best.npz").read_bytes() == Path("other.npz").read_bytes() != Path("last.npz").read_bytes()
    (run_directory / "best.npz").unlink()
    assert cli_error("export", "run", "x.npz", "--best") == 2


def cli_error(*argv):
    with pytest.raises(SystemExit) as error:
        cli.main(list(argv))
    return error.value.code


def test_a_file_that_cannot_be_written_stays_as_it_was(run_directory, monkeypatch, tmp_path):
    Path("actor.npz").write_bytes(b"precious")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"cannot write actor.npz: No space left on device"):
        export(run_directory, "actor.npz")
    assert Path("actor.npz").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor.npz", "run"]


def test_a_missing_package_is_named_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ExtraError, match=r"an .onnx file needs the extra onnx; from a checkout: pip install '.\[onnx\]'"
    ):
        export("nowhere", "actor.onnx")


def test_the_command(run_directory, capsys):
    assert cli.main(["export", "run", "actor.npz"]) == 0
    assert capsys.readouterr().out == "run: actor.npz\n"
    first = Path("actor.npz").read_bytes()
    Path("actor.npz").write_bytes(b"old")
    assert cli.main(["export", "run", "actor.npz"]) == 0
    assert Path("actor.npz").read_bytes() == first


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "actor.npz"], "nowhere is not a run directory"),
        (["run", "actor.bin"], "actor.bin must end in .npz or .onnx"),
        (["run", "actor"], "actor must end in .npz or .onnx"),
        (["run", "no/such/actor.npz"], "no/such is not a directory; make it first"),
        (["run", ""], "an empty name is no name for a file"),
        (["run", "a" * 300 + ".npz"], "is too long a name; choose a shorter one"),
        (["run", "a" * 245 + ".npz"], "is too long a name; choose a shorter one"),
        (["a" * 300, "actor.npz"], "File name too long"),
    ],
)
def test_bad_input_gets_one_line(run_directory, capsys, tmp_path, argv, message):
    assert cli_error("export", *argv) == 2
    err = capsys.readouterr().err
    assert (err.startswith("minddpg: error: "), err.count("\n")) == (True, 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
