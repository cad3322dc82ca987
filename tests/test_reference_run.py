"""A training run beside a loop in plain Python that is the tests' own: they must agree event by event.

The environment writes down what happens to it. How long an episode is, and how it ends, follows from its seed alone, so
that the loop below knows beforehand what has to come.
"""

import itertools
import math
from collections import deque

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exact_resume import assert_equal_files, files

from minddpg import Config, ConfigError, resume, train, training
from minddpg.ddpg import Losses
from minddpg.environment import make_environments
from minddpg.seeds import episode_seed, evaluation_seed
from minddpg.training import Run

LOW, HIGH = np.array([-2.0, 0.5]), np.array([1.0, 10.5])


class Diary(gymnasium.Env):
    """Observations of two axes that float32 cannot hold; two actions of different bounds; rewards with a fraction."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2, 3), np.float64)
    action_space = gymnasium.spaces.Box(LOW.astype(np.float32), HIGH.astype(np.float32))

    def __init__(self, log):
        self.log, self.who = log, sum(event[0] == "made" for event in log)
        log.append(("made", self.who))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.log.append(("reset", self.who, seed))
        self.rng, self.left, self.terminates = begin(seed)
        return self.rng.standard_normal((2, 3)), {}

    def step(self, action):
        self.log.append(("step", self.who, tuple(action.tolist())))
        self.left -= 1
        obs = self.rng.standard_normal((2, 3)) + action.astype(float).sum() / 9
        over = self.left == 0
        rew = float(self.rng.standard_normal() + action.astype(float) @ [1 / 3, 1 / 7])
        return obs, rew, over and self.terminates, over and not self.terminates, {}


def begin(seed):
    """What an episode from this seed is like: its Generator, length, and whether it is terminated or truncated."""
    rng = np.random.default_rng(seed)
    return rng, int(rng.integers(1, 10)), bool(rng.random() < 0.5)


class ReferenceRun:
    """The loop: what is stored, when updates are made, what a row says. Actions, noise and losses it is told."""

    def __init__(self, config, seed):
        self.config, self.seed, n = config, seed, config.num_envs
        log = []
        self.envs = [Diary(log) for _ in range(n)]
        self.number = [0] * n
        self.obs = [env.reset(seed=episode_seed(seed, i, 0))[0] for i, env in enumerate(self.envs)]
        self.rewards = [[] for _ in range(n)]
        self.losses = [[] for _ in range(n)]
        self.ring = deque(maxlen=config.buffer_size)
        self.steps = self.finished = 0

    def due(self):
        """Updates in the next step."""
        config = self.config
        steps = range(self.steps + 1, self.steps + config.num_envs + 1)
        return sum(
            config.updates_per_step for s in steps if s > config.learning_starts and s % config.update_every == 0
        )

    def step(self, acts, sent, losses):
        """-> the rows of the episodes that end, the resets"""
        ended, rows, resets = [], [], []
        for i, (env, act) in enumerate(zip(self.envs, acts, strict=True)):
            obs, rew, terminated, truncated, _ = env.step(np.array(sent[i], np.float32))
            self.ring.append((flat(self.obs[i]), act.tolist(), rew, flat(obs), terminated))
            self.obs[i] = obs
            self.rewards[i].append(rew)
            if terminated or truncated:
                ended.append(i)
        self.steps += len(acts)
        for i in range(len(acts)):
            self.losses[i] += losses
        for i in ended:
            self.finished += 1
            means = [sum(column) / len(column) for column in zip(*self.losses[i], strict=True)]
            named = dict(zip(Losses._fields, means or [math.nan] * len(Losses._fields), strict=True))
            rows.append({"step": self.steps, "episode": self.finished, "return": sum(self.rewards[i]),
                         "length": len(self.rewards[i]), **named})  # fmt: skip
            self.number[i] += 1
            self.rewards[i], self.losses[i] = [], []
            seed = episode_seed(self.seed, i, self.number[i])
            self.obs[i], _ = self.envs[i].reset(seed=seed)
            resets.append(("reset", i, seed))
        return rows, resets


def flat(obs):
    """Row after row."""
    return [float(obs[i, j]) for i in range(2) for j in range(3)]


class Spied:
    """What a run asks of its noises and its agent, written down."""

    def __init__(self, run):
        self.samples, self.resets, self.losses, self.seen = {}, [], [], []
        for i, noise in enumerate(run.noises):
            self._spy(i, noise)
        update_from = run.agent.update_from

        def update(replay, *others, **more):
            self.seen.append((replay.added, len(replay)))
            self.losses.append(update_from(replay, *others, **more))
            return self.losses[-1]

        run.agent.update_from = update

    def _spy(self, i, noise):
        sample, reset = noise.sample, noise.reset

        def sampled():
            assert i not in self.samples, "one sample a step"
            self.samples[i] = np.array(sample())
            return self.samples[i].copy()

        noise.sample, noise.reset = sampled, lambda: self.resets.append(i) or reset()

    def forget(self):
        for record in (self.samples, self.resets, self.losses, self.seen):
            record.clear()


CONFIGS = st.builds(
    lambda num_envs, learning_starts, **others: Config(
        steps=45, hidden_sizes=(4,), num_envs=num_envs, learning_starts=learning_starts, **others
    ),
    num_envs=st.integers(1, 3),
    learning_starts=st.integers(0, 20),
    buffer_size=st.sampled_from([9, 20, 46, 1000]),
    batch_size=st.integers(1, 9),
    update_every=st.integers(1, 4),
    updates_per_step=st.integers(1, 2),
    noise=st.sampled_from(["gaussian", "ou"]),
    noise_std=st.sampled_from([0.0, 0.1, 2.0]),
    dtype=st.sampled_from(["float32", "float64"]),
)


@settings(max_examples=12)
@given(config=CONFIGS, seed=st.integers(0, 2**31))
def test_a_run_is_the_reference_event_by_event(config, seed):
    log = []
    run = Run(make_environments(lambda: Diary(log), config.dtype, config.num_envs), config, seed)
    reference, spied, n = ReferenceRun(config, seed), Spied(run), config.num_envs
    assert [e for e in log if e[0] != "made"] == [("reset", i, episode_seed(seed, i, 0)) for i in range(n)]
    warmups, updates = [], 0
    while run.steps < config.steps:
        log.clear()
        spied.forget()
        obs = np.array([flat(obs) for obs in reference.obs], config.dtype)
        mu, due = run.agent.act(obs), reference.due()
        happened = run.step()
        if reference.steps < config.learning_starts:
            assert spied.samples == {}
            acts = np.array([row[1] for row in transitions(run.replay)[-n:]])
            warmups += acts.ravel().tolist()
        else:
            acts = np.clip(mu + np.array([spied.samples[i] for i in range(n)]), -1, 1)
        steps = [event for event in log if event[0] == "step"]
        assert [who for _, who, _ in steps] == list(range(n))
        sent = np.array([action for *_, action in steps])
        np.testing.assert_allclose(sent, within(acts), atol=2e-6)
        assert len(spied.losses) == happened.updates == due
        rows, resets = reference.step(acts, sent, [list(losses) for losses in spied.losses])
        assert spied.seen == [(reference.steps, len(reference.ring))] * due  # what was just stored may be drawn at once
        assert [event for event in log if event[0] == "reset"] == resets
        assert spied.resets == [i for _, i, _ in resets]
        assert_same_rows(happened.episodes, rows)
        updates += due
        assert (run.steps, run.finished, run.agent.updates) == (reference.steps, reference.finished, updates)
        assert len(run.replay) == len(reference.ring)
    for stored, expected in zip(transitions(run.replay), reference.ring, strict=True):
        for value, wanted in zip(stored, map(np.array, expected), strict=True):
            np.testing.assert_array_equal(value, wanted if wanted.dtype == bool else wanted.astype(config.dtype))
    assert len(set(warmups)) == len(warmups)
    assert all(-1 < act < 1 for act in warmups)


def transitions(replay):
    """From the oldest to the newest."""
    return list(zip(*replay.spread(len(replay)), strict=True))


def assert_same_rows(rows, expected):
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert {k: row[k] for k in ("step", "episode", "length")} == {
            k: other[k] for k in ("step", "episode", "length")
        }
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-9, equal_nan=True)


def planned(config, seed):
    """What the environments of a whole `train` must be told, actions left out: training's are 0 to n - 1, then the
    evaluations' own."""
    n, events, steps, made = config.num_envs, [], 0, 0
    number, left = [0] * n, []
    for i in range(n):
        events.append(("reset", i, episode_seed(seed, i, 0)))
        left.append(begin(episode_seed(seed, i, 0))[1])
    while True:
        if config.evaluate_every and steps // config.evaluate_every > made:
            made = steps // config.evaluate_every
            for k in range(config.evaluation_episodes):
                start = evaluation_seed(seed, k)
                events += [("reset", n, start), *[("step", n)] * begin(start)[1]]
        if steps >= config.steps:
            return events
        steps += n
        events += [("step", i) for i in range(n)]
        left = [episode - 1 for episode in left]
        for i in [i for i in range(n) if left[i] == 0]:
            number[i] += 1
            start = episode_seed(seed, i, number[i])
            events.append(("reset", i, start))
            left[i] = begin(start)[1]


