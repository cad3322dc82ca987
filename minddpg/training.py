"""Training. A `Run` is everything that a training run consists of; `train` and `resume` drive one.

One step of a run: act, add noise, step the environment, store the transition, update. Whoever watches (tables, the
gradients' monitor, evaluations, checkpoints, progress) is told after a step what happened, and never touches the run:
training is the same bits whoever watches.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .agent import DDPG
from .config import CHECKPOINT_EVERY, OPTIONS, Config, ConfigError
from .ddpg import Losses
from .environment import EnvError, EnvironmentLike, Environments, NotFinite, full_id, make_environments, within
from .evaluation import Evaluator
from .fast.choice import AUTO, Threads, is_number_of_threads
from .fast.jit import FloatArray
from .gradflow.monitor import Finding, Monitor
from .memory import check_memory
from .noise import new_noise
from .profile import Profile
from .progress import Progress, is_watched
from .replay import ReplayBuffer, ShapeError, replay_nbytes
from .returns import Pending
from .runs.checkpoint import Tree, check_like
from .runs.directory import RunDirectory, RunInfo, load_info, open_agent, other_versions, reading_state
from .runs.files import RunError
from .runs.tables import load_table
from .seeds import checked_seed, episode_seed, random_streams
from .showing import html_table, text_table

if TYPE_CHECKING:
    from .tensorboard import TensorBoard

EpisodeRow = dict[str, float]  # step, episode, return, length, the means of Losses over its updates, seconds
OF_NETWORKS = ("algorithm", "normalisation", "activation", "invert_gradients", "normalise_obs")  # what they compute
FIRST_CHECKPOINT = 5.0  # seconds to the first one; then twice as long each time
CHECKPOINT_SHARE = 0.01  # of the time that checkpoints may take


class TrainingError(ArithmeticError):
    """Training that has diverged; the message is one line. result: see RunError."""

    result: Any = None


class Happened(NamedTuple):
    """What a step of a run brought: rows of the episodes that ended in it, and how many updates were made."""

    episodes: list[EpisodeRow]
    updates: int


@dataclass
class Episode:
    """An episode in progress. number: of its environment's episodes. losses: sums over the updates made during it."""

    number: int = 0
    total: float = 0.0
    length: int = 0
    updates: int = 0
    losses: list[float] = field(default_factory=lambda: [0.0] * len(Losses._fields))
    _recent: list[Losses] = field(default_factory=list, repr=False)  # not summed yet

    def add(self, losses: Losses) -> None:
        """An update was made."""
        self._recent.append(losses)
        if len(self._recent) == 1_000:  # an episode may never end
            self._sum_up()

    def _sum_up(self) -> None:
        """One after the other, so that it does not matter when."""
        self.updates += len(self._recent)
        self.losses = np.add.accumulate([self.losses, *self._recent])[-1].tolist()
        self._recent.clear()

    def means(self) -> dict[str, float]:
        """The losses' means by name; NaN without updates."""
        self._sum_up()
        n = self.updates or math.nan
        return {name: total / n for name, total in zip(Losses._fields, self.losses, strict=True)}

    def state(self) -> dict[str, Any]:
        """The arguments that make it again."""
        self._sum_up()
        return {name: value for name, value in vars(self).items() if name != "_recent"}


