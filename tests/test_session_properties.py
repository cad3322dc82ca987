"""Driving a run: when checkpoints come, what the clock says, what is refused, what a result says in words."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

import minddpg
from minddpg import Config, ConfigError, training
from minddpg.runs.tables import load_table
from minddpg.training import CHECKPOINT_SHARE, FIRST_CHECKPOINT, Clock, Episode, TrainResult

SMALL = Config(steps=210, hidden_sizes=(4,), batch_size=4, learning_starts=190, evaluate_every=0, diagnose_every=0)


@pytest.fixture
def now(monkeypatch):
    """A clock that the test sets, in seconds."""
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


@pytest.mark.parametrize("every", [60.0, 7.0, 3.0, 0.5])
@pytest.mark.parametrize("cost", [0.0, 0.001, 2.0])
def test_checkpoints_are_soon_at_first_and_take_a_small_share(now, every, cost):
    clock, pause = Clock(every), min(FIRST_CHECKPOINT, every)
    due = 1000.0 + pause
    for _ in range(7):
        now.time = due - 1e-6
        assert not clock.is_due()
        now.time = due
        assert clock.is_due()
        with clock.timing():
            now.time += cost
        assert clock.elapsed() == now.time - 1000
        pause = min(every, 2 * pause)
        due = now.time + max(pause, cost / CHECKPOINT_SHARE)


def test_without_checkpoints_none_is_ever_due(now):
    clock = Clock(0.0)
    for now.time in (1000.0, 1e4, 1e9):
        assert not clock.is_due()


def test_a_checkpoint_comes_between_steps_and_holds_the_rows_so_far(tmp_path, monkeypatch):
    """One a second, of a clock that goes on by a tenth with every step."""
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 1.0)
    now, saved = SimpleNamespace(time=0.0), []
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now.time))
    real = training.RunDirectory.save

    def save(self, tree, agent, replay, keep_replay=True):
        saved.append((tree["run"]["steps"], len(load_table(self.path, "progress").as_rows()), keep_replay))
        return real(self, tree, agent, replay, keep_replay)

    monkeypatch.setattr(training.RunDirectory, "save", save)

    def progress(steps, history):
        now.time += 0.1

    minddpg.train(
        "Pendulum-v1", SMALL, out=tmp_path / "run", progress=progress, checkpoint_every=1.0, keep_replay=False
    )
    steps = [step for step, _, _ in saved[:-1]]
    assert all(0 <= gap - 10 <= 1 for gap in np.diff(steps))
    assert 10 <= steps[0] <= 12
    assert len(steps) >= 18
    assert [(rows, kept) for _, rows, kept in saved[:-1]] == [(step // 200, True) for step in steps]
    assert saved[-1] == (210, 1, False)
    (row,) = load_table(tmp_path / "run", "progress").as_rows()
    assert row["seconds"] == pytest.approx(19.9)


def test_seconds_go_on_where_a_run_was_left(tmp_path, monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now.time))

    def progress(steps, history):
        now.time += 0.1

    minddpg.train("Pendulum-v1", SMALL, out=tmp_path / "run", progress=progress)
    now.time = 5000.0
    result = minddpg.resume(tmp_path / "run", 420, progress=progress)
    assert [row["seconds"] for row in result.history] == pytest.approx([19.9, 19.9 + 18.9])
    assert [row["step"] for row in result.history] == [200, 400]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vectorization": "other"}, "vectorization must be sync or async, not 'other'"),
        ({"checkpoint_every": -1}, "checkpoint_every must be a number of seconds, 0 or more, not -1"),
        ({"checkpoint_every": float("inf")}, "checkpoint_every must be a number"),
        ({"checkpoint_every": float("nan")}, "checkpoint_every must be a number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": 1.0}, "seed must be a whole number"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        minddpg.train("Pendulum-v1", SMALL, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_what_is_asked_for_beside_the_preset():
    """A dict changes the preset of the environment, a Config stands in its place, steps go before both."""
    preset = Config.preset("Pendulum-v1")
    changes = {"hidden_sizes": (3,), "batch_size": 2, "learning_starts": 20, "evaluate_every": 0}
    for config, steps, expected in (
        ({**changes, "steps": 30}, None, preset.replace(**changes, steps=30)),
        ({**changes, "steps": 90}, 31, preset.replace(**changes, steps=31)),
        (Config(**changes, steps=30), None, Config(**changes, steps=30)),
        (Config(**changes, steps=90), 31, Config(**changes, steps=31)),
    ):
        result = minddpg.train("Pendulum-v1", config, steps)
        assert result.agent.config == expected
        assert result.steps == expected.steps


def test_an_episode_that_never_ends_has_the_means_of_all_its_updates():
    """However many they are, and however it was kept in between."""
    rng = np.random.default_rng(0)
    losses = [training.Losses(*row) for row in rng.standard_normal((2_500, len(training.Losses._fields))).tolist()]
    episode = Episode(3, 1.5, 7)
    for number, row in enumerate(losses):
        episode.add(row)
        if number in (10, 999, 1_000, 2_000):
            episode = Episode(**episode.state())
    expected = dict(zip(training.Losses._fields, np.mean(losses, axis=0), strict=True))
    assert episode.means() == pytest.approx(expected)
    assert episode.means() == pytest.approx(expected)
    assert (episode.number, episode.total, episode.length) == (3, 1.5, 7)
    assert all(value != value for value in Episode().means().values())


def in_words(result):
    """The lines of a repr: what is before the gap, and what is behind it."""
    return {
        name: value
        for name, _, value in (re.split("( {2,}|$)", line, maxsplit=1) for line in repr(result).splitlines())
    }


def test_a_result_in_words(tmp_path):
    result = minddpg.train("Pendulum-v1", SMALL.replace(steps=2_410, learning_starts=2_405), out=tmp_path / "run")
    mean = np.mean([row["return"] for row in result.history[2:]])
    assert in_words(result) == {
        "TrainResult": "",
        "steps": "2,410",
        "episodes": "12",
        "mean of the last 10 returns while learning": f"{mean:.1f}",
        "files": str(tmp_path / "run"),
        "agent": result.agent.title(),
    }
    evaluations = [{"step": 1_000, "mean": -5.0}, {"step": 2_000, "mean": -3.0}, {"step": 3_000, "mean": -4.25}]
    other = TrainResult(result.agent, [], 5, True, evaluations=evaluations)
    assert in_words(other) == {
        "TrainResult": "",
        "steps": "5, interrupted",
        "episodes": "0",
        "best evaluation": "-3.0 at step 2,000",
        "last evaluation": "-4.2",
        "agent": result.agent.title(),
    }


def test_what_is_visibly_wrong_goes_to_whom_it_may_concern(caplog):
    """To `warn` where there is one, to the logger otherwise; once."""
    import gymnasium

    def make():
        return gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))

    said, config = [], SMALL.replace(evaluate_every=200)
    with caplog.at_level(logging.WARNING, logger="minddpg"):
        minddpg.train(make, config, warn=said.append)
        assert caplog.records == []
        minddpg.train(make, config)
        minddpg.train(make, SMALL)
    assert [record.getMessage() for record in caplog.records] == said
    (line,) = said
    assert line.startswith("NormalizeObservation learns statistics while training")
