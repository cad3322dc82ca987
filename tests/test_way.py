"""One update taken apart: every array against the naive twin, and the end bit for bit where the update ends."""

import naive
import numpy as np
import pytest
from conftest import make_batch, random_agent

from minddpg import DDPG, Config
from minddpg.ddpg import actor_gradient, critic_step
from minddpg.gradflow import look, walk
from minddpg.gradflow.way import norm
from minddpg.networks import named_parameters


def twin_arrays(agent, batch):
    """What `walk` should find, by its names, with nothing of minddpg's."""
    state, layer = agent.state_dict(), agent.config.action_layer
    actor, critic = naive.layers_of(state, "actor"), naive.layers_of(state, "critic")
    n, last, top = len(batch.obs), len(actor) - 1, len(critic) - 1
    z, actor_inputs = naive.forward(actor, batch.obs)
    act = np.tanh(z)
    q, critic_inputs = naive.forward(critic, batch.obs, act, layer)
    found = {
        "obs": batch.obs,
        f"actor.{last}.z": z,
        "act": act,
        f"critic.{layer}.x": critic_inputs[layer],
        "q": q[:, 0],
    }
    found |= {f"actor.{i}.h": actor_inputs[i + 1] for i in range(last)}
    act_dim = act.shape[1]
    for i in range(top):
        h = critic_inputs[i + 1]
        found[f"critic.{i}.h"] = h[:, :-act_dim] if i + 1 == layer else h
    dz = found["dq"] = np.full((n, 1), -1 / n)
    for i in range(top, layer, -1):
        found[f"critic.{i - 1}.dh"] = dz @ critic[i][0].T
        dz = found[f"critic.{i - 1}.dz"] = found[f"critic.{i - 1}.dh"] * (critic_inputs[i] > 0)
    dact = found["dact"] = (dz @ critic[layer][0].T)[:, -act_dim:]
    found["dq_dact"] = -n * dact
    dz, pieces = dact * (1 - act**2), {}
    for i in range(last, -1, -1):
        found[f"actor.{i}.dz"] = dz
        found[f"actor.{i}.dweight"], found[f"actor.{i}.dbias"] = actor_inputs[i].T @ dz, dz.sum(axis=0)
        pieces[i] = np.concatenate([found[f"actor.{i}.dweight"].ravel(), found[f"actor.{i}.dbias"]])
        if i:
            found[f"actor.{i - 1}.dh"] = dz @ actor[i][0].T
            dz = found[f"actor.{i - 1}.dh"] * (actor_inputs[i] > 0)
    return found | {"dtheta": np.concatenate([pieces[i] for i in range(last + 1)])}


@pytest.mark.parametrize("seed", range(30))
def test_every_array_equals_the_twins(seed):
    agent, batch = random_agent(seed, updates=3 * (seed % 2))
    expected, passed = twin_arrays(agent, batch), list(walk(agent.actor, agent.critic, batch.obs))
    assert {p.name for p in passed} == set(expected)
    for p in passed:
        assert p.array.shape == expected[p.name].shape, p.name
        np.testing.assert_allclose(p.array, expected[p.name], rtol=1e-9, atol=1e-14, err_msg=p.name)
        assert norm(p.array) == pytest.approx(np.sqrt(np.sum(expected[p.name] ** 2)), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(12))
def test_the_way_ends_where_the_actors_gradient_ends(seed, dtype):
    agent, batch = random_agent(seed, dtype, updates=2)
    passed = {p.name: p for p in walk(agent.actor, agent.critic, batch.obs)}
    dtheta, dact, q = actor_gradient(agent.actor, agent.critic, batch.obs)
    np.testing.assert_array_equal(passed["dtheta"].array, dtheta)
    np.testing.assert_array_equal(passed["dact"].array, dact)
    np.testing.assert_array_equal(passed["q"].array, q)
    assert all(p.array.dtype == dtype for p in passed.values())
    names = list(passed)
    assert all(p.of in names[: names.index(p.name)] for p in passed.values() if p.of)  # each from one before it


def test_what_each_array_was_made_from(rng):
    config = Config(hidden_sizes=(4, 3), action_layer=1, dtype="float64")
    agent, batch = DDPG(2, 1, config), make_batch(rng, 5, 2, 1)
    made_from = {p.name: p.of for p in walk(agent.actor, agent.critic, batch.obs)}
    assert made_from == {
        "obs": "", "actor.0.h": "obs", "actor.1.h": "actor.0.h", "actor.2.z": "actor.1.h", "act": "actor.2.z",
        "critic.0.h": "obs", "critic.1.x": "act", "critic.1.h": "critic.1.x", "q": "critic.1.h",
        "dq": "", "critic.1.dh": "dq", "critic.1.dz": "critic.1.dh", "dact": "critic.1.dz", "dq_dact": "dact",
        "actor.2.dz": "dact", "actor.2.dweight": "actor.2.dz", "actor.2.dbias": "actor.2.dz",
        "actor.1.dh": "actor.2.dz", "actor.1.dz": "actor.1.dh", "actor.1.dweight": "actor.1.dz",
        "actor.1.dbias": "actor.1.dz", "actor.0.dh": "actor.1.dz", "actor.0.dz": "actor.0.dh",
        "actor.0.dweight": "actor.0.dz", "actor.0.dbias": "actor.0.dz", "dtheta": "dact",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_a_look_sees_what_the_update_then_does_and_changes_nothing(seed):
    agent, batch = random_agent(seed, "float32", updates=4)
    before = agent.state_dict()
    seen = look(agent.learner, batch, agent.rates)
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    moved = agent.copy()
    moved.update(batch)
    for network, step, after in (
        (agent.actor, seen.actor_step, moved.actor),
        (agent.critic, seen.critic_step, moved.critic),
    ):
        np.testing.assert_allclose(network.params + step.params, after.params, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(seen.critic.params, moved.critic.params)
    stepped = agent.copy()
    critic_step(stepped.learner, batch, stepped.rates)
    dtheta, _, _ = actor_gradient(agent.actor, stepped.critic, batch.obs)
    np.testing.assert_array_equal(seen.passed[-1].array, dtheta)  # through the critic that has moved
    assert set(named_parameters(seen.dcritic)) == set(named_parameters(agent.critic))


def test_the_steps_are_the_ten_that_are_taught():
    """Numbered as in the README: 1 states, 2 actions, 3 Q, 8 the 1/N, 4 dQ/da, 7 the product with da/dtheta."""
    for seed in range(8):
        agent, batch = random_agent(seed)
        for p in walk(agent.actor, agent.critic, batch.obs):
            network, kind = p.name.partition(".")[0], p.name.rpartition(".")[2]
            if network == "critic":
                expected = 4 if kind in ("dh", "dz") else 3
            elif network == "actor":
                expected = 1 if kind in ("h", "z") else 7
            else:
                expected = {"obs": 1, "act": 2, "q": 3, "dq": 8, "dact": 4, "dq_dact": 4, "dtheta": 7}[p.name]
            assert p.step == expected, p.name
