"""Networks with options: forward and backward against finite differences and the twin; inverted gradients."""

import naive
import numpy as np
import pytest
from conftest import agent_of, compiles_long, make_batch

from minddpg import Config, RunError, layers
from minddpg.agent import state_shapes
from minddpg.ddpg import actor_gradient
from minddpg.export import npz_file, onnx_file, policy_arrays
from minddpg.gradcheck import assert_gradients, check_agent, planted
from minddpg.gradflow import diagnose, flow_figure, look, mistakes, trace
from minddpg.gradflow.story import place
from minddpg.network_options import OptionNetwork
from minddpg.networks import (
    actor_forward,
    backward,
    backward_to_action,
    backward_to_obs,
    backward_to_weights,
    forward,
    layer_input,
    output,
)

TANH, INVERT = {"activation": "tanh"}, {"invert_gradients": True}
pytestmark = compiles_long  # tests/test_threads.py compares what is compiled


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
    narrow, thin = obs[:, :2].copy(), act[:, :1].copy()
    cache = forward(agent.critic, obs, act)
    np.testing.assert_allclose(output(agent.critic, cache)[:, 0], agent.q(obs, act), rtol=1e-12)
    dparams, dobs, dact = backward(agent.critic, dz, cache)
    np.testing.assert_allclose(dparams, backward_to_weights(agent.critic, dz, cache), rtol=1e-12)
    np.testing.assert_allclose(dobs, backward_to_obs(agent.critic, dz, cache), rtol=1e-12)
    np.testing.assert_allclose(dact, backward_to_action(agent.critic, dz, cache), rtol=1e-12)
    for wrong in ((narrow, act), (obs, thin), (obs, act[:3])):
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


# --- normalisation ----------------------------------------------------------------------------------------------------

BATCH, LAYER = {"normalisation": "batch"}, {"normalisation": "layer"}


@pytest.mark.parametrize("of_batch", [True, False])
def test_batch_normalisation_in_both_modes(rng, of_batch):
    z, dy = rng.standard_normal((2, 7, 4))
    gamma, beta, mean = rng.standard_normal((3, 4))
    var = rng.uniform(0.5, 2, 4)

    def statistics(p):
        return layers.batch_statistics(p["z"]) if of_batch else (mean, var)

    def norm(p):
        out = np.empty_like(p["z"])
        layers.batch_norm_forward(p["z"], *statistics(p), p["gamma"], p["beta"], out)
        return out

    p = {"z": z, "gamma": gamma, "beta": beta}
    if of_batch:
        np.testing.assert_allclose(layers.batch_statistics(z), (z.mean(axis=0), z.var(axis=0)), rtol=1e-12)
        np.testing.assert_allclose(norm(p), gamma * (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) + beta, rtol=1e-10)
    else:
        np.testing.assert_allclose(norm(p), gamma * (z - mean) / np.sqrt(var + 1e-5) + beta, rtol=1e-10)
    dgamma, dbeta = np.full((2, 4), np.nan)
    dz = layers.batch_norm_backward(dy, z, *statistics(p), gamma, dgamma, dbeta, of_batch)
    assert_gradients(norm, p, {"z": dz, "gamma": dgamma, "beta": dbeta}, upstream=dy)


def test_layer_normalisation(rng):
    z, dy = rng.standard_normal((2, 7, 4))
    gamma, beta = rng.standard_normal((2, 4))

    def norm(p):
        out = np.empty_like(p["z"])
        layers.layer_norm_forward(p["z"], p["gamma"], p["beta"], out)
        return out

    p = {"z": z, "gamma": gamma, "beta": beta}
    centred = z - z.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(norm(p), gamma * centred / np.sqrt(z.var(1, keepdims=True) + 1e-5) + beta, rtol=1e-10)
    dgamma, dbeta = np.full((2, 4), np.nan)
    dz = layers.layer_norm_backward(dy, z, gamma, dgamma, dbeta)
    assert_gradients(norm, p, {"z": dz, "gamma": dgamma, "beta": dbeta}, upstream=dy)


NORMALISED = [
    {**BATCH, "action_layer": 1},
    {**LAYER, "action_layer": 1},
    {**BATCH, "hidden_sizes": (5,)},
    {**BATCH, **TANH, "algorithm": "td3"},
    {**LAYER, **INVERT, "max_grad_norm": 0.1},
]


def used(rng, **changes):
    """An agent after some updates, with a batch."""
    agent, batch = agent_of(**changes), make_batch(rng, 12, 3, 2)
    for _ in range(5):
        agent.update(make_batch(rng, 12, 3, 2))
    return agent, batch


