"""Progress: a line now and then, or a bar where somebody watches."""

import sys

import pytest

from minddpg import Config, progress, train


def test_progress_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    shown = progress.Progress(1280)
    for step in range(1, 1281):
        now[0] += 0.02
        shown(step, [{"return": -float(step)}] if step > 700 else [])
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step 64 of 1,280, episode 0, no episode finished yet, 50 steps/s, 24 s left",
        "step 192 of 1,280, episode 0, no episode finished yet, 50 steps/s, 22 s left",
        "step 448 of 1,280, episode 0, no episode finished yet, 50 steps/s, 17 s left",
        "step 896 of 1,280, episode 1, last 1 returns -896.0, 50 steps/s, 8 s left",
    ]


def test_progress_bar(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.Progress(128)
    assert shown.bar is not None
    shown.started -= 10
    shown(64, [{"return": 1.0}])
    shown(128, [{"return": 2.0}])
    assert shown.bar.n == 128
    shown.close()
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert progress.Progress(128).bar is None


def test_python_shows_it_where_somebody_watches(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    config = Config(steps=200, hidden_sizes=(4,), batch_size=8, learning_starts=50)
    for watched, wanted, shown in ((True, True, True), (True, False, False), (False, True, False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched, raising=False)
        train("Pendulum-v1", config, progress=wanted)
        assert ("200" in capsys.readouterr().err) == shown
