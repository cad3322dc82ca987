"""scripts/options.py: what it keeps, and what the chapter shows of it. The options' own tests: test_options.py."""

import sys
from pathlib import Path

import pytest
from conftest import JIT

import minddpg

ROOT = Path(minddpg.__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import options  # noqa: E402


def test_finished_runs_are_kept_and_not_made_again(monkeypatch, tmp_path, capsys):
    made = []

    def run(env, option, seed, steps):
        made.append((option, seed))
        if option == "TD3" and seed == 101:
            return {"env": env, "option": option, "seed": seed, "steps": steps, "error": 'diverged, "here"\nand there'}
        if len(made) == 4:
            raise KeyboardInterrupt
        number = {"return": seed, "seconds": 1, "update": 1.5, "output": 0.25, "way": 3, "worst": "tanh'"}
        return {"env": env, "option": option, "seed": seed, "steps": steps, **number}

    monkeypatch.setattr(options, "run", run)
    asked = ["options.py", "--envs", "Some-v0", "--steps", "7", "--seeds", "2", "--options", "plain", "TD3"]
    monkeypatch.setattr(sys, "argv", [*asked, "--results", str(tmp_path / "new" / "runs.csv")])
    made.append("before")
    with pytest.raises(KeyboardInterrupt):
        options.main()
    options.main()
    assert made[1:] == [("plain", 100), ("TD3", 100), ("plain", 101), ("plain", 101), ("TD3", 101)]
    shown = capsys.readouterr().out
    assert "| plain | 2 | 100.5 | 100.0 to 101.0 | x 1.50 | 0.25 | 3 | tanh' (2 of 2) |" in shown
    assert "| TD3 | 2 (1 diverged) | 100.0 | 100.0 to 100.0 | x 1.50 | 0.25 | 3 | tanh' (1 of 1) |" in shown
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["runs.csv"]
    options.main()
    assert len(made) == 6


@pytest.mark.skipif(JIT, reason="a short run as plain NumPy is enough")
def test_a_run_is_told_in_numbers(monkeypatch):
    monkeypatch.setattr(options, "EPISODES", 1)
    monkeypatch.setattr(options, "update_time", lambda *_: 1.25)
    line = options.run("Pendulum-v1", "3-step returns", 100, 1_010)
    assert set(line) == {*options.COLUMNS} - {"error"}
    assert -2000 < float(line["return"]) < 0
    assert line["update"] == "1.25"


def test_the_chapter_shows_what_the_script_prints():
    chapter = (ROOT / "minddpg" / "README.md").read_text(encoding="utf-8")
    lines = options.read(options.RESULTS / "options.csv")
    assert lines
    for env in {line["env"] for line in lines}:
        assert len([line for line in lines if line["env"] == env]) == 5 * len(options.OPTIONS)
        assert options.table(lines, env, options.STEPS[env]) in chapter
