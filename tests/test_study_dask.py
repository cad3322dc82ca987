"""The same study on a Dask cluster, one of whose workers is killed in the middle."""

import os
import signal
import sys

import pytest
from studies import QUICK
from test_exact_resume import assert_equal_files, files

from minddpg import RunError, cli, study
from minddpg.extras import ExtraError
from minddpg.runs.directory import steps_made
from minddpg.study.leading import dask

LONG = {**QUICK, "steps": 30_000, "learning_starts": 29_950, "evaluate_every": 30_000}  # seconds, next to no updates


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ExtraError, match=r"--dask needs the extra dask; from a checkout: pip install '.\[dask\]'"),
        dask("local", 1),
    ):
        pass


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.mark.filterwarnings("ignore")  # Dask's own, of processes that are killed
def test_a_worker_is_killed_and_the_runs_are_the_same(cluster, tmp_path):
    killed = []

    def kill(state):
        """The first worker whose run has a checkpoint behind step 0."""
        for job in state.jobs:
            marker = state.running.get(job.name, {})
            if not killed and marker.get("step", 0) > 100 and job.run.exists() and steps_made(job.run) > 0:
                killed.append((job.name, steps_made(job.run)))
                os.kill(marker["pid"], signal.SIGKILL)

    with dask(cluster.scheduler_address, 2) as executor:
        on_dask = study.run(
            "dask", "Pendulum-v1", 2, LONG, episodes=1, checkpoint_every=0.05, executor=executor, show=kill
        )
    assert len(killed) == 1
    assert on_dask.failed == []
    assert len(on_dask.scores("Pendulum-v1", "")) == 2
    assert {record["host"] for record in on_dask.records.values()}
    in_pool = study.run("pool", "Pendulum-v1", 2, LONG, episodes=1, checkpoint_every=0.05, workers=2)
    for mine, its in zip(on_dask.jobs, in_pool.jobs, strict=True):
        assert_equal_files(files(mine.run), files(its.run))
    assert on_dask.table() == in_pool.table()


@pytest.mark.filterwarnings("ignore")
def test_from_the_command_line(cluster, capsys):
    words = [
        "study",
        "Pendulum-v1",
        "--seeds",
        "2",
        "--episodes",
        "1",
        "--out",
        "s",
        "--dask",
        cluster.scheduler_address,
    ]
    assert cli.main([*words, *(word for name, value in QUICK.items() for word in flag(name, value))]) == 0
    printed = capsys.readouterr().out
    assert "2 runs: 1 environment x 2 seeds -> s" in printed
    assert "minddpg plot s" in printed


def flag(name, value):
    return f"--{name.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.filterwarnings("ignore")
def test_no_scheduler_is_one_line(monkeypatch):
    distributed = pytest.importorskip("distributed")
    real = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: real(address, timeout=1))
    for address in ("tcp://127.0.0.1:1", "nonsense://x", ""):
        with pytest.raises(RunError, match="no Dask scheduler answers at"), dask(address, 1):
            pass
