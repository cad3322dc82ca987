"""Random networks with hand-written gradients, of layers of the tests' own: right, or with one derivative spoiled.

A network is a list of layers. Each layer turns a dict of arrays into one more value and, on the way back, its upstream
into gradients of its parameters and of what it read. Samples stand in rows or in columns; layers work in place (on what
they made themselves) or not. Every layer knows which of its local derivatives can be spoiled.
"""

from typing import Any, NamedTuple

import numpy as np

KINDS = (
    "linear", "relu", "leaky_relu", "min_max", "clip", "tanh", "softmax", "layer_norm", "batch_norm", "attention",
    "embedding",
)  # fmt: skip
EPSILON = 1e-5


class Layer(NamedTuple):
    """kind, the names of its parameters, and constants of its own."""

    kind: str
    names: tuple[str, ...]
    constants: dict[str, Any]


class Network(NamedTuple):
    """function and backward as check_gradient wants them, and where a spoiled derivative stands.

    tensors: in the order of the backward. spoiled: what was spoiled, in words; place: the tensors that must be wrong.
    """

    layers: list[Layer]
    inputs: dict[str, Any]
    upstream: Any
    function: Any
    backward: Any
    spoiled: str
    place: tuple[str, ...]
    above: tuple[str, ...]


def standardise(z, axis):
    mean = z.mean(axis, keepdims=True)
    deviation = np.sqrt(z.var(axis, keepdims=True) + EPSILON)
    return (z - mean) / deviation, deviation


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def forward(layer, p, x, in_place):
    """-> the layer's output, and what its backward needs."""
    own = x.copy() if in_place and x is not None else x
    c = layer.constants
    w = [p[name] for name in layer.names]
    if layer.kind == "embedding":
        return w[0][c["rows"]], None
    if layer.kind == "linear":
        z = x @ w[0]
        if in_place:
            z += w[1]
            return z, x
        return z + w[1], x
    if layer.kind == "relu":
        if in_place:
            own[own < 0] = 0
            return own, own > 0
        return np.maximum(x, 0), x > 0
    if layer.kind == "leaky_relu":
        slope = np.where(x > 0, 1.0, 0.1)
        return x * slope, slope
    if layer.kind == "min_max":
        other = x[:, ::-1]
        pick = np.minimum if c["smaller"] else np.maximum
        return pick(x, 0.5 * other), (x < 0.5 * other) if c["smaller"] else (x > 0.5 * other)
    if layer.kind == "clip":
        return np.clip(x, -c["at"], c["at"], out=own if in_place else None), np.abs(x) < c["at"]
    if layer.kind == "tanh":
        a = np.tanh(x, out=own if in_place else None)
        return a, a.copy()
    if layer.kind == "softmax":
        a = softmax(x)
        return a, a
    if layer.kind in ("layer_norm", "batch_norm"):
        xhat, deviation = standardise(x, -1 if layer.kind == "layer_norm" else 0)
        return xhat * w[0] + w[1], (xhat, deviation)
    q, k, v = (x @ w[0] + w[1], x @ w[2] + w[3], x @ w[4])
    a = softmax(q @ k.T * c["scale"])
    return a @ v, (x, q, k, v, a)


def derivatives(layer, p, kept, dy, spoil):
    """-> gradients of the parameters by name, in a backward's order, and dx. spoil(part, array) may change each."""
    c, w = layer.constants, [p[name] for name in layer.names]
    if layer.kind == "embedding":
        dtable = np.zeros_like(w[0])
        np.add.at(dtable, c["rows"], dy)
        return {layer.names[0]: spoil("rows", dtable)}, None
    if layer.kind == "linear":
        x = kept
        dw, db = spoil("weight", x.T @ dy), spoil("bias", dy.sum(0))
        return {layer.names[0]: dw, layer.names[1]: db}, spoil("input", dy @ w[0].T)
    if layer.kind in ("relu", "clip", "leaky_relu"):
        return {}, spoil("input", dy * kept)
    if layer.kind == "min_max":
        mine = dy * kept
        other = 0.5 * (dy * ~kept)
        return {}, spoil("input", mine + other[:, ::-1])
    if layer.kind == "tanh":
        return {}, spoil("input", dy * (1 - kept**2))
    if layer.kind == "softmax":
        return {}, spoil("input", kept * (dy - (dy * kept).sum(-1, keepdims=True)))
    if layer.kind in ("layer_norm", "batch_norm"):
        xhat, deviation = kept
        axis = -1 if layer.kind == "layer_norm" else 0
        dxhat = dy * w[0]
        mean, along = dxhat.mean(axis, keepdims=True), (dxhat * xhat).mean(axis, keepdims=True)
        dx = spoil("input", (dxhat - mean - xhat * along) / deviation)
        return {layer.names[0]: spoil("gamma", (dy * xhat).sum(0)), layer.names[1]: spoil("beta", dy.sum(0))}, dx
    x, q, k, v, a = kept
    da, dv = dy @ v.T, a.T @ dy
    ds = a * (da - (da * a).sum(1, keepdims=True)) * c["scale"]
    dq, dk = ds @ k, ds.T @ q
    gradients = {
        layer.names[4]: spoil("value", x.T @ dv), layer.names[2]: spoil("key", x.T @ dk), layer.names[3]: dk.sum(0),
        layer.names[0]: spoil("query", x.T @ dq), layer.names[1]: spoil("query bias", dq.sum(0)),
    }  # fmt: skip
    return gradients, spoil("input", dq @ w[0].T + dk @ w[2].T + dv @ w[4].T)


