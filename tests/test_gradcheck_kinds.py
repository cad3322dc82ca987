"""Every kind of case that outside use found, numbered as there: right ones pass, wrong ones fail and say why."""

import math

import numpy as np
import pytest
from random_networks import changed, is_located, random_network

from minddpg.gradcheck import assert_gradients, check_gradient, effort, situations
from minddpg.gradcheck.differences import WIDE, Probe, stirs
from minddpg.gradcheck.situations import SITUATIONS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 3))
ONES = np.ones((4, 3))
NOT_WRITTEN = "inputs, parameters and upstream are not written"
SITUATION = {s.name: s for s in SITUATIONS}


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(2).bit_generator.state


def broken(report):
    return {check.name: check.detail for check in report.checks if not check.ok}


def only(report):
    assert len(report.tensors) == 1
    return report.tensors[0]


@pytest.mark.parametrize("name", SITUATION)
def test_every_situation_is_told_right_from_wrong(name):
    situation = SITUATION[name]
    if situation.right is not None:
        assert situation.check(wrong=False).ok, situation.check(wrong=False)
    report = situation.check()
    assert not report.ok
    assert any(t.hint or t.wrong for t in report.tensors) or broken(report)


# --- 1: kinks ---------------------------------------------------------------------------------------------------------

AT_KINKS = np.array([1.0, 0.0, -1.0])
KINKS = {  # function, slopes to the left and right of zero
    "relu": (lambda x: np.maximum(x, 0), (0, 1)),
    "-relu": (lambda x: -np.maximum(x, 0), (0, -1)),
    "min": (lambda x: np.minimum(x, 0), (1, 0)),
    "-abs": (lambda x: -np.abs(x), (1, -1)),
    "leaky, downwards": (lambda x: np.where(x > 0, 0.1 * x, x), (1, 0.1)),
    "clip at zero": (lambda x: np.clip(x, 0, 2), (0, 1)),
    "curved": (lambda x: np.exp(x) - np.maximum(x, 0) * 3, (1, -2)),
}


@pytest.mark.parametrize("upstream", [1.0, -3e-6, 1e5])
@pytest.mark.parametrize("name", KINKS)
def test_at_a_kink_any_slope_between_the_two_is_right(name, upstream):
    function, (left, right) = KINKS[name]
    h = 1e-6
    slopes = [(function(x + h) - function(x - h)) / (2 * h) for x in AT_KINKS]
    for share, ok in ((0.0, True), (0.3, True), (1.0, True), (1.2, False), (-0.2, False)):
        analytic = np.array([math.nan, left + share * (right - left), math.nan])
        for i in (0, 2):
            analytic[i] = {"curved": (np.e - 3, 0, np.exp(-1))}.get(name, np.round(slopes, 3))[i]
        seed = np.full(3, upstream)
        report = check_gradient(lambda p: function(p["x"]), {"x": AT_KINKS}, {"x": upstream * analytic}, upstream=seed)
        assert report.ok is ok, report
        assert only(report).wrong == (not ok)


