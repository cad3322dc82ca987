"""Observation normalisation: the statistics, and that everything which feeds a network feeds it the same."""

import naive
import numpy as np
import pytest
from conftest import agent_of, compiles_long, make_batch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import minddpg
from minddpg import Config, ReplayBuffer
from minddpg.ddpg import actor_gradient
from minddpg.environment import make_environments
from minddpg.export import npz_file, onnx_file, policy_arrays
from minddpg.gradcheck import check_agent
from minddpg.gradflow import mistakes, routes, trace
from minddpg.gradflow.pictures import judge
from minddpg.networks import actor_forward
from minddpg.observations import MOST, TINY, centre_and_scale, learn, new_statistics, normalised
from minddpg.training import Run

OBS = {"normalise_obs": True}


@given(
    arrays(np.float64, st.tuples(st.integers(2, 30), st.just(2)), elements=st.floats(-1e3, 1e3)), st.floats(-1e6, 1e6)
)
def test_welford_is_the_mean_and_the_variance(rows, shift):
    statistics = new_statistics(2)
    for row in rows + shift:
        learn(statistics, row)
    mean, scale = centre_and_scale(statistics)
    np.testing.assert_allclose(mean, (rows + shift).mean(axis=0), rtol=1e-12, atol=1e-9)
    variance = 1 / scale**2 - TINY
    np.testing.assert_allclose(variance, rows.var(axis=0), rtol=1e-6, atol=1e-7 + 1e-9 * abs(shift))


def test_by_hand():
    """1, 3, 5: mean 3, variance 8/3."""
    statistics = new_statistics(1)
    obs = np.array([[4.0], [1e9]])
    np.testing.assert_array_equal(normalised(statistics, obs), [[4], [MOST]])
    for x in (1.0, 3.0, 5.0):
        learn(statistics, [x])
    np.testing.assert_allclose(normalised(statistics, obs), [[1 / np.sqrt(8 / 3)], [MOST]], rtol=1e-8)
    for _ in range(5):
        learn(constant := new_statistics(1), [7.0])
    learn(constant, [7.0])
    assert normalised(constant, np.array([[7.0]])) == 0


def seasoned(rng, **changes):
    """An agent that has seen observations around 5 with a spread of 3."""
    agent = agent_of(**OBS, **changes)
    for _ in range(50):
        agent.observe(5 + 3 * rng.standard_normal(3))
    return agent


def test_all_that_feeds_a_network_normalises(rng):
    agent, batch = seasoned(rng), make_batch(rng, 8, 3, 2)
    batch = batch._replace(obs=5 + 3 * batch.obs, next_obs=5 + 3 * batch.next_obs)
    inner = agent.in_units(batch.obs)
    assert np.abs(inner).max() < 4
    act = actor_forward(agent.actor, inner)[0]
    np.testing.assert_allclose(agent.act(batch.obs), act, rtol=1e-12)
    np.testing.assert_allclose(agent.act(batch.obs[1]), act[1], rtol=1e-12)
    np.testing.assert_array_equal(agent.q(batch.obs, act), judge(agent.actor, agent.critic, inner).q)
    traced = trace(agent, batch)
    np.testing.assert_array_equal(traced["obs"].array, inner)
    np.testing.assert_array_equal(traced["act"].array, act)
    assert max(route.difference for route in traced.routes.routes) < 1e-6
    np.testing.assert_array_equal(routes(agent, batch).gradient, actor_gradient(agent.actor, agent.critic, inner)[0])
    assert len(mistakes(agent, batch).effects) == 5
    bare = agent.bare()
    np.testing.assert_array_equal(bare.act(inner), act)


