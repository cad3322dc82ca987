"""Observations that are a Dict, a Tuple or a Discrete, by env_kwargs={"flatten_obs": True} and --flatten-obs."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

import minddpg
from minddpg import EnvError, cli
from minddpg.cli.options import FLATTEN
from minddpg.environment import Environment, make_environments, making


class Goal(gymnasium.Env):
    """As gymnasium-robotics has it: the observation, where it is and where it shall be."""

    observation_space = Dict({"observation": Box(-9, 9, (2, 2)), "goal": Box(-9, 9, (1,)), "mode": Discrete(3)})
    action_space = Box(-1, 1, (1,))

    def __init__(self, size=1.0):
        self.size = size

    def _seen(self):
        return {"observation": np.full((2, 2), self.at, np.float32), "goal": np.array([5], np.float32), "mode": 2}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(0, self.size)
        return self._seen(), {}

    def step(self, action):
        self.at += float(action[0])
        return self._seen(), -abs(5 - self.at), False, False, {}


gymnasium.register("GoalOfTests-v0", Goal, max_episode_steps=20)
FLAT = {"flatten_obs": True}


def test_the_flag_of_both_sides_is_one():
    assert FLATTEN == making.FLATTEN == "flatten_obs"


def test_a_dict_becomes_one_vector():
    environment = Environment("GoalOfTests-v0", env_kwargs={**FLAT, "size": 0.0})
    assert environment.obs_dim == 1 + 3 + 4
    np.testing.assert_array_equal(environment.reset(seed=1), [5, 0, 0, 1, 0, 0, 0, 0])  # goal, mode, observation
    np.testing.assert_array_equal(environment.step(np.array([0.5]))[0][4:], [0.5] * 4)


def test_without_it_the_error_says_how():
    for kwargs in (None, {"flatten_obs": False}):
        with pytest.raises(EnvError, match=r"which --flatten-obs makes of a Dict.*env_kwargs=\{'flatten_obs': True\}"):
            Environment("GoalOfTests-v0", env_kwargs=kwargs)
    with pytest.raises(EnvError, match="flatten_obs must be true or false, not 3"):
        Environment("GoalOfTests-v0", env_kwargs={"flatten_obs": 3})


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_several_of_them(vectorization):
    if vectorization == "async":
        environments = make_environments("Pendulum-v1", "float32", 2, vectorization, FLAT)  # which processes know
        assert environments.start([1, 2]).shape == (2, 3)
    else:
        environments = make_environments("GoalOfTests-v0", "float32", 2, vectorization, FLAT)
        assert environments.start([1, 2]).shape == (2, 8)
    environments.close()


def test_a_run_remembers_it(tmp_path, capsys):
    quick = ["--steps", "60", "--learning-starts", "50", "--evaluate-every", "60", "--hidden-sizes", "4", "--quiet"]
    assert cli.main(["train", "GoalOfTests-v0", "--flatten-obs", *quick, "--out", "run", "--episodes", "1"]) == 0
    assert minddpg.runs.directory.load_info("run").env_kwargs == FLAT
    assert cli.main(["train", "--resume", "run", "--steps", "80", "--quiet", "--episodes", "1"]) == 0
    assert cli.main(["eval", "run", "--episodes", "1"]) == 0
    whole = minddpg.train("GoalOfTests-v0", {**minddpg.load("run").config.to_dict()}, steps=80, env_kwargs=FLAT)
    np.testing.assert_array_equal(whole.agent.actor.params, minddpg.load("run").actor.params)


def test_environments_of_dm_control_need_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "shimmy", None)
    with pytest.raises(EnvError, match=r"needs the extra dm-control; from a checkout: pip install '.\[dm-control\]'"):
        Environment("dm_control/cartpole-swingup-v0")


@pytest.mark.filterwarnings("ignore")
def test_an_environment_of_dm_control():
    pytest.importorskip("shimmy")
    environment = Environment("dm_control/cartpole-swingup-v0", env_kwargs=FLAT)
    first = environment.reset(seed=3)
    after = environment.step(np.zeros(environment.act_dim))[0]
    state = environment.state(after)
    other = Environment("dm_control/cartpole-swingup-v0", env_kwargs=FLAT)
    back, why = other.restore(state)
    assert why is None
    np.testing.assert_array_equal(back, after)
    np.testing.assert_array_equal(other.reset(seed=3), first)