@pytest.mark.parametrize("strict", [True, False])
def test_units_on_their_kinks_are_counted_and_no_failure(strict):
    """Zero biases with a row of zeros, in two layers; 0 or 1 for the slope of ReLU at 0. Off the point they compare."""
    weights = {"W1": (3, 5), "W2": (5, 4), "W3": (4, 2)}
    inputs = {"x": np.vstack([X, np.zeros(3)]), "b1": np.zeros(5), "b2": np.zeros(4)}
    inputs |= {name: RNG.standard_normal(shape) for name, shape in weights.items()}

    def function(p):
        h = np.maximum(p["x"] @ p["W1"] + p["b1"], 0)
        return np.maximum(h @ p["W2"] + p["b2"], 0) @ p["W3"]

    def backward(p, u):
        z1 = p["x"] @ p["W1"] + p["b1"]
        z2 = np.maximum(z1, 0) @ p["W2"] + p["b2"]
        on1, on2 = (z1 > 0, z2 > 0) if strict else (z1 >= 0, z2 >= 0)
        dz2 = u @ p["W3"].T * on2
        dz1 = dz2 @ p["W2"].T * on1
        return {
            "W3": np.maximum(z2, 0).T @ u, "W2": np.maximum(z1, 0).T @ dz2, "b2": dz2.sum(axis=0),
            "W1": p["x"].T @ dz1, "b1": dz1.sum(axis=0), "x": dz1 @ p["W1"].T,
        }  # fmt: skip

    upstream = RNG.standard_normal((5, 2))
    report = check_gradient(function, inputs, backward, upstream=upstream)
    assert report.ok, report
    b1 = next(t for t in report.tensors if t.name == "b1")
    assert b1.kinks >= 3
    one_layer = SITUATION["ReLU units on their kinks: bias twice"].check(wrong=False)
    b = next(t for t in one_layer.tensors if t.name == "b")
    assert (b.kinks, b.checked, b.verdict) == (4, 0, "ok, on kinks")
    assert "move off the point" in str(one_layer)
    report = check_gradient(function, inputs, lambda p, u: {**backward(p, u), "b2": 1.5 * backward(p, u)["b2"]},
                            upstream=upstream)  # fmt: skip
    assert not report.ok


def test_one_to_each_of_tied_maxima_is_wrong():
    for x in (np.zeros(2), np.full(5, 3.0), np.array([1.0, 1, 0, -1])):
        top = x == x.max()
        first = np.eye(len(x))[int(x.argmax())]
        for analytic, ok in ((first, True), (top / top.sum(), True), (top * 1.0, False), (top * 0.9, False)):
            report = check_gradient(lambda p: p["x"].max(), {"x": x}, {"x": analytic})
            assert report.ok is ok, report


# --- 2: a function that writes its input ------------------------------------------------------------------------------


def in_place(change):
    def function(p):
        x = p["x"]
        change(x)
        return x**2

    return function


def late(p):
    """Only where it has been moved."""
    if p["x"][0, 0] != X[0, 0]:
        p["x"][1, 1] = 0
    return p["x"] ** 2


@pytest.mark.parametrize("arrays", [True, False])
@pytest.mark.parametrize(
    "function",
    [
        in_place(lambda x: x.__setitem__(x < 0, 0)), in_place(lambda x: np.subtract(x, x.mean(axis=0), out=x)),
        in_place(lambda x: np.divide(x, np.linalg.norm(x), out=x)), in_place(lambda x: x.sort(axis=0)), late,
    ],
)  # fmt: skip
def test_a_function_that_writes_its_input_is_stopped_at(function, arrays):
    gradients = {"x": 2 * X} if arrays else lambda p, u: {"x": 2 * u * p["x"]}
    report = check_gradient(function, {"x": X}, gradients, upstream=ONES)
    assert not report.ok
    assert report.tensors == ()
    assert broken(report)[NOT_WRITTEN].startswith("x (by the function) written")


# --- 3: zero by an invariance -----------------------------------------------------------------------------------------


def normalised(axis):
    s = situations
    return (
        lambda p: s._norm(p, axis), {k: v.copy() for k, v in s.NORM.items()},
        lambda p, u: s._norm_backward(p, u, axis), RNG.standard_normal((6, 3)),
    )  # fmt: skip


def test_a_bias_that_a_normalisation_does_not_see_is_zero_up_to_rounding():
    function, inputs, backward, upstream = normalised(0)
    for gradients in (backward, backward(inputs, upstream)):
        report = check_gradient(function, inputs, gradients, upstream=upstream)
        assert report.ok, report
        b = next(t for t in report.tensors if t.name == "b")
        assert (b.flat, b.zeros, b.verdict) == (3, 3, "ok, zero up to rounding")
        assert "does not see it" in b.note
    wrong = {**backward(inputs, upstream), "b": np.full(3, 1e-8)}
    assert not check_gradient(function, inputs, wrong, upstream=upstream).ok


