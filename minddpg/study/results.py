"""A study that is there: its runs, their scores, what they say together; and making one from Python."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import Config, ConfigError
from ..environment import Environment
from ..runs.files import RunError, write_whole
from ..runs.tables import load_table
from . import statistics
from .jobs import Record, read_record
from .leading import State, lead, leading, processes
from .plan import EPISODES, Job, Plan, grid, is_study
from .statistics import FloatArray

MEASURES = {  # a run's scores, by the names they have in its record
    "last10": "mean of the last 10 evaluations while training, or of as many as there are",
    "best": "best evaluation while training: lucky as well as good",
    "final": "the last agent, over {episodes} episodes from starts of their own",
    "best_agent": "the agent of the best evaluation, over the same episodes",
}
MEASURE = "last10"
FEW = 5  # runs, fewer of which a bootstrap draws too little from
COLUMNS = ("env", "variant", "seed", "state", "planned", "steps", *MEASURES, "final_std", "best_step", "evaluations",
           "episodes", "seconds", "host", "cpu", "versions", "error")  # fmt: skip


class Estimate(NamedTuple):
    """A statistic of the runs of one variant in one environment, with its 95 % interval: NaN where there is one run."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (number(x) for x in self)
        return value if math.isnan(self.low) else f"{value} [{low}, {high}]"


class Summary(NamedTuple):
    """The runs of one variant in one environment. asked: how many there are to be. scores: of those that are done."""

    env: str
    variant: str
    asked: int
    scores: FloatArray
    iqm: Estimate
    mean: Estimate
    median: Estimate


class Best(NamedTuple):
    """The best variant in an environment, and by what chance a run of it beats one of the second: with an interval."""

    best: Summary
    second: Summary | None
    chance: Estimate | None


