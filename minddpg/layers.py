"""Linear, ReLU, tanh, squared error: each forward beside its backward, the derivation in the docstring.

`dx` always means d(the loss being minimised)/dx and has x's shape. The batch is the first axis; backwards sum over it
and never divide by N: the loss did that. Results are written into `out` arrays (or in place), never added up, so there
is no zero_grad. Arrays are C-contiguous and of one float dtype.

Notation in the derivations: row i of x is x_i; a sum over i runs over the batch.

`share(f, parts, work, arguments)` is f(0, parts, *arguments), or f for parts of it in several threads; where f stands
below its only caller, read on there.
"""

import numpy as np

from .fast.jit import FloatArray, each, jit, where
from .fast.matmul import matmul, matmul_left_transposed, matmul_right_transposed
from .fast.threads import share

ROWS, COLUMNS = 32, 64  # that are one part of what threads share


@jit
def linear_forward(x: FloatArray, weight: FloatArray, bias: FloatArray, out: FloatArray) -> None:
    """out = x W + b.    x (N, in), weight (in, out), bias (out,) -> out (N, out)."""
    if x.shape[1] != weight.shape[0] or weight.shape[1] != bias.size:
        raise ValueError("linear_forward: x must be (N, in) for a weight (in, out) and a bias (out,)")
    if len(out) != len(x) or out.shape[1] != bias.size:
        raise ValueError("linear_forward: out must be (N, out)")
    matmul(x, weight, out)
    share(_add_bias, -(-len(out) // ROWS), out.size, (out, bias))


@jit
def _add_bias(first: int, last: int, out: FloatArray, bias: FloatArray) -> None:
    for i in range(first * ROWS, min(last * ROWS, len(out))):
        for j in each(bias):
            out[i, j] += bias[j]


@jit
def linear_backward_weights(x: FloatArray, dy: FloatArray, dweight: FloatArray, dbias: FloatArray) -> None:
    """dW = x^T dy, db = sum_i dy_i.    x (N, in), dy (N, out) -> dweight (in, out), dbias (out,).

    y_ik = sum_j x_ij W_jk + b_k, so W_jk moves y_ik by x_ij, for every row i: dW_jk = sum_i x_ij dy_ik.
    The bias moves y_ik by 1: db_k = sum_i dy_ik.
    """
    if len(x) != len(dy):
        raise ValueError("linear_backward_weights: x and dy must have one row per sample each")
    if dweight.shape != (x.shape[1], dy.shape[1]) or dbias.size != dy.shape[1]:
        raise ValueError("linear_backward_weights: dweight must be (in, out), dbias (out,)")
    matmul_left_transposed(x, dy, dweight)
    for k in each(dbias):
        dbias[k] = 0
    for i in range(len(dy)):
        row = dy[i]
        for k in each(row):
            dbias[k] += row[k]


@jit
def linear_backward_input(dy: FloatArray, weight: FloatArray) -> FloatArray:
    """dx = dy W^T.    dy (N, out), weight (in, out) -> dx (N, in).

    x_ij moves every y_ik of its own row by W_jk: dx_ij = sum_k dy_ik W_jk. Some rows of W give those columns of dx.
    """
    if dy.shape[1] != weight.shape[1]:
        raise ValueError("linear_backward_input: dy must be (N, out) for a weight (in, out)")
    dx = np.empty((len(dy), len(weight)), dy.dtype)
    matmul_right_transposed(dy, weight, dx)
    return dx


@jit
def linear_backward(
    x: FloatArray, dy: FloatArray, weight: FloatArray, dweight: FloatArray, dbias: FloatArray
) -> FloatArray:
    """Both of the above: writes dW and db, returns dx."""
    linear_backward_weights(x, dy, dweight, dbias)
    return linear_backward_input(dy, weight)


@jit
def linear_relu_forward(x: FloatArray, weight: FloatArray, bias: FloatArray, out: FloatArray) -> None:
    """out = max(x W + b, 0): linear and ReLU in one pass over out.    Shapes as in linear_forward."""
    if x.shape[1] != weight.shape[0] or weight.shape[1] != bias.size:
        raise ValueError("linear_relu_forward: x must be (N, in) for a weight (in, out) and a bias (out,)")
    if len(out) != len(x) or out.shape[1] != bias.size:
        raise ValueError("linear_relu_forward: out must be (N, out)")
    matmul(x, weight, out)
    share(_add_bias_relu, -(-len(out) // ROWS), out.size, (out, bias))


@jit
def _add_bias_relu(first: int, last: int, out: FloatArray, bias: FloatArray) -> None:
    zero = out.dtype.type(0)
    for i in range(first * ROWS, min(last * ROWS, len(out))):
        for j in each(bias):
            z = out[i, j] + bias[j]
            out[i, j] = where(z < zero, zero, z)  # asked this way round, a NaN stays one


@jit
def relu_backward(dh: FloatArray, h: FloatArray) -> FloatArray:
    """dz = dh [h > 0], in place.    dh (N, dim) becomes dz and is returned; h (N, dim) is the ReLU's own output.

    max(z, 0) moves with z where z > 0, which is where h > 0, and not at all elsewhere. At z = 0 the slope is taken as
    0. h may have further columns (a joined action), which are not looked at.
    """
    if len(h) != len(dh) or h.shape[1] < dh.shape[1]:
        raise ValueError("relu_backward: h must have the rows of dh, and its columns or more")
    share(_mask, -(-len(dh) // ROWS), dh.size, (dh, h))
    return dh


@jit
def _mask(first: int, last: int, dh: FloatArray, h: FloatArray) -> None:
    zero = dh.dtype.type(0)
    for i in range(first * ROWS, min(last * ROWS, len(dh))):
        gradient, output = dh[i], h[i, : dh.shape[1]]
        for j in each(gradient):
            gradient[j] *= output[j] > zero


@jit
def tanh_forward(z: FloatArray) -> FloatArray:
    """a = tanh(z), in place.    z (N, dim) becomes a in [-1, 1] and is returned."""
    share(_tanh, -(-z.size // COLUMNS), 30 * z.size, (z.reshape(z.size),))
    return z


@jit
def _tanh(first: int, last: int, flat: FloatArray) -> None:
    flat = flat[first * COLUMNS : last * COLUMNS]
    for i in each(flat):
        flat[i] = np.tanh(flat[i])


@jit
def tanh_backward(da: FloatArray, a: FloatArray) -> FloatArray:
    """dz = da (1 - a^2).    da (N, dim), a (N, dim) the tanh's own output -> dz (N, dim).

    tanh'(z) = 1 - tanh(z)^2: close to 1 around zero, close to 0 once the output saturates at -1 or 1.
    """
    if da.shape != a.shape:
        raise ValueError("tanh_backward: da must have the shape of the output a")
    dz = np.empty_like(da)
    upstream, output, result = da.reshape(da.size), a.reshape(a.size), dz.reshape(dz.size)
    for i in each(result):
        result[i] = upstream[i] * (1 - output[i] * output[i])
    return dz


@jit
def mean(values: FloatArray) -> float:
    """The mean of all elements, summed in float64."""
    return float(np.mean(values.astype(np.float64)))


@jit
def mean_square(values: FloatArray) -> float:
    """The mean of all squares, taken and summed in float64: beyond 1.8e19 a square is more than float32 can hold."""
    wide = values.astype(np.float64)
    return float(np.mean(wide * wide))


@jit
def squared_error(q: FloatArray, target_q: FloatArray) -> tuple[float, FloatArray]:
    """loss = mean_i (q_i - y_i)^2 and dq_i = 2 (q_i - y_i) / N.    q, target_q (N,) -> loss, dq (N,).

    No 1/2 in the loss, hence the 2. The target y is data: it has no gradient.
    """
    if q.shape != target_q.shape:
        raise ValueError("squared_error: q and target_q must both be (N,)")
    error = q - target_q
    scale = q.dtype.type(2 / len(q))  # the critic's only 1/N
    return mean_square(error), scale * error