def test_an_upstream_of_ones_shows_less_and_the_hint_says_so():
    function, inputs, backward, _ = normalised(0)
    report = check_gradient(function, inputs, backward, upstream=np.ones((6, 3)))
    assert report.ok, report
    assert "a non-uniform upstream shows more" in str(report)
    assert str(report).count("a non-uniform upstream shows more") == 1


def test_a_shift_of_all_logits_is_zero_up_to_rounding():
    y = situations.CLASSES
    z = {"z": RNG.standard_normal((6, 4)), "shift": np.array(0.3), "y": y}

    def loss(p):
        return situations._cross_entropy({"z": p["z"] + p["shift"], "y": p["y"]})

    def backward(p):
        dz = situations._cross_entropy_backward({"z": p["z"] + p["shift"], "y": p["y"]})["z"]
        return {"z": dz, "shift": dz.sum()}

    report = check_gradient(loss, z, backward, constants="y")
    assert report.ok, report


def test_zeros_that_nothing_depends_on_stay_vacuous():
    report = check_gradient(
        lambda p: np.sum(p["x"]), {"x": X, "unused": np.ones(3)}, {"x": ONES, "unused": np.zeros(3)}
    )
    assert not report.ok
    assert "vacuous" in str(report)


def test_exact_zeros_are_told_from_an_input_that_nothing_depends_on():
    def stirred(function):
        probe = Probe(function, {"s": np.array([0.3])}, np.array(1.0), None)
        return stirs(probe, "s", (0,))

    assert stirred(lambda p: np.sum((X + p["s"]) - p["s"]))
    assert not stirred(lambda p: np.sum(X))
    assert not stirred(lambda p: np.sum(X + p["s"] ** 2))

    def rounded(p):  # no step of the first look shows it
        return np.sum(X) + (0.0 if abs(p["s"][0] - 0.3) < 1 else 1e-15)

    report = check_gradient(rounded, {"s": np.array([0.3])}, {"s": np.zeros(1)})
    assert only(report).verdict == "ok, zero up to rounding", report


# --- 4: scales --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("period", "now"), [(60.0, 1.7e9), (1e-3, 5e4), (24 * 3600.0, 1.7e12)])
def test_steps_go_down_as_far_as_rounding_lets_them(period, now):
    w, t = 2 * np.pi / period, np.array([now, now + 0.122 * period])
    for factor, ok in ((1.0, True), (1.05, False)):
        analytic = factor * w * np.cos(w * t)
        report = check_gradient(lambda p: np.sum(np.sin(w * p["t"])), {"t": t}, {"t": analytic})
        assert report.ok is ok, report
        assert only(report).wrong == (0 if ok else 2)


def test_what_no_step_resolves_is_unresolved_never_wrong():
    w, t = 2 * np.pi / 60, np.array([1.7e18, 1.7e18 + 7e3])
    report = check_gradient(lambda p: np.sum(np.sin(w * p["t"])), {"t": t}, {"t": w * np.cos(w * t)})
    assert (only(report).wrong, only(report).unresolved) == (0, 2)


@pytest.mark.skipif(WIDE.eps > 1e-18, reason="float64 shows no more")
@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (1.0001, False)])
def test_where_rounding_leaves_room_for_1e_4_extended_precision_is_asked(factor, ok):
    report = check_gradient(
        lambda p: 2e6 + 1e-4 * np.sum(np.tanh(p["x"])), {"x": X},
        lambda p: {"x": factor * 1e-4 * (1 - np.tanh(p["x"]) ** 2)},
    )  # fmt: skip
    assert report.ok is ok, report
    assert only(report).tolerance < 1e-4


def test_nanometres_beside_1e18():
    x = np.array([650e-9, 1e18, 2e-9, 5e-7, 3e17])

    def function(p):
        v = p["x"]
        return np.sin(1e7 * v[0]) + np.log(v[1]) + np.exp(-v[2] / 1e-9) + v[3] * 1e6 * v[4] / 1e17

    right = np.array([1e7 * np.cos(6.5), 1e-18, -1e9 * np.exp(-2), 3e6, 5e-18])
    assert only(check_gradient(function, {"x": x}, {"x": right})).checked == 5
    for i in range(5):
        wrong = right * np.where(np.arange(5) == i, 1.01, 1)
        assert only(check_gradient(function, {"x": x}, {"x": wrong})).wrong == 1


