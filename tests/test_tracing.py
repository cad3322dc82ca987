"""The trace: its table, its numbers, and whether the step climbs."""

import json
import math
import re

import numpy as np
import pytest
from conftest import make_batch, random_agent
from test_way import twin_arrays

from minddpg import DDPG, Config, ShapeError
from minddpg.ddpg import critic_step
from minddpg.gradflow import tracing
from minddpg.gradflow.tracing import HEADINGS, trace


@pytest.fixture
def agent_and_batch(rng):
    return DDPG(3, 1, Config(hidden_sizes=(8, 6), dtype="float64"), seed=1), make_batch(rng, 16, 3, 1)


@pytest.mark.parametrize("seed", range(20))
def test_norms_equal_the_twins_after_the_critics_step(seed):
    agent, batch = random_agent(seed, updates=2)
    traced = trace(agent, batch, routes=False)
    critic_step(agent.learner, batch, agent.rates)
    for name, expected in twin_arrays(agent, batch).items():
        hop = traced[name]
        np.testing.assert_allclose(
            [hop.norm, hop.rms, hop.low, hop.high, hop.zeros],
            [
                np.linalg.norm(expected),
                np.sqrt(np.mean(expected**2)),
                expected.min(),
                expected.max(),
                np.mean(expected == 0),
            ],
            rtol=1e-8,
            atol=1e-13,
            err_msg=name,
        )
        assert traced.arrays[name] is hop.array
        if hop.of and traced[hop.of].norm:
            assert hop.factor == pytest.approx(hop.norm / traced[hop.of].norm)
        else:
            assert math.isnan(hop.factor)


def test_the_table_reads_from_top_to_bottom(agent_and_batch):
    traced = trace(*agent_and_batch)
    lines = str(traced).splitlines()
    steps = [int(found.group(1)) for line in lines if (found := re.match(r"( ?\d+)  \S", line))]
    assert steps == [1, 2, 3, 8, 4, 5, 6, 7, 9, 10]
    assert sorted(steps) == list(range(1, 11)) == sorted(HEADINGS)
    shown = [line.split()[0] for line in lines if re.match(r"    \S+ +\([\d,]+\)", line)]
    assert shown == [hop.name for hop in traced.hops]
    assert shown[0] == "obs"
    assert shown.index("act") < shown.index("q") < shown.index("dq") < shown.index("dq_dact") < shown.index("dtheta")
    assert f"it has 16 x {agent_and_batch[0].actor.params.size} elements" in str(traced)
    assert max(map(len, lines)) <= 150
    assert "(d) Jacobian" in str(traced)
    assert "nothing is visibly wrong" in lines[-1]
    assert "(d) Jacobian" not in str(trace(*agent_and_batch, routes=False))


def test_json_says_the_same(agent_and_batch):
    traced = trace(*agent_and_batch)
    record = json.loads(traced.to_json())
    assert (record["n"], record["updates"], len(record["hops"])) == (16, 0, len(traced.hops))
    for row, hop in zip(record["hops"], traced.hops, strict=True):
        assert (row["name"], row["step"], row["norm"], tuple(row["shape"])) == (hop.name, hop.step, hop.norm, hop.shape)
    assert record["climb"]["ratio"] == traced.climb.ratio
    assert [route["name"][:3] for route in record["routes"]] == ["(a)", "(b)", "(c)", "(d)"]
    assert record["diagnoses"] == []
    assert record["statistics"]["saturated"] == 0
    assert record["hops"][0]["factor"] is None  # NaN is no JSON


@pytest.mark.parametrize("seed", range(1, 20, 2))
def test_a_small_step_climbs_as_predicted(seed):
    agent, batch = random_agent(seed)
    climb = trace(agent, batch, routes=False).climb
    if climb.predicted:
        assert climb.ratio == pytest.approx(1, abs=0.05)  # a kink may lie on the way
    else:
        assert math.isnan(climb.ratio)
        assert climb.actual == 0


def test_what_adams_step_does_to_q_is_measured(agent_and_batch):
    agent, batch = agent_and_batch
    climb = trace(agent, batch, routes=False).climb
    before, after = agent.copy(), agent.copy()
    critic_step(before.learner, batch, before.rates)
    after.update(batch)
    rise = np.mean(after.q(batch.obs, after.act(batch.obs)) - before.q(batch.obs, before.act(batch.obs)))
    assert climb.adam == pytest.approx(rise, rel=1e-6)
    assert climb.adam > 0


def test_a_step_the_wrong_way_shows(agent_and_batch, monkeypatch):
    right = tracing.actor_gradient
    monkeypatch.setattr(tracing, "actor_gradient", lambda *a: (-right(*a)[0], *right(*a)[1:]))
    assert trace(*agent_and_batch, routes=False).climb.ratio == pytest.approx(-1, abs=0.05)


def test_the_agent_is_left_as_it_was_and_float32_stays_float32(rng):
    agent, batch = DDPG(2, 2, Config(hidden_sizes=(5,)), seed=0), make_batch(rng, 4, 2, 2)
    agent.update(batch)
    before = agent.state_dict()
    traced = trace(agent, batch)
    assert all(array.dtype == np.float32 for array in traced.arrays.values())
    assert traced.updates == 1
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    after = agent.copy()
    after.update(batch)
    for layer in range(2):
        for kind in ("weight", "bias"):
            name = f"actor.{layer}.{kind}"
            step = traced[f"actor.{layer}.step_{kind}"].array
            np.testing.assert_allclose(before[name] + step, after.state_dict()[name], rtol=1e-6)


def test_a_batch_that_does_not_fit_is_named(agent_and_batch):
    agent, batch = agent_and_batch
    with pytest.raises(ShapeError, match=r"batch.obs has shape \(16, 2\)"):
        trace(agent, batch._replace(obs=batch.obs[:, :2]))
    with pytest.raises(KeyError):
        trace(agent, batch, routes=False)["dnothing"]


def test_a_dead_critic_is_seen_where_the_gradient_dies(rng):
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(8, 8), dtype="float64"), seed=0), make_batch(rng, 16, 3, 1)
    state = agent.state_dict()
    state["critic.1.bias"] -= 100
    agent.load_state_dict(state)
    traced = trace(agent, batch)
    assert traced["critic.1.dh"].norm > 0
    assert traced["critic.1.dz"].norm == traced["dact"].norm == traced["dtheta"].norm == 0
    assert traced["critic.1.dz"].factor == 0
    assert math.isnan(traced["critic.0.dh"].factor)
    assert "wrong: every unit of the critic's layer 1 is 0" in str(traced)
