"""Studies: each job is made once, whatever happens to its process; its run is the one `train` makes, to the byte."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import clean_environment
from studies import FATAL, QUICK, fake_study
from test_exact_resume import assert_equal_files, files

import minddpg
from minddpg import Config, ConfigError, EnvError, RunError, study
from minddpg.study import Plan, Study, grid, run_job
from minddpg.study.jobs import read_record
from minddpg.study.leading import lead, leading, processes
from minddpg.study.plan import numbered
from minddpg.study.processes import ProcessDied, Processes
from minddpg.study.results import make_plan


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # the disk is not what is tested


@pytest.fixture(scope="session")
def _fatal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fatal")
    (folder / "fatal.py").write_text(FATAL)
    return folder


@pytest.fixture
def fatal(_fatal, monkeypatch):
    """The environment fatal:Fatal-v0, for this process and those it starts."""
    monkeypatch.syspath_prepend(str(_fatal))
    return "fatal:Fatal-v0"


def plan_of(env="Pendulum-v1", seeds=(0,), vary=None, **options):
    config = {**QUICK, **options.pop("config", {})}
    return make_plan(env, seeds, config, vary, episodes=2, **options)


def made(path, plan):
    path.mkdir()
    plan.write(path)
    return plan.jobs(path)


def assert_as_trained(job, tmp_path):
    """The run directory equals, byte for byte, the one of `minddpg.train`; but for the times."""
    whole = tmp_path / f"whole-{job.seed}-{job.variant}"
    config = Config.from_dict(dict(job.config))
    minddpg.train(job.env, config, seed=job.seed, out=whole, env_kwargs=job.env_kwargs, progress=False)
    assert_equal_files(files(job.run), files(whole))


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination():
    variants = grid({"actor_lr": [1e-4, 1e-3], "hidden_sizes": [(64, 64), (8,)], "final_init": [None]})
    assert len(variants) == 4
    assert variants["actor_lr=0.0001,hidden_sizes=64x64,final_init=none"] == {
        "actor_lr": 1e-4, "hidden_sizes": [64, 64], "final_init": None,
    }  # fmt: skip
    assert grid({}) == {"": {}}


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"actor_lr": []}, "no values"),
        ({"actor_rate": [1]}, "no hyperparameter 'actor_rate'"),
        ({"tau": [0.01, 0.01]}, "asked for twice"),
    ],
)
def test_grids_that_are_none(vary, message):
    with pytest.raises(ConfigError, match=message):
        grid(vary)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = plan_of(["Pendulum-v1", "MountainCarContinuous-v0"], (3, 1), {"tau": [0.1, 0.2]}, env_kwargs=None)
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan
    jobs = plan.jobs(tmp_path)
    assert len({job.name for job in jobs}) == len(jobs) == 8
    assert [job.seed for job in jobs] == [3] * 4 + [1] * 4  # first all of one seed
    assert jobs[0].run == tmp_path / "runs" / "Pendulum-v1" / "tau=0.1" / "seed3"
    assert plan_of().jobs(tmp_path)[0].run == tmp_path / "runs" / "Pendulum-v1" / "seed0"
    assert jobs[1].config["tau"] == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "each of them once"),
        ({"seeds": (-1,)}, "seed must be"),
        ({"configs": {}}, "needs an environment"),
        ({"episodes": 0}, "episodes"),
        ({"variants": {"a": {"tau": 2}}}, "tau must be"),
        ({"variants": {"a": {"evaluate_every": 0}}}, "no evaluation"),
        ({"variants": {"a": {"evaluate_every": 241}}}, "no evaluation"),
        ({"variants": {"a?": {}, "a!": {}}}, "same directory"),
    ],
)
def test_plans_that_make_no_sense(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(plan_of(), **changes)


def test_long_names_stay_different(tmp_path):
    variants = {"x" * 200 + end: {} for end in "ab"}
    names = [job.run.parent.name for job in replace(plan_of(), variants=variants).jobs(tmp_path)]
    assert len(set(names)) == 2
    assert all(len(name) <= 100 for name in names)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 99}', '{"version": 1, "envs": {"a": {"tau": 7}}}'])
def test_a_damaged_plan_is_named(tmp_path, content):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(RunError, match="study.json is damaged"):
        Study(tmp_path)


def test_where_no_study_is(tmp_path):
    with pytest.raises(RunError, match="is not a study"):
        Study(tmp_path / "nowhere")
    names = numbered(["a/b", "c"])
    assert [str(next(names)) for _ in range(2)] == ["studies/a-b+c", "studies/a-b+c-2"]


# --- one job ----------------------------------------------------------------------------------------------------------


def test_a_job_is_made_once(tmp_path):
    (job,) = made(tmp_path / "s", plan_of())
    record = run_job(job)
    assert record["state"] == "done"
    before = {path: path.stat().st_mtime_ns for path in job.run.rglob("*")}
    assert run_job(job) == record == read_record(job)
    assert {path: path.stat().st_mtime_ns for path in job.run.rglob("*")} == before
    assert not list((tmp_path / "s" / "running").iterdir())
    assert_as_trained(job, tmp_path)


def test_what_is_kept_of_a_run(tmp_path):
    (job,) = made(tmp_path / "s", plan_of(config={"steps": 360, "learning_starts": 20, "evaluate_every": 30}))
    record = run_job(job)
    means = [row["mean"] for row in minddpg.runs.tables.load_table(job.run, "eval").as_rows()]
    assert len(means) == record["evaluations"] == 12
    assert record["last10"] == pytest.approx(np.mean(means[2:]))
    assert record["best"] == max(means)
    assert record["best_step"] == 30 * (1 + int(np.argmax(means)))
    for name, agent in (("final", minddpg.load(job.run)), ("best_agent", minddpg.load(job.run, best=True))):
        assert record[name] == minddpg.evaluate(agent, job.env, 2, 10_000).mean()
    assert (record["planned"], record["steps"], record["episodes"], record["seed"]) == (360, 360, 2, 0)
    assert record["versions"]["numpy"] == np.__version__
    assert record["seconds"] > 0


def test_a_job_goes_on_from_where_it_was_stopped(tmp_path):
    (job,) = made(tmp_path / "s", plan_of())
    stop = minddpg.training.Stop()

    def stop_at(step, history):
        stop.number = signal.SIGTERM if step == 210 else None

    result = minddpg.train(job.env, Config.from_dict(job.config), seed=0, out=job.run, progress=stop_at, stop=stop)
    assert (result.interrupted, result.steps) == (True, 210)
    assert run_job(job)["steps"] == 240
    assert_as_trained(job, tmp_path)


def test_a_job_asked_to_stop_saves_what_it_has(tmp_path):
    (job,) = made(tmp_path / "s", plan_of())
    job.stop.touch()
    assert run_job(job) == {"state": "stopped"}
    assert read_record(job) is None
    assert minddpg.runs.directory.steps_made(job.run) > 0
    job.stop.unlink()
    assert run_job(job)["state"] == "done"
    assert_as_trained(job, tmp_path)


def test_two_who_make_one_job_make_it_once(tmp_path, monkeypatch):
    """As where a cluster takes a worker for dead that only was not heard of: the second waits for the first."""
    monkeypatch.setattr(study.jobs, "ASKED_AGAIN", 0.01)
    (job,) = made(tmp_path / "s", plan_of())
    with ThreadPoolExecutor(3) as threads:
        records = [future.result() for future in [threads.submit(run_job, job) for _ in range(3)]]
    assert records[0]["state"] == "done"
    assert records[1] == records[2] == records[0]
    assert_as_trained(job, tmp_path)


def test_another_run_in_its_place_is_left_alone(tmp_path):
    (job,) = made(tmp_path / "s", plan_of())
    minddpg.train("Pendulum-v1", {**QUICK, "tau": 0.5}, seed=0, out=job.run, progress=False)
    before = files(job.run)
    record = run_job(job)
    assert record["state"] == "failed"
    assert "is not the run that the study asks for" in record["error"]
    assert_equal_files(files(job.run), before)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": "done"}', b'{"state": 3}', b"\xff"])
def test_a_record_that_is_none_is_made_again(tmp_path, content):
    (job,) = made(tmp_path / "s", plan_of())
    job.record.parent.mkdir(parents=True)
    job.record.write_bytes(content)
    assert read_record(job) is None
    job.record.write_text(json.dumps({"state": "done", "planned": 240, "episodes": 2}))
    assert read_record(job)
    assert read_record(replace(job, episodes=3)) is None
    assert read_record(replace(job, config={**job.config, "steps": 300})) is None


# --- all of them ------------------------------------------------------------------------------------------------------


def test_a_process_that_dies_takes_nothing_down(tmp_path, fatal):
    """One of two is killed once, goes on from its checkpoint, and leaves the same files; the other is not disturbed."""
    kwargs = {"at": 220, "once": str(tmp_path / "died")}
    said = []
    made_study = study.run(
        "s", fatal, 2, {**QUICK, "steps": 400}, env_kwargs=kwargs, episodes=1, workers=2, checkpoint_every=0.01,
        say=said.append,
    )  # fmt: skip
    assert (tmp_path / "died").exists()
    assert [text for text in said if "SIGKILL" in text and "it goes on from its last checkpoint" in text] == said
    assert len(said) == 1
    assert made_study.failed == []
    for job in made_study.jobs:
        assert_as_trained(job, tmp_path)
    assert not (tmp_path / "s" / "running").exists()


def test_what_always_dies_or_fails_is_listed_and_the_rest_is_made(tmp_path, fatal):
    """Seeds of one study cannot differ in what their environment does, so the plan's jobs are changed."""
    path = tmp_path / "s"
    jobs = made(path, plan_of(fatal, (0, 1, 2)))
    dies, fails = replace(jobs[0], env_kwargs={"at": 100}), replace(jobs[1], env_kwargs={"at": 150, "how": "fail"})
    said = []
    with leading(path), processes(2, path) as executor:
        state = lead(path, [dies, fails, jobs[2]], executor, say=said.append)
    assert [job.seed for job in state.over("done")] == [2]
    assert [job.seed for job in state.over("failed")] == [0, 1]
    assert "given up" in state.records[dies.name]["error"]
    assert "SIGKILL" in state.records[dies.name]["error"]
    assert "ZeroDivisionError: of its own" in state.records[fails.name]["error"]
    assert sum("SIGKILL" in text for text in said) == study.leading.TRIES
    assert sum("ZeroDivisionError" in text for text in said) == 1  # the same would happen again
    found = Study(path)
    assert [why for _, why in found.failed] == [state.records[fails.name]["error"]]
    assert len(found.scores(fatal, "")) == 1


