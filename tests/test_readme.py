"""The README files quote code, commands, files and output; they must be there, wherever they are quoted."""

import ast
import contextlib
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import clean_environment
from studies import fake_study
from test_packaging import EXTRAS

import minddpg
from minddpg import Config, cli
from minddpg.config import PRESETS
from minddpg.ddpg import Losses
from minddpg.gradcheck.planted import BUGS, CATALOGUE, OPTION_BUGS
from minddpg.gradcheck.situations import SITUATIONS
from minddpg.gradflow import MISTAKES
from minddpg.runs.directory import FILES
from minddpg.study import Study
from minddpg.study.plan import FILES as STUDY_FILES
from minddpg.study.results import MEASURES, make_plan

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minddpg"
FRONT, HOUSE, RUNS = ROOT / "README.md", PACKAGE / "README.md", PACKAGE / "runs" / "README.md"
FLOW, MEASURED = PACKAGE / "gradflow" / "README.md", ROOT / "scripts" / "README.md"
CHECKS, STUDIES = PACKAGE / "gradcheck" / "README.md", PACKAGE / "study" / "README.md"
PAGES = sorted([FRONT, MEASURED, *PACKAGE.rglob("README.md")])
SOURCE = (line.strip() for line in (PACKAGE / "ddpg.py").read_text(encoding="utf-8").splitlines())
DDPG = "\n".join(line.split("  #")[0].rstrip() for line in SOURCE if not line.startswith("#"))

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT).parent))


def text(page):
    return page.read_text(encoding="utf-8")


def section(page, heading):
    """What stands below a heading, up to the next one of its rank or a higher one."""
    rank = heading.split(" ")[0]
    return re.split(rf"^#{{1,{len(rank)}}} ", text(page).split(f"\n{heading}\n")[1], flags=re.M)[0]


def fenced(page, language="python"):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.S | re.M)
    return [block for name, block in blocks if name == language]


def prose(page):
    return re.sub(r"^```.*?^```", "", text(page), flags=re.S | re.M)


def quoted(page):
    """Everything in backticks outside of code blocks; links have a test of their own."""
    plain = re.sub(r"\[`[^`]+`\]\([^)]*\)", "", prose(page))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", plain)]


def table(markdown):
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("-: ")]


def numbers(line):
    return [float(word) for word in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", line)]


# --- the front page ---------------------------------------------------------------------------------------------------


def test_the_chain_is_quoted_as_it_runs():
    (block,) = [block for block in fenced(FRONT) if block.startswith("act, actor_cache")]
    lines = block.strip().splitlines()
    assert len(lines) == 6
    assert "\n".join(lines) in DDPG


def test_the_ten_steps_name_lines_that_exist():
    rows = re.findall(r"^\| (\d+) \| .*? \| (.*) \|$", text(FRONT), re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    codes = [code for _, cell in rows for code in re.findall(r"`([^`]+)`", cell) if "=" in code or "(" in code]
    assert len(codes) == 7
    for code in codes:
        assert code in DDPG.splitlines(), code


def test_both_commands_are_one_line_each():
    commands = re.findall(r"^(python3 -m venv .*)$", text(FRONT), re.M)
    assert len(commands) == 2
    assert "minddpg train" in commands[0]
    assert "pytest" in commands[1]
    assert "'.[test]'" in commands[1]


def test_every_chapter_is_linked_from_the_front_page():
    linked = {(ROOT / target).resolve() for target in re.findall(r"\]\(([^)#]+\.md)", text(FRONT))}
    assert set(PAGES) - {FRONT} <= linked


@pytest.mark.parametrize("heading", ["## Results", "## Speed"])
def test_the_front_page_has_the_chapters_numbers(heading):
    """What was measured again is written down in both places."""
    here, there = (set(numbers(section(page, heading).replace(",", ""))) for page in (FRONT, MEASURED))
    assert len(here) > 20
    assert here <= there, here - there


def test_the_tables_of_the_front_page_are_the_chapters():
    of_updates = table(section(MEASURED, "## Speed"))
    columns = [of_updates[0].index(name) for name in table(section(FRONT, "## Speed"))[0]]
    assert table(section(FRONT, "## Speed")) == [[row[column] for column in columns] for row in of_updates]
    seeds, *rows = table(section(MEASURED, "## Results"))
    (pendulum,) = [row for row in table(section(FRONT, "## Results")) if row[0] == "Pendulum-v1"]
    assert [numbers(pendulum[3])[0], numbers(pendulum[3])[-1]] == [float(row[seeds.index("IQM")]) for row in rows]


# --- every page -------------------------------------------------------------------------------------------------------


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose(page)) if "://" not in link]
    assert links or page.parent.name == "gradcheck"
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(page):
    """Every command line `minddpg ...`, as words: in backticks, in indented lines and in shell blocks."""
    lines = [line.partition("  #")[0] for block in fenced(page, "sh") for line in block.splitlines()]
    lines += [re.split(r"\s{3,}", line.strip())[0] for line in re.findall(r"^    (\S.*)$", prose(page), re.M)]
    for line in [*quoted(page), *lines]:
        found = re.search(r"(?:^|[ /])minddpg( .*)?$", line)
        if found and "..." not in line:
            yield shlex.split(found[1] or "")


