"""The trace: its table, its numbers, and whether the step climbs."""

import json
import math
import re

import numpy as np
import pytest
from conftest import make_batch, random_agent
from test_way import twin_arrays

from minddpg import DDPG, Config, ShapeError
from minddpg.ddpg import actor_gradient, critic_step
from minddpg.gradflow import tracing
from minddpg.gradflow.tracing import HEADINGS, trace


@pytest.fixture
def agent_and_batch(rng):
    return DDPG(3, 1, Config(hidden_sizes=(8, 6), dtype="float64"), seed=1), make_batch(rng, 16, 3, 1)


@pytest.mark.parametrize("seed", range(20))
def test_numbers_equal_the_twins_after_the_critics_step(seed):
    agent, batch = random_agent(seed, updates=2)
    traced = trace(agent, batch, routes=False)
    critic_step(agent.learner, batch, agent.rates)
    for name, expected in twin_arrays(agent, batch).items():
        hop = traced[name]
        np.testing.assert_allclose(
            [hop.rms, hop.low, hop.high, hop.zeros],
            [
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
        if hop.of and traced[hop.of].rms:
            assert hop.factor == hop.rms / traced[hop.of].rms
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
        assert (row["name"], row["step"], row["rms"], tuple(row["shape"])) == (hop.name, hop.step, hop.rms, hop.shape)
        assert "norm" not in row
    assert record["climb"]["steps"][-1]["ratio"] == traced.climb.ratio
    assert record["story"]["text"] == str(traced.story)
    assert [route["name"][:3] for route in record["routes"]] == ["(a)", "(b)", "(c)", "(d)"]
    assert record["diagnoses"] == []
    assert record["statistics"]["saturated"] == 0
    assert record["hops"][0]["factor"] is None  # NaN is no JSON


@pytest.mark.parametrize("seed", range(1, 20, 2))
def test_a_small_step_climbs_as_predicted(seed):
    agent, batch = random_agent(seed)
    climb = trace(agent, batch, routes=False).climb
    long, middle, short = climb.steps
    assert (long.lr, middle.lr) == (pytest.approx(100 * short.lr), pytest.approx(10 * short.lr))
    if short.predicted:
        assert climb.ratio == pytest.approx(1, abs=1e-3)
        assert short.predicted == pytest.approx(short.lr * np.sum(slope(agent, batch) ** 2))
    else:
        assert math.isnan(climb.ratio)
        assert short.actual == 0


def slope(agent, batch):
    moved = agent.copy()
    critic_step(moved.learner, batch, moved.rates)
    return actor_gradient(agent.actor, moved.critic, batch.obs)[0]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_predicted_is_measured_on_steep_and_kinked_agents_too(seed):
    """Q of some hundreds and weights of 3, as trained agents have: a fixed step was 20 % off."""
    rng = np.random.default_rng(seed)
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(64, 64)), seed), make_batch(rng, 64, 3, 1, "float32")
    for network in (agent.actor, agent.critic):
        network.params[:] *= 4
    climb = trace(agent, batch, routes=False).climb
    assert climb.ratio == pytest.approx(1, abs=1e-3)
    assert max(abs(step.ratio - 1) for step in climb.steps) > 5e-3


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
    with pytest.raises(KeyError, match=r"there is no 'dnothing'; there are obs, actor\.0\.h, .*, dact, "):
        trace(agent, batch, routes=False)["dnothing"]


def test_a_dead_critic_is_seen_where_the_gradient_dies(rng):
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(8, 8), dtype="float64"), seed=0), make_batch(rng, 16, 3, 1)
    state = agent.state_dict()
    state["critic.1.bias"] -= 100
    agent.load_state_dict(state)
    traced = trace(agent, batch)
    assert traced["critic.1.dh"].rms > 0
    assert traced["critic.1.dz"].rms == traced["dact"].rms == traced["dtheta"].rms == 0
    assert traced["critic.1.dz"].factor == 0
    assert math.isnan(traced["critic.0.dh"].factor)
    assert "wrong: every unit of the critic's layer 1 is 0" in str(traced)
    assert "\ndies at the ReLUs of the critic's layer 1: 100 % are shut;\n" in str(traced)


def test_what_is_printed_beside_an_array_is_the_quotient_of_what_is_printed(agent_and_batch):
    """The measure is said before the table; every "x RMS" can be checked with the eye."""
    traced = trace(*agent_and_batch, routes=False)
    lines = str(traced).splitlines()
    assert lines[0].startswith("RMS: root of the mean square; x RMS: the RMS over that of the array it was made from")
    cells = [re.findall(r"\S+", line)[:4] for line in lines if re.match(r"    \S+ +\([\d,]+\)", line)]
    shown = {name: (float(rms), factor) for name, _, rms, factor in cells}
    checked = [hop for hop in traced.hops if not math.isnan(hop.factor)]
    assert len(checked) > 20
    for hop in checked:
        assert float(shown[hop.name][1]) == pytest.approx(shown[hop.name][0] / shown[hop.of][0], rel=0.02), hop
    (marked,) = [line for line in lines if line.endswith("<- shrinks most")]
    assert marked.split()[0] == traced.story.worst == min(traced.way[1:], key=lambda hop: hop.factor).name


def test_reprs_are_short_tables_and_notebooks_get_html(agent_and_batch):
    traced = trace(*agent_and_batch)
    for thing, most in ((traced, 25), (traced.routes, 6), (agent_and_batch[0], 15)):
        assert 5 <= len(repr(thing).splitlines()) <= most, repr(thing)
        assert max(map(len, repr(thing).splitlines())) < 200
        html = thing._repr_html_()
        assert html.count("<tr") == html.count("</tr>") > 4
    assert f"{traced.story.headline};\n{traced.story.shares}\n" in repr(traced)
    html = traced._repr_html_()
    assert re.search(r'title="7\. dact times [^"]*: dact \(1 - act\^2\): the tanh&#x27;; zeros \d+%"', html)
    grounds = re.findall(r"background:rgba\(0,114,178,([\d.]+)\)", html)
    assert len(grounds) == len(traced.hops)
    assert {min(grounds), max(grounds)} == {"0.05", "0.55"}