class Run:
    """A training run: environments, agent, replay memory, noise, random streams, counters, episodes in progress.

    environments: what `make_environments` gives; the run resets and steps them. seed: of everything random. Raises
    ConfigError where the memory does not suffice, EnvError for what an environment does wrong.
    """

    def __init__(self, environments: Environments, config: Config, seed: int = 0):
        self.environments, self.config, self.seed = environments, config, checked_seed(seed)
        rows = min(config.buffer_size, config.steps + environments.num - 1)
        obs_dim, act_dim = environments.obs_dim, environments.act_dim
        nbytes = replay_nbytes(rows, obs_dim, act_dim, config.dtype, config.n_step)
        check_memory(nbytes, f"the replay memory of {rows:,} transitions", "lower buffer_size (--buffer-size)")
        self.agent = DDPG(obs_dim, act_dim, config, seed)
        self.replay = ReplayBuffer(rows, obs_dim, act_dim, config.dtype, config.n_step)
        self.random = random_streams(seed)
        streams = [self.random, *(random_streams(seed, i) for i in range(1, environments.num))]
        self._first_actions = [stream.first_actions for stream in streams]
        self.noises = [new_noise(config, act_dim, stream.noise) for stream in streams]
        self._pending = [Pending(config.n_step, config.gamma, obs_dim, act_dim) for _ in streams]
        self._pending *= config.n_step > 1
        self.steps = 0  # of all environments together
        self.finished = 0  # episodes
        self.episodes = [Episode() for _ in streams]
        self.lap: Callable[[str], None] = lambda part: None  # a profile's clock
        self._update: Callable[..., Losses] | None = None
        self.threads = Threads()
        self.obs = environments.start([episode_seed(seed, i, 0) for i in range(environments.num)])

    def step(self) -> Happened:
        """One step of every environment, and the updates that are due."""
        environments, before = self.environments, self.steps
        try:
            act = self._choose_actions()
            self.lap("act")
            moment = environments.step(act)
        except NotFinite as error:
            raise self.diverged(error.what, error.why) from None
        self.lap("environment")
        ended = []
        for i in moment.rows:
            self._store(i, act[i], moment.rew[i], moment.next_obs[i], moment.terminated[i], moment.truncated[i])
            episode = self.episodes[i]
            episode.total += moment.rew[i]
            episode.length += 1
            if moment.terminated[i] or moment.truncated[i]:
                ended.append(i)
        self.steps += len(moment.rows)
        self.obs = environments.observations()
        self.lap("replay")
        updates = self._make_updates(before)
        rows = [self._end_episode(i) for i in ended]
        if ended:
            self.lap("the rest")
            seeds = [episode_seed(self.seed, i, self.episodes[i].number) for i in ended]
            self.obs = environments.restart(ended, seeds)
            self.lap("environment")
        return Happened(rows, updates)

    def _store(
        self, i: int, act: FloatArray, rew: float, next_obs: FloatArray, terminated: bool, truncated: bool
    ) -> None:
        """Environment i went on from self.obs[i]. The one place at which transitions get into the replay memory."""
        self.agent.observe(self.obs[i])
        rew = self.config.reward_scale * rew
        try:
            if self._pending:
                for stored in self._pending[i].add(self.obs[i], act, rew, next_obs, terminated, truncated):
                    self.replay.add(*stored)
            else:
                # Not truncated: a time limit does not end the value of its last state.
                self.replay.add(self.obs[i], act, rew, next_obs, terminated)
        except ShapeError as error:
            raise TrainingError(f"what a step brought cannot be learnt from: {error}; lower reward_scale") from None

    def _choose_actions(self) -> FloatArray:
        """(n, act_dim) in [-1, 1]: uniform until learning starts, then mu(s) with noise."""
        if self.steps < self.config.learning_starts:
            return self._of_each(lambda i: self._first_actions[i].uniform(-1.0, 1.0, self.environments.act_dim))
        noise = self._of_each(lambda i: self.noises[i].sample())
        return within(self.agent.act(self.obs) + noise, -1.0, 1.0)

    def _of_each(self, draw: Callable[[int], FloatArray]) -> FloatArray:
        """draw(i) (act_dim,) for every environment that acts, 0 for the others.    -> (n, act_dim)"""
        if self.environments.num == 1:
            return draw(0)[None]
        rows = np.zeros((self.environments.num, self.environments.act_dim))
        for i in self.environments.acting:
            rows[i] = draw(i)
        return rows

    def _make_updates(self, before: int) -> int:
        """As many as are due since step `before`.    -> how many"""
        config, made = self.config, 0
        for step in range(before + 1, self.steps + 1):
            if step <= config.learning_starts or step % config.update_every or not self.replay.added:
                continue
            for _ in range(config.updates_per_step):
                try:
                    losses = self.threads.update(self.agent, self.replay, self.random.replay, self._update)
                except NotFinite as error:
                    raise self.diverged(error.what, error.why) from None
                made += 1
                for episode in self.episodes:
                    episode.add(losses)
        return made

    def diverged(self, what: str, why: str) -> TrainingError:
        """What to raise where something is not finite."""
        return TrainingError(
            f"training has diverged: {what} is not finite at step {self.steps:,} ({why}); "
            "lower critic_lr and actor_lr, or scale rewards and observations"
        )

    def _end_episode(self, i: int) -> EpisodeRow:
        episode = self.episodes[i]
        self.finished += 1
        self.episodes[i] = Episode(episode.number + 1)
        self.noises[i].reset()
        return {
            "step": self.steps,
            "episode": self.finished,
            "return": episode.total,
            "length": episode.length,
            **episode.means(),
        }

    def profile(self, profile: Profile) -> None:
        """Let a profile see where the time goes."""
        self.lap, self._update = profile.lap, profile.update(self.config.algorithm)
        profile.choice = self.threads.choice

    def state(self) -> Tree:
        """All that is needed to go on to the bit, but the transitions: they are `self.replay`. Arrays are views."""
        return {
            "seed": self.seed,
            "config": self.config.to_dict(),
            "steps": self.steps,
            "finished": self.finished,
            "added": self.replay.added,
            "agent": self.agent.views(),
            "random": {name: rng.bit_generator.state for name, rng in self._streams().items()},
            "warmup": [rng.bit_generator.state for rng in self._first_actions],
            "noise": [{"rng": noise.rng.bit_generator.state, **noise.state()} for noise in self.noises],
            "episodes": [episode.state() for episode in self.episodes],
            "environments": self.environments.state(),
            **({"pending": [pending.state() for pending in self._pending]} if self._pending else {}),
            **({"planned": self.agent.planned} if self.config.final_lr_share < 1 else {}),
        }

    def _streams(self) -> dict[str, np.random.Generator]:
        """The Generators that updates draw from, by name."""
        smoothing = {"smoothing": self.agent.smoothing} if self.config.algorithm == "td3" else {}
        return {"replay": self.random.replay, **smoothing}

    @classmethod
    def resume(
        cls, state: Tree, environments: Environments, fill: Callable[[ReplayBuffer, int], None], config: Config
    ) -> tuple[Run, list[str]]:
        """A run that goes on from a state.    -> it, and why environments could not be put back, if they could not

        fill: called to put so many transitions into the new replay memory. config: that of the state, or one with more
        steps. Raises KeyError, TypeError or ValueError where the state is not one.
        """
        run = cls(environments, config, state["seed"])
        off = {name: getattr(Config(), name) for name in OPTIONS}  # as in a run of before there were any
        state = {**state, "config": {**off, **state["config"]}}
        check_like({**state, "environments": None}, {**run.state(), "environments": None})
        if {**state["config"], "steps": config.steps} != config.to_dict():
            raise ValueError("config.json has other hyperparameters")
        pending = state.get("pending", [])
        if state["added"] + sum(one["count"] for one in pending) != state["steps"]:
            raise ValueError("it has not as many transitions as steps")
        run.steps, run.finished = int(state["steps"]), int(state["finished"])
        run.agent.planned = int(state.get("planned", run.agent.planned))
        run.agent.load_state_dict(state["agent"])
        for returns, saved in zip(run._pending, pending, strict=True):
            returns.restore(saved)
        for name, rng in run._streams().items():
            rng.bit_generator.state = state["random"][name]
        for rng, saved in zip(run._first_actions, state["warmup"], strict=True):
            rng.bit_generator.state = saved
        for noise, saved in zip(run.noises, state["noise"], strict=True):
            noise.rng.bit_generator.state = saved["rng"]
            noise.restore(saved)
        run.episodes = [Episode(**episode) for episode in state["episodes"]]
        fill(run.replay, int(state["added"]))
        lost = environments.restore(state["environments"])
        for i, _ in lost:
            run.episodes[i] = Episode(run.episodes[i].number)
            run.noises[i].reset()
            for stored in run._pending[i].cut() if run._pending else ():
                run.replay.add(*stored)
        run.obs = environments.observations()
        return run, [f"environment {i}: {why}" if environments.num > 1 else why for i, why in lost]


