"""Every layer's backward against central differences in float64, and against each other."""

import numpy as np
import pytest

from minddpg import layers, networks, optim
from minddpg.gradcheck import assert_gradients


def linear(p):
    out = np.empty((len(p["x"]), p["b"].size))
    layers.linear_forward(p["x"], p["w"], p["b"], out)
    return out


def linear_relu(p):
    out = np.empty((len(p["x"]), p["b"].size))
    layers.linear_relu_forward(p["x"], p["w"], p["b"], out)
    return out


@pytest.mark.parametrize(("n", "fan_in", "fan_out"), [(1, 1, 1), (5, 3, 4), (7, 20, 33), (4, 6, 1)])
def test_linear(rng, n, fan_in, fan_out):
    p = {"x": rng.standard_normal((n, fan_in)), "w": rng.standard_normal((fan_in, fan_out)), "b": rng.random(fan_out)}
    dy = rng.standard_normal((n, fan_out))
    dw, db = np.empty_like(p["w"]), np.empty_like(p["b"])
    layers.linear_backward_weights(p["x"], dy, dw, db)
    dx = layers.linear_backward_input(dy, p["w"])
    report = assert_gradients(linear, p, {"x": dx, "w": dw, "b": db}, upstream=dy)
    assert sum(t.checked for t in report.tensors) == dx.size + dw.size + db.size

    dw2, db2 = np.empty_like(dw), np.empty_like(db)
    dx2 = layers.linear_backward(p["x"], dy, p["w"], dw2, db2)
    for both, single in ((dx2, dx), (dw2, dw), (db2, db)):
        np.testing.assert_array_equal(both, single)


def test_linear_relu(rng):
    p = {"x": rng.standard_normal((6, 5)), "w": rng.standard_normal((5, 8)), "b": rng.standard_normal(8)}
    dh = rng.standard_normal((6, 8))
    h = linear_relu(p)
    z = linear(p)
    np.testing.assert_array_equal(h, np.maximum(z, 0))
    assert 0.2 < np.mean(h > 0) < 0.8
    dz = layers.relu_backward(dh.copy(), h)
    dw, db = np.empty_like(p["w"]), np.empty_like(p["b"])
    layers.linear_backward_weights(p["x"], dz, dw, db)
    gradients = {"x": layers.linear_backward_input(dz, p["w"]), "w": dw, "b": db}
    assert_gradients(linear_relu, p, gradients, upstream=dh, pattern=lambda p: linear_relu(p) > 0)


def test_relu_is_zero_at_zero_and_keeps_nan():
    out = np.empty((1, 3))
    layers.linear_relu_forward(np.eye(1), np.array([[0.0, np.nan, -1.0]]), np.zeros(3), out)
    assert out[0, 0] == 0
    assert np.isnan(out[0, 1])
    assert out[0, 2] == 0
    np.testing.assert_array_equal(layers.relu_backward(np.ones((1, 1)), np.zeros((1, 1))), [[0.0]])


def test_relu_backward_ignores_joined_columns():
    h = np.array([[1.0, 0.0, -5.0], [0.0, 2.0, 5.0]])
    np.testing.assert_array_equal(layers.relu_backward(np.ones((2, 2)), h), [[1, 0], [0, 1]])


def test_tanh(rng):
    z, da = 2 * rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    a = layers.tanh_forward(z.copy())
    np.testing.assert_allclose(a, np.tanh(z), rtol=1e-15)
    before = da.copy()
    dz = layers.tanh_backward(da, a)
    np.testing.assert_array_equal(da, before)
    assert_gradients(lambda p: layers.tanh_forward(p["z"].copy()), {"z": z}, {"z": dz}, upstream=da)


def test_squared_error(rng):
    q, y = rng.standard_normal(6), rng.standard_normal(6)
    loss, dq = layers.squared_error(q, y)
    assert loss == pytest.approx(np.mean((q - y) ** 2))
    assert_gradients(lambda p: layers.squared_error(p["q"], y)[0], {"q": q}, {"q": dq})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept(rng, dtype):
    x, w = rng.standard_normal((4, 3)).astype(dtype), rng.standard_normal((3, 2)).astype(dtype)
    assert layers.linear_backward_input(np.ones((4, 2), dtype), w).dtype == dtype
    assert layers.tanh_backward(x, x).dtype == dtype
    loss, dq = layers.squared_error(x[0], x[1])
    assert dq.dtype == dtype
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    "call",
    [
        lambda: layers.linear_forward(np.ones((2, 3)), np.ones((4, 5)), np.ones(5), np.ones((2, 5))),
        lambda: layers.linear_relu_forward(np.ones((2, 3)), np.ones((3, 5)), np.ones(4), np.ones((2, 5))),
        lambda: layers.linear_backward_weights(np.ones((2, 3)), np.ones((1, 5)), np.ones((3, 5)), np.ones(5)),
        lambda: layers.linear_backward_input(np.ones((2, 3)), np.ones((3, 5))),
        lambda: layers.tanh_backward(np.ones((2, 1)), np.ones((2, 3))),
        lambda: layers.linear_forward(np.ones((2, 3)), np.ones((3, 5)), np.ones(5), np.ones((1, 5))),
        lambda: layers.linear_forward(np.ones((2, 3)), np.ones((3, 5)), np.ones(5), np.ones((2, 4))),
        lambda: layers.linear_relu_forward(np.ones((2, 3)), np.ones((3, 5)), np.ones(5), np.ones((1, 5))),
        lambda: layers.linear_relu_forward(np.ones((2, 3)), np.ones((3, 5)), np.ones(5), np.ones((2, 4))),
        lambda: layers.linear_backward_weights(np.ones((2, 3)), np.ones((2, 5)), np.ones((3, 4)), np.ones(5)),
        lambda: layers.linear_backward_weights(np.ones((2, 3)), np.ones((2, 5)), np.ones((2, 5)), np.ones(5)),
        lambda: layers.linear_backward_weights(np.ones((2, 3)), np.ones((2, 5)), np.ones((3, 5)), np.ones(4)),
        lambda: layers.relu_backward(np.ones((2, 3)), np.ones((1, 3))),
        lambda: layers.relu_backward(np.ones((2, 3)), np.ones((2, 2))),
        lambda: networks.join(np.ones((2, 3)), np.ones((2, 1)), np.ones((2, 3))),
        lambda: networks.join(np.ones((2, 3)), np.ones((1, 1)), np.ones((2, 4))),
        lambda: networks.copy(np.ones((2, 3)), np.ones((2, 4))),
        lambda: optim.adam(np.ones(3), np.ones(2), optim.new_adam(np.ones(3)), 0.1),
        lambda: optim.adam(np.ones(3), np.ones(3), optim.new_adam(np.ones(2)), 0.1),
        lambda: optim.polyak(np.ones(3), np.ones(2), 0.1),
        lambda: optim.polyak(np.ones(3), np.ones(2), 1.0),
        lambda: layers.squared_error(np.ones(2), np.ones(1)),
    ],
)
def test_shapes_that_misfit_are_named(call):
    with pytest.raises(ValueError, match="must"):
        call()