# --- 5: forgotten gradients and constants -----------------------------------------------------------------------------


def test_a_forgotten_gradient_fails_unless_it_is_a_constant():
    inputs = {"x": X, "y": X + 1, "n": np.arange(3)}
    for gradients in ({"x": 2 * (X - inputs["y"])}, lambda p: {"x": 2 * (p["x"] - p["y"])}):
        report = check_gradient(lambda p: np.sum((p["x"] - p["y"]) ** 2), inputs, gradients)
        assert "y without: return it, or name it in constants=('y',)" in str(report)
        assert report.unchecked == ("y",)
        for constants in ("y", ("y",)):
            report = check_gradient(lambda p: np.sum((p["x"] - p["y"]) ** 2), inputs, gradients, constants=constants)
            assert report.ok, report


def test_constants_may_be_infinite_or_missing():
    labels = np.array([1.0, np.nan, 2.0, np.nan])
    known = ~np.isnan(labels)
    report = check_gradient(
        lambda p: np.sum((p["z"] - p["y"])[~np.isnan(p["y"])] ** 2), {"z": np.zeros(4), "y": labels},
        {"z": np.where(known, -2 * np.nan_to_num(labels), 0)}, constants="y",
    )  # fmt: skip
    assert report.ok, report
    with pytest.raises(
        ValueError, match="y holds a NaN or an infinity at \\(1,\\), and 1 more; if it needs no gradient"
    ):
        check_gradient(lambda p: np.sum(p["z"]), {"z": np.zeros(4), "y": labels}, {"z": np.ones(4)})
    for constants, message in (("w", "constants names w, but inputs has z"), ("z", "which constants names")):
        with pytest.raises(ValueError, match=message):
            check_gradient(lambda p: np.sum(p["z"]), {"z": np.zeros(4)}, {"z": np.ones(4)}, constants=constants)


# --- 6 to 8: hints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "hint"),
    [
        (6, "too large by N = 6"), (1 / 6, "too small by N = 6"), (-6, "the sign is wrong, and too large by N = 6"),
        (4, "too large by a factor of 4"), (1 / 4, "too small by a factor of 4"), (5, "too large by a factor of 5"),
        (2, "twice what it should be"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("batch", [(), ("X", "Y")])
def test_only_a_batch_is_called_n(factor, hint, batch):
    """Samples in columns: 6 of them, of 4 features, through 5 units."""
    s = situations
    options = {"constants": ("X", "Y"), "batch": batch}
    backward = s._changed(s._columns_backward, W1=lambda g: factor * g)
    report = check_gradient(s._columns, s.COLUMNS, backward, **options)
    assert hint in next(t.hint for t in report.tensors if t.name == "W1")
    assert check_gradient(s._columns, s.COLUMNS, s._columns_backward, **options).ok


def test_a_batch_as_long_as_there_are_features_is_told_from_a_weight():
    inputs = {"x": RNG.standard_normal((6, 6)), "W": RNG.standard_normal((6, 5)), "b": np.ones(5), "y": np.ones((6, 5))}

    def backward(p):
        h = np.tanh(p["x"] @ p["W"] + p["b"])
        dz = 2 * (h - p["y"]) * (1 - h**2) / len(h)
        return {"W": p["x"].T @ dz / len(h), "b": dz.sum(axis=0)}

    report = check_gradient(
        lambda p: np.sum((np.tanh(p["x"] @ p["W"] + p["b"]) - p["y"]) ** 2) / len(p["x"]), inputs, backward,
        constants=("x", "y"),
    )  # fmt: skip
    assert "too small by N = 6" in next(t.hint for t in report.tensors if t.name == "W")


@pytest.mark.parametrize("turned", [False, True])
def test_where_a_chain_goes_wrong_is_said(turned):
    s = situations
    options = {"upstream": s.U3, "constants": "x"}

    def backward(p, u):
        found = s._chain_backward(p, u, tanh=False)
        return dict(reversed(found.items())) if turned else found

    report = check_gradient(s._chain, s.CHAIN, backward, **options)
    first = report.between[1]
    assert (set(report.between[0]), first) == ({"b2", "W2"}, "b1"), report
    assert "wrong from b1 on: look between" in report.start
    assert f"start: {report.start}" in str(report)
    assert check_gradient(s._chain, s.CHAIN, s._chain_backward, **options).start == ""
    scattered = s._changed(s._chain_backward, W2=lambda g: 2 * g)
    assert check_gradient(s._chain, s.CHAIN, scattered, **options).start == ""


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("layer normalisation without gamma", "gamma, or the term with the normalised input"),
        ("layer normalisation without the term of the mean", "the term of the mean"),
        ("cross entropy: log(p + 1e-7) beside (p - y) / N", "a small constant of the function"),
        ("softmax and cross entropy: a factor 2", "twice what it should be"),
        ("a chain without tanh'", "tanh'"),
    ],
)  # fmt: skip
def test_hints_name_the_local_derivative(name, hint):
    assert hint in str(SITUATION[name].check())


