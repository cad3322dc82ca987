"""A network written without minddpg, and its gradients checked: first with a bug in it, then right.

    python scripts/check_your_own.py

Copy this file, put your own forward and backward in place of these two functions, and run it.
"""

import numpy as np

from minddpg.gradcheck import check_gradient

N = 8  # samples


def loss(p):
    """mean over the batch of |tanh(x W1 + b1) W2 + b2 - y|^2."""
    h = np.tanh(p["x"] @ p["W1"] + p["b1"])
    out = h @ p["W2"] + p["b2"]
    return np.mean(np.sum((out - p["y"]) ** 2, axis=1))


def backward(p, bug=False):
    """d loss / d everything that can move, by name."""
    h = np.tanh(p["x"] @ p["W1"] + p["b1"])
    out = h @ p["W2"] + p["b2"]
    dout = 2 * (out - p["y"]) / len(out)
    if bug:
        dout = dout / len(out)  # the mean has been taken already
    dz = (dout @ p["W2"].T) * (1 - h**2)
    return {
        "W2": h.T @ dout,
        "b2": dout.sum(axis=0),
        "W1": p["x"].T @ dz,
        "b1": dz.sum(axis=0),
    }


def main():
    """Print both reports."""
    rng = np.random.default_rng(0)
    shapes = {"x": (N, 3), "W1": (3, 5), "b1": (5,), "W2": (5, 2), "b2": (2,), "y": (N, 2)}
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    print("--- divided by the batch size twice ---")
    print(check_gradient(loss, inputs, lambda p: backward(p, bug=True), batch=("x", "y"), constants=("x", "y")))
    print("\n--- right ---")
    report = check_gradient(loss, inputs, backward, batch=("x", "y"), constants=("x", "y"))
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
