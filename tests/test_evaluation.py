"""Evaluation: returns without noise, and Q against the return that followed, during training and after it."""

import warnings

import gymnasium
import numpy as np
import pytest
from test_end_to_end import OneState

from minddpg import Config, ConfigError, EnvError, RunError, evaluate, load, train
from minddpg.runs.tables import load_table
from minddpg.seeds import evaluation_seed

CONFIG = Config(
    steps=300, hidden_sizes=(8, 6), batch_size=16, learning_starts=50, evaluate_every=100, evaluation_episodes=2
)


def by_hand(agent, seed):
    env = gymnasium.make("Pendulum-v1")
    obs, _ = env.reset(seed=seed)
    states, acts, rewards, over = [], [], [], False
    while not over:
        states.append(obs)
        acts.append(agent.act(obs))
        obs, rew, _, over, _ = env.step(2 * acts[-1])
        rewards.append(float(rew))
    return states, acts, rewards, obs


def test_every_so_many_steps_from_the_same_starts(tmp_path):
    result = train("Pendulum-v1", CONFIG, seed=4, out=tmp_path / "run")
    table = load_table(tmp_path / "run", "eval")
    np.testing.assert_array_equal(table["step"], [100, 200, 300])
    np.testing.assert_array_equal(table["episodes"], 2)
    returns = [sum(by_hand(result.agent, evaluation_seed(4, i))[2]) for i in range(2)]
    last = [table[name][-1] for name in ("mean", "std", "low", "high")]
    np.testing.assert_allclose(last, [np.mean(returns), np.std(returns), min(returns), max(returns)], rtol=1e-5)
    assert [row["mean"] for row in result.evaluations] == table["mean"].tolist()


def test_no_agent_is_evaluated_twice_nor_one_that_has_learnt_nothing(tmp_path):
    """Updates are made at steps 240, 280 and 320."""
    config = CONFIG.replace(steps=340, learning_starts=210, evaluate_every=20, update_every=40)
    result = train("Pendulum-v1", config, out=tmp_path / "run")
    assert result.agent.updates == 3
    assert [row["step"] for row in result.evaluations] == [240, 280, 320]
    assert load_table(tmp_path / "run", "eval")["step"].tolist() == [240, 280, 320]


def test_an_episode_that_was_cut_is_said_once(monkeypatch):
    monkeypatch.setattr("minddpg.evaluation.MOST_STEPS", 30)
    said = []
    train(lambda: OneState(-1, True), CONFIG, warn=said.append)
    train(lambda: OneState(30, True), CONFIG, warn=said.append)
    assert [text for text in said if "evaluation" in text] == [said[0]]
    assert "has not ended an episode of an evaluation in 30 steps; its return is of these alone" in said[0]


def test_the_best_agent_is_kept(tmp_path):
    result = train("Pendulum-v1", CONFIG.replace(actor_lr=0.1), out=tmp_path / "run")
    means = [row["mean"] for row in result.evaluations]
    best = load(tmp_path / "run", best=True)
    env = evaluation_seed(0, 0), evaluation_seed(0, 1)
    mean = np.mean([sum(by_hand(best, seed)[2]) for seed in env])
    assert mean == pytest.approx(max(means), rel=1e-5)
    assert best.updates == (means.index(max(means)) + 1) * 100 - 50
    train("Pendulum-v1", CONFIG.replace(evaluate_every=0), out=tmp_path / "none")
    with pytest.raises(RunError, match=r"holds no best.npz: .*evaluate_every 0"):
        load(tmp_path / "none", best=True)


