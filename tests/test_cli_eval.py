"""`minddpg eval`: the best agent, other arguments of the environment, a video."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import gymnasium
import pytest

import minddpg
from minddpg import Config, cli

TINY = Config(steps=60, hidden_sizes=(6, 5), learning_starts=40, batch_size=8)
KNOWS_BEST = "best" in inspect.signature(minddpg.load).parameters


def evaluate(capsys, *argv):
    try:
        status = cli.main(["eval", *argv])
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    return status, out, err


def test_env_kwargs_make_the_environment(run_directory, capsys):
    status, out, err = evaluate(capsys, "run", "--episodes", "2", "--json", "--env-kwargs", "g=2.5")
    assert status == 0, err
    expected = minddpg.evaluate(minddpg.load(run_directory), lambda: gymnasium.make("Pendulum-v1", g=2.5), 2, 10_000)
    assert json.loads(out)["returns"] == expected.tolist()
    assert (
        json.loads(out)["returns"] != minddpg.evaluate(minddpg.load(run_directory), "Pendulum-v1", 2, 10_000).tolist()
    )


@pytest.mark.skipif(not KNOWS_BEST, reason="load knows no best")
def test_the_best_agent_is_evaluated(run_directory, capsys):
    minddpg.train("Pendulum-v1", TINY, out="other", seed=4)
    shutil.copy("other/agent.npz", run_directory / "best.npz")
    status, out, err = evaluate(capsys, "run", "--best", "--episodes", "2", "--json")
    assert status == 0, err
    expected = minddpg.evaluate(minddpg.load("other"), "Pendulum-v1", 2, 10_000)
    assert json.loads(out)["returns"] == expected.tolist()
    (run_directory / "best.npz").unlink()
    status, _, err = evaluate(capsys, "run", "--best")
    assert (status, err.count("\n")) == (2, 1)
    assert "run holds no best.npz: " in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--env-kwargs", "gravity=3"], "gravity"),
        (["--env-kwargs", "3"], "must be name=value"),
        (["--video", "video.gif"], "video.gif must end in .mp4"),
        (["--video", "no/such/video.mp4"], "no/such is not a directory"),
        (["--video", "a" * 300 + ".mp4"], "too long a name"),
        (["--video", "x.mp4", "--env-kwargs", "render_mode=human"], "leave render_mode out"),
        (["--env", "Nowhere-v0", "--video", "x.mp4"], "cannot make 'Nowhere-v0'"),
        (["--episode", "3"], "there is no --episode; did you mean --episodes?"),
    ],
)
def test_bad_input_gets_one_line(run_directory, capsys, tmp_path, argv, message):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    status, _, err = evaluate(capsys, "run", *argv)
    assert (status, err.startswith("minddpg: error: "), err.count("\n")) == (2, True, 1), err
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_video_of_the_first_episode(run_directory, capsys, monkeypatch, tmp_path):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    status, out, err = evaluate(capsys, "run", "--video", "best.mp4", "--episodes", "2")
    assert status == 0, err
    first = minddpg.evaluate(minddpg.load(run_directory), "Pendulum-v1", 1, 10_000)[0]
    assert out.splitlines()[-1] == f"video of the first episode, return {first:.1f}: best.mp4"
    assert (tmp_path / "best.mp4").read_bytes()[4:8] == b"ftyp"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.mp4", "run"]


def test_the_extra_is_named(run_directory, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    status, _, err = evaluate(capsys, "run", "--video", "x.mp4")
    assert (status, err) == (
        2, "minddpg: error: a video needs the extra video; from a checkout: pip install '.[video]'\n"
    )  # fmt: skip


def test_a_directory_of_any_name(run_directory, capsys):
    name = "l\u00e4uf \udcff"
    Path("run").rename(name)
    status, out, err = evaluate(capsys, name, "--episodes", "1")
    assert status == 0, err
    assert "Pendulum-v1, l\u00e4uf \\udcff: mean return" in out
