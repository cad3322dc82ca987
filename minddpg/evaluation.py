"""Episodes without noise: the returns of a policy, and Q against the returns that follow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .agent import DDPG
from .config import Config, ConfigError
from .environment import EnvError, Environment, EnvironmentLike
from .fast.jit import FloatArray
from .seeds import checked_seed

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