class Once(Executor):
    """Makes a job at once, in this thread; in the middle of the `at`-th one a signal comes."""

    def __init__(self, at, number):
        self.at, self.number, self.calls = at, number, 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        future = Future()
        if self.calls == self.at:
            os.kill(os.getpid(), self.number)
        if self.calls > self.at:
            return future  # waits
        future.set_result(fn(*args, **kwargs))
        return future


def test_a_signal_stops_a_study_which_goes_on_later(tmp_path):
    path = tmp_path / "s"
    jobs = made(path, plan_of(seeds=(0, 1, 2)))
    said = []
    with leading(path):
        state = lead(path, jobs, Once(2, signal.SIGINT), say=said.append)
    assert state.signal == signal.SIGINT
    assert [job.seed for job in state.over("done")] == [0, 1]
    assert "a second Ctrl-C" in said[0]
    with leading(path), ThreadPoolExecutor(1) as threads:
        state = lead(path, jobs, threads)
    assert (state.signal, len(state.over("done"))) == (None, 3)


def test_jobs_that_run_stop_at_a_signal(tmp_path, fatal):
    """In a process, in the middle of a run; the study that goes on ends with the same files."""
    path, slow = tmp_path / "s", tmp_path / "slow"
    slow.touch()
    jobs = made(path, plan_of(fatal, (0, 1), config={"steps": 900}, env_kwargs={"how": "slow", "once": str(slow)}))
    sent = []

    def interrupt(state):
        if not sent and any("step" in marker for marker in state.running.values()):
            sent.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    with leading(path), processes(1, path) as executor:
        state = lead(path, jobs, executor, interrupt)
    assert (state.signal, state.records) == (signal.SIGTERM, {})
    assert 0 < minddpg.runs.directory.steps_made(jobs[0].run) < 900
    assert not jobs[1].run.exists()
    slow.unlink()
    with leading(path), processes(2, path) as executor:
        state = lead(path, jobs, executor)
    assert len(state.over("done")) == 2
    assert_as_trained(jobs[0], tmp_path)