@each_page
def test_commands_are_accepted(page):
    for words in commands(page):
        parser, known = cli._parser(words[1:])
        if len(words) < 2:  # the command as such, without what it may need
            assert {*words} <= {*known.parsers, "--help"}, words
        else:
            _, unknown = parser.parse_known_args([word for word in words if word != "--help"])
            assert not unknown, words


def test_there_are_commands_on_the_pages():
    words = [words for page in PAGES for words in commands(page)]
    assert len(words) > 40
    assert {"train", "eval", "plot", "export", "gradcheck", "gradflow", "warmup"} <= {w[0] for w in words if w}


def flags_of_commands():
    _, known = cli._parser([])
    return {flag for parser in known.parsers.values() for flag in parser._option_string_actions}


@each_page
def test_flags_and_extras_exist(page):
    known = flags_of_commands()
    for code in quoted(page):
        script = re.match(r"(?:python )?(?:scripts/)?(\w+\.py) ", code)
        here = known
        if script or page.parent.name == "scripts":
            scripts = [ROOT / "scripts" / script[1]] if script else (ROOT / "scripts").glob("*.py")
            here = known | set(re.findall(r"\"(--[a-z-]+)\"", "".join(map(text, scripts))))
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", code):
            assert flag in here, code
    for extra in re.findall(r"'\.\[(.+?)\]'|\bextra `([\w-]+)`|\(extra ([\w-]+)\)", text(page)):
        assert "".join(extra) in EXTRAS, extra


@each_page
def test_files_exist(page):
    for name in (name for code in quoted(page) for name in code.split()):
        if re.fullmatch(r"\w+\.(?:csv|npz|json)", name):
            assert name in {*FILES, *STUDY_FILES, "actor.npz"}, name
        elif re.fullmatch(r"[\w./-]+\.(?:py|md|txt|cfg)", name) and name not in {*FILES, *STUDY_FILES}:
            assert any((folder / name).exists() for folder in (page.parent, ROOT, PACKAGE)), name


def test_tests_exist():
    defined = {
        node.name
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(text(path)))
        if isinstance(node, ast.FunctionDef)
    }
    files = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    named = {name for page in PAGES for name in re.findall(r"\btest_\w+", prose(page))}
    assert len(named) > 8
    assert named <= defined | files, named - defined - files


@each_page
def test_python_names_exist(page):
    for code in quoted(page):
        match = re.match(r"minddpg((?:\.\w+)+)", code)
        if match:
            found = minddpg
            for name in match[1][1:].split("."):
                with contextlib.suppress(ImportError):
                    importlib.import_module(f"{found.__name__}.{name}")
                found = getattr(found, name)


@each_page
def test_python_blocks_are_python(page):
    for block in fenced(page):
        ast.parse(block)


