"""Actor and critic: every weight, the observation and the action against central differences."""

import naive
import numpy as np
import pytest
from conftest import JIT
from hypothesis import given
from hypothesis import strategies as st

from minddpg import networks
from minddpg.gradcheck import assert_gradients
from minddpg.layers import tanh_backward

ARCHITECTURES = [((), 0), ((5,), 0), ((5, 5), 0), ((6, 5), 0), ((6, 5), 1), ((4, 7, 5), 2), ((7, 3, 4), 1)]


def critic_of(hidden, action_layer, rng, obs_dim=3, act_dim=2, dtype="float64", final_init=None):
    return networks.new_critic(obs_dim, act_dim, hidden, action_layer, final_init, dtype, rng)


def actor_of(hidden, rng, obs_dim=3, act_dim=2, dtype="float64", final_init=None):
    return networks.new_actor(obs_dim, act_dim, hidden, final_init, dtype, rng)


def with_inputs(network, p):
    """The network with the parameters of a dict of arrays."""
    changed = networks.copy_network(network)
    for name, view in networks.named_parameters(changed).items():
        view[...] = p[name]
    return changed


def masks(network, cache):
    hidden = [networks.layer_input(network, cache, i) for i in range(1, len(network.layout) - 1)]
    return np.concatenate([np.zeros(1, bool), *[(h > 0).ravel() for h in hidden]])


def copied_views(network, params):
    return {k: v.copy() for k, v in networks.named_parameters(network._replace(params=params)).items()}


@pytest.mark.parametrize(("hidden", "action_layer"), ARCHITECTURES)
def test_critic_gradients(rng, hidden, action_layer):
    critic = critic_of(hidden, action_layer, rng)
    obs, act, dq = rng.standard_normal((6, 3)), rng.uniform(-1, 1, (6, 2)), rng.standard_normal(6)
    _, cache = networks.critic_forward(critic, obs, act)
    dparams, dobs, dact = networks.backward(critic, dq.reshape(6, 1), cache)
    gradients = {**copied_views(critic, dparams), "obs": dobs, "act": dact}
    inputs = {**copied_views(critic, critic.params), "obs": obs, "act": act}
    assert_gradients(
        lambda p: networks.critic_forward(with_inputs(critic, p), p["obs"], p["act"])[0],
        inputs,
        gradients,
        upstream=dq,
        pattern=lambda p: masks(critic, networks.critic_forward(with_inputs(critic, p), p["obs"], p["act"])[1]),
    )


@pytest.mark.parametrize("hidden", [(), (5,), (6, 5), (4, 7, 5)])
def test_actor_gradients(rng, hidden):
    actor = actor_of(hidden, rng)
    obs, dact = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    act, cache = networks.actor_forward(actor, obs)
    dparams, dobs, _ = networks.backward(actor, tanh_backward(dact, act), cache)
    inputs = {**copied_views(actor, actor.params), "obs": obs}
    assert_gradients(
        lambda p: networks.actor_forward(with_inputs(actor, p), p["obs"])[0],
        inputs,
        {**copied_views(actor, dparams), "obs": dobs},
        upstream=dact,
        pattern=lambda p: masks(actor, networks.actor_forward(with_inputs(actor, p), p["obs"])[1]),
    )


@pytest.mark.parametrize(("hidden", "action_layer"), ARCHITECTURES)
def test_the_backwards_agree_bit_for_bit(rng, hidden, action_layer):
    critic = critic_of(hidden, action_layer, rng)
    obs, act, dq = rng.standard_normal((6, 3)), rng.uniform(-1, 1, (6, 2)), rng.standard_normal((6, 1))
    _, cache = networks.critic_forward(critic, obs, act)
    kept, upstream = cache.copy(), dq.copy()
    dparams, dobs, dact = networks.backward(critic, dq, cache)
    np.testing.assert_array_equal(networks.backward_to_weights(critic, dq, cache), dparams)
    np.testing.assert_array_equal(networks.backward_to_action(critic, dq, cache), dact)
    np.testing.assert_array_equal(networks.backward_to_obs(critic, dq, cache), dobs)
    np.testing.assert_array_equal(cache, kept)
    np.testing.assert_array_equal(dq, upstream)


