"""setup.cfg promises nothing that is not used."""

import ast
import configparser
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = {name: text.split() for name, text in SETUP["options.extras_require"].items()}

# What is not imported: commands, as .ci/run gives them or takes them from README.md, and what an environment that is
# named here imports.
TOOLS = {"pytest-cov": "--cov", "pytest-xdist": "-n auto", "ruff": "ruff check", "mypy": "bin/mypy"}
COMMANDS = "".join((ROOT / path).read_text(encoding="utf-8") for path in (".ci/run", "README.md"))
ENVIRONMENTS = {"mujoco": "HalfCheetah-v5", "box2d": "LunarLanderContinuous-v3", "classic-control": "Pendulum-v1"}

UNDECLARED = {"packaging": "shimmy"}  # imported by a package that does not ask for it


def sources(*folders):
    return "\n".join(path.read_text(encoding="utf-8") for f in folders for path in (ROOT / f).rglob("*.py"))


def is_used(requirement):
    name, inner = re.match(r"([\w-]+)(?:\[(.*)\])?", requirement).groups()
    if name in TOOLS:
        return TOOLS[name] in COMMANDS
    if (of := inner if name == "gymnasium" else name) in ENVIRONMENTS:
        return ENVIRONMENTS[of] in sources("minddpg", "scripts")
    if name in UNDECLARED:
        return is_used(UNDECLARED[name])
    imported = rf"^\s*(?:import|from) {name}\b|(?:importorskip|need)\(\s*\"{name}\b"
    return re.search(imported, sources("minddpg", "tests", "scripts"), re.M) is not None


def requirements():
    return [(extra, text) for extra, texts in EXTRAS.items() for text in texts if not text.startswith("minddpg[")]


@pytest.mark.parametrize(("extra", "requirement"), requirements())
def test_what_an_extra_installs_is_used(extra, requirement):
    assert is_used(requirement), f"[{extra}] installs {requirement}, which nothing imports"


def test_an_unused_package_would_be_found():
    assert not is_used("prefect" + ">=3")


def test_all_is_every_extra_that_a_user_has_a_use_for():
    (text,) = EXTRAS["all"]
    included = re.fullmatch(r"minddpg\[(.*)\]", text).group(1).split(",")
    assert set(included) == set(EXTRAS) - {"all", "test", "onnx-test", "browser-test", "crosscheck", "dm-control"}


def test_extras_named_in_messages_exist():
    named = set(re.findall(r"'\.\[(\w[\w-]*)\]'", sources("minddpg")))
    named |= set(re.findall(r"\bneed\(\"[\w.]+\", \"([\w-]+)\"", sources("minddpg")))
    assert {"plot", "video", "tensorboard", "onnx"} <= named
    assert named <= set(EXTRAS)


def test_run_time_dependencies_are_three():
    names = [re.match(r"\w+", line).group() for line in SETUP["options"]["install_requires"].split()]
    assert names == ["numpy", "gymnasium", "numba"]


@pytest.mark.parametrize("package", ["minddpg", "minddpg.gradflow"])
def test_what_is_imported_late_is_what_type_checkers_see(package):
    """The same names from the same files, in both lists of a lazy __init__."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    typed = {alias.asname: node.module or "" for node in block.body for alias in node.names}
    assert typed == module._HOME
    assert set(module.__all__) - {"__version__"} == set(typed)
    for name in typed:
        assert getattr(module, name) is not None
