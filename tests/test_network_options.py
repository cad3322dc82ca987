"""Networks with options: forward and backward against finite differences and the twin; inverted gradients."""

import naive
import numpy as np
import pytest
from conftest import agent_of, make_batch

from minddpg import layers
from minddpg.export import npz_file, onnx_file, policy_arrays
from minddpg.gradcheck import assert_gradients, check_agent, planted
from minddpg.gradflow import diagnose, mistakes, trace
from minddpg.network_options import OptionNetwork
from minddpg.networks import backward, backward_to_action, backward_to_obs, backward_to_weights, forward, output

TANH, INVERT = {"activation": "tanh"}, {"invert_gradients": True}


def test_hidden_tanh_backward(rng):
    z, dh = rng.standard_normal((2, 5, 3))
    h = np.hstack([np.tanh(z), rng.standard_normal((5, 2))])  # a joined action is not looked at
    assert_gradients(lambda p: np.tanh(p["z"]), {"z": z}, {"z": layers.tanh_hidden_backward(dh.copy(), h)}, upstream=dh)


def test_inverted_gradients_by_hand():
    """dact is of a loss that descends: -1 pushes an action up. At 0.5 a quarter of the range is left above it."""
    act = np.array([[0.5, 0.5, 1.0, -1.0, 1.2, 1.2]])
    dact = np.array([[-1.0, 1.0, -3.0, -3.0, -1.0, 1.0]])
    np.testing.assert_allclose(layers.invert_gradient(dact, act), [[-0.25, 0.75, 0, -3, 0.1, 1.1]])
    assert layers.invert_gradient(dact.astype("f4"), act.astype("f4")).dtype == np.float32
    with pytest.raises(ValueError, match="shape"):
        layers.invert_gradient(dact, act[:, :2])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "changes", [TANH, INVERT, {**TANH, **INVERT, "action_layer": 1}, {"hidden_sizes": (), **INVERT}]
)
def test_fifty_updates_equal_the_twin(rng, changes, dtype):
    agent = agent_of(dtype=dtype, tau=0.02, **changes)
    assert isinstance(agent.actor, OptionNetwork)
    twin = naive.Twin(agent)
    for _ in range(50):
        batch = make_batch(rng, 20, 3, 2, dtype)
        agent.update(batch)
        twin.update(batch)
    state = agent.state_dict()
    tolerance = {"rtol": 1e-8, "atol": 1e-10} if dtype == "float64" else {"rtol": 5e-3, "atol": 1e-3}
    for name, expected in twin.state().items():
        np.testing.assert_allclose(state[name], expected, **tolerance, err_msg=name)


def test_the_four_backwards_agree(rng):
    agent = agent_of(action_layer=1, **TANH)
    obs, act, dz = rng.standard_normal((6, 3)), rng.uniform(-1, 1, (6, 2)), rng.standard_normal((6, 1))
    cache = forward(agent.critic, obs, act)
    np.testing.assert_allclose(output(agent.critic, cache)[:, 0], agent.q(obs, act), rtol=1e-12)
    dparams, dobs, dact = backward(agent.critic, dz, cache)
    np.testing.assert_allclose(dparams, backward_to_weights(agent.critic, dz, cache), rtol=1e-12)
    np.testing.assert_allclose(dobs, backward_to_obs(agent.critic, dz, cache), rtol=1e-12)
    np.testing.assert_allclose(dact, backward_to_action(agent.critic, dz, cache), rtol=1e-12)
    for wrong in ((obs[:, :2], act), (obs, act[:, :1]), (obs, act[:3])):
        with pytest.raises(ValueError, match="forward"):
            forward(agent.critic, *wrong)


@pytest.mark.parametrize(
    "changes", [TANH, INVERT, {**TANH, **INVERT, "action_layer": 1}, {**INVERT, "algorithm": "td3"}]
)
def test_every_gradient(rng, changes):
    report = check_agent(agent_of(**changes), make_batch(rng, 8, 3, 2))
    assert report.ok, report
    assert sum(tensor.checked for tensor in report.tensors) > 200


@pytest.mark.parametrize("options", [TANH, INVERT])
def test_the_unspoilt_copy_passes(options):
    nothing = planted.Bug("none", "", "layers", "def invert_gradient", "def invert_gradient", options)
    assert all(report.ok for report in planted.check_planted(nothing))


def saturated(rng, **changes):
    """An agent whose actions are far out, and a critic that wants them back at zero."""
    agent = agent_of(hidden_sizes=(6, 5), actor_lr=1e-2, **changes)
    agent.views()["actor.2.bias"][:] = 8
    return agent, make_batch(rng, 64, 3, 2)


def back_to_zero(agent, batch, updates):
    """Updates whose rewards are -|a|^2 at random actions; every one ends the episode."""
    rng = np.random.default_rng(1)
    for _ in range(updates):
        act = rng.uniform(-1, 1, batch.act.shape)
        agent.update(batch._replace(act=act, rew=-np.sum(act**2, axis=1), terminated=np.ones(len(act), bool)))
    return np.abs(agent.act(batch.obs)).mean()


def test_a_saturated_actor_comes_back(rng):
    """tanh' lets 4e-7 of dQ/da through and the actor stays out; inverted, all of it goes back inside."""
    (plain, batch), (inverting, _) = saturated(rng), saturated(rng, **INVERT)
    stuck, moving = trace(plain, batch), trace(inverting, batch)
    assert stuck["actor.2.dz"].factor < 1e-5
    assert moving["actor.2.dz"].factor > 1
    assert "saturated" in [found.name for found in diagnose(stuck.statistics)]
    assert "saturated" not in [found.name for found in diagnose(moving.statistics)]
    assert np.abs(inverting.act(batch.obs)).max() == 1  # clipped where it acts
    assert back_to_zero(plain, batch, 120) > 0.98
    assert back_to_zero(inverting, batch, 120) < 0.75


def test_traces_say_what_stands_in_the_place_of_tanh_and_relu(rng):
    batch = make_batch(rng, 8, 3, 2)
    traced = trace(agent_of(**TANH, **INVERT), batch)
    text = str(traced)
    assert "tanh(obs W + b)" in text
    assert "dh (1 - h^2)" in text
    assert "room to the bound" in text
    assert "[h > 0]" not in text
    assert traced.climb.ratio == pytest.approx(1, abs=1e-2)
    assert len(traced.routes.routes) == 2
    assert traced.routes.routes[1].difference < 1e-12
    assert max(route.difference for route in trace(agent_of(**TANH), batch).routes.routes) < 1e-6
    assert len(mistakes(agent_of(**INVERT), batch).effects) == 5


@pytest.mark.parametrize("changes", [TANH, INVERT, {**TANH, **INVERT}])
def test_an_exported_policy_has_the_options(rng, changes):
    agent = agent_of(dtype="float32", **changes)
    agent.views()["actor.2.bias"][:] = [1.5, -0.2]
    arrays = policy_arrays(agent, np.array([-2.0, 0.0]), np.array([2.0, 4.0]))
    obs = rng.standard_normal((20, 3)).astype(np.float32)
    act = agent.act(obs) * 2 + np.array([0, 2])
    assert npz_file(arrays)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    session = onnxruntime.InferenceSession(onnx_file(arrays))
    np.testing.assert_allclose(session.run(["act"], {"obs": obs})[0], act, rtol=1e-4, atol=1e-5)