# --- driving a run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainResult:
    """What training gave.

    agent: as it was at the end. history: a dict per finished episode (the columns of progress.csv). steps: made in all.
    interrupted: whether a signal ended it, whose number is `signal`. diagnoses: what was visibly wrong with the
    gradients on the way; empty for a healthy run, or if nobody looked. evaluations: the rows of eval.csv. directory:
    where the files are, None for nowhere.
    """

    agent: DDPG
    history: list[EpisodeRow]
    steps: int
    interrupted: bool = False
    diagnoses: list[Finding] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    signal: int | None = None
    directory: Path | None = None

    def __repr__(self) -> str:
        rows = self._rows()
        table = text_table(("TrainResult", ""), rows)
        return "\n".join([table, *(f"wrong, {finding}" for finding in self.diagnoses)])

    def _repr_html_(self) -> str:
        """For notebooks."""
        wrong = [("wrong", str(finding)) for finding in self.diagnoses]
        return html_table(("TrainResult", ""), [*self._rows(), *wrong])

    def _rows(self) -> list[tuple[str, str]]:
        stopped = ", interrupted" if self.interrupted else ""
        rows = [("steps", f"{self.steps:,}{stopped}"), ("episodes", f"{len(self.history):,}")]
        if last := [row["return"] for row in self.history[-10:]]:
            rows.append((f"mean of the last {len(last)} returns while learning", f"{sum(last) / len(last):.1f}"))
        if self.evaluations:
            best, latest = max(self.evaluations, key=lambda row: row["mean"]), self.evaluations[-1]
            rows.append(("best evaluation", f"{best['mean']:.1f} at step {best['step']:,.0f}"))
            rows.append(("last evaluation", f"{latest['mean']:.1f}"))
        rows += [("files", str(self.directory))] if self.directory else []
        return [*rows, ("agent", self.agent.title())]


