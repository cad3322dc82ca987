"""Somebody else's arrays as ours: any framework's tensors, (out, in) or (in, out), to float64 layers (in, out)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

IN_OUT, OUT_IN = "in,out", "out,in"
EPS_BFLOAT16 = 2.0**-7


class ExplainError(ValueError):
    """What was handed to `explain` does not fit together; the message is one line that says what to do."""


class Layers(NamedTuple):
    """A perceptron: weights (in, out) and biases (out,), zero where there are none."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def tensors(self) -> list[Array]:
        """[W0, b0, W1, b1, ...]."""
        return [tensor for pair in zip(self.weights, self.biases, strict=True) for tensor in pair]


class Raw(NamedTuple):
    """A network as it was handed over: weights in the layout they had, biases or None."""

    weights: list[npt.NDArray[Any]]
    biases: list[npt.NDArray[Any] | None]


class Given(NamedTuple):
    """A gradient as it was handed over, in (in, out): [W0, b0, ...]; None where there is no bias to compare.

    turned: whether weights came as the transpose of their parameters. eps: the spacing of its numbers at 1. missing:
    how many tensors were None, which counts as zero.
    """

    tensors: list[Array | None]
    turned: bool
    eps: float
    missing: int


# --- from any framework ---------------------------------------------------------------------------------------------


def to_array(value: Any) -> npt.NDArray[Any]:
    """A tensor of NumPy, PyTorch, TensorFlow, JAX or anything with `__array__`, as a NumPy array of its dtype."""
    for name in ("detach", "cpu"):
        if hasattr(value, name):
            value = getattr(value, name)()
    if "bfloat16" in str(getattr(value, "dtype", "")):
        value = value.float() if hasattr(value, "float") else np.asarray(value).astype(np.float32)
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    numbers = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    if not numbers and array.dtype != bool:
        raise ExplainError(f"{type(value).__name__} holds no numbers; hand over arrays, or what NumPy can make one of")
    return array


def leaves(value: Any, gradients: bool = False) -> list[npt.NDArray[Any] | None]:
    """The arrays of a list, a (nested) dict, a torch module or its parameters(), a Keras model, in their order.

    gradients: take the gradients of a module, or of its parameters. None stays None: no gradient arrived there.
    """
    if value is None:
        return [None]
    if hasattr(value, "__next__") or (isinstance(value, np.ndarray) and value.dtype == object):
        value = list(value)
    if gradients and getattr(value, "requires_grad", False) and getattr(value, "is_leaf", False):
        return leaves(value.grad)
    if hasattr(value, "parameters") and callable(value.parameters):
        parameters = list(value.parameters())
        return [None if p is None else to_array(p) for p in ([p.grad for p in parameters] if gradients else parameters)]
    if hasattr(value, "get_weights"):
        if gradients:
            raise ExplainError("a Keras model does not keep gradients; hand over what tape.gradient(...) returned")
        return [to_array(item) for item in value.get_weights()]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item, gradients)]
    if isinstance(value, (list, tuple)) and not _numbers(value):
        return [leaf for item in value for leaf in leaves(item, gradients)]
    return [to_array(value)]


def _numbers(value: Sequence[Any]) -> bool:
    """Whether nested lists are one array written out: a row of numbers, or rows of equal length."""
    if all(np.isscalar(item) for item in value):
        return bool(value)
    rows = all(isinstance(item, (list, tuple)) and all(np.isscalar(x) for x in item) for item in value)
    return rows and len(value) > 1 and len({len(item) for item in value}) == 1


def raw_layers(value: Any, name: str) -> Raw:
    """Weights and biases by their dimensions, whichever stands first. Raises ExplainError."""
    try:
        arrays = leaves(value)
    except ExplainError as error:
        raise ExplainError(f"{name}: {error}") from None
    if not arrays or any(a is None for a in arrays):
        raise ExplainError(f"{name} is empty or holds None; hand over [W0, b0, W1, b1, ...]")
    known = [a for a in arrays if a is not None]
    for number, array in enumerate(known):
        if not np.isfinite(array).all():
            raise ExplainError(f"{name}: array {number} holds NaN or infinity; take an update before that happens")
    weights = [a for a in known if a.ndim == 2]
    biases = [a for a in known if a.ndim == 1]
    alternating = len(known) % 2 == 0 and all(a.ndim == 2 and 1 in a.shape for a in known[1::2])
    if not biases and alternating and all(b.size in w.shape for w, b in zip(known[::2], known[1::2], strict=True)):
        weights, biases = known[::2], [b.reshape(-1) for b in known[1::2]]  # biases kept as (1, out)
    if len(weights) + len(biases) != len(known) or len(biases) not in (0, len(weights)) or not weights:
        shapes = ", ".join(str(a.shape) for a in known)
        raise ExplainError(
            f"{name} has arrays {shapes}: explain reads perceptrons alone, a weight (2-D) and a bias (1-D) per layer; "
            "leave out normalisations and what else there is"
        )
    return Raw(weights, list(biases) if biases else [None] * len(weights))


