"""The decorator: never stale, and plain Python without the JIT. (Its cache: test_cache.py.)"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import JIT, clean_environment

import minddpg
from minddpg.fast import jit

needs_jit = pytest.mark.skipif(not JIT, reason="about compiled code")


@pytest.fixture
def package_copy(tmp_path):
    shutil.copytree(Path(minddpg.__file__).parent, tmp_path / "copy" / "minddpg")
    return tmp_path / "copy"


def python(code, package, cache, **changes):
    environment = clean_environment(PYTHONPATH=str(package), NUMBA_CACHE_DIR=str(cache), **changes)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=200)


TANH = "import numpy as np, minddpg.networks as n; r = np.random.default_rng(0)\n" + (
    "a = n.new_actor(1, 1, (), None, 'float64', r); a.params[:] = 1\n"
    "print(n.actor_forward(a, np.zeros((1, 1)))[0][0, 0])"
)


@needs_jit
def test_an_edit_in_another_file_is_noticed(package_copy, tmp_path):
    """tanh is edited in layers.py; the function asked stands in networks.py."""
    first = python(TANH, package_copy, tmp_path / "cache")
    assert float(first.stdout) == pytest.approx(np.tanh(1)), first.stderr
    layers = package_copy / "minddpg" / "layers.py"
    layers.write_text(layers.read_text().replace("flat[i] = np.tanh(flat[i])", "flat[i] = np.tanh(flat[i]) + 500"))
    second = python(TANH, package_copy, tmp_path / "cache")
    assert float(second.stdout) == pytest.approx(np.tanh(1) + 500), second.stderr


def test_without_the_jit_there_is_no_cache_and_functions_stay_python():
    code = (
        "import minddpg.fast.jit as j, minddpg.ddpg as d; "
        "print(j.CACHE, type(d.update).__name__, j.is_warm('update', 'float32'))"
    )
    result = python(code, Path(minddpg.__file__).parent.parent, "unused", NUMBA_DISABLE_JIT="1")
    assert result.stdout.split() == ["None", "function", "True"], result.stderr


def test_what_is_remembered_as_compiled_stands_in_one_table():
    for what in ("float32", "looks", ""):
        with pytest.raises(AssertionError):
            jit.mark_warm(what) if jit.CACHE is not None else jit._flag(what, "")
    assert len({jit._flag(what, dtype) for what in jit.WARM for dtype in ("float32", "float64")}) == 2 * len(jit.WARM)


@needs_jit
def test_squares_are_finite_is_the_same_compiled(rng):
    @jit.jit
    def compiled(v):
        return jit.squares_are_finite(v)

    for dtype, most in (("float32", 1.8e19), ("float64", 1.3e154)):
        for n in (0, 1, 33):
            for bad in (0, most, -most, 1.1 * most, -1.1 * most, np.inf, -np.inf, np.nan):
                v = rng.standard_normal(n + 1).astype(dtype)
                v[n] = bad
                assert compiled(v) == jit.squares_are_finite(v) == (abs(bad) <= most)


def test_each_and_where(rng):
    @jit.jit
    def clipped(x):
        zero = x.dtype.type(0)
        out = np.empty_like(x)
        for i in jit.each(x):
            out[i] = jit.where(x[i] < zero, zero, x[i])
        return out

    for dtype in ("float32", "float64"):
        x = rng.standard_normal(17).astype(dtype)
        np.testing.assert_array_equal(clipped(x), np.maximum(x, 0))
        assert clipped(x[:0]).size == 0
