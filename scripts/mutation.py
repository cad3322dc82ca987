"""How good are the tests? Plant one small fault after another in the package and count those that no test notices.

    python scripts/mutation.py [MODULE ...] [--folder NAME ...] [--sample N] [--minutes M]

A MODULE is `layers` or `runs/tables`; without one, the whole package except pictures and terminal output. Each mutant
is the package with one change: + for -, <= for <, 1 for 0, a range, slice or min moved, two arguments exchanged, an
argument left to its default, a call replaced by its argument, a `not` dropped, a statement or a whole `if` left out.
The tests that run through the changed line run on it, quickest first, until one fails: then it is killed. What survives
is printed with its line, old text in [-...-] and new in {+...+}. It is a gap in the tests, or it is equivalent: no
input shows the change, or none that matters. Those found to be so are in mutation_equivalents.txt with the reason, and
are counted apart. Docstrings, annotations, error messages and the texts of --help are left alone.

Which test runs through which line is found out once, by running the suite under coverage. NumPy and the like are
imported once; every mutant is a fork of that process, in a copy of the checkout, without the JIT; lines that exist only
compiled are tested compiled, and so are survivors in files that have such lines. A mutant that survives --budget
seconds of tests survives. All cores work, for a day for the whole package; --sample N tells nearly as much in an hour
or two. What is found is kept in a file (--results), and the next run makes only what is missing, which is every mutant
of a file that was edited, and the survivors whose tests were. It may be stopped for a while (kill -STOP) or for good.
The score is of those that are not equivalent, with the 95 % interval by Wilson of what the whole folder's would be. Not
part of CI.

Exit status: 0 nothing survived that is not equivalent, 1 something did, 2 bad input or tests that fail as they are,
3 stopped after --minutes with mutants left: run it again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.txt")
LEFT_OUT = ("__main__", "progress", "video", "cli/plot", "cli/terminal", "study/board", "study/pictures",
            "gradflow/canvas", "gradflow/flow_picture", "gradflow/pictures", "gradflow/report")  # fmt: skip
ELSEWHERE = ("test_planted", "test_planted_properties", "test_mutation", "test_readme", "test_benchmark",
             "test_packaging")  # fmt: skip  # not of the package
COMPILED = {  # files with lines that exist only compiled: how the names of the tests begin that run so, in this order
    "fast/matmul": ["matmul.py::test_every", "matmul.py::test_the_", "matmul.py::test_any", "matmul.py::test_what"],
    "fast/jit": ["jit.py", "layers.py", "cache_properties.py"],
    "fast/parts": ["jit.py", "layers.py", "matmul.py::test_every"],
    "fast/threads": ["threads.py::test_every", "threads.py::test_helpers", "threads.py::test_large", "threads.py"],
    "fast/cache": [
        "cache_properties.py",
        "cache.py::test_a_",
        "cache.py::test_an",
        "cache.py::test_r",
        "cache.py::test_k",
    ],
}
COMPILED_SECONDS = 60  # of CPU that one of them takes at most
COMPILED_TIMEOUT = 300  # seconds for all of them
MEMORY = 8 << 30  # bytes of address space: a mutant may ask for any amount
FIRST = 4  # tests to run before the others are even imported

SWAPS: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult], ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult], ast.Pow: [ast.Mult], ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd], ast.BitXor: [ast.BitOr],
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In], ast.And: [ast.Or], ast.Or: [ast.And],
}  # fmt: skip
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax", "argmax": "argmin"}

Lines = tuple[int, int]  # first and last


class Mutant(NamedTuple):
    """A module with one change: the line number, that line with old and new text marked, the whole source.

    statement, scope: the lines of the statement and of the function or class around it.
    """

    module: str
    line: int
    change: str
    source: str
    statement: Lines = (0, 0)
    scope: Lines = (0, 0)
    compiled: bool = False

    @property
    def key(self) -> str:
        """The same for the same change to the same source, and for nothing else."""
        return digest(f"{self.module}\n{self.source}".encode())

    @property
    def folder(self) -> str:
        """Of the package; "minddpg" for the files that lie flat in it."""
        return folder_of(self.module)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def folder_of(module: str) -> str:
    return module.rpartition("/")[0] or "minddpg"


# --- mutants ----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a node stands."""

    statement: Lines
    scope: Lines
    compiled: bool


