"""When a monitor looks, however many updates a step makes; and one that goes on from its state sees the same."""

import json

import numpy as np
from conftest import agent_of
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpg import ReplayBuffer
from minddpg.gradflow.monitor import Monitor


@settings(max_examples=12)
@given(every=st.integers(0, 6), made=st.lists(st.integers(0, 4), min_size=4, max_size=10), cut=st.integers(0, 9))
def test_looks_come_when_due_and_go_on_from_a_state(every, made, cut):
    agent, replay = agent_of(2, 1, batch_size=4, hidden_sizes=(3,)), ReplayBuffer(9, 2, 1, "float64")
    rows, resumed, rng = [], [], np.random.default_rng(0)
    for i in range(9):
        replay.add([i, -i], [0.1 * i], float(i), [i + 1, -i], i == 8)
    monitor, other, updates, expected = Monitor(np.random.default_rng(3), every, rows.append), None, 0, []
    for step, count in enumerate(made):
        if step == min(cut, len(made) - 1):
            other = Monitor(np.random.default_rng(4), every, resumed.append)
            other.restore(json.loads(json.dumps(monitor.state())))  # as a checkpoint keeps it
            before = len(rows)
        for _ in range(count):
            agent.update_from(replay, rng)
        due = every > 0 and any(number % every == 0 for number in range(updates + 1, updates + count + 1))
        updates += count
        assert monitor.after_updates(step, agent, replay, count) == due
        if other:
            assert other.after_updates(step, agent, replay, count) == due
        if due:
            expected.append((step, updates))
    assert [(row["step"], row["updates"]) for row in rows] == expected
    assert resumed == rows[before:]
    assert json.dumps(monitor.state()) == json.dumps(other.state())
