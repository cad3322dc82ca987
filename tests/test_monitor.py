"""Diagnostics while training: they change nothing, come when they should, and do not nag."""

import logging

import numpy as np
import pytest
from conftest import make_batch

from minddpg import DDPG, Config, ConfigError, ReplayBuffer, train
from minddpg.gradflow.monitor import CONFIRMED, PAUSE, Monitor
from minddpg.runs.tables import load_table

CONFIG = Config(steps=300, hidden_sizes=(8, 6), batch_size=16, learning_starts=50)


def replay_of(batch):
    replay = ReplayBuffer(len(batch.rew), batch.obs.shape[1], batch.act.shape[1])
    for row in zip(*batch, strict=True):
        replay.add(*row)
    return replay


def test_training_goes_on_as_if_nobody_looked(tmp_path):
    plain = train("Pendulum-v1", CONFIG.replace(diagnose_every=0, evaluate_every=0), seed=3)
    watched = train("Pendulum-v1", CONFIG.replace(diagnose_every=7, evaluate_every=60), seed=3, out=tmp_path / "run")
    for name, value in plain.agent.state_dict().items():
        np.testing.assert_array_equal(watched.agent.state_dict()[name], value, err_msg=name)
    assert [row["return"] for row in plain.history] == [row["return"] for row in watched.history]
    assert plain.diagnoses == watched.diagnoses == []


def test_rows_come_every_so_many_updates(tmp_path):
    config = CONFIG.replace(updates_per_step=2, update_every=5, diagnose_every=10)
    train("Pendulum-v1", config, out=tmp_path / "run")
    table = load_table(tmp_path / "run", "gradients")
    np.testing.assert_array_equal(table["updates"], range(10, 101, 10))
    np.testing.assert_array_equal(table["step"], range(75, 301, 25))
    assert {"dq_dact_rms", "saturated", "actor.0.gradient_rms", "critic.1.dead", "rms.dact"} <= set(table)
    assert np.isfinite(np.array(list(table.values()))).all()
    train("Pendulum-v1", CONFIG.replace(diagnose_every=0), out=tmp_path / "none")
    assert load_table(tmp_path / "none", "gradients") == {}
    with pytest.raises(ConfigError, match="diagnose_every"):
        CONFIG.replace(diagnose_every=-1)


def blind_agent(rng):
    agent, batch = DDPG(3, 1, CONFIG), make_batch(rng, 64, 3, 1, "float32")
    state = agent.state_dict()
    state["critic.0.weight"][-1] = 0
    agent.load_state_dict(state)
    agent.rates = agent.rates._replace(critic_lr=1e-30)
    return agent, replay_of(batch)


def test_a_thing_is_said_when_it_lasts_and_once_a_minute_at_most(rng):
    agent, replay = blind_agent(rng)
    time, said = [1000.0], []
    monitor = Monitor(rng, warn=lambda d: said.append((time[0], d.name)), clock=lambda: time[0])
    for i in range(3 * int(PAUSE)):
        time[0] = 1000.0 + i
        monitor.look(i, agent, replay)
        assert (len(said) > 0) == (i >= CONFIRMED - 1)
    assert said == [(1000.0 + CONFIRMED - 1 + k * PAUSE, "action-blind") for k in range(3)]
    (finding,) = monitor.found.values()
    assert (finding.diagnosis.name, finding.first, finding.last) == ("action-blind", 0, 3 * int(PAUSE) - 1)
    assert str(finding).startswith("steps 0 to 179: the critic ignores the action")


def test_what_was_not_said_yet_comes_before_what_was(rng):
    agent, replay = blind_agent(rng)
    state = agent.state_dict()
    state["critic.2.bias"] += 1e4
    agent.load_state_dict(state)
    time, said = [0.0], []
    monitor = Monitor(rng, warn=lambda d: said.append(d.name), clock=lambda: time[0])
    for i in range(4 * int(PAUSE)):
        time[0] = float(i)
        monitor.look(i, agent, replay)
    assert said == ["action-blind", "impossible Q", "action-blind", "impossible Q"]


def test_a_single_odd_look_is_not_said(rng):
    agent, replay = blind_agent(rng)
    healthy = DDPG(3, 1, CONFIG, seed=5)
    said = []
    monitor = Monitor(rng, warn=said.append)
    for i in range(20):
        monitor.look(i, healthy if i % CONFIRMED == CONFIRMED - 1 else agent, replay)
    assert said == []
    assert monitor.found == {}


def test_rewards_once_seen_are_remembered(rng):
    """A reward that the ring has overwritten still says how high Q may be."""
    agent, replay, rows = DDPG(2, 1, CONFIG), ReplayBuffer(8, 2, 1), []
    monitor = Monitor(rng, write=rows.append)
    replay.add([0, 0], [0], 100.0, [0, 0], False)
    monitor.look(0, agent, replay)
    for _ in range(8):
        replay.add([0, 0], [0], -1.0, [0, 0], False)
    monitor.look(1, agent, replay)
    assert (rows[1]["rew_low"], rows[1]["rew_high"]) == (-1, 100)
    assert rows[1]["possible_high"] == pytest.approx(100 / (1 - CONFIG.gamma))


def test_without_a_listener_the_logger_is_told_and_the_result_has_it(caplog):
    """An actor that steps far at once is saturated for good."""
    config = CONFIG.replace(actor_lr=3.0, steps=400, final_init=3e-3, diagnose_every=20)
    with caplog.at_level(logging.WARNING, logger="minddpg"):
        result = train("Pendulum-v1", config)
    assert result.diagnoses[0].diagnosis.name in ("saturated", "dead actor")
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().split(":")[0] == result.diagnoses[0].diagnosis.what.split(":")[0]
