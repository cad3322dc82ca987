"""The cache of compiled code is that of these sources: any edit of any of them, wherever it stands, is another one."""

import itertools

import pytest
from conftest import JIT

from minddpg.fast import cache
from minddpg.fast.jit import jit


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The cache's directory for the sources as they are, in a package of three levels."""
    for name in ("a.py", "runs/b.py", "runs/deep/c.py", "runs/deep/__init__.py"):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_text(f"# {name}\n")
    monkeypatch.setattr(cache, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return lambda: cache.open_cache().directory


def test_every_source_counts(directory, tmp_path):
    package, seen = tmp_path / "package", [directory()]
    assert directory() == seen[0]
    for path in sorted(package.rglob("*.py")):
        before = path.read_text()
        for text in (before + "#", before[:-1], before.replace("#", "!")):
            path.write_text(text)
            seen.append(directory())
        path.write_text(before)
        assert directory() == seen[0]
    renamed = (package / "runs" / "b.py").rename(package / "runs" / "deep" / "b.py")
    seen.append(directory())
    renamed.rename(package / "runs" / "b.py")
    (package / "runs" / "deep" / "new.py").touch()
    seen.append(directory())
    (package / "runs" / "deep" / "new.py").unlink()
    (package / "a.py").unlink()
    seen.append(directory())
    assert all(one != other for one, other in itertools.combinations(seen, 2))
    assert all(path.parent == seen[0].parent for path in seen)


def test_nothing_but_sources_counts(directory, tmp_path):
    before = directory()
    (tmp_path / "package" / "runs" / "README.md").write_text("words")
    assert directory() == before


def test_every_version_and_machine_counts(directory, monkeypatch):
    """Numba, llvmlite, NumPy, Python, the CPU, its features, and what was asked for."""
    seen = [directory()]
    for target, value in (
        ("numba.__version__", "0.1"),
        ("llvmlite.__version__", "0.1"),
        ("numpy.__version__", "0.1"),
        ("sys.implementation.cache_tag", "other"),
        ("numba.config.CPU_NAME", "generic"),
        ("numba.config.CPU_FEATURES", "+none"),
        ("minddpg.fast.cache.get_host_cpu_name", lambda: "other"),
        ("minddpg.fast.cache.get_host_cpu_features", lambda: {"avx": True, "none": False}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            seen.append(directory())
    with monkeypatch.context() as patch:
        patch.setattr("minddpg.fast.cache.get_host_cpu_features", lambda: {"avx": True, "none": True})
        seen.append(directory())
    assert len(set(seen)) == len(seen)
    assert directory() == seen[0]


@pytest.mark.skipif(not JIT, reason="about compiled code")
def test_a_division_by_zero_raises_nothing_in_compiled_code():
    """Which is what lets Adam's loop vectorise, and an actor's NaN be found where it is looked for."""

    @jit
    def quotient(one, other):
        return one / other

    assert quotient(1.0, 0.0) == float("inf")
    assert quotient(0.0, 0.0) != quotient(0.0, 0.0)