def test_masks_of_another_array_and_activations_left_out_have_hints():
    u = RNG.standard_normal((4, 3))
    mask = check_gradient(lambda p: np.maximum(p["x"], 0), {"x": X}, {"x": u * (X[::-1] > 0)}, upstream=u)
    assert "a mask (ReLU's) of another array" in only(mask).hint
    tanh = check_gradient(lambda p: np.tanh(p["x"]), {"x": X}, {"x": u}, upstream=u)
    assert "a local derivative is left out" in only(tanh).hint
    sums = check_gradient(
        lambda p: situations._softmax(p["x"]), {"x": X}, {"x": u * situations._softmax(X)}, upstream=u
    )
    assert "each row must add up to zero" in only(sums).hint


def test_a_hint_is_said_once():
    inputs = {f"x{i}": X + i for i in range(7)}
    report = check_gradient(lambda p: sum(np.sum(x**2) for x in p.values()), inputs,
                            {name: x for name, x in inputs.items()})  # fmt: skip
    assert str(report).count("half of what it should be") == 1
    assert "(as in x" in str(report)
    assert "and 2 more)" in str(report)


# --- 9 and 10: speed and size -----------------------------------------------------------------------------------------

LARGE = {"x": RNG.standard_normal((5, 300)), "W": RNG.standard_normal((300, 200)) / 17, "b": RNG.standard_normal(200)}
U = RNG.standard_normal((5, 200))


def layer(p):
    layer.calls += 1
    return np.tanh(p["x"] @ p["W"] + p["b"])


def layer_backward(p, upstream, tanh=True):
    dz = upstream * (1 - np.tanh(p["x"] @ p["W"] + p["b"]) ** 2 if tanh else 1)
    return {"b": dz.sum(axis=0), "W": p["x"].T @ dz, "x": dz @ p["W"].T}


def evaluations(backward, **options):
    layer.calls = 0
    report = check_gradient(layer, LARGE, backward, upstream=U, **options)
    return layer.calls, report


@pytest.mark.parametrize("mode", ["auto", "directions", "sample"])
def test_a_failing_check_takes_at_most_three_times_a_passing_one(mode):
    right, report = evaluations(layer_backward, mode=mode)
    assert report.ok, report

    def column(p, u):
        found = layer_backward(p, u)
        found["W"][:, 7] = 0
        return found

    for wrong in (
        lambda p, u: {k: 2 * g for k, g in layer_backward(p, u).items()},
        lambda p, u: layer_backward(p, u, tanh=False), column,
    ):  # fmt: skip
        spent, report = evaluations(wrong, mode=mode)
        assert not report.ok
        assert spent <= 3.1 * right, (spent, right)