def mutable(node: ast.AST, place: Place) -> Iterator[tuple[ast.AST, Place]]:
    """The node and all below it, without annotations, decorators, formatted text and what a `raise` says."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or 0
        place = place._replace(statement=(node.lineno, last))
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        place = place._replace(scope=(node.lineno, node.end_lineno or 0))
    yield node, place
    if isinstance(node, (ast.Raise, ast.JoinedStr)):
        return
    for name, value in ast.iter_fields(node):
        inside = place
        if isinstance(node, ast.If) and name == "body" and "not numba.config.DISABLE_JIT" in ast.unparse(node.test):
            inside = place._replace(compiled=True)
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from mutable(child, inside)


def variants(node: ast.AST, needed: Callable[[str, int], bool] = lambda name, position: False) -> Iterator[ast.AST]:
    """What may stand in the place of one node. needed: whether a function has no default for its i-th argument."""

    def but(**fields: Any) -> ast.AST:
        changed = copy.copy(node)
        for name, value in fields.items():
            setattr(changed, name, value)
        return changed

    match node:
        case ast.Expr(ast.Constant()):
            return  # a docstring
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.Raise() | ast.AnnAssign(value=ast.expr()):
            yield ast.Pass()
        case ast.If(orelse=[]) | ast.Continue() | ast.Break() | ast.Delete() | ast.Return(value=None):
            yield ast.Pass()
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            yield from (but(op=other()) for other in SWAPS.get(type(op), []))
        case ast.Compare(ops=ops):
            for i, comparison in enumerate(ops):
                yield from (but(ops=[*ops[:i], other(), *ops[i + 1 :]]) for other in SWAPS[type(comparison)])
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node.operand
        case ast.IfExp(body=body, orelse=orelse):
            yield but(body=orelse, orelse=body)
        case ast.Constant(value=bool(value)):
            yield but(value=not value)
        case ast.Constant(value=int(value)):
            yield from (but(value=other) for other in (value + 1, value - 1) if other >= 0)
        case ast.Constant(value=float(value)):
            yield but(value=2 * value or 1.0)
        case ast.Slice(lower=lower, upper=upper):
            if lower and not isinstance(lower, ast.Constant):  # a constant is moved anyway
                yield but(lower=ast.BinOp(lower, ast.Add(), ast.Constant(1)))
            if upper and not isinstance(upper, ast.Constant):
                yield but(upper=ast.BinOp(upper, ast.Sub(), ast.Constant(1)))
        case ast.Call(func=function, args=args, keywords=keywords):
            name = getattr(function, "attr", getattr(function, "id", ""))
            plain = not any(isinstance(arg, ast.Starred) for arg in args)
            for i in range(len(args) - 1):
                yield but(args=[*args[:i], args[i + 1], args[i], *args[i + 2 :]])
            read = [keyword.arg in ("help", "metavar") for keyword in keywords]  # by people
            for i in range(len(keywords) - 1):
                if any(read[i : i + 2]):
                    continue
                pair = [copy.copy(keywords[i]), copy.copy(keywords[i + 1])]
                pair[0].value, pair[1].value = pair[1].value, pair[0].value
                yield but(keywords=[*keywords[:i], *pair, *keywords[i + 2 :]])
            for i, keyword in enumerate(keywords):
                if keyword.arg is not None and not read[i]:
                    yield but(keywords=[*keywords[:i], *keywords[i + 1 :]])
            if plain and len(args) > 1 and not needed(name, len(args) - 1):
                yield but(args=args[:-1])
            if plain and args and not isinstance(args[0], ast.GeneratorExp):
                yield args[0]
            elif not args and isinstance(function, ast.Attribute) and name != "__init__":
                yield function.value
            if name in OPPOSITES:
                other = copy.copy(function)
                setattr(other, "attr" if isinstance(function, ast.Attribute) else "id", OPPOSITES[name])
                yield but(func=other)
            if name == "range" and plain and not isinstance(args[min(1, len(args) - 1)], ast.Constant):
                at = min(1, len(args) - 1)
                yield but(args=[*args[:at], ast.BinOp(args[at], ast.Sub(), ast.Constant(1)), *args[at + 1 :]])


def mutants(
    module: str, source: str, needed: Callable[[str, int], bool] = lambda name, position: False
) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    text, starts = source.encode(), [0]  # an AST counts columns in bytes
    for row in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found, seen = [], {source}
    whole = Place((0, 0), (1, len(starts)), False)
    for node, place in mutable(ast.parse(source), whole):
        if not isinstance(node, (ast.expr, ast.stmt, ast.Slice)):
            continue
        for variant in variants(node, needed):
            new = ast.unparse(variant)
            if new == ast.unparse(node):  # swapped arguments may be equal
                continue
            start = starts[node.lineno - 1] + node.col_offset
            stop = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            before, old, after = (part.decode() for part in (text[:start], text[start:stop], text[stop:]))
            shown = old if isinstance(node, ast.expr) else old.partition("\n")[0]
            marked = [before.rpartition("\n")[2], f"[-{shown}-]{{+{new}+}}", after.partition("\n")[0]]
            put = f"({new})" if isinstance(node, ast.expr) and not isinstance(node, ast.Slice) else new
            changed = before + put + after
            if changed not in seen:
                seen.add(changed)
                found.append((start, Mutant(module, node.lineno, " ".join("".join(marked).split()), changed, *place)))
    return [mutant for _, mutant in sorted(found, key=lambda pair: pair[0])]


def modules_of(root: Path) -> list[str]:
    """All that are mutated, in the order of the package."""
    package = root / "minddpg"
    names = [path.relative_to(package).with_suffix("").as_posix() for path in sorted(package.rglob("*.py"))]
    return sorted((name for name in names if name not in LEFT_OUT), key=lambda name: (name.count("/"), name))


def defaults_of(root: Path) -> Callable[[str, int], bool]:
    """Whether every function or class of the package of that name needs its i-th argument (0: the first given)."""
    required: dict[str, list[int]] = {}
    for path in sorted((root / "minddpg").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
                required.setdefault(node.name, []).append(sum(field.value is None for field in fields))
            for function in node.body if isinstance(node, (ast.ClassDef, ast.Module)) else ():
                if isinstance(function, ast.FunctionDef):
                    arguments = function.args
                    first = 1 if isinstance(node, ast.ClassDef) else 0
                    count = len(arguments.posonlyargs + arguments.args) - len(arguments.defaults) - first
                    name = node.name if first and function.name == "__init__" else function.name
                    required.setdefault(name, []).append(count)
    return lambda name, position: position < max(required.get(name, [0]))


def sampled(jobs: list[Mutant], count: int) -> list[Mutant]:
    """`count` of each folder, at random; which they are depends on nothing but the changes themselves."""
    chosen: list[Mutant] = []
    for folder in dict.fromkeys(mutant.folder for mutant in jobs):
        inside = [mutant for mutant in jobs if mutant.folder == folder]
        seen: Counter[str] = Counter()
        places = []
        for mutant in inside:
            where = f"{mutant.module}: {mutant.change}"
            seen[where] += 1
            places.append((digest(f"{where} {seen[where]}".encode()), mutant))
        picked = {place for place, _ in sorted(places, key=lambda pair: pair[0])[:count]}
        chosen += [mutant for place, mutant in places if place in picked]
    return chosen


# --- running tests, in forks of this process --------------------------------------------------------------------------


class Plugin:
    """What pytest is told in a fork: which tests, in which order, how much CPU each may take. first: the first failure.

    watch: to be told which test runs; then those in `known` are left out, and none is begun after `until`.
    """

    def __init__(
        self,
        order: list[str] | None = None,
        seconds: dict[str, float] | None = None,
        watch: Any = None,
        known: set[str] | None = None,
        until: float = float("inf"),
    ):
        self.order, self.seconds, self.watch, self.first = order, seconds or {}, watch, ""
        self.known, self.until, self.whole = known or set(), until, True
        self.compiled: list[str] = []  # instead of `order`: how tests begin
        self.taken: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_pycollect_makemodule(self) -> None:
        """A failing example need not be made small."""
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", settings.get_profile("default"), phases=phases)
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        if self.order is not None:
            place = {name: i for i, name in enumerate(self.order)}
            items[:] = sorted((i for i in items if i.nodeid in place), key=lambda item: place[item.nodeid])
        if self.compiled:
            place = {i.nodeid: [i.nodeid.startswith(begin) for begin in self.compiled] for i in items}
            chosen = (item for item in items if any(place[item.nodeid]))
            items[:] = sorted(chosen, key=lambda item: place[item.nodeid].index(True))
        items[:] = [item for item in items if item.nodeid not in self.known]

    def pytest_runtest_protocol(self, item: Any) -> None:
        if time.monotonic() > self.until:
            self.whole, item.session.shouldstop = False, "the time is up"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._started = cpu_seconds()
        if self.watch:
            self.watch.switch_context(nodeid)
        else:
            signal.setitimer(signal.ITIMER_PROF, 5 + 10 * self.seconds.get(nodeid, COMPILED_SECONDS / 10))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)
        if report.failed:
            self.first = self.first or report.nodeid

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.taken[nodeid] = round(cpu_seconds() - self._started, 4)
        if self.watch:
            self.watch.switch_context("")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.first = self.first or report.nodeid


def cpu_seconds() -> float:
    """Of this process and those it has waited for: how busy the machine is makes no difference."""
    return sum(os.times()[:4])


OPTIONS = ["-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]


def pytest_on(files: list[str], plugin: Plugin, *options: str) -> int:
    import pytest

    return int(pytest.main([*OPTIONS, *options, f"--basetemp={Path('tmp').absolute()}", *files], [plugin]))


def first_failure(tests: list[str], seconds: dict[str, float], compiled: bool) -> str:
    """The first of the tests that fails, or nothing.    In a fork only."""
    if compiled:
        plugin = Plugin()
        plugin.compiled = tests
        return (plugin.first or "collection") if pytest_on(files_of(tests), plugin, "-x") else ""
    for some in (tests[:FIRST], tests[FIRST:]):
        if some:
            plugin = Plugin(some, seconds)
            if pytest_on(files_of(some), plugin, "-x"):
                return plugin.first or "import"
    return ""


def files_of(tests: list[str]) -> list[str]:
    return list(dict.fromkeys(test.partition("::")[0] for test in tests))


def covered_lines(file: str, known: set[str], until: float) -> dict[str, Any]:
    """Run a test file, without those known, until the time is up.    In a fork only.

    -> "tests": {test: [seconds, {module: lines it ran through}]}, "failed": tests, "whole": whether all were run
    """
    import coverage

    watch = coverage.Coverage(data_file=None, config_file=False, source=["minddpg"])
    plugin = Plugin(watch=watch, known=known, until=until)
    watch.start()
    pytest_on([file], plugin)
    watch.stop()
    data, lines = watch.get_data(), {name: {} for name in plugin.taken}
    package = Path("minddpg").resolve()
    for path in data.measured_files():
        module = Path(path).resolve().relative_to(package).with_suffix("").as_posix()
        for line, tests in data.contexts_by_lineno(path).items():
            for test in tests:
                if test in lines:
                    lines[test].setdefault(module, []).append(line)
    good = {name: [plugin.taken[name], lines[name]] for name in plugin.taken if name not in plugin.failed}
    return {"tests": good, "failed": sorted(plugin.failed & plugin.taken.keys()), "whole": plugin.whole}


class Worker:
    """A copy of the checkout and the fork that works in it."""

    def __init__(self, directory: Path):
        self.directory, self.child, self.reader, self.deadline = directory, 0, -1, 0.0
        ignored = shutil.ignore_patterns("__pycache__", ".git", ".venv", "*.egg-info")
        shutil.copytree(ROOT, directory, ignore=ignored)

    def start(self, work: Callable[[], Any], jit: bool, timeout: float) -> None:
        """Begin work() in a fork; its result must fit into JSON."""
        self.deadline = time.monotonic() + timeout
        self.reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.child = os.fork()
        if self.child:
            os.close(writer)
            return
        try:
            os.setpgid(0, 0)  # so that what it starts ends with it
            os.close(self.reader)
            self._settle(jit)
            answer = json.dumps(work()).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            while answer:
                answer = answer[os.write(writer, answer) :]
        finally:
            os._exit(0)

    def _settle(self, jit: bool) -> None:
        import resource

        import numba

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job; tests raise it
        for number in (signal.SIGPROF, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (2 * MEMORY, 2 * MEMORY) if jit else (MEMORY, MEMORY))
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silent, stream)
        os.chdir(self.directory)
        sys.path.insert(0, str(self.directory))
        os.environ.update(PYTHONPATH=str(self.directory), PYTHONDONTWRITEBYTECODE="1",
                          XDG_CACHE_HOME=str(self.directory / "cache"))  # fmt: skip
        os.environ.pop("NUMBA_CACHE_DIR", None)
        sys.dont_write_bytecode = True
        if not jit:
            os.environ["NUMBA_DISABLE_JIT"] = "1"
            numba.config.DISABLE_JIT = 1

    def end(self) -> tuple[Any, bool]:
        """Read the result and clear up.    -> it, None where there is none; whether it took too long"""
        content, late = b"", True
        if select.select([self.reader], [], [], 0)[0]:
            while part := os.read(self.reader, 1 << 20):
                content += part
            ended = os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOWAIT)
            late = bool(ended and ended.si_status == signal.SIGPROF)
        self.kill()
        return (json.loads(content) if content else None), late

    def kill(self) -> None:
        """End the fork and all that it started."""
        if self.child:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
            os.close(self.reader)
            os.waitpid(self.child, 0)
            self.child = 0
        for name in ("tmp", "cache"):
            shutil.rmtree(self.directory / name, ignore_errors=True)


class Task(NamedTuple):
    """Something to do in a worker. prepare: called before, with its directory. done: with the result, after."""

    prepare: Callable[[Path], None]
    work: Callable[[], Any]
    done: Callable[[Any, bool], None]  # the result, and whether it took too long
    restore: Callable[[Path], None]
    timeout: float
    jit: bool = False


def work_through(tasks: Iterator[Task], workers: list[Worker], until: float) -> bool:
    """Do the tasks on all workers.    -> whether all are done; False when the time was up"""
    busy: dict[int, tuple[Worker, Task]] = {}
    free, seen = list(workers), time.monotonic()
    try:
        while True:
            while free and time.monotonic() < until and (task := next(tasks, None)):
                worker = free.pop()
                task.prepare(worker.directory)
                worker.start(task.work, task.jit, task.timeout)
                busy[worker.reader] = worker, task
            if not busy:
                return next(tasks, None) is None
            if time.monotonic() > until + 30:  # what is nearly done may finish
                return False
            ready, _, _ = select.select(list(busy), [], [], 0.2)
            gap, seen = time.monotonic() - seen, time.monotonic()
            if gap > 5:  # we were stopped, and so may they have been
                for worker, _ in busy.values():
                    worker.deadline += gap
            late = [reader for reader, (worker, _) in busy.items() if time.monotonic() > worker.deadline]
            for reader in {*ready, *late}:
                worker, task = busy.pop(reader)
                result, late = worker.end()
                task.restore(worker.directory)
                task.done(result, late)
                free.append(worker)
    finally:
        for worker, task in busy.values():
            worker.kill()
            task.restore(worker.directory)


# --- results ----------------------------------------------------------------------------------------------------------


class Results:
    """What is known: which test runs through which lines, and what became of each mutant. Kept in one JSON file."""

    def __init__(self, path: Path):
        self.path, self.saved = path, time.monotonic()
        try:
            known = json.loads(path.read_text()) if path.exists() else {}
            self.coverage: dict[str, dict[str, Any]] = dict(known.get("coverage", {}))
            self.rows: dict[str, dict[str, Any]] = dict(known.get("rows", {}))
            self.sound: dict[str, str] = dict(
                known.get("sound", {})
            )  # tests that pass without a change, and of which file
            if not all({"module", "outcome", "tests"} <= set(row) for row in self.rows.values()):
                raise ValueError("rows without an outcome")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            refuse(f"{path} does not hold results of this script ({error!r})")

    def save(self, now: bool = True) -> None:
        """Write the file, whole; at most every ten seconds unless it is to be now."""
        if now or time.monotonic() > self.saved + 10:
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text(json.dumps({"coverage": self.coverage, "rows": self.rows, "sound": self.sound}))
            partial.replace(self.path)
            self.saved = time.monotonic()


def refuse(message: str) -> NoReturn:
    print(f"mutation.py: {message}", file=sys.stderr)
    sys.exit(2)


class Tests:
    """The tests of the checkout, and which of them run through a mutant's line."""

    def __init__(self, results: Results, budget: float, names: list[str]):
        self.results, self.budget, self.kills = results, budget, Counter()  # of (module, test)
        paths = sorted((ROOT / "tests").glob("*.py"))
        self.texts = {f"tests/{path.name}": path.read_bytes() for path in paths}
        helpers = b"".join(text for name, text in self.texts.items() if "/test_" not in name)
        package = b"".join(path.read_bytes() for path in sorted((ROOT / "minddpg").rglob("*.py")))
        self.files = {
            name: digest(text + helpers + package)
            for name, text in self.texts.items()
            if "/test_" in name and Path(name).stem not in ELSEWHERE
            if not names or Path(name).stem.removeprefix("test_") in names
        }
        for row in results.rows.values():
            if row["by"]:
                self.kills[row["module"], row["by"]] += 1

    def measure(self, until: float) -> Iterator[Task]:
        """Find out what the tests run through, where it is not known."""
        for number, (file, key) in enumerate(self.files.items(), 1):
            entry = self.results.coverage.get(file, {})
            if entry.get("key") != key:
                entry = self.results.coverage[file] = {"key": key, "tests": {}, "failed": [], "whole": False}
            if entry["whole"]:
                continue

            def done(result: Any, late: bool, file: str = file, entry: Any = entry, number: int = number) -> None:
                result = result or {"tests": {}, "failed": ["the whole file"], "whole": True}
                entry["tests"].update(result["tests"])
                entry["failed"] += result["failed"]
                entry["whole"] = result["whole"]
                self.results.save()
                failed = f", {len(entry['failed'])} fail or are skipped" if entry["failed"] else ""
                more = "" if entry["whole"] else ", and more to come"
                say(f"{file} ({number}/{len(self.files)}): {len(entry['tests'])} tests{failed}{more}")

            known = {*entry["tests"], *entry["failed"]}
            work = lambda file=file, known=known: covered_lines(file, known, until)  # noqa: E731
            yield Task(_nothing, work, done, _nothing, 900)

    def index(self) -> None:
        """Tests by module and line, after `measure`."""
        self.seconds: dict[str, float] = {}
        self.by_line: dict[tuple[str, int], set[str]] = {}
        for file in self.files:
            for test, (seconds, modules) in self.results.coverage.get(file, {}).get("tests", {}).items():
                self.seconds[test] = seconds
                for module, lines in modules.items():
                    for line in lines:
                        self.by_line.setdefault((module, line), set()).add(test)

    def through(self, mutant: Mutant) -> set[str]:
        """The tests that run through it.

        What runs at import alone, such as a default, is tested by what runs through the function or module around it.
        """
        found: set[str] = set()
        for first, last in (mutant.statement, mutant.scope, (1, mutant.source.count("\n") + 1)):
            for line in range(first, last + 1):
                found |= self.by_line.get((mutant.module, line), set())
            if found:
                break
        return found

    def of(self, mutant: Mutant) -> list[str]:
        """These tests, as many as the budget allows, in the order in which they should run."""
        if mutant.compiled:
            return compiled_tests(mutant.module)
        found, own = self.through(mutant), f"test_{mutant.module.rpartition('/')[2]}"
        order = sorted(found, key=lambda test: (-min(3, self.kills[mutant.module, test]), own not in test,
                                                self.seconds[test], test))  # fmt: skip
        chosen, left = [], self.budget
        for test in order:
            if self.seconds[test] <= left:
                left -= self.seconds[test]
                chosen.append(test)
        return chosen

    def state(self, mutant: Mutant) -> str:
        """A hash of them and of the budget: where it is another one, what survived is tested again."""
        tests = [] if mutant.compiled else sorted(self.through(mutant))
        tests += compiled_tests(mutant.module)
        texts = [digest(self.texts[file]) for file in sorted(files_of(tests))]
        return digest("".join([f"{self.budget:g}", *tests, *texts]).encode())


