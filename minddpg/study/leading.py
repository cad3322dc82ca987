"""Leading a study: its jobs are handed to an executor, those that die are tried again, and somebody is told how far."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..extras import need
from ..runs.directory import steps_made
from ..runs.files import Lock, RunError, first_line
from ..training import Stop, stop_on_signal
from .jobs import Record, read_record, run_job
from .plan import Job
from .processes import Processes

TRIES = 3  # of a job that dies without having come further than the time before
LOOKED_EVERY = 0.5  # seconds


@dataclass
class State:
    """How a study stands: the jobs of each kind, for whoever shows it."""

    jobs: Sequence[Job]
    records: dict[str, Record] = field(default_factory=dict)  # of the jobs that are over, by name
    running: dict[str, dict[str, Any]] = field(default_factory=dict)  # what the running ones tell, by name
    signal: int | None = None

    def over(self, state: str) -> list[Job]:
        """The jobs that are "done", or "failed"."""
        return [job for job in self.jobs if self.records.get(job.name, {}).get("state") == state]


@contextmanager
def leading(path: Path) -> Iterator[None]:
    """Around the work on a study: one process at a time leads it. Raises RunError."""
    try:
        lock = Lock(path / "lock")
    except OSError as error:
        raise RunError(f"cannot write in {path}: {error.strerror or error}") from None
    try:
        (path / "stop").unlink(missing_ok=True)
        shutil.rmtree(path / "running", ignore_errors=True)
        yield
        shutil.rmtree(path / "running", ignore_errors=True)
        with suppress(OSError):
            if not (path / "output.txt").stat().st_size:
                (path / "output.txt").unlink()
    finally:
        lock.release()


def lead(
    path: Path,
    jobs: Sequence[Job],
    executor: Executor,
    show: Callable[[State], None] = lambda state: None,
    say: Callable[[str], None] = lambda text: None,
) -> State:
    """Have all jobs made that are not done, and wait for them.    -> how the study stands

    show: called now and then. say: called with what happens, a line each. Ctrl-C, SIGTERM and SIGHUP let the running
    jobs save what they have; a second one ends at once. Use it under `with leading(path)`.
    """
    state = State(jobs, {job.name: found for job in jobs if (found := read_record(job)) and found["state"] == "done"})
    waiting: dict[Future[Record], Job] = {}
    deaths = {job.name: (0, -1) for job in jobs}  # how often without coming further, and how far it was then

    def submit(job: Job) -> None:
        try:
            waiting[executor.submit(run_job, job)] = job
        except RuntimeError as error:  # a broken executor, or one that was shut down
            state.records[job.name] = failed(f"the executor takes no more jobs ({first_line(error)}); use --resume")

    with stop_on_signal(Stop()) as stop:
        for job in jobs:
            if job.name not in state.records:
                submit(job)
        while waiting:
            over, _ = wait(waiting, LOOKED_EVERY, FIRST_COMPLETED)
            if stop.number is not None and state.signal is None:
                state.signal = stop.number
                (path / "stop").touch()
                for future in [one for one in waiting if one.cancel()]:  # `wait` may never return these
                    del waiting[future]
                say("stopping: running jobs save what they have; a second Ctrl-C ends them at once")
            for future in over:
                job = waiting.pop(future)
                record: Record | None
                try:
                    record = future.result()
                except Exception as error:  # of a job that raises, run_job makes a record: this one has died
                    record = _died(job, error, deaths)
                    with suppress(OSError):
                        job.marker.unlink(missing_ok=True)
                    if record is None and state.signal is None:
                        say(f"{job.label}: {first_line(error)}; it goes on from its last checkpoint")
                        submit(job)
                if record and record["state"] != "stopped":
                    state.records[job.name] = record
                    if record["state"] == "failed":
                        say(f"{job.label} failed: {record['error']}")
                elif record and state.signal is None:  # by somebody who ended its process alone
                    submit(job)
            state.running = read_markers(path)
            show(state)
    return state


def _died(job: Job, error: BaseException, deaths: dict[str, tuple[int, int]]) -> Record | None:
    """-> None to try again, or the record of a job that is given up"""
    with suppress(RunError):
        made = steps_made(job.run)
        times, before = deaths[job.name]
        deaths[job.name] = (1, made) if made > before else (times + 1, made)
        if deaths[job.name][0] < TRIES:
            return None
        return failed(f"given up at step {made:,}: {first_line(error)}, {TRIES} times")
    times, before = deaths[job.name]
    deaths[job.name] = (times + 1, before)
    return None if times + 1 < TRIES else failed(f"given up: {first_line(error)}, {TRIES} times")


def failed(why: str) -> Record:
    """The record of a job that could not even say itself why."""
    return {"state": "failed", "error": why}


def read_markers(path: Path) -> dict[str, dict[str, Any]]:
    """What the running jobs of a study tell, by name; see jobs.Teller."""
    found = {}
    with suppress(OSError):
        for file in (path / "running").iterdir():
            with suppress(OSError, ValueError, KeyError, TypeError):  # one that is being written, or is gone
                marker = json.loads(file.read_text(encoding="utf-8"))
                found[str(marker["job"])] = marker
    return found


@contextmanager
def processes(workers: int, path: Path) -> Iterator[Executor]:
    """An executor of so many processes of this machine, for a study at `path`."""
    executor = Processes(workers, path / "output.txt")
    try:
        yield executor
    except BaseException:
        executor.kill()
        raise
    executor.shutdown()


@contextmanager
def dask(address: str, workers: int) -> Iterator[Executor]:
    """An executor of a Dask cluster: at the address of its scheduler, or "local", so many processes of this machine.

    Raises ExtraError, RunError.
    """
    distributed = need("distributed", "dask", "--dask")
    if address == "local":
        cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        )
        with cluster, distributed.Client(cluster) as client, _executor_of(client) as executor:
            yield executor
        return
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError, TypeError, ImportError) as error:
        why = first_line(error)
        raise RunError(f"no Dask scheduler answers at {address}: {why}; start one: dask scheduler") from None
    with client, _executor_of(client) as executor:
        yield executor


@contextmanager
def _executor_of(client: Any) -> Iterator[Executor]:
    executor = client.get_executor(pure=False)  # the same job, asked for again, is to be made again
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False)
        raise
    executor.shutdown()
