"""The cache of compiled code is that of these sources: any edit of any of them, wherever it stands, is another one."""

import itertools

import numpy as np
import pytest
from conftest import JIT
from hypothesis import given
from hypothesis import strategies as st

from minddpg.fast import cache
from minddpg.fast.jit import each, jit, where


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
    for name in ("deep/b.py", "bb.py"):  # in another order, and in the same
        renamed = (package / "runs" / "b.py").rename(package / "runs" / name)
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


@jit
def in_order(values):
    total = values.dtype.type(0)
    for i in range(len(values)):
        total += values[i]
    return total


@jit(fastmath={"reassoc"})
def in_any_order(values):
    total = values.dtype.type(0)
    for i in range(len(values)):
        total += values[i]
    return total


def test_sums_keep_their_order_unless_they_say_otherwise():
    """So that results are the same on every CPU; and that who allows another order has the faster loop."""
    values = np.random.default_rng(0).standard_normal(1_000).astype(np.float32) * 1e4
    one_by_one = np.add.accumulate(values)[-1]
    assert in_order(values) == one_by_one
    assert in_any_order(values) == pytest.approx(float(np.sum(values, dtype=np.float64)), rel=1e-3)
    if JIT:
        assert in_any_order(values) != one_by_one


def test_a_nan_is_one_in_compiled_code():
    @jit
    def finite_sum(values):
        total = 0.0
        for i in range(len(values)):
            if values[i] == values[i] and abs(values[i]) != np.inf:
                total += values[i]
        return total

    assert finite_sum(np.array([1.0, np.nan, 2.0, np.inf, -np.inf])) == 3.0


@given(
    values=st.lists(st.floats(allow_nan=True, width=32), max_size=19),
    other=st.floats(-4, 4, width=32),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_each_and_where_are_the_loop_they_stand_for(values, other, dtype):
    """NaN, infinities, -0 and nothing at all included."""
    x, bound = np.array(values, dtype), np.dtype(dtype).type(other)
    expected = np.array([bound if v < bound else v for v in x], dtype)
    found = bounded(x, bound)
    assert found.dtype == x.dtype
    assert found.tobytes() == expected.tobytes() or np.isnan(x).any()
    np.testing.assert_array_equal(found, expected)


@jit
def bounded(x, bound):
    out = np.full_like(x, 9)
    for i in each(x):
        out[i] = where(x[i] < bound, bound, x[i])
    return out