def test_one_process_leads_a_study(tmp_path):
    with leading(tmp_path), pytest.raises(RunError, match="in use"), leading(tmp_path):
        pass


def test_any_executor_makes_the_same_runs(tmp_path):
    """Threads beside each other, and the default processes."""
    with ThreadPoolExecutor(2) as threads:
        one = study.run("threads", "Pendulum-v1", 2, QUICK, episodes=1, executor=threads)
    other = study.run("processes", "Pendulum-v1", 2, QUICK, episodes=1, workers=2)
    for mine, its in zip(one.jobs, other.jobs, strict=True):
        assert_equal_files(files(mine.run), files(its.run))
    assert one.table() == other.table()


def test_a_study_goes_on_as_it_was_planned_with_more_seeds(tmp_path):
    def in_this_thread():
        return Once(99, 0)

    first = study.run("s", "Pendulum-v1", 1, QUICK, episodes=1, executor=in_this_thread())
    again = in_this_thread()
    assert study.run("s", executor=again).records == first.records
    assert again.calls == 0
    more = in_this_thread()
    second = study.run("s", "Pendulum-v1", [0, 7], QUICK, episodes=1, executor=more)
    assert more.calls == 1
    assert second.plan.seeds == (0, 7)
    with pytest.raises(ConfigError, match="a study of something else"):
        study.run("s", "Pendulum-v1", 1, {**QUICK, "tau": 0.5}, episodes=1)
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match="exists; choose another --out, or remove it"):
        study.run("other", "Pendulum-v1", 1, QUICK)
    with pytest.raises(EnvError, match="CartPole"):
        study.run("third", "CartPole-v1")
    assert not (tmp_path / "third").exists()