def compiled_tests(module: str) -> list[str]:
    """How the names of those begin that test it compiled."""
    return [f"tests/test_{begin}" for begin in COMPILED.get(module, [])]


def _nothing(directory: Path) -> None:
    pass


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def survivors_compiled(jobs: list[Mutant], rows: dict[str, dict[str, Any]]) -> list[Mutant]:
    """What survived as plain NumPy in files with lines that exist only compiled: to be tested so."""
    alive = (m for m in jobs if m.module in COMPILED and rows.get(m.key, {}).get("outcome") == "survived")
    return [mutant._replace(compiled=True) for mutant in alive if not rows[mutant.key].get("compiled")]


def unknown(jobs: list[Mutant], tests: Tests) -> list[Mutant]:
    """Those whose outcome is not known: never tested, or survivors of other tests."""
    rows, left = tests.results.rows, []
    for mutant in jobs:
        row = rows.get(mutant.key)
        if row is None or (row["outcome"] == "survived" and row["tests"] != tests.state(mutant)):
            left.append(mutant)
    return left


def test_all(left: list[Mutant], tests: Tests) -> Iterator[Task]:
    """A task per mutant."""
    rows, started = tests.results.rows, time.monotonic()
    say(f"{len(left)} mutants to test")
    left.sort(key=lambda mutant: mutant.key)  # at random: what is known so far is a fair sample of the whole
    for number, job in enumerate(left, 1):
        source, chosen = (ROOT / f"minddpg/{job.module}.py").read_text(), tests.of(job)

        def done(result: Any, late: bool, job: Mutant = job, number: int = number) -> None:
            by = "the interpreter" if result is None else result  # it ended without an answer
            outcome = "timeout" if late else "killed" if by else "survived"
            tests.kills[job.module, by] += outcome == "killed"
            rows[job.key] = {"module": job.module, "line": job.line, "change": job.change, "compiled": job.compiled,
                             "outcome": outcome, "by": "" if late else by, "tests": tests.state(job)}  # fmt: skip
            tests.results.save(now=False)
            if number % 20 == 0:
                minutes = (time.monotonic() - started) / number * (len(left) - number) / 60
                alive = sum(rows[one.key]["outcome"] == "survived" for one in left if one.key in rows)
                say(f"{number}/{len(left)}, {alive} alive, about {minutes:.0f} min left")

        def prepare(directory: Path, job: Mutant = job) -> None:
            (directory / f"minddpg/{job.module}.py").write_text(job.source)

        def restore(directory: Path, job: Mutant = job, source: str = source) -> None:
            (directory / f"minddpg/{job.module}.py").write_text(source)

        timeout = COMPILED_TIMEOUT if job.compiled else 60 + 20 * sum(tests.seconds[test] for test in chosen)
        work = lambda chosen=chosen, job=job: first_failure(chosen, tests.seconds, job.compiled)  # noqa: E731
        yield Task(prepare, work, done, restore, timeout, job.compiled)


