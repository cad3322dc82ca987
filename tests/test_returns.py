"""n-step returns: by hand, against brute force, and in runs that are cut, resumed and extended."""

import naive
import numpy as np
import pytest
from conftest import agent_of, compiles_long, make_batch
from hypothesis import given
from hypothesis import strategies as st

import minddpg
from minddpg import Batch, Config, ReplayBuffer, ddpg, training
from minddpg.environment import make_environments
from minddpg.gradcheck import check_agent
from minddpg.replay import LongBatch
from minddpg.returns import Pending, factored
from minddpg.training import Run


def brute_force(steps, n, gamma):
    """Every transition of a history of (obs, act, rew, next_obs, terminated, truncated) that is complete, by start."""
    found = []
    for t, (obs, act, *_) in enumerate(steps):
        total = 0.0
        for k in range(1, n + 1):
            if t + k > len(steps):
                break  # not there yet
            _, _, rew, next_obs, terminated, truncated = steps[t + k - 1]
            total += gamma ** (k - 1) * rew
            if terminated or truncated or k == n:
                found.append((obs, act, total, next_obs, terminated, k))
                break
    return found


@given(st.integers(1, 6), st.floats(0, 0.99), st.lists(st.sampled_from(["on", "on", "on", "over", "cut"]), max_size=30))
def test_against_brute_force(n, gamma, story):
    pending, steps, stored = Pending(n, gamma, 1, 1), [], []
    for t, what in enumerate(story):
        step = (np.array([t]), np.array([-t]), 1.0 + t * t, np.array([t + 0.5]), what == "over", what == "cut")
        steps.append(step)
        stored += pending.add(*step)
        again = Pending(n, gamma, 1, 1)
        again.restore(pending.state())  # goes on from any state
        pending = again
        assert pending.count + len(stored) == t + 1
    expected = brute_force(steps, n, gamma)
    assert len(stored) == len(expected)
    for one, other in zip(stored, expected, strict=True):
        np.testing.assert_allclose(np.hstack(one), np.hstack(other), rtol=1e-12)


def test_by_hand():
    """Rewards 1, 2, 4, 8 with gamma 1/2 and n = 3, terminated at the fourth step."""
    pending, stored = Pending(3, 0.5, 1, 1), []
    for t, rew in enumerate((1.0, 2.0, 4.0, 8.0)):
        stored += pending.add(np.array([t]), np.array([0]), rew, np.array([t + 1]), t == 3, False)
    assert [(s[0].item(), s[2], s[3].item(), s[4], s[5]) for s in stored] == [
        (0, 1 + 1 + 1, 3, False, 3), (1, 2 + 2 + 2, 4, True, 3), (2, 4 + 4, 4, True, 2), (3, 8, 4, True, 1)
    ]  # fmt: skip


def test_what_the_bootstrap_is_worth(rng):
    """gamma^k (1 - terminated) Q', through the algorithm's page as it is."""
    agent = agent_of(gamma=0.7, n_step=4)
    batch = make_batch(rng, 12, 3, 2)
    long = LongBatch(*batch, np.arange(12) % 4 + 1)
    y = ddpg.bellman_target(agent.target_actor, agent.target_critic, agent.checked(long), 0.7)
    none = batch._replace(rew=np.zeros(12), terminated=np.zeros(12, bool))
    next_q = ddpg.bellman_target(agent.target_actor, agent.target_critic, none, 0.7) / 0.7
    expected = batch.rew + np.where(batch.terminated, 0, 0.7**long.steps * next_q)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    one = factored(long._replace(steps=np.ones(12, int)), 0.7, "float32").terminated
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, batch.terminated)


def long_batch(rng, n, dtype="float64"):
    return LongBatch(*make_batch(rng, n, 3, 2, dtype), rng.integers(1, 4, n))


