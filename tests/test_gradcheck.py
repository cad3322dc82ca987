"""The checker itself: it passes what is right and fails what is wrong, however small, and says which it was."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minddpg.gradcheck import TensorReport, assert_gradients, check_gradient, differences

A = np.random.default_rng(0).standard_normal((3, 4))
N = 16


def product(p):
    return np.tanh(p["x"] @ A)


def right(x, upstream):
    return (upstream * (1 - np.tanh(x @ A) ** 2)) @ A.T


def case(scale=1.0):
    rng = np.random.default_rng(1)
    x, upstream = rng.standard_normal((5, 3)), scale * rng.standard_normal((5, 4))
    return {"x": x}, right(x, upstream), upstream


def network_inputs(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"x": (N, 4), "W1": (4, 6), "b1": (6,), "W2": (6, 3), "y": (N, 3)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def mean_loss(p):
    """A two-layer network somebody wrote: mean over the batch of |tanh(x W1 + b1) W2 - y|^2."""
    h = np.tanh(p["x"] @ p["W1"] + p["b1"])
    return np.mean(np.sum((h @ p["W2"] - p["y"]) ** 2, axis=1))


def backward(p):
    h = np.tanh(p["x"] @ p["W1"] + p["b1"])
    dout = 2 / len(h) * (h @ p["W2"] - p["y"])
    dz = (dout @ p["W2"].T) * (1 - h**2)
    return {"W1": p["x"].T @ dz, "b1": dz.sum(axis=0), "W2": h.T @ dout, "x": dz @ p["W1"].T}


def spoilt(change):
    """The backward with one of its gradients changed."""

    def wrong(p):
        gradients = backward(p)
        change(gradients, p)
        return gradients

    return wrong


# --- right and wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e6, 1.0, 1e-9])
def test_right_passes_at_any_scale(scale):
    inputs, gradient, upstream = case(scale)
    report = assert_gradients(product, inputs, {"x": gradient}, upstream=upstream)
    assert report.tensors[0].checked == 15
    assert report.tensors[0].max_rel_error < 1e-7
    assert report.tensors[0].rel_error < 1e-8
    assert "all right" in str(report)


@pytest.mark.parametrize("scale", [1.0, 1e-9])
@pytest.mark.parametrize("factor", [0.0, -1.0, 2.0, 1 + 3e-6, 1 / 5])
@pytest.mark.parametrize("mode", ["full", "sample", "directions"])
def test_wrong_fails_at_any_scale(scale, factor, mode):
    inputs, gradient, upstream = case(scale)
    with pytest.raises(AssertionError, match="wrong"):
        assert_gradients(product, inputs, {"x": factor * gradient}, upstream=upstream, mode=mode)


def test_one_wrong_element_is_found_and_named():
    inputs, gradient, upstream = case()
    gradient[3, 1] *= 1.01
    tensor = check_gradient(product, inputs, {"x": gradient}, upstream=upstream).tensors[0]
    assert (tensor.wrong, tensor.index) == (1, (3, 1))
    assert tensor.max_rel_error == pytest.approx(0.01, rel=0.02)
    assert tensor.analytic == pytest.approx(1.01 * tensor.numeric, rel=1e-6)
    assert tensor.ratio == pytest.approx(1 / 1.01)
    assert tensor.hint == "wrong only at (3, 1): the rest is right"


@given(seed=st.integers(0, 1000), mode=st.sampled_from(["full", "sample", "directions"]))
def test_right_networks_never_alarm(seed, mode):
    assert_gradients(mean_loss, network_inputs(seed), backward, mode=mode, seed=seed, batch=("x", "y"), constants="y")


def test_zeros_alone_prove_nothing():
    report = check_gradient(lambda p: 0 * np.sum(p["x"]), {"x": np.ones(3)}, {"x": np.zeros(3)})
    assert not report.ok
    assert report.tensors[0].zeros == 3
    assert "vacuous" in str(report)


def test_atol_is_zero_unless_asked_for():
    report = check_gradient(lambda p: 1e-9 * np.sum(p["x"] ** 2), {"x": np.ones(3)}, {"x": np.zeros(3)})
    assert report.tensors[0].wrong == 3
    assert "no absolute tolerance" in str(report)
    report = check_gradient(lambda p: 1e-9 * np.sum(p["x"] ** 2), {"x": np.ones(3)}, {"x": np.zeros(3)}, atol=1e-5)
    assert report.ok
    assert "+ 1e-05" in str(report)


# --- second looks -----------------------------------------------------------------------------------------------------


def test_elements_below_rounding_are_resolved_by_larger_steps():
    slopes = np.array([1.0, 1e-9, 3e-9])
    for factor, ok in ((1.0, True), (1.01, False)):
        analytic = slopes * np.array([1, factor, factor])
        report = check_gradient(lambda p: 1 + p["x"] @ slopes, {"x": np.ones(3)}, {"x": analytic})
        assert report.ok is ok, report
        assert report.tensors[0].checked == 3
        if ok:
            assert 1e-6 < report.tensors[0].tolerance < 1e-3  # what was allowed is told
            assert f"{report.tensors[0].tolerance:.0e}" in str(report)


def test_a_small_element_is_compared_to_rtol():
    slopes = np.array([1.0, 1e-6])
    analytic = slopes * [1, 1.00001]
    tensor = check_gradient(lambda p: 1 + np.tanh(p["x"] - 1) @ slopes, {"x": np.ones(2)}, {"x": analytic}).tensors[0]
    assert (tensor.wrong, tensor.index) == (1, (1,))


def test_zero_for_a_tiny_slope_is_wrong():
    """Both sides of the first look are 0 after rounding; larger steps see it."""
    slopes = np.r_[1.0, np.full(50, 1e-11)]
    report = check_gradient(lambda p: 1 + p["x"] @ slopes, {"x": np.ones(51)}, {"x": np.r_[1.0, np.zeros(50)]})
    assert report.tensors[0].wrong == 50


def test_no_large_element_hides_a_wrong_small_one():
    x = np.random.default_rng(0).standard_normal(40)
    analytic = 1 - np.tanh(x) ** 2
    analytic[1:20] = 0
    report = check_gradient(lambda p: 1e10 + np.sum(np.tanh(p["x"])), {"x": x}, {"x": analytic})
    assert report.tensors[0].wrong == 19


def test_elements_below_every_step_are_counted_not_passed():
    """Far away the function sees them, so they are not zero; where it stands, no step shows them."""

    def function(p):
        return 1 + p["x"][0] + 1e-17 * np.sum(np.sinh(6 * p["x"][1:]))

    analytic = np.array([1.0, 6e-17 * np.cosh(6)])
    report = check_gradient(function, {"x": np.ones(2)}, {"x": analytic})
    tensor = report.tensors[0]
    assert (tensor.checked, tensor.unresolved, tensor.unresolved_at) == (1, 1, ((1,),)), report
    assert not report.ok
    assert "below rounding" in tensor.verdict
    assert "unresolved: (1)" in str(report)
    report = check_gradient(
        lambda p: function(p) + np.sum(p["many"]), {"x": np.ones(2), "many": np.ones(200)},
        {"x": analytic, "many": np.ones(200)},
    )  # fmt: skip
    assert not report.ok
    many = np.r_[np.ones(200), 6e-17 * np.cosh(6)]
    report = check_gradient(
        lambda p: 1 + np.sum(p["x"][:200]) + 1e-17 * np.sinh(6 * p["x"][200]), {"x": np.ones(201)}, {"x": many}
    )
    assert report.ok, report
    assert "ok, 1 unresolved" in str(report)


def test_a_strongly_curved_function_is_not_called_wrong():
    x = np.array([0.3, -0.2, 0.1])
    for rate in (3e3, 1e5, 1e7):
        report = assert_gradients(
            lambda p, rate=rate: np.sum(np.sin(rate * p["x"])), {"x": x}, {"x": rate * np.cos(rate * x)}
        )
        assert report.tensors[0].checked == 3


def test_the_slope_tells_wrong_from_curved():
    x = np.array([0.3])
    wrong = check_gradient(lambda p: np.sum(np.exp(p["x"])), {"x": x}, {"x": 1.01 * np.exp(x)}).tensors[0]
    assert wrong.slope == pytest.approx(1, abs=0.05)
    assert "slope 1.0" in wrong.verdict


def test_a_function_in_float32_is_called_noisy_not_wrong():
    report = check_gradient(
        lambda p: float(mean_loss({k: v.astype(np.float32) for k, v in p.items()})),
        network_inputs(),
        backward(network_inputs()),
        constants=("y",),
    )
    assert not report.ok
    assert sum(t.noisy for t in report.tensors) > 10
    assert sum(t.wrong for t in report.tensors) == 0
    assert "float32 somewhere" in str(report)


def test_at_an_optimum_rounding_is_not_called_a_wrong_gradient():
    a = np.random.default_rng(1).standard_normal((30, 3))
    best = np.array([1.0, 2, 3])
    x, y = best + 1e-12 * np.array([1, -1, 0.5]), a @ best
    report = check_gradient(lambda p: np.sum((a @ p["x"] - y) ** 2), {"x": x}, {"x": 2 * a.T @ (a @ (x - best))})
    assert report.tensors[0].wrong == 0


def test_tiny_inputs_and_the_edge_of_a_domain_get_smaller_steps():
    x = np.random.default_rng(1).standard_normal(5) * 1e-12
    assert_gradients(lambda p: np.sum(np.tanh(p["x"] / 1e-12)), {"x": x}, {"x": (1 - np.tanh(x / 1e-12) ** 2) / 1e-12})
    x = np.array([0.5, 1e-6, 1e-9])
    assert_gradients(lambda p: np.sum(np.log(p["x"])), {"x": x}, {"x": 1 / x})


def test_kinks_are_counted_not_compared():
    x = np.array([1.0, 0.0, -1.0])
    report = check_gradient(
        lambda p: np.maximum(p["x"], 0), {"x": x}, {"x": np.array([2.0, 1.0, 0.0])},
        upstream=np.array([2.0, 2.0, 2.0]), pattern=lambda p: p["x"] > 0,
    )  # fmt: skip
    tensor = report.tensors[0]
    assert (tensor.checked, tensor.kinks, tensor.zeros, tensor.wrong) == (1, 1, 1, 0)
    assert tensor.kinks_at == ((1,),)
    assert tensor.size == 3


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_five_points_find_a_kink_without_a_pattern(slope):
    x, analytic = np.array([1.0, 0.0]), np.array([1.0, slope])
    tensor = check_gradient(lambda p: np.sum(np.maximum(p["x"], 0)), {"x": x}, {"x": analytic}).tensors[0]
    assert (tensor.checked, tensor.kinks, tensor.wrong) == (1, 1, 0)


def test_a_gradient_outside_a_kinks_two_slopes_is_wrong():
    x = np.array([1.0, 0.0])
    tensor = check_gradient(lambda p: np.sum(np.maximum(p["x"], 0)), {"x": x}, {"x": np.array([1, 1.2])}).tensors[0]
    assert tensor.wrong == 1


def test_a_kink_close_by_is_no_kink():
    x = np.r_[1e-7, -2e-7, np.random.default_rng(0).uniform(50, 150, 10)]
    right = (x > 0) * 1.0
    for wrong, pattern in ((0, None), (1, None), (0, lambda p: p["x"] > 0), (1, lambda p: p["x"] > 0)):
        analytic = right + 0.4 * wrong * (x < 0)
        report = check_gradient(lambda p: np.sum(np.maximum(p["x"], 0)), {"x": x}, {"x": analytic}, pattern=pattern)
        assert report.ok is not bool(wrong), report
        assert report.tensors[0].kinks == 0


def test_a_pattern_does_not_excuse_a_gradient_outside_the_two_slopes():
    x = np.r_[np.zeros(5), 1.0]
    for slope, wrong in ((0.5, 0), (17.0, 5)):
        analytic = np.r_[np.full(5, slope), 1.0]
        tensor = check_gradient(
            lambda p: np.sum(np.maximum(p["x"], 0)), {"x": x}, {"x": analytic}, pattern=lambda p: p["x"] > 0
        ).tensors[0]
        assert (tensor.wrong, tensor.kinks) == (wrong, 5 - wrong)


# --- modes ------------------------------------------------------------------------------------------------------------


def test_a_sample_touches_every_tensor_row_and_column_and_is_seeded():
    rng = np.random.default_rng(0)
    inputs = {"W": rng.standard_normal((30, 20)), "b": rng.standard_normal(20)}
    seen = {}

    def watch(p):
        changed = np.argwhere(p["W"] != inputs["W"])
        if len(changed) < 20:  # no direction
            seen.setdefault(len(seen), tuple(map(tuple, changed.tolist())))
        return np.sum(p["W"] ** 2) + np.sum(p["b"] ** 2)

    def elements(seed):
        seen.clear()
        gradients = {name: 2 * array for name, array in inputs.items()}
        report = assert_gradients(watch, inputs, gradients, mode="sample", samples=40, seed=seed)
        assert [(t.name, t.looked) for t in sorted(report.tensors, key=lambda t: t.name)] == [("W", 42), ("b", 20)]
        return {index for changed in seen.values() for index in changed}

    first = elements(0)
    assert {i for i, _ in first} == set(range(30))
    assert {j for _, j in first} == set(range(20))
    assert np.unravel_index(np.abs(inputs["W"]).argmax(), (30, 20)) in first
    assert elements(0) == first
    assert elements(1) != first


def test_directions_are_per_tensor():
    """One direction through everything would drown a small tensor in a large one."""
    inputs = {"large": np.ones(1000), "small": np.ones(2)}
    gradients = {"large": np.full(1000, 1e3), "small": np.array([1e-3, 2e-3])}
    report = check_gradient(
        lambda p: 1e3 * np.sum(p["large"]) + 1e-3 * np.sum(p["small"]), inputs, gradients, mode="directions"
    )
    assert {t.name: bool(t.wrong) for t in report.tensors} == {"large": False, "small": True}


# --- the backward itself ----------------------------------------------------------------------------------------------


def broken(report):
    return {check.name for check in report.checks if not check.ok}


def test_the_structure_of_a_right_backward_holds():
    report = check_gradient(mean_loss, network_inputs(), backward, batch=("x", "y"), constants=("y",))
    assert report.ok
    assert len(report.checks) == 7
    inputs, _, upstream = case()
    report = check_gradient(product, inputs, lambda p, u: {"x": right(p["x"], u)}, upstream=upstream, batch=("x",))
    assert report.ok
    assert len(report.checks) == 9


def test_the_float32_error_is_stated():
    report = check_gradient(mean_loss, network_inputs(), backward, constants="y")
    assert all(1e-9 < t.float32_error < 1e-5 for t in report.tensors)
    assert "float32" in str(report)
    report = check_gradient(mean_loss, network_inputs(), backward(network_inputs()), constants="y")
    assert all(math.isnan(t.float32_error) for t in report.tensors)


def test_gradients_of_float32_are_compared_as_exactly_as_they_are():
    narrow = {name: g.astype(np.float32) for name, g in backward(network_inputs()).items()}
    assert_gradients(mean_loss, network_inputs(), narrow, constants="y")
    narrow["W1"][0, 0] *= 1.001
    assert check_gradient(mean_loss, network_inputs(), narrow, constants="y").tensors[0].wrong == 1


TRIPLED = "the gradient of a tripled batch is the same, for a mean"
ROWS = "row i of an input's gradient depends on row i only"
LINEAR, WRITTEN = "gradients are linear in upstream", "inputs, parameters and upstream are not written"


class Forgetful:
    """A backward that adds its gradients up, as one does that never zeroes them."""

    total = 0.0

    def __call__(self, p):
        gradients = backward(p)
        self.total = self.total + gradients["b1"]
        return {**gradients, "b1": self.total}


def writes_inputs(p):
    gradients = backward(p)
    p["W1"] *= 1.0000001
    return gradients


def in_float32(p):
    return {name: g.astype(np.float32).astype(p["x"].dtype) for name, g in backward(p).items()}


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        (Forgetful(), "backward called twice is bit-equal"),
        (writes_inputs, WRITTEN),
        (lambda p: {k: g.astype(np.float32) for k, g in backward(p).items()}, "float64 in, float64 gradients out"),
        (lambda p: {k: g / N for k, g in backward(p).items()}, None),
        (spoilt(lambda g, p: g.update(W2=g["W2"] / len(p["x"]))), TRIPLED),
        (in_float32, TRIPLED),
        (spoilt(lambda g, p: g.update(x=g["x"] - g["x"].mean(axis=0))), ROWS),
    ],
)  # fmt: skip
def test_what_differences_miss_is_found(bad, check):
    report = check_gradient(mean_loss, network_inputs(), bad, batch=("x", "y"), constants=("y",))
    assert not report.ok
    if check:
        assert check in broken(report), report


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        (lambda p, u: {"x": right(p["x"], np.ones_like(u))}, LINEAR),
        (lambda p, u: {"x": right(p["x"], u) + 1e-9}, "zero upstream gives zero gradients"),
        (lambda p, u: {"x": right(p["x"], np.clip(u, -1, 1))}, LINEAR),
        (lambda p, u: {"x": right(p["x"], np.multiply(u, 0.5, out=u)) * 2}, WRITTEN),
    ],
)  # fmt: skip
def test_what_an_upstream_shows_is_found(bad, check):
    inputs, _, upstream = case()
    assert check in broken(check_gradient(product, inputs, bad, upstream=upstream))


def test_a_random_function_is_named():
    rng = np.random.default_rng(0)
    report = check_gradient(lambda p: mean_loss(p) * (1 + 1e-12 * rng.random()), network_inputs(), backward)
    assert "the function gives the same value twice" in broken(report)


# --- hints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "hint"),
    [
        ("W1", lambda g, x: g / N, "too small by N = 16: divided by the batch size twice"),
        ("W1", lambda g, x: g * N, "too large by N = 16: a sum over the batch"),
        ("W1", lambda g, x: -g, "the sign is wrong"),
        ("W1", lambda g, x: -g / N, "the sign is wrong, and too small by N"),
        ("W1", lambda g, x: g / 2, "half of what it should be"),
        ("W1", lambda g, x: 2 * g, "twice what it should be"),
        ("W1", lambda g, x: g / 2.5, "a constant factor 2.5 is missing"),
        ("W1", lambda g, x: 0 * g, "zero everywhere"),
        ("W1", lambda g, x: g.T.reshape(g.shape), "the transposed gradient fits: dW was written as (out, in)"),
        ("W1", lambda g, x: g + 0.01 * x, "0.01 times the tensor itself is too much"),
        ("W1", lambda g, x: g - 0.01 * x, "0.01 times the tensor itself is missing"),
        ("W1", lambda g, x: g * (np.arange(6) != 2), "wrong only in column 2: zero there"),
        ("W1", lambda g, x: g * (1 + 0.1 * (np.arange(4) == 1)[:, None]), "wrong only in row 1: the rest is right"),
        ("W1", lambda g, x: g / np.linspace(0.3, 0.9, 24).reshape(4, 6), "a local derivative is left out"),
        ("b1", lambda g, x: np.full_like(g, g.sum()), "all elements are the same: summed over the units too"),
    ],
)  # fmt: skip
def test_the_hint_names_the_mistake(name, change, hint):
    inputs = network_inputs()
    gradients = backward(inputs)
    gradients[name] = change(gradients[name], inputs[name])
    report = check_gradient(mean_loss, inputs, gradients)
    tensor = next(t for t in report.tensors if t.name == name)
    assert hint in tensor.hint
    assert f"hint: {tensor.hint}" in str(report)


def test_a_square_gradient_transposed_and_a_detached_input_are_told():
    rng = np.random.default_rng(0)
    inputs = {"W": rng.standard_normal((5, 5)), "x": rng.standard_normal((7, 5)), "unused": np.ones(3)}

    def function(p):
        return np.sum(np.tanh(p["x"] @ p["W"]))

    dz = 1 - np.tanh(inputs["x"] @ inputs["W"]) ** 2
    report = check_gradient(function, inputs, {"W": dz.T @ inputs["x"], "unused": np.ones(3)})
    hints = {t.name: t.hint for t in report.tensors}
    assert hints["W"] == "the transposed gradient fits: dW = x^T dy, not dy^T x"
    assert "does not depend on this tensor" in hints["unused"]


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_is_sorted_by_badness_and_speaks_json():
    gradients = backward(network_inputs())
    gradients["b1"] = gradients["b1"] * 1.5
    report = check_gradient(mean_loss, network_inputs(), gradients)
    lines = str(report).splitlines()
    assert lines[1].startswith("b1")
    assert "\033" not in str(report)
    assert "\033[31m" in report.table(colour=True)
    record = json.loads(report.to_json())
    assert record["ok"] is False
    by_name = {tensor["name"]: tensor for tensor in record["tensors"]}
    assert by_name["b1"]["wrong"] == 6
    assert by_name["b1"]["ratio"] == pytest.approx(1 / 1.5)
    assert by_name["b1"]["verdict"].startswith("6 wrong")
    assert by_name["W1"]["float32_error"] is None
    assert by_name["W1"]["shape"] == [4, 6]


def test_the_usual_tolerance_is_told_apart():
    x = np.ones(3)
    tensor = check_gradient(lambda p: 1e-6 * np.sum(p["x"]), {"x": x}, {"x": np.zeros(3)}).tensors[0]
    assert tensor.usual
    assert tensor.wrong == 3
    assert not check_gradient(lambda p: np.sum(p["x"]), {"x": x}, {"x": 0.9 * x}).tensors[0].usual


# --- bad input --------------------------------------------------------------------------------------------------------


def test_the_inputs_are_not_written():
    inputs, gradient, upstream = case()
    kept = inputs["x"].copy()
    check_gradient(product, inputs, {"x": gradient}, upstream=upstream)
    np.testing.assert_array_equal(inputs["x"], kept)


def test_misfits_are_named():
    inputs, gradient, upstream = case()
    for options, message in (
        ({"upstream": None}, "upstream has shape"),
        ({"gradients": {"x": gradient[0]}}, "the gradient of x has shape"),
        ({"gradients": {"x": gradient * np.nan}}, "the gradient of x holds a NaN"),
        ({"gradients": {"x": gradient * 1j}}, "the gradient of x holds complex128"),
        ({"gradients": {"z": gradient}}, "no input of that name; inputs: x"),
        ({"gradients": {}}, "no gradients"),
        ({"inputs": {"x": inputs["x"] * np.inf}}, "x holds a NaN or an infinity"),
        ({"mode": "fast"}, "mode must be auto, full, sample or directions, not 'fast'"),
        ({"rtol": -1.0}, "rtol in"),
        ({"samples": 0}, "1 or more"),
        ({"batch": ("y",)}, "batch names y, but inputs has x"),
        ({"inputs": inputs["x"]}, "inputs must be arrays by name, like {'x': x}, not ndarray"),
        ({"gradients": lambda p, u: None}, "backward must return gradients by name"),
        ({"inputs": {"x": np.ones((5, 3), int)}, "gradients": lambda p, u: {"x": gradient}}, "holds int64; give it as"),
    ):
        arguments = {"inputs": inputs, "gradients": {"x": gradient}, "upstream": upstream, **options}
        with pytest.raises(ValueError, match=message):
            check_gradient(product, **arguments)


def test_a_function_that_leaves_its_domain_says_where():
    with pytest.raises(ValueError, match=r"NaN or an infinity within .* at x\(1,\)"), np.errstate(all="ignore"):
        check_gradient(lambda p: np.sum(np.sqrt(p["x"])), {"x": np.array([1.0, 0.0])}, {"x": np.array([0.5, 1.0])})
    with pytest.raises(ValueError, match="NaN or an infinity at the inputs"), np.errstate(all="ignore"):
        check_gradient(lambda p: np.sum(np.log(p["x"])), {"x": np.zeros(2)}, {"x": np.zeros(2)})
    for returned, kind in (((1.0, "cache"), "tuple of 2"), (1j, "complex128")):
        with pytest.raises(ValueError, match=f"the function returns .*({kind}).*must return real numbers"):
            check_gradient(lambda p, returned=returned: returned, {"x": np.zeros(2)}, {"x": np.zeros(2)})


def test_labels_masks_and_empty_arrays_are_no_obstacle():
    labels, mask = np.array([0, 2, 1]), np.array([True, False, True])
    inputs = {"x": np.ones((3, 3)), "labels": labels, "mask": mask, "empty": np.zeros((0, 3))}
    report = assert_gradients(
        lambda p: np.sum((p["x"][np.arange(3), p["labels"]] ** 2)[p["mask"]]) + np.sum(p["empty"]),
        inputs,
        {"x": 2 * np.eye(3)[labels] * mask[:, None], "empty": np.zeros((0, 3))},
    )
    assert "ok, empty" in str(report)


def test_a_mean_with_an_upstream_of_its_own_shape():
    x = np.random.default_rng(2).standard_normal((6, 3))
    assert_gradients(
        lambda p: np.mean(p["x"] ** 2), {"x": x}, lambda p, u: {"x": u * 2 * p["x"] / p["x"].size},
        upstream=2.0, batch="x",
    )  # fmt: skip
    assert_gradients(
        lambda p: np.mean(p["x"] ** 2, axis=0), {"x": x}, lambda p, u: {"x": u * 2 * p["x"] / len(p["x"])},
        upstream=np.ones(3), batch="x",
    )  # fmt: skip


def test_one_direction_of_eight_may_be_too_small_to_be_seen():
    """The seven others go through all of the tensor. Of elements, each is on its own."""

    def tensor(directions, unresolved, looked=8):
        counts = {"looked": looked, "checked": looked - unresolved, "unresolved": unresolved, "directions": directions}
        zero = dict.fromkeys(("zeros", "kinks", "noisy", "wrong"), 0)
        return TensorReport("w", (100,), **counts, **zero, max_rel_error=0.0, tolerance=1e-6, index=(0,), analytic=1.0,
                            numeric=1.0, rel_error=0.0)  # fmt: skip

    assert [tensor(8, k).ok for k in (0, 1, 2, 3, 8)] == [True, True, True, False, False]
    assert [tensor(0, k).ok for k in (0, 1)] == [True, False]
    assert tensor(8, 1).verdict == "ok, 1 unresolved"
    assert tensor(8, 3).verdict == "3 unresolved: below rounding"


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint8])
def test_labels_and_masks_in_a_batch_stay_what_they_are(rng, kind):
    """2-D bools and whole numbers, and 1-D labels, are rows of the batch as well: tripled, but never moved."""
    seen = []

    def parts(p):
        seen.append((p["m"].copy(), p["labels"].copy()))
        assert p["m"].dtype == kind
        return p["x"], p["w"], p["m"].all(axis=1) / len(p["x"]), np.arange(len(p["x"]))

    def function(p):
        x, w, kept, rows = parts(p)
        return np.sum((x @ w)[rows, p["labels"]] * kept)

    def backward(p):
        x, w, kept, rows = parts(p)
        dz = np.zeros((len(x), w.shape[1]))
        dz[rows, p["labels"]] = kept
        return {"x": dz @ w.T, "w": x.T @ dz}

    m, labels = (rng.random((6, 2)) < 0.8).astype(kind), rng.integers(0, 4, 6)
    inputs = {"x": rng.standard_normal((6, 3)), "w": rng.standard_normal((3, 4)), "m": m, "labels": labels}
    report = check_gradient(function, inputs, backward, batch=("x", "m", "labels"))
    assert report.ok, report
    assert any("depends on row i only" in check.name for check in report.checks)
    assert {len(rows) for rows, _ in seen} == {6, 18}
    for rows, one in seen:
        np.testing.assert_array_equal(rows[:6], m)
        np.testing.assert_array_equal(one[:6], labels)


@pytest.mark.parametrize("curve", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_a_sign_and_a_power_of_two_change_nothing_in_a_verdict(offset, curve):
    """Of elements below rounding and strongly curved ones too, which larger steps and second looks decide."""
    weights = np.array([[1.0], [1e-7], [1.0]])
    x = np.random.default_rng(0).standard_normal((3, 3))
    gradient = weights * np.cos(curve * x)
    gradient[2] *= 1.01

    def verdict(scale):
        function = lambda p: scale * (offset + np.sum(weights * np.sin(curve * p["x"])) / curve)  # noqa: E731
        t = check_gradient(function, {"x": x}, {"x": scale * gradient}).tensors[0]
        return replace(
            t, analytic=t.analytic / scale, numeric=t.numeric / scale + 0.0, usual=False, slope=round(t.slope, 9)
        )

    alone = verdict(1.0)
    assert alone.wrong == 3
    for scale in (-1.0, 2.0**-12, -(2.0**20)):
        assert repr(verdict(scale)) == repr(alone)  # a NaN equals itself so


@pytest.mark.parametrize("seed", range(20))
def test_larger_steps_are_extrapolated_as_the_docstring_says(seed):
    """Element by element, of quotients that agree, contradict each other either way, or cross a kink."""
    rng, m, rtol = np.random.default_rng(seed), 40, 1e-4
    truth = rng.standard_normal(m)
    found = {
        step: differences.Quotients(
            truth + 3e-9 / step * rng.standard_normal(m) + step * rng.standard_normal(m),
            1e-9 / step * rng.uniform(0.5, 1.5, m),
            rng.random(m) < 0.1,
        )
        for step in (differences.STEP, *differences.LARGER_STEPS)
    }
    asked = []

    def look(chosen, step):
        asked.append((step, chosen.tolist()))
        return differences.Quotients(*(column[chosen] for column in found[step]))

    numeric, error = differences.refine(look, found[differences.STEP], truth, rtol)
    expected_asked = {step: [] for step in differences.LARGER_STEPS}
    for i in range(m):
        h = differences.STEP
        q, rounding, kinked = (column[i] for column in found[h])
        best, most = q, rounding
        for larger in differences.LARGER_STEPS:
            if kinked or most <= rtol * max(abs(truth[i]), abs(best)):
                break
            expected_asked[larger].append(i)
            number, bound, kinked = (column[i] for column in found[larger])
            if kinked:
                break
            correction = (number - q) / ((larger / h) ** 2 - 1)
            estimate = q - correction
            contradiction = max(abs(estimate - best) - most, 0)
            if rounding + abs(correction) + contradiction < most:
                best, most = estimate, rounding + abs(correction) + contradiction
            q, rounding, h = number, bound, larger
        assert numeric[i] == pytest.approx(best, rel=1e-12)
        assert error[i] == pytest.approx(most, rel=1e-9)
    assert asked == [(step, chosen) for step, chosen in expected_asked.items() if chosen]