def test_the_tests(tests: Tests) -> Iterator[Task]:
    """Those that killed must pass without a change, and by themselves."""
    sound, keys = tests.results.sound, {test: tests.files[test.partition("::")[0]] for test in tests.seconds}
    killers = {row["by"] for row in tests.results.rows.values() if row["by"] in keys}
    chosen = sorted(test for test in killers if sound.get(test) != keys[test])

    def done(result: Any, late: bool) -> None:
        if late or result != "":
            refuse(f"{result or 'a test that does not end'} fails without any change")
        sound.update({test: keys[test] for test in chosen})

    if chosen:
        say(f"{len(chosen)} tests killed; now without a change")
        work = lambda: first_failure(chosen, tests.seconds, False)  # noqa: E731
        yield Task(_nothing, work, done, _nothing, 300 + 20 * sum(tests.seconds[test] for test in chosen))


def wilson(part: int, whole: int) -> tuple[float, float]:
    """The 95 % interval of a share, of which a sample has `part` of `whole` (Wilson 1927)."""
    if not whole:
        return 0.0, 1.0
    z2, share = 1.959964**2, part / whole
    middle = (share + z2 / 2 / whole) / (1 + z2 / whole)
    half = (z2 * (share * (1 - share) + z2 / 4 / whole) / whole) ** 0.5 / (1 + z2 / whole)
    return max(0.0, middle - half), min(1.0, middle + half)


