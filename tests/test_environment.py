"""The boundary to Gymnasium: what passes it, what is refused in which words, states that are put back, vectors."""

import importlib.util
import os
import re
import signal
from fractions import Fraction

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpg.environment import EnvError, Environment, NotFinite, make_environments
from minddpg.environment.state import copied, restored
from minddpg.environment.values import Spaces, Unusable, flag

NEEDS_MUJOCO = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs mujoco")
Box = gymnasium.spaces.Box
wrappers = gymnasium.wrappers


class Toy(gymnasium.Env):
    """What it returns is the test's to choose; it remembers what it was given."""

    def __init__(self, low=-1.0, high=1.0, obs=(0.0, 0.0), rew=1.0, terminated=False, act_space=None, obs_space=None):
        self.action_space = act_space or Box(np.asarray(low, np.float32), np.asarray(high, np.float32))
        self.observation_space = obs_space or Box(-np.inf, np.inf, np.shape(obs), np.float64)
        self.obs, self.rew, self.terminated, self.actions, self.seeds = obs, rew, terminated, [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        return self.obs, {}

    def step(self, action):
        self.actions.append(np.array(action))
        assert self.action_space.contains(action)
        return self.obs, self.rew, self.terminated, False, {}


class Walk(gymnasium.Env):
    """A random walk whose episodes end at random, by terminations and by truncations."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-2, 2, (1,), np.float32)
    ends = 0.2

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=2)
        return self.at.copy(), {}

    def step(self, action):
        self.at = self.at + action[0] + self.np_random.normal(size=2)
        end = self.np_random.uniform()
        return self.at.copy(), float(self.at[0]), end < self.ends / 2, self.ends / 2 <= end < self.ends, {}


class Saved(Walk):
    """Has a state of its own, and does not repeat itself."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.resets += 1
        return obs + self.resets, info

    def step(self, action):
        obs, *others = super().step(action)
        return obs + self.resets, *others

    def get_state(self):
        return {"at": self.at, "of": [{"resets": self.resets, "name": "x", "none": None, "flag": True}]}

    def set_state(self, state):
        self.at, self.resets = state["at"], state["of"][0]["resets"]


# --- one environment --------------------------------------------------------------------------------------------------


def test_actions_are_scaled_to_the_bounds_and_back_to_their_shape():
    low, high = np.array([[-2.0, 0.0], [1.0, -5.0]]), np.array([[2.0, 10.0], [3.0, -4.0]])
    env = Toy(low, high)
    environment = Environment(lambda: env)
    assert environment.act_dim == 4
    np.testing.assert_array_equal(environment.low, low.ravel())
    np.testing.assert_array_equal(environment.high, high.ravel())
    environment.reset()
    for act, expected in [(-1, low), (0, (low + high) / 2), (1, high), (0.5, low + 0.75 * (high - low)), (9, high)]:
        environment.step(np.full(4, act, np.float32))
        np.testing.assert_allclose(env.actions[-1], expected, rtol=1e-6)
        assert env.actions[-1].dtype == np.float32
        assert env.actions[-1].shape == (2, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_actions_that_are_not_finite_never_reach_the_environment(bad):
    env = Toy()
    environment = Environment(lambda: env)
    environment.reset()
    with pytest.raises(NotFinite, match="finite"):
        environment.step(np.array([bad], np.float32))
    assert env.actions == []


REWARDS = [1, 1.0, np.float16(1), np.float32(1), np.int64(1), np.ones(()), np.ones(1, int), np.ones((1, 1)), [1.0]]


@pytest.mark.parametrize("rew", [*REWARDS, True, Fraction(2, 2), np.True_])
def test_rewards_of_any_numeric_form_and_observations_of_any_shape(rew):
    environment = Environment(lambda: Toy(obs=np.arange(6.0).reshape(2, 3), rew=rew))
    obs = environment.reset()
    np.testing.assert_array_equal(obs, np.arange(6))
    assert obs.dtype == np.float32
    next_obs, rew, terminated, truncated = environment.step(np.zeros(1))
    assert (type(rew), rew, terminated, truncated) == (float, 1.0, False, False)
    assert next_obs.shape == (6,)


BAD_REWARDS = [None, "high", "1", 1 + 2j, np.nan, np.inf, -np.inf, [1, 2], [], np.array(None), {}, 10**400]


@pytest.mark.parametrize("rew", [*BAD_REWARDS, np.array(["1"])])
def test_a_bad_reward_is_the_environments_fault_at_a_step(rew):
    environment = Environment(lambda: Toy(rew=rew))
    environment.reset()
    with pytest.raises(EnvError, match=r"^Toy returned the reward .* at step 1; it must be one finite number$"):
        environment.step(np.zeros(1))


def test_numbers_must_fit_the_dtype():
    for number, rightly in [(3e38, True), (1e39, False), (-1e39, False)]:
        for dtype in "float32", "float64":
            environments = make_environments(lambda n=number: Toy(rew=n), dtype)
            environments.start([0])
            if rightly or dtype == "float64":
                assert environments.step(np.zeros((1, 1))).rew == (number,)
            else:
                with pytest.raises(EnvError, match="e\\+39, too large for float32 at step 1; scale rewards down"):
                    environments.step(np.zeros((1, 1)))
    with pytest.raises(EnvError, match=r"element 1 of 2 is 1e\+300, too large for float32 at its reset; scale it down"):
        Environment(lambda: Toy(obs=np.array([0.0, 1e300]))).reset()
    obs = np.array([1e30, -3e38], np.float32)  # their squares are infinite, they are not
    np.testing.assert_array_equal(Environment(lambda: Toy(obs=obs)).reset(), obs)
    np.testing.assert_array_equal(Environment(lambda: Toy(obs=np.array([1e300, 0])), "float64").reset(), [1e300, 0])


BAD_OBSERVATIONS = [
    ("text", "the observation 'text' at"),
    (["1", "2"], r"the observation \['1', '2'\] at"),
    ({"a": 1}, r"the observation {'a': 1} at"),
    ([[1], [1, 2]], r"the observation \[\[1\], \[1, 2\]\] at"),
    (np.array([1, 2], object), "the observation array.* at"),
    (np.array([1j, 2]), "the observation array.* at"),
    (None, "the observation None at"),
    (np.zeros(3), "an observation of 3 numbers at"),
    (np.array([0.0, np.nan]), "an observation whose element 1 of 2 is nan at"),
    (np.array([-np.inf, np.nan], np.float32), "an observation whose element 0 of 2 is -inf at"),
]


@pytest.mark.parametrize(("obs", "message"), BAD_OBSERVATIONS)
def test_a_bad_observation_is_named_with_its_first_bad_element(obs, message):
    env = Toy()
    environment = Environment(lambda: env)
    environment.reset()
    environment.step(np.zeros(1))
    env.obs = obs
    with pytest.raises(EnvError, match=f"^Toy returned {message} step 2; it must be .*finite") as caught:
        environment.step(np.zeros(1))
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvError, match=f"{message} its reset after step 2"):
        environment.reset()


def test_observations_are_copied():
    env = Toy(obs=np.zeros(2, np.float32))
    environment = Environment(lambda: env)
    obs = environment.reset()
    env.obs += 1
    next_obs, *_ = environment.step(np.zeros(1))
    env.obs += 1
    assert (obs.tolist(), next_obs.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize("flag", [True, np.True_, np.array(True), np.array([True])])
def test_flags_are_bools_in_any_form(flag):
    environment = Environment(lambda: Toy(terminated=flag))
    environment.reset()
    assert environment.step(np.zeros(1))[2] is True


@pytest.mark.parametrize("flag", [1, 0, 1.0, None, "no", {}, np.array([True, False]), np.ones(1)])
def test_flags_that_are_no_bools_are_refused(flag):
    environment = Environment(lambda: Toy(terminated=flag))
    environment.reset()
    with pytest.raises(EnvError, match="^Toy returned terminated = .* at step 1; it must be a bool$"):
        environment.step(np.zeros(1))


# --- what goes wrong in an environment --------------------------------------------------------------------------------


class Broken(Toy):
    def __init__(self, error, at):
        super().__init__()
        self.error, self.at = error, at

    def reset(self, *, seed=None, options=None):
        if self.at == "reset":
            raise self.error
        return super().reset(seed=seed)

    def step(self, action):
        if len(self.actions) == 2:
            if self.error is json_error:
                __import__("json").loads("{")
            raise self.error  # the line
        return super().step(action)


json_error = ValueError()


def line_of(text):
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.rstrip().endswith(text))


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: wrappers.TimeLimit(wrappers.OrderEnforcing(env), 99)])
def test_an_exception_is_one_line_with_call_step_cause_and_place(wrap):
    error = ZeroDivisionError("\nno wind\nreally")
    environment = Environment(lambda: wrap(Broken(error, "step")))
    environment.reset()
    for _ in range(2):
        environment.step(np.zeros(1))
    with pytest.raises(EnvError) as caught:
        environment.step(np.zeros(1))
    place = f"test_environment.py:{line_of('# the line')}"
    assert str(caught.value) == f"Broken failed at step 3: ZeroDivisionError: no wind ({place})"
    assert caught.value.__cause__ is error
    with pytest.raises(EnvError, match=r"Broken failed at its reset: KeyError \(test_environment.py:\d+\)$"):
        Environment(lambda: wrap(Broken(KeyError(), "reset"))).reset()


