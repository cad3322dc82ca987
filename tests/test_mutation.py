"""scripts/mutation.py: which faults it plants, and which tests meet them. (To plant them all takes hours.)"""

import ast
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutation.py"
PACKAGE = SCRIPT.parents[1] / "minddpg"
spec = importlib.util.spec_from_file_location("mutation", SCRIPT)
mutation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutation)

SOURCE = '''"""Doc -1."""
@jit(cache=True)
def f(x: Literal[1], y=0.5) -> Literal[2]:
    """Doc -2."""
    if y <= 0 and not x:
        raise ValueError("y must be > 0 and not " + f"{y + 1}")
    x += 2; µ = g(x, -y)  # café
    return x if y else [x, True]
'''
CHANGES = """
3: def f(x: Literal[1], y=[-0.5-]{+1.0+}) -> Literal[2]:
5: [-if y <= 0 and not x:-]{+pass+}
5: if [-y <= 0 and not x-]{+y <= 0 or not x+}:
5: if [-y <= 0-]{+y < 0+} and not x:
5: if [-y <= 0-]{+y > 0+} and not x:
5: if y <= [-0-]{+1+} and not x:
5: if y <= 0 and [-not x-]{+x+}:
6: [-raise ValueError("y must be > 0 and not " + f"{y + 1}")-]{+pass+}
7: [-x += 2-]{+pass+}; µ = g(x, -y) # café
7: [-x += 2-]{+x -= 2+}; µ = g(x, -y) # café
7: x += [-2-]{+3+}; µ = g(x, -y) # café
7: x += [-2-]{+1+}; µ = g(x, -y) # café
7: x += 2; [-µ = g(x, -y)-]{+pass+} # café
7: x += 2; µ = [-g(x, -y)-]{+g(-y, x)+} # café
7: x += 2; µ = [-g(x, -y)-]{+g(x)+} # café
7: x += 2; µ = [-g(x, -y)-]{+x+} # café
7: x += 2; µ = g(x, [--y-]{+y+}) # café
8: return [-x if y else [x, True]-]{+[x, True] if y else x+}
8: return x if y else [x, [-True-]{+False+}]
"""
MORE = {  # a statement, and what is made of it
    "h(a=x, b=y)": ["pass", "h(a=y, b=x)", "h(b=y)", "h(a=x)"],
    "z = x[a:b]": ["pass", "a + 1:b", "a:b - 1"],
    "z = min(x, y)": ["pass", "min(y, x)", "min(x)", "x", "max(x, y)"],
    "z = [i for i in range(n)]": ["pass", "n", "range(n - 1)"],
    "z = x.copy()": ["pass", "x"],
    "h(a=x, help=y, metavar=z)": ["pass", "h(help=y, metavar=z)"],  # texts for people are left alone
    "z = needs_both(x, y)": ["pass", "needs_both(y, x)", "x"],
    "while x:\n    break": ["pass"],
}


def test_mutants_by_hand():
    found = mutation.mutants("any", SOURCE)
    assert [f"{mutant.line}: {mutant.change}" for mutant in found] == CHANGES.strip().splitlines()
    assert len({mutant.key for mutant in found} | {mutation.Mutant("any", 0, "", SOURCE).key}) == len(found) + 1
    for mutant in found:
        compile(mutant.source, "mutant", "exec")
        if "{+pass+}" not in mutant.change:
            rows = zip(SOURCE.splitlines(), mutant.source.splitlines(), strict=True)
            assert [i for i, (one, other) in enumerate(rows, 1) if one != other] == [mutant.line]
        assert mutant.statement[0] <= mutant.line <= mutant.statement[1]
        assert mutant.scope == (3, 8)
    assert "µ = (g(-y, x))  # café" in found[13].source


@pytest.mark.parametrize(("statement", "made"), MORE.items())
def test_calls_arguments_and_boundaries(statement, made):
    found = mutation.mutants("any", statement + "\n", lambda name, position: (name, position) == ("needs_both", 1))
    assert sorted(mutant.change.partition("{+")[2].partition("+}")[0] for mutant in found) == sorted(made)
    for mutant in found:
        compile(mutant.source, "mutant", "exec")


def test_a_function_of_the_package_is_never_left_without_what_it_needs():
    needed = mutation.defaults_of(SCRIPT.parents[1])
    assert needed("critic_gradient", 4)
    assert needed("GaussianNoise", 2)  # behind self
    assert not needed("OrnsteinUhlenbeckNoise", 3)
    assert not needed("zeros", 1)


def test_a_sample_is_the_same_wherever_lines_move():
    jobs = mutation.mutants("runs/any", SOURCE) + mutation.mutants("other", SOURCE)
    some = mutation.sampled(jobs, 5)
    assert [mutant.folder for mutant in some] == ["runs"] * 5 + ["minddpg"] * 5
    moved = mutation.sampled(mutation.mutants("runs/any", "\n" + SOURCE), 5)
    assert [mutant.change for mutant in moved] == [mutant.change for mutant in some[:5]]
    assert mutation.sampled(jobs, 100) == jobs