# --- chapters ---------------------------------------------------------------------------------------------------------


def test_the_house_is_described_as_it_stands():
    """The same in the docstring and in the chapter, and nothing that stands in the package is left out."""
    docstring = re.findall(r"^    (\S+) {2,}(.*)$", minddpg.__doc__, re.M)
    chapter = [[re.search(r"`(.+?)`", name)[1], what] for name, what in table(section(HOUSE, "## Reading order"))[1:]]
    assert [list(row) for row in docstring] == chapter
    named = {name for name, _ in docstring}
    files = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert named == files | folders


def test_every_script_is_described():
    named = set(re.findall(r"\((\w+\.py)\)", text(MEASURED)))
    assert named == {path.name for path in (ROOT / "scripts").glob("*.py")}


def test_the_deviations_name_fields_that_exist():
    deviations = text(HOUSE).split("in fields of `Config`:")[1].split("## ")[0]
    names = re.findall(r"`(\w+)(?:=\d+)?`", deviations)
    assert len(names) > 6
    assert set(names) <= set(Config.__dataclass_fields__)


def test_the_files_of_a_run_are_described(run_directory):
    rows = table(section(RUNS, "## The files of a run"))[1:]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert named == {*FILES, "replay/", "tensorboard/"}
    assert {path.name + "/" * path.is_dir() for path in run_directory.iterdir()} <= named


def test_the_example_of_the_front_page_runs_and_its_tables_are_described(monkeypatch):
    changed = {"steps": 300, "learning_starts": 200, "evaluate_every": 300}
    monkeypatch.setitem(PRESETS, "Pendulum-v1", PRESETS["Pendulum-v1"].replace(**changed))
    (block,) = [block for block in fenced(FRONT) if "minddpg.train" in block]
    names = {}
    exec(block, names)
    assert names["result"].steps == 300
    described = {row[0].strip("`"): row[1] for row in table(section(RUNS, "## The files of a run"))}
    for name in ("progress.csv", "eval.csv"):
        columns = set(text(Path("runs/first") / name).splitlines()[0].split(","))
        assert len(columns) > 5
        missing = {column for column in columns if not re.search(rf"\b{column}\b", described[name])}
        assert missing == (set(Losses._fields) if name == "progress.csv" else set())


def test_the_chapter_on_studies_describes_what_is_there():
    rows = table(section(STUDIES, "## What a study leaves behind"))[1:]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
    assert [name for name in named if "/" not in name] == list(STUDY_FILES)
    assert [row[0].strip("`") for row in table(section(STUDIES, "## Scores"))[1:]] == list(MEASURES)


def test_the_example_of_the_chapter_on_studies_can_be_run(monkeypatch, tmp_path):
    """Its call makes a plan, and what it asks of the study is there; test_study.py makes studies."""
    asked = []

    def run(out, envs, seeds, config, vary):
        asked.append(make_plan(envs, range(seeds), config, vary))
        return fake_study(tmp_path / out, seeds=seeds, vary=vary)

    monkeypatch.setattr("minddpg.study.run", run, raising=False)
    (block,) = fenced(STUDIES)
    names = {}
    exec(block, names)
    assert len(asked[0].jobs(tmp_path)) == 4
    assert isinstance(names["found"], Study)


@pytest.mark.parametrize(("start", "steps"), [("import minddpg", 1_400), ("import gymnasium", 500)])
def test_the_examples_of_the_chapter_on_runs_run(start, steps):
    (block,) = [block for block in fenced(RUNS) if block.startswith(start)]
    names = {}
    exec(block, names)
    assert names["result"].steps == steps
    assert (names["result"].directory / "checkpoint.npz").exists()


def test_the_wrappers_that_are_advised_exist():
    advised = re.findall(r"`(\w+(?:Observation|Reward))`", text(RUNS))
    assert len(advised) >= 3
    assert all(hasattr(gymnasium.wrappers, name) for name in advised)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_the_examples_of_gradient_checks_run_as_they_stand():
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", text(CHECKS), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    names["my_backward"] = lambda p, upstream: {"x": upstream @ p["W"].T, "W": p["x"].T @ upstream}
    with pytest.raises(AssertionError, match="not right"):
        names["test_my_layer"]()