def test_the_place_is_in_the_users_code_not_beneath():
    environment = Environment(lambda: Broken(json_error, "step"))
    environment.reset()
    for _ in range(2):
        environment.step(np.zeros(1))
    place = line_of('.loads("{")')
    with pytest.raises(EnvError, match=rf"step 3: JSONDecodeError: .* \(test_environment.py:{place}\)$"):
        environment.step(np.zeros(1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass(error):
    with pytest.raises(error):
        Environment(lambda: Broken(error(), "reset")).reset()

    def make():
        raise error

    with pytest.raises(error):
        Environment(make)


class OldReset(Toy):
    def reset(self):
        return self.obs, {}


class ObservationAlone(Toy):
    def reset(self, *, seed=None, options=None):
        return self.obs


class FourValues(Toy):
    def step(self, action):
        return self.obs, 1.0, False, {}


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: wrappers.TimeLimit(wrappers.OrderEnforcing(env), 99)])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            OldReset,
            r"OldReset has a reset of the old interface.* it must be reset\(self, \*, seed=None, options=None\)",
        ),
        (ObservationAlone, r"ObservationAlone .* at its reset.*; reset must return \(obs, info\)"),
        (FourValues, r"FourValues .* at step 1.* step (must return )?\(obs, reward, terminated, truncated, info\)"),
    ],
)
def test_the_old_interface_is_named(kind, message, wrap):
    for obs in np.zeros(2), (0.0, 0.0), np.zeros(3):  # two numbers can be unpacked as obs and info
        environment = Environment(lambda obs=obs: wrap(kind(obs=obs)))
        with pytest.raises(EnvError, match=message) as caught:
            environment.reset(seed=3), environment.step(np.zeros(1))
        assert "\n" not in str(caught.value)