def test_a_mutant_meets_the_tests_that_run_through_its_line(tmp_path):
    """Quickest first, as many as fit; those through the function around it, where the line runs at import alone."""
    results = mutation.Results(tmp_path / "results.json")
    results.coverage = {
        "tests/test_noise.py": {"tests": {
            "tests/test_noise.py::slow": [5.0, {"any": [5, 7]}],
            "tests/test_noise.py::quick": [1.0, {"any": [7, 8]}],
            "tests/test_noise.py::other": [0.1, {"else": [7]}],
        }},
    }  # fmt: skip
    tests = mutation.Tests(results, 5.5, ["noise"])
    tests.index()
    by_line = {mutant.line: tests.of(mutant) for mutant in mutation.mutants("any", SOURCE)}
    slow, quick = "tests/test_noise.py::slow", "tests/test_noise.py::quick"
    assert by_line == {3: [quick], 5: [slow], 6: [quick], 7: [quick], 8: [quick]}
    tests.budget = 6
    assert tests.of(mutation.mutants("any", SOURCE)[-3]) == [quick, slow]
    results.save()
    assert mutation.Results(tmp_path / "results.json").coverage == results.coverage


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of a fork beside threads
def test_what_ends_crashes_or_hangs_is_told_apart(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file.py").write_text("as it is")
    monkeypatch.setattr(mutation, "ROOT", tmp_path / "root")

    def spin():
        signal.setitimer(signal.ITIMER_PROF, 0.05)
        while True:
            pass

    kinds = {
        "answers": lambda: [Path("file.py").read_text()],
        "crashes": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "spins": spin,
        "hangs": lambda: time.sleep(100),
        "leaves a process": lambda: subprocess.Popen(["sleep", "100"]).pid,
    }
    found = {}

    def tasks():
        for name, work in kinds.items():
            yield mutation.Task(
                lambda directory: (directory / "file.py").write_text("spoilt"),
                work,
                lambda result, late, name=name: found.update({name: (result, late)}),
                lambda directory: (directory / "file.py").write_text("as it is"),
                1.0 if name == "hangs" else 60.0,
            )

    workers = [mutation.Worker(tmp_path / str(number)) for number in range(2)]
    assert mutation.work_through(tasks(), workers, time.monotonic() + 60)
    pid, _ = found.pop("leaves a process")
    assert found == {
        "answers": (["spoilt"], False), "crashes": (None, False), "spins": (None, True), "hangs": (None, True)
    }  # fmt: skip
    assert [(worker.directory / "file.py").read_text() for worker in workers] == ["as it is"] * 2
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert not mutation.work_through(tasks(), workers, time.monotonic() - 100)


def test_the_equivalent_mutants_still_exist():
    modules = mutation.modules_of(SCRIPT.parents[1])
    lines = [line for line in mutation.EQUIVALENTS.read_text().splitlines() if not line.startswith(" ")]
    listed = [line for line in lines if line.partition(":")[0] in modules]
    assert len(listed) == sum(": " in line for line in lines[1:])  # behind the heading, nothing of other files
    needed = mutation.defaults_of(SCRIPT.parents[1])
    existing = {f"{m.module}: {m.change}" for name in {line.partition(":")[0] for line in listed}
                for m in mutation.mutants(name, (PACKAGE / f"{name}.py").read_text(), needed)}  # fmt: skip
    assert listed
    assert [line for line in listed if line not in existing] == []


def test_pictures_and_terminal_output_are_left_out():
    modules = mutation.modules_of(SCRIPT.parents[1])
    assert {"layers", "fast/matmul", "runs/tables", "cli/train", "gradcheck/checker"} <= set(modules)
    assert not {"gradflow/pictures", "cli/plot", "progress"} & set(modules)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nets"], "no minddpg/nets.py"),
        (["--folder", "nets"], "no folder nets"),
        (["--tests", "nets"], "no tests/test_nets.py"),
        (["seeds", "--results", str(SCRIPT.with_name("results.json"))], "inside the checkout"),
        (["seeds", "--results", "here/results.json"], "no directory here"),
        (["seeds", "--results", "old.json"], "does not hold results"),
    ],
)
def test_bad_input_is_named(monkeypatch, capsys, tmp_path, arguments, message):
    (tmp_path / "old.json").write_text(json.dumps({"rows": {"key": {"module": "layers"}}}))
    monkeypatch.setattr(sys, "argv", ["mutation.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        mutation.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_lines_that_exist_only_compiled_have_tests_that_run_so():
    """Named as they are: each beginning is that of some test of the file."""
    root, whole = SCRIPT.parents[1], mutation.Place((0, 0), (0, 0), False)
    trees = {name: ast.parse((PACKAGE / f"{name}.py").read_text()) for name in mutation.modules_of(root)}
    with_compiled = {
        name for name, tree in trees.items() if any(place.compiled for _, place in mutation.mutable(tree, whole))
    }
    assert with_compiled
    assert with_compiled <= mutation.COMPILED.keys()
    for beginnings in mutation.COMPILED.values():
        for beginning in beginnings:
            file, _, test = beginning.partition("::")
            assert f"\ndef {test or 'test_'}" in (root / "tests" / f"test_{file}").read_text()


def test_a_survivor_of_a_file_with_compiled_lines_is_tested_compiled_once():
    jobs = mutation.mutants("fast/parts", "x = 1\ny = 2\n") + mutation.mutants("layers", "x = 3\n")
    rows = {mutant.key: {"outcome": "survived", "compiled": False} for mutant in jobs}
    again = mutation.survivors_compiled(jobs, rows)
    assert [mutant.module for mutant in again] == ["fast/parts"] * 6
    assert all(mutant.compiled for mutant in again)
    assert [mutant.key for mutant in again] == [mutant.key for mutant in jobs[:6]]
    rows[again[0].key]["compiled"] = True
    rows[again[1].key]["outcome"] = "killed"
    assert mutation.survivors_compiled(jobs, rows) == again[2:]


def test_compiled_tests_run_in_the_order_of_their_beginnings():
    items = [
        SimpleNamespace(nodeid=f"tests/test_{name}") for name in ("x.py::test_b", "x.py::test_a[1]", "y.py::test_b")
    ]
    plugin = mutation.Plugin()
    plugin.compiled = ["tests/test_x.py::test_a", "tests/test_x.py"]
    plugin.pytest_collection_modifyitems(None, items)
    assert [item.nodeid for item in items] == ["tests/test_x.py::test_a[1]", "tests/test_x.py::test_b"]


def test_the_interval_holds_the_shares_that_the_sample_does_not_speak_against():
    """Wilson's ends are those p for which the share of the sample is 1.96 standard deviations away."""
    for part, whole in ((0, 7), (3, 7), (40, 40), (57, 60), (1, 1)):
        for end in mutation.wilson(part, whole):
            if 1e-9 < end < 1 - 1e-9:
                assert abs(part / whole - end) == pytest.approx(1.959964 * (end * (1 - end) / whole) ** 0.5)
        low, high = mutation.wilson(part, whole)
        assert low <= part / whole <= high
        assert (low == pytest.approx(0), high == pytest.approx(1)) == (part == 0, part == whole)
    assert mutation.wilson(0, 0) == (0, 1)


def test_the_report_counts_by_folder(capsys):
    jobs = mutation.mutants("runs/any", "x = 1\ny = 2\n") + mutation.mutants("layers", "x = 3\n")
    outcomes = ["killed", "timeout", "survived", "survived", "killed", "killed", "killed", "killed"]
    rows = {mutant.key: {"outcome": outcome} for mutant, outcome in zip(jobs, outcomes, strict=False)}
    status = mutation.report(jobs, rows, f"runs/any: {jobs[3].change}\n", Counter({"runs": 600, "minddpg": 30}), False)
    assert status == 1
    printed = capsys.readouterr().out
    assert f"survived: minddpg/runs/any.py:{jobs[2].line}: {jobs[2].change}\n" in printed
    assert f"equivalent: minddpg/runs/any.py:{jobs[3].line}: {jobs[3].change}\n" in printed
    table = {row.split()[0]: row.split()[1:] for row in printed.splitlines() if " %" in row}
    assert " ".join(table["runs"]) == "600 6 3 1 1 1 80.0 % 38 - 96 %"
    assert " ".join(table["minddpg"]) == "30 2 2 0 0 0 100.0 % 34 - 100 %"
    assert " ".join(table["all"]) == "630 8 5 1 1 1 85.7 %"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_being_stopped_for_a_while_is_no_timeout(tmp_path, monkeypatch):
    """The clock jumps by an hour while a fork works, as it does for a process that is stopped and goes on."""
    (tmp_path / "root").mkdir()
    monkeypatch.setattr(mutation, "ROOT", tmp_path / "root")
    jump, clock = [0.0], time.monotonic
    monkeypatch.setattr(mutation.time, "monotonic", lambda: clock() + jump[0])
    real, found = mutation.select.select, []

    def stopped(*arguments):
        ready = real(*arguments)
        jump[0] = 3600.0
        return ready

    monkeypatch.setattr(mutation.select, "select", stopped)
    task = mutation.Task(mutation._nothing, lambda: time.sleep(0.5) or "made", lambda *out: found.append(out),
                         mutation._nothing, 60.0)  # fmt: skip
    mutation.work_through(iter([task]), [mutation.Worker(tmp_path / "worker")], clock() + 7200)
    assert found == [("made", False)]
