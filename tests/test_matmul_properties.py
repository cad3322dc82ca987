"""The three products at every edge of the tile this CPU has, in both dtypes, with what lies around the result intact.

The tile's sizes are taken from where they are: ROWS rows, VECTORS vectors of columns, lanes numbers a vector.
"""

import itertools

import numpy as np
import pytest

from minddpg.fast import matmul as room
from minddpg.fast.jit import jit
from minddpg.fast.matmul import matmul, matmul_left_transposed, matmul_right_transposed


@jit
def plain(a, b, out):
    matmul(a, b, out)


@jit
def left(a, b, out):
    matmul_left_transposed(a, b, out)


@jit
def right(a, b, out):
    matmul_right_transposed(a, b, out)


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
    for m, n, k in itertools.product(heights, widths, depths):
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
    for m, n, k in itertools.product((1, room.ROWS + 1), (1, 3, width + 1), (1, 9)):
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