@pytest.mark.skipif(JIT, reason="compiled code calls past the spy")
def test_the_way_to_the_weights_computes_no_input_gradient(rng, monkeypatch):
    critic = critic_of((5, 4), 0, rng)
    _, cache = networks.critic_forward(critic, rng.standard_normal((6, 3)), rng.uniform(-1, 1, (6, 2)))
    widths, real = [], networks.linear_backward_input

    def spy(dy, weight):
        widths.append(len(weight))
        return real(dy, weight)

    monkeypatch.setattr(networks, "linear_backward_input", spy)
    networks.backward_to_weights(critic, np.ones((6, 1)), cache)
    assert widths == [4, 5]  # of the hidden layers, top down; not 3, of the observation


@given(
    hidden=st.lists(st.integers(1, 20), max_size=3),
    joined=st.integers(0, 2),
    n=st.integers(1, 20),
    dims=st.tuples(st.integers(1, 20), st.integers(1, 18)),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_any_architecture_equals_the_twin(hidden, joined, n, dims, dtype, seed):
    rng = np.random.default_rng(seed)
    action_layer = min(joined, max(0, len(hidden) - 1))
    critic = critic_of(tuple(hidden), action_layer, rng, *dims, dtype=dtype)
    obs = rng.standard_normal((n, dims[0])).astype(dtype)
    act = rng.uniform(-1, 1, (n, dims[1])).astype(dtype)
    dq = rng.standard_normal((n, 1)).astype(dtype)
    state = {f"critic.{k}": v for k, v in networks.named_parameters(critic).items()}
    layers = naive.layers_of(state, "critic")
    q, cache = networks.critic_forward(critic, obs, act)
    expected, inputs = naive.forward(layers, obs, act, action_layer)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(q, expected[:, 0], **tolerance)
    dparams, dobs, dact = networks.backward(critic, dq, cache)
    grads, naive_dobs, naive_dact = naive.backward(layers, inputs, dq, dims[1], action_layer)
    np.testing.assert_allclose(dobs, naive_dobs, **tolerance)
    np.testing.assert_allclose(dact, naive_dact, **tolerance)
    views = networks.named_parameters(critic._replace(params=dparams))
    for i, (dw, db) in enumerate(grads):
        np.testing.assert_allclose(views[f"{i}.weight"], dw, **tolerance)
        np.testing.assert_allclose(views[f"{i}.bias"], db, **tolerance)


def test_layout_by_hand(rng):
    """Columns: fan_in, fan_out, where the weight starts, where the input starts. 3 obs, 2 act, joined in layer 1."""
    layout = critic_of((5, 4), 1, rng).layout
    # 3 * 5 + 5 = 20 parameters, then (5 + 2) * 4 + 4 = 32, then 4 * 1 + 1 = 5
    np.testing.assert_array_equal(layout, [[3, 5, 0, 0], [7, 4, 20, 3], [4, 1, 52, 10], [1, 0, 57, 14]])


def test_initial_parameters(rng):
    critic = critic_of((400, 300), 1, rng, obs_dim=50, act_dim=10, final_init=3e-3, dtype="float32")
    views = networks.named_parameters(critic)
    assert {name: view.shape for name, view in views.items()} == {
        "0.weight": (50, 400),
        "0.bias": (400,),
        "1.weight": (410, 300),
        "1.bias": (300,),
        "2.weight": (300, 1),
        "2.bias": (1,),
    }
    for name, bound in (("0", 50**-0.5), ("1", 410**-0.5), ("2", 3e-3)):
        drawn = np.concatenate([views[f"{name}.weight"].ravel(), views[f"{name}.bias"]])
        assert np.abs(drawn).max() <= bound
        assert np.abs(drawn).max() > 0.98 * bound
        assert abs(drawn.mean()) < 0.2 * bound
    assert sum(view.size for view in views.values()) == critic.params.size
    assert all(np.shares_memory(view, critic.params) for view in views.values())
    unbounded = networks.named_parameters(critic_of((40,), 0, rng))
    assert np.abs(unbounded["1.weight"]).max() > 0.1  # no final_init: 1/sqrt(40)


def test_actions_are_bounded(rng):
    actor = actor_of((8,), rng)
    actor.params[:] *= 100
    act, _ = networks.actor_forward(actor, 10 * rng.standard_normal((50, 3)))
    assert np.abs(act).max() <= 1


def test_shapes_that_misfit_are_named(rng):
    critic = critic_of((4,), 0, rng)
    for obs, act in [((5, 2), (5, 2)), ((5, 3), (5, 1)), ((5, 3), (4, 2))]:
        with pytest.raises(ValueError, match="must be"):
            networks.critic_forward(critic, np.ones(obs), np.ones(act))
