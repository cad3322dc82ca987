"""The checker itself: it passes what is right and fails what is wrong, however small."""

import numpy as np
import pytest

from minddpg.gradcheck import assert_gradients, check_gradient

A = np.random.default_rng(0).standard_normal((3, 4))


def product(p):
    return np.tanh(p["x"] @ A)


def right(x, upstream):
    return (upstream * (1 - np.tanh(x @ A) ** 2)) @ A.T


def case(scale=1.0):
    rng = np.random.default_rng(1)
    x, upstream = rng.standard_normal((5, 3)), scale * rng.standard_normal((5, 4))
    return {"x": x}, right(x, upstream), upstream


@pytest.mark.parametrize("scale", [1e6, 1.0, 1e-9])
def test_right_passes_at_any_scale(scale):
    inputs, gradient, upstream = case(scale)
    report = assert_gradients(product, inputs, {"x": gradient}, upstream=upstream)
    assert report.tensors[0].checked == 15
    assert report.tensors[0].max_rel_error < 1e-7
    assert "ok" in str(report)


@pytest.mark.parametrize("scale", [1.0, 1e-9])
@pytest.mark.parametrize("factor", [0.0, -1.0, 2.0, 1 + 3e-6, 1 / 5])
def test_wrong_fails_at_any_scale(scale, factor):
    inputs, gradient, upstream = case(scale)
    with pytest.raises(AssertionError, match="wrong"):
        assert_gradients(product, inputs, {"x": factor * gradient}, upstream=upstream)


def test_one_wrong_element_is_found_and_named():
    inputs, gradient, upstream = case()
    gradient[3, 1] *= 1.01
    tensor = check_gradient(product, inputs, {"x": gradient}, upstream=upstream).tensors[0]
    assert (tensor.wrong, tensor.index) == (1, (3, 1))
    assert tensor.max_rel_error == pytest.approx(0.01, rel=0.02)
    assert tensor.analytic == pytest.approx(1.01 * tensor.numeric, rel=1e-6)


def test_zeros_alone_prove_nothing():
    report = check_gradient(lambda p: 0 * np.sum(p["x"]), {"x": np.ones(3)}, {"x": np.zeros(3)})
    assert not report.ok
    assert report.tensors[0].zeros == 3
    assert "vacuous" in str(report)


def test_elements_below_rounding_are_counted_not_passed():
    slopes = np.array([1.0, 1e-14])
    report = check_gradient(lambda p: 1 + p["x"] @ slopes, {"x": np.ones(2)}, {"x": slopes})
    tensor = report.tensors[0]
    assert (tensor.checked, tensor.unresolved) == (1, 1)
    assert "below rounding" in tensor.verdict


def test_kinks_are_counted_not_compared():
    x = np.array([1.0, 0.0, -1.0])
    report = check_gradient(
        lambda p: np.maximum(p["x"], 0), {"x": x}, {"x": np.array([2.0, 1.0, 0.0])},
        upstream=np.array([2.0, 2.0, 2.0]), pattern=lambda p: p["x"] > 0,
    )  # fmt: skip
    tensor = report.tensors[0]
    assert (tensor.checked, tensor.kinks, tensor.zeros, tensor.wrong) == (1, 1, 1, 0)
    assert tensor.size == 3


def test_the_inputs_are_not_written():
    inputs, gradient, upstream = case()
    kept = inputs["x"].copy()
    check_gradient(product, inputs, {"x": gradient}, upstream=upstream)
    np.testing.assert_array_equal(inputs["x"], kept)


def test_misfits_are_named():
    inputs, gradient, upstream = case()
    with pytest.raises(ValueError, match="upstream has shape"):
        check_gradient(product, inputs, {"x": gradient})
    with pytest.raises(ValueError, match="the gradient of x has shape"):
        check_gradient(product, inputs, {"x": gradient[0]}, upstream=upstream)
    with pytest.raises(ValueError, match="NaN"):
        check_gradient(product, inputs, {"x": gradient * np.nan}, upstream=upstream)