@settings(max_examples=6)
@given(config=CONFIGS, every=st.sampled_from([0, 25, 30, 37]), episodes=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_whole_training_is_what_was_planned(config, every, episodes, seed):
    """Evaluations come when due, from the same starts, in an environment of their own; at the end as well."""
    config = config.replace(steps=90, evaluate_every=every, evaluation_episodes=episodes)
    log, seen = [], []
    result = train(
        lambda: Diary(log), config, seed=seed, progress=lambda steps, history: seen.append((steps, len(history)))
    )
    assert [event[:2] if event[0] == "step" else event for event in log if event[0] != "made"] == planned(config, seed)
    n = config.num_envs
    assert [steps for steps, _ in seen] == list(range(n, result.steps + 1, n))
    assert [count for _, count in seen] == [sum(row["step"] <= steps for row in result.history) for steps, _ in seen]
    due = range(every, result.steps + 1, every) if every else []
    expected = list(dict.fromkeys(-(-step // n) * n for step in due))
    assert [row["step"] for row in result.evaluations] == expected
    assert all(row["episodes"] == episodes for row in result.evaluations)
    if expected and expected[-1] == result.steps:  # of the agent as it is in the end, without noise
        returns = []
        for k in range(episodes):
            env, over = Diary([]), False
            obs, _ = env.reset(seed=evaluation_seed(seed, k))
            returns.append(0.0)
            while not over:
                act = result.agent.act(flat(obs))
                obs, rew, terminated, truncated, _ = env.step(within(act).astype(np.float32))
                returns[-1] += rew
                over = terminated or truncated
        row = result.evaluations[-1]
        measured = [row[name] for name in ("mean", "std", "low", "high")]
        np.testing.assert_allclose(
            measured, [np.mean(returns), np.std(returns), min(returns), max(returns)], rtol=1e-5, atol=1e-5
        )


def within(act):
    return np.clip(LOW + (act.astype(float) + 1) / 2 * (HIGH - LOW), LOW, HIGH)


@settings(max_examples=4)
@given(config=CONFIGS, cut=st.sampled_from([24, 30, 42]), seed=st.integers(0, 99))
def test_a_run_cut_anywhere_leaves_the_files_of_the_whole(tmp_path_factory, config, cut, seed):
    """Also in the middle of episodes of an environment whose state cannot be read: they are played again."""
    out = tmp_path_factory.mktemp("runs")
    config = config.replace(steps=60, evaluate_every=27, evaluation_episodes=1, diagnose_every=7)
    whole = train(lambda: Diary([]), config, seed=seed, out=out / "whole")
    train(lambda: Diary([]), config.replace(steps=cut), seed=seed, out=out / "cut")
    again = resume(out / "cut", 60, lambda: Diary([]))
    assert_equal_files(files(out / "cut"), files(out / "whole"))
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in result.history] for result in (again, whole)]
    assert repr(strip[0]) == repr(strip[1])
    assert again.evaluations == whole.evaluations


def test_every_episode_has_a_start_of_its_own():
    """Of 3 runs, 4 environments and 50 episodes each, and their evaluations, no two start alike."""
    seeds = [episode_seed(run, i, k) for run, i, k in itertools.product(range(3), range(4), range(50))]
    seeds += [evaluation_seed(run, k) for run, k in itertools.product(range(3), range(50))]
    assert len(set(seeds)) == len(seeds)
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**30  # not the run's own, nor near it
    for wrong in (-1, True, 0.5):
        with pytest.raises(ConfigError, match="seed must be a whole number"):
            episode_seed(wrong, 0, 0)
        with pytest.raises(ConfigError, match="seed must be a whole number"):
            evaluation_seed(wrong, 0)


@pytest.mark.parametrize(("buffer_size", "rows"), [(9, 9), (46, 46), (1000, 46)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_is_asked_for_as_much_as_will_be_held(monkeypatch, buffer_size, rows, dtype):
    """Of three dimensions that differ; two environments may make one step more than planned."""
    asked = []
    monkeypatch.setattr(training, "check_memory", lambda *args: asked.append(args[0]))
    config = Config(steps=45, hidden_sizes=(), learning_starts=0, batch_size=1, buffer_size=buffer_size, num_envs=2)
    run = Run(make_environments(lambda: Diary([]), dtype, 2), config.replace(dtype=dtype))
    assert asked == [run.replay.nbytes] == [rows * ((6 + 2 + 1 + 6) * (4 if dtype == "float32" else 8) + 1)]