def report(
    jobs: list[Mutant], rows: dict[str, dict[str, Any]], equivalents: str, totals: Counter[str], by_module: bool
) -> int:
    """Print what survived, and a table. The score is of the mutants that are not equivalent.    -> the exit status

    totals: mutants that there are, by folder or module.
    """
    known = equivalents.splitlines()
    outcomes: dict[str, list[str]] = {}
    for mutant in jobs:
        if row := rows.get(mutant.key):
            outcome = row["outcome"]
            if outcome == "survived" and f"{mutant.module}: {mutant.change}" in known:
                outcome = "equivalent"
            if outcome in ("survived", "equivalent"):
                print(f"{outcome}: minddpg/{mutant.module}.py:{mutant.line}: {mutant.change}")
            for part in (mutant.module if by_module else mutant.folder, "all"):
                outcomes.setdefault(part, []).append(outcome)
    kinds = ["killed", "timeout", "survived", "equivalent"]
    columns = ["tested", *kinds, "score", "95 %"]
    head = "".join(f"{name:>12}" for name in columns)
    print(f"\ncommit {commit()}\n{'module' if by_module else 'folder':<28}{'mutants':>10}{head}")
    totals["all"] = totals.total()
    for part in [*(name for name in outcomes if name != "all"), *(["all"] if outcomes else [])]:
        killed, late, alive, equivalent = (outcomes[part].count(kind) for kind in kinds)
        low, high = wilson(killed + late, killed + late + alive)
        interval = f"{100 * low:.0f} - {100 * high:.0f} %" if part != "all" else ""  # folders count alike in a sample
        score = f"{100 * (killed + late) / max(1, killed + late + alive):.1f} %"
        counts = (len(outcomes[part]), killed, late, alive, equivalent)
        row = "".join(f"{cell:>12}" for cell in (*counts, score, interval))
        print(f"{part:<28}{totals[part]:>10}{row}")
    return int("survived" in outcomes.get("all", []))


def commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "minddpg"], capture_output=True, text=True, check=True)
        return head.stdout.strip() + (" and what is not committed" if changed.stdout else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def arguments() -> argparse.Namespace:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minddpg-mutation.json"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="what to mutate; default: the whole package")
    parser.add_argument("--folder", nargs="+", default=[], metavar="NAME",
                        help="these folders of the package alone; minddpg: the files that lie flat in it")  # fmt: skip
    parser.add_argument(
        "--sample", type=int, metavar="N", help="a random sample of so many per folder, always the same"
    )
    parser.add_argument("--tests", nargs="+", default=[], metavar="NAME",
                        help="run tests/test_NAME.py of these alone; default: all")  # fmt: skip
    parser.add_argument("--results", type=Path, default=default, metavar="FILE", help=f"default: {default}")
    parser.add_argument("--budget", type=float, default=20, metavar="SECONDS", help="of tests per mutant; default: 20")
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="M", help="stop after so long")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    parser.add_argument("--by-module", action="store_true", help="a line of the table per module, not per folder")
    parser.add_argument("--list", action="store_true", help="print the mutants, test none")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    until = time.monotonic() + 60 * args.minutes
    every = modules_of(ROOT)
    for name in args.modules:
        if name not in every:
            refuse(f"there is no minddpg/{name}.py to mutate")
    for name in args.tests:
        if not (ROOT / f"tests/test_{name}.py").is_file():
            refuse(f"there is no tests/test_{name}.py")
    for name in args.folder:
        if name not in {folder_of(module) for module in every}:
            refuse(f"there is no folder {name} to mutate")
    modules = [n for n in every if n in (args.modules or every) and (not args.folder or folder_of(n) in args.folder)]
    needed = defaults_of(ROOT)
    jobs = [mutant for name in modules for mutant in mutants(name, (ROOT / f"minddpg/{name}.py").read_text(), needed)]
    totals = Counter(mutant.module if args.by_module else mutant.folder for mutant in jobs)
    if args.sample is not None:
        jobs = sampled(jobs, args.sample)
    if args.list or not jobs:
        print("\n".join(f"minddpg/{m.module}.py:{m.line}: {m.change}" for m in jobs))
        return 0
    if not hasattr(os, "fork"):
        refuse("needs os.fork, which this system does not have")
    path = args.results.absolute()
    if not path.parent.is_dir():
        refuse(f"there is no directory {args.results.parent}")
    if path.is_relative_to(ROOT):
        refuse(f"{args.results} is inside the checkout; keep results elsewhere")
    results = Results(path)  # a file that does not fit is refused now
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))  # and so end the forks
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    for name in ("numpy", "numba", "gymnasium", "hypothesis", "pytest", "coverage", "numba.core.codegen"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as directory:
        workers = [Worker(Path(directory, str(number))) for number in range(args.workers)]
        tests = Tests(results, args.budget, args.tests)
        whole = work_through(tests.measure(until), workers, until)
        tests.index()
        try:
            whole = whole and work_through(test_all(unknown(jobs, tests), tests), workers, until)
            again = survivors_compiled(jobs, results.rows)
            whole = whole and work_through(test_all(again, tests), workers, until)
            whole = whole and work_through(test_the_tests(tests), workers, until)
        finally:
            results.save()
    status = report(jobs, results.rows, EQUIVALENTS.read_text(), totals, args.by_module)
    return status if whole else 3


if __name__ == "__main__":
    sys.exit(main())
