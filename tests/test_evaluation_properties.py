"""Q against the returns that followed, for episodes of any length that end in either way, by sums written out."""

import numpy as np
import pytest
from conftest import agent_of
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpg import EnvError, RunError, TrainingError
from minddpg.evaluation import COMPARED, Step, compare

EPISODES = st.lists(st.tuples(st.integers(1, 120), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=10)
@given(episodes=EPISODES, gamma=st.sampled_from([0.0, 0.5, 0.99]), seed=st.integers(0, 9))
def test_returns_and_what_is_estimated_behind_them(episodes, gamma, seed):
    agent, rng = agent_of(2, 1, seed, gamma=gamma), np.random.default_rng(seed)
    gathered = []
    for length, terminated in episodes:
        obs, last = rng.standard_normal((length + 1, 2)), length - 1
        rewards = rng.standard_normal(length).tolist()
        ends = [(False, False)] * last + [(terminated, not terminated)]
        gathered.append([Step(obs[t], agent.act(obs[t]), rewards[t], obs[t + 1], *ends[t]) for t in range(length)])
    rows = iter(compare(77, gathered, agent))
    for made in gathered:
        length, last = len(made), made[-1]
        beyond = 0.0 if last.terminated else agent.q(last.next_obs[None], agent.act(last.next_obs)[None])[0]
        mine = [next(rows) for _ in range(min(max(1, COMPARED // len(gathered)), length))]
        times = [row["t"] for row in mine]
        assert times[0] == 0
        assert times == sorted(set(times))
        if len(times) > 1:
            assert times[-1] == length - 1
            assert max(np.diff(times)) - min(np.diff(times)) <= 1
        for row in mine:
            t, left = row["t"], length - row["t"]
            returned = sum(gamma**k * made[t + k].rew for k in range(left)) + gamma**left * beyond
            assert list(row) == ["step", "return", "t", "q", "discounted_return", "tail"]
            assert row["step"] == 77
            assert row["return"] == pytest.approx(sum(step.rew for step in made))
            assert row["discounted_return"] == pytest.approx(returned, abs=1e-12)
            assert row["tail"] == pytest.approx(0.0 if last.terminated else gamma**left)
            assert row["q"] == pytest.approx(agent.q(made[t].obs[None], made[t].act[None])[0])
    assert next(rows, None) is None


def test_errors_have_no_result_until_one_is_kept():
    assert [error("x").result for error in (EnvError, RunError, TrainingError)] == [None] * 3