def train(
    env: EnvironmentLike,
    config: Config | Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | Iterator[Path] | None = None,
    *,
    progress: bool | Callable[[int, list[EpisodeRow]], None] = True,
    env_kwargs: Mapping[str, Any] | None = None,
    vectorization: str = "sync",
    parameters_from: str | os.PathLike[str] | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
    keep_replay: bool = True,
    tensorboard: bool = False,
    profile: Profile | None = None,
    threads: int | str = AUTO,
    warn: Callable[[str], None] | None = None,
    stop: Stop | None = None,
) -> TrainResult:
    """Train a new agent on an environment.

    env: Gymnasium id, "module:Env-v0", or a callable that makes an environment or a vector environment.
    config: hyperparameters; None takes the environment's preset, a dict changes some of it. steps: environment steps;
    None takes config.steps; several environments (config.num_envs) may make a few more to end together.
    seed: of everything random; one seed gives bit-identical parameters on one machine.
    out: directory for the files of a run (see runs/README.md), which must not exist; None writes nothing.
    progress: show it, in terminals and notebooks; or called after every step with the steps made and the history.
    env_kwargs: what an id is made with. vectorization: of several environments, "sync" or "async" (a process each).
    parameters_from: a run directory from whose agent the networks are taken; optimisers and the rest start anew.
    checkpoint_every: seconds between checkpoints in `out`; 0: only at the end. keep_replay: with the last one too, so
    that the run can be extended. tensorboard: also write event files (extra tensorboard). profile: takes the times of
    the parts. threads: that share an update, or "auto": as many as make this run's updates fastest.
    warn: called with what is visibly wrong, in one line; None: a warning of the logger "minddpg".
    stop: once its number is set, from wherever, the run ends as it does at the signal of that number.
    The agent learnt is the same with any of these after env_kwargs.

    Ctrl-C, SIGTERM and SIGHUP finish the step and make a checkpoint; a second one interrupts at once. Raises
    ConfigError, RunError, EnvError for an environment that does not fit or does something wrong, TrainingError where
    numbers are no longer finite. What had been learnt by then is in the error's `result`, and in `out`, where the run
    can go on from its last checkpoint (see `resume`); an error before the first update leaves no directory.
    """
    seed = checked_seed(seed)
    check_options(vectorization, checkpoint_every, threads)
    with make_environments_for(env, config, steps, vectorization, env_kwargs) as (environments, chosen):
        run = Run(environments, chosen, seed)
        run.threads = Threads(threads)
        if parameters_from is not None:
            take_parameters(run.agent, parameters_from)
        info = RunInfo(
            environments.name, seed, run.agent.obs_dim, run.agent.act_dim, chosen, dict(env_kwargs or {}),
            not isinstance(env, str), vectorization, environments.low.tolist(), environments.high.tolist(),
            None if parameters_from is None else os.fspath(parameters_from),
        )  # fmt: skip
        session = Session(run, env, info, warn or _log, stop)
        if out is not None:
            session.directory = RunDirectory.create(out, info, session.tree())
        return session.go(progress, checkpoint_every, keep_replay, tensorboard, profile)


