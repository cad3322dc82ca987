"""`minddpg study` and `minddpg plot STUDY`, as they are typed."""

import os
import signal
from pathlib import Path

import pytest
from studies import FATAL, QUICK, fake_study

from minddpg import cli
from minddpg.cli import study as command
from minddpg.study import Study


def flags(**values):
    words = []
    for name, value in {**QUICK, **values}.items():
        words += [f"--{name.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return [*words, "--episodes", "1"]


def error_of(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(cli.main(["study", *words]))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("minddpg: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


def test_a_study_is_made_shown_tuned_and_drawn(capsys):
    words = ["Pendulum-v1", "--seeds", "2", "--vary", "actor_lr=1e-4,1e-3", "--workers", "2"]
    assert cli.main(["study", *words, *flags()]) == 0
    printed = capsys.readouterr().out
    assert "4 runs: 1 environment x 2 variants x 2 seeds -> studies/Pendulum-v1" in printed
    assert "Pendulum-v1 actor_lr=0.001" in printed
    assert "last10: mean of the last 10 evaluations" in printed
    assert "best: best evaluation" in printed
    assert "look further: minddpg plot studies/Pendulum-v1, name the best variant: minddpg study" in printed
    study = Study("studies/Pendulum-v1")
    assert len(study.records) == 4
    assert study.jobs[1].config["actor_lr"] == 1e-3
    assert study.jobs[0].config["steps"] == 240

    assert cli.main(["study", "studies/Pendulum-v1"]) == 0
    assert study.table() in capsys.readouterr().out

    assert cli.main(["study", "studies/Pendulum-v1", "--best", "--measure", "final"]) == 0
    said = capsys.readouterr().out
    best = study.best("Pendulum-v1", "final")
    assert said.startswith(
        f"Pendulum-v1: {best.best.variant} is best by final: IQM {best.best.iqm} over 2 runs; second"
    )
    assert "measure it again on other seeds" in said

    assert cli.main(["study", "--resume", "studies/Pendulum-v1"]) == 0
    assert "-> studies/Pendulum-v1" in capsys.readouterr().out


def test_the_next_study_has_a_number_and_seeds_are_added(capsys, monkeypatch):
    monkeypatch.setattr("minddpg.study.leading.run_job", lambda job: {"state": "stopped"})
    fake_study("studies/Pendulum-v1")
    fake_study("mine", seeds=2)
    taken = []
    monkeypatch.setattr(
        "minddpg.cli.study._lead", lambda args, plan, path, start: taken.append((str(path), plan.seeds))
    )
    cli_run = lambda *words: command.run(cli._parser(["study", *words])[0].parse_args(["study", *words]))  # noqa: E731
    cli_run("Pendulum-v1", "--seeds", "3,5", *flags())
    cli_run("--resume", "mine", "--seeds", "10-11")
    assert taken == [("studies/Pendulum-v1-2", (3, 5)), ("mine", (0, 1, 10, 11))]


def test_failures_are_listed_and_are_the_exit_status(capsys, tmp_path, monkeypatch):
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "fatal.py").write_text(FATAL)
    monkeypatch.syspath_prepend(str(tmp_path / "module"))
    words = ["fatal:Fatal-v0", "--seeds", "1", "--out", "s", "--env-kwargs", "at=230", "how=fail"]
    assert cli.main(["study", *words, *flags()]) == 1
    printed = capsys.readouterr()
    assert "failed, and in no figure above: fatal:Fatal-v0 seed 0: fatal:Fatal-v0 failed at step 230" in printed.out
    assert "seed 0 failed: fatal:Fatal-v0 failed at step" in printed.err


def test_an_interrupted_study_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(job):
        os.kill(os.getpid(), signal.SIGINT)
        return {"state": "stopped"}

    class Here:
        def submit(self, fn, job):
            from concurrent.futures import Future

            future = Future()
            future.set_result(interrupted(job))
            return future

    from contextlib import nullcontext

    monkeypatch.setattr("minddpg.study.leading.processes", lambda workers, path: nullcontext(Here()))
    assert cli.main(["study", "Pendulum-v1", "--seeds", "1", "--out", "my study", *flags()]) == 130
    printed = capsys.readouterr()
    assert "go on with: minddpg study --resume 'my study'" in printed.out
    assert "stopping: running jobs save what they have" in printed.err
    assert "0 of 1" in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which environment?"),
        (["CartPole-v1"], "action space"),
        (["Pendulum-v9"], "did you mean 'Pendulum-v1'"),
        (["Pendulum-v1", "Pendulum-v1"], "asked for twice"),
        (["Pendulum-v1", "--seeds", "0"], "must be how many seeds, or which"),
        (["Pendulum-v1", "--seeds", "3,3"], "must be how many seeds, or which"),
        (["Pendulum-v1", "--seeds", "9-3"], "must be how many seeds, or which"),
        (["Pendulum-v1", "--seeds", "a"], "must be how many seeds, or which"),
        (["Pendulum-v1", "--vary", "actor_rate=1"], "there is no hyperparameter 'actor_rate'"),
        (["Pendulum-v1", "--vary", "batchsize=1"], "did you mean batch_size"),
        (["Pendulum-v1", "--vary", "tau"], "must be NAME=VALUE,VALUE"),
        (["Pendulum-v1", "--vary", "tau=a,b"], "'a' is not a number"),
        (["Pendulum-v1", "--vary", "tau=0.1,2"], "tau must be a number in"),
        (["Pendulum-v1", "--vary", "tau=0.1", "tau=0.2"], "names tau twice"),
        (["Pendulum-v1", "--vary", "tau=0.1,0.1"], "asked for twice"),
        (["Pendulum-v1", "--preset", "fast"], "there is no preset 'fast'"),
        (["Pendulum-v1", "--steps", "1500"], "have no evaluation"),
        (["Pendulum-v1", "--best"], "is not a study"),
        (["nowhere", "--best"], "is not a study"),
        (["a", "b", "--best"], "--best is of one study"),
        (["--resume", "nowhere"], "is not a study"),
        (["--resume", "mine", "--tau", "0.1"], "leave out --tau"),
        (["--resume", "mine", "Pendulum-v1"], "leave out Pendulum-v1"),
        (["mine", "--seeds", "3"], "to go on with it: --resume; leave out --seeds"),
        (["mine", "--best"], "nothing varies in mine"),
        (["Pendulum-v1", "--out", "mine"], "mine exists; choose another --out, or go on with it: --resume mine"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, words, message):
    fake_study("mine", seeds=1)
    before = sorted(Path().rglob("*"))
    assert message in error_of(capsys, *words)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "expected"), [("3", (0, 1, 2)), ("10-12", (10, 11, 12)), ("7-7", (7,)), ("5,2,9", (5, 2, 9))]
)
def test_seeds(text, expected):
    assert command.seeds(text) == expected