def test_an_executor_that_breaks_is_no_end(tmp_path):
    path = tmp_path / "s"
    jobs = made(path, plan_of(seeds=(0, 1)))
    with ThreadPoolExecutor(1) as threads:
        pass
    with leading(path):
        state = lead(path, jobs, threads)
    assert [record["state"] for record in state.records.values()] == ["failed"] * 2
    assert "takes no more jobs" in state.records[jobs[0].name]["error"]


# --- processes --------------------------------------------------------------------------------------------------------


def test_processes_do_what_executors_do(tmp_path):
    with Processes(2, tmp_path / "output.txt") as executor:
        assert list(executor.map(divmod, [7, 9], [2, 4])) == [(3, 1), (2, 1)]
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result()
        environment = executor.submit(os.getenv, "OMP_NUM_THREADS").result()
        assert environment == "1"
        died = executor.submit(os._exit, 3)
        with pytest.raises(ProcessDied, match="exit status 3"):
            died.result()
        assert executor.submit(divmod, 7, 2).result() == (3, 1)
        executor.submit(print, "said by an environment", flush=True).result()
        executor.submit(os.write, 1, b"to the descriptor\n").result()
    assert executor.pids() == []
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(divmod, 1, 1)
    assert (tmp_path / "output.txt").read_text() == "said by an environment\nto the descriptor\n"


def test_killed_processes_end_their_jobs():
    executor = Processes(1)
    sleeps, waits = executor.submit(time.sleep, 60), executor.submit(time.sleep, 60)
    while not executor.pids():
        time.sleep(0.01)
    executor.kill()
    with pytest.raises(ProcessDied, match="SIGKILL, perhaps for want of memory"):
        sleeps.result(10)
    assert waits.cancelled()
    assert threading.active_count() < 20


LEADER = """
import sys
from minddpg import study

study.run("s", "Pendulum-v1", 1, {config}, workers=1, checkpoint_every=1)
"""