@pytest.mark.parametrize("mode", ["auto", "directions", "sample"])
@pytest.mark.parametrize(
    ("where", "value", "hint"),
    [
        ((slice(None), 7), 0.0, "wrong only in column 7: zero there"),
        ((slice(None), [3, 150]), 1.5, "wrong only in columns 3, 150: the rest is right"),
        ((11, slice(None)), 1.5, "wrong only in row 11: the rest is right"), ((250, 3), 9.0, "wrong only at (250, 3)"),
    ],
)  # fmt: skip
def test_what_a_direction_finds_is_located(mode, where, value, hint):
    def wrong(p, u):
        found = layer_backward(p, u)
        found["W"][where] *= value
        return found

    _, report = evaluations(wrong, mode=mode)
    assert hint in next(t.hint for t in report.tensors if t.name == "W"), report
    assert all(t.ok for t in report.tensors if t.name != "W")


def test_auto_is_full_while_that_is_cheap():
    _, report = evaluations(layer_backward)
    looked = {t.name: t.looked for t in report.tensors}
    assert looked == {"b": 200, "W": 40, "x": 1500} or looked == {"b": 200, "W": 40, "x": 40}
    assert "of W: 32 of 60,000 elements and 8 random directions through all 60,000" in str(report)
    small = check_gradient(lambda p: np.sum(p["x"] ** 2), {"x": X}, {"x": 2 * X})
    assert only(small).looked == X.size
    images = {"x": RNG.standard_normal((2, 3072)), "W": RNG.standard_normal((3072, 20)) / 55}
    report = check_gradient(lambda p: p["x"] @ p["W"], images, lambda p, u: {"W": p["x"].T @ u, "x": u @ p["W"].T},
                            upstream=np.ones((2, 20)))  # fmt: skip
    assert report.ok, report


def test_progress_says_how_many_evaluations_are_to_come(monkeypatch):
    monkeypatch.setattr(effort, "SILENT", 0.0)
    monkeypatch.setattr(effort, "INTERVAL", 0.0)
    told = []
    check_gradient(lambda p: np.sum(p["x"] ** 2), {"x": X}, {"x": 2 * X}, progress=told.append)
    assert "gradient check, x: " in told[0]
    assert "of about 24 evaluations" in told[0]
    assert told[-1] == ""
    monkeypatch.setattr(effort, "SILENT", 2.0)
    told.clear()
    check_gradient(lambda p: np.sum(p["x"] ** 2), {"x": X}, {"x": 2 * X}, progress=told.append)
    assert told == []


# --- 11: errors -------------------------------------------------------------------------------------------------------


class Sparse:
    def toarray(self):
        return ONES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": {"x": None}}, "the gradient of x is None"),
        ({"gradients": lambda p: {"x": None}}, "the gradient of x is None"),
        ({"function": lambda p: (np.sum(p["x"]), {"cache": 1})}, r"a tuple of 2, such as \(loss, cache\)"),
        ({"function": lambda p: (p["x"], p["x"] ** 2)}, "a tuple of 2 arrays; join them into one, as in np"),
        ({"function": lambda p: None}, "returns None"),
        ({"function": lambda p: {"loss": 1.0}}, "returns a dict; .* pick the entry"),
        ({"inputs": {"x": X, "layers": [X, X[0]]}}, "layers holds several arrays or objects; name them one by one"),
        ({"inputs": {"x": X, "layer": {"W": X}}}, "layer is a dict; .*'layer.W'"),
        ({"inputs": {"x": X, "S": Sparse()}}, "S is a sparse Sparse: give its .toarray"),
        ({"gradients": {"x": (np.array([0, 1]), X[:2])}}, r"x is a pair of arrays; .* np.add.at\(d, indices, values\)"),
        ({"gradients": {"x": Sparse()}}, "the gradient of x is a sparse Sparse"),
        ({"inputs": {"x": X, "n": np.arange(3)}, "gradients": lambda p: {"x": ONES, "n": np.zeros(3)}},
         "a gradient of n, which holds int64; give it as floats, or leave the gradient out"),
        ({"gradients": {"x": np.where(X[2, 1] == X, np.nan, 1)}}, r"x holds a NaN or an infinity at \(2, 1\)"),
        ({"gradients": {"x": ONES.T}}, r"has shape \(3, 4\), but x has shape \(4, 3\): it is transposed"),
        ({"inputs": {"x": X, "y": np.zeros((2, 2))}, "batch": ("x", "y")}, "or all of whose last axes are"),
        ({"inputs": {"x": np.zeros((0, 3))}, "batch": "x", "gradients": {"x": np.zeros((0, 3))}}, "x, which is empty"),
        ({"function": lambda p: np.sum(p["x"] * X), "batch": ("x",), "gradients": lambda p: {"x": X}},
         r"while tripling the batch \(x along their first axis\), .* could not be broadcast"),
        ({"function": lambda p: p["x"] / (X[1, 2] != X), "upstream": ONES}, r"first in its output \(1, 2\)"),
    ],
)  # fmt: skip
def test_errors_name_the_tensor_and_what_to_do(changes, message):
    given = {"function": lambda p: np.sum(p["x"]), "inputs": {"x": X}, "gradients": {"x": ONES}, **changes}
    with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
        check_gradient(given.pop("function"), given.pop("inputs"), given.pop("gradients"), **given)


