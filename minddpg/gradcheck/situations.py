"""Situations that outside use found: small functions with a right backward and a wrong one, each with its source.

Part of the catalogue of planted bugs (planted.py). The right ones must pass and the wrong ones fail; `python
scripts/gradcheck_kinds.py` prints what the checker says of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .checker import check_gradient
from .report import Report

P = dict[str, Any]
Backward = Callable[..., Mapping[str, Any]]


class Situation(NamedTuple):
    """kind: what it is an example of. right: None where there is none, as of a function that writes its inputs."""

    kind: str
    name: str
    source: str
    function: Callable[[P], Any]
    inputs: P
    right: Backward | None
    wrong: Backward
    options: P

    def check(self, wrong: bool = True) -> Report:
        """The report on one of the two."""
        backward = self.wrong if wrong or self.right is None else self.right
        return check_gradient(self.function, self.inputs, backward, **self.options)


RNG = np.random.default_rng(0)


def _normal(*shape: int) -> Any:
    return RNG.standard_normal(shape)


def _softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _changed(backward: Backward, **changes: Callable[[Any], Any]) -> Backward:
    """A backward with some of its gradients changed; None takes one away."""

    def wrong(*arguments: Any) -> Mapping[str, Any]:
        found = {name: changes[name](g) if name in changes else g for name, g in backward(*arguments).items()}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    return wrong


# --- kinks ------------------------------------------------------------------------------------------------------------

MAXIMA = np.array([[2.0, 2.0, 1.0], [0.0, 3.0, 3.0]])


def _first_maximum(p: P, upstream: Any) -> P:
    gradient = np.zeros_like(p["x"])
    gradient[np.arange(len(p["x"])), p["x"].argmax(axis=1)] = upstream
    return {"x": gradient}


def _minimum(p: P, upstream: Any) -> P:
    first = p["q1"] <= p["q2"]
    return {"q1": upstream * first, "q2": upstream * ~first}


def _zero_row(p: P, upstream: Any) -> P:
    z = p["x"] @ p["W"] + p["b"]
    dz = (upstream @ p["V"].T) * (z > 0)
    return {"V": np.maximum(z, 0).T @ upstream, "b": dz.sum(axis=0), "W": p["x"].T @ dz, "x": dz @ p["W"].T}


ZERO_ROW = {"x": np.vstack([_normal(3, 3), np.zeros((1, 3))]), "W": _normal(3, 4), "b": np.zeros(4), "V": _normal(4, 2)}

# --- normalisations and attention -------------------------------------------------------------------------------------


def _standardised(z: Any, axis: int) -> tuple[Any, Any]:
    deviation = np.sqrt(z.var(axis=axis, keepdims=True) + 1e-5)
    return (z - z.mean(axis=axis, keepdims=True)) / deviation, deviation


def _norm(p: P, axis: int = 1) -> Any:
    return _standardised(p["x"] @ p["W"] + p["b"], axis)[0] * p["g"] + p["be"]


def _norm_backward(p: P, upstream: Any, axis: int = 1, mean: float = 1, gamma: bool = True) -> P:
    xhat, deviation = _standardised(p["x"] @ p["W"] + p["b"], axis)
    dxhat = upstream * p["g"] if gamma else upstream
    along = (dxhat * xhat).mean(axis=axis, keepdims=True)
    dz = (dxhat - mean * dxhat.mean(axis=axis, keepdims=True) - xhat * along) / deviation
    return {
        "g": (upstream * xhat).sum(axis=0), "be": upstream.sum(axis=0),
        "W": p["x"].T @ dz, "b": dz.sum(axis=0), "x": dz @ p["W"].T,
    }  # fmt: skip


NORM = {"x": _normal(6, 4), "W": _normal(4, 3), "b": _normal(3), "g": _normal(3), "be": _normal(3)}


def _attention(p: P) -> Any:
    q, k = p["x"] @ p["Wq"], p["x"] @ p["Wk"] + p["bk"]
    return _softmax(q @ k.T) @ (p["x"] @ p["Wv"])


def _attention_backward(p: P, upstream: Any) -> P:
    q, k, v = p["x"] @ p["Wq"], p["x"] @ p["Wk"] + p["bk"], p["x"] @ p["Wv"]
    a = _softmax(q @ k.T)
    da = upstream @ v.T
    ds = a * (da - (da * a).sum(axis=1, keepdims=True))
    dq, dk, dv = ds @ k, ds.T @ q, a.T @ upstream
    dx = dv @ p["Wv"].T + dk @ p["Wk"].T + dq @ p["Wq"].T
    return {"Wv": p["x"].T @ dv, "bk": dk.sum(axis=0), "Wk": p["x"].T @ dk, "Wq": p["x"].T @ dq, "x": dx}


ATTENTION = {"x": _normal(5, 3), "Wq": _normal(3, 3), "Wk": _normal(3, 3), "bk": _normal(3), "Wv": _normal(3, 3)}
MASK = np.triu(np.full((4, 4), -np.inf), 1)


def _masked(p: P, upstream: Any) -> P:
    a = _softmax(p["x"] + p["mask"])
    return {"x": a * (upstream - (upstream * a).sum(axis=1, keepdims=True))}


# --- losses -----------------------------------------------------------------------------------------------------------

W60 = 2 * np.pi / 60
TIMES = np.array([1.7e9, 1.7e9 + 7.3, 1.7e9 + 21.1])
CLASSES = np.eye(4)[[0, 1, 2, 1, 3, 0]]


def _cross_entropy(p: P, epsilon: float = 0.0) -> Any:
    return -np.sum(p["y"] * np.log(_softmax(p["z"]) + epsilon)) / len(p["z"])


def _cross_entropy_backward(p: P) -> P:
    return {"z": (_softmax(p["z"]) - p["y"]) / len(p["z"])}


def _epsilon_backward(p: P) -> P:
    probability = _softmax(p["z"])
    dp = -p["y"] / (probability + 1e-7) / len(probability)
    return {"z": probability * (dp - (dp * probability).sum(axis=1, keepdims=True))}


def _columns(p: P) -> Any:
    out = p["W2"] @ np.tanh(p["W1"] @ p["X"] + p["b1"]) + p["b2"]
    return np.sum((out - p["Y"]) ** 2) / (2 * p["X"].shape[1])


def _columns_backward(p: P) -> P:
    a = np.tanh(p["W1"] @ p["X"] + p["b1"])
    dout = (p["W2"] @ a + p["b2"] - p["Y"]) / p["X"].shape[1]
    dz = p["W2"].T @ dout * (1 - a**2)
    return {
        "W2": dout @ a.T, "b2": dout.sum(axis=1, keepdims=True),
        "W1": dz @ p["X"].T, "b1": dz.sum(axis=1, keepdims=True),
    }  # fmt: skip


COLUMNS = {"X": _normal(4, 6), "Y": _normal(1, 6), "W1": _normal(5, 4), "b1": _normal(5, 1), "W2": _normal(1, 5),
           "b2": _normal(1, 1)}  # fmt: skip
IN_COLUMNS: P = {"constants": ("X", "Y"), "batch": ("X", "Y")}

# --- chains -----------------------------------------------------------------------------------------------------------


def _chain(p: P) -> Any:
    return np.maximum(np.tanh(p["x"] @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"], 0) @ p["W3"]


def _chain_backward(p: P, upstream: Any, tanh: bool = True, mask: Any = None) -> P:
    h = np.tanh(p["x"] @ p["W1"] + p["b1"])
    z = h @ p["W2"] + p["b2"]
    dz = upstream @ p["W3"].T * (z > 0 if mask is None else mask)
    dh = dz @ p["W2"].T * (1 - h**2 if tanh else 1)
    return {
        "W3": np.maximum(z, 0).T @ upstream, "b2": dz.sum(axis=0), "W2": h.T @ dz,
        "b1": dh.sum(axis=0), "W1": p["x"].T @ dh,
    }  # fmt: skip


CHAIN = {"x": _normal(6, 3), "W1": _normal(3, 5), "b1": _normal(5), "W2": _normal(5, 4), "b2": _normal(4),
         "W3": _normal(4, 2)}  # fmt: skip
OTHER_MASK = _normal(6, 4) > 0

# --- embeddings and recurrence ----------------------------------------------------------------------------------------

ROWS = np.array([1, 3, 1, 0, 1])


def _added(p: P, upstream: Any) -> P:
    table = np.zeros_like(p["E"])
    np.add.at(table, p["rows"], upstream)
    return {"E": table}


def _overwritten(p: P, upstream: Any) -> P:
    table = np.zeros_like(p["E"])
    table[p["rows"]] = upstream
    return {"E": table}


def _max_norm(p: P) -> Any:
    table = p["E"]
    table /= np.maximum(1.0, np.linalg.norm(table, axis=1, keepdims=True))  # into the caller's table
    return table[p["rows"]]


def _relu_in_place(p: P) -> Any:
    x = p["x"]
    x[x < 0] = 0
    return 2 * x


def _recurrent(p: P) -> Any:
    h = np.zeros((len(p["x"]), len(p["U"])))
    for t in range(p["x"].shape[1]):
        h = np.tanh(p["x"][:, t] @ p["W"] + h @ p["U"] + p["b"])
    return h


def _recurrent_backward(p: P, upstream: Any, overwrite: bool = False, clip: float = np.inf) -> P:
    steps, h = p["x"].shape[1], [np.zeros((len(p["x"]), len(p["U"])))]
    for t in range(steps):
        h.append(np.tanh(p["x"][:, t] @ p["W"] + h[-1] @ p["U"] + p["b"]))
    found, dx, dh = {name: np.zeros_like(p[name]) for name in ("U", "W", "b")}, np.zeros_like(p["x"]), upstream
    for t in range(steps - 1, -1, -1):
        dz = np.clip(dh, -clip, clip) * (1 - h[t + 1] ** 2)
        step = {"U": h[t].T @ dz, "W": p["x"][:, t].T @ dz, "b": dz.sum(axis=0)}
        for name, gradient in step.items():
            found[name] = gradient if overwrite else found[name] + gradient
        dx[:, t], dh = dz @ p["W"].T, dz @ p["U"].T
    return {**found, "x": dx}


RECURRENT = {"x": _normal(3, 4, 2), "U": _normal(3, 3), "W": _normal(2, 3), "b": _normal(3)}
U1, U2, U3 = _normal(6, 3), _normal(5, 3), _normal(6, 2)
KINK, IN_PLACE, INVARIANCE, SCALE = "kinks", "writes its input", "zero by an invariance", "a scale out of reach"
FORGOTTEN, BATCH, START, LOCAL = "forgotten", "batch size", "where it starts", "local derivative"

SITUATIONS = (
    Situation(
        KINK, "maximum: 1 to each of the tied ones", "apache/mxnet#18563", lambda p: p["x"].max(axis=1), {"x": MAXIMA},
        _first_maximum, lambda p, u: {"x": u[:, None] * (p["x"] == p["x"].max(axis=1, keepdims=True))},
        {"upstream": np.array([1.0, 2.0])},
    ),
    Situation(
        KINK, "minimum of two critics: 1 to each at a tie", "tensorflow/tensorflow#62436",
        lambda p: np.minimum(p["q1"], p["q2"]), {"q1": np.array([1.0, 2, 3]), "q2": np.array([1.0, 3, 2])},
        _minimum, lambda p, u: {"q1": u * (p["q1"] <= p["q2"]), "q2": u * (p["q2"] <= p["q1"])},
        {"upstream": np.array([1.0, -2.0, 0.5])},
    ),
    Situation(
        KINK, "-max(x, 0): the sign lost", "pytorch/pytorch#114219", lambda p: -np.maximum(p["x"], 0),
        {"x": np.array([1.0, 0.0, -1.0])}, lambda p, u: {"x": -u * (p["x"] > 0)},
        lambda p, u: {"x": u * (p["x"] >= 0)}, {"upstream": np.array([1.3, -2.0, 0.7])},
    ),
    Situation(
        KINK, "ReLU units on their kinks: bias twice", "HIPS/autograd#138",
        lambda p: np.maximum(p["x"] @ p["W"] + p["b"], 0) @ p["V"], ZERO_ROW,
        _zero_row, _changed(_zero_row, b=lambda g: 2 * g), {"upstream": _normal(4, 2)},
    ),
    Situation(
        IN_PLACE, "embedding: max_norm writes the table", "pytorch/pytorch#66622", _max_norm,
        {"E": 3 * _normal(4, 3), "rows": ROWS}, None, _added, {"upstream": U2},
    ),
    Situation(
        IN_PLACE, "ReLU in place in the forward", "Odyssey#2073", _relu_in_place, {"x": _normal(6, 3)}, None,
        lambda p, u: {"x": 2 * u * (p["x"] > 0)}, {"upstream": U1},
    ),
    Situation(
        INVARIANCE, "attention: a key's bias gets 1e-9", "Odyssey#2724", _attention, ATTENTION, _attention_backward,
        _changed(_attention_backward, bk=lambda g: g + 1e-9), {"upstream": U2},
    ),
    Situation(
        INVARIANCE, "upstream of ones behind a softmax: its sum left out", "pytorch/pytorch#63541",
        lambda p: _softmax(p["x"] + p["mask"]), {"x": _normal(4, 4), "mask": np.zeros((4, 4))}, _masked,
        lambda p, u: {"x": _softmax(p["x"]) * u}, {"upstream": np.ones((4, 4)), "constants": "mask"},
    ),
    Situation(
        SCALE, "time in seconds since 1970: 5 % too much", "tesseract-core#712", lambda p: np.sin(W60 * p["t"]),
        {"t": TIMES}, lambda p, u: {"t": u * W60 * np.cos(W60 * p["t"])},
        lambda p, u: {"t": 1.05 * u * W60 * np.cos(W60 * p["t"])}, {"upstream": np.ones(3)},
    ),
    Situation(
        FORGOTTEN, "batch normalisation: beta's gradient not returned", "mlpack/mlpack#1923", lambda p: _norm(p, 0),
        NORM, lambda p, u: _norm_backward(p, u, 0), _changed(lambda p, u: _norm_backward(p, u, 0), be=lambda g: None),
        {"upstream": U1},
    ),
    Situation(
        FORGOTTEN, "softmax with a mask of -inf: its sum left out", "pytorch/pytorch#196170",
        lambda p: _softmax(p["x"] + p["mask"]), {"x": _normal(4, 4), "mask": MASK}, _masked,
        lambda p, u: {"x": _softmax(p["x"] + p["mask"]) * u}, {"upstream": _normal(4, 4), "constants": "mask"},
    ),
    Situation(
        BATCH, "samples in columns: dW1 divided by their number twice", "bighuang624/Andrew-Ng-Deep-Learning-notes#10",
        _columns, COLUMNS, _columns_backward, _changed(_columns_backward, W1=lambda g: g / 6), IN_COLUMNS,
    ),
    Situation(
        BATCH, "samples in columns: db1 by the number of features", "bighuang624/Andrew-Ng-Deep-Learning-notes#10",
        _columns, COLUMNS, _columns_backward, _changed(_columns_backward, b1=lambda g: g / 4), IN_COLUMNS,
    ),
    Situation(
        START, "a chain without tanh'", "arthurdouillard/deepcourse#9", _chain, CHAIN, _chain_backward,
        lambda p, u: _chain_backward(p, u, tanh=False), {"upstream": U3, "constants": "x"},
    ),
    Situation(
        START, "a chain with the ReLU mask of another array", "pytorch/pytorch#11662", _chain, CHAIN, _chain_backward,
        lambda p, u: _chain_backward(p, u, mask=OTHER_MASK), {"upstream": U3, "constants": "x"},
    ),
    Situation(
        LOCAL, "layer normalisation without gamma", "Odyssey#3666", _norm, NORM, _norm_backward,
        lambda p, u: _norm_backward(p, u, gamma=False), {"upstream": U1},
    ),
    Situation(
        LOCAL, "layer normalisation without the term of the mean", "Odyssey#3666", _norm, NORM, _norm_backward,
        lambda p, u: _norm_backward(p, u, mean=0), {"upstream": U1},
    ),
    Situation(
        LOCAL, "cross entropy: log(p + 1e-7) beside (p - y) / N", "fromscratchtoml#65",
        lambda p: _cross_entropy(p, 1e-7), {"z": 3 * _normal(6, 4), "y": CLASSES}, _epsilon_backward,
        _cross_entropy_backward, {"constants": "y"},
    ),
    Situation(
        LOCAL, "softmax and cross entropy: a factor 2", "crysx_nn#7", _cross_entropy,
        {"z": _normal(6, 4), "y": CLASSES}, _cross_entropy_backward,
        _changed(_cross_entropy_backward, z=lambda g: 2 * g), {"constants": "y"},
    ),
    Situation(
        LOCAL, "embedding: repeated rows overwritten", "Flux#1516", lambda p: p["E"][p["rows"]],
        {"E": _normal(4, 3), "rows": ROWS}, _added, _overwritten, {"upstream": U2},
    ),
    Situation(
        LOCAL, "recurrent: only the first time step kept", "hanbt/learn_dl#53", _recurrent, RECURRENT,
        _recurrent_backward, lambda p, u: _recurrent_backward(p, u, overwrite=True), {"upstream": _normal(3, 3)},
    ),
    Situation(
        LOCAL, "recurrent: clipping inside the backward", "apache/mxnet#18203", _recurrent, RECURRENT,
        _recurrent_backward, lambda p, u: _recurrent_backward(p, u, clip=0.5), {"upstream": _normal(3, 3)},
    ),
)  # fmt: skip