class Study:
    """A study's directory, to be looked at. Raises RunError where there is none."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.plan = Plan.read(self.path)
        self.jobs = self.plan.jobs(self.path)
        self.records: dict[str, Record] = {job.name: found for job in self.jobs if (found := read_record(job))}

    def done(self, env: str, variant: str) -> list[tuple[Job, Record]]:
        """The runs that are done, by seed."""
        return [
            (job, record)
            for job in self.jobs
            if (job.env, job.variant) == (env, variant)
            and (record := self.records.get(job.name, {})).get("state") == "done"
        ]

    @property
    def failed(self) -> list[tuple[Job, str]]:
        """The jobs that failed, each with why."""
        return [
            (job, str(record["error"]))
            for job in self.jobs
            if (record := self.records.get(job.name, {})).get("state") == "failed"
        ]

    def scores(self, env: str, variant: str, measure: str = MEASURE) -> FloatArray:
        """One of MEASURES of each run that is done (runs,), by seed."""
        if measure not in MEASURES:
            raise ConfigError(f"there is no measure {measure!r}; choose from {', '.join(MEASURES)}")
        return np.array([record[measure] for _, record in self.done(env, variant)], np.float64)

    def summary(self, env: str, variant: str, measure: str = MEASURE) -> Summary:
        """Statistics of these."""
        scores = self.scores(env, variant, measure)
        found = [estimate(statistic, [scores]) for statistic in
                 (statistics.interquartile_mean, statistics.mean, statistics.median)]  # fmt: skip
        return Summary(env, variant, len(self.plan.seeds), scores, *found)

    def summaries(self, measure: str = MEASURE) -> list[Summary]:
        """Of every variant in every environment."""
        return [self.summary(env, variant, measure) for env in self.plan.configs for variant in self.plan.variants]

    def improvement(self, variant: str, other: str, measure: str = MEASURE, env: str | None = None) -> Estimate:
        """The chance that a run of one variant beats one of the other; env: in one, None: averaged over all."""
        pairs = [(self.scores(one, variant, measure), self.scores(one, other, measure))
                 for one in ([env] if env else self.plan.configs)]  # fmt: skip
        kept = [pair for pair in pairs if pair[0].size and pair[1].size]
        return estimate(statistics.improvement, [mine for mine, _ in kept], [others for _, others in kept])

    def best(self, env: str, measure: str = MEASURE) -> Best:
        """The variant with the highest interquartile mean. Raises ConfigError where nothing varies or is done."""
        if len(self.plan.variants) < 2:
            raise ConfigError(f"nothing varies in {self.path}, so there is no best; make a study with --vary")
        found = [self.summary(env, variant, measure) for variant in self.plan.variants]
        ordered = sorted((one for one in found if one.scores.size), key=lambda one: -one.iqm.value)
        if not ordered:
            raise RunError(f"no run of {self.path} in {env} is done yet; go on with it: --resume {self.path}")
        second = ordered[1] if len(ordered) > 1 else None
        chance = self.improvement(ordered[0].variant, second.variant, measure, env) if second else None
        return Best(ordered[0], second, chance)

    def curves(self, env: str, variant: str) -> tuple[FloatArray, FloatArray]:
        """Mean returns of the evaluations while training    -> steps (points,), returns (runs, points)

        Of runs that were evaluated at different steps, those that all have.
        """
        tables = [load_table(job.run, "eval") for job, _ in self.done(env, variant)]
        if not tables:
            return np.zeros(0), np.zeros((0, 0))
        steps = tables[0]["step"]
        for table in tables[1:]:
            steps = np.intersect1d(steps, table["step"])
        return steps, np.array([table["mean"][np.isin(table["step"], steps)] for table in tables])

    def table(self, measures: Sequence[str] = ("final", "last10", "best")) -> str:
        """Statistics of every variant in every environment, for a terminal."""
        lines = []
        for measure in measures:
            lines += [f"{measure}: {MEASURES[measure].format(episodes=self.plan.episodes)}"]
            rows = [["", "runs", "IQM [95 % interval]", "mean [95 % interval]", "median", "lowest", "highest"]]
            for one in self.summaries(measure):
                name = " ".join(part for part in (one.env, one.variant) if part)
                of = len(one.scores)
                runs = f"{of}" if of == one.asked else f"{of} of {one.asked}"
                if of:
                    ends = number(one.scores.min()), number(one.scores.max())
                    rows.append([name, runs, str(one.iqm), str(one.mean), number(one.median.value), *ends])
                else:
                    rows.append([name, runs, *["-"] * 5])
            lines += [*aligned(rows), ""]
        few = min((len(one.scores) for one in self.summaries() if one.scores.size), default=FEW)
        note = [f"With {few} of a kind, the intervals are too narrow; take {FEW} seeds or more."] if few < FEW else []
        return "\n".join([*lines, *note]).rstrip()

    def write_tables(self) -> list[Path]:
        """results.csv, a row per run, and curves.csv, a row per evaluation of each.    -> their paths"""
        rows = []
        for job in self.jobs:
            about = {"env": job.env, "variant": job.variant, "seed": job.seed, "state": "to do", "planned": job.steps}
            record = {**about, **self.records.get(job.name, {})}
            record["versions"] = " ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
            rows.append([record.get(column, "") for column in COLUMNS])
        points = []
        for env in self.plan.configs:
            for variant in self.plan.variants:
                for job, _ in self.done(env, variant):
                    table = load_table(job.run, "eval")
                    points += [[env, variant, job.seed, *row.values()] for row in table.as_rows()]
        names = ("env", "variant", "seed", "step", "episodes", "mean", "std", "low", "high")
        return [write_csv(self.path / "results.csv", COLUMNS, rows), write_csv(self.path / "curves.csv", names, points)]


def estimate(statistic: Callable[..., FloatArray], *groups: statistics.Scores) -> Estimate:
    """statistic(*groups) with its interval; NaN where a group has no scores."""
    if not groups[0] or any(task.size == 0 for group in groups for task in group):
        return Estimate(math.nan, math.nan, math.nan)
    low, high = statistics.interval(statistic, *groups)
    return Estimate(float(statistic(*groups)), float(low), float(high))


def number(value: float) -> str:
    """As many digits as a return needs."""
    return "-" if math.isnan(value) else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Write a table, whole or not at all.    -> path. Raises RunError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    try:
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
    return path


# --- making one -------------------------------------------------------------------------------------------------------


def run(
    out: str | os.PathLike[str],
    envs: str | Sequence[str] = (),
    seeds: int | Sequence[int] = 5,
    config: Mapping[str, Any] | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episodes: int = EPISODES,
    checkpoint_every: float = 60.0,
    workers: int | None = None,
    executor: Executor | None = None,
    show: Callable[[State], None] = lambda state: None,
    say: Callable[[str], None] = lambda text: None,
) -> Study:
    """Make a study in the directory `out`, or go on with the one that is there.

    envs: ids. seeds: so many, from 0 on, or these. config: what is changed of each environment's preset. vary: values
    of fields, of which every combination is a variant. episodes: of each run's evaluations at the end.
    workers: processes of this machine, None: one per core. executor: any other one of concurrent.futures; the study's
    directory must be seen, under the same path, by all of its machines.
    A study that is there goes on as it was planned, also with seeds that were not asked for before; `envs` may then be
    left out. Jobs that fail are in `failed` of the result. Raises ConfigError, EnvError, RunError.
    """
    path = Path(out)
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if is_study(path):
        plan = Plan.read(path)
        if envs and (asked := make_plan(envs, chosen, config, vary, env_kwargs, episodes, checkpoint_every)) != plan:
            plan = with_seeds(plan, asked, path)
    else:
        plan = make_plan(envs, chosen, config, vary, env_kwargs, episodes, checkpoint_every)
        path = make_directory(iter([path]), plan)
    with leading(path):
        plan.write(path)
        with nullcontext(executor) if executor else processes(workers or cores(), path) as chosen_executor:
            lead(path, plan.jobs(path), chosen_executor, show, say)
    return Study(path)


def make_plan(
    envs: str | Sequence[str],
    seeds: Sequence[int],
    config: Mapping[str, Any] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episodes: int = EPISODES,
    checkpoint_every: float = 60.0,
    preset: str | None = None,
) -> Plan:
    """The plan for what `run` is asked for; every environment is made once, to see whether it can be."""
    configs = {}
    for env in [envs] if isinstance(envs, str) else envs:
        environment = Environment(env, env_kwargs=env_kwargs)
        environment.close()
        if environment.name in configs:
            raise ConfigError(f"{environment.name} is asked for twice; leave one out")
        base = Config.preset(preset) if preset else Config.for_environment(environment.name)
        configs[environment.name] = base.replace(**dict(config or {}))
    return Plan(configs, tuple(seeds), grid(vary or {}), dict(env_kwargs or {}), episodes, checkpoint_every)


def with_seeds(plan: Plan, asked: Plan, path: Path) -> Plan:
    """The plan of a study with the seeds that are asked for besides. Raises ConfigError where more is to change."""
    seeds = (*plan.seeds, *(seed for seed in asked.seeds if seed not in plan.seeds))
    both = Plan(plan.configs, seeds, plan.variants, plan.env_kwargs, plan.episodes, plan.checkpoint_every)
    if asked != Plan(plan.configs, asked.seeds, plan.variants, plan.env_kwargs, plan.episodes, asked.checkpoint_every):
        raise ConfigError(f"{path} is a study of something else; choose another directory")
    return both


def make_directory(choices: Iterator[Path], plan: Plan) -> Path:
    """The first of these paths that is free, made, with the plan in it.    -> it. Raises RunError."""
    for path in choices:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            plan.write(path)
            return path
        except FileExistsError:
            taken = path
        except OSError as error:
            raise RunError(f"cannot make {path}: {error.strerror or error}; choose another directory (--out)") from None
    go_on = f"go on with it: --resume {taken}" if is_study(taken) else "remove it"
    raise RunError(f"{taken} exists; choose another --out, or {go_on}")


def cores() -> int:
    """Of this machine, as far as this process may use them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
