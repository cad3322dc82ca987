"""The command line: what it prints, writes and refuses. In-process, but for the tests of the process itself."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import JIT, clean_environment

import minddpg
from minddpg import Config, cli, progress
from minddpg.cli import terminal
from minddpg.gradflow import trace
from minddpg.runs import directory

SHORT = ["--steps", "450", "--hidden-sizes", "4", "--batch-size", "8", "--learning-starts", "40", "--episodes", "2"]


def run(capsys, *argv):
    try:
        status = cli.main(list(argv))
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    return status, out, err


def test_train_then_eval(capsys, tmp_path):
    status, out, err = run(capsys, "train", "Pendulum-v1", *SHORT, "--seed", "3", "--out", "my run")
    assert status == 0, err
    assert "Pendulum-v1: 3 observations, 1 action; preset Pendulum-v1, seed 3, 450 steps" in out
    assert "replay memory: 450 transitions, 14.8 kB" in out
    assert "450 steps, 2 episodes" in out
    assert "return per episode while learning" in out
    assert "evaluation without noise: mean return" in out
    assert "minddpg eval 'my run' --episodes 100" in out
    record = json.loads((tmp_path / "my run" / "config.json").read_text())
    assert (record["env"], record["seed"], record["obs_dim"], record["act_dim"]) == ("Pendulum-v1", 3, 3, 1)
    assert Config.from_dict(record["config"]).hidden_sizes == (4,)

    status, out, _ = run(capsys, "eval", "my run", "--episodes", "2", "--json")
    assert status == 0
    result = json.loads(out)
    expected = minddpg.evaluate(minddpg.load(tmp_path / "my run"), "Pendulum-v1", 2, 10_000)
    np.testing.assert_array_equal(result["returns"], expected)
    assert result["mean"] == expected.mean()
    status, out, _ = run(capsys, "eval", "my run", "--episodes", "1", "--seed", "5")
    assert "over 1 episode (lowest" in out


def test_a_profile_is_printed(capsys):
    status, out, err = run(capsys, "train", *SHORT, "--quiet", "--profile")
    assert status == 0, err
    for part in ("environment", "act", "replay", "critic step", "actor step", "optimiser", "the rest"):
        assert re.search(rf"^  {part} +\d+\.\d% +\d+\.\d\d s +\d+\.\d us an? (step|update)$", out, re.M), part


def test_default_directories_are_numbered(capsys, tmp_path):
    for name in ("Pendulum-v1-seed0", "Pendulum-v1-seed0-2"):
        status, _, err = run(capsys, "train", *SHORT, "--quiet")
        assert status == 0, err
        assert (tmp_path / "runs" / name / "agent.npz").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fly"], "there is no command 'fly'"),
        (["trian"], "there is no command 'trian'; did you mean train?"),
        (["--versoin"], "there is no --versoin; did you mean --version?"),
        (["train", "--batchsize", "32"], "there is no --batchsize; did you mean --batch-size?"),
        (["train", "--Batch_Size=32"], "did you mean --batch-size?"),
        (["train", "Pendulum-v1", "--total-timesteps", "9"], "did you mean --steps?"),
        (["train", "Pendulum-v1", "more"], "unrecognized arguments: more"),
        (["gradcheck", "nowhere"], "nowhere is not a run directory"),
        (["gradflow", "nowhere"], "nowhere is not a run directory"),
        (["gradflow", "nowhere", "--obs-dim", "4"], "--obs-dim is for a fresh agent; leave out DIR or the flag"),
        (["gradflow", "--report", "x.html"], "--report is of a run; name its DIR"),
        (["gradflow", "--plot", ""], "no name for a file"),
        (["gradflow", "nowhere", "--report", "x.png"], "must end in .html"),
        (["gradflow", "--plot", "x.bmp"], "x.bmp must end in .png, .svg or .pdf"),
        (["gradflow", "--plot", "no/such/x.png"], "no/such is not a directory; make it first"),
        (["gradflow", "--picture", "action"], "add --plot FILE"),
        (["gradflow", "--picture", "history", "--plot", "x.png"], "name its DIR"),
        (["gradflow", "--batch-size", "0"], "0 is too few"),
        (["gradflow", "--dim", "0"], "--dim is of the picture action"),
        (["gradflow", "--plot", "x.png", "--dim", "0"], "--dim is of the picture action"),
        (["gradflow", "--plot", "x.png", "--picture", "action", "--dim", "1"], "have 1 components"),
        (["gradflow", "--mistakes", "--plot", "x.png"], "leave out --plot"),
        (["watch", "nowhere"], "nowhere is not a run directory"),
        (["watch", "nowhere", "--port", "70000"], "--port 70000 is no port"),
        (["plot"], "required: DIR"),
        (["plot", "nowhere"], "nowhere"),
        (["plot", "a", "b", "--out", "x.png"], "a is not a run directory"),
        (["train", "--diagnose-every", "-1"], "0 or more"),
        (["gradcheck", "runs/x", "--obs-dim", "4"], "--obs-dim is for a fresh agent; leave out DIR or the flag"),
        (["gradcheck", "--planted", "--hidden-sizes", "4"], "--hidden-sizes is for a fresh agent"),
        (["gradcheck", "--planted", "runs/x"], "leave DIR out"),
        (["gradcheck", "--planted", "--seed", "0"], "leave out --batch-size, --seed and --mode"),
        (["gradcheck", ""], "is not a run directory"),
        (["gradcheck", "--action-layer", "7"], "action_layer"),
        (["gradcheck", "--batch-size", "0"], "0 is too few"),
        (["gradcheck", "--mode", "fast"], "invalid choice: 'fast'"),
        (["train", "Nowhere-v0"], "cannot make 'Nowhere-v0'"),
        (["train", "CartPole-v1"], "continuous actions"),
        (["train", "--preset", "best"], "no preset 'best'; choose from"),
        (["train", "--gamma", "-1"], "gamma must be a number in [0, 1), not -1.0"),
        (["train", "--gamma", "high"], "'high' is not a number"),
        (["train", "--steps", "1.5"], "'1.5' is not a whole number"),
        (["train", "--steps", "-5"], "steps must be a whole number, 1 or more"),
        (["train", "--hidden-sizes", "64,x"], "like 64,64"),
        (["train", "--noise", "pink"], "gaussian or ou"),
        (["train", "--seed", "-1"], "0 or more"),
        (["train", "--learn", "5"], "unrecognized arguments"),
        (["train", "--hidden-sizes", "64,,"], "like 64,64"),
        (["train", "--steps", "1e19"], "steps must be a whole number"),
        (["train", "--out", ""], "exists; choose another --out"),
        (["train", "Pendulum-v0"], "cannot make 'Pendulum-v0'"),
        (["train", "--episodes", "0"], "1 or more"),
        (["train", "--learning-rate", "1"], "did you mean --actor-lr or --critic-lr?"),
        (["train", "--steps", "10"], "learning_starts"),
        (["train", "--out", "taken"], "taken exists; choose another --out"),
        (["eval"], "DIR"),
        (["eval", "nowhere"], "nowhere is not a run directory"),
        (["warmup", "--dtype", "float16"], "float16"),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(capsys, tmp_path, argv, message):
    (tmp_path / "taken").mkdir()
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert message in err
    assert err.startswith("minddpg: error: ")
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
    assert list((tmp_path / "taken").iterdir()) == []


def test_flags_cover_every_field_and_nothing_else(capsys):
    status, out, _ = run(capsys, "train", "--help")
    assert status == 0
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')} " in out
    assert "paper: 1e-4" in " ".join(out.split())


def test_flags_reach_the_config(capsys, monkeypatch):
    seen = []

    def fake(env, config, **kwargs):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("minddpg.training.train", fake)
    status, _, err = run(
        capsys, "train", "--preset", "paper", "--final-init", "none", "--steps", "1e5", "--critic-weight-decay", "0",
        "--noise", "gaussian", "--hidden-sizes", "8,9",
    )  # fmt: skip
    assert (status, "interrupted" in err) == (130, True)
    paper = Config.paper()
    assert seen == [
        paper.replace(final_init=None, steps=100_000, critic_weight_decay=0.0, noise="gaussian", hidden_sizes=(8, 9))
    ]


def test_an_interrupted_run_is_usable(capsys, monkeypatch, tmp_path):
    real = progress.Progress.__call__

    def interrupt(self, step, history):
        real(self, step, history)
        if step == 300:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress.Progress, "__call__", interrupt)
    status, out, _ = run(capsys, "train", *SHORT, "--out", "run")
    assert status == 130
    assert "interrupted: all of it is saved; go on with: minddpg train --resume run" in out
    status, out, _ = run(capsys, "eval", "run", "--episodes", "1")
    assert status == 0


def test_flags_are_checked_against_the_preset_that_is_used(capsys):
    """buffer_size 100 is too small for the default's batch of 256, but not for Pendulum's of 64."""
    status, out, err = run(capsys, "train", "--buffer-size", "100", "--steps", "1010", "--hidden-sizes", "2", "--quiet")
    assert status == 0, err
    assert "replay memory: 100 transitions" in out


def test_an_id_without_a_version_can_be_evaluated(capsys, tmp_path):
    module = MODULE.replace("Spoilt-v0", "Plain").replace("self.steps == 7", "False")
    (tmp_path / "plain_module.py").write_text(module)
    assert run(capsys, "train", "plain_module:Plain", *SHORT, "--out", "run")[0] == 0
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace("plain_module:Plain", "Plain"))
    status, out, err = run(capsys, "eval", "run", "--episodes", "1")
    assert (status, err) == (0, "")
    assert "Plain, run: mean return 0.0" in out


def test_the_chart():
    chart = terminal.chart([float(i) for i in range(100)])
    lines = chart.splitlines()
    assert lines[1].split("|")[0].strip() == "98.5"
    assert lines[8].split("|")[0].strip() == "0.0"
    assert sum(line.count("*") for line in lines) == 60
    assert max(map(len, lines)) < 80
    assert "episode 100" in lines[-1]
    assert terminal.chart([1.0, 1.0]).count("*") == 2


def test_memory_errors_are_explained(capsys, tmp_path):
    status, _, err = run(capsys, "train", *SHORT, "--steps", "1e15", "--buffer-size", "1e15")
    assert list(tmp_path.iterdir()) == []
    assert (status, err.count("\n")) == (2, 1)
    assert "lower buffer_size (--buffer-size)" in err


def test_a_bug_of_ours_is_not_dressed_up(monkeypatch):
    def bug(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr("minddpg.training.train", bug)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["train", *SHORT])


def test_warmup(capsys):
    status, out, _ = run(capsys, "warmup", "--dtype", "float32")
    assert status == 0
    assert out.startswith("compiling for float32" if JIT else "NUMBA_DISABLE_JIT is set")


def test_a_closed_pipe_is_quiet(capsys, monkeypatch):
    def closed(args):
        raise BrokenPipeError

    monkeypatch.setattr(cli.eval, "run", closed)
    monkeypatch.setattr(sys, "stderr", open("stderr", "w"))
    assert cli.main(["eval", "x"]) == 1


MODULE = """
import gymnasium, numpy as np
class Spoilt(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}
    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), float("nan") if self.steps == 7 else 0.0, False, self.steps == 20, {}
