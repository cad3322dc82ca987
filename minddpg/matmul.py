"""The one low-level room of the house: `a @ b`, `a.T @ b` and `a @ b.T` for compiled code, without SciPy or BLAS.

Numba's `@` needs SciPy. So each product below is a plain NumPy function, and `overload` tells Numba what the same call
compiles to: a register tile, ROWS x two vectors of the result kept in the CPU's vector registers while one loop runs
over the summed axis. The right-hand side is first packed, one panel of columns at a time, into consecutive memory.
Edges need no second kernel: the last tile of a row or column is moved back until it fits, and computes a few entries
twice. Products too thin for a tile (one output, `act_dim` columns, one observation) are plain loops that vectorise.

Nothing here is needed to understand DDPG.
"""

from typing import Any

import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features
from numba.extending import overload

from .jit import FloatArray, jit
from .parts import Part


def matmul(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """out[...] = a @ b for C-contiguous a (m, k), b (k, n), out (m, n) of one float dtype."""
    np.matmul(a, b, out=out)


def matmul_left_transposed(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """out[...] = a.T @ b for C-contiguous a (k, m), b (k, n), out (m, n): the shape of a weight gradient."""
    np.matmul(a.T, b, out=out)


def matmul_right_transposed(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """out[...] = a @ b.T for C-contiguous a (m, k), b (n, k), out (m, n): the shape of an input gradient."""
    np.matmul(a, b.T, out=out)


def vector_bytes() -> int:
    """Width of the vector registers to compile for: 64 (AVX-512), 32 (AVX) or 16 (SSE2, NEON, and any unknown CPU)."""
    if numba.config.CPU_NAME:  # somebody asked for another CPU than this one
        features = numba.config.CPU_FEATURES or ""
    else:
        features = get_host_cpu_features()
    if "+avx512f" in features:
        return 64
    return 32 if "+avx," in features + "," else 16


VECTOR_BYTES = vector_bytes()
ROWS = 8 if VECTOR_BYTES == 64 else 6  # of a tile: as many as the registers hold beside two vectors of b and one of a
VECTORS = 2


# --- thin products: loops, vectorised along the last axis -------------------------------------------------------------
# A sum over the last axis only vectorises when its order may change: the one place of the package that says so.


@jit(fastmath={"reassoc", "contract", "nsz"})
def _dot_rows(a, b, out):
    """out = a @ b.T as dot products of rows."""
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            total = a.dtype.type(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[j, k]
            out[i, j] = total


@jit(fastmath={"contract"})
def _add_rows(a, b, out):
    """out = a @ b as sums of b's rows."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            out[i, j] = 0
        for k in range(a.shape[1]):
            scale = a[i, k]
            for j in range(b.shape[1]):
                out[i, j] += scale * b[k, j]


@jit(fastmath={"contract"})
def _add_outer(a, b, out):
    """out = a.T @ b as a sum of outer products, one per row of a and b."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = 0
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            scale = a[k, i]
            for j in range(b.shape[1]):
                out[i, j] += scale * b[k, j]


@jit
def _transpose(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[j, i] = a[i, j]


# --- the register tile, as LLVM instructions --------------------------------------------------------------------------

if not numba.config.DISABLE_JIT:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def _multiply_tile(typingctx, a, a_start, a_row, a_step, panel, depth, out, out_start, out_row):  # type: ignore
        """out[r, c] = sum_k a[r, k] * panel[k, c] for one tile of ROWS x VECTORS vectors.

        a, panel and out are 1-D. Row r, depth k of a is a[a_start + r a_row + k a_step], so that swapping the two
        strides reads a transposed; row r of the tile starts at out[out_start + r out_row].
        """
        lanes = VECTOR_BYTES // (a.dtype.bitwidth // 8)
        scalar: Any = ir.FloatType() if a.dtype == types.float32 else ir.DoubleType()
        vector, integer, int32 = ir.VectorType(scalar, lanes), ir.IntType(64), ir.IntType(32)
        signature = types.void(a, a_start, a_row, a_step, panel, depth, out, out_start, out_row)

        def codegen(context, builder, sig, args):  # type: ignore
            data = [
                context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
                for kind, value in zip(sig.args, args, strict=True)
            ]
            a_data, start, row_stride, k_stride, panel_data, k_end, out_data, out_at, out_stride = data
            multiply_add = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fmuladd.v{lanes}f{a.dtype.bitwidth}",  # fused where the CPU can
            )
            a_rows = [
                builder.gep(a_data, [builder.add(start, builder.mul(row_stride, integer(r)))]) for r in range(ROWS)
            ]
            before = builder.block
            loop, done = builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(integer)
            k.add_incoming(integer(0), before)
            tile = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(ROWS)]
            columns = []
            for v in range(VECTORS):
                at = builder.add(builder.mul(k, integer(VECTORS * lanes)), integer(v * lanes))
                load = builder.load(builder.bitcast(builder.gep(panel_data, [at]), vector.as_pointer()))
                load.align = a.dtype.bitwidth // 8
                columns.append(load)
            undefined = ir.Constant(vector, ir.Undefined)
            first_lane = ir.Constant(ir.VectorType(int32, lanes), None)
            a_at = builder.mul(k, k_stride)
            summed = []
            for r in range(ROWS):
                element = builder.load(builder.gep(a_rows[r], [a_at]))
                spread = builder.insert_element(undefined, element, int32(0))
                spread = builder.shuffle_vector(spread, undefined, first_lane)
                summed.append([builder.call(multiply_add, [spread, columns[v], tile[r][v]]) for v in range(VECTORS)])
            k_next = builder.add(k, integer(1))
            k.add_incoming(k_next, loop)
            for r in range(ROWS):
                for v in range(VECTORS):
                    tile[r][v].add_incoming(ir.Constant(vector, None), before)
                    tile[r][v].add_incoming(summed[r][v], loop)
            builder.cbranch(builder.icmp_signed("<", k_next, k_end), loop, done)

            builder.position_at_end(done)
            for r in range(ROWS):
                for v in range(VECTORS):
                    at = builder.add(builder.add(out_at, builder.mul(out_stride, integer(r))), integer(v * lanes))
                    pointer = builder.bitcast(builder.gep(out_data, [at]), vector.as_pointer())
                    store = builder.store(summed[r][v], pointer)
                    store.align = a.dtype.bitwidth // 8
            return context.get_dummy_value()

        return signature, codegen

    OPTIONS = {"pipeline_class": Part} if Part else {}

    # The panel is what one pass over a's rows needs of b; kept small, it stays in the fastest cache.

    @jit
    def _pack_columns(b, j, panel):
        """panel[k, c] = b[j + c, k]."""
        for c in range(panel.shape[1]):
            for k in range(panel.shape[0]):
                panel[k, c] = b[j + c, k]

    @jit
    def _multiply_panel(flat_a, a_row, a_step, panel, out, column):
        """One panel of columns of out, tile by tile; the last tile is moved up to end with the last row."""
        depth, (m, n) = panel.shape[0], out.shape
        flat_panel, flat_out = panel.reshape(panel.size), out.reshape(out.size)
        for tile in range((m + ROWS - 1) // ROWS):
            i = min(tile * ROWS, m - ROWS)
            _multiply_tile(flat_a, i * a_row, a_row, a_step, flat_panel, depth, flat_out, i * n + column, n)

    def _panel_width(array: types.Array) -> int:
        return VECTORS * VECTOR_BYTES // (array.dtype.bitwidth // 8)

    def _check(a: types.Array, b: types.Array, out: types.Array) -> None:
        for array in (a, b, out):
            if array.ndim != 2 or array.layout != "C" or array.dtype != a.dtype:
                raise numba.errors.TypingError(f"matmul needs C-contiguous matrices of one float dtype, not {array}")

    @overload(matmul, jit_options=OPTIONS)
    def _matmul(a, b, out):  # type: ignore
        _check(a, b, out)
        width = _panel_width(a)

        def compiled(a, b, out):  # type: ignore
            k, n = b.shape
            if n < width and n < a.shape[0]:
                transposed = np.empty((n, k), a.dtype)
                _transpose(b, transposed)
                _dot_rows(a, transposed, out)
            elif n < width or a.shape[0] < ROWS:
                _add_rows(a, b, out)
            else:
                flat_a, panel = a.reshape(a.size), np.empty((k, width), a.dtype)
                for p in range((n + width - 1) // width):
                    j = min(p * width, n - width)
                    for row in range(k):
                        for c in range(width):  # a constant here, and so vector moves
                            panel[row, c] = b[row, j + c]
                    _multiply_panel(flat_a, k, 1, panel, out, j)

        return compiled

    @overload(matmul_left_transposed, jit_options=OPTIONS)
    def _matmul_left_transposed(a, b, out):  # type: ignore
        _check(a, b, out)
        width = _panel_width(a)

        def compiled(a, b, out):  # type: ignore
            (k, n), m = b.shape, a.shape[1]
            if n < width and n < m:
                transposed = np.empty((n, m), a.dtype)
                _add_outer(b, a, transposed)
                _transpose(transposed, out)
            elif n < width or m < ROWS:
                _add_outer(a, b, out)
            else:
                flat_a, panel = a.reshape(a.size), np.empty((k, width), a.dtype)
                for p in range((n + width - 1) // width):
                    j = min(p * width, n - width)
                    for row in range(k):
                        for c in range(width):  # a constant here, and so vector moves
                            panel[row, c] = b[row, j + c]
                    _multiply_panel(flat_a, 1, m, panel, out, j)

        return compiled

    @overload(matmul_right_transposed, jit_options=OPTIONS)
    def _matmul_right_transposed(a, b, out):  # type: ignore
        _check(a, b, out)
        width = _panel_width(a)

        def compiled(a, b, out):  # type: ignore
            n, k = b.shape
            if k == 1:
                _add_rows(a, b.reshape(1, n), out)
            elif n < width or a.shape[0] < ROWS:
                _dot_rows(a, b, out)
            else:
                flat_a, panel = a.reshape(a.size), np.empty((k, width), a.dtype)
                for p in range((n + width - 1) // width):
                    j = min(p * width, n - width)
                    _pack_columns(b, j, panel)
                    _multiply_panel(flat_a, k, 1, panel, out, j)

        return compiled
