"""Every signal that asks to stop, at any step, finishes the step, once; whatever handled it before handles it after."""

import os
import signal

import numpy as np
import pytest
from test_exact_resume import CONFIG, assert_equal_files, files

import minddpg
from minddpg import Config
from minddpg.training import Stop, stop_on_signal

SIGNALS = {name: getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
NAMES = list(SIGNALS)
TINY = Config(steps=60, hidden_sizes=(4,), batch_size=4, learning_starts=20, evaluate_every=0, diagnose_every=0)


@pytest.fixture(params=NAMES)
def number(request):
    """A signal; the test's own handler handles all of them before and after."""
    before = {number: signal.signal(number, handler) for number in SIGNALS.values()}
    HANDLED.clear()
    yield SIGNALS[request.param]
    assert [signal.signal(number, earlier) for number, earlier in before.items()] == [handler] * len(before)


HANDLED = []


def handler(number, frame):
    HANDLED.append(number)


@pytest.fixture(scope="module")
def whole():
    return minddpg.train("Pendulum-v1", TINY).agent.actor.params


@pytest.mark.parametrize("at", [1, 60])
def test_a_step_is_finished(number, at, whole, tmp_path):
    """By the kernel, as `kill` sends it; the checkpoint is of that step, and the rest is made as if nothing was."""
    steps = []

    def progress(step, history):
        steps.append(step)
        if step == at:
            os.kill(os.getpid(), number)

    result = minddpg.train("Pendulum-v1", TINY, out=tmp_path / "run", progress=progress)
    assert (result.interrupted, result.signal, result.steps, steps[-1]) == (True, number, at, at)
    assert HANDLED == []
    resumed = minddpg.resume(tmp_path / "run")
    assert (resumed.interrupted, resumed.signal, resumed.steps) == (False, None, 60)
    np.testing.assert_array_equal(resumed.agent.actor.params, whole)


def test_a_second_one_of_any_kind_is_handled_as_before(number):
    for first in SIGNALS.values():
        HANDLED.clear()
        with stop_on_signal(Stop()) as stop:
            signal.raise_signal(first)
            assert stop.number == first
            assert HANDLED == []
            signal.raise_signal(number)
            assert stop.number == first
            assert [number] == HANDLED
        assert signal.getsignal(number) is handler


def test_after_an_error_signals_are_handled_as_before(number):
    with pytest.raises(KeyError), stop_on_signal(Stop()):
        raise KeyError
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize("name", NAMES)
def test_what_is_ignored_stays_ignored(name):
    number = SIGNALS[name]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signal(Stop()) as stop:
            signal.raise_signal(number)
            assert stop.number is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_an_evaluation_that_was_interrupted_is_made_again(tmp_path):
    """The run that goes on has the files of the one that was not interrupted."""
    import gymnasium

    made, steps = [], []

    class Interrupting(gymnasium.Wrapper):
        def __init__(self):
            super().__init__(gymnasium.make("Pendulum-v1"))
            made.append(self)

        def step(self, action):
            if len(made) == 2 and made[1] is self:  # the evaluations'
                steps.append(action)
                if len(steps) == 90:
                    signal.raise_signal(signal.SIGTERM)
            return super().step(action)

    config = CONFIG.replace(steps=160, evaluation_episodes=2)
    stopped = minddpg.train(Interrupting, config, seed=3, out=tmp_path / "cut")
    assert (stopped.steps, stopped.signal, stopped.evaluations) == (150, signal.SIGTERM, [])
    assert len(steps) == 90
    made.append(None)
    result = minddpg.resume(tmp_path / "cut", env=Interrupting)
    assert [row["step"] for row in result.evaluations] == [150]
    minddpg.train(Interrupting, config, seed=3, out=tmp_path / "whole")
    assert_equal_files(files(tmp_path / "cut"), files(tmp_path / "whole"))