def test_an_empty_tensor_is_ok_in_every_mode():
    for mode in ("auto", "full", "sample", "directions"):
        report = check_gradient(lambda p: np.sum(p["x"] ** 2) + np.sum(p["e"]), {"x": X, "e": np.zeros((0, 3))},
                                {"x": 2 * X, "e": np.zeros((0, 3))}, mode=mode)  # fmt: skip
        assert report.ok, report


# --- 12: layers that remember, and float32 ----------------------------------------------------------------------------


class Linear:
    """A layer that keeps its forward pass, as in many courses."""

    def __init__(self, w, b):
        self.w, self.b = w, b

    def forward(self, x):
        self.x = x
        return x @ self.w + self.b

    def backward(self, dy):
        self.dw, self.db = self.x.T @ dy, dy.sum(axis=0)
        return dy @ self.w.T


class Tanh:
    def forward(self, x):
        self.a = np.tanh(x)
        return self.a

    def backward(self, dy):
        return dy * (1 - self.a**2)


@pytest.mark.parametrize("batch", [(), ("x",)])
def test_layers_that_remember_their_forward_pass_just_work(batch):
    layers = [
        Linear(RNG.standard_normal((3, 4)), np.zeros(4)),
        Tanh(),
        Linear(RNG.standard_normal((4, 2)), np.zeros(2)),
    ]

    def function(p):
        layers[0].w, layers[0].b, layers[2].w, layers[2].b = p["W1"], p["b1"], p["W2"], p["b2"]
        out = p["x"]
        for each in layers:
            out = each.forward(out)
        return out

    def backward(p, upstream, tanh=True):
        for each in layers[::-1] if tanh else layers[::-2]:
            upstream = each.backward(upstream)
        return {"W2": layers[2].dw, "b2": layers[2].db, "W1": layers[0].dw, "b1": layers[0].db, "x": upstream}

    inputs = {"x": X, "W1": layers[0].w, "b1": np.ones(4), "W2": layers[2].w, "b2": np.ones(2)}
    upstream = RNG.standard_normal((4, 2))
    assert_gradients(function, inputs, backward, upstream=upstream, batch=batch)
    report = check_gradient(function, inputs, lambda p, u: backward(p, u, False), upstream=upstream, batch=batch)
    assert report.between == (("W2", "b2"), "W1")


