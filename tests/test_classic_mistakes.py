"""The classic mistakes: each is what it says, and the table tells it apart from the right gradient."""

import naive
import numpy as np
import pytest
from conftest import make_batch, random_agent

from minddpg import DDPG, Config
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
    assert (found[NO_MINUS].cosine, found[NO_MINUS].adam_cosine) == (pytest.approx(-1), pytest.approx(-1))
    assert (found[SUM].cosine, found[SUM].length) == (pytest.approx(1), pytest.approx(32))
    assert found[SUM].adam_cosine > 0.999  # hidden: nearly the same step
    assert found[SUM].adam_length == pytest.approx(1, abs=0.01)
    assert found[REPLAYED].cosine < 1 - 1e-6
    assert found[NO_TANH].length > 3
    assert found[CRITIC_TOO].cosine == pytest.approx(1)
    assert found[CRITIC_TOO].critic > 0
    assert sum(effect.critic > 0 for effect in found.values()) == 1
    lines = str(mistakes(agent, batch)).splitlines()
    assert [line[: len(name)] for line, name in zip(lines[1:], MISTAKES, strict=False)] == list(MISTAKES)


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
