"""scripts/reproduce.py: a trial of a table, from a study to committed files."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from studies import QUICK

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import reproduce

from minddpg.study import run

EARLY = {**QUICK, "learning_starts": 100}  # so that the first evaluation finds an agent that has learnt


@pytest.fixture
def trial(monkeypatch):
    """A table of one quick environment, whose optimum is known."""
    row = reproduce.Row("Pendulum-v1", (4, 7), "to finish", (reproduce.Published("me", "9", "12.3", "a book"),), EARLY)
    monkeypatch.setitem(reproduce.TABLES, "pendulum", [row])
    monkeypatch.setattr(reproduce, "run", lambda *args, **options: run(*args, episodes=2, **options))
    monkeypatch.setitem(sys.modules, "pendulum_optimum", type(sys)("pendulum_optimum"))
    sys.modules["pendulum_optimum"].optimal_returns = lambda first, count: np.full(count, -100.0)
    return row


def test_a_table_is_made_printed_and_written(trial, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--table", "pendulum", "--results", "results", "--workers", "2"])
    reproduce.main()
    printed = capsys.readouterr().out
    assert "Pendulum-v1, 240 steps; aim: to finish" in printed
    assert "published: me, 9 steps: 12.3 (a book)" in printed
    with open("results/Pendulum-v1.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["4", "7"]
    assert all(float(row["regret"]) == -100 - float(row["final"]) for row in rows)
    assert f"{float(rows[1]['regret']):,.1f}" in printed
    assert "numpy" in rows[0]["versions"]
    assert "cores" in rows[0]["machine"]
    with open("results/Pendulum-v1-curves.csv", newline="") as file:
        assert [(row["seed"], row["step"]) for row in csv.DictReader(file)] == [
            ("4", "120"), ("4", "240"), ("7", "120"), ("7", "240"),
        ]  # fmt: skip
    before = printed.splitlines()[1:]
    reproduce.main()  # nothing is made again
    assert capsys.readouterr().out.splitlines()[1:] == before


def test_a_trial_is_not_taken_for_a_result(trial, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "RESULTS", Path("committed"))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--table", "pendulum", "--seeds", "4"])
    reproduce.main()
    assert "published" in capsys.readouterr().out
    assert not Path("committed").exists()


def test_every_row_has_an_aim_seeds_of_its_own_and_a_source():
    rows = [row for table in reproduce.TABLES.values() for row in table]
    assert len({row.env for row in rows}) == len(rows) == 7
    for row in rows:
        assert min(row.seeds) >= 100  # presets were chosen on lower ones
        assert row.aim
        assert all(other.source and other.what for other in row.published)
