"""The training loop, seeds, and what happens when something goes wrong."""

import signal

import gymnasium
import numpy as np
import pytest

import minddpg.training as train_module
from minddpg import Config, ConfigError, EnvError, TrainingError, load, train
from minddpg.ddpg import Losses
from minddpg.environment import make_environments
from minddpg.seeds import episode_seed
from minddpg.training import Run, Stop, stop_on_signal

Box = gymnasium.spaces.Box
TINY = Config(steps=120, hidden_sizes=(4,), batch_size=8, learning_starts=40)


class Recorder(gymnasium.Env):
    """Remembers the actions it was given; obs, reward and bounds are the test's to choose."""

    def __init__(self, low=-1.0, high=1.0, obs=(0.0, 0.0), reward=1.0, length=10, act_space=None, obs_space=None):
        self.action_space = act_space or Box(np.asarray(low, np.float32), np.asarray(high, np.float32))
        self.observation_space = obs_space or Box(-np.inf, np.inf, np.shape(obs), np.float64)
        self.obs, self.reward, self.length, self.actions, self.resets = obs, reward, length, [], []

    def _obs(self):
        return np.array(self.obs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets.append(seed)
        self.left = self.length
        return self._obs(), {}

    def step(self, action):
        self.actions.append(np.array(action))
        assert self.action_space.contains(action)
        self.left -= 1
        reward = self.reward(len(self.actions)) if callable(self.reward) else self.reward
        return self._obs(), reward, False, self.left == 0, {}


@pytest.mark.parametrize("reward", [np.nan, np.inf, None, "high"])
def test_a_bad_reward_names_step_and_environment_and_leaves_nothing(reward, tmp_path):
    with pytest.raises(EnvError, match=r"Recorder.*reward.*step 3"):
        train(lambda: Recorder(reward=lambda n: reward if n == 3 else 0.0), TINY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_late_failure_keeps_the_agent_so_far_and_its_traceback(tmp_path):
    with pytest.raises(EnvError, match=r"step 77.*the agent so far is kept in .*run.*--resume") as caught:
        train(lambda: Recorder(reward=lambda n: np.nan if n == 77 else 1.0), TINY, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    files = {"config.json", "progress.csv", "agent.npz", "checkpoint.npz", "lock", "error.txt"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == files
    assert len((tmp_path / "run" / "progress.csv").read_text().splitlines()) == 1 + 7
    assert "Traceback" in (tmp_path / "run" / "error.txt").read_text()
    kept = load(tmp_path / "run")
    assert (kept.updates, caught.value.result.steps) == (36, 76)
    np.testing.assert_array_equal(kept.actor.params, caught.value.result.agent.actor.params)


@pytest.mark.parametrize(("rate", "finite"), [("critic_lr", True), ("actor_lr", False)])
def test_divergence_is_an_error_and_saves_no_broken_agent(tmp_path, rate, finite):
    """A critic that grows is stopped while it is finite; the first checkpoint, of step 0, is what is left."""
    config = TINY.replace(**{rate: 1e9 if finite else 1e300})
    said = r"diverged: .* is not finite at step \d+.*checkpoint is kept"
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match=said) as caught:
        train(lambda: Recorder(obs=(0.5, -1.0)), config, out=tmp_path / "run")
    files = {"config.json", "progress.csv", "checkpoint.npz", "lock", "error.txt"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == files
    assert caught.value.result.agent.is_finite() == finite


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda agent: agent.actor.params.fill(np.nan),
            r"an action of the actor is not finite at step 60 \(actor.0.weight",
        ),
        (lambda agent: agent.critic.params.fill(np.inf), r"the critic's gradient is not finite at step 61"),
        (lambda agent: agent.target_critic.params.fill(np.nan), "the critic's gradient is not finite at step 61"),
    ],
)
def test_what_is_not_finite_is_named_with_its_step(spoil, message):
    run = Run(make_environments(Recorder), TINY)
    while run.steps < 60:
        run.step()
    spoil(run.agent)
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match=message):
        run.step()


def test_rewards_that_are_too_large_to_square_are_named_and_nothing_is_destroyed(tmp_path):
    """Not the learning rates' fault."""
    with (
        np.errstate(all="ignore"),
        pytest.raises(TrainingError, match=r"at step 41 \(rew is as large as 1e\+30\)") as caught,
    ):
        train(lambda: Recorder(reward=1e30), TINY, out=tmp_path / "run")
    assert caught.value.result.agent.is_finite()


def test_one_seed_gives_bit_identical_parameters():
    runs = [train("Pendulum-v1", TINY.replace(steps=250), seed=seed) for seed in (3, 3, 4)]
    states = [run.agent.state_dict() for run in runs]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert not np.array_equal(states[0]["actor.0.weight"], states[2]["actor.0.weight"])
    assert [r["return"] for r in runs[0].history] == [r["return"] for r in runs[1].history]