gymnasium.register("Spoilt-v0", entry_point=Spoilt)
"""


def test_a_nan_from_an_environment_of_the_users_own_module(capsys, monkeypatch, tmp_path):
    (tmp_path / "spoilt_module.py").write_text(MODULE)
    status, _, err = run(capsys, "train", "spoilt_module:Spoilt-v0", *SHORT, "--out", "deep/run")
    assert status == 2
    assert "spoilt_module:Spoilt-v0 returned the reward nan at step 7" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "deep").exists()


def test_a_module_that_does_not_run_is_named_in_one_line(capsys, tmp_path):
    (tmp_path / "broken_module.py").write_text("1 +")
    status, _, err = run(capsys, "train", "broken_module:X-v0")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot make 'broken_module:X-v0'" in err


def test_a_run_made_from_python_asks_for_its_environment(capsys):
    import gymnasium

    minddpg.train(
        lambda: gymnasium.make("Pendulum-v1"), Config(steps=60, hidden_sizes=(2,), learning_starts=50), out="r"
    )
    status, _, err = run(capsys, "eval", "r")
    assert status == 2
    assert "name an environment with --env" in err
    status, out, _ = run(capsys, "eval", "r", "--env", "Pendulum-v1", "--episodes", "1")
    assert (status, "mean return" in out) == (0, True)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_reach_a_real_process_and_the_command_it_prints_works(tmp_path, name, status):
    command = [sys.executable, "-m", "minddpg", "train", "--steps", "1000000", "--hidden-sizes", "4", "--out", "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=clean_environment(NUMBA_DISABLE_JIT="1"))  # fmt: skip
    assert process.stderr is not None
    while "episode" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=180)
    assert process.returncode == status
    assert "Traceback" not in err
    assert minddpg.load(tmp_path / "run").is_finite()
    go_on = out.partition("go on with: minddpg ")[2].split()
    assert go_on == ["train", "--resume", "run"]
    made = int(out.splitlines()[-2].split()[0].replace(",", ""))
    result = python("-m", "minddpg", *go_on, "--steps", str(made + 200), NUMBA_DISABLE_JIT="1")
    assert result.returncode == 0, result.stderr
    assert f"going on with run from step {made:,} of {made + 200:,}" in result.stdout


def test_signals_before_there_is_anything_to_save_end_at_once(tmp_path):
    code = (
        "import os, signal, sys, minddpg.cli as c, minddpg.cli.train as t\n"
        "t.made_and_closed = lambda *a: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(c.main(['train']))"
    )
    result = python("-c", code)
    assert (result.returncode, result.stderr.strip(), list(tmp_path.iterdir())) == (143, "interrupted", [])


def test_resume_from_the_command_line(capsys, tmp_path):
    assert run(capsys, "train", *SHORT, "--out", "run", "--quiet")[0] == 0
    assert run(capsys, "train", *SHORT, "--out", "long", "--quiet", "--steps", "600")[0] == 0
    status, out, err = run(capsys, "train", "--resume", "run", "--steps", "600", "--quiet", "--episodes", "1")
    assert (status, err) == (0, "")
    assert "going on with run from step 450 of 600" in out
    for name in ("agent.npz", "checkpoint.npz", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "long" / name).read_bytes()
    status, out, _ = run(capsys, "train", "--resume", "run", "--quiet", "--episodes", "1")
    assert status == 0
    assert "it has made all its steps; more with: minddpg train --resume run --steps N" in out
    for argv, message in (
        (["--gamma", "0.9"], "leave out --gamma"),
        (["Pendulum-v1"], "leave out ENV"),
        (["--seed", "1"], "leave out --seed"),
        (["--from", "run"], "leave out --from"),
        (["--steps", "100"], "fewer than the 600"),
    ):
        status, _, err = run(capsys, "train", "--resume", "run", *argv)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err


def test_a_new_run_from_another_ones_agent(capsys, tmp_path):
    assert run(capsys, "train", *SHORT, "--out", "run", "--quiet")[0] == 0
    status, out, err = run(
        capsys, "train", "--from", "run", "--out", "new", "--seed", "1", "--quiet", "--episodes", "1"
    )
    assert (status, err) == (0, "")
    assert "preset of run, seed 1, 450 steps" in out
    assert json.loads((tmp_path / "new" / "config.json").read_text())["parameters_from"] == "run"
    for argv, message in (
        (["--from", "run", "--preset", "paper"], "leave one out"),
        (["--from", "nowhere"], "not a run directory"),
        (["--from", "run", "--hidden-sizes", "5"], "has another shape"),
        (["MountainCarContinuous-v0", "--from", "run"], "has another shape"),
    ):
        status, _, err = run(capsys, "train", *argv, "--quiet")
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
    assert not (tmp_path / "runs").exists()


def python(*argv, **changes):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, env=clean_environment(**changes), timeout=200
    )


def test_help_and_version_import_nothing_heavy():
    code = "import sys, minddpg.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    result = python("-c", code + "print([m for m in ('numpy', 'numba', 'gymnasium') if m in sys.modules])")
    assert result.stdout.endswith("[]\n"), result
    assert "minddpg train" in result.stdout
    assert python("-m", "minddpg", "--version").stdout == f"minddpg {minddpg.__version__}\n"


def test_python_m_reports_errors_without_a_traceback():
    result = python("-m", "minddpg", "train", "Nowhere-v0")
    assert result.returncode == 2
    assert result.stderr.startswith("minddpg: error: ")
    assert "Traceback" not in result.stderr


# --- gradcheck --------------------------------------------------------------------------------------------------------


def test_gradcheck_of_a_fresh_agent(capsys):
    fresh = ["gradcheck", "--hidden-sizes", "6,5", "--action-layer", "1", "--act-dim", "2", "--batch-size", "8"]
    status, out, err = run(capsys, *fresh)
    assert status == 0, out + err
    assert "a fresh agent, seed 0; random transitions" in out
    assert "71 parameters of the actor, 75 of the critic, batch of 8" in out
    assert "actor.0.weight" in out
    assert "all right" in out
    assert "\033" not in out
    status, out, err = run(capsys, *fresh, "--json", "--mode", "sample", "--seed", "3")
    assert status == 0
    record = json.loads(out)
    assert record["ok"] is True
    assert record["mode"] == "sample"
    assert len(record["tensors"]) == 14
    assert "a fresh agent, seed 3" in err


def test_gradcheck_of_a_run_uses_what_it_learnt_from(capsys, monkeypatch):
    status, _, err = run(capsys, "train", *SHORT, "--seed", "3", "--out", "run", "--quiet")
    assert status == 0, err
    seen = {}
    from minddpg import gradcheck

    def watch(agent, batch, **options):
        seen.update(agent=agent, batch=batch)
        return gradcheck.agent.check_agent(agent, batch, **options)

    monkeypatch.setattr(gradcheck, "check_agent", watch)
    status, out, err = run(capsys, "gradcheck", "run", "--batch-size", "20")
    assert status == 0, out + err
    assert "run: Pendulum-v1, 410 updates; transitions it learnt from" in out
    kept = directory.load_transitions("run")
    rows = {row.tobytes() for row in kept.obs}
    assert len(seen["batch"].obs) == 20
    assert all(row.tobytes() in rows for row in seen["batch"].obs)
    np.testing.assert_array_equal(seen["agent"].actor.params, minddpg.load("run").actor.params)


def test_gradcheck_fails_where_a_gradient_is_wrong(capsys, monkeypatch):
    from minddpg.gradcheck import agent_structure

    right = agent_structure.agent_gradients

    def wrong(source, agent, batch):
        found = right(source, agent, batch)
        found["actor.0.bias"] = -found["actor.0.bias"]
        return found

    monkeypatch.setattr("minddpg.gradcheck.agent.agent_gradients", wrong)
    status, out, _ = run(capsys, "gradcheck", "--hidden-sizes", "6", "--batch-size", "8")
    assert status == 1
    assert "hint: the sign is wrong" in out
    assert "1 of 25 not right" in out


def test_gradcheck_planted(capsys, monkeypatch):
    from minddpg.gradcheck import planted

    monkeypatch.setattr(planted, "CATALOGUE", (planted.CATALOGUE[0], planted.CATALOGUE[-1]))
    status, out, _ = run(capsys, "gradcheck", "--planted")
    assert status == 0
    assert "caught  critic: divided by N twice  [kcg2015/DDPG_numpy_only]" in out
    assert "2 of 2 bugs caught" in out
    missed = planted.Bug("harmless", "nobody/nothing", "ddpg", "loss = mean_i", "Loss = mean_i")
    monkeypatch.setattr(planted, "CATALOGUE", (missed,))
    status, out, _ = run(capsys, "gradcheck", "--planted", "--json")
    assert status == 1
    assert json.loads(out)[0] == {
        "source": "nobody/nothing", "bug": "harmless", "caught": False, "by_differences": False, "by_structure": False,
        "hint": "", "broken": "", "usual": "pass", "wrong_with_small_weights": False,
    }  # fmt: skip


def test_gradflow_of_a_fresh_agent_and_of_a_run(capsys, tmp_path):
    status, out, err = run(capsys, "gradflow", "--hidden-sizes", "8,8", "--action-layer", "1", "--act-dim", "2")
    assert status == 0, err
    assert "a fresh agent, seed 0; random transitions, batch of 32" in out
    assert "10  mean Q(s, mu(s)) rises" in out
    assert "(d) Jacobian" in out
    assert out.rstrip().endswith("nothing is visibly wrong")
    assert re.search(r"^shrinks most at .*;$", out, re.M)

    status, _, err = run(capsys, "train", *SHORT, "--out", "run", "--quiet", "--diagnose-every", "50")
    assert status == 0, err
    status, out, err = run(capsys, "gradflow", "run", "--batch-size", "16", "--json")
    assert status == 0, err
    assert "run: Pendulum-v1, 410 updates; transitions it learnt from, batch of 16" in err
    assert "no more transitions are kept" not in err
    record = json.loads(out)
    expected = trace(minddpg.load("run"), directory.load_batch("run", 16, 0), rewards=directory.reward_range("run"))
    assert record["hops"] == json.loads(expected.to_json())["hops"]
    assert record["statistics"]["rew_low"] == directory.reward_range("run")[0] < -5

    status, out, err = run(capsys, "gradflow", "run", "--mistakes")
    assert status == 0, err
    assert f"batch of {minddpg.load('run').config.batch_size}\n" in out  # the run's own, as gradients.csv has it
    assert "no more transitions are kept" not in out
    assert re.search(r"^tanh' missing +\S+ \(\S+ to \S+\)", out, re.M)
    status, out, err = run(capsys, "gradflow", "run", "--mistakes", "--batch-size", "5000")
    assert (status, "asked for 5,000, but no more transitions are kept of the run" in out) == (0, True), err
    status, out, err = run(capsys, "gradflow", "run", "--mistakes", "--json")
    spread = next(e for e in json.loads(out)["effects"] if e["mistake"] == "replayed action")["cosine"]
    assert spread["low"] <= spread["median"] <= spread["high"]
    assert json.loads(out)["batches"] == 100


def test_what_was_seen_while_training_is_said_as_it_happens_and_at_the_end(capsys):
    argv = ["train", *SHORT, "--actor-lr", "3", "--diagnose-every", "20", "--quiet", "--out", "run"]
    status, out, err = run(capsys, *argv)
    assert status == 0
    assert err.count("minddpg: warning: ") == 1
    warning = err.split("minddpg: warning: ")[1].splitlines()[0]
    assert re.search(r"^seen while training, steps \d+ to \d+: " + re.escape(warning[:20]), out, re.M)


@pytest.mark.parametrize(
    "argv", [["gradflow", "--plot", "x.png"], ["plot", "run"], ["gradflow", "run", "--report", "x.html"]]
)
def test_a_missing_extra_is_named_and_nothing_is_written(capsys, monkeypatch, tmp_path, argv):
    status, _, err = run(capsys, "train", *SHORT, "--out", "run", "--quiet")
    assert status == 0, err
    before = sorted(tmp_path.rglob("*"))
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert err.splitlines()[-1] == (
        "minddpg: error: pictures need the extra plot; from a checkout: pip install '.[plot]'"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("picture", ["flow", "history", "action", "policy"])
def test_each_picture_is_drawn(capsys, tmp_path, picture):
    pytest.importorskip("matplotlib")
    status, _, err = run(capsys, "train", *SHORT, "--out", "run", "--quiet", "--diagnose-every", "50")
    assert status == 0, err
    status, out, err = run(capsys, "gradflow", "run", "--plot", "x.svg", "--picture", picture)
    assert status == 0, err
    assert "picture: x.svg" in out
    assert (tmp_path / "x.svg").read_text().count("<path") > 20
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("table", "column", "argv"),
    [
        ("gradients", "step", ["gradflow", "run", "--plot", "x.png", "--picture", "history"]),
        ("gradients", "rms.dact", ["gradflow", "run", "--plot", "x.png", "--picture", "history"]),
        ("gradients", "saturated", ["plot", "run"]),
        ("gradients", "step", ["plot", "run"]),
        ("evaluations", "q", ["plot", "run"]),
        ("progress", "return", ["gradflow", "run", "--report", "x.html"]),
    ],
)
def test_a_table_without_a_column_is_named(capsys, tmp_path, table, column, argv):
    pytest.importorskip("matplotlib")
    status, _, err = run(
        capsys, "train", *SHORT, "--out", "run", "--quiet", "--diagnose-every", "50", "--evaluate-every", "200"
    )
    assert status == 0, err
    path = tmp_path / "run" / f"{table}.csv"
    path.write_text(path.read_text().replace(f"{column},", "other,", 1))
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert f"{table}.csv is damaged (it has no column {column})" in err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_pages_and_reports(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        status, _, err = run(capsys, "train", *SHORT, "--out", name, "--quiet", "--diagnose-every", "50")
        assert status == 0, err
    status, out, err = run(capsys, "plot", "a", "b")
    assert (status, out.splitlines()[:2]) == (0, ["a: a/run.png", "b: b/run.png"]), err
    status, _, err = run(capsys, "plot", "a", "--out", "page.svg")
    assert status == 0, err
    assert (tmp_path / "b" / "run.png").read_bytes()[:4] == b"\x89PNG"
    assert "Pendulum-v1" in (tmp_path / "page.svg").read_text()
    status, out, err = run(capsys, "gradflow", "a", "--report", "report.html")
    assert status == 0, err
    assert "report: report.html; open it in a browser" in out
    assert "</html>" in (tmp_path / "report.html").read_text()
