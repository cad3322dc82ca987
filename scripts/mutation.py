"""How good are the tests? Plant one small fault after another in the package and count those that no test notices.

    python scripts/mutation.py [layers networks optim ddpg] [--out mutation.json]

Each mutant is the package with one change: + for -, <= for <, 1 for 0, two branches or two arguments swapped, a `not`
or a minus dropped, a statement left out. The tests run on it until the first one fails: then it is killed. What
survives is printed with its line, old text in [-...-] and new in {+...+}. It is a gap in the tests, or it is
equivalent: no input shows the change, or none that matters. Those found to be so are in mutation_equivalents.txt with
the reason, and are counted apart. Docstrings, annotations and error messages are left alone.

NumPy and the like are imported once; every mutant is a fork of that process with one module replaced in memory, and
runs without the JIT on a copy of the package in a temporary directory. The four modules take a quarter of an hour on
one core. With --out, results are kept, and the next run makes only what is missing: every mutant of a module that was
edited, and the survivors if a test was.

Exit status: 0 nothing survived that is not equivalent, 1 something did, 2 bad input or tests that fail as they are.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.txt")
MODULES = ["layers", "networks", "optim", "ddpg", "agent", "seeds"]
TESTS = [
    "layers",
    "networks",
    "optim",
    "ddpg",
    "agent",
    "seeds",
    "replay",
    "directory",
    "training",
]  # none starts a process
ROW = ["module", "line", "change", "outcome", "by", "tests"]  # `tests`: a hash of them
MEMORY = 8 << 30  # bytes of address space: a mutant may ask for any amount

SWAPS: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult], ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult], ast.Pow: [ast.Mult], ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd], ast.BitXor: [ast.BitOr],
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In], ast.And: [ast.Or], ast.Or: [ast.And],
}  # fmt: skip


class Mutant(NamedTuple):
    """A module with one change: the line number, that line with old and new text marked, the whole source."""

    module: str
    line: int
    change: str
    source: str

    @property
    def key(self) -> str:
        """The same for the same change to the same source, and for nothing else."""
        return hashlib.sha256(f"{self.module}\n{self.source}".encode()).hexdigest()[:16]


def mutable(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, without annotations, decorators, formatted text and what a `raise` says."""
    yield node
    if not isinstance(node, (ast.Raise, ast.JoinedStr)):
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from mutable(child)


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of one node."""

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
        case ast.Call(args=args):
            for i in range(len(args) - 1):
                yield but(args=[*args[:i], args[i + 1], args[i], *args[i + 2 :]])


def mutants(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    text, starts = source.encode(), [0]  # an AST counts columns in bytes
    for row in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found = []
    for node, variant in ((n, v) for n in mutable(ast.parse(source)) for v in variants(n)):
        new = ast.unparse(variant)
        if new != ast.unparse(node) and isinstance(node, (ast.expr, ast.stmt)):  # swapped arguments may be equal
            start = starts[node.lineno - 1] + node.col_offset
            stop = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            before, old, after = (part.decode() for part in (text[:start], text[start:stop], text[stop:]))
            marked = [before.rpartition("\n")[2], f"[-{old}-]{{+{new}+}}", after.partition("\n")[0]]
            changed = before + (f"({new})" if isinstance(node, ast.expr) else new) + after
            found.append((start, Mutant(module, node.lineno, " ".join("".join(marked).split()), changed)))
    return [mutant for _, mutant in sorted(found, key=lambda pair: pair[0])]


class FirstFailure:
    """A pytest plugin that keeps the name of the first failing test."""

    name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.name = self.name or report.nodeid.removeprefix("tests/")

    pytest_collectreport = pytest_runtest_logreport


def first_failure(mutant: Mutant, tests: list[str]) -> str:
    """Put the mutant in its module's place, run the tests. -> the one that failed, or nothing.    In a fork only."""
    import resource

    import pytest

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    name, path = f"minddpg.{mutant.module}", f"minddpg/{mutant.module}.py"
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(__package__="minddpg", __file__=path)
    try:
        exec(compile(mutant.source, path, "exec"), module.__dict__)
    except Exception as error:
        return f"import: {error!r}"
    setattr(importlib.import_module("minddpg"), mutant.module, module)
    first, options = FirstFailure(), ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider"]
    options.append(f"--basetemp={Path('tmp').absolute()}")
    for test in sorted(tests, key=lambda test: test != mutant.module):  # the module's own tests first
        if pytest.main([*options, f"tests/test_{test}.py"], [first]) != 0:
            return first.name or f"test_{test}.py"
    return ""


def run(mutant: Mutant, tests: list[str], timeout: float) -> tuple[str, str]:
    """Test a mutant in a fork of this process.    -> killed, survived or timeout; what killed it"""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job; tests raise it
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(silent, stream)
            os.write(writer, (first_failure(mutant, tests) or "nothing").encode())
        finally:
            os._exit(0)
    os.close(writer)
    answered, _, _ = select.select([reader], [], [], timeout)
    if not answered:
        os.kill(child, signal.SIGKILL)
    by = os.read(reader, 1000).decode() or "the interpreter"  # it ended without an answer
    os.close(reader)
    os.waitpid(child, 0)
    return ("timeout", "") if not answered else ("survived", "") if by == "nothing" else ("killed", by)