def test_global_random_state_plays_no_part():
    np.random.seed(0)  # noqa: NPY002
    first = train("Pendulum-v1", TINY, seed=1).agent.actor.params
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    second = train("Pendulum-v1", TINY, seed=1).agent.actor.params
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_the_loop(monkeypatch):
    """Warm-up is uniform, then mu(s) + noise, clipped; updates start after it; history has a row per episode."""
    env, updates, seen = Recorder(-2, 2), [], []
    real = train_module.DDPG.update_from
    monkeypatch.setattr(train_module.DDPG, "update_from", lambda *a: updates.append(len(env.actions)) or real(*a))
    config = TINY.replace(noise_std=3.0, update_every=10, updates_per_step=2)
    result = train(lambda: env, config, progress=lambda step, history: seen.append((step, len(history))))
    actions = np.array(env.actions)
    assert (len(actions), result.steps, result.interrupted) == (120, 120, False)
    assert np.abs(actions[:40]).max() < 2
    assert len(set(actions[:40])) == 40
    assert np.sum(np.abs(actions[40:]) == 2) > 40  # noise_std 3 saturates
    assert updates == [s for s in range(50, 121, 10) for _ in range(2)]
    assert seen == [(s, s // 10) for s in range(1, 121)]
    assert [row["step"] for row in result.history] == list(range(10, 121, 10))
    assert {row["return"] for row in result.history} == {10.0}
    assert np.isnan(result.history[3]["critic_loss"])
    assert np.isfinite(result.history[4]["critic_loss"])
    assert env.resets == [episode_seed(0, 0, number) for number in range(13)]


class Counter(gymnasium.Env):
    """obs counts the steps of the whole run, in one array that is returned again and again; reset jumps by 100."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-4, 2, (1,), np.float32)

    def __init__(self):
        self.obs, self.sent = np.zeros(1, np.float32), []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs += 100
        return self.obs, {}

    def step(self, action):
        self.sent.append(float(action[0]))
        self.obs += 1
        n = len(self.sent)
        return self.obs, np.array([10.0 * n]), n % 7 == 0, n % 5 == 0, {}


def test_what_is_stored_is_what_happened(monkeypatch):
    """Each row of the replay: the observation acted on, the action sent, and what came of it."""
    env, made = Counter(), []
    real = train_module.ReplayBuffer
    monkeypatch.setattr(train_module, "ReplayBuffer", lambda *a: made.append(real(*a)) or made[0])
    train(lambda: env, TINY.replace(noise_std=0.5))
    stored, obs = made[0].transitions, 100.0
    for i in range(120):
        n = i + 1
        assert (stored.obs[i, 0], stored.next_obs[i, 0]) == (obs, obs + 1)
        assert stored.rew[i] == 10 * n
        assert stored.terminated[i] == (n % 7 == 0)
        assert env.sent[i] == pytest.approx(-1 + 3 * stored.act[i, 0], abs=1e-6)
        obs += 101 if n % 7 == 0 or n % 5 == 0 else 1


def test_streams_do_not_disturb_each_other(monkeypatch):
    """More updates draw more from the replay's stream; warm-up, noise and environment must not notice."""
    noises = []
    real = train_module.new_noise

    def recording(*args):
        noise = real(*args)
        sample = noise.sample
        noise.sample = lambda: noises[-1].append(sample()) or noises[-1][-1]
        noises.append([])
        return noise

    monkeypatch.setattr(train_module, "new_noise", recording)
    envs = [Recorder(), Recorder()]
    for env, updates in zip(envs, (1, 3), strict=True):
        train(lambda env=env: env, TINY.replace(updates_per_step=updates), seed=2)
    np.testing.assert_array_equal(np.array(envs[0].actions[:40]), np.array(envs[1].actions[:40]))
    np.testing.assert_array_equal(noises[0], noises[1])
    assert envs[0].resets[0] == envs[1].resets[0]
    assert not np.allclose(np.array(envs[0].actions[60:]), np.array(envs[1].actions[60:]))
    streams = train_module.random_streams(2)
    np.testing.assert_allclose(np.array(envs[0].actions[:40]), streams.first_actions.uniform(-1, 1, 40), rtol=1e-6)
    np.testing.assert_allclose(np.array(noises[0])[:, 0], 0.1 * streams.noise.standard_normal(80))


def test_noise_is_reset_each_episode(monkeypatch):
    resets = []
    monkeypatch.setattr(train_module, "new_noise", lambda *a: _Silent(resets))
    train(Recorder, TINY)
    assert len(resets) == 12


class _Silent:
    def __init__(self, resets):
        self.reset = lambda: resets.append(1)

    def sample(self):
        return np.zeros(1)


def test_what_cannot_be_trained_is_said():
    with pytest.raises(ConfigError, match="learning_starts"):
        train(Recorder, TINY, steps=40)
    with pytest.raises(ConfigError, match="seed"):
        train(Recorder, TINY, seed=-1)
    with pytest.warns(UserWarning, match="latest versioned"):
        assert train("Pendulum", steps=1100).agent.config.final_init == Config.preset("Pendulum-v1").final_init
    assert train("Pendulum-v1", steps=1100).agent.config.hidden_sizes == Config.preset("Pendulum-v1").hidden_sizes
    assert train(Recorder, steps=1001).steps == 1001


def test_ctrl_c_finishes_the_step_and_keeps_the_agent(tmp_path):
    def interrupt(step, history):
        if step == 75:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = train(Recorder, TINY, out=tmp_path / "run", progress=interrupt)
    assert (result.interrupted, result.signal, result.steps) == (True, signal.SIGINT, 75)
    assert (tmp_path / "run" / "agent.npz").exists()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_interrupts_at_once():
    with stop_on_signal(Stop()) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signal(Stop()) as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.number is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_left_alone_outside_the_main_thread():
    import threading

    seen = []

    def run():
        with stop_on_signal(Stop()) as stop:
            seen.append((stop.number, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_an_episode_that_never_ends_keeps_no_list_of_its_losses():
    episode, rng = train_module.Episode(), np.random.default_rng(0)
    rows = rng.standard_normal((5_500, 5))
    for row in rows:
        episode.add(Losses(*row))
        assert len(episode._recent) < 1_000
    np.testing.assert_allclose(list(episode.means().values()), rows.mean(axis=0), rtol=1e-9, atol=1e-12)
