"""Training: act, add noise, step the environment, store the transition, update."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .agent import DDPG
from .config import Config, ConfigError
from .ddpg import Losses
from .environment import EnvError, Environment, EnvironmentLike, within
from .evaluation import EVALUATIONS, Evaluator
from .fast.jit import FloatArray
from .gradflow.diagnosis import Diagnosis
from .gradflow.monitor import EVERY, Finding, Monitor
from .noise import new_noise
from .profile import Profile
from .replay import ReplayBuffer
from .runs.directory import RunDirectory, RunInfo
from .seeds import checked_seed, random_streams

EpisodeRow = dict[str, float]  # step, episode, return, length, the means of Losses over its updates, seconds


class TrainingError(ArithmeticError):
    """Training that has diverged; the message is one line."""


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
