import numpy as np
import pytest

from minddpg.optim import adam, new_adam, polyak


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_follows_the_formula(rng, dtype):
    params = rng.standard_normal(7).astype(dtype)
    state = new_adam(params)
    expected, m, v = params.astype(float), np.zeros(7), np.zeros(7)
    for t in range(1, 30):
        gradient = rng.standard_normal(7).astype(dtype)
        kept = gradient.copy()
        adam(params, gradient, state, 3e-2)
        np.testing.assert_array_equal(gradient, kept)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient.astype(float) ** 2
        expected -= 3e-2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert state.t[0] == t
        np.testing.assert_allclose(params, expected, rtol=1e-12 if dtype == "float64" else 2e-4)


def test_first_adam_step_is_the_learning_rate():
    params = np.zeros(3)
    adam(params, np.array([5.0, -1e-3, 0.0]), new_adam(params), 0.1)
    np.testing.assert_allclose(params, [-0.1, 0.1, 0.0], rtol=1e-4)


def test_moments_of_a_dead_unit_do_not_become_denormal():
    params = np.ones(4, np.float32)
    state = new_adam(params)
    adam(params, np.ones(4, np.float32), state, 1e-3)
    tiny = np.finfo(np.float32).tiny
    for _ in range(1200):
        adam(params, np.zeros(4, np.float32), state, 1e-3)
        for moment in (state.m, state.v):
            assert np.all((moment == 0) | (np.abs(moment) > tiny))
    assert np.all(state.m == 0)


def test_the_second_moment_of_a_tiny_gradient_does_not_become_denormal():
    """It goes with the square: 0.001 * 1e-18^2 is 1e-39. The first moment, 1e-19, stays."""
    params, gradient = np.ones(2, np.float32), np.array([1e-18, 1e-3], np.float32)
    state = new_adam(params)
    adam(params, gradient, state, 1e-3)
    np.testing.assert_allclose(state.m, 0.1 * gradient, rtol=1e-6)
    assert state.v[0] == 0
    assert state.v[1] == pytest.approx(1e-9)


@pytest.mark.parametrize("tau", [0.0, 0.005, 0.3, 1.0])
def test_polyak_moves_by_its_share(rng, tau):
    target, online = rng.standard_normal(5), rng.standard_normal(5)
    start, kept = target.copy(), online.copy()
    polyak(target, online, tau)
    np.testing.assert_allclose(target, (1 - tau) * start + tau * online, rtol=1e-12)
    np.testing.assert_array_equal(online, kept)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tau_of_one_is_a_copy_and_of_zero_nothing_to_the_bit(rng, dtype):
    online = (10.0 ** rng.uniform(-30, 30, 1000)).astype(dtype)
    for tau, expected in ((1.0, online), (0.0, online[::-1].copy())):
        target = online[::-1].copy()
        polyak(target, online, tau)
        np.testing.assert_array_equal(target, expected)


def test_a_gradient_that_adam_cannot_take_in_changes_nothing(rng):
    for dtype, most in (("float32", 1.8e19), ("float64", 1.3e154)):
        params = rng.standard_normal(100).astype(dtype)
        state = new_adam(params)
        adam(params, rng.standard_normal(100).astype(dtype), state, 0.1)
        before = [params.copy(), *(array.copy() for array in state)]
        for bad in (np.nan, np.inf, -np.inf, 2 * most, -2 * most):
            gradient = rng.standard_normal(100).astype(dtype)
            gradient[99] = bad
            with pytest.raises(FloatingPointError, match="gradient or its square is not finite"):
                adam(params, gradient, state, 0.1)
            for array, expected in zip((params, *state), before, strict=True):
                np.testing.assert_array_equal(array, expected)
        params, gradient = np.zeros(2, dtype), np.array([most, -most], dtype)
        state = new_adam(params)
        for _ in range(50):
            adam(params, gradient, state, 1e-3)
        assert np.isfinite([params, state.m, state.v]).all()


def test_polyak_closes_the_distance_geometrically(rng):
    target, online = rng.standard_normal(5), rng.standard_normal(5)
    distance = online - target
    for k in range(1, 40):
        polyak(target, online, 0.05)
        np.testing.assert_allclose(online - target, 0.95**k * distance, rtol=1e-9)
