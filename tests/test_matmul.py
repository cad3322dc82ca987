"""The three products against NumPy, on every kind of shape: thin, around the tile's edges, large."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import JIT, clean_environment
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpg.fast.jit import jit
from minddpg.fast.matmul import (
    _add_outer,
    _add_rows,
    _dot_rows,
    _transpose,
    matmul,
    matmul_left_transposed,
    matmul_right_transposed,
    vector_bytes,
)


@jit
def plain(a, b, out):
    matmul(a, b, out)


@jit
def left(a, b, out):
    matmul_left_transposed(a, b, out)


@jit
def right(a, b, out):
    matmul_right_transposed(a, b, out)


SIZES = st.one_of(st.integers(1, 9), st.integers(10, 70), st.sampled_from([100, 128, 300]))


def check(m, k, n, dtype, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    expected, room = a.astype(float) @ b.astype(float), 1e-5 if dtype == "float32" else 1e-13
    error = room * (np.abs(a).astype(float) @ np.abs(b).astype(float))
    a_t, b_t = a.T.copy(), b.T.copy()
    for product, x, y in ((plain, a, b), (left, a_t, b), (right, a, b_t)):
        out = np.full((m + 1, n), np.nan, dtype)  # the row behind must stay untouched
        kept = x.copy(), y.copy()
        product(x, y, out[:m])
        assert np.all(np.abs(out[:m] - expected) <= error), product
        assert np.isnan(out[m]).all()
        np.testing.assert_array_equal(x, kept[0])
        np.testing.assert_array_equal(y, kept[1])


@settings(max_examples=150)
@given(m=SIZES, k=SIZES, n=SIZES, dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 9))
def test_any_shape(m, k, n, dtype, seed):
    check(m, k, n, dtype, seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_around_the_tile(dtype):
    for m in (1, 5, 6, 7, 8, 9, 12, 13):
        for n in (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 49):
            for k in (1, 2, 8):
                check(m, k, n, dtype, 0)


def test_the_loops_for_thin_products(rng):
    a, b = rng.standard_normal((3, 5)), rng.standard_normal((5, 4))
    for function, x, y in ((_dot_rows, a, b.T.copy()), (_add_rows, a, b), (_add_outer, a.T.copy(), b)):
        out = np.full((3, 4), np.nan)
        function(0, 1, x, y, out)
        np.testing.assert_allclose(out, a @ b, rtol=1e-13)
    out = np.empty((5, 3))
    _transpose(a, out)
    np.testing.assert_array_equal(out, a.T)


@pytest.mark.parametrize(
    ("name", "features", "width"),
    [("generic", "", 16), ("haswell", "+avx,+avx2", 32), ("skylake-avx512", "+avx,+avx512f", 64), (None, None, None)],
)
def test_the_tile_fits_the_cpu(monkeypatch, name, features, width):
    monkeypatch.setattr("numba.config.CPU_NAME", name)
    monkeypatch.setattr("numba.config.CPU_FEATURES", features)
    assert vector_bytes() in ((width,) if width else (16, 32, 64))


PRODUCTS = """
import numpy as np
from minddpg.fast.matmul import VECTOR_BYTES
from test_matmul import left, plain, right

rng = np.random.default_rng(0)
for dtype, rtol in (("float32", 1e-4), ("float64", 1e-12)):
    for m, k, n in ((37, 19, 45), (64, 64, 64), (5, 33, 70), (9, 1, 8), (40, 3, 1)):
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        for function, x, y in ((plain, a, b), (left, a.T.copy(), b), (right, a, b.T.copy())):
            out = np.full((m, n), np.nan, dtype)
            function(x, y, out)
            np.testing.assert_allclose(out, a @ b, rtol=rtol, atol=rtol)
print(VECTOR_BYTES)
"""


@pytest.mark.skipif(not JIT or platform.machine() not in ("x86_64", "AMD64"), reason="about code compiled for x86-64")
@pytest.mark.parametrize(("name", "features", "width"), [("generic", "", 16), ("haswell", "+avx,+avx2,+fma", 32)])
def test_products_compiled_for_another_cpu(tmp_path, name, features, width):
    """Not only this machine's vectors: an AVX2 CPU, and any x86-64."""
    if width == 32 and vector_bytes() < 32:
        pytest.skip("this CPU has no AVX2")
    cpu = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    environment = clean_environment(PYTHONPATH=str(Path(__file__).parent), **cpu)
    result = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == str(width), result.stderr
