"""The classic mistakes: each is what it says, and the table tells it apart from the right gradient."""

import naive
import numpy as np
import pytest
from conftest import make_batch, random_agent

from minddpg import DDPG, Batch, Config
from minddpg.ddpg import actor_gradient
from minddpg.gradcheck.planted import copy_of_minddpg
from minddpg.gradflow import MISTAKES, mistaken_gradient, mistakes
from minddpg.gradflow.classic_mistakes import BUGS, CRITIC_TOO, NO_MINUS, NO_TANH, REPLAYED, RIGHT, SUM


def flat(grads):
    return np.concatenate([part.ravel() for layer in grads for part in layer])


@pytest.mark.parametrize("seed", range(10))
def test_each_mistake_equals_the_twins(seed):
    agent, batch = random_agent(seed, updates=2)
    state, layer, n = agent.state_dict(), agent.config.action_layer, len(batch.obs)
    actor, critic = naive.layers_of(state, "actor"), naive.layers_of(state, "critic")
    right = flat(naive.actor_gradient(actor, critic, batch.obs, layer))
    z, actor_inputs = naive.forward(actor, batch.obs)
    act = np.tanh(z)

    def backward(judged, slope):
        _, inputs = naive.forward(critic, batch.obs, judged, layer)
        dcritic, _, dact = naive.backward(critic, inputs, np.full((n, 1), -1 / n), agent.act_dim, layer)
        return flat(naive.backward(actor, actor_inputs, dact * slope)[0]), flat(dcritic)

    expected = {
        RIGHT: right,
        NO_MINUS: -right,
        SUM: n * right,
        REPLAYED: backward(batch.act, 1 - act**2)[0],
        NO_TANH: backward(act, 1.0)[0],
        CRITIC_TOO: right,
    }
    for mistake, dtheta in expected.items():
        found, dcritic = mistaken_gradient(mistake, agent.actor, agent.critic, batch)
        np.testing.assert_allclose(found, dtheta, rtol=1e-9, atol=1e-14, err_msg=mistake)
        expected_critic = backward(act, 1.0)[1] if mistake == CRITIC_TOO else np.zeros(agent.critic.params.size)
        np.testing.assert_allclose(dcritic, expected_critic, rtol=1e-9, atol=1e-14, err_msg=mistake)
    dtheta, _, _ = actor_gradient(agent.actor, agent.critic, batch.obs)
    np.testing.assert_array_equal(mistaken_gradient(RIGHT, agent.actor, agent.critic, batch)[0], dtheta)


def test_the_table_says_what_adam_hides(rng):
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(16, 16)), seed=0), make_batch(rng, 32, 3, 1)
    state = agent.state_dict()
    state["actor.2.bias"] += 1.5  # actions near the bound, where a missing tanh' shows
    agent.load_state_dict(state)
    found = {effect.mistake: effect for effect in mistakes(agent, batch).effects}
    assert tuple(found) == MISTAKES
    median = {mistake: [spread.median for spread in effect[1:]] for mistake, effect in found.items()}
    assert (median[NO_MINUS][0], median[NO_MINUS][2]) == (pytest.approx(-1), pytest.approx(-1))
    assert median[SUM][:2] == [pytest.approx(1), pytest.approx(32)]
    assert median[SUM][2] > 0.999  # hidden: nearly the same step
    assert median[SUM][3] == pytest.approx(1, abs=0.01)
    assert median[REPLAYED][0] < 1 - 1e-6
    assert median[NO_TANH][1] > 3
    assert median[CRITIC_TOO][0] == pytest.approx(1)
    assert median[CRITIC_TOO][4] > 0
    assert sum(numbers[4] > 0 for numbers in median.values()) == 1
    lines = str(mistakes(agent, batch)).splitlines()
    assert lines[0] == "batches of 32"
    assert [line[: len(name)] for line, name in zip(lines[2:], MISTAKES, strict=False)] == list(MISTAKES)


def test_many_batches_give_the_median_and_the_middle_eight_tenths(rng):
    agent, kept = DDPG(3, 1, Config(hidden_sizes=(16, 16)), seed=0), make_batch(rng, 200, 3, 1)
    found = mistakes(agent, kept, batch_size=16, batches=40, seed=3)
    assert (found.batches, found.batch_size) == (40, 16)
    draws, cosines, (replayed,) = np.random.default_rng(3), [], [e for e in found.effects if e.mistake == REPLAYED]
    for _ in range(40):
        rows = draws.permutation(200)[:16]
        one = mistakes(agent, Batch(*(array[rows] for array in kept)))
        assert one.batches == 1
        cosines.append(next(e.cosine for e in one.effects if e.mistake == REPLAYED).median)
    assert np.ptp(cosines) > 1e-3
    np.testing.assert_allclose(replayed.cosine, np.quantile(cosines, (0.1, 0.5, 0.9)))
    assert f"{replayed.cosine.median:.3g} ({replayed.cosine.low:.3g} to {replayed.cosine.high:.3g})" in str(found)
    assert "40 of them: the median (10 % to 90 %)" in str(found)
    assert repr(found) == str(found)
    assert found._repr_html_().count("<tr") == 1 + len(MISTAKES)
    assert mistakes(agent, kept, batch_size=500).batches == 1  # no more are there


def test_the_agent_is_left_as_it_was(rng):
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(4,)), seed=0), make_batch(rng, 8, 3, 1)
    before = agent.state_dict()
    mistakes(agent, batch)
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("mistake", BUGS)
def test_each_mistake_is_the_one_of_the_catalogue(rng, mistake):
    """Planted into the source of minddpg, it makes the same gradients."""
    agent, batch = random_agent(4, updates=2)
    dtheta, dcritic = mistaken_gradient(mistake, agent.actor, agent.critic, batch)
    state = {name: 0 * array if "adam" in name else array for name, array in agent.state_dict().items()}
    with copy_of_minddpg(BUGS[mistake]) as source:
        spoilt = source.agent.DDPG(agent.obs_dim, agent.act_dim, agent.config)
        spoilt.load_state_dict(state)
        source.ddpg.actor_step(spoilt.learner, batch, spoilt.rates)
    np.testing.assert_allclose(spoilt.learner.actor_adam.m, 0.1 * dtheta, rtol=1e-9, atol=1e-18)
    if mistake == CRITIC_TOO:
        assert np.any(spoilt.learner.critic_adam.m)
    else:
        assert not np.any(dcritic)