def test_fifty_updates_equal_the_twin(rng):
    agent = agent_of(n_step=3, tau=0.02)
    twin = naive.Twin(agent)
    for _ in range(50):
        batch = long_batch(rng, 12)
        agent.update(batch)
        twin.update(Batch(*batch[:5]), agent.config.gamma**batch.steps)
    state = agent.state_dict()
    for name, expected in twin.state().items():
        np.testing.assert_allclose(state[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("algorithm", ["ddpg", pytest.param("td3", marks=compiles_long)])
def test_update_from_a_replay_is_the_update_of_its_sample(rng, algorithm):
    changes = {"n_step": 3, "algorithm": algorithm, "dtype": "float32"}
    first, second = agent_of(**changes), agent_of(**changes)
    replay = ReplayBuffer(20, 3, 2, "float32", n_step=3)
    for row in zip(*long_batch(rng, 20, "float32"), strict=True):
        replay.add(*row)
    for seed in range(3):
        losses = first.update_from(replay, np.random.default_rng(seed))
        assert losses == second.update(replay.sample(5, np.random.default_rng(seed)))
    plain = ReplayBuffer(20, 3, 2, "float32")  # whose transitions cover one step each
    for row in zip(*make_batch(rng, 20, 3, 2), strict=True):
        plain.add(*row)
    first.update_from(plain, rng)
    assert first.is_finite()


@compiles_long
def test_every_gradient(rng):
    report = check_agent(agent_of(n_step=3), long_batch(rng, 8))
    assert report.ok, report


CONFIG = Config(
    steps=480, hidden_sizes=(8, 8), batch_size=16, learning_starts=80, evaluate_every=0, diagnose_every=100, n_step=3,
    buffer_size=190,
)  # fmt: skip


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_run_stores_what_brute_force_finds(num_envs):
    """Pendulum's episodes end at a time limit after 200 steps: three shorter returns there, none terminated."""
    config = CONFIG.replace(steps=450 * num_envs, buffer_size=10_000, num_envs=num_envs, learning_starts=300 * num_envs)
    environments = make_environments("Pendulum-v1", config.dtype, num_envs, "sync", None)
    run, histories = Run(environments, config, 2), [[] for _ in range(num_envs)]
    store = run._store

    def spy(i, act, rew, next_obs, terminated, truncated):
        step = (run.obs[i].copy(), act.copy(), rew, np.array(next_obs), terminated, truncated)
        histories[i].append(step)
        store(i, act, rew, next_obs, terminated, truncated)

    run._store = spy
    while run.steps < config.steps:
        run.step()
    environments.close()
    kept = run.replay.transitions
    found = [np.hstack([array[row] for array in kept]) for row in range(run.replay.size)]
    expected = [t for history in histories for t in brute_force(history, 3, config.gamma)]
    assert len(expected) == run.replay.added == 448 * num_envs
    by_start = [sorted((tuple(np.hstack(row)) for row in rows), key=lambda row: row[:3]) for rows in (found, expected)]
    np.testing.assert_allclose(*by_start, rtol=1e-5, atol=1e-6)
    assert sorted(set(kept.steps[: run.replay.size].tolist())) == [1, 2, 3]
    assert not kept.terminated.any()


def test_a_run_in_pieces_is_the_whole_run(tmp_path):
    from test_exact_resume import in_pieces

    in_pieces(tmp_path, CONFIG, 3)
    batch = minddpg.load_batch(tmp_path / "whole", 100)
    assert set(batch.steps.tolist()) <= {1, 2, 3}
    assert check_agent(minddpg.load(tmp_path / "whole"), batch, mode="sample", samples=5).ok


def test_an_episode_that_cannot_be_put_back_is_cut(tmp_path, monkeypatch):
    """Its pending transitions are stored as far as they got, and their last states keep their value."""
    out = tmp_path / "run"
    minddpg.train("Pendulum-v1", CONFIG.replace(steps=120), seed=1, out=out)
    seen = []
    resume = Run.resume.__func__

    def spy(cls, state, environments, fill, config):
        environments.restore = lambda saved: [(0, "of a test")]
        run, lost = resume(cls, state, environments, fill, config)
        seen.append((state["added"], run.replay.added, run._pending[0].count, run.replay.transitions))
        run.obs = environments.start([7])
        return run, lost

    monkeypatch.setattr(training.Run, "resume", classmethod(spy))
    minddpg.resume(out, steps=125)
    added, now, pending, kept = seen[0]
    assert (added, now, pending) == (118, 120, 0)
    assert kept.steps[118:120].tolist() == [2, 1]
    assert not kept.terminated[118:120].any()


@pytest.mark.parametrize("change", [{"count": 3}, {"count": 2, "steps": np.array([2, 1, 1])}])
def test_a_state_that_is_none_is_refused(change):
    pending = Pending(3, 0.9, 1, 1)
    with pytest.raises(ValueError, match="pending"):
        pending.restore({**pending.state(), **change})
