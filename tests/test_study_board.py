"""What is shown while a study is made."""

import io
import os

import pytest
from studies import QUICK

from minddpg.study import board
from minddpg.study.board import Board, in_time
from minddpg.study.leading import State
from minddpg.study.results import make_plan


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def state(tmp_path):
    """Four runs of 1,000 steps: one done, one failed, one at 300, one waiting."""
    plan = make_plan("Pendulum-v1", (0, 1, 2, 3), {**QUICK, "steps": 1_000})
    jobs = plan.jobs(tmp_path)
    state = State(jobs, {jobs[0].name: {"state": "done"}, jobs[1].name: {"state": "failed", "error": "no"}})
    state.running[jobs[2].name] = {"job": jobs[2].name, "step": 300, "last": -1_234.5, "when": 50.0}
    return state


def test_a_line_per_running_job_and_the_total(state):
    shown = Board(io.StringIO())
    shown(state)
    state.running[state.jobs[2].name].update(step=400, when=60.0)
    first, total = shown.lines(state)
    assert first == "Pendulum-v1 seed 2  [########------------]   400 of 1,000  return -1,234.5  10 steps/s"
    # 10 steps/s: 600 steps of this one and 1,000 of the one that waits, one at a time
    assert total == "4 runs: 1 done, 1 failed, 1 running, 1 waiting; 60 % of all steps, 3 min left"


def test_two_at_a_time_take_half_the_time(state):
    shown = Board(io.StringIO())
    state.running[state.jobs[3].name] = {"job": state.jobs[3].name, "step": 300, "when": 7.0}
    shown(state)
    for job in state.jobs[2:]:
        state.running[job.name]["step"] = 400
        state.running[job.name]["when"] += 10
    assert shown.lines(state)[-1].endswith("2 running; 70 % of all steps, 60 s left")


def test_what_has_not_told_yet_says_what_it_does(state):
    state.running = {state.jobs[2].name: {"state": "waiting for another process that has this run"}}
    first, total = Board(io.StringIO()).lines(state)
    assert first == "Pendulum-v1 seed 2  waiting for another process that has this run"
    assert "left" not in total
    state.running = {state.jobs[2].name: {"state": "trained; being evaluated"}}
    first, total = Board(io.StringIO()).lines(state)
    assert first.endswith("trained; being evaluated")
    assert "75 % of all steps" in total


def test_a_terminal_is_redrawn_in_place(state, monkeypatch):
    monkeypatch.setattr(board.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((40, 20)))
    stream = Terminal()
    shown = Board(stream)
    shown(state)
    before = len(stream.getvalue())
    shown(state)
    again = stream.getvalue()[before:]
    assert again.startswith("\033[2F\033[J")
    lines = again.removeprefix("\033[2F\033[J").splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 39 for line in lines)
    shown.say("something happened")
    assert stream.getvalue().endswith("\033[2F\033[Jsomething happened\n")
    shown.close()
    assert stream.getvalue().endswith("happened\n\033[J")


def test_no_more_is_drawn_than_a_terminal_has_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(board.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 10)))
    jobs = make_plan("Pendulum-v1", range(30), QUICK).jobs(tmp_path)
    state = State(jobs, running={job.name: {"job": job.name, "step": 1, "when": 0.0} for job in jobs})
    stream = Terminal()
    Board(stream)(state)
    drawn = stream.getvalue().removeprefix("\033[J").splitlines()
    assert len(drawn) == 8
    assert drawn[5].startswith("Pendulum-v1 seed 5 ")
    assert drawn[6] == "and 24 more"
    assert drawn[7].startswith("30 runs: 30 running")


def test_elsewhere_lines_come_seldom(state, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = Board(stream)
    for _ in range(600):
        now[0] += 0.5
        shown(state)
    assert 5 <= stream.getvalue().count("4 runs:") <= 10
    assert "\033" not in stream.getvalue()
    shown.close()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (99, "99 s"), (101, "2 min"), (5_900, "99 min"), (12_000, "3 h 20 min")]
)
def test_times_in_words(seconds, words):
    assert in_time(seconds) == words
