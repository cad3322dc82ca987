"""One job of a study: train, or go on with, one run, evaluate it, and write down what came of it.

`run_job` may be called as often as one likes, by any process of any machine that sees the study's directory. The run's
directory comes into being at once, and a lock lets one process write in it: whoever calls while another one works
there waits, and takes what that one has made. What a killed process leaves is gone on with from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import Config
from ..evaluation import evaluate
from ..runs.directory import RunExists, load, load_info, versions
from ..runs.files import InUse, RunError, first_line, read_regular, write_whole
from ..training import EpisodeRow, Stop, TrainResult, resume, train
from .plan import EVALUATION_SEED, Job

Record = dict[str, Any]

TOLD_EVERY = 1.0  # seconds
ASKED_AGAIN = 1.0  # seconds, for a run that another process has
LAST = 10  # evaluations
MOST_RECORD = 1 << 20  # bytes
STOPPED = {"state": "stopped"}


def run_job(job: Job) -> Record:
    """Make the run of a job, or what is left of it.    -> its record, which also stands in job.record

    state: "done", "failed", or "stopped" (asked to, everything saved). Of one that is done: final, final_std (mean and
    standard deviation of the returns of the last agent over job.episodes episodes from starts of their own),
    best_agent (the same mean of the agent with the best evaluation), last10 (mean of the last ten evaluations while
    training), best, best_step (the best of them), evaluations, episodes, seconds (of training), warnings, host, cpu,
    versions. Of one that has failed: error (one line), trace.
    """
    if (found := read_record(job)) and found["state"] == "done":
        return found
    teller = Teller(job)
    try:
        record = _run(job, teller)
    except Exception as error:
        record = {
            "state": "failed",
            "error": first_line(error),
            "kind": type(error).__name__,
            "trace": traceback.format_exc(),
        }
    finally:
        teller.close()
    if record["state"] != "stopped":
        about = {"env": job.env, "variant": job.variant, "seed": job.seed, "host": socket.gethostname(), "cpu": cpu()}
        record = {**record, **about, "warnings": teller.warnings, "versions": versions()}
        job.record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(job.record, json.dumps(record, indent=2).encode() + b"\n")
    return record


def _run(job: Job, teller: Teller) -> Record:
    while True:
        try:
            result = _train_or_resume(job, teller)
            break
        except InUse:  # by one that was given up for dead, perhaps
            teller.tell(state="waiting for another process that has this run")
            if job.stop.exists():
                return STOPPED
            time.sleep(ASKED_AGAIN)
            if (found := read_record(job)) and found["state"] == "done":
                return found
    if result.interrupted:
        return STOPPED
    teller.tell(state="trained; being evaluated")
    return {"state": "done", **measures(job, result)}


def _train_or_resume(job: Job, teller: Teller) -> TrainResult:
    options: dict[str, Any] = {
        "progress": teller.step,
        "checkpoint_every": job.checkpoint_every,
        "threads": 1,  # two runs side by side use two cores better than one run with two threads
        "stop": teller.stop,
        "warn": teller.warn,
    }
    config = Config.from_dict(dict(job.config))
    if not job.run.exists():
        with suppress(RunExists):  # another process has just begun it
            return train(job.env, config, seed=job.seed, out=job.run, env_kwargs=job.env_kwargs, **options)
    info = load_info(job.run)
    its = (info.env, info.seed, info.config.replace(steps=config.steps), info.env_kwargs)
    if its != (job.env, job.seed, config, dict(job.env_kwargs)):
        raise RunError(f"{job.run} is not the run that the study asks for; move it away")
    more = config.steps if config.steps > info.config.steps else None
    return resume(job.run, more, **options)


def measures(job: Job, result: TrainResult) -> Record:
    """What is kept of a run that is done; see `run_job`."""
    means = [row["mean"] for row in result.evaluations]
    best = max(result.evaluations, key=lambda row: row["mean"])
    last = evaluate(result.agent, job.env, job.episodes, EVALUATION_SEED, env_kwargs=job.env_kwargs)
    again = evaluate(load(job.run, best=True), job.env, job.episodes, EVALUATION_SEED, env_kwargs=job.env_kwargs)
    return {
        "planned": job.steps,
        "steps": result.steps,
        "final": float(last.mean()),
        "final_std": float(last.std()),
        "best_agent": float(again.mean()),
        "last10": math.fsum(means[-LAST:]) / len(means[-LAST:]),
        "best": best["mean"],
        "best_step": best["step"],
        "evaluations": len(means),
        "episodes": job.episodes,
        "seconds": result.history[-1]["seconds"] if result.history else None,
    }


class Teller:
    """Says how far a job is, in job.marker, and hears whether it shall stop, by job.stop."""

    def __init__(self, job: Job):
        self.job, self.stop, self.warnings = job, Stop(), list[str]()
        self._next, self._about = 0.0, {"job": job.name, "host": socket.gethostname(), "pid": os.getpid()}
        with suppress(OSError):
            job.marker.parent.mkdir(parents=True, exist_ok=True)
        self.tell(state="starting")

    def step(self, step: int, history: Sequence[EpisodeRow]) -> None:
        """To be called after every step."""
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + TOLD_EVERY
        if self.job.stop.exists():
            self.stop.number = signal.SIGTERM
        last = [row["return"] for row in history[-LAST:]]
        self.tell(state="running", step=step, last=math.fsum(last) / len(last) if last else None, when=time.time())

    def tell(self, **what: Any) -> None:
        """Whoever reads it must expect to read a part; it is not worth a wait for the disk."""
        with suppress(OSError):
            self.job.marker.write_text(json.dumps({**self._about, **what}), encoding="utf-8")

    def warn(self, text: str) -> None:
        """Kept for the record."""
        self.warnings.append(text)

    def close(self) -> None:
        """It is not running any more."""
        with suppress(OSError):
            self.job.marker.unlink(missing_ok=True)


def read_record(job: Job) -> Record | None:
    """What came of a job: None where nothing did yet, or something else was asked for than now."""
    try:
        record: Record = json.loads(read_regular(job.record, MOST_RECORD))
        fits = record["state"] == "failed" or (record["planned"], record["episodes"]) == (job.steps, job.episodes)
        return record if fits and record["state"] in ("done", "failed") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def cpu() -> str:
    """What this machine computes with: "AMD EPYC 9R14, 2 cores"."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
