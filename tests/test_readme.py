"""The README quotes code and commands; they must be there."""

import re
from pathlib import Path

from minddpg import Config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
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
