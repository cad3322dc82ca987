"""What a study consists of: environments x variants of their hyperparameters x seeds, and the file that says so.

A study is a directory:

- study.json: the plan.
- runs/ENV/VARIANT/seedS/: a run directory per job, as `minddpg train` makes it (runs/README.md); without `--vary`,
  there is no VARIANT. Beside it seedS.json: what came of the job.
- running/: a small file per job that is running, with how far it is.
- output.txt: what environments printed. lock: held by the process that leads the study. stop: asks jobs to stop.
- results.csv, curves.csv, study.png: what `minddpg plot STUDY` makes of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import Config, ConfigError
from ..runs.directory import MAX_JSON, versions
from ..runs.files import BROKEN, VERSION, RunError, damaged, read_regular, write_whole
from ..seeds import checked_seed

PLAN = "study.json"
FILES = (PLAN, "results.csv", "curves.csv", "study.png", "output.txt")  # for people; runs/ besides
EPISODES = 100  # of the evaluations at the end of a run
EVALUATION_SEED = 10_000  # of their starts
LONGEST = 100  # characters of a directory's name
PLAIN = ""  # the variant's name where nothing varies


@dataclass(frozen=True)
class Job:
    """One run of a study, as it is sent to whoever makes it: plain values only.

    study: its absolute path. name: of the job, and below runs/ the place of its run. config: as `Config.to_dict`.
    """

    study: str
    name: str
    env: str
    variant: str
    seed: int
    config: Mapping[str, Any]
    env_kwargs: Mapping[str, Any]
    episodes: int
    checkpoint_every: float

    @property
    def run(self) -> Path:
        """The run directory."""
        return Path(self.study) / "runs" / self.name

    @property
    def record(self) -> Path:
        """The file that says what came of it."""
        return self.run.with_name(f"{self.run.name}.json")

    @property
    def marker(self) -> Path:
        """The file that says that it is running, and how far it is."""
        return Path(self.study) / "running" / f"{self.name.replace('/', '~')}.json"

    @property
    def stop(self) -> Path:
        """The file that asks it to stop."""
        return Path(self.study) / "stop"

    @property
    def label(self) -> str:
        """For people."""
        return " ".join(part for part in (self.env, self.variant, f"seed {self.seed}") if part)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return int(self.config["steps"])


@dataclass(frozen=True)
class Plan:
    """A study as it was asked for. Raises ConfigError where it makes no sense.

    configs: of each environment, before anything varies. variants: by name, the fields that each changes; {"": {}}
    where nothing varies. env_kwargs: what every environment is made with. episodes: of the evaluations at the end.
    """

    configs: Mapping[str, Config]
    seeds: tuple[int, ...]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {PLAIN: {}})
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    episodes: int = EPISODES
    checkpoint_every: float = 60.0

    def __post_init__(self) -> None:
        if not self.configs:
            raise ConfigError("a study needs an environment")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("a study needs seeds, each of them once")
        for seed in self.seeds:
            checked_seed(seed)
        if self.episodes < 1:
            raise ConfigError(f"episodes must be 1 or more, not {self.episodes}")
        for env in self.configs:
            for variant in self.variants:
                config = self.config(env, variant)
                if not 0 < config.evaluate_every <= config.steps:
                    raise ConfigError(
                        f"evaluate_every is {config.evaluate_every:,}, so that {config.steps:,} steps of {env} have no "
                        "evaluation, which is what a study compares; take 1 or more, and no more than steps"
                    )
        names = [job.name for job in self.jobs(Path())]
        if len({name.lower() for name in names}) < len(names):
            raise ConfigError("two runs of this study would have the same directory; give them different names")

    def config(self, env: str, variant: str) -> Config:
        """The hyperparameters of a variant in an environment."""
        return self.configs[env].replace(**self.variants[variant])

    def jobs(self, path: Path) -> list[Job]:
        """All runs, in the order in which they are begun: first all of one seed. path: of the study."""
        return [
            Job(
                str(path.absolute()),
                "/".join([_file_name(env), *([_file_name(variant)] if variant else []), f"seed{seed}"]),
                env,
                variant,
                seed,
                self.config(env, variant).to_dict(),
                dict(self.env_kwargs),
                self.episodes,
                self.checkpoint_every,
            )
            for seed, env, variant in itertools.product(self.seeds, self.configs, self.variants)
        ]

    def write(self, path: Path) -> None:
        """Write study.json. Raises OSError."""
        record = {
            "version": VERSION,
            "envs": {env: config.to_dict() for env, config in self.configs.items()},
            "seeds": list(self.seeds),
            "variants": {name: dict(changes) for name, changes in self.variants.items()},
            "env_kwargs": dict(self.env_kwargs),
            "episodes": self.episodes,
            "checkpoint_every": self.checkpoint_every,
            "versions": versions(),
        }
        write_whole(path / PLAN, json.dumps(record, indent=2).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Of a study's directory. Raises RunError."""
        file = path / PLAN
        try:
            record = json.loads(read_regular(file, MAX_JSON))
            if record["version"] > VERSION:
                raise ValueError("it is of a later version of minddpg; update minddpg")
            return cls(
                {env: Config.from_dict(config) for env, config in record["envs"].items()},
                tuple(record["seeds"]),
                {name: dict(changes) for name, changes in record["variants"].items()},
                dict(record["env_kwargs"]),
                record["episodes"],
                record["checkpoint_every"],
            )
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{path} is not a study (no {PLAN}); make one with 'minddpg study ENV'") from None
        except OSError as error:
            raise RunError(f"cannot read {file}: {error.strerror or error}") from None
        except BROKEN as error:
            raise damaged(file, error) from None


def grid(vary: Mapping[str, Iterable[Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of these fields' values, by name: {"actor_lr=0.001": {"actor_lr": 0.001}, ...}.

    Without any, the one variant in which nothing changes. Raises ConfigError.
    """
    values = {name: list(some) for name, some in vary.items()}
    for name, some in values.items():
        if not some:
            raise ConfigError(f"{name} has no values to vary over")
        if name not in Config.__dataclass_fields__:
            raise ConfigError(f"there is no hyperparameter {name!r}; see 'minddpg train --help' for the names")
    variants: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*values.values()):
        changes = {n: list(v) if isinstance(v, tuple) else v for n, v in zip(values, combination, strict=True)}
        name = ",".join(f"{n}={in_words(v)}" for n, v in changes.items())
        if name in variants:
            raise ConfigError(f"the variant {name} is asked for twice; leave one out")
        variants[name] = changes
    return variants


def in_words(value: Any) -> str:
    """A hyperparameter's value as it stands in a variant's name: 64x64, none, 0.001."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "x".join(map(str, value))
    return "none" if value is None else str(value)


def is_study(path: str | Path) -> bool:
    """Whether a study stands there."""
    with suppress(OSError, ValueError):
        return (Path(path) / PLAN).is_file()
    return False


def numbered(envs: Iterable[str]) -> Iterator[Path]:
    """Where a study goes by default: studies/ENV, studies/ENV-2, ..."""
    name = _file_name("+".join(envs))
    yield Path("studies") / name
    for number in itertools.count(2):
        yield Path("studies") / f"{name}-{number}"


def _file_name(text: str) -> str:
    """A name for a file or directory, other texts having other names."""
    name = "".join(c if (c.isalnum() and c.isascii()) or c in "-_.=,+" else "-" for c in text).lstrip(".")
    if len(name) <= LONGEST and name:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