def refuse(message: str) -> NoReturn:
    print(f"mutation.py: {message}", file=sys.stderr)
    sys.exit(2)


def known_results(path: Path | None) -> dict[str, dict[str, Any]]:
    try:
        rows = json.loads(path.read_text()) if path and path.exists() else {}
        return {key: {name: row[name] for name in ROW} for key, row in rows.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        refuse(f"{path} does not hold results of this script ({error!r})")


def test_all(jobs: list[Mutant], tests: list[str], out: Path | None) -> list[dict[str, Any]]:
    """One row per mutant, from `out` where it is there. The working directory is a copy of the checkout."""
    found, rows = known_results(out), {}
    others = {key: row for key, row in found.items() if row["module"] not in {mutant.module for mutant in jobs}}
    texts = [" ".join(tests).encode(), *(path.read_bytes() for path in sorted(Path("tests").glob("*.py")))]
    state = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    for mutant in jobs:
        row = found.get(mutant.key)
        if row and (row["outcome"] != "survived" or row["tests"] == state):
            rows[mutant.key] = row
    started = time.perf_counter()
    plain = jobs[0]._replace(source=Path(f"minddpg/{jobs[0].module}.py").read_text())
    outcome, by = run(plain, tests, 3600)
    if outcome != "survived":
        refuse(f"without any change, this fails already: {by or 'a test that takes an hour'}")
    timeout = 10 + 3 * (time.perf_counter() - started)
    left = [mutant for mutant in jobs if mutant.key not in rows]
    print(f"{len(jobs)} mutants, {len(left)} of them to test, {timeout:.0f} s at most for each", flush=True)
    started = time.perf_counter()
    for done, mutant in enumerate(left, 1):
        outcome, by = run(mutant, tests, timeout)
        rows[mutant.key] = dict(zip(ROW, (mutant.module, mutant.line, mutant.change, outcome, by, state), strict=True))
        if out:
            partial = out.with_name(out.name + ".partial")
            partial.write_text(json.dumps({**others, **rows}, indent=1))
            partial.replace(out)
        if sys.stderr.isatty() or done % 25 == 0:
            alive = sum(row["outcome"] == "survived" for row in rows.values())
            minutes = (time.perf_counter() - started) / done * (len(left) - done) / 60
            line = f"{done}/{len(left)}, {alive} alive, about {minutes:.0f} min left "
            print(line, end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    return [rows[mutant.key] for mutant in jobs]


def report(modules: list[str], rows: list[dict[str, Any]], equivalents: str) -> int:
    """Print what survived, and a table. The score is of the mutants that are not equivalent. -> the exit status"""
    for row in rows:
        if row["outcome"] == "survived":
            where = f"{row['module']}: {row['change']}"
            row["outcome"] = "equivalent" if where in equivalents.splitlines() else "survived"
            print(f"{row['outcome']}: minddpg/{row['module']}.py:{row['line']}: {row['change']}")
    kinds = ["killed", "timeout", "survived", "equivalent"]
    print("\n" + f"{'module':<12}{'mutants':>10}" + "".join(f"{kind:>12}" for kind in [*kinds, "score"]))
    for module in [*modules, "all"]:
        outcomes = [row["outcome"] for row in rows if module in ("all", row["module"])]
        killed, late, alive, equivalent = (outcomes.count(kind) for kind in kinds)
        score = f"{100 * (killed + late) / max(1, killed + late + alive):.1f} %"
        print(f"{module:<12}{len(outcomes):>10}{killed:>12}{late:>12}{alive:>12}{equivalent:>12}{score:>12}")
    return int(any(row["outcome"] == "survived" for row in rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"what to mutate; default: {' '.join(MODULES)}")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="NAME",
                        help=f"NAME is tests/test_NAME.py; default, in this order: {' '.join(TESTS)}")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the results in this JSON file, and resume it")
    parser.add_argument("--list", action="store_true", help="print the mutants, test none")
    args = parser.parse_args()
    modules = list(dict.fromkeys(args.modules or MODULES))
    for path in [*(f"minddpg/{name}.py" for name in modules), *(f"tests/test_{name}.py" for name in args.tests)]:
        if not (ROOT / path).is_file():
            refuse(f"there is no {path}")
    jobs = [mutant for name in modules for mutant in mutants(name, (ROOT / f"minddpg/{name}.py").read_text())]
    if args.list or not jobs:
        print("\n".join(f"minddpg/{m.module}.py:{m.line}: {m.change}" for m in jobs))
        return 0
    if not hasattr(os, "fork"):
        refuse("needs os.fork, which this system does not have")
    out = args.out.absolute() if args.out else None
    if out and not out.parent.is_dir():
        refuse(f"there is no directory {args.out.parent}")
    known_results(out)  # a file that does not fit is refused now, not after the minutes it takes
    os.environ.update(NUMBA_DISABLE_JIT="1", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as directory:
        for folder in ("minddpg", "tests"):
            shutil.copytree(ROOT / folder, Path(directory, folder), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "setup.cfg", directory)
        sys.path.insert(0, directory)
        os.chdir(directory)
        for name in ("numpy", "numba", "gymnasium", "hypothesis", "pytest"):
            importlib.import_module(name)
        rows = test_all(jobs, args.tests, out)
        os.chdir(ROOT)
    return report(modules, rows, EQUIVALENTS.read_text())


if __name__ == "__main__":
    sys.exit(main())
