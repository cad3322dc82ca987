"""Every hyperparameter of minddpg, one documented line each, and the presets that were chosen by measuring.

"Paper" is Lillicrap et al., "Continuous control with deep reinforcement learning", arXiv 1509.02971, section 7.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

MOST = 10**15  # of anything that is counted: enough for all machines, and small enough for every computation
EPISODES = 10  # of an evaluation, unless asked for others
EVALUATION_SEED = 10_000  # of evaluations from the command line: episode i starts from reset(seed=EVALUATION_SEED + i)
CHECKPOINT_EVERY = 60.0  # seconds
DIAGNOSE_EVERY = 250  # updates; at 64-64 a look takes five updates' time, less for larger networks
MOST_UNITS = 1_000_000  # of a layer
MOST_RETURN = 10_000  # rewards that are summed up
OPTIONS = (  # off by default, and in runs of before there were any
    "algorithm", "policy_delay", "target_noise_std", "target_noise_clip", "normalisation", "activation",
    "normalise_obs", "reward_scale", "n_step", "max_grad_norm", "invert_gradients", "final_lr_share",
)  # fmt: skip


class ConfigError(ValueError):
    """A hyperparameter that makes no sense; the message is one line and names the field."""


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """The hyperparameters of one agent and its training run. Frozen: use `replace` for a changed copy."""

    steps: int = _setting(100_000, "environment steps of the whole run, random ones included; paper: up to 2.5 million")
    hidden_sizes: tuple[int, ...] = _setting(
        (256, 256), "units of each hidden layer, of actor and critic alike; usual: 64,64 to 400,300; paper: 400,300"
    )
    actor_lr: float = _setting(1e-3, "Adam's learning rate for the actor; usual: 1e-4 to 1e-3; paper: 1e-4")
    critic_lr: float = _setting(1e-3, "Adam's learning rate for the critic; usual: 3e-4 to 1e-3; paper: 1e-3")
    gamma: float = _setting(0.99, "discount per step; usual: 0.95 to 0.999; paper: 0.99")
    tau: float = _setting(
        0.005,
        "share of the online network that a target network takes in per update (1: a copy, 0: nothing); "
        "usual: 0.001 to 0.02; paper: 0.001",
    )
    batch_size: int = _setting(256, "transitions per update; usual: 64 to 256; paper: 64")
    buffer_size: int = _setting(
        1_000_000, "transitions the replay keeps; usual: 100,000 to 1,000,000; paper: 1,000,000"
    )
    learning_starts: int = _setting(
        1_000,
        "steps with uniform random actions before the first update; usual: 1,000 to 25,000; paper: not stated, 64 here",
    )
    update_every: int = _setting(1, "environment steps between updates; usual: 1; paper: 1")
    updates_per_step: int = _setting(1, "updates made each time updates are made; usual: 1; paper: 1")
    noise: str = _setting(
        "gaussian", "exploration noise: gaussian (independent each step) or ou (Ornstein-Uhlenbeck); paper: ou"
    )
    noise_std: float = _setting(
        0.1,
        "size of the noise, in units of actions in [-1, 1]: the standard deviation (gaussian) or sigma (ou); "
        "usual: 0.1 to 0.5; paper: 0.2",
    )
    noise_theta: float = _setting(0.15, "ou only: share of the way back to zero per step; usual and paper: 0.15")
    critic_weight_decay: float = _setting(
        0.0, "L2: adds this times each critic weight (not bias) to its gradient; usual: 0; paper: 0.01"
    )
    action_layer: int = _setting(
        0, "the critic's layer that the action enters: 0 beside the observation, 1 at the second hidden layer; paper: 1"
    )
    final_init: float | None = _setting(
        None,
        "draw the last layers' weights and biases from U(-x, x); none: U(-1/sqrt(fan-in), 1/sqrt(fan-in)) "
        "as everywhere else; paper: 0.003",
    )
    algorithm: str = _setting(
        "ddpg", "ddpg, or td3: twin critics, a delayed policy, a smoothed target (Fujimoto et al. 2018); paper: ddpg"
    )
    policy_delay: int = _setting(
        2, "td3 only: the actor and the targets move at every so many updates; usual: 2; paper: no such thing"
    )
    target_noise_std: float = _setting(
        0.2, "td3 only: standard deviation of the noise on the target's action; usual: 0.2; paper: no such thing"
    )
    target_noise_clip: float = _setting(
        0.5, "td3 only: that noise is cut off at plus and minus this; usual: 0.5; paper: no such thing"
    )
    normalisation: str = _setting(
        "none",
        "of what the networks read and of their hidden layers (the critic's up to the action): none, batch or layer; "
        "paper: batch",
    )
    activation: str = _setting("relu", "of the hidden layers of actor and critic: relu or tanh; paper: relu")
    invert_gradients: bool = _setting(
        False,
        "the actor's output is linear, clipped where it acts, and dQ/da turns round at the bounds (Hausknecht & Stone "
        "2016), against saturation; paper: no, tanh",
    )
    reward_scale: float = _setting(
        1.0, "rewards are learnt from times this; tables keep the environment's; usual: 0.01 to 10; paper: 1"
    )
    n_step: int = _setting(
        1, "rewards that a target sums up before it trusts Q' (see returns.py); usual: 1 to 5; paper: 1"
    )
    max_grad_norm: float | None = _setting(
        None, "a longer gradient, of the actor or of a critic, is shortened to this; usual: 0.5 to 40; paper: none"
    )
    normalise_obs: bool = _setting(
        False, "observations minus their mean, over their spread, of all that was stored; paper: no, see normalisation"
    )
    final_lr_share: float = _setting(
        1.0, "both learning rates fall linearly to this share of themselves at the last step planned; paper: 1"
    )
    dtype: str = _setting("float32", "float32 to train, float64 to check gradients")
    num_envs: int = _setting(
        1, "environments stepped side by side; their steps add up, and updates keep pace; usual: 1 to 16; paper: 1"
    )
    evaluate_every: int = _setting(
        5_000,
        "environment steps between evaluations without noise, in an environment of their own; they change nothing in "
        "what is learnt; 0: none; usual: 1,000 to 10,000; paper: not stated",
    )
    evaluation_episodes: int = _setting(3, "episodes of each of these; usual: 3 to 10; paper: not stated")
    diagnose_every: int = _setting(
        DIAGNOSE_EVERY,
        "updates between two looks at one from inside, for gradients.csv and warnings; they change nothing in what "
        "is learnt; 0: none; usual: 100 to 1,000; paper: none",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", _sizes(self.hidden_sizes))
        for name in ("steps", "batch_size", "buffer_size", "update_every", "updates_per_step", "num_envs"):
            self._integer(name, 1)
        for name in ("policy_delay", "n_step"):
            self._integer(name, 1)
        self._integer("evaluation_episodes", 1)
        for name in ("learning_starts", "action_layer", "evaluate_every", "diagnose_every"):
            self._integer(name, 0)
        for name in ("actor_lr", "critic_lr", "reward_scale"):
            self._number(name, 0, open_low=True)
        if self.max_grad_norm is not None:
            self._number("max_grad_norm", 0, open_low=True)
        self._number("gamma", 0, 1, open_high=True)
        for name in ("tau", "noise_theta", "final_lr_share"):
            self._number(name, 0, 1)
        for name in ("noise_std", "critic_weight_decay", "target_noise_std", "target_noise_clip"):
            self._number(name, 0)
        if self.final_init is not None:
            self._number("final_init", 0, open_low=True)
        self._choice("noise", ("gaussian", "ou"))
        self._choice("algorithm", ("ddpg", "td3"))
        self._choice("activation", ("relu", "tanh"))
        self._choice("normalisation", ("none", "batch", "layer"))
        for name in ("normalise_obs", "invert_gradients"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.normalisation != "none" and not self.hidden_sizes:
            raise ConfigError(f"normalisation {self.normalisation} needs a hidden layer; give hidden_sizes")
        if self.n_step > MOST_RETURN:
            raise ConfigError(f"n_step must be {MOST_RETURN:,} at most, not {self.n_step!r}")
        self._choice("dtype", ("float32", "float64"))
        if self.action_layer >= max(1, len(self.hidden_sizes)):
            raise ConfigError(
                f"action_layer is {self.action_layer}, but there are {len(self.hidden_sizes)} hidden layers; "
                f"the action must enter a hidden layer: 0 to {max(0, len(self.hidden_sizes) - 1)}"
            )
        if self.learning_starts >= self.steps:
            raise ConfigError(
                f"learning_starts {self.learning_starts} leaves nothing of {self.steps} steps to learn; lower it"
            )
        if self.batch_size > self.buffer_size:
            raise ConfigError(f"batch_size {self.batch_size} is more than buffer_size {self.buffer_size}; lower it")

    def _integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= MOST:
            raise ConfigError(f"{name} must be a whole number, {least} or more (and at most {MOST:g}), not {value!r}")
        object.__setattr__(self, name, int(value))

    def _number(
        self, name: str, low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False
    ) -> None:
        value = getattr(self, name)
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if number:
            with suppress(OverflowError):  # a whole number beyond all floats stays what it is, and out of range
                value = float(value)
            number = isinstance(value, float) and math.isfinite(value)
        if not number or not low <= value <= high or (open_low and value == low) or (open_high and value == high):
            interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or high == math.inf else ']'}"
            raise ConfigError(f"{name} must be a number in {interval}, not {value!r}")
        object.__setattr__(self, name, value)

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        word = getattr(value, "name", value)  # of a NumPy dtype
        if not isinstance(word, str) or word not in allowed:
            raise ConfigError(f"{name} must be {' or '.join(allowed)}, not {value!r}")
        object.__setattr__(self, name, str(word))

    @property
    def updates(self) -> int:
        """Updates that are made in `steps`, if one environment makes them one by one."""
        due = self.steps // self.update_every - self.learning_starts // self.update_every
        return due * self.updates_per_step

    def replace(self, **changes: Any) -> Config:
        """A copy with some fields changed, checked like any Config."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {**dataclasses.asdict(self), "hidden_sizes": list(self.hidden_sizes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`; unknown fields are an error, missing ones take their defaults."""
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"unknown hyperparameter {', '.join(unknown)}; see 'minddpg train --help' for the names")
        return cls(**values)

    @classmethod
    def paper(cls) -> Config:
        """Every value of the paper's section 7 for low-dimensional observations.

        The paper does not say when updates start; here, when one batch is full.
        """
        return cls(
            steps=2_500_000,
            hidden_sizes=(400, 300),
            actor_lr=1e-4,
            critic_lr=1e-3,
            gamma=0.99,
            tau=0.001,
            batch_size=64,
            buffer_size=1_000_000,
            learning_starts=64,
            noise="ou",
            noise_std=0.2,
            noise_theta=0.15,
            critic_weight_decay=1e-2,
            action_layer=1,
            final_init=3e-3,
            normalisation="batch",
        )

    @classmethod
    def preset(cls, name: str) -> Config:
        """The preset of that name: an environment id, or one of default, mujoco, paper."""
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}; choose from {', '.join(sorted(PRESETS))}")
        return PRESETS[name]

    @classmethod
    def for_environment(cls, env: str) -> Config:
        """The preset of an environment id, or the defaults where there is none."""
        return PRESETS.get(preset_name(env) or "", cls())


