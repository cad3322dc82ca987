"""Training and evaluation: the only file that knows Gymnasium.

One step of training: act, add noise, step the environment, store the transition, update. What the agent sees are flat
observations and actions in [-1, 1]; `Environment` is the one place where actions are scaled to an environment's bounds.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from .checkpoint import RunDirectory, RunInfo, first_line
from .config import Config, ConfigError
from .ddpg import DDPG, Losses, checked_seed, random_streams
from .gradflow.diagnosis import Diagnosis
from .gradflow.monitor import EVERY, Finding, Monitor
from .jit import FloatArray
from .noise import new_noise
from .profile import Profile
from .replay import ReplayBuffer

EnvironmentLike = str | Callable[[], "gymnasium.Env[Any, Any]"]
EpisodeRow = dict[str, float]  # step, episode, return, length, the means of Losses over its updates, seconds


class EnvError(ValueError):
    """An environment that cannot be made, or that returned something unusable; the message is one line."""


class TrainingError(ArithmeticError):
    """Training that has diverged; the message is one line."""


class Environment:
    """A Gymnasium environment as the agent sees it: flat observations of one dtype, actions in [-1, 1].

    env: an id ("Pendulum-v1", "module:Env-v0") or a callable that makes an environment. Its action space must be a Box
    of floats with finite bounds, its observation space a Box.
    """

    def __init__(self, env: EnvironmentLike, dtype: str = "float32"):
        self._env = _make(env)
        if not isinstance(env, str):
            self.name = type(self._env.unwrapped).__name__
        else:  # with its version, even if it was asked for without, so that a run says what it was
            self.name = env if ":" in env or self._env.spec is None else self._env.spec.id
        self.dtype = dtype
        self._steps = 0
        try:
            self._check_spaces()
        except BaseException:
            self._env.close()
            raise

    def _check_spaces(self) -> None:
        obs_space, act_space = self._env.observation_space, self._env.action_space
        if not isinstance(act_space, gymnasium.spaces.Box) or act_space.dtype.kind != "f":
            raise EnvError(
                f"{self.name} has the action space {_short(act_space)}; DDPG needs a Box of floats (continuous actions)"
            )
        if not isinstance(obs_space, gymnasium.spaces.Box):
            raise EnvError(
                f"{self.name} has the observation space {_short(obs_space)}; minddpg needs a Box "
                "(gymnasium.wrappers.FlattenObservation makes one of a Dict or Tuple)"
            )
        self._low = act_space.low.astype(np.float64).ravel()
        self._high = act_space.high.astype(np.float64).ravel()
        if not (np.isfinite(self._low).all() and np.isfinite(self._high).all()):
            raise EnvError(
                f"{self.name} has an unbounded action space; give it bounds with gymnasium.wrappers.RescaleAction"
            )
        self._half = 0.5 * (self._high - self._low)
        self.obs_dim, self.act_dim = math.prod(obs_space.shape), math.prod(act_space.shape)
        if self.obs_dim == 0 or self.act_dim == 0:
            raise EnvError(f"{self.name} has observations or actions of no elements; there is nothing to learn")
        self._act_space = act_space

    def reset(self, seed: int | None = None) -> FloatArray:
        """Start an episode.    -> obs (obs_dim,)"""
        obs, _ = self._env.reset(seed=seed)
        return self._observation(obs)

    def step(self, act: FloatArray) -> tuple[FloatArray, float, bool, bool]:
        """act (act_dim,) in [-1, 1] -> next_obs (obs_dim,), rew, terminated, truncated"""
        self._steps += 1
        scaled = within(self._low + (act + 1.0) * self._half, self._low, self._high)
        space = self._act_space
        obs, rew, terminated, truncated, _ = self._env.step(scaled.astype(space.dtype).reshape(space.shape))
        try:
            number = float(np.asarray(rew).item())
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise EnvError(
                f"{self.name} returned the reward {rew!r} at step {self._steps}; it must be one finite number"
            )
        return self._observation(obs), number, bool(terminated), bool(truncated)

    def _observation(self, obs: Any) -> FloatArray:
        try:  # a copy: environments may return the same array again, with other numbers in it
            with np.errstate(over="ignore"):
                array = np.array(obs, self.dtype).reshape(-1)
        except (TypeError, ValueError):
            raise EnvError(
                f"{self.name} returned the observation {_short(obs)} at step {self._steps}; it must be all numbers"
            ) from None
        if array.size != self.obs_dim or not np.isfinite(array).all():
            too_large = f"with a NaN, an infinity or a number too large for {self.dtype}"
            what = too_large if array.size == self.obs_dim else f"of {array.size} numbers"
            raise EnvError(
                f"{self.name} returned an observation {what} at step {self._steps}; "
                f"it must be {self.obs_dim} finite numbers"
            )
        return array

    def is_same(self, other: Environment) -> bool:
        """Whether both are one environment underneath."""
        return self._env.unwrapped is other._env.unwrapped

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _make(env: EnvironmentLike) -> gymnasium.Env[Any, Any]:
    if not isinstance(env, str):
        if not callable(env):
            raise EnvError(f"env must be an environment id or a callable that makes one, not {env!r}")
        made = env()
        if not isinstance(made, gymnasium.Env):
            raise EnvError(f"the callable that should make an environment made {made!r}")
        return made
    try:
        with warnings.catch_warnings(record=True) as caught:  # where it fails, one line says why
            made = gymnasium.make(env, disable_env_checker=True)  # Environment checks what training needs
    except gymnasium.error.DependencyNotInstalled as error:
        text = str(error).lower()
        extra = "box2d" if "box2d" in text else "mujoco" if "mujoco" in text else None
        remedy = f"install the extra {extra}, from a checkout: pip install '.[{extra}]'" if extra else first_line(error)
        raise EnvError(f"{env} needs a package that is not installed; {remedy}") from None
    except Exception as error:  # whatever the code of an environment, or of the module it is in, raises
        raise EnvError(f"cannot make {env!r}: {first_line(error)}") from None
    for warning in caught:
        warnings.warn(str(warning.message), warning.category, stacklevel=4)
    return made


def _short(space: Any) -> str:
    return str(space)[:60]


def within(values: FloatArray, low: float | FloatArray, high: float | FloatArray) -> FloatArray:
    """np.clip in a quarter of its time, which every step pays."""
    return np.minimum(np.maximum(values, low), high)


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainResult:
    """agent: as trained. history: a dict per finished episode (the columns of progress.csv). interrupted: by Ctrl-C.

    diagnoses: what was visibly wrong with the gradients on the way; empty for a healthy run, or if nobody looked.
    """

    agent: DDPG
    history: list[EpisodeRow]
    steps: int
    interrupted: bool
    diagnoses: list[Finding]


def train(
    env: EnvironmentLike,
    config: Config | None = None,
    steps: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, list[EpisodeRow]], None] | None = None,
    profile: Profile | None = None,
    diagnose_every: int = EVERY,
    evaluations: int | None = None,
    warn: Callable[[Diagnosis], None] | None = None,
) -> TrainResult:
    """Train a new agent on an environment.

    env: Gymnasium id, "module:Env-v0", or a callable that makes an environment.
    config: hyperparameters; None takes the environment's preset. steps: environment steps; None takes config.steps.
    seed: of everything random; one seed gives bit-identical parameters on one machine.
    out: directory for the files of a run (see checkpoint.py), which must not exist; None writes nothing.
    progress: called after every step with the steps made and the history so far.
    profile: takes the times of the parts (see profile.py).
    diagnose_every: updates between two looks at one from inside (see gradflow/), for gradients.csv and warnings; 0:
    never. evaluations: episodes without noise, spread over the run, in an environment of their own, that compare Q with
    the return that follows; None: 10 where env is an id, none where a callable may hand out one environment twice.
    warn: called with what is visibly wrong, once a minute at most; None: a warning of the logger "minddpg".
    The agent learnt is the same with any of these.

    Ctrl-C stops after the current step and still writes the agent. Raises ConfigError, RunError, EnvError for an
    environment that does not fit or returns something unusable, TrainingError where the numbers are no longer finite.
    An error before the first update leaves no directory, a later one keeps it, with the agent as long as it is finite.
    """
    seed = checked_seed(seed)
    if diagnose_every < 0 or (evaluations or 0) < 0:
        raise ConfigError("diagnose_every and evaluations must be 0 or more")
    environment = Environment(env)
    try:
        if config is None:
            config = Config.for_environment(environment.name)
        if steps is not None:
            config = config.replace(steps=steps)
        environment.dtype = config.dtype
        if evaluations is None:
            evaluations = EVALUATIONS if isinstance(env, str) else 0
        evaluator = Evaluator(env, environment, evaluations, config) if evaluations else None
        try:
            return _train(environment, config, seed, out, progress, profile, diagnose_every, evaluator, warn or _log)
        finally:
            if evaluator:
                evaluator.close()
    finally:
        environment.close()


def _train(
    environment: Environment,
    config: Config,
    seed: int,
    out: str | os.PathLike[str] | None,
    progress: Callable[[int, list[EpisodeRow]], None] | None,
    profile: Profile | None,
    diagnose_every: int,
    evaluator: Evaluator | None,
    warn: Callable[[Diagnosis], None],
) -> TrainResult:
    agent = DDPG(environment.obs_dim, environment.act_dim, config, seed)
    replay = ReplayBuffer(min(config.buffer_size, config.steps), agent.obs_dim, agent.act_dim, config.dtype)
    info = RunInfo(environment.name, seed, agent.obs_dim, agent.act_dim, config)
    directory = RunDirectory(out, info) if out is not None else None
    history: list[EpisodeRow] = []
    write: Callable[[str, Mapping[str, float]], None] = directory.append if directory else lambda table, row: None
    monitor = Monitor(random_streams(seed).diagnosis, diagnose_every, partial(write, "gradients"), warn)
    try:
        watching = profile.watching(environment, agent, replay, monitor, evaluator) if profile else nullcontext()
        with stop_on_signal() as stop, watching:
            step = _run(environment, agent, replay, seed, write, history, progress, monitor, evaluator, stop)
        if profile:
            profile.steps += step
        if not agent.is_finite():
            raise TrainingError("a parameter is no longer finite after the last update; lower critic_lr and actor_lr")
        if directory:
            directory.save(agent, replay)
    except BaseException as error:
        if directory and agent.updates == 0:
            directory.discard()
        elif directory:
            kept = "the run so far"
            if agent.is_finite():
                directory.save(agent, replay)
                kept = "the agent so far"
            if isinstance(error, (EnvError, TrainingError)):
                error.args = (f"{error}; {kept} is kept in {directory.path}",)
        raise
    finally:
        if directory:
            directory.close()
    return TrainResult(agent, history, step, stop.is_set(), list(monitor.found.values()))


def _log(diagnosis: Diagnosis) -> None:
    logging.getLogger("minddpg").warning("%s", diagnosis)


def _run(
    environment: Environment,
    agent: DDPG,
    replay: ReplayBuffer,
    seed: int,
    write: Callable[[str, Mapping[str, float]], None],
    history: list[EpisodeRow],
    progress: Callable[[int, list[EpisodeRow]], None] | None,
    monitor: Monitor,
    evaluator: Evaluator | None,
    stop: threading.Event,
) -> int:
    """The training loop.    -> steps made"""
    config, streams = agent.config, random_streams(seed)
    noise = new_noise(config, agent.act_dim, streams.noise)
    start = time.perf_counter()
    obs = environment.reset(seed=int(streams.environment.integers(2**31)))
    episode_return, episode_start, losses = 0.0, 0, []
    step = 0
    while step < config.steps and not stop.is_set():
        step += 1
        act: FloatArray
        if step <= config.learning_starts:
            act = streams.warmup.uniform(-1.0, 1.0, agent.act_dim)
        else:
            act = within(agent.act(obs) + noise.sample(), -1.0, 1.0)
        next_obs, rew, terminated, truncated = environment.step(act)
        replay.add(obs, act, rew, next_obs, terminated)  # not truncated: a time limit does not end the value
        obs = next_obs
        episode_return += rew

        if step > config.learning_starts and step % config.update_every == 0:
            for _ in range(config.updates_per_step):
                losses.append(agent.update_from(replay, streams.replay))
                monitor.after_update(step, agent, replay)
            if not math.isfinite(losses[-1].critic_loss):
                raise TrainingError(
                    f"the critic's loss is {losses[-1].critic_loss} at step {step}; lower critic_lr or scale rewards"
                )

        if terminated or truncated:
            mean = Losses(*np.mean(losses, axis=0).tolist()) if losses else Losses(*[math.nan] * len(Losses._fields))
            row: EpisodeRow = {
                "step": step,
                "episode": len(history) + 1,
                "return": episode_return,
                "length": step - episode_start,
                **mean._asdict(),
                "seconds": round(time.perf_counter() - start, 3),
            }
            history.append(row)
            write("progress", row)
            obs = environment.reset()
            noise.reset()
            episode_return, episode_start, losses = 0.0, step, []
        if evaluator and evaluator.is_due(step):
            for compared in evaluator.evaluate(step, agent):
                write("evaluations", compared)
        if progress:
            progress(step, history)
    return step


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C (or SIGTERM) into a flag, so that a step is finished; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before: dict[int, Any] = {}

    def request_stop(number: int, frame: Any) -> None:
        stop.set()
        for other, handler in before.items():
            signal.signal(other, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as in a shell's background jobs
                before[number] = signal.signal(number, request_stop)
        yield stop
    finally:
        for earlier, handler in before.items():
            signal.signal(earlier, handler)


# --- evaluation -------------------------------------------------------------------------------------------------------

EVALUATIONS = 10  # while training, to compare Q with returns
EVALUATION_STEPS = 1000  # of such an episode at most; what follows is estimated by Q itself
EVALUATION_SEED = 10_000  # where the first starts, the next from 10,001 and so on
COMPARED = 50  # states of it that are written down


class Moment(NamedTuple):
    """One step of an episode without noise."""

    obs: FloatArray
    act: FloatArray
    rew: float
    next_obs: FloatArray
    terminated: bool
    truncated: bool


def _episode(agent: DDPG, environment: Environment, seed: int, max_steps: int) -> Iterator[Moment]:
    """An episode of the policy without noise from reset(seed=seed), or its first max_steps steps."""
    obs = environment.reset(seed=seed)
    for _ in range(max_steps):
        act = agent.act(obs)
        next_obs, rew, terminated, truncated = environment.step(act)
        yield Moment(obs, act, rew, next_obs, terminated, truncated)
        if terminated or truncated:
            return
        obs = next_obs


def evaluate(
    agent: DDPG, env: EnvironmentLike, episodes: int = 10, seed: int = 0, max_steps: int = 100_000
) -> npt.NDArray[np.float64]:
    """Returns (episodes,) of the policy without noise, undiscounted. Episode i starts from reset(seed=seed + i).

    max_steps: an episode that takes longer is an error, since it may never end. Raises ConfigError, EnvError.
    """
    if min(episodes, max_steps) < 1:
        raise ConfigError(f"episodes and max_steps must be 1 or more, not {episodes} and {max_steps}")
    seed = checked_seed(seed)
    environment = Environment(env, agent.config.dtype)
    try:
        if (environment.obs_dim, environment.act_dim) != (agent.obs_dim, agent.act_dim):
            raise EnvError(
                f"{environment.name} has {environment.obs_dim} observations and {environment.act_dim} actions, "
                f"but the agent was made for {agent.obs_dim} and {agent.act_dim}"
            )
        returns = np.zeros(episodes)
        for episode in range(episodes):
            for moment in _episode(agent, environment, seed + episode, max_steps):
                returns[episode] += moment.rew
            if not (moment.terminated or moment.truncated):
                raise EnvError(
                    f"{environment.name} has not ended an episode in {max_steps:,} steps; "
                    "give it a time limit with gymnasium.wrappers.TimeLimit"
                )
        return returns
    finally:
        environment.close()


class Evaluator:
    """Compares, now and then during training, what Q says of a state with the return that follows it.

    In an environment of its own, so that training goes on as if nobody looked.
    """

    def __init__(self, env: EnvironmentLike, training: Environment, count: int, config: Config):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they have been said when the first one was made
            self._environment = Environment(env, config.dtype)
        if self._environment.is_same(training):
            raise EnvError(f"{training.name} cannot be evaluated while it trains: the callable made the same one twice")
        learning = config.steps - config.learning_starts
        self._steps = [config.learning_starts + learning * (i + 1) // count for i in range(count)]

    def is_due(self, step: int) -> bool:
        """Whether to evaluate after this step."""
        return step in self._steps

    def evaluate(self, step: int, agent: DDPG) -> list[dict[str, float]]:
        """One episode's states: step, return (of the episode, undiscounted), t, q, discounted_return, tail.

        q = Q(s_t, mu(s_t)). discounted_return: of the rewards from t on. Where the episode was cut off by a time limit,
        Q of its last state stands for what would have followed; tail = gamma^(steps left) is its weight (0: none).
        """
        seed = EVALUATION_SEED + self._steps.index(step)
        moments = list(_episode(agent, self._environment, seed, EVALUATION_STEPS))
        q = agent.q(np.stack([m.obs for m in moments]), np.stack([m.act for m in moments]))
        last, gamma = moments[-1], agent.config.gamma
        after = 0.0
        if not last.terminated:
            after = float(agent.q(last.next_obs[None], agent.act(last.next_obs)[None])[0])
        returns = np.empty(len(moments))
        for t in range(len(moments) - 1, -1, -1):
            after = returns[t] = moments[t].rew + gamma * after
        total = sum(m.rew for m in moments)
        return [
            {
                "step": step,
                "return": total,
                "t": t,
                "q": float(q[t]),
                "discounted_return": float(returns[t]),
                "tail": 0.0 if last.terminated else gamma ** (len(moments) - t),
            }
            for t in np.linspace(0, len(moments) - 1, min(COMPARED, len(moments))).astype(int).tolist()
        ]

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()
