"""The default executor of a study: processes of this machine, each making one run after another on one core.

Unlike in concurrent.futures.ProcessPoolExecutor, a process that dies takes nothing down: its job's future gets
ProcessDied, and a new process takes its place. They are started anew, as multiprocessing's "spawn" does it, but do not
import the caller's script, which then needs no `if __name__ == "__main__":`; notebooks work too.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# NumPy's BLAS and Numba look at these when they are imported; a run has one core.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from minddpg.study.processes import work; work()"


class ProcessDied(RuntimeError):
    """The process that made a job has ended before the job; the message says how."""


class Processes(Executor):
    """Up to `workers` processes, started as jobs come. A job is a function that can be imported, and plain arguments.

    output: a file that what they print, and the trace of a crash, is added to; None: it goes to stderr.
    """

    def __init__(self, workers: int, output: Path | None = None):
        self.output, self.jobs = output, queue.SimpleQueue[Any]()
        self._over = threading.Event()
        self._slots = [_Slot(self) for _ in range(workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See concurrent.futures."""
        if self._over.is_set():
            raise RuntimeError("the executor has been shut down")
        future: Future[Any] = Future()
        self.jobs.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See concurrent.futures."""
        self._over.set()
        if cancel_futures:
            with suppress(queue.Empty):
                while True:
                    if (job := self.jobs.get_nowait()) is not None:
                        job[0].cancel()
        for _ in self._slots:
            self.jobs.put(None)
        if wait:
            for slot in self._slots:
                slot.thread.join()

    def kill(self) -> None:
        """End all processes at once, and their jobs with them."""
        self.shutdown(wait=False, cancel_futures=True)
        for slot in self._slots:
            slot.kill()

    def pids(self) -> list[int]:
        """Of the processes that there are."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]


class _Slot:
    """A place for a process, and the thread that hands it jobs."""

    def __init__(self, executor: Processes):
        self._executor = executor
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (job := self._executor.jobs.get()) is not None:
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    fine, result = self._ask(call)
                except BaseException as error:
                    fine, result = False, error
                future.set_result(result) if fine else future.set_exception(result)
        if (process := self.process) is not None:
            self.process = None
            self._end(process)

    def _ask(self, call: Any) -> tuple[bool, Any]:
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        message = pickle.dumps(call)
        try:
            process.stdin.write(message)
            process.stdin.flush()
            fine, result = pickle.load(process.stdout)  # of our own process
            return bool(fine), result
        except (EOFError, OSError, pickle.UnpicklingError):
            self.process = None
            raise ProcessDied(_how(self._end(process))) from None

    def _start(self) -> subprocess.Popen[bytes]:
        output = open(self._executor.output, "ab") if self._executor.output else None
        try:
            return subprocess.Popen(
                [sys.executable, "-c", START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **ONE_THREAD},
                # A terminal's signals reach whoever leads the study, who says when to stop.
                start_new_session=True,
            )
        finally:
            if output:
                output.close()

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return process.wait()

    def kill(self) -> None:
        """End its process, if there is one."""
        if (process := self.process) is not None:
            process.kill()


def work() -> None:
    """What a process does: jobs from stdin, answers to stdout, until nobody is there to send one."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what an environment prints
    faulthandler.enable()
    jobs = queue.SimpleQueue[Any]()
    threading.Thread(target=_hear, args=(calls, jobs), daemon=True).start()
    while (call := jobs.get()) is not None:
        fn, args, kwargs = call
        try:
            answer = True, fn(*args, **kwargs)
        except Exception as error:
            answer = False, error
        with suppress(BrokenPipeError):
            answers.write(pickle.dumps(answer))
            answers.flush()


def _hear(calls: IO[bytes], jobs: queue.SimpleQueue[Any]) -> None:
    """Where whoever leads is gone, the run in progress makes a checkpoint and ends, as at SIGTERM."""
    while True:
        try:
            jobs.put(pickle.load(calls))
        except EOFError:
            jobs.put(None)
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _how(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else "; output.txt says where"
            return f"its process was ended by {name}{hint}"
    return f"its process ended with exit status {code}; output.txt may say why"