def layouts(raw: Raw, name: str, inputs: int, joined: tuple[int, int], outputs: int) -> set[str]:
    """Which layouts the shapes allow. joined: (layer, columns) of an action. Raises ExplainError where none fits."""
    allowed = set()
    for layout in (IN_OUT, OUT_IN):
        width, fits = inputs, True
        for layer, (weight, bias) in enumerate(zip(raw.weights, raw.biases, strict=True)):
            rows, columns = weight.shape if layout == IN_OUT else weight.shape[::-1]
            fits &= rows == width + (joined[1] if layer == joined[0] else 0) and (bias is None or bias.size == columns)
            width = columns
        if fits and width == outputs:
            allowed.add(layout)
    if not allowed:
        shapes = " ".join(str(w.shape) for w in raw.weights)
        reads = f"{inputs} observations" + (f" and {joined[1]} actions (from layer {joined[0]})" if joined[1] else "")
        raise ExplainError(
            f"{name}: weights {shapes} do not lead from {reads} to {outputs} output{'s' * (outputs != 1)}"
            + ("; say with action_layer where the action comes in" if joined[1] else "")
        )
    return allowed


def layers(raw: Raw, layout: str) -> Layers:
    """In float64, (in, out)."""
    weights = [np.asarray(w if layout == IN_OUT else w.T, np.float64) for w in raw.weights]
    biases = [
        np.zeros(w.shape[1]) if b is None else np.asarray(b, np.float64)
        for w, b in zip(weights, raw.biases, strict=True)
    ]
    return Layers(tuple(weights), tuple(biases))


def gradient(value: Any, raw: Raw, layout: str, name: str) -> Given:
    """A gradient beside its parameters. Raises ExplainError where a shape fits neither them nor their transpose."""
    arrays = leaves(value, gradients=True)
    expected: list[npt.NDArray[Any]] = []
    for weight, bias in zip(raw.weights, raw.biases, strict=True):
        expected += [weight] if bias is None else [weight, bias]
    if len(arrays) != len(expected):
        raise ExplainError(f"{name} has {len(arrays)} arrays and its parameters {len(expected)}; one per parameter")
    if all(a is None or a.ndim <= 2 for a in arrays):  # [b0, W0, ...] beside parameters [b0, W0, ...]: weights first
        arrays = _in_order(arrays, expected)
    turned, tensors, missing, at = False, list[Array | None](), sum(a is None for a in arrays), iter(arrays)
    for weight, bias in zip(raw.weights, raw.biases, strict=True):
        for parameter in (weight, bias):
            if parameter is None:
                tensors.append(None)
                continue
            array = next(at)
            array = np.zeros(parameter.shape) if array is None else array
            if parameter.ndim == 1:
                array = array.reshape(-1) if array.size == parameter.size else array
            if array.shape != parameter.shape and array.shape == parameter.shape[::-1]:
                turned, array = True, array.T
            if array.shape != parameter.shape:
                raise ExplainError(f"{name}: a gradient {array.shape} for a parameter {parameter.shape}")
            if not np.isfinite(array).all():
                raise ExplainError(f"{name} holds NaN or infinity: look there first")
            tensors.append(np.asarray(array.T if parameter.ndim == 2 and layout == OUT_IN else array, np.float64))
    if turned:  # square ones cannot be told by their shape; they came the same way
        tensors = [t.T if t is not None and t.ndim == 2 and t.shape[0] == t.shape[1] else t for t in tensors]
    return Given(tensors, turned, precision([a for a in arrays if a is not None]), missing)


def _in_order(arrays: list[npt.NDArray[Any] | None], expected: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any] | None]:
    """Weights and biases sorted into the order [W0, b0, ...], as `raw_layers` sorts parameters."""
    sizes = [0 if a is None else a.size for a in arrays]
    if None in [None if a is None else 0 for a in arrays] or sizes == [e.size for e in expected]:
        return arrays
    weights = iter([a for a in arrays if a is not None and a.ndim == 2])
    biases = iter([a for a in arrays if a is not None and a.ndim != 2])
    return [next(weights if e.ndim == 2 else biases, None) for e in expected]


def precision(arrays: Sequence[npt.NDArray[Any]]) -> float:
    """The spacing at 1 of the numbers that these arrays hold, whatever dtype they came in."""
    kinds = {array.dtype for array in arrays}
    if any(kind == np.float16 for kind in kinds):
        return float(np.finfo(np.float16).eps)
    numbers = np.concatenate([np.zeros(0), *(np.asarray(a, np.float64).ravel() for a in arrays)])
    single = numbers.astype(np.float32)
    if not np.array_equal(single, numbers):
        return float(np.finfo(np.float64).eps)
    if np.float32 in kinds and single.any() and not (single.view(np.uint32) & 0xFFFF).any():
        return EPS_BFLOAT16
    return float(np.finfo(np.float32).eps)


def rows(value: Any, name: str, n: int | None, columns: int | None) -> Array:
    """Part of a batch: (N, columns), or (N,) where columns is None. Raises ExplainError."""
    try:
        array = np.asarray(to_array(value), np.float64)
    except ExplainError as error:
        raise ExplainError(f"{name}: {error}") from None
    if columns is None:
        array = array.reshape(-1) if array.size == max(array.shape, default=0) else array
    elif array.ndim == 1:
        array = array.reshape(-1, columns) if columns and array.size % columns == 0 else array
    wanted = 1 if columns is None else 2
    if array.ndim != wanted or (n is not None and len(array) != n) or (columns and array.shape[1] != columns):
        size = "N" if n is None else str(n)
        shape = f"({size},)" if columns is None else f"({size}, {columns or 'obs_dim'})"
        raise ExplainError(f"{name} has shape {array.shape} and must be {shape}")
    if len(array) == 0 or not np.isfinite(array).all():
        raise ExplainError(f"{name} is empty, or holds NaN or infinity")
    return array
