"""The three products against NumPy, on every kind of shape: thin, around the tile's edges, large."""

import os
import platform
import subprocess
import sys
from itertools import product as product_of
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT, JIT, clean_environment
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpg.fast import matmul as room
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


def edges(size, times=(1, 2, 3)):
    """1, and one less, as many, and one more than so many tiles."""
    return sorted({1, 2, *(k * size + d for k in times for d in (-1, 0, 1))} - {0})


def operands(m, k, n):
    """Small whole numbers, in float64: every sum is exact in float32, in whatever order it is formed."""
    i, j, c = np.arange(m)[:, None], np.arange(k), np.arange(n)
    return (5 * i + 3 * j + i * j) % 17 - 8.0, (7 * j[:, None] + 2 * c + j[:, None] * c) % 13 - 6.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_shape_at_every_edge_of_the_tile(dtype):
    lanes = room.VECTOR_BYTES // np.dtype(dtype).itemsize
    width = room.VECTORS * lanes
    heights = edges(room.ROWS)
    widths = sorted({*edges(width), *edges(lanes, (1, 3))})
    depths = sorted({1, 3, 4, 5, *edges(lanes, (1, 2)), width + 1})
    for m, n, k in product_of(heights, widths, depths):
        a, b = (x.astype(dtype) for x in operands(m, k, n))
        expected = (a.astype(float) @ b.astype(float)).astype(dtype)
        a_t, b_t = a.T.copy(), b.T.copy()
        for product, x, y in ((plain, a, b), (left, a_t, b), (right, a, b_t)):
            around = np.full((m + 2, n), np.nan, dtype)
            product(x, y, around[1:-1])
            assert np.array_equal(around[1:-1], expected), (product, m, k, n)
            assert np.isnan(around[[0, -1]]).all(), "a row beside the result was written"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_its_own_row_or_column_alone(dtype, value):
    """Whichever way the product is formed: no sum is taken for finite, none passes it on."""
    width = room.VECTORS * room.VECTOR_BYTES // np.dtype(dtype).itemsize
    for m, n, k in product_of((1, room.ROWS + 1), (1, 3, width + 1), (1, 9)):
        a, b = np.ones((m, k), dtype), np.ones((k, n), dtype)
        for spoilt, where in ((a, (m - 1, k - 1)), (b, (k - 1, n - 1))):
            kept, spoilt[where] = spoilt[where], value
            expected = np.full((m, n), k, dtype)
            expected[(-1, slice(None)) if spoilt is a else (slice(None), -1)] = value
            for product, x, y in ((plain, a, b), (left, a.T.copy(), b), (right, a, b.T.copy())):
                out = np.zeros((m, n), dtype)
                with np.errstate(invalid="ignore"):
                    product(x, y, out)
                np.testing.assert_array_equal(out, expected)
            spoilt[where] = kept


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
    environment = clean_environment(PYTHONPATH=os.pathsep.join([CHECKOUT, str(Path(__file__).parent)]), **cpu)
    result = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == str(width), result.stderr
