"""The compiled sweeps give the same quotients as moving each parameter and running the whole forward again."""

import numpy as np
import pytest
from conftest import JIT, make_batch

from minddpg import DDPG, Config
from minddpg.gradcheck import sweep
from minddpg.gradcheck.differences import STEP
from minddpg.networks import actor_forward, critic_forward

ARCHITECTURES = [((5,), 0), ((6, 5), 0), ((6, 5), 1), ((4, 7, 5), 2), ((7, 3, 4), 1)]
ROUNDING = 1e-16


def agent_of(hidden, action_layer, **changes):
    return DDPG(3, 2, Config(hidden_sizes=hidden, action_layer=action_layer, dtype="float64", **changes), seed=1)


def plain(params, function):
    """Central differences, one parameter and one whole evaluation at a time."""
    found = np.zeros(params.size)
    for i, value in enumerate(params.copy()):
        h = STEP * max(1.0, abs(value))
        params[i] = value + h
        right = function()
        params[i] = value - h
        left = function()
        params[i] = value
        found[i] = (right - left) / ((value + h) - (value - h))
    return found


@pytest.mark.parametrize(("hidden", "action_layer"), ARCHITECTURES)
def test_sweeps_equal_plain_differences(rng, hidden, action_layer):
    agent, batch = agent_of(hidden, action_layer), make_batch(rng, 6, 3, 2)
    actor, critic, weights = agent.actor, agent.critic, rng.standard_normal(6)

    def chain():
        return weights @ critic_forward(critic, batch.obs, actor_forward(actor, batch.obs)[0])[0]

    def upstream():
        return weights @ critic_forward(critic, batch.obs, batch.act)[0]

    def squared():
        return np.mean((critic_forward(critic, batch.obs, batch.act)[0] - weights) ** 2)

    inputs = batch.obs, batch.act, weights
    for look, params, function in (
        (sweep.sweep_actor(actor, critic, batch.obs, weights, ROUNDING), actor.params, chain),
        (sweep.sweep_critic(critic, *inputs, sweep.UPSTREAM, ROUNDING), critic.params, upstream),
        (sweep.sweep_critic(critic, *inputs, sweep.SQUARED_ERROR, ROUNDING), critic.params, squared),
    ):
        everything = np.ones(params.size, bool)
        swept, expected = look(everything, STEP), plain(params, function)
        np.testing.assert_allclose(swept.numeric, expected, rtol=1e-6, atol=1e-9)
        assert np.count_nonzero(swept.numeric) > 0.4 * params.size
        steps = STEP * np.maximum(1, np.abs(params))
        reached = swept.rounding > 0  # an exact zero has none
        np.testing.assert_allclose(swept.rounding[reached], (ROUNDING / steps)[reached], rtol=1e-6)
        np.testing.assert_array_equal(swept.numeric[~reached], 0)
        some = rng.random(params.size) < 0.3
        part = look(some, STEP)
        np.testing.assert_allclose(part.numeric, np.where(some, swept.numeric, 0), rtol=1e-6, atol=1e-9)
        assert not part.numeric[~some].any()
        np.testing.assert_allclose(look(everything, 1e-7).numeric, expected, rtol=1e-3, atol=1e-7)


def test_more_rows_than_one_block_holds(rng, monkeypatch):
    """Blocks are cut in the middle of a unit's rows; nothing is lost or counted twice."""
    if JIT:
        n = 40  # 40 samples and 65 inputs: more than ROWS rows for a unit
        agent = agent_of((64, 4), 0)
    else:
        monkeypatch.setattr(sweep, "ROWS", 7)
        n, agent = 3, agent_of((6, 4), 0)
    batch, weights = make_batch(rng, n, 3, 2), rng.standard_normal(n)
    critic = agent.critic
    look = sweep.sweep_critic(critic, batch.obs, batch.act, weights, sweep.UPSTREAM, ROUNDING)
    swept = look(np.ones(critic.params.size, bool), STEP)
    expected = plain(critic.params, lambda: weights @ critic_forward(critic, batch.obs, batch.act)[0])
    np.testing.assert_allclose(swept.numeric, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("network", ["actor", "critic"])
@pytest.mark.parametrize("layer", [0, 1])
def test_steps_across_a_kink_are_marked(rng, network, layer):
    """A pre-activation is put at 1e-9 above zero: the parameters that move it are marked."""
    agent, batch = agent_of((5, 4), 0), make_batch(rng, 4, 3, 2)
    moved = getattr(agent, network)
    views = {name: v for name, v in agent.views().items() if name.startswith(f"{network}.")}
    views[f"{network}.{layer}.bias"][:] += 0.5  # alive
    act = np.empty((4, 0)) if network == "actor" else batch.act
    z = sweep.pre_activations(moved, act, sweep.forward(moved, batch.obs, act))
    column = sweep.layer_input(moved, z, layer + 1)[:, 2]
    views[f"{network}.{layer}.bias"][2] -= column[1] - 1e-9  # unit 2 of sample 1
    if network == "actor":
        look = sweep.sweep_actor(moved, agent.critic, batch.obs, np.ones(4), ROUNDING)
    else:
        look = sweep.sweep_critic(moved, batch.obs, batch.act, np.ones(4), sweep.UPSTREAM, ROUNDING)
    swept = look(np.ones(moved.params.size, bool), STEP)
    start = moved.layout[layer, sweep.PARAMS_START]
    fan_in, fan_out = moved.layout[layer, sweep.FAN_IN], moved.layout[layer, sweep.FAN_OUT]
    own = swept.kinked[start : start + (fan_in + 1) * fan_out].reshape(fan_in + 1, fan_out)
    assert own[-1, 2]  # its bias
    assert not own[:, [0, 1, 3]].any()
    if layer == 1:
        assert swept.kinked[:start].any()  # and parameters below it
