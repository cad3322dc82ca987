"""Episodes without noise: the returns of a policy, and Q against the returns that follow."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .agent import DDPG
from .config import EPISODES, Config, ConfigError
from .environment import EnvError, Environment, EnvironmentLike
from .fast.jit import FloatArray
from .runs.checkpoint import check_like
from .seeds import checked_seed, evaluation_seed

MOST_STEPS = 10_000  # of an episode while training; what follows is estimated by Q itself
COMPARED = 50  # states of an evaluation that are written down


class Step(NamedTuple):
    """One step of an episode without noise."""

    obs: FloatArray
    act: FloatArray
    rew: float
    next_obs: FloatArray
    terminated: bool
    truncated: bool


def episode(agent: DDPG, environment: Environment, seed: int, max_steps: int) -> Iterator[Step]:
    """An episode of the policy without noise from reset(seed=seed), or its first max_steps steps."""
    obs = environment.reset(seed=seed)
    for _ in range(max_steps):
        act = agent.act(obs)
        next_obs, rew, terminated, truncated = environment.step(act)
        yield Step(obs, act, rew, next_obs, terminated, truncated)
        if terminated or truncated:
            return
        obs = next_obs


def evaluate(
    agent: DDPG,
    env: EnvironmentLike,
    episodes: int = EPISODES,
    seed: int = 0,
    max_steps: int = 100_000,
    env_kwargs: Mapping[str, Any] | None = None,
) -> npt.NDArray[np.float64]:
    """Returns (episodes,) of the policy without noise, undiscounted. Episode i starts from reset(seed=seed + i).

    max_steps: an episode that takes longer is an error, since it may never end. env_kwargs: what an id is made with.
    Raises ConfigError, EnvError.
    """
    if min(episodes, max_steps) < 1:
        raise ConfigError(f"episodes and max_steps must be 1 or more, not {episodes} and {max_steps}")
    seed = checked_seed(seed)
    environment = Environment(env, agent.config.dtype, env_kwargs)
    try:
        check_fit(agent, environment)
        returns = np.zeros(episodes)
        for number in range(episodes):
            for step in episode(agent, environment, seed + number, max_steps):
                returns[number] += step.rew
            if not (step.terminated or step.truncated):
                raise EnvError(
                    f"{environment.name} has not ended an episode in {max_steps:,} steps; "
                    "give it a time limit with gymnasium.wrappers.TimeLimit"
                )
        return returns
    finally:
        environment.close()


def check_fit(agent: DDPG, environment: Any) -> None:
    """Raise EnvError where the agent was made for another shape of observations or actions."""
    if (environment.obs_dim, environment.act_dim) != (agent.obs_dim, agent.act_dim):
        raise EnvError(
            f"{environment.name} has {environment.obs_dim} observations and {environment.act_dim} actions, "
            f"but the agent was made for {agent.obs_dim} and {agent.act_dim}"
        )


class Evaluator:
    """Evaluates now and then during training, in an environment of its own: training goes on as if nobody looked.

    All evaluations of a run have the same starts, so that they differ by the agent alone. best: the agent with the best
    mean return so far, with that `mean` and its `step`; None before the first evaluation. write: called with a table's
    name and a row for it. stop: asked at every step whether to give up.
    """

    def __init__(
        self,
        env: EnvironmentLike,
        config: Config,
        seed: int,
        env_kwargs: Mapping[str, Any] | None = None,
        write: Callable[[str, Mapping[str, float]], None] = lambda table, row: None,
        warn: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._env, self._config, self._seed, self._env_kwargs = env, config, seed, env_kwargs
        self._write, self._warn, self._stop = write, warn, stop
        self._environment: Environment | None = None
        self._every = config.evaluate_every
        self.made = 0
        self._updates = 0  # of the agent that was last evaluated; before the first, nothing has been learnt
        self._said_cut = False
        self.best: dict[str, Any] | None = None

    def is_due(self, steps: int, updates: int) -> bool:
        """Whether an evaluation is due after so many environment steps; not of an agent that was evaluated already."""
        if not (self._every > 0 and steps // self._every > self.made):
            return False
        if updates == self._updates:
            self.made = steps // self._every
            return False
        return True

    def evaluate(self, steps: int, agent: DDPG, training: Any) -> None:
        """Evaluate the agent as it is after `steps` environment steps. training: the environment that must not be ours.

        eval.csv: step, episodes, mean, std, low, high of their returns, or of the rewards of their first MOST_STEPS
        steps, which is warned of. evaluations.csv: see `compare`.
        """
        if self._environment is None:
            self._environment = self._make(training)
        if self._environment is None:
            return
        gathered = []
        for number in range(self._config.evaluation_episodes):
            steps_made: list[Step] = []
            for step in episode(agent, self._environment, evaluation_seed(self._seed, number), MOST_STEPS):
                steps_made.append(step)
                if self._stop():
                    return  # and do it again when the run goes on
            gathered.append(steps_made)
        if any(not (made[-1].terminated or made[-1].truncated) for made in gathered) and not self._said_cut:
            self._said_cut = True
            self._warn(
                f"{self._environment.name} has not ended an episode of an evaluation in {MOST_STEPS:,} steps; its "
                "return is of these alone; give it a time limit with gymnasium.wrappers.TimeLimit"
            )
        returns = np.array([sum(step.rew for step in steps_made) for steps_made in gathered])
        low, high = float(returns.min()), float(returns.max())
        mean, std = float(returns.mean()), float(returns.std())
        self._write(
            "eval", {"step": steps, "episodes": len(returns), "mean": mean, "std": std, "low": low, "high": high}
        )
        for row in compare(steps, gathered, agent):
            self._write("evaluations", row)
        if self.best is None or mean > self.best["mean"]:
            self.best = {"step": steps, "mean": mean, "agent": agent.state_dict()}
        self.made, self._updates = steps // self._every, agent.updates

    def _make(self, training: Any) -> Environment | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they have been said when the first one was made
            try:
                environment = Environment(self._env, self._config.dtype, self._env_kwargs)
            except EnvError as error:
                if isinstance(self._env, str):
                    raise
                self._every = 0  # it makes vector environments, or only one
                self._warn(f"no evaluations while training: {error}")
                return None
        if training.is_same(environment):
            self._every = 0
            self._warn(
                f"no evaluations while training: the callable makes the same {environment.name} twice; "
                "let it make a new one each time"
            )
            return None
        return environment

    def state(self) -> dict[str, Any]:
        """What it needs to go on; arrays are views."""
        return {"made": self.made, "every": self._every, "updates": self._updates}

    def restore(self, state: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """Go on from a state."""
        state = {"updates": 0, **state}  # which runs of earlier versions do not have
        check_like(state, self.state())
        self.made, self._every, self._updates = int(state["made"]), int(state["every"]), int(state["updates"])
        self.best = None if best is None else dict(best)

    def close(self) -> None:
        """Close the environment."""
        if self._environment:
            self._environment.close()


def compare(steps: int, gathered: list[list[Step]], agent: DDPG) -> list[dict[str, float]]:
    """Some states of these episodes: step, return (of all rewards here, undiscounted), t, q, discounted_return, tail.

    q = Q(s_t, mu(s_t)), in the environment's units. discounted_return: of the rewards from t on. Where the episode was
    cut off, by a time limit or by MOST_STEPS, Q of its last state stands for what would have followed; tail =
    gamma^(steps left) is its weight (0: none).
    """
    rows, gamma, scale = [], agent.config.gamma, agent.config.reward_scale
    for made in gathered:
        q = agent.q(np.stack([step.obs for step in made]), np.stack([step.act for step in made])) / scale
        last, after = made[-1], 0.0
        if not last.terminated:
            after = float(agent.q(last.next_obs[None], agent.act(last.next_obs)[None])[0]) / scale
        returns = np.empty(len(made))
        for t in range(len(made) - 1, -1, -1):
            after = returns[t] = made[t].rew + gamma * after
        total = sum(step.rew for step in made)
        shown = min(max(1, COMPARED // len(gathered)), len(made))
        for t in np.linspace(0, len(made) - 1, shown).astype(int).tolist():
            tail = 0.0 if last.terminated else gamma ** (len(made) - t)
            rows.append({"step": steps, "return": total, "t": t, "q": float(q[t]),
                         "discounted_return": float(returns[t]), "tail": tail})  # fmt: skip
    return rows