def test_networks_that_can_only_compute_in_float32():
    def function(p):
        assert all(x.dtype == np.float32 for x in p.values())
        return np.tanh(p["x"] @ p["W"])

    def backward(p, upstream):
        dz = upstream * (1 - function(p) ** 2)
        return {"W": p["x"].T @ dz, "x": dz @ p["W"].T}

    inputs, upstream = {"x": X, "W": RNG.standard_normal((3, 5))}, RNG.standard_normal((4, 5))
    options = {"upstream": upstream, "dtype": "float32", "batch": ("x",)}
    report = assert_gradients(function, inputs, backward, **options)
    assert report.rtol == 1e-3
    for factor in (2.0, 0.9, -1.0):
        spoiled = situations._changed(backward, W=lambda g, factor=factor: factor * g)
        wrong = check_gradient(function, inputs, spoiled, **options)
        assert next(t for t in wrong.tensors if t.name == "W").wrong
        assert next(t for t in wrong.tensors if t.name == "x").ok, wrong
    for seed in range(12):  # of some, an element is a sum of terms that cancel
        rng = np.random.default_rng(seed)
        inputs = {"x": rng.standard_normal((4, 3)), "W": rng.standard_normal((3, 5))}
        assert_gradients(function, inputs, backward, **{**options, "upstream": rng.standard_normal((4, 5))})
    with pytest.raises(ValueError, match="dtype must be float64 or float32, not 'float16'"):
        check_gradient(function, inputs, backward, upstream=upstream, dtype="float16")


# --- 13: how it speaks ------------------------------------------------------------------------------------------------


def wrong_report():
    return check_gradient(lambda p: np.sum(p["x<y"] ** 2), {"x<y": X}, lambda p: {"x<y": 3 * p["x<y"]})


def test_every_column_is_explained_and_wrong_rows_say_what_was_allowed():
    report = wrong_report()
    text = str(report)
    legend = "\n".join(report.legend())
    for column in text.splitlines()[0].replace("rel err", "rel_err").split()[2:-1]:
        assert column.replace("_", " ") in legend, column
    assert 1e-6 <= only(report).tolerance < 1e-5
    assert "factor 1" not in text.replace("factor 1.", "")


def test_repr_is_the_table_and_notebooks_get_html():
    report = wrong_report()
    assert repr(report) == str(report)
    html = report._repr_html_()
    assert "<table>" in html
    assert "x&lt;y" in html
    assert "x<y" not in html
    assert only(report).verdict in html
    assert html.count("hint: ") == 1
    assert "not right" in html
    assert "what the columns mean" in html


def test_the_assertion_hides_its_frames_and_shows_the_table_first():
    with pytest.raises(AssertionError) as raised:
        assert_gradients(lambda p: np.sum(p["x"] ** 2), {"x": X}, {"x": X})
    assert str(raised.value).lstrip().startswith("tensor ")
    inner = raised.traceback[-1]
    assert inner.frame.code.name == "assert_gradients"
    assert inner.locals["__tracebackhide__"] is True


# --- what must hold: random networks ----------------------------------------------------------------------------------


def random_networks(seeds):
    """-> false alarms, missed ones, ones that were not located, and how many were spoiled visibly."""
    alarms, missed, unlocated, spoiled = [], [], [], 0
    for seed in seeds:
        right, wrong = random_network(seed), random_network(seed, spoiled=True)
        report = check_gradient(right.function, right.inputs, right.backward, upstream=right.upstream)
        if not report.ok:
            alarms.append((seed, str(report)))
        if changed(wrong, right):
            spoiled += 1
            report = check_gradient(wrong.function, wrong.inputs, wrong.backward, upstream=wrong.upstream)
            if report.ok:
                missed.append((seed, wrong.spoiled))
            elif not is_located(wrong, right, report):
                unlocated.append((seed, wrong.spoiled))
    return alarms, missed, unlocated, spoiled


extended = pytest.mark.skipif(WIDE.eps > 1e-18, reason="some of their gradients need extended precision to be seen")


@extended
def test_random_networks():
    alarms, missed, unlocated, spoiled = random_networks(range(40))
    assert not alarms, alarms[0]
    assert not missed
    assert spoiled > 30
    assert len(unlocated) <= 0.1 * spoiled, unlocated


@extended
@pytest.mark.slow
def test_a_thousand_random_networks():
    alarms, missed, unlocated, spoiled = random_networks(range(1000))
    assert not alarms, alarms[0]
    assert not missed
    assert len(unlocated) <= 0.1 * spoiled, unlocated