def resume(
    run_directory: str | os.PathLike[str],
    steps: int | None = None,
    env: EnvironmentLike | None = None,
    *,
    progress: bool | Callable[[int, list[EpisodeRow]], None] = True,
    checkpoint_every: float = CHECKPOINT_EVERY,
    keep_replay: bool = True,
    tensorboard: bool = False,
    profile: Profile | None = None,
    threads: int | str = AUTO,
    warn: Callable[[str], None] | None = None,
    stop: Stop | None = None,
) -> TrainResult:
    """Go on with a run from its last checkpoint, to the bit: it ends as if it had never stopped.

    steps: of the whole run, to extend it; None: as planned. env: needed where the run's was made by a callable. The
    others as for `train`. Where an environment cannot be put back exactly, its episode is started anew, and `warn` says
    so. Raises RunError where there is nothing to go on from, or another process has the directory; and as `train` does.
    """
    directory, tree = RunDirectory.open(run_directory)
    try:
        check_options(directory.info.vectorization, checkpoint_every, threads)
        info = directory.info
        if env is None and info.from_callable:
            raise RunError(
                f"{run_directory} was trained on an environment made by a callable ({info.env}); give it as env"
            )
        env = info.env if env is None else env
        made = tree["run"]["steps"]
        if steps is not None and steps != info.config.steps:
            if steps < made:
                raise ConfigError(f"steps {steps:,} are fewer than the {made:,} that the run has made; give more")
            directory.extend(steps)
            info = directory.info
        with make_environments_for(env, info.config, None, info.vectorization, info.env_kwargs) as (environments, _):
            if (environments.obs_dim, environments.act_dim) != (info.obs_dim, info.act_dim):
                raise EnvError(
                    f"{environments.name} has {environments.obs_dim} observations and {environments.act_dim} actions, "
                    f"but the run was made with {info.obs_dim} and {info.act_dim}"
                )
            with reading_state(directory.path / "checkpoint.npz", ConfigError, EnvError):
                if type(tree["run"]["seed"]) is not int or tree["run"]["seed"] != info.seed:
                    raise ValueError("config.json has another seed")
                run, lost = Run.resume(tree["run"], environments, directory.read_replay, info.config)
                run.threads = Threads(threads)
                session = Session(run, env, info, warn or _log, stop)
                session.restore(tree)
            for why in lost:
                session.warn(f"the episode in progress starts anew ({why}); from here on the run is another one")
            if run.agent.planned < info.config.updates and info.config.final_lr_share < 1:
                session.warn(
                    f"the learning rates fall over the {run.agent.planned:,} updates first planned, and stay at "
                    f"{info.config.final_lr_share:g} of themselves in the steps that are added"
                )
            for change in other_versions(directory.path):
                session.warn(f"{change}: the run goes on, but perhaps not to the bit")
            session.directory = directory
            session.history = load_table(directory.path, "progress").as_rows()
            session.evaluations = load_table(directory.path, "eval").as_rows()
            return session.go(progress, checkpoint_every, keep_replay, tensorboard, profile)
    finally:
        directory.close()


