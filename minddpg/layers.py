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

NORM_EPSILON = 1e-5  # added to a variance before its root; PyTorch's


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
def tanh_hidden_backward(dh: FloatArray, h: FloatArray) -> FloatArray:
    """dz = dh (1 - h^2), in place.    dh (N, dim) becomes dz and is returned; h (N, dim) is the tanh's own output.

    As tanh_backward, in the place of relu_backward: h may have further columns (a joined action).
    """
    if len(h) != len(dh) or h.shape[1] < dh.shape[1]:
        raise ValueError("tanh_hidden_backward: h must have the rows of dh, and its columns or more")
    for i in range(len(dh)):
        gradient, output = dh[i], h[i, : dh.shape[1]]
        for j in each(gradient):
            gradient[j] *= 1 - output[j] * output[j]
    return dh


@jit
def batch_statistics(z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance (divided by N) of every column.    z (N, dim) -> mean (dim,), var (dim,)"""
    mean, var = np.zeros(z.shape[1], z.dtype), np.zeros(z.shape[1], z.dtype)
    one_nth, zero = z.dtype.type(1 / len(z)), z.dtype.type(0)
    for i in range(len(z)):
        for j in each(mean):
            mean[j] += z[i, j]
    for j in each(mean):
        mean[j] *= one_nth
    for i in range(len(z)):
        for j in each(var):
            var[j] += (z[i, j] - mean[j]) * (z[i, j] - mean[j])
    for j in each(var):
        var[j] *= one_nth
        var[j] += zero * var[j]  # an infinite one becomes NaN: it would make zeros of the column, which nobody notices
    return mean, var


@jit
def batch_norm_forward(
    z: FloatArray, mean: FloatArray, var: FloatArray, gamma: FloatArray, beta: FloatArray, out: FloatArray
) -> None:
    """out = gamma x + beta with x = (z - mean) / sqrt(var + eps).    z, out (N, dim), the others (dim,).

    mean and var of the batch itself while training, running ones elsewhere. Ioffe & Szegedy 2015, algorithm 1.
    """
    if z.shape != out.shape or not z.shape[1] == mean.size == var.size == gamma.size == beta.size:
        raise ValueError("batch_norm_forward: out must have the shape of z, and all others be (dim,)")
    eps = z.dtype.type(NORM_EPSILON)
    for i in range(len(z)):
        for j in each(gamma):
            out[i, j] = gamma[j] * ((z[i, j] - mean[j]) / np.sqrt(var[j] + eps)) + beta[j]


@jit
def batch_norm_backward(
    dy: FloatArray,
    z: FloatArray,
    mean: FloatArray,
    var: FloatArray,
    gamma: FloatArray,
    dgamma: FloatArray,
    dbeta: FloatArray,
    of_batch: bool,
) -> FloatArray:
    """dgamma = sum_i dy_i x_i, dbeta = sum_i dy_i, and dz (N, dim).    of_batch: mean and var are the batch's own.

    Running statistics are constants: dz = dy gamma / s, s = sqrt(var + eps). The batch's own move with z:
    x_k = (z_k - mean) / s moves with z_i by (1[k = i] - 1/N - x_k x_i / N) / s, for d mean/dz_i = 1/N and
    ds/dz_i = (z_i - mean) / (N s) = x_i / N. So, each column for itself,

        dz_i = gamma / s (dy_i - (sum_k dy_k) / N - x_i (sum_k dy_k x_k) / N)
             = gamma / s (dy_i - (dbeta + x_i dgamma) / N)

    This 1/N is of the layer's own means; the loss's is in dy already.
    """
    if z.shape != dy.shape or not z.shape[1] == mean.size == var.size == gamma.size == dgamma.size == dbeta.size:
        raise ValueError("batch_norm_backward: dy must have the shape of z, and all others be (dim,)")
    dz, eps = np.empty_like(dy), z.dtype.type(NORM_EPSILON)
    one_nth = z.dtype.type(1 / len(z) if of_batch else 0)
    for j in each(dgamma):
        dgamma[j] = 0
        dbeta[j] = 0
    for i in range(len(dy)):
        for j in each(dgamma):
            dgamma[j] += dy[i, j] * ((z[i, j] - mean[j]) / np.sqrt(var[j] + eps))
            dbeta[j] += dy[i, j]
    for i in range(len(dy)):
        for j in each(dgamma):
            s = np.sqrt(var[j] + eps)
            x = (z[i, j] - mean[j]) / s
            dz[i, j] = gamma[j] / s * (dy[i, j] - one_nth * (dbeta[j] + x * dgamma[j]))
    return dz


@jit
def layer_norm_forward(z: FloatArray, gamma: FloatArray, beta: FloatArray, out: FloatArray) -> None:
    """out = gamma x + beta, x = (z - mean) / sqrt(var + eps) with mean and var of the row. Ba et al. 2016.

    z, out (N, dim); gamma, beta (dim,).
    """
    if z.shape != out.shape or not z.shape[1] == gamma.size == beta.size:
        raise ValueError("layer_norm_forward: out must have the shape of z, gamma and beta be (dim,)")
    eps, zero = z.dtype.type(NORM_EPSILON), z.dtype.type(0)
    for i in range(len(z)):
        row, result = z[i], out[i]
        mean = np.mean(row)
        s = np.sqrt(np.mean((row - mean) * (row - mean)) + eps)
        s += zero * s  # as in batch_statistics
        for j in each(gamma):
            result[j] = gamma[j] * ((row[j] - mean) / s) + beta[j]


@jit
def layer_norm_backward(
    dy: FloatArray, z: FloatArray, gamma: FloatArray, dgamma: FloatArray, dbeta: FloatArray
) -> FloatArray:
    """dgamma = sum_i dy_i x_i, dbeta = sum_i dy_i, and dz (N, dim).

    As batch_norm_backward, along the row: with dx = gamma dy, which now differs from unit to unit,

        dz_j = (dx_j - mean_k dx_k - x_j mean_k (dx_k x_k)) / s
    """
    if z.shape != dy.shape or not z.shape[1] == gamma.size == dgamma.size == dbeta.size:
        raise ValueError("layer_norm_backward: dy must have the shape of z, and all others be (dim,)")
    dz, eps = np.empty_like(dy), z.dtype.type(NORM_EPSILON)
    for j in each(dgamma):
        dgamma[j] = 0
        dbeta[j] = 0
    for i in range(len(dy)):
        row, upstream, result = z[i], dy[i], dz[i]
        centred = row - np.mean(row)
        s = np.sqrt(np.mean(centred * centred) + eps)
        x, dx = centred / s, gamma * upstream
        mean_dx, mean_dx_x = np.mean(dx), np.mean(dx * x)
        for j in each(dgamma):
            dgamma[j] += upstream[j] * x[j]
            dbeta[j] += upstream[j]
            result[j] = (dx[j] - mean_dx - x[j] * mean_dx_x) / s
    return dz


@jit
def invert_gradient(da: FloatArray, a: FloatArray) -> FloatArray:
    """dz = da (1 - a) / 2 where descent raises a, da (a + 1) / 2 where it lowers a.    da, a (N, dim) -> dz (N, dim).

    In the place of tanh', for an output that is not bounded: a gradient that pushes towards a bound fades as the bound
    comes near and turns round behind it; one that leads back inside keeps its size, where tanh' would let nothing
    through. Not a derivative. Descent raises a where da < 0. Hausknecht & Stone 2016, equation 11, with bounds of +-1.
    """
    if da.shape != a.shape:
        raise ValueError("invert_gradient: da must have the shape of the output a")
    dz, half = np.empty_like(da), da.dtype.type(0.5)
    upstream, output, result = da.reshape(da.size), a.reshape(a.size), dz.reshape(dz.size)
    for i in each(result):
        room = where(upstream[i] < 0, 1 - output[i], 1 + output[i])
        result[i] = upstream[i] * half * room
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