def test_q_is_compared_with_the_return_that_followed(tmp_path):
    agent = train("Pendulum-v1", CONFIG, out=tmp_path / "run").agent
    table = load_table(tmp_path / "run", "evaluations")
    assert set(table["step"]) == {100, 200, 300}
    last = {name: column[table["step"] == 300][:25] for name, column in table.items()}  # of the first episode
    assert (last["t"][0], last["t"][-1], len(last["t"])) == (0, 199, 25)
    np.testing.assert_allclose(last["tail"], 0.99 ** (200 - last["t"]))
    states, acts, rewards, obs = by_hand(agent, evaluation_seed(0, 0))
    tail = agent.q(obs[None], agent.act(obs)[None])[0]
    for t, q, discounted in zip(last["t"].astype(int), last["q"], last["discounted_return"], strict=True):
        expected = sum(0.99**k * r for k, r in enumerate(rewards[t:])) + 0.99 ** (200 - t) * tail
        assert discounted == pytest.approx(expected, rel=1e-5)
        assert q == pytest.approx(agent.q(states[t][None], acts[t][None])[0], rel=1e-5)
    assert last["return"][0] == pytest.approx(sum(rewards), rel=1e-6)


def test_a_terminated_episode_has_no_tail(tmp_path):
    train(lambda: OneState(5, True), CONFIG, out=tmp_path / "run")
    table = load_table(tmp_path / "run", "evaluations")
    assert set(table["tail"]) == {0}
    np.testing.assert_allclose(table["discounted_return"], (1 - 0.99 ** (5 - table["t"])) / (1 - 0.99))
    np.testing.assert_array_equal(table["return"], 5)


def test_environments_are_closed_whatever_happens(tmp_path):
    made, closed = [], []

    class Counted(gymnasium.Wrapper):
        def close(self):
            closed.append(self)
            super().close()

        def step(self, action):
            if len(made) == 2 and made[1] is self:
                raise OSError("the simulator has gone")
            return super().step(action)

    def make():
        made.append(Counted(gymnasium.make("Pendulum-v1")))
        return made[-1]

    with pytest.raises(EnvError, match="the simulator has gone"):
        train(make, CONFIG, out=tmp_path / "run")
    (tmp_path / "exists").mkdir()
    with pytest.raises(RunError, match="exists"):
        train(make, CONFIG, out=tmp_path / "exists")
    assert len(made) == 3
    assert set(map(id, made)) == set(map(id, closed))


def test_an_environment_that_is_handed_out_twice_is_not_evaluated_in():
    env, said = gymnasium.make("Pendulum-v1"), []
    result = train(lambda: env, CONFIG, warn=said.append)
    assert (result.steps, result.evaluations) == (300, [])
    assert len(said) == 1
    assert "makes the same PendulumEnv twice" in said[0]


def test_evaluation_starts_from_the_seeds_it_names_and_adds_no_noise():
    agent = train("Pendulum-v1", CONFIG).agent
    returns = evaluate(agent, "Pendulum-v1", episodes=3, seed=20)
    again = evaluate(agent, "Pendulum-v1", episodes=2, seed=21)
    assert returns.shape == (3,)
    np.testing.assert_array_equal(returns[1:], again)
    assert returns[2] == pytest.approx(sum(by_hand(agent, 22)[2]), rel=1e-5)


def test_evaluation_names_what_is_wrong():
    agent = train(lambda: OneState(5, True), CONFIG).agent
    with pytest.raises(ConfigError, match="episodes"):
        evaluate(agent, "Pendulum-v1", episodes=0)
    with pytest.raises(EnvError, match="made for 1 and 1"):
        evaluate(agent, "Pendulum-v1")
    with pytest.raises(EnvError, match=r"has not ended an episode in 50 steps.*TimeLimit"):
        evaluate(agent, lambda: OneState(-1, True), max_steps=50)


def test_what_an_environment_warns_of_when_it_is_made_is_said_once():
    """By the one that trains, and not again by the one that evaluates."""

    def make():
        warnings.warn("an old simulator", stacklevel=1)
        return gymnasium.make("Pendulum-v1")

    with pytest.warns(UserWarning, match="an old simulator") as told:
        result = train(make, CONFIG)
    assert len(result.evaluations) == 3
    assert len([one for one in told if "an old simulator" in str(one.message)]) == 1