class Session:
    """A run being driven, and those who watch it. directory: where its files go, None for nowhere."""

    def __init__(
        self,
        run: Run,
        env: EnvironmentLike,
        info: RunInfo,
        warn: Callable[[str], None],
        stop: Stop | None = None,
    ):
        self.run, self.info, self.warn = run, info, warn
        self.directory: RunDirectory | None = None
        self.board: TensorBoard | None = None
        self.history: list[EpisodeRow] = []
        self.evaluations: list[dict[str, float]] = []
        self.stop = stop or Stop()
        config = run.config
        self.monitor = Monitor(run.random.diagnosis, config.diagnose_every, self._look, lambda found: warn(str(found)))
        self.evaluator = Evaluator(
            env, config, run.seed, info.env_kwargs, self._write, warn, lambda: self.stop.number is not None
        )

    def _look(self, row: Mapping[str, float]) -> None:
        self._write("gradients", row)

    def _write(self, table: str, row: Mapping[str, float]) -> None:
        if table == "eval":
            self.evaluations.append(dict(row))
        if self.directory:
            self.directory.append(table, row)
        if self.board:
            self.board.row(table, row)

    def tree(self) -> Tree:
        """What a checkpoint holds."""
        tree = {"run": self.run.state(), "monitor": self.monitor.state(), "evaluations": self.evaluator.state()}
        return {**tree, "best": self.evaluator.best}

    def restore(self, tree: Tree) -> None:
        """Let those who watch go on from a checkpoint."""
        self.monitor.restore(tree["monitor"])
        self.evaluator.restore(tree["evaluations"], tree["best"])

    def result(self) -> TrainResult:
        """So far."""
        found = list(self.monitor.found.values())
        number = self.stop.number
        where = self.directory.path if self.directory else None
        return TrainResult(
            self.run.agent, self.history, self.run.steps, number is not None, found, self.evaluations, number, where
        )

    def go(
        self,
        progress: bool | Callable[[int, list[EpisodeRow]], None],
        checkpoint_every: float,
        keep_replay: bool,
        tensorboard: bool,
        profile: Profile | None,
    ) -> TrainResult:
        """Make the steps that are left."""
        run, started = self.run, (run_steps := self.run.steps, self.run.agent.updates)
        show = Progress(run.config.steps, run_steps) if progress is True and is_watched() else None
        tell = progress if callable(progress) else show
        warn = self.warn
        if show and warn is _log:
            self.warn = lambda text: show.say(f"minddpg: warning: {text}")
        if run.config.evaluate_every and (learns := run.environments.learned_statistics):
            self.warn(
                f"{learns} learns statistics while training; the environment of evaluations starts without them, "
                "and sees other observations or rewards"
            )
        try:
            if tensorboard and self.directory:
                from .tensorboard import TensorBoard

                again = run_steps + 1 if run_steps else 0  # the first step that is made again
                self.board = TensorBoard(self.directory.path / "tensorboard", again)
            if profile:
                run.profile(profile)
                profile.start()
            with stop_on_signal(self.stop):
                self._steps(tell, Clock(checkpoint_every), keep_replay)
            if profile:
                profile.stop(run.steps - started[0], run.agent.updates - started[1])
            if found := run.agent.not_finite():
                raise TrainingError(f"{found[0]} is not finite after the last update; lower critic_lr and actor_lr")
            if self.directory:
                self._checkpoint(keep_replay)
        except Exception as error:
            self._fail(error)
            raise
        finally:
            if show:
                show.close()
            self.evaluator.close()
            if self.board:
                self.board.close()
            if self.directory:
                self.directory.close()
        return self.result()

    def _steps(self, tell: Callable[[int, list[EpisodeRow]], None] | None, clock: Clock, keep_replay: bool) -> None:
        run, lap, choice = self.run, self.run.lap, self.run.threads.choice
        say = getattr(tell, "say", logging.getLogger("minddpg").info)
        before = self.history[-1]["seconds"] if self.history else 0.0
        while True:
            if self.evaluator.is_due(run.steps, run.agent.updates):
                lap("the rest")
                self.evaluator.evaluate(run.steps, run.agent, run.environments)
                lap("diagnostics")
            if self.stop.number is not None or run.steps >= run.config.steps:
                return
            happened = run.step()
            for row in happened.episodes:
                row["seconds"] = round(before + clock.elapsed(), 3)
                self.history.append(row)
                self._write("progress", row)
            lap("the rest")
            if self.monitor.after_updates(run.steps, run.agent, run.replay, happened.updates):
                lap("diagnostics")
            if self.directory and clock.is_due():
                with clock.timing():
                    self._checkpoint(keep_replay=True)
                lap("diagnostics")
            if choice.news:
                say(choice.news)
                choice.news = ""
            if tell:
                tell(run.steps, self.history)

    def _checkpoint(self, keep_replay: bool) -> None:
        assert self.directory is not None
        if found := self.run.agent.not_finite():  # a bad state never takes the place of a good one
            raise self.run.diverged("the agent", f"{found[0]} holds NaN or infinity")
        self.directory.save(self.tree(), self.run.agent, self.run.replay, keep_replay)

    def _fail(self, error: Exception) -> None:
        """Keep what can be kept, and let the error say where."""
        if isinstance(error, (EnvError, TrainingError, RunError)):
            error.result = self.result()
        if not self.directory:
            return
        if self.run.agent.updates == 0 and self.directory.is_new:
            self.directory.discard()
            return
        self.directory.note_error(traceback.format_exc())
        kept = f"the run up to its last checkpoint is kept in {self.directory.path}"
        if not isinstance(error, TrainingError) and self.run.agent.is_finite():  # one that diverged is no use
            try:
                self.directory.save_agent(self.run.agent)
                kept = f"the agent so far is kept in {self.directory.path}"
            except RunError:
                pass
        if isinstance(error, (EnvError, TrainingError, RunError)):
            error.args = (f"{error}; {kept}, go on with: minddpg train --resume {self.directory.path}",)