@pytest.mark.parametrize("changes", NORMALISED)
def test_every_gradient_of_normalised_networks(rng, changes):
    agent, batch = used(rng, **changes)
    report = check_agent(agent, batch)
    assert report.ok, report
    names = {tensor.name for tensor in report.tensors}
    assert {"actor.obs.gamma", "critic.obs.beta"} <= names
    assert ("critic.0.gamma" in names) == (agent.config.action_layer == 1)


@pytest.mark.parametrize("changes", [{**BATCH, "action_layer": 1}, {**LAYER, "action_layer": 1}])
@pytest.mark.parametrize("training", [True, False])
def test_backward_of_a_network_in_both_modes(rng, changes, training):
    """All parameters and both inputs, in one go, by finite differences; and the four backwards agree."""
    agent, batch = used(rng, **changes)
    critic = agent.critic._replace(training=training)
    dz = rng.standard_normal((12, 1))
    cache = forward(critic, batch.obs, batch.act)
    dparams, dobs, dact = backward(critic, dz, cache)
    np.testing.assert_allclose(dparams, backward_to_weights(critic, dz, cache), rtol=1e-12)
    np.testing.assert_allclose(dobs, backward_to_obs(critic, dz, cache), rtol=1e-12)
    np.testing.assert_allclose(dact, backward_to_action(critic, dz, cache), rtol=1e-12)

    def q(p):
        moved = critic._replace(params=p["params"])
        p["cache"] = forward(moved, p["obs"], p["act"])
        return output(moved, p.pop("cache"))

    def pattern(p):
        moved = critic._replace(params=p["params"])
        kept = forward(moved, p["obs"], p["act"])
        return np.concatenate([(layer_input(moved, kept, layer)[:, :7] > 0).ravel() for layer in (1, 2)])

    inputs = {"params": critic.params.copy(), "obs": batch.obs, "act": batch.act}
    gradients = {"params": dparams, "obs": dobs, "act": dact}
    assert_gradients(q, inputs, gradients, upstream=dz, pattern=pattern)
    assert np.any(backward(agent.critic._replace(training=not training), dz, cache)[0] != dparams) == (
        "batch" in changes.values()
    )


def test_what_is_normalised(rng):
    """The state and every hidden layer of the actor; of the critic, what the action has not entered."""
    agent, _ = used(rng, hidden_sizes=(8, 7, 6), action_layer=1, **BATCH)
    sites = {name.rsplit(".", 1)[0] for name in agent.state_dict() if name.endswith(".mean")}
    assert {s for s in sites if s.startswith("actor")} == {f"actor.{site}" for site in ("obs", "0", "1", "2")}
    assert {s for s in sites if s.startswith("critic")} == {"critic.obs", "critic.0"}
    assert {s.removeprefix("target_") for s in sites} == {s for s in sites if not s.startswith("target_")}


def test_running_statistics_come_to_be_those_of_the_data(rng):
    """With networks that stand still, after many updates; and then acting normalises as learning does."""
    agent = agent_of(actor_lr=1e-300, critic_lr=1e-300, tau=0.05, action_layer=1, **BATCH)
    for _ in range(500):
        batch = make_batch(rng, 64, 3, 2)
        agent.update(batch._replace(obs=4 + 3 * batch.obs))
    state = agent.state_dict()
    for network in ("actor", "target_actor", "critic", "target_critic"):
        np.testing.assert_allclose(state[f"{network}.obs.mean"], 4, atol=0.2)
        np.testing.assert_allclose(state[f"{network}.obs.var"], 9, rtol=0.1)
    many = 4 + 3 * rng.standard_normal((4_000, 3))
    np.testing.assert_allclose(agent.act(many), actor_forward(agent.actor, many)[0], atol=0.1)


def test_acting_and_looking_learn_nothing(rng):
    agent, batch = used(rng, **BATCH)
    before = agent.state_dict()
    agent.act(batch.obs)
    agent.q(batch.obs, batch.act)
    trace(agent, batch)
    check_agent(agent, batch, mode="sample", samples=3)
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert agent.act(batch.obs)[3] == pytest.approx(agent.act(batch.obs[3]), rel=1e-9)


def test_a_normalised_state_comes_back(rng):
    agent, batch = used(rng, action_layer=1, **BATCH)
    assert {name: (view.dtype.str, view.shape) for name, view in agent.state_dict().items()} == state_shapes(
        3, 2, agent.config
    )
    copy = agent.copy()
    for one in (agent, copy):
        one.update(batch)
    for name, value in copy.state_dict().items():
        np.testing.assert_array_equal(value, agent.state_dict()[name])
    with pytest.raises(ValueError, match="negative"):
        copy.load_state_dict({**agent.state_dict(), "actor.0.var": -np.ones(8)})


