"""The one low-level room of the house: `a @ b`, `a.T @ b` and `a @ b.T` for compiled code, without SciPy or BLAS.

Numba's `@` needs SciPy. So each product below is a plain NumPy function, and `overload` tells Numba what the same call
compiles to: a register tile, ROWS x two vectors of the result kept in the CPU's vector registers while one loop runs
over the summed axis. The right-hand side is first packed, one panel of columns at a time, into consecutive memory; what
comes transposed is turned on the way, because the tile reads fastest along rows.
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
from .threads import share


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
THIN, COLUMNS = 32, 64  # rows, columns that are one part of a product too thin for tiles


# --- thin products: loops, vectorised along the last axis -------------------------------------------------------------
# A sum over the last axis only vectorises when its order may change: the one place of the package that says so.


@jit(fastmath={"reassoc", "contract", "nsz"})
def _dot_rows(first, last, a, b, out):
    """out = a @ b.T as dot products of rows. A part is some rows of out."""
    for i in range(first * THIN, min(last * THIN, a.shape[0])):
        for j in range(b.shape[0]):
            total = a.dtype.type(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[j, k]
            out[i, j] = total


@jit(fastmath={"contract"})
def _add_rows(first, last, a, b, out):
    """out = a @ b as sums of b's rows, four at a time: a row of out is read and written for each time.

    A part is some rows of out.
    """
    fours = a.shape[1] // 4 * 4
    for i in range(first * THIN, min(last * THIN, a.shape[0])):
        for j in range(b.shape[1]):
            out[i, j] = 0
        for k in range(0, fours, 4):
            a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            for j in range(b.shape[1]):
                out[i, j] += a0 * b[k, j] + a1 * b[k + 1, j] + a2 * b[k + 2, j] + a3 * b[k + 3, j]
        for k in range(fours, a.shape[1]):
            scale = a[i, k]
            for j in range(b.shape[1]):
                out[i, j] += scale * b[k, j]


@jit(fastmath={"contract"})
def _add_outer(first, last, a, b, out):
    """out = a.T @ b as a sum of outer products, one per row of a and b, four at a time. A part is some columns."""
    fours = a.shape[0] // 4 * 4
    for part in range(first, last):
        start, stop = part * COLUMNS, min((part + 1) * COLUMNS, b.shape[1])
        for i in range(out.shape[0]):
            for j in range(start, stop):
                out[i, j] = 0
        for k in range(0, fours, 4):
            for i in range(a.shape[1]):
                a0, a1, a2, a3 = a[k, i], a[k + 1, i], a[k + 2, i], a[k + 3, i]
                for j in range(start, stop):
                    out[i, j] += a0 * b[k, j] + a1 * b[k + 1, j] + a2 * b[k + 2, j] + a3 * b[k + 3, j]
        for k in range(fours, a.shape[0]):
            for i in range(a.shape[1]):
                scale = a[k, i]
                for j in range(start, stop):
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

    integer, int32 = ir.IntType(64), ir.IntType(32)

    def _vector(dtype: types.Float) -> tuple[Any, int]:
        """The vector type that fills a register, and how many numbers it holds."""
        lanes = VECTOR_BYTES // (dtype.bitwidth // 8)
        return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), lanes), lanes

    def _values(context: Any, builder: Any, sig: Any, args: Any) -> list[Any]:
        """The arguments, each array as the pointer to its first element."""
        return [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(sig.args, args, strict=True)
        ]

    def _at(builder: Any, data: Any, start: Any, row: Any, r: Any, column: int = 0) -> Any:
        """The pointer to data[start + row r + column]; start, row and r are LLVM integers."""
        return builder.gep(data, [builder.add(builder.add(start, builder.mul(row, r)), integer(column))])

    def _load(builder: Any, pointer: Any, vector: Any) -> Any:
        load = builder.load(builder.bitcast(pointer, vector.as_pointer()))
        load.align = VECTOR_BYTES // vector.count  # one number's: a row may start anywhere
        return load

    def _store(builder: Any, value: Any, pointer: Any) -> None:
        store = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()))
        store.align = VECTOR_BYTES // value.type.count

    @intrinsic
    def _pack_rows(typingctx, b, b_start, b_row, panel, depth):  # type: ignore
        """panel[k, c] = b[k, c], k < depth, for a panel of VECTORS vectors of columns. b, panel: 1-D.

        Row k of b starts at b[b_start + k b_row]. As a loop in Python this takes five times as long: Numba asks of
        every index whether it is negative.
        """
        vector, lanes = _vector(b.dtype)
        signature = types.void(b, b_start, b_row, panel, depth)

        def codegen(context, builder, sig, args):  # type: ignore
            b, b_start, b_row, panel, depth = _values(context, builder, sig, args)
            with cgutils.for_range(builder, depth, intp=integer) as loop:
                for v in range(VECTORS):
                    value = _load(builder, _at(builder, b, b_start, b_row, loop.index, v * lanes), vector)
                    _store(
                        builder, value, _at(builder, panel, integer(v * lanes), integer(VECTORS * lanes), loop.index)
                    )
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def _transpose_square(typingctx, b, b_start, b_row, out, out_start, out_row):  # type: ignore
        """out[k, c] = b[c, k] for a square as wide as one vector. b, out: 1-D; row r of b starts at b_start + r b_row.

        The off-diagonal quarters of the square change places, then those of each quarter, down to single numbers.
        """
        vector, lanes = _vector(b.dtype)
        signature = types.void(b, b_start, b_row, out, out_start, out_row)

        def codegen(context, builder, sig, args):  # type: ignore
            b, b_start, b_row, out, out_start, out_row = _values(context, builder, sig, args)
            rows = [_load(builder, _at(builder, b, b_start, b_row, integer(r)), vector) for r in range(lanes)]
            half = lanes // 2
            while half:
                upper = [lane - half + lanes if lane & half else lane for lane in range(lanes)]  # lanes on: the second
                lower = [lane + lanes if lane & half else lane + half for lane in range(lanes)]
                for r in range(lanes):
                    if not r & half:
                        pair = rows[r], rows[r + half]
                        rows[r], rows[r + half] = (
                            builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(int32, lanes), picked))
                            for picked in (upper, lower)
                        )
                half //= 2
            for r in range(lanes):
                _store(builder, rows[r], _at(builder, out, out_start, out_row, integer(r)))
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def _multiply_tile(typingctx, a, a_start, panel, depth, out, out_start, out_row):  # type: ignore
        """out[r, c] = sum_k a[r, k] * panel[k, c], k < depth, for one tile of ROWS x VECTORS vectors.

        a, panel and out are 1-D. Row r of a starts at a[a_start + r depth], row r of the tile at
        out[out_start + r out_row].
        """
        vector, lanes = _vector(a.dtype)
        signature = types.void(a, a_start, panel, depth, out, out_start, out_row)

        def codegen(context, builder, sig, args):  # type: ignore
            a, a_start, panel, depth, out, out_start, out_row = _values(context, builder, sig, args)
            multiply_add = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fmuladd.v{lanes}f{sig.args[0].dtype.bitwidth}",  # fused where the CPU can
            )
            a_rows = [_at(builder, a, a_start, depth, integer(r)) for r in range(ROWS)]
            before = builder.block
            loop, done = builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(integer)
            k.add_incoming(integer(0), before)
            tile = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(ROWS)]
            columns = [
                _load(builder, _at(builder, panel, integer(v * lanes), integer(VECTORS * lanes), k), vector)
                for v in range(VECTORS)
            ]
            undefined = ir.Constant(vector, ir.Undefined)
            first_lane = ir.Constant(ir.VectorType(int32, lanes), None)
            summed = []
            for r in range(ROWS):
                element = builder.load(builder.gep(a_rows[r], [k]))
                spread = builder.insert_element(undefined, element, int32(0))
                spread = builder.shuffle_vector(spread, undefined, first_lane)
                summed.append([builder.call(multiply_add, [spread, columns[v], tile[r][v]]) for v in range(VECTORS)])
            k_next = builder.add(k, integer(1))
            k.add_incoming(k_next, loop)
            for r in range(ROWS):
                for v in range(VECTORS):
                    tile[r][v].add_incoming(ir.Constant(vector, None), before)
                    tile[r][v].add_incoming(summed[r][v], loop)
            builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)

            builder.position_at_end(done)
            for r in range(ROWS):
                for v in range(VECTORS):
                    _store(builder, summed[r][v], _at(builder, out, out_start, out_row, integer(r), v * lanes))
            return context.get_dummy_value()

        return signature, codegen

    OPTIONS = {"pipeline_class": Part} if Part else {}

    @jit
    def _transpose_rows(b, start, rows, depth, out, out_start, out_row, lanes):
        """out[k, c] = b[c, k], c < rows, k < depth: in squares as wide as a vector, and what is left one by one.

        b, out: 1-D. Row c of b starts at b[start + c depth], row k of out at out[out_start + k out_row].
        """
        square_rows, square_depth = rows // lanes * lanes, depth // lanes * lanes
        for c in range(0, square_rows, lanes):
            for k in range(0, square_depth, lanes):
                _transpose_square(b, start + c * depth + k, depth, out, out_start + k * out_row + c, out_row)
        for c in range(rows):
            for k in range(square_depth if c < square_rows else 0, depth):
                out[out_start + k * out_row + c] = b[start + c * depth + k]

    # The panel is what one pass over a's rows needs of b; kept small, it stays in the fastest cache.

    @jit
    def _multiply_panel(a, panel, depth, out, column):
        """One panel of columns of out, tile by tile; the last tile is moved up to end with the last row."""
        (m, n), flat_out = out.shape, out.reshape(out.size)
        for tile in range((m + ROWS - 1) // ROWS):
            i = min(tile * ROWS, m - ROWS)
            _multiply_tile(a, i * depth, panel, depth, flat_out, i * n + column, n)

    # Panels are what is shared: each thread packs its own. The last one is moved back to end with the last column, and
    # two threads may write the same numbers there.

    @jit
    def _multiply(first, last, flat_a, b, out, width):
        """out = a @ b, panel by panel."""
        (k, n), flat_b, panel = b.shape, b.reshape(b.size), np.empty(len(b) * width, b.dtype)
        for p in range(first, last):
            j = min(p * width, n - width)
            _pack_rows(flat_b, j, n, panel, k)
            _multiply_panel(flat_a, panel, k, out, j)

    @jit
    def _multiply_right_transposed(first, last, flat_a, b, out, width, lanes):
        """out = a @ b.T, panel by panel."""
        (n, k), flat_b, panel = b.shape, b.reshape(b.size), np.empty(b.shape[1] * width, b.dtype)
        for p in range(first, last):
            j = min(p * width, n - width)
            _transpose_rows(flat_b, j * k, width, k, panel, 0, width, lanes)
            _multiply_panel(flat_a, panel, k, out, j)

    @jit
    def _transpose_blocks(first, last, b, rows, depth, out, lanes):
        """out = b.T for b (rows, depth), both 1-D. A part is some rows of b."""
        for c in range(first * THIN, min(last * THIN, rows), THIN):
            _transpose_rows(b, c * depth, min(THIN, rows - c), depth, out, c, rows, lanes)

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
            (k, n), m = b.shape, a.shape[0]
            if n < width and n < m:
                transposed = np.empty((n, k), a.dtype)
                _transpose(b, transposed)
                share(_dot_rows, -(-m // THIN), m * n * k, (a, transposed, out))
            elif n < width or m < ROWS:
                share(_add_rows, -(-m // THIN), m * n * k, (a, b, out))
            else:
                share(_multiply, -(-n // width), m * n * k // 4, (a.reshape(a.size), b, out, width))

        return compiled

    @jit
    def _left_transposed(a, b, out, width, lanes):
        """out = a.T @ b. Too few rows for a tile are filled up with zeros: faster than loops."""
        (k, n), m = b.shape, a.shape[1]
        if n < width:
            share(_add_outer, -(-n // COLUMNS), m * n * k, (a, b, out))
            return
        rows = max(m, ROWS)
        transposed_a = np.empty(rows * k, a.dtype)
        if m < ROWS:
            transposed_a[:] = 0
            for i in range(k):
                for j in range(m):
                    transposed_a[j * k + i] = a[i, j]
            whole = np.empty((ROWS, n), a.dtype)
        else:
            share(_transpose_blocks, -(-k // THIN), k * m, (a.reshape(a.size), k, m, transposed_a, lanes))
            whole = out
        share(_multiply, -(-n // width), rows * n * k // 4, (transposed_a, b, whole, width))
        for i in range(m if m < ROWS else 0):
            for j in range(n):
                out[i, j] = whole[i, j]

    @overload(matmul_left_transposed, jit_options=OPTIONS)
    def _matmul_left_transposed(a, b, out):  # type: ignore
        _check(a, b, out)
        width, lanes = _panel_width(a), _panel_width(a) // VECTORS

        def compiled(a, b, out):  # type: ignore
            n, m = b.shape[1], a.shape[1]
            if n < width and n < m:
                transposed = np.empty((n, m), a.dtype)
                _left_transposed(b, a, transposed, width, lanes)
                _transpose(transposed, out)
            else:
                _left_transposed(a, b, out, width, lanes)

        return compiled

    @overload(matmul_right_transposed, jit_options=OPTIONS)
    def _matmul_right_transposed(a, b, out):  # type: ignore
        _check(a, b, out)
        width, lanes = _panel_width(a), _panel_width(a) // VECTORS

        def compiled(a, b, out):  # type: ignore
            (n, k), m = b.shape, a.shape[0]
            if k == 1:
                share(_add_rows, -(-m // THIN), m * n * k, (a, b.reshape(1, n), out))
            elif n < width or m < ROWS:
                share(_dot_rows, -(-m // THIN), m * n * k, (a, b, out))
            else:
                panels, flat_a = -(-n // width), a.reshape(a.size)
                share(_multiply_right_transposed, panels, m * n * k // 4, (flat_a, b, out, width, lanes))

        return compiled