def test_spaces_that_were_never_set_are_named():
    for missing in "observation_space", "action_space":
        env = Toy()
        delattr(env, missing)
        for wrapped in env, wrappers.OrderEnforcing(env):
            with pytest.raises(EnvError, match=f"^Toy has no {missing}; set self.{missing}"):
                Environment(lambda wrapped=wrapped: wrapped)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPole-v1", "continuous actions"),
        (lambda: Toy(act_space=gymnasium.spaces.Dict({"a": Box(-1, 1)})), "continuous actions"),
        (lambda: Toy(act_space=Box(-3, 3, (1,), np.int32)), "continuous actions"),
        (lambda: Toy(obs_space=gymnasium.spaces.Discrete(3)), "observation space"),
        (lambda: Toy(obs_space=Box(-1, 1, (0,))), "no elements"),
        (lambda: Toy(obs_space="none"), "observation space 'none'"),
        (7, "environment id or a callable"),
        (lambda: "Pendulum-v1", "made 'Pendulum-v1'"),
        (lambda: 1 / 0, r"failed: ZeroDivisionError: division by zero \(test_environment.py:\d+\)"),
        (lambda: SyncVectorEnv([Toy]), "made a vector environment"),
    ],
)
def test_environments_that_do_not_fit_are_named_in_one_line(env, message):
    with pytest.raises(EnvError, match=message) as caught:
        Environment(env)
    assert "\n" not in str(caught.value)


def test_an_environment_that_does_not_fit_is_closed():
    closed = []
    env = Toy(obs_space=Box(-1, 1, (0,)))
    env.close = lambda: closed.append(1)
    for make in Environment, make_environments:
        with pytest.raises(EnvError):
            make(lambda: env)
    assert closed == [1, 1]


def test_an_environment_of_the_old_package_is_named():
    old = type("Old", (), {"__module__": "gym.envs.old"})
    with pytest.raises(EnvError, match="of the old package gym"):
        Environment(old)


def test_the_remedy_for_an_unbounded_action_space_is_one():
    def unbounded():
        return Toy(np.full(3, -np.inf), np.full(3, np.inf))

    with pytest.raises(EnvError, match="unbounded action space") as caught:
        Environment(unbounded)
    remedy = re.search(r"gymnasium\.wrappers\..*", str(caught.value))[0]
    env = unbounded()
    environment = Environment(lambda: eval(remedy, {"gymnasium": gymnasium, "env": env}))
    environment.reset()
    environment.step(np.array([-1, 0.5, 1]))
    np.testing.assert_array_equal(env.actions[0], [-1, 0.5, 1])


def test_the_remedy_for_dict_observations_is_one():
    class Two(Toy):
        def reset(self, *, seed=None, options=None):
            return {"a": np.ones(2), "b": np.zeros((1, 3))}, {}

    def two():
        return Two(obs_space=gymnasium.spaces.Dict({"a": Box(-9, 9, (2,)), "b": Box(-9, 9, (1, 3))}))

    with pytest.raises(EnvError, match="observation space Dict") as caught:
        Environment(two)
    remedy = re.search(r"gymnasium\.wrappers\.\w+\(env\)", str(caught.value))[0]
    environment = Environment(lambda: eval(remedy, {"gymnasium": gymnasium, "env": two()}))
    assert environment.reset().tolist() == [1, 1, 0, 0, 0]


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default:.*out of date")  # and not an error before ours
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Pendulm-v1", "registered; did you mean 'Pendulum-v1'"),
        ("pendulum", "did you mean 'Pendulum-v1'"),
        ("pendulum v1", "Malformed.*did you mean 'Pendulum-v1'"),
        ("Pendulum-v0", r"did you mean 'Pendulum-v1'\?$"),
        ("Pendulum-v7", r"did you mean 'Pendulum-v1'\?$"),
        ("gymnasium:Pendulm-v1", r"did you mean 'gymnasium:Pendulum-v1'\?$"),
        pytest.param("HalfCheetah-v3", r"did you mean 'HalfCheetah-v5'\?$", marks=NEEDS_MUJOCO),
        ("MyEnv-v0", "registered; if it is defined in a module of yours, write my_module:MyEnv-v0$"),
        ("no_such_module:Env-v0", "cannot make 'no_such_module:Env-v0': No module named 'no_such_module'"),
        ("MountainCar-v0", r"continuous actions\); did you mean 'MountainCarContinuous-v0'\?$"),
        ("", "Malformed"),
    ],
)
def test_ids_that_are_not_right_get_the_nearest_ones(env, message):
    for num in 1, 2:
        with pytest.raises(EnvError, match=message) as caught:
            make_environments(env, num_envs=num)
        assert "\n" not in str(caught.value)