def test_values_to_vary_over():
    assert command.varied("actor-lr=1e-4,1e-3") == ("actor_lr", [1e-4, 1e-3])
    assert command.varied("hidden_sizes=64x64,256") == ("hidden_sizes", [(64, 64), (256,)])
    assert command.varied("final_init=none,0.003") == ("final_init", [None, 0.003])
    assert command.varied("noise=ou,gaussian") == ("noise", ["ou", "gaussian"])
    assert command.varied("batch_size=64,1e2") == ("batch_size", [64, 100])


def test_plot(capsys):
    pytest.importorskip("matplotlib")
    study = fake_study("s", vary={"tau": [0.01, 0.02]})
    assert cli.main(["plot", "s"]) == 0
    printed = capsys.readouterr().out
    assert study.table() in printed
    assert "picture: s/study.png" in printed
    assert {path.name for path in Path("s").iterdir()} >= {"study.png", "results.csv", "curves.csv"}
    assert cli.main(["plot", "s", "--out", "other.svg"]) == 0
    assert Path("other.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s", "s"], "one study at a time"),
        (["s", "--out", "a.gif"], "must end in"),
        (["s", "--out", "no/a.png"], "make it first"),
    ],
)
def test_plots_that_cannot_be(capsys, words, message):
    pytest.importorskip("matplotlib")
    fake_study("s")
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(cli.main(["plot", *words]))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