@pytest.mark.slow
def test_where_the_leader_is_killed_its_runs_save_and_end(tmp_path):
    """And a script needs no guard around what it does."""
    (tmp_path / "leader.py").write_text(LEADER.replace("{config}", repr({**QUICK, "steps": 100_000})))
    leader = subprocess.Popen([sys.executable, "leader.py"], env=clean_environment())
    markers = tmp_path / "s" / "running"
    deadline, marker = time.monotonic() + 60, {}
    while "step" not in marker and time.monotonic() < deadline:
        time.sleep(0.1)
        marker = next(iter(study.leading.read_markers(tmp_path / "s").values()), {})
    leader.kill()
    leader.wait()
    while markers.exists() and list(markers.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(markers.iterdir()) == []
    run = Study(tmp_path / "s").jobs[0].run
    assert minddpg.runs.directory.steps_made(run) >= marker["step"]


# --- results ----------------------------------------------------------------------------------------------------------


def test_scores_and_their_statistics(tmp_path):
    found = fake_study(tmp_path / "s", seeds=4, vary={"tau": [0.01, 0.02]}, missing=(3,), failed=(6,))
    np.testing.assert_array_equal(found.scores("Pendulum-v1", "tau=0.01", "final"), [995, 1005, 1015])
    np.testing.assert_array_equal(found.scores("Pendulum-v1", "tau=0.02", "final"), [1095, 1115, 1125])
    one = found.summary("Pendulum-v1", "tau=0.01", "final")
    assert (one.asked, one.iqm.value, one.mean.value, one.median.value) == (4, 1005, 1005, 1005)
    assert 995 <= one.iqm.low < 1005 < one.iqm.high <= 1015
    assert [job.seed for job, _ in found.failed] == [3]
    assert found.improvement("tau=0.02", "tau=0.01").value == 1
    with pytest.raises(ConfigError, match="no measure 'worst'"):
        found.scores("Pendulum-v1", "tau=0.01", "worst")


def test_the_best_variant(tmp_path):
    best = fake_study(tmp_path / "s", vary={"tau": [0.01, 0.03, 0.02]}, rises=-40.0).best("Pendulum-v1")
    assert (best.best.variant, best.second.variant) == ("tau=0.01", "tau=0.03")
    assert best.chance.value == 1
    with pytest.raises(ConfigError, match="nothing varies"):
        fake_study(tmp_path / "plain").best("Pendulum-v1")
    with pytest.raises(RunError, match="is done yet"):
        fake_study(tmp_path / "none", seeds=1, vary={"tau": [0.01, 0.02]}, missing=(0, 1)).best("Pendulum-v1")
    alone = fake_study(tmp_path / "one", seeds=1, vary={"tau": [0.01, 0.02]}, missing=(0,)).best("Pendulum-v1")
    assert (alone.best.variant, alone.second) == ("tau=0.02", None)


def test_over_environments_only_the_probability_is_averaged(tmp_path):
    found = fake_study(tmp_path / "s", ("A-v0", "B-v0"), 2, {"tau": [0.01, 0.02]}, rises=5.0)
    assert found.improvement("tau=0.02", "tau=0.01", "final", "A-v0").value == 0.75  # 0, 10 against 5, 15
    assert found.improvement("tau=0.02", "tau=0.01", "final").value == 0.75


def test_curves_stand_at_the_steps_that_all_have(tmp_path):
    found = fake_study(tmp_path / "s", seeds=3)
    table = found.jobs[1].run / "eval.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if not line.startswith("5000,")))
    steps, curves = found.curves("Pendulum-v1", "")
    assert curves.shape == (3, 19)
    assert 5_000 not in steps
    level = 1 - np.exp(-20_000 / 4_000)
    np.testing.assert_allclose(curves[:, -1], [1_000 * level, 1_010 * level, 1_020 * level])


def test_the_table_says_how_many_runs_there_are(tmp_path):
    text = fake_study(tmp_path / "s", seeds=4, failed=(1,), missing=(2,)).table(["final"])
    lines = text.splitlines()
    assert lines[0] == "final: the last agent, over 100 episodes from starts of their own"
    assert lines[2].split() == ["Pendulum-v1", "2", "of", "4", "1,010.0", "[995.0,", "1,025.0]", "1,010.0", "[995.0,",
                                "1,025.0]", "1,010.0", "995.0", "1,025.0"]  # fmt: skip
    assert len({len(line) for line in lines[1:3]}) == 1
    assert "With 2 of a kind, the intervals are too narrow" in lines[-1]
    assert "too narrow" not in fake_study(tmp_path / "many", seeds=5).table()
    nothing = fake_study(tmp_path / "none", seeds=1, missing=(0,)).table(["final"])
    assert "0 of 1" in nothing


def test_tables_for_others(tmp_path):
    import csv

    found = fake_study(tmp_path / "s", seeds=3, failed=(1,), missing=(2,))
    results, curves = found.write_tables()
    with open(results, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done", "failed", "to do"]
    assert (rows[0]["last10"], rows[0]["cpu"]) == (str(found.scores("Pendulum-v1", "")[0]), "an abacus")
    assert rows[0]["versions"] == "minddpg 0.1.0 numpy 2.4.6"
    assert rows[1]["error"] == "it was not to be"
    assert rows[2]["last10"] == ""
    with open(curves, newline="") as file:
        assert len(list(csv.DictReader(file))) == 20