@pytest.mark.parametrize("changes", NORMALISED[:2])
def test_traces_of_normalised_networks(rng, changes):
    agent, batch = used(rng, **changes)
    traced = trace(agent, batch)
    assert traced.climb.ratio == pytest.approx(1, abs=1e-2)
    assert max(route.difference for route in traced.routes.routes) < 1e-5
    assert {"actor.obs.x", "actor.obs.dgamma", "actor.0.dgamma", "actor.1.dbeta"} <= set(traced.arrays)
    assert "N(obs)" in str(traced)
    exact = agent.copy()
    expected = actor_gradient(exact.actor, look(exact.learner, exact.checked(batch), exact.rates).critic, batch.obs)[0]
    np.testing.assert_array_equal(traced["dtheta"].array, expected)


def test_an_exported_normalised_policy_is_folded(rng):
    agent, _ = used(rng, **BATCH, dtype="float32")
    arrays = policy_arrays(agent, -np.ones(2), np.ones(2))
    assert not [name for name in arrays if name.endswith(("gamma", "mean"))]
    obs = rng.standard_normal((9, 3)).astype(np.float32)
    h = obs
    for layer in range(3):
        z = h @ arrays[f"{layer}.weight"] + arrays[f"{layer}.bias"]
        h = np.maximum(z, 0)
    np.testing.assert_allclose(np.tanh(z), agent.act(obs), rtol=1e-4, atol=1e-5)
    with pytest.raises(RunError, match="layer normalisation"):
        policy_arrays(agent_of(**LAYER), -np.ones(2), np.ones(2))


def test_a_normalised_run_in_pieces_is_the_whole_run(tmp_path):
    from test_exact_resume import in_pieces

    config = Config(steps=180, hidden_sizes=(8, 8), batch_size=16, learning_starts=80, evaluate_every=0,
                    diagnose_every=50, **BATCH)  # fmt: skip
    in_pieces(tmp_path, config, 2)


@pytest.mark.parametrize("action_layer", [0, 1])
@pytest.mark.parametrize("normalisation", [BATCH, LAYER], ids=["batch", "layer"])
def test_fifty_updates_of_normalised_networks_equal_the_twin(rng, normalisation, action_layer):
    agent = agent_of(tau=0.02, action_layer=action_layer, **normalisation)
    twin = naive.NormalisedTwin(agent)
    for _ in range(50):
        batch = make_batch(rng, 12, 3, 2)
        agent.update(batch)
        twin.update(batch)
    state, expected = agent.state_dict(), twin.state()
    assert {name for name in state if "_adam" not in name} == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_story_names_what_an_option_has_put_in_the_place_of_tanh_and_relu(rng):
    batch = make_batch(rng, 12, 3, 2)
    row = trace(agent_of(**INVERT, **TANH, normalisation="layer", action_layer=1), batch).statistics
    assert place("actor.2.dz", row) == (
        "the inverted gradient",
        f"on average {row['room']:.2g} of the range is left to the bound",
    )
    where, why = place("actor.1.dz", row)
    assert where == "the tanh' and the normalisation of the actor's layer 1"
    assert why == f"it is {row['actor.1.slope']:.2g} on average"
    assert place("critic.1.dz", row)[0] == "the tanh' of the critic's layer 1"  # above the action nothing is normalised
    plain = trace(agent_of(), batch).statistics
    assert place("actor.1.dz", plain)[0] == "the ReLUs of the actor's layer 1"
    assert not [name for name in plain if name == "room" or name.endswith((".slope", ".gamma_rms"))]
    assert 0 < row["actor.1.slope"] <= 1
    assert row["actor.1.gamma_rms"] == 1


def test_the_flow_picture_names_inverted_gradients(rng):
    pytest.importorskip("matplotlib")
    batch = make_batch(rng, 12, 3, 2)
    for options, said in ((INVERT, "x room / 2,"), ({}, "x (1 - act²),")):
        figure = flow_figure(trace(agent_of(**options), batch))
        assert said in [text.get_text() for text in figure.axes[0].texts]


def test_actions_at_the_bounds_are_no_fault_of_an_actor_that_comes_back(rng):
    agent, batch = agent_of(**INVERT, final_init=1e-9), make_batch(rng, 12, 3, 2)
    agent.views()["actor.2.bias"][:] = 1.0
    row = {**trace(agent, batch).statistics, "tanh_slope": 1e-9}
    assert "saturated" not in [found.name for found in diagnose(row)]
    del row["room"]
    assert "saturated" in [found.name for found in diagnose(row)]