def test_fifty_updates_equal_the_twin(rng):
    agent = seasoned(rng, tau=0.02)
    twin = naive.Twin(agent)
    for _ in range(50):
        batch = make_batch(rng, 12, 3, 2)
        agent.update(batch)
        mean = agent.statistics.mean
        spread = np.sqrt(agent.statistics.m2 / agent.statistics.number + 1e-8)
        inner = {name: np.clip((getattr(batch, name) - mean) / spread, -10, 10) for name in ("obs", "next_obs")}
        twin.update(batch._replace(**inner))
        agent.observe(batch.obs[0])
    state = agent.state_dict()
    for name, expected in twin.state().items():
        np.testing.assert_allclose(state[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)


@compiles_long
def test_every_gradient(rng):
    agent = seasoned(rng)
    report = check_agent(agent, make_batch(rng, 8, 3, 2))
    assert report.ok, report
    assert agent.statistics is not None


@pytest.mark.parametrize("changes", [{}, {"n_step": 2}, {"algorithm": "td3", "dtype": "float32"}])
def test_update_from_a_replay_is_the_update_of_its_sample(rng, changes):
    first, second = seasoned(np.random.default_rng(1), **changes), seasoned(np.random.default_rng(1), **changes)
    replay = ReplayBuffer(20, 3, 2, first.config.dtype, first.config.n_step)
    for row in zip(*make_batch(rng, 20, 3, 2), strict=True):
        replay.add(*row)
    for seed in range(3):
        losses = first.update_from(replay, np.random.default_rng(seed))
        assert losses == second.update(replay.sample(5, np.random.default_rng(seed)))


def test_statistics_are_saved_and_copied(rng):
    agent = seasoned(rng)
    other = agent_of(**OBS)
    other.load_state_dict(agent.state_dict())
    obs = rng.standard_normal((4, 3))
    for one in (other, agent.copy(), agent.copy("float32")):
        np.testing.assert_allclose(one.act(obs), agent.act(obs), rtol=1e-4)
        one.observe(obs[0])
    assert agent.statistics.number == 50
    with pytest.raises(ValueError, match="negative"):
        other.load_state_dict({**agent.state_dict(), "obs_statistics.m2": np.array([1.0, -1.0, 0.0])})
    assert not [name for name in agent_of().state_dict() if "statistics" in name]


CONFIG = Config(steps=240, hidden_sizes=(8, 8), batch_size=16, learning_starts=80, evaluate_every=100,
                evaluation_episodes=1, diagnose_every=50, **OBS)  # fmt: skip


def test_a_run_learns_from_what_it_stores_and_from_nothing_else():
    environments = make_environments("Pendulum-v1", CONFIG.dtype, 1, "sync", None)
    run = Run(environments, CONFIG, 2)
    while run.steps < CONFIG.steps:
        run.step()
    environments.close()
    kept = run.replay.transitions.obs[:240].astype(np.float64)
    statistics = run.agent.statistics
    assert statistics.number == 240
    np.testing.assert_allclose(statistics.mean, kept.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.m2 / 240, kept.var(axis=0), rtol=1e-6)


def test_a_run_in_pieces_is_the_whole_run_and_evaluations_teach_nothing(tmp_path):
    from test_exact_resume import in_pieces

    in_pieces(tmp_path, CONFIG, 2)
    agent = minddpg.load(tmp_path / "whole")
    assert agent.statistics.number == 240
    assert check_agent(agent, minddpg.load_batch(tmp_path / "whole", 8), mode="sample", samples=5).ok
    blind = minddpg.train("Pendulum-v1", CONFIG.replace(evaluate_every=0), seed=5).agent
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(blind.state_dict()[name], value)


def test_an_exported_policy_normalises(rng, tmp_path):
    agent = seasoned(rng, dtype="float32")
    arrays = policy_arrays(agent, np.array([-2.0, 0.0]), np.array([2.0, 4.0]))
    obs = (5 + 30 * rng.standard_normal((20, 3))).astype(np.float32)
    act = agent.act(obs) * 2 + np.array([0, 2])
    (tmp_path / "actor.npz").write_bytes(npz_file(arrays))
    with np.load(tmp_path / "actor.npz") as kept:
        x = np.clip((obs - kept["obs_mean"]) * kept["obs_scale"], -10, 10)
        for layer in range(2):
            x = np.maximum(x @ kept[f"{layer}.weight"] + kept[f"{layer}.bias"], 0)
        z = x @ kept["2.weight"] + kept["2.bias"]
        np.testing.assert_allclose(kept["action_offset"] + kept["action_scale"] * np.tanh(z), act, rtol=1e-4, atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    session = onnxruntime.InferenceSession(onnx_file(arrays))
    np.testing.assert_allclose(session.run(["act"], {"obs": obs})[0], act, rtol=1e-4, atol=1e-5)