PARTS = {
    "linear": ("weight", "bias", "input"), "layer_norm": ("gamma", "beta", "input"),
    "batch_norm": ("gamma", "beta", "input"), "attention": ("value", "key", "query", "query bias", "input"),
    "embedding": ("rows",),
}  # fmt: skip


def random_network(seed, spoiled=False):
    """A network of two to six layers after its first, linear or embedding.

    Dead ones are drawn again: where units are dead or a softmax is saturated, tensors have gradients of nothing but
    zeros (to 1e-9 of what they would be), and the checker is to say so.
    """
    for attempt in range(100):
        network = _draw(np.random.default_rng([seed, attempt]), spoiled)
        if network is not None:
            return network
    raise AssertionError("a hundred dead networks")


def _is_dead(gradients, layers, inputs, upstream):
    unseen = {layer.names[3] for layer in layers if layer.kind == "attention"}  # a key's bias is never seen
    unseen |= {
        name for above, layer in zip(layers[1:], layers, strict=False) if above.kind == "batch_norm"
        for name in layer.names[1:] if layer.kind in ("linear", "layer_norm", "batch_norm")
    }  # fmt: skip
    size = float(np.abs(upstream).max())
    for name, gradient in gradients.items():
        natural = size / max(1e-300, float(np.abs(inputs[name]).max()) or 1.0)
        if name not in unseen and not np.abs(gradient).max() > 1e-9 * natural:
            return True
    return False