class Clock:
    """When checkpoints are due: soon at first, then every `every` seconds (0: never), and for a small share of time."""

    def __init__(self, every: float):
        self.started = time.monotonic()
        self._every, self._pause = every, min(FIRST_CHECKPOINT, every)
        self._next = self.started + self._pause if every else math.inf

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def is_due(self) -> bool:
        """Whether a checkpoint is."""
        return time.monotonic() >= self._next

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Around a checkpoint."""
        before = time.monotonic()
        yield
        now = time.monotonic()
        self._pause = min(self._every, 2 * self._pause)
        self._next = now + max(self._pause, (now - before) / CHECKPOINT_SHARE)


class Stop:
    """Whether a signal, or who has this object, has asked to stop: the signal's number, None as long as none has."""

    number: int | None = None


@contextmanager
def stop_on_signal(stop: Stop) -> Iterator[Stop]:
    """Note the first Ctrl-C, SIGTERM or SIGHUP, so that a step is finished; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before: dict[int, Any] = {}

    def request_stop(number: int, frame: Any) -> None:
        stop.number = number
        for other, handler in before.items():
            signal.signal(other, handler)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        for number in numbers:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as in a shell's background jobs, under nohup
                before[number] = signal.signal(number, request_stop)
        yield stop
    finally:
        for earlier, handler in before.items():
            signal.signal(earlier, handler)


# --- what train and resume share --------------------------------------------------------------------------------------


def check_options(vectorization: str, checkpoint_every: float, threads: int | str) -> None:
    """Raise ConfigError for what cannot be."""
    if vectorization not in ("sync", "async"):
        raise ConfigError(f"vectorization must be sync or async, not {vectorization!r}")
    if not 0 <= checkpoint_every < math.inf:
        raise ConfigError(f"checkpoint_every must be a number of seconds, 0 or more, not {checkpoint_every!r}")
    if not is_number_of_threads(threads):
        raise ConfigError(f"threads must be {AUTO!r} or a whole number, 1 or more, not {threads!r}")


@contextmanager
def make_environments_for(
    env: EnvironmentLike,
    config: Config | Mapping[str, Any] | None,
    steps: int | None,
    vectorization: str,
    env_kwargs: Mapping[str, Any] | None,
) -> Iterator[tuple[Environments, Config]]:
    """The environments and the config of a run; closed behind the block."""
    if not isinstance(config, Config):
        preset = Config.for_environment(full_id(env)) if isinstance(env, str) else Config()
        config = preset.replace(**dict(config or {}))
    if steps is not None:
        config = config.replace(steps=steps)
    environments = make_environments(env, config.dtype, config.num_envs, vectorization, env_kwargs)
    try:
        yield environments, config
    finally:
        environments.close()


def take_parameters(agent: DDPG, run_directory: str | os.PathLike[str]) -> None:
    """Give an agent the networks of a run's agent, and its statistics of observations; its optimisers stay new.

    Raises RunError where they misfit.
    """
    info = load_info(run_directory)
    options = [name for name in OF_NETWORKS if getattr(info.config, name) != getattr(agent.config, name)]
    with open_agent(Path(run_directory) / "agent.npz", info) as state:
        networks = {name: array for name, array in state.items() if "_adam" not in name}
    own = agent.state_dict()
    misfit = [name for name in own if "_adam" not in name and np.shape(networks.get(name, ())) != own[name].shape]
    if options or misfit or not set(networks) <= set(own):
        names = ("hidden_sizes", "action_layer", *options)
        said = ", ".join(f"{name} {getattr(info.config, name)}" for name in names)
        raise RunError(
            f"the agent of {run_directory} has another shape ({info.obs_dim} observations, {info.act_dim} actions, "
            f"{said}); use the same"
        )
    agent.load_state_dict({**own, **networks})


def _log(text: str) -> None:
    logging.getLogger("minddpg").warning("%s", text)