def test_the_table_of_kinds_is_what_the_script_prints():
    script = ROOT / "scripts" / "gradcheck_kinds.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=clean_environment())
    assert result.returncode == 0, result.stderr
    printed = result.stdout.strip().splitlines()
    assert len(printed) == len(SITUATIONS) + 2

    def row(line):  # a last digit may differ on another CPU
        return re.sub(r"\d\.\d+|\de-\d+", "#", line)

    shown = [row(line) for line in text(CHECKS).splitlines() if line.startswith("| ")]
    for line in printed:
        assert row(line) in shown or line.startswith("|---"), line
        assert "FALSE ALARM" not in line
        assert "MISSED" not in line


def test_the_chapter_counts_the_catalogue():
    assert f"{len(BUGS) + len(SITUATIONS)} bugs of\npublic code" in text(FRONT)
    assert f"{len(CATALOGUE)} of {len(CATALOGUE)} bugs caught" in text(CHECKS)
    assert len(CATALOGUE) == len(BUGS) + len(SITUATIONS) + len(OPTION_BUGS) >= 90
    assert f"{len(BUGS)} bugs that public code has had" in text(CHECKS)
    assert f"{len(OPTION_BUGS)} of what can be got wrong in an option" in text(CHECKS)


def test_what_the_readme_shows_of_a_check_is_what_is_printed():
    script = ROOT / "scripts" / "check_your_own.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=clean_environment())
    assert result.returncode == 0, result.stderr
    shown = re.search(r"```\n(tensor .*?)```", text(CHECKS), re.S).group(1).strip().splitlines()
    assert len(shown) == 7
    for line in shown:
        assert line == "..." or line in result.stdout.splitlines(), line


def test_what_is_shown_of_a_trace_is_what_is_printed(capsys):
    assert cli.main(["gradflow"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    shown = re.search(r"```\n(RMS: root .*?)```", text(FLOW), re.S).group(1).rstrip().splitlines()
    assert len(shown) == 33
    for line in (line for line in shown if line not in ("...", "")):
        # Another CPU sums in another order, so the last digit may differ, and with it a width.
        same = [p for p in printed if p.split()[:1] == line.split()[:1] and len(numbers(p)) == len(numbers(line))]
        if len(line.split()) == 4 and not re.search("[a-z]{2}", line):  # a plain step: no name to find it by
            same = [p for p in printed if len(numbers(p)) == len(p.split()) == 4]
        assert any(np.allclose(numbers(p), numbers(line), rtol=0.02, atol=1e-12) for p in same), line


def test_the_mistakes_are_those_that_can_be_made():
    rows = table(section(FLOW, "## What goes wrong with each classic mistake"))[1:]
    assert len(rows) == 1 + len(MISTAKES)
    words = [set(re.findall(r"\w+", row[0])) - {"for", "too"} for row in rows[1:]]
    assert all(len(w & set(re.findall(r"\w+", mistake))) >= 1 for w, mistake in zip(words, MISTAKES, strict=True))


def test_the_checks_that_answer_questions_are_made(capsys):
    assert cli.main(["gradcheck", "--hidden-sizes", "4", "--batch-size", "4", "--mode", "directions"]) == 0
    output = capsys.readouterr().out
    questions = section(FLOW, "## What people ask")
    assert len(re.findall(r"^\| \d+\. ", questions, re.M)) == 15
    checks = [
        check
        for line in questions.splitlines()
        if "minddpg gradcheck`" in line
        for check in re.findall('"([^"]+)"', line)
    ]
    assert len(checks) == 7
    for check in checks:
        assert f"holds   {check}" in output, check
    bugs = re.findall(r'gradcheck --planted`: "([^"]+)"', questions)
    assert len(bugs) == 1
    assert all(any(bug in planted.name for planted in BUGS) for bug in bugs)
