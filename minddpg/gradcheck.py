"""Finite differences against hand-written gradients, in float64, with no absolute tolerance to hide behind.

For each element x of each input, (f(x + h) - f(x - h)) / 2h with h = eps^(1/3) max(1, |x|) is compared with the
gradient under test:

    |analytic - numeric| <= rtol max(|analytic|, |numeric|) + bound,    bound = 4 eps |f| / h

The bound is what rounding alone does to the quotient. Elements too small to be told from it to three digits are
counted as unresolved, and more than 1 % of them in a tensor is a failure, as is a tensor with nothing but zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Inputs = dict[str, Array]

EPS = float(np.finfo(np.float64).eps)
MOST_UNRESOLVED = 0.01  # of a tensor's elements


@dataclass(frozen=True)
class TensorReport:
    """One input's gradient. Counts add up to `size`; the worst element is the one of the largest relative error."""

    name: str
    shape: tuple[int, ...]
    checked: int
    zeros: int
    kinks: int
    unresolved: int
    wrong: int
    max_rel_error: float
    index: tuple[int, ...]
    analytic: float
    numeric: float

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def verdict(self) -> str:
        """The word ok, or what is the matter."""
        if self.wrong:
            return f"{self.wrong} wrong"
        if self.checked == 0:
            return "vacuous: nothing but zeros, kinks and rounding"
        if self.unresolved > MOST_UNRESOLVED * self.size:
            return "too many elements below rounding"
        return "ok"


@dataclass(frozen=True)
class Report:
    """The result of `check_gradient`; prints as a table, worst tensor first."""

    tensors: tuple[TensorReport, ...]
    rtol: float

    @property
    def ok(self) -> bool:
        """Whether every tensor is right."""
        return all(tensor.verdict == "ok" for tensor in self.tensors)

    def __str__(self) -> str:
        lines = [
            f"{'tensor':<20}{'shape':<12}{'checked':>8}{'zeros':>7}{'kinks':>7}{'unres.':>7}{'max rel err':>13}"
            f"  at{'':<10}{'analytic':>14}{'numeric':>14}  verdict"
        ]
        for t in sorted(self.tensors, key=lambda t: (t.verdict == "ok", -t.max_rel_error)):
            lines.append(
                f"{t.name:<20}{t.shape!s:<12}{t.checked:>8}{t.zeros:>7}{t.kinks:>7}{t.unresolved:>7}"
                f"{t.max_rel_error:>13.1e}  {t.index!s:<12}{t.analytic:>14.6e}{t.numeric:>14.6e}  {t.verdict}"
            )
        lines.append(
            f"right: |analytic - numeric| <= {self.rtol:g} max(|analytic|, |numeric|) + rounding of the quotient; "
            "no absolute tolerance"
        )
        return "\n".join(lines)


def check_gradient(
    function: Callable[[Inputs], npt.ArrayLike],
    inputs: Mapping[str, npt.ArrayLike],
    gradients: Mapping[str, npt.ArrayLike],
    *,
    upstream: npt.ArrayLike | None = None,
    pattern: Callable[[Inputs], npt.NDArray[np.bool_]] | None = None,
    rtol: float = 1e-6,
) -> Report:
    """Compare gradients with central differences, element by element.

    function: maps a dict of float64 arrays to a scalar, or to an array, which then needs `upstream`: the loss is
    sum(upstream * function(inputs)). inputs: arrays by name. gradients: dloss/dinput for the names to check.
    pattern: for piecewise functions, which branch each element takes (a ReLU's mask); elements whose step changes it
    stand on a kink, where the two sides differ, and are counted instead of compared.
    """
    arrays = {name: np.array(value, np.float64) for name, value in inputs.items()}
    weights = np.asarray(1.0 if upstream is None else upstream, np.float64)
    centre = np.asarray(function(arrays), np.float64)
    if centre.shape != weights.shape:
        raise ValueError(f"the function returns shape {centre.shape}, but upstream has shape {weights.shape}")
    scale = float(np.sum(np.abs(weights * centre)))
    branches = None if pattern is None else pattern(arrays).copy()
    tensors = []
    for name, gradient in gradients.items():
        x, analytic = arrays[name], np.asarray(gradient, np.float64)
        if analytic.shape != x.shape:
            raise ValueError(f"the gradient of {name} has shape {analytic.shape}, but {name} has shape {x.shape}")
        if not np.isfinite(analytic).all():
            raise ValueError(f"the gradient of {name} holds a NaN or an infinity")
        tensors.append(_check_tensor(name, arrays, analytic, function, weights, scale, pattern, branches, rtol))
    return Report(tuple(tensors), rtol)


def _check_tensor(
    name: str,
    arrays: Inputs,
    analytic: Array,
    function: Callable[[Inputs], npt.ArrayLike],
    weights: Array,
    scale: float,
    pattern: Callable[[Inputs], npt.NDArray[np.bool_]] | None,
    branches: npt.NDArray[np.bool_] | None,
    rtol: float,
) -> TensorReport:
    x = arrays[name]
    checked = zeros = kinks = unresolved = wrong = 0
    worst = (-1.0, (0,) * x.ndim, 0.0, 0.0)
    for index in np.ndindex(x.shape):
        value = x[index]
        h = EPS ** (1 / 3) * max(1.0, abs(value))
        sides, kinked = [], False
        for side in (value + h, value - h):
            x[index] = side
            sides.append(np.array(function(arrays), np.float64))
            if pattern is not None and branches is not None:
                kinked |= not np.array_equal(pattern(arrays), branches)
        x[index] = value
        if kinked:
            kinks += 1
            continue
        numeric = float(np.sum(weights * (sides[0] - sides[1]))) / ((value + h) - (value - h))
        a = float(analytic[index])
        bound, size, error = 4 * EPS * scale / h, max(abs(a), abs(numeric)), abs(a - numeric)
        if size == 0:
            zeros += 1
            continue
        if error > rtol * size + bound:
            wrong += 1
        elif bound > 1e-3 * size:
            unresolved += 1
            continue
        checked += 1
        relative = max(0.0, error - bound) / size
        worst = max(worst, (relative, index, a, numeric))
    return TensorReport(name, x.shape, checked, zeros, kinks, unresolved, wrong, max(worst[0], 0.0), *worst[1:])


def assert_gradients(*args: object, **kwargs: object) -> Report:
    """`check_gradient` for tests: raises AssertionError with the table where a gradient is wrong."""
    report = check_gradient(*args, **kwargs)  # type: ignore[arg-type]
    if not report.ok:
        raise AssertionError("gradients differ from finite differences\n" + str(report))
    return report