def _sizes(value: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(value)
    except TypeError:
        sizes = (value,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or not 1 <= int(size) <= MOST_UNITS:
            raise ConfigError(f"hidden_sizes must be whole numbers from 1 to {MOST_UNITS:,} each, not {value!r}")
    return tuple(int(size) for size in sizes)


PRESETS: dict[str, Config] = {
    "default": Config(),
    "paper": Config.paper(),
    "Pendulum-v1": Config(
        steps=20_000,
        hidden_sizes=(64, 64),
        batch_size=64,
        actor_lr=2e-3,
        critic_lr=2e-3,
        final_init=3e-3,
        evaluate_every=2_000,
    ),
    "MountainCarContinuous-v0": Config(
        steps=50_000, hidden_sizes=(64, 64), batch_size=64, noise="ou", noise_theta=0.05, noise_std=0.3
    ),
    "LunarLanderContinuous-v3": Config(
        steps=300_000,
        hidden_sizes=(64, 64),
        batch_size=64,
        actor_lr=5e-4,
        learning_starts=5_000,
        noise="ou",
        noise_std=0.2,
        final_init=3e-3,
    ),
    "mujoco": Config(steps=1_000_000, learning_starts=10_000),
}

MUJOCO = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum",
          "Pusher", "Reacher", "Swimmer", "Walker2d")  # fmt: skip


def preset_name(env: str) -> str | None:
    """The name of the preset for an environment id, None where there is none: 'HalfCheetah-v5' -> 'mujoco'."""
    if env in PRESETS and "-v" in env:
        return env
    return "mujoco" if env.split("-v")[0] in MUJOCO else None
