"""The README quotes code and commands; they must be there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import clean_environment

from minddpg import Config, cli
from minddpg.gradcheck.planted import BUGS, CATALOGUE
from minddpg.gradcheck.situations import SITUATIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CHAPTER = (ROOT / "minddpg" / "gradcheck" / "README.md").read_text()
SOURCE = (line.strip() for line in (ROOT / "minddpg" / "ddpg.py").read_text().splitlines())
DDPG = "\n".join(line.split("  #")[0].rstrip() for line in SOURCE if not line.startswith("#"))


def test_the_chain_is_quoted_as_it_runs():
    block = re.search(r"```python\n(act, actor_cache.*?)```", README, re.S).group(1)
    lines = block.strip().splitlines()
    assert len(lines) == 6
    assert "\n".join(lines) in DDPG


def test_the_ten_steps_name_lines_that_exist():
    rows = re.findall(r"^\| (\d+) \| .*? \| (.*) \|$", README, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    quoted = [code for _, cell in rows for code in re.findall(r"`([^`]+)`", cell) if "=" in code or "(" in code]
    assert len(quoted) == 7
    for code in quoted:
        assert code in DDPG.splitlines(), code


def test_the_deviations_name_fields_that_exist():
    section = README.split("in fields of `Config`:")[1].split("## ")[0]
    names = re.findall(r"`(\w+)(?:=\d+)?`", section)
    assert len(names) > 6
    assert set(names) <= set(Config.__dataclass_fields__)


def test_both_commands_are_one_line_each():
    commands = re.findall(r"^(python3 -m venv .*)$", README, re.M)
    assert len(commands) == 2
    assert "minddpg train" in commands[0]
    assert "pytest" in commands[1]


def test_the_examples_of_gradient_checks_run_as_they_stand():
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", CHAPTER, re.S)
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

    shown = [row(line) for line in CHAPTER.splitlines() if line.startswith("| ")]
    for line in printed:
        assert row(line) in shown or line.startswith("|---"), line
        assert "FALSE ALARM" not in line
        assert "MISSED" not in line


def test_the_chapter_counts_the_catalogue():
    assert f"{len(CATALOGUE)} bugs of\npublic code" in README
    assert f"{len(CATALOGUE)} of {len(CATALOGUE)} bugs caught" in CHAPTER
    assert len(CATALOGUE) == len(BUGS) + len(SITUATIONS) >= 50
    assert f"{len(BUGS)} bugs that public code has had" in CHAPTER


def test_what_the_readme_shows_of_a_check_is_what_is_printed():
    script = ROOT / "scripts" / "check_your_own.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=clean_environment())
    assert result.returncode == 0, result.stderr
    shown = re.search(r"```\n(tensor .*?)```", CHAPTER, re.S).group(1).strip().splitlines()
    assert len(shown) == 7
    for line in shown:
        assert line == "..." or line in result.stdout.splitlines(), line


def _numbers(line):
    return [float(word) for word in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", line)]


def test_what_the_readme_shows_of_a_trace_is_what_is_printed(capsys):
    assert cli.main(["gradflow"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    shown = re.search(r"```\n(    tensor  .*?)```", README, re.S).group(1).rstrip().splitlines()
    assert len(shown) == 22
    for line in (line for line in shown if line != "..."):
        # Another CPU sums in another order, so the last digit may differ, and with it a width.
        same = [p for p in printed if p.split()[:1] == line.split()[:1] and len(_numbers(p)) == len(_numbers(line))]
        assert any(np.allclose(_numbers(p), _numbers(line), rtol=0.02, atol=1e-12) for p in same), line


def test_the_checks_the_readme_names_are_made(capsys):
    assert cli.main(["gradcheck", "--hidden-sizes", "4", "--batch-size", "4", "--mode", "directions"]) == 0
    output = capsys.readouterr().out
    questions = README.split("### What people ask")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| \d+\. ", questions, re.M)) == 15
    quoted = [
        text
        for line in questions.splitlines()
        if "minddpg gradcheck`" in line
        for text in re.findall('"([^"]+)"', line)
    ]
    assert len(quoted) == 7
    for text in quoted:
        assert f"holds   {text}" in output, text
    bugs = re.findall(r'gradcheck --planted`: "([^"]+)"', questions)
    assert len(bugs) == 1
    assert all(any(bug in planted.name for planted in BUGS) for bug in bugs)