def _draw(rng, spoiled):
    n, width = int(rng.integers(3, 7)), int(rng.integers(2, 6))
    scale = 10.0 ** rng.integers(-8, 9) if rng.random() < 0.5 else 1.0
    columns, in_place = bool(rng.random() < 0.4), bool(rng.random() < 0.5)
    inputs, layers = {}, []

    def add(kind, fan_in):
        i, names, constants, fan_out = len(layers), (), {}, fan_in
        if kind == "embedding":
            rows = rng.integers(0, 4, n)
            rows[1] = rows[0]
            names, constants = (f"E{i}",), {"rows": rows}
            inputs[names[0]] = scale * rng.standard_normal((5, fan_in))
        elif kind == "linear":
            fan_out = int(rng.integers(2, 6))
            names = (f"W{i}", f"b{i}")
            inputs[names[0]] = rng.standard_normal((fan_in, fan_out)) / np.sqrt(fan_in)
            inputs[names[1]] = rng.standard_normal(fan_out) * (rng.random() < 0.7)
        elif kind in ("layer_norm", "batch_norm"):
            names = (f"g{i}", f"be{i}")
            inputs[names[0]], inputs[names[1]] = rng.uniform(0.5, 2, fan_in), rng.standard_normal(fan_in)
        elif kind == "attention":
            names = tuple(f"{name}{i}" for name in ("Wq", "bq", "Wk", "bk", "Wv"))
            for name in names:
                inputs[name] = rng.standard_normal((fan_in, fan_in) if name[0] == "W" else fan_in) / np.sqrt(fan_in)
            constants = {"scale": 1 / np.sqrt(fan_in)}
        elif kind == "clip":
            constants = {"at": float(rng.uniform(0.5, 2))}
        elif kind == "min_max":
            constants = {"smaller": bool(rng.random() < 0.5)}
        layers.append(Layer(kind, names, constants))
        return fan_out

    first = str(rng.choice(("linear", "linear", "embedding")))
    if first == "linear":
        inputs["x"] = scale * rng.standard_normal((n, width))
        if rng.random() < 0.2:
            inputs["x"][0] = 0  # on the kinks of what follows, where biases are zero
    width = add(first, width)
    if first == "linear" and scale != 1.0:
        inputs[layers[0].names[0]] /= scale
    for _ in range(int(rng.integers(2, 7))):
        width = add(str(rng.choice([kind for kind in KINDS if kind != "embedding"])), width)
    width = add("linear", width)
    out_scale = 10.0 ** rng.integers(-8, 9) if rng.random() < 0.3 else 1.0
    upstream = out_scale * rng.standard_normal((n, width))

    where, part, kind_of_fault = -1, "", ""
    picked = {}  # once: a fault that jumps about under rounding would be another kind of fault
    size = 10.0 ** rng.uniform(-4, 0)
    if spoiled:
        where = int(rng.integers(len(layers)))
        parts = PARTS.get(layers[where].kind, ("input",))
        if where == 0 and first == "linear":
            parts = ("weight", "bias", "input")
        part = str(rng.choice(parts))
        kind_of_fault = str(rng.choice(("factor", "one element", "a column")))

    def spoil_at(layer):
        def spoil(name, array):
            if layer != where or name != part:
                return array
            wrong = array.copy()
            if kind_of_fault == "factor":
                wrong *= 1 + size
            elif kind_of_fault == "one element":
                at = picked.setdefault("element", int(np.argmax(np.abs(wrong))))
                wrong.reshape(-1)[at] *= 1 + size
            else:
                sizes = np.abs(wrong).sum(tuple(range(wrong.ndim - 1)))
                wrong[..., picked.setdefault("column", int(np.argmax(sizes)))] *= 1 + size
            return wrong

        return spoil

    def run(p):
        x, kept = p.get("x"), []
        x = x.T if columns and x is not None else x
        for layer in layers:
            x, cache = forward(layer, p, x, in_place)
            kept.append(cache)
        return x, kept

    def function(p):
        out = run(p)[0]
        return out.T.copy() if columns else out

    def backward(p, u):
        dy, (_, kept), found = (u.T if columns else u), run(p), {}
        for i in range(len(layers) - 1, -1, -1):
            gradients, dy = derivatives(layers[i], p, kept[i], dy, spoil_at(i))
            found.update(gradients)
        if "x" in p:
            found["x"] = dy.T.copy() if columns else dy
        return found

    if columns and "x" in inputs:
        inputs["x"] = np.ascontiguousarray(inputs["x"].T)
    upstream = np.ascontiguousarray(upstream.T) if columns else upstream
    hidden, where = where, -1
    gradients = backward({k: v.copy() for k, v in inputs.items()}, upstream.copy())
    where, order = hidden, list(gradients)
    if _is_dead(gradients, layers, inputs, upstream):
        return None
    words, place, above = "", (), ()
    if spoiled:
        owner = [name for layer in layers[where : where + 1] for name in layer.names]
        below = [name for name in order if name == "x" or any(name in layer.names for layer in layers[:where])]
        own = {
            "weight": 0,
            "bias": 1,
            "gamma": 0,
            "beta": 1,
            "rows": 0,
            "query": 0,
            "query bias": 1,
            "key": 2,
            "value": 4,
        }
        place = tuple(below) if part == "input" else (owner[own[part]],)
        above = tuple(name for name in order if name not in below) if part == "input" else ()
        words = f"{layers[where].kind} {where}, {part}: {kind_of_fault} off by {size:.1e}"
    return Network(layers, inputs, upstream, function, backward, words, place, above)


def changed(network, right):
    """The tensors whose gradient the spoiled derivative changes by more than a part in 1e5: behind dead units, none.

    right: the same network unspoiled.
    """
    p = network.inputs
    wrong = network.backward({k: v.copy() for k, v in p.items()}, network.upstream.copy())
    good = right.backward({k: v.copy() for k, v in p.items()}, network.upstream.copy())
    rng = np.random.default_rng(0)
    shaken = {k: v * (1 + 1e-15 * rng.standard_normal(v.shape)) for k, v in p.items()}
    other = right.backward(shaken, network.upstream.copy())  # what is rounding alone is no gradient to spoil
    found = []
    for k in network.place:
        natural = float(np.abs(network.upstream).max()) / (float(np.abs(p[k]).max()) or 1.0)
        rounding = 100 * np.linalg.norm(other[k] - good[k]) + 1e-13 * natural
        if np.linalg.norm(wrong[k] - good[k]) > 1e-5 * np.linalg.norm(good[k]) + rounding:
            found.append(k)
    return found


def is_located(network, right, report):
    """Whether the report names the place: the tensor whose own formula is wrong, or between which two the fault is."""
    wrong, place = [t.name for t in report.tensors if t.wrong], changed(network, right)
    if not wrong:  # all of it on kinks: a check names it
        return any(name in check.detail for check in report.checks if not check.ok for name in place)
    if not set(wrong) <= set(network.place):
        return False
    if len(network.place) == 1 and not network.above:
        return wrong == list(network.place)
    told = [t.name for t in report.tensors if t.checked]
    expected = next((name for name in told if name in place), "")
    above = [name for name in told if name in network.above]
    if not above:
        return wrong[0] == expected
    return report.between[1] == expected and above[-1] in told[: told.index(expected)]