def test_a_discrete_environment_with_a_continuous_sister_is_told_of_her():
    with pytest.raises(EnvError, match=r"did you mean 'LunarLanderContinuous-v3'\?$"):
        Spaces("LunarLander-v3", Box(-1, 1), gymnasium.spaces.Discrete(4), "float32")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("Box2D is not installed", "'.[box2d]'"),
        ("MuJoCo is not installed", "'.[mujoco]'"),
        ('pygame is not installed, run `pip install "gymnasium[classic_control]"`', "gymnasium[classic_control]"),
        ("x", "installed; x"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, text, remedy):
    def missing(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled(text)

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(EnvError) as caught:
        Environment("Some-v0")
    assert remedy in str(caught.value)
    late = Environment(lambda: Broken(gymnasium.error.DependencyNotInstalled(text), "reset"))
    with pytest.raises(EnvError, match=rf"needs a package that is not installed at its reset; {re.escape(text)}"):
        late.reset()


def test_env_kwargs_reach_the_environment():
    for num in 1, 2:
        environments = make_environments("Pendulum-v1", num_envs=num, env_kwargs={"g": 1.5, "max_episode_steps": 3})
        environments.start(range(num))
        moments = [environments.step(np.zeros((num, 1))) for _ in range(3)]
        assert [list(moment.truncated) for moment in moments] == [[False] * num, [False] * num, [True] * num]
        assert [one.unwrapped.g for one in environments._environments] == [1.5] * num
        environments.close()


def test_env_kwargs_that_are_not_taken_are_named():
    for num in 1, 2:
        with pytest.raises(EnvError, match=r"^Pendulum-v1 takes no argument 'gravity'; it takes render_mode, g$"):
            make_environments("Pendulum-v1", num_envs=num, env_kwargs={"gravity": 9.8})
    with pytest.raises(EnvError, match="env_kwargs go with an environment id"):
        make_environments(Toy, env_kwargs={"low": -1})


def test_an_id_without_its_version_is_completed_and_said_once():
    for num in 1, 3:
        with pytest.warns(UserWarning, match="latest versioned") as told:
            environments = make_environments("Pendulum", num_envs=num)
        assert len(told) == 1
        assert environments.name == "Pendulum-v1"
        environments.close()


# --- states -----------------------------------------------------------------------------------------------------------


def go(environments, steps, seed=0, log=None):
    """Random actions, a stream per row; each episode from a seed of its own.    -> what happened in each row"""
    log = log if log is not None else [[] for _ in range(environments.num)]
    generators = [np.random.default_rng([seed, row]) for row in range(environments.num)]
    obs = environments.observations()
    for step in range(steps):
        act = np.full((environments.num, environments.act_dim), np.nan)
        for row in environments.acting:
            act[row] = generators[row].uniform(-1, 1, environments.act_dim)
        moment = environments.step(act)
        for row in moment.rows:
            flags = bool(moment.terminated[row]), bool(moment.truncated[row])
            numbers = obs[row], act[row], np.float64(moment.rew[row]), moment.next_obs[row]
            log[row].append((*(number.tobytes() for number in numbers), *flags))
        ended = [row for row in moment.rows if moment.terminated[row] or moment.truncated[row]]
        obs = environments.observations()
        if ended:
            obs = environments.restart(ended, [1000 * seed + 10 * step + row for row in ended])
    return log


def started(make, num=1, **kwargs):
    environments = make_environments(make, num_envs=num, **kwargs)
    environments.start(range(5, 5 + num))
    return environments


def goes_on(make, before=13, after=60, num=1, **kwargs):
    """Whether an environment that is put where another one is goes on as that one does; and what the state was."""
    first, second = started(make, num, **kwargs), started(make, num, **kwargs)
    go(first, before)
    state = first.state()
    copied(state)  # is a tree
    kept = restored(copied(state))
    go(second, 4, seed=7)
    lost = second.restore(state)
    assert lost == []
    np.testing.assert_equal(second.state(), state)
    logs = go(first, after, seed=1), go(second, after, seed=1)
    np.testing.assert_equal(state, kept)  # and stays what it was
    first.close()
    second.close()
    return logs[0] == logs[1], state["environments"]


@pytest.mark.parametrize("num", [1, 3])
def test_an_episode_is_played_again(num):
    equal, states = goes_on(Walk, num=num)
    assert equal
    assert all(len(state["sent"]) == 4 * (np.size(state["sent"]) // 4) and "read" not in state for state in states)
    assert goes_on("Pendulum-v1", before=150, num=num)[0]


@pytest.mark.parametrize("num", [1, 3])
def test_an_environments_own_state_comes_first(num):
    equal, states = goes_on(lambda: wrappers.TimeLimit(Saved(), 9), num=num)
    assert equal
    assert all("sent" not in state and state["read"]["own"]["of"][0]["name"] == "x" for state in states)


@pytest.mark.parametrize("before", [0, 1, 5, 9, 12])
def test_a_time_limit_goes_on_counting(before):
    class Endless(Saved):
        ends = 0.0

    assert goes_on(lambda: wrappers.TimeLimit(Endless(), 10), before)[0]


def test_wrappers_that_learn_are_put_back_with_an_own_state():
    def make():
        return wrappers.NormalizeReward(
            wrappers.NormalizeObservation(wrappers.TimeAwareObservation(wrappers.TimeLimit(Saved(), 50)))
        )

    equal, states = goes_on(make, before=40)
    assert equal
    assert states[0]["read"]["wrappers"][1][1]["obs_rms.mean"].shape == (3,)


class Object(Walk):
    """Its get_state gives no tree."""

    def get_state(self):
        return {"at": (self.at, self.np_random)}

    def set_state(self, state):
        raise AssertionError


class Other(Walk):
    """Means something else."""

    def get_state(self, of):
        raise AssertionError

    def set_state(self, qpos, qvel):
        raise AssertionError


class Half(Walk):
    def set_state(self, state):
        raise AssertionError


class Doubling(gymnasium.RewardWrapper):
    """Remembers something that nobody knows of."""

    factor = 1.0

    def reset(self, **kwargs):
        self.factor = 1.0
        return super().reset(**kwargs)

    def reward(self, reward):
        self.factor *= 1.01
        return reward * self.factor


@pytest.mark.parametrize("make", [Object, Other, Half, lambda: Doubling(Saved2())])
def test_where_a_state_cannot_be_read_whole_the_episode_is_played_again(make):
    equal, states = goes_on(make)
    assert equal
    assert "read" not in states[0]


class Saved2(Saved):
    """Repeats itself."""

    def reset(self, *, seed=None, options=None):
        self.resets = 0
        return super().reset(seed=seed)


class Deaf(Walk):
    """Ignores its seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class Hidden(Walk):
    """Its rewards depend on the episodes before, which its observations do not show."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        Hidden.episodes += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, rew, *others = super().step(action)
        return obs, rew + Hidden.episodes, *others


class Blurred(Walk):
    """Its observations depend on the episodes before, its rewards do not."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        Blurred.episodes += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, *others = super().step(action)
        return obs + Blurred.episodes, *others


class Shorter(Walk):
    """Ends at the last step, the second time."""

    made = 0

    def __init__(self):
        Shorter.made += 1
        self.last = 99 if Shorter.made == 1 else 3
        self.steps = 0

    def reset(self, **kwargs):
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        obs, rew, _, _, info = super().step(action)
        return obs, rew, self.steps == self.last, False, info


class Failing(Walk):
    ends = 0.0
    made = 0

    def __init__(self):
        Failing.made += 1
        self.fails = Failing.made > 1

    def step(self, action):
        if self.fails:
            raise OSError("no simulator")
        return super().step(action)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Deaf, "does not repeat itself"),
        (Hidden, "does not repeat itself"),
        (Blurred, "does not repeat itself"),
        (Shorter, "does not repeat itself"),
        (Failing, "could not be played again: Failing failed at step 3: OSError: no simulator"),
    ],
)
def test_what_cannot_be_put_back_is_at_its_start_and_said(kind, reason, monkeypatch):
    monkeypatch.setattr(kind, "made", 0, raising=False)
    monkeypatch.setattr(kind, "ends", 0.0)
    first, second = started(kind), make_environments(kind)
    go(first, 3)
    seeds, real = [], kind.reset
    monkeypatch.setattr(kind, "reset", lambda self, **kw: seeds.append(kw["seed"]) or real(self, **kw))
    ((row, said),) = second.restore(first.state())
    assert row == 0
    assert reason in said
    assert "\n" not in said
    assert seeds == [5, 5]  # to play, and to begin
    if kind is not Deaf:
        np.testing.assert_array_equal(second.observations(), started(kind).observations())


def test_an_episode_without_a_seed_is_not_played_again():
    environments = make_environments(Walk)
    environments.start([None])
    assert "not started from a seed" in environments.restore(environments.state())[0][1]


def test_a_state_that_cannot_be_set_is_said():
    class Fails(Saved):
        def set_state(self, state):
            raise RuntimeError("out of joint")

    first = started(Fails)
    assert "could not be set: RuntimeError: out of joint" in first.restore(first.state())[0][1]
    assert "wrappers" in started(lambda: wrappers.OrderEnforcing(Saved())).restore(started(Saved).state())[0][1]
    assert "float64" in started(Walk).restore(started(Walk, dtype="float64").state())[0][1]
    state = started(Walk).state()
    state["environments"][0]["sent"] = np.zeros(3, np.uint8)  # no whole action
    assert "could not be played again" in started(Walk).restore(state)[0][1]
    with pytest.raises(EnvError, match="2 environments, but 1 were saved"):
        started(Walk, 2).restore(state)

    class Changing(Saved):
        ends = 0.0
        steps = 0

        def step(self, action):
            self.steps += 1
            return super().step(action)

        def get_state(self):
            return object() if self.steps else {}

    first = started(Changing)
    go(first, 1)
    assert "get_state" in first.restore(first.state())[0][1]


@pytest.mark.parametrize("make", [Walk, Saved2, "Pendulum-v1", lambda: wrappers.TimeLimit(Object(), 9)])
def test_asking_for_the_state_changes_nothing(make):
    asked, left = started(make), started(make)
    logs = [[[]], [[]]]
    for i in range(40):
        go(asked, 1, i, logs[0])
        asked.state()
        go(left, 1, i, logs[1])
    assert logs[0] == logs[1]


def test_a_generator_that_is_not_there_is_not_made():
    class Quiet(Saved):
        def reset(self, *, seed=None, options=None):
            self.at = np.zeros(2)
            return self.at, {}

    environments = started(Quiet)
    assert environments.state()["environments"][0]["read"]["generator"] is None
    assert environments._environments[0].unwrapped._np_random is None


def test_errors_go_on_counting_after_a_state_was_put_back():
    first, second = started(Walk), started(Toy)
    go(first, 17)
    second = started(Walk)
    second.restore(first.state())
    second._environments[0].unwrapped.step = lambda action: 1 / 0
    with pytest.raises(EnvError, match="at step 18: ZeroDivisionError"):
        second.step(np.zeros((1, 1)))


def test_trees():
    tree = {"a": [1, 2.5, None, True, "x", {"b": np.arange(3)}], "c": np.float32(2)}
    copy = copied(tree)
    assert copy["c"].shape == ()
    back = restored(copy)
    np.testing.assert_equal(back, tree)
    assert type(back["c"]) is np.float32
    copy["a"][5]["b"][0] = 9
    assert back["a"][5]["b"][0] == tree["a"][5]["b"][0] == 0
    for bad in [(1,), {1: 2}, {1}, object(), np.array(None), np.array(["x"]), [lambda: 0], np.random.default_rng()]:
        with pytest.raises(TypeError, match="is in it"):
            copied([bad])


MUJOCO = [
    *["Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum"],
    *["Pusher", "Reacher", "Swimmer", "Walker2d"],
]


@pytest.mark.parametrize("name", ["Ant", *(pytest.param(name, marks=pytest.mark.slow) for name in MUJOCO[1:])])
def test_mujoco_goes_on_to_the_bit(name, tmp_path, monkeypatch):
    """Over 200 steps and the ends of episodes."""
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT
    for before in (37,) if name == "Ant" else (0, 37, 120):
        equal, states = goes_on(f"{name}-v5", before, 200, env_kwargs={"max_episode_steps": 90}, dtype="float64")
        assert equal
        assert "mujoco" in states[0]["read"]


def test_a_mujoco_environment_of_others_is_played_again(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

    class Tiring(InvertedPendulumEnv):
        def reset(self, **kwargs):
            self.strength = 1.0
            return super().reset(**kwargs)

        def step(self, action):
            self.strength *= 0.97
            return super().step(action * self.strength)

    equal, states = goes_on(lambda: wrappers.TimeLimit(Tiring(), 30), dtype="float64")
    assert equal
    assert "sent" in states[0]


# --- several ----------------------------------------------------------------------------------------------------------


def test_several_in_this_process_are_as_many_single_ones():
    together = make_environments("Pendulum-v1", num_envs=3, env_kwargs={"max_episode_steps": 11})
    obs = together.start([4, 9, 2])
    alone = [make_environments("Pendulum-v1", env_kwargs={"max_episode_steps": 11}) for _ in range(3)]
    np.testing.assert_array_equal(
        obs, np.concatenate([one.start([s]) for one, s in zip(alone, [4, 9, 2], strict=True)])
    )
    assert (together.num, together.name, together.acting) == (3, "Pendulum-v1", (0, 1, 2))
    for step in range(30):
        act = np.random.default_rng(step).uniform(-1, 1, (3, 1)).astype(np.float32)
        moment, moments = together.step(act), [one.step(act[i : i + 1]) for i, one in enumerate(alone)]
        for i in range(3):
            assert all(np.array_equal(a[i : i + 1], b) for a, b in zip(moment[1:], moments[i][1:], strict=True))
        if any(moment.truncated):
            obs = together.restart([0, 1, 2], [step, step + 1, step + 2])
            rows = [one.restart([0], [step + i]) for i, one in enumerate(alone)]
            np.testing.assert_array_equal(obs, np.concatenate(rows))
            np.testing.assert_array_equal(obs, together.observations())
    together.close()


def test_only_the_rows_that_ended_are_restarted():
    envs = []
    environments = make_environments(lambda: envs.append(Toy()) or envs[-1], num_envs=3)
    environments.start([1, 2, 3])
    before = environments.observations()
    envs[1].obs = (5.0, 6.0)
    obs = environments.restart([1], [9])
    assert [env.seeds for env in envs] == [[1], [2, 9], [3]]
    assert obs.tolist() == [[0, 0], [5, 6], [0, 0]]
    assert before.tolist() == [[0, 0]] * 3  # what was given out is not written to


def test_errors_of_several_name_the_row():
    envs = []
    environments = make_environments(lambda: envs.append(Toy()) or envs[-1], num_envs=3)
    environments.start([1, 2, 3])
    envs[1].rew = np.nan
    with pytest.raises(EnvError, match=r"^Toy \(environment 2 of 3\) returned the reward nan at step 1"):
        environments.step(np.zeros((3, 1)))


def test_what_cannot_be_several_is_said():
    env = Toy()
    with pytest.raises(EnvError, match="made the same Toy twice"):
        make_environments(lambda: env, num_envs=2)
    made = []
    with pytest.raises(EnvError, match="different spaces"):
        make_environments(lambda: made.append(1) or Toy(high=float(len(made))), num_envs=2)
    with pytest.raises(EnvError, match="num_envs is 3, but the callable made a vector of 2"):
        make_environments(lambda: SyncVectorEnv([Toy] * 2), num_envs=3)
    for num in 0, -1, 1.0, True, "2":
        with pytest.raises(EnvError, match="num_envs must be 1 or more"):
            make_environments(Toy, num_envs=num)
    with pytest.raises(EnvError, match="'sync' or 'async'"):
        make_environments(Toy, num_envs=2, vectorization="fork")

    closed = []

    def second_fails():
        if made[-1:] != ["x"]:
            made.append("x")
            env = Toy()
            env.close = lambda: closed.append(1)
            return env
        raise OSError("license")

    with pytest.raises(EnvError, match="OSError: license"):
        make_environments(second_fails, num_envs=2)
    assert closed == [1]


def test_the_environment_of_an_evaluation_is_told_from_the_ones_that_train():
    env, other = Walk(), Walk()
    for environments in (
        make_environments(lambda: env),
        make_environments(lambda: SyncVectorEnv([lambda: other, lambda: env])),
    ):
        assert environments.is_same(Environment(lambda: wrappers.OrderEnforcing(env)))
        assert not environments.is_same(Environment(Walk))


def test_closing():
    closed = []

    class Closing(Walk):
        def close(self):
            closed.append(1)

    for make, num in [(Closing, 1), (Closing, 2), (lambda: SyncVectorEnv([Closing] * 2), 1)]:
        make_environments(make, num_envs=num).close()
    assert len(closed) == 5

    class Stuck(Walk):
        def close(self):
            raise OSError("the window is gone")

    with pytest.warns(UserWarning, match=r"Stuck could not be closed: OSError\('the window is gone'\)"):
        make_environments(Stuck).close()


# --- vector environments ----------------------------------------------------------------------------------------------

ALL_MODES = list(AutoresetMode)


@given(
    num=st.integers(1, 4),
    seeds=st.lists(st.integers(0, 2**31), min_size=4, max_size=4),
    ends=st.sampled_from([0.02, 0.2, 0.6, 1.0]),
    copy=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_all_modes_give_the_same_transitions(num, seeds, ends, copy):
    """Each row the same ones: observations, actions, rewards, ends. Nothing of a step that only begins an episode."""

    def make():
        env = Walk()
        env.ends = ends
        return env

    logs = []
    for mode in ALL_MODES:
        environments = make_environments(lambda mode=mode: SyncVectorEnv([make] * num, copy=copy, autoreset_mode=mode))
        obs = environments.start(seeds[:num])
        assert (environments.num, obs.shape, environments.name) == (num, (num, 2), "Walk")
        logs.append(go(environments, 40))
        environments.close()
    for row in range(num):
        length = min(len(log[row]) for log in logs)
        assert length >= 20
        assert logs[0][row][:length] == logs[1][row][:length] == logs[2][row][:length]
        last, after = logs[0][row][:-1], logs[0][row][1:]
        for was, now in zip(last, after, strict=True):  # within an episode one goes on where one arrived
            assert (was[3] == now[0]) == (not (was[4] or was[5]))


def test_vectors_begin_from_their_seeds_as_single_ones_do():
    for mode in ALL_MODES:
        vector = make_environments(lambda mode=mode: SyncVectorEnv([Walk] * 2, autoreset_mode=mode))
        obs = vector.start([3, 8])
        np.testing.assert_array_equal(obs, np.stack([Environment(Walk).reset(seed) for seed in (3, 8)]))


def test_acting_leaves_out_the_rows_that_begin_an_episode():
    vector = make_environments(lambda: SyncVectorEnv([lambda: wrappers.TimeLimit(Walk(), 2), Endless]))
    vector.start([1, 2])
    vector.step(np.zeros((2, 1)))
    moment = vector.step(np.zeros((2, 1)))
    assert (moment.rows, moment.truncated, vector.acting) == ((0, 1), [True, False], (1,))
    vector.restart([0], [5])
    moment = vector.step(np.array([[np.nan], [0.5]]))
    assert (moment.rows, vector.acting) == ((1,), (0, 1))
    np.testing.assert_array_equal(moment.next_obs, vector.observations())
    vector.step(np.zeros((2, 1)))


class Endless(Walk):
    ends = 0.0


class Native(gymnasium.vector.VectorEnv):
    """A vector environment of its own, which takes one seed, and is not right in the way that is asked for."""

    def __init__(self, mode=AutoresetMode.DISABLED, **wrong):
        self.num_envs, self.metadata, self.wrong = 2, {"autoreset_mode": mode}, wrong
        self.single_observation_space, self.single_action_space = Walk.observation_space, Walk.action_space
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.wrong.get("reset", (np.full((2, 2), 7.0), {}))

    def step(self, action):
        right = {"obs": np.ones((2, 2)), "rew": np.ones(2), "terminated": np.zeros(2, bool), "truncated": [False] * 2}
        return (*({**right, **self.wrong}[name] for name in right), self.wrong.get("infos", {}))


def test_a_vector_environment_of_its_own():
    vector = make_environments(Native)
    assert vector.start([3, 4]).tolist() == [[7, 7], [7, 7]]
    moment = vector.step(np.zeros((2, 1)))
    assert moment.next_obs.tolist() == [[1, 1], [1, 1]]
    assert vector.restart([1], [0]).tolist() == [[1, 1], [7, 7]]
    assert vector.name == "Native"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reset": np.ones((2, 2))}, r"from reset at its reset; reset must return \(obs, info\)"),
        (
            {"reset": (np.ones(2), {})},
            r"Native \(environment 1 of 2\) returned an observation of 1 numbers at its reset",
        ),
        ({"reset": (np.ones((3, 2)), {})}, "it must be 2 rows of observations"),
        ({"obs": "x"}, "returned 'x' at step 1; it must be 2 rows"),
        ({"obs": np.array([[1, 2], [3, np.nan]])}, r"\(environment 2 of 2\) .* element 1 of 2 is nan at step 1"),
        ({"rew": np.ones((2, 1))}, "returned rew = .*; it must be 2 values"),
        (
            {"rew": np.array([1, 1e39])},
            r"\(environment 2 of 2\) returned the reward .* too large for float32 at step 1",
        ),
        ({"rew": [None, None]}, r"\(environment 1 of 2\) returned the reward None"),
        ({"terminated": np.zeros(2)}, r"terminated = .* at step 1; it must be a bool"),
        ({"truncated": True}, "truncated = True at step 1; it must be 2 values"),
        (
            {"truncated": np.array([True, False]), "mode": AutoresetMode.SAME_STEP},
            r"must give it in infos\['final_obs'\]",
        ),
        (
            {
                "truncated": [True] * 2,
                "mode": AutoresetMode.SAME_STEP,
                "infos": {"final_obs": np.array([[1, 2], [1, np.inf]])},
            },
            r"\(environment 2 of 2\) .* element 1 of 2 is inf at step 1",
        ),
        ({"mode": None}, r"metadata\['autoreset_mode'\] = None; it must be one of gymnasium.vector.AutoresetMode"),
        ({"mode": "sometimes"}, "= 'sometimes'"),
    ],
)
def test_vectors_that_are_not_right_are_named(wrong, message):
    with pytest.raises(EnvError, match=message) as caught:
        go(started(lambda: Native(**wrong), num=2), 1)
    assert "\n" not in str(caught.value)


def test_vectors_without_spaces_are_named():
    vector = Native()
    del vector.single_action_space
    with pytest.raises(EnvError, match="must have num_envs, single_observation_space and single_action_space"):
        make_environments(lambda: vector)


def test_a_row_that_only_begins_an_episode_may_say_anything():
    vector = make_environments(lambda: Native(AutoresetMode.NEXT_STEP, terminated=np.ones(2, bool)))
    vector.start([0, 1])
    assert all(vector.step(np.zeros((2, 1))).terminated)
    vector._vector.wrong["rew"] = np.full(2, np.nan)
    moment = vector.step(np.zeros((2, 1)))
    assert (moment.rows, moment.rew, moment.terminated) == ((), [0, 0], [False, False])


def test_a_vector_begins_the_episodes_of_its_state_again_and_says_so():
    vector = make_environments(lambda: SyncVectorEnv([Walk] * 2))
    vector.start([1, 2])
    go(vector, 20)
    state = vector.state()
    copied(state)
    lost = vector.restore(state)
    assert [row for row, _ in lost] == [0, 1]
    assert "vector" in lost[0][1]
    np.testing.assert_array_equal(vector.observations(), np.stack([Environment(Walk).reset(s) for s in state["seeds"]]))
    assert state["seeds"] != [1, 2]
    with pytest.raises(EnvError, match="3 environments, but 2"):
        make_environments(lambda: SyncVectorEnv([Walk] * 3)).restore(state)


@pytest.mark.parametrize("mode", ["sync", "vector"])
def test_wrappers_that_learn_are_named(mode):
    def make(*kinds):
        def wrapped():
            env = Walk()
            for kind in kinds:
                env = kind(env)
            return env

        return wrapped if mode == "sync" else lambda: SyncVectorEnv([wrapped] * 2)

    assert make_environments(make()).learned_statistics is None
    assert make_environments(make(wrappers.OrderEnforcing)).learned_statistics is None
    inner = make(wrappers.NormalizeObservation, wrappers.OrderEnforcing)
    assert make_environments(inner).learned_statistics == "NormalizeObservation"
    assert make_environments(make(wrappers.NormalizeReward)).learned_statistics == "NormalizeReward"
    if mode == "vector":
        outer = make_environments(lambda: wrappers.vector.NormalizeObservation(make()()))
        assert outer.learned_statistics == "NormalizeObservation"


class Elsewhere(Walk):
    ends = 0.3

    def step(self, action):
        if action[0] > 1.99:
            raise OSError("no wind")  # elsewhere
        return super().step(action)


def test_environments_in_processes_of_their_own():
    """As in this process; deaf to Ctrl-C and a closed terminal, which the run answers; errors with row and place."""

    def make():
        return wrappers.NormalizeReward(Elsewhere())

    there, here = make_environments(make, num_envs=2, vectorization="async"), make_environments(make, num_envs=2)
    try:
        assert there.learned_statistics == "NormalizeReward"
        np.testing.assert_array_equal(there.start([3, 8]), here.start([3, 8]))
        for process in there._vector.processes:
            os.kill(process.pid, signal.SIGINT)
            os.kill(process.pid, signal.SIGHUP)
        assert go(there, 30) == go(here, 30)
        act = np.array([[0.0], [1.0]])
        place = rf"test_environment.py:{line_of('# elsewhere')}"
        with pytest.raises(
            EnvError, match=rf"^Elsewhere \(environment 2 of 2\) failed at step 31: OSError: no wind \({place}\)$"
        ):
            there.step(act)
    finally:
        there.close()
        here.close()
    assert not any(process.is_alive() for process in there._vector.processes)


@pytest.mark.slow
def test_ids_in_processes_of_their_own_and_one_that_dies():
    there = make_environments("Pendulum-v1", num_envs=2, vectorization="async", env_kwargs={"max_episode_steps": 7})
    here = make_environments("Pendulum-v1", num_envs=2, env_kwargs={"max_episode_steps": 7})
    np.testing.assert_array_equal(there.start([3, 8]), here.start([3, 8]))
    assert go(there, 30) == go(here, 30)
    assert (there.name, [row for row, _ in there.restore(there.state())]) == ("Pendulum-v1", [0, 1])
    victim = there._vector.processes[0]
    victim.kill()
    victim.join()
    with pytest.raises(EnvError, match="Pendulum-v1 failed at step 31: the process of an environment has ended"):
        there.step(np.zeros((2, 1)))
    with pytest.warns(UserWarning, match="could not be closed"):
        there.close()
    for process in there._vector.processes:
        process.join(10)
        assert not process.is_alive()
    here.close()


class Odd:
    """Whatever is asked of it fails."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no array")

    def __repr__(self):
        return "odd"


@pytest.mark.parametrize("value", [0, 1, None, "no", 1.0, [], [True, False], np.ones(2, bool), np.int8(1), Odd()])
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_what_is_no_bool_says_what_is_odd_about_it(value, name):
    with pytest.raises(Unusable) as caught:
        flag(value, name)
    assert caught.value.args[0].startswith(f"{name} = ")
    for right in (True, np.True_, np.array([True]), [True], np.ones((1, 1), bool)):
        assert flag(right, name) is True


@pytest.mark.parametrize("num", [1, 2])
def test_a_vector_is_called_by_the_class_of_its_environments(num):
    made = make_environments(lambda: SyncVectorEnv([Toy] * num, autoreset_mode=AutoresetMode.DISABLED), num_envs=num)
    assert made.name == "Toy"
    made.close()
