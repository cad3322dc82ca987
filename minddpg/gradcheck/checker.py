"""Finite differences against hand-written gradients, in float64, with no absolute tolerance to hide behind.

    |analytic - numeric| <= rtol max(|analytic|, |numeric|) + error of the finite difference

The error is what rounding does to the quotient (see differences.py). Where it exceeds rtol, larger steps bring it
down; an element where it stays above a thousandth is unresolved: counted and named, and more than 1 % of them in a
tensor is a failure, as is a tensor where nothing was compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .differences import (
    FLOAT32,
    FLOAT64,
    Inputs,
    Precision,
    Probe,
    measure,
    neighbouring_slopes,
    output_array,
    reaches,
    second_look,
)
from .effort import FULL_BUDGET, Effort, Tell
from .judgement import DIRECTIONS, SAMPLES, Judgement, Mode, choose_lines, lines_of, plan
from .report import Check, Report
from .structure import (
    NOT_WRITTEN,
    Backward,
    Structure,
    batch_axes,
    copies,
    gradient_array,
    growth_when_tripled,
    written,
)

__all__ = ["DIRECTIONS", "SAMPLES", "Judgement", "Mode", "assert_gradients", "check_gradient", "choose_lines"]

Gradients = Mapping[str, npt.ArrayLike]
TOGETHER = "elements on kinks, moved together, have a gradient that fits"
OFF_THE_KINKS = "the gradients of what stands on nothing but kinks are right close by"


def check_gradient(
    function: Callable[[Inputs], npt.ArrayLike],
    inputs: Mapping[str, npt.ArrayLike],
    gradients: Gradients | Backward,
    *,
    upstream: npt.ArrayLike | None = None,
    mode: Mode = "auto",
    samples: int = SAMPLES,
    directions: int = DIRECTIONS,
    rtol: float | None = None,
    atol: float = 0.0,
    seed: int = 0,
    pattern: Callable[[Inputs], npt.NDArray[np.bool_]] | None = None,
    batch: tuple[str, ...] = (),
    constants: tuple[str, ...] = (),
    dtype: Literal["float64", "float32"] = "float64",
    progress: Tell | None = None,
) -> Report:
    """Compare hand-written gradients with central differences.

    function: maps a dict of float64 arrays to a scalar loss, or to an array, which then needs `upstream`: the loss is
    sum(upstream * function(inputs)). Where it writes into its inputs, the report says into which, and nothing else.
    inputs: arrays by name. The check runs on float64 copies; arrays of whole numbers and bools without a gradient
    (labels, masks) keep their dtype.
    gradients: dloss/dinput by name, each of its tensor's shape; or, better, the backward itself, a function of
    (inputs), or of (inputs, upstream) where there is an upstream, that returns them. It is then run on the float64
    copies, each time right after the function (layers may remember their forward pass), its float32 error is stated,
    and the structural checks are made that finite differences miss (see structure.py). Arrays of float32 are compared
    as exactly as float32 allows. In the order of a backward, output first, they also tell where a fault starts.
    mode: "full" checks every element. "sample" checks up to `samples` elements of every tensor, from all over its rows
    and columns, the largest among them, and two directions. "directions" checks the slope along `directions` random
    directions of each tensor: two evaluations each however large the tensor is, but an element that is small beside the
    others may be wrong unseen. What a direction finds is located by bisection. "auto" checks every element as long as
    that takes 20,000 evaluations (fewer where these are of more than 10,000 numbers), and a sample and directions of
    the tensors beyond.
    rtol: relative error allowed, per element; default 1e-6, or 1e-3 for dtype "float32". atol: absolute error allowed;
    leave it at 0 unless you know the scale.
    seed: of the sample and the directions.
    pattern: for piecewise functions, which branch each element takes (a ReLU's mask) as a bool array; elements whose
    steps all change it stand on a kink and are counted instead of compared. Without it, their slopes tell kinks.
    batch: names of the inputs whose first axis (or last, for samples in columns) is the batch, for functions that treat
    its rows independently; adds the checks that no row leaks into another's gradient and that a tripled batch does not
    change a mean's.
    constants: names of the float inputs that need no gradient (targets, additive masks); they may hold NaN and
    infinities. Any other float input without a gradient is a failure.
    dtype: "float32" for functions that can only compute in float32: inputs are float32, steps larger, and what cannot
    be told to 5 % is unresolved; up to 15 % of a tensor may be.
    progress: called with what is being done, after two seconds; on a terminal it is shown unless this is given.

    Raises ValueError for shapes that do not fit, dtypes that are not numbers, NaN, and names that are unknown.
    """
    precision = {"float64": FLOAT64, "float32": FLOAT32}.get(dtype)
    if precision is None:
        raise ValueError(f"dtype must be float64 or float32, not {dtype!r}")
    rtol = (1e-6 if precision is FLOAT64 else 1e-3) if rtol is None else rtol
    check_options(mode, samples, directions, rtol, atol)
    batch, constants = ((names,) if isinstance(names, str) else tuple(names) for names in (batch, constants))
    arrays = _arrays(inputs, gradients, constants, precision)
    weights = _floats("upstream", 1.0 if upstream is None else upstream, precision)
    given = None if upstream is None else weights
    _check_batch(batch, arrays)

    seconds = math.inf
    for _ in range(2):  # the first call of all also warms up
        first, started = copies(arrays), time.perf_counter()
        with np.errstate(all="ignore"):
            output_array(function(first))
        seconds = min(seconds, time.perf_counter() - started)
        spoilt = written(first, arrays)
        if spoilt:
            return _stopped(spoilt, rtol, atol, mode)
    analytic, checks, float32_errors = dict(gradients) if isinstance(gradients, Mapping) else {}, [], {}
    structure = None
    if not isinstance(gradients, Mapping):
        structure = Structure(function, gradients, arrays, given, constants, precision)
        analytic = dict(structure.analytic)
    if not analytic:
        raise ValueError("no gradients to check")
    checked = {name: _checked_gradient(name, gradient, arrays, constants) for name, gradient in analytic.items()}
    if structure is not None:
        checks = structure.checks(batch)
        float32_errors = structure.float32_errors() if precision is FLOAT64 else {}
    forgotten = [name for name, x in arrays.items() if name not in analytic and x.dtype.kind == "f"]
    forgotten = [name for name in forgotten if name not in constants]
    checks.append(_nothing_forgotten(forgotten))

    numbers, rng = sum(x.size for x in arrays.values()), np.random.default_rng(seed)
    modes = plan({name: g.size for name, g in checked.items()}, mode, FULL_BUDGET, numbers)
    looks = {name: lines_of(g, modes[name], samples, directions, rng) for name, g in checked.items()}
    effort = Effort(sum(2 * lines.total for lines in looks.values()), progress)
    effort.pace(seconds)
    try:
        effort.what = next(iter(looks))
        probe = Probe(function, arrays, weights, pattern, precision, effort.tick, constants)
        sizes = _BatchSizes(function, arrays, given, batch, constants)
        judgements = []
        for name, lines in looks.items():
            effort.what = name
            look = partial(measure, probe, name, lines)
            blur = _blur(analytic[name])
            own = partial(_own_rounding, structure, name)
            judgements.append(Judgement(probe, name, checked[name], lines, look, rtol, atol, blur, sizes, effort, own))
        tensors = [replace(j.report(), float32_error=float32_errors.get(j.name, math.nan)) for j in judgements]
        checks += _kinks_together(probe, judgements, rtol)
        bare = [t.name for t in tensors if t.kinks and not t.checked]
        if bare and structure is not None:
            checks += _off_the_kinks(function, structure, arrays, weights, constants, bare, precision, rtol)
    finally:
        effort.close()
    spoilt = written(arrays, first)
    if spoilt:
        return _stopped(spoilt, rtol, atol, mode)
    return Report(tuple(tensors), tuple(checks), rtol, atol, mode, tuple(forgotten))


def check_options(mode: str, samples: int, directions: int, rtol: float, atol: float = 0.0) -> None:
    """Raises ValueError for options that make no sense."""
    if mode not in ("auto", "full", "sample", "directions"):
        raise ValueError(f"mode must be auto, full, sample or directions, not {mode!r}")
    if samples < 1 or directions < 1 or not 0 <= rtol < 1 or not 0 <= atol < math.inf:
        raise ValueError("samples and directions must be 1 or more, rtol in [0, 1), atol 0 or more")


def assert_gradients(
    function: Callable[[Inputs], npt.ArrayLike],
    inputs: Mapping[str, npt.ArrayLike],
    gradients: Gradients | Backward,
    **options: Any,
) -> Report:
    """`check_gradient` for tests, with the same options: raises AssertionError with the table unless all is right."""
    __tracebackhide__ = True  # pytest then shows the test's own line, and the table
    report = check_gradient(function, inputs, gradients, **options)
    if not report.ok:
        raise AssertionError(f"\n{report}")
    return report


# --- what was given ---------------------------------------------------------------------------------------------------


def _arrays(
    inputs: Mapping[str, npt.ArrayLike],
    gradients: Gradients | Backward,
    constants: tuple[str, ...],
    precision: Precision,
) -> Inputs:
    """Copies of the inputs: as floats, but for whole numbers and bools that nobody wants a gradient of."""
    for what, given in (("inputs", inputs), ("gradients", gradients)):
        if not isinstance(given, Mapping) and not (what == "gradients" and callable(given)):
            raise ValueError(f"{what} must be arrays by name, like {{'x': x}}, not {type(given).__name__}")
    unknown = [name for name in constants if name not in inputs]
    if unknown:
        raise ValueError(f"constants names {', '.join(unknown)}, but inputs has {', '.join(map(str, inputs))}")
    wanted = gradients if isinstance(gradients, Mapping) else ()
    arrays: Inputs = {}
    for name, value in inputs.items():
        array = _array(str(name), value)
        if array.dtype.kind in "iub" and (name not in wanted or array.dtype.kind == "b"):
            arrays[name] = array
        elif name in constants:
            arrays[name] = array.astype(precision.dtype) if array.dtype.kind == "f" else array
        else:
            arrays[name] = _floats(name, array, precision)
    return arrays


def _array(name: str, value: Any) -> npt.NDArray[Any]:
    if isinstance(value, Mapping):
        inner = next(iter(value), "W")
        raise ValueError(f"{name} is a dict; name its arrays one by one, as in {{'{name}.{inner}': ...}}")
    if value is None:
        raise ValueError(f"{name} is None, but must be an array")
    if hasattr(value, "toarray"):
        raise ValueError(f"{name} is a sparse {type(value).__name__}: give its .toarray()")
    try:
        array = np.array(value)
    except ValueError:
        array = np.zeros(0, object)
    several = isinstance(value, (list, tuple)) and any(isinstance(v, np.ndarray) and v.ndim for v in value)
    if array.dtype == object or (several and array.dtype.kind not in "fiub"):
        raise ValueError(
            f"{name} holds several arrays or objects; name them one by one, as in {{'{name}.0': ..., '{name}.1': ...}}"
        )
    return array


def _floats(name: str, value: npt.ArrayLike, precision: Precision) -> FloatArray:
    """A copy as floats."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype}, but must hold real numbers")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = f" at {tuple(map(int, bad[0]))}" if array.ndim else ""
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        cure = "; if it needs no gradient, name it in constants" if "gradient of" not in name else ""
        raise ValueError(f"{name} holds a NaN or an infinity{where}{more}{cure}")
    return np.array(array, precision.dtype)


def _checked_gradient(name: str, gradient: npt.ArrayLike, arrays: Inputs, constants: tuple[str, ...]) -> FloatArray:
    """The gradient of an input in float64. Raises ValueError where it does not fit."""
    if name not in arrays:
        raise ValueError(f"there is a gradient of {name}, but no input of that name; inputs: {', '.join(arrays)}")
    if name in constants:
        raise ValueError(f"there is a gradient of {name}, which constants names; leave out one of the two")
    array = gradient_array(name, gradient)
    if arrays[name].dtype.kind != "f":
        raise ValueError(
            f"there is a gradient of {name}, which holds {arrays[name].dtype}; give it as floats, or "
            "leave the gradient out"
        )
    if array.shape != arrays[name].shape:
        turned = ": it is transposed" if array.ndim > 1 and array.T.shape == arrays[name].shape else ""
        raise ValueError(
            f"the gradient of {name} has shape {array.shape}, but {name} has shape {arrays[name].shape}{turned}"
        )
    return _floats(f"the gradient of {name}", array, FLOAT64)


def _check_batch(batch: tuple[str, ...], arrays: Inputs) -> None:
    unknown = [name for name in batch if name not in arrays]
    if unknown:
        raise ValueError(f"batch names {', '.join(unknown)}, but inputs has {', '.join(arrays)}")
    if batch and not batch_axes([arrays[name] for name in batch]):
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in batch)
        raise ValueError(
            f"batch must name inputs whose first axes are equally long, or all of whose last axes are (samples in "
            f"columns), not {shapes}"
        )
    if batch and not arrays[batch[0]].size:
        raise ValueError(f"batch names {batch[0]}, which is empty")


def _blur(gradient: npt.ArrayLike) -> float:
    """What a gradient of float32 does not know itself: some last bits of its largest element."""
    array = np.asarray(gradient)
    if array.dtype.kind != "f" or array.dtype.itemsize >= 8 or array.size == 0:
        return 0.0
    return 8 * float(np.finfo(array.dtype).eps) * float(np.abs(array).max())


def _own_rounding(structure: Structure | None, name: str) -> float:
    """What rounding makes of a gradient's elements, as running the backward on inputs with other last bits shows it."""
    return 0.0 if structure is None else 4 * structure.rounding_of(name)


def _stopped(spoilt: list[str], rtol: float, atol: float, mode: str) -> Report:
    names = ", ".join(f"{name} (by the function)" for name in spoilt)
    detail = f"{names} written: work on a copy, as in x = x.copy(). Nothing else was checked"
    return Report((), (Check(NOT_WRITTEN, False, detail),), rtol, atol, mode)


def _nothing_forgotten(names: list[str]) -> Check:
    detail = f"{', '.join(names)} without: return it, or name it in constants={tuple(names)}" if names else ""
    return Check("every float input has a gradient, but for constants", not names, detail)


class _BatchSizes:
    """Whether a number is the length of a batch: tripling what is as long leaves a mean alone, or triples a sum."""

    def __init__(
        self,
        function: Callable[[Inputs], Any],
        arrays: Inputs,
        upstream: FloatArray | None,
        batch: tuple[str, ...],
        constants: tuple[str, ...],
    ):
        self.function, self.arrays, self.upstream, self.batch = function, arrays, upstream, batch
        self.constants = constants
        self.known: dict[int, bool] = {}

    def __call__(self, n: int) -> bool:
        if n not in self.known:
            self.known[n] = self._is_one(n)
        return self.known[n]

    def _is_one(self, n: int) -> bool:
        if self.batch:
            axes = batch_axes([self.arrays[name] for name in self.batch])
            return any(self.arrays[self.batch[0]].shape[axis] == n for axis in axes)
        for axis in (0, -1):
            long = [name for name, x in self.arrays.items() if x.ndim > (axis < 0) and x.shape[axis] == n]
            others = [name for name in long if not self._is_a_weight(name, n, axis)]
            shared = 0 if self.upstream is None else int(n in self.upstream.shape)
            for names in {tuple(long), tuple(others)}:
                if len(names) + shared < 2 or not names:
                    continue
                with suppress(Exception), np.errstate(all="ignore"):
                    if growth_when_tripled(self.function, self.arrays, self.upstream, names, axis) is not None:
                        return True
        return False

    def _is_a_weight(self, name: str, n: int, axis: int) -> bool:
        """Whether another axis of this array is as long as a vector, as that of a weight is as long as its bias."""
        if name in self.constants or self.arrays[name].dtype.kind != "f":
            return False
        shape = self.arrays[name].shape
        rest = shape[1:] if axis == 0 else shape[:-1]
        return any(x.ndim == 1 and x.shape[0] in rest for other, x in self.arrays.items() if other != name)


# --- kinks ------------------------------------------------------------------------------------------------------------


def _kinks_together(probe: Probe, judgements: list[Judgement], rtol: float) -> list[Check]:
    """Where several elements stand on kinks, each may seem right alone: 1 to each of k tied maxima is wrong."""
    flags = {j.name: j.kinks() for j in judgements}
    groups = [{name: flag} for name, flag in flags.items() if flag.sum() > 1]
    everything = {name: flag for name, flag in flags.items() if flag.any()}
    groups += [everything] if len(everything) > 1 else []
    if not groups:
        return []
    gradients, details = {j.name: j.gradient for j in judgements}, []
    for group in groups:
        units = sum(int(flag.sum()) for flag in group.values())
        where = {name: np.asarray(flag, probe.inputs[name].dtype) for name, flag in group.items()}
        analytic = float(sum(np.sum(gradients[name][flag]) for name, flag in group.items()))
        found = second_look(probe, "", where, analytic, max(rtol, 1e-6))
        slopes = neighbouring_slopes(probe, "", where) if found is not None and found.word == "wrong" else []
        if found is not None and slopes and not reaches(slopes, analytic, units):
            details.append(
                f"along those of {' and '.join(group)} it is {analytic:.4g}, but the slope {found.numeric:.4g}"
            )
    detail = f"{'; '.join(details)}. Of k tied maxima one gets the gradient, or each a share of it" if details else ""
    return [Check(TOGETHER, not details, detail)]


def _off_the_kinks(
    function: Callable[[Inputs], npt.ArrayLike],
    structure: Structure,
    arrays: Inputs,
    weights: FloatArray,
    constants: tuple[str, ...],
    names: list[str],
    precision: Precision,
    rtol: float,
) -> list[Check]:
    """Compare, at a point close by, what could not be compared here."""
    rng = np.random.default_rng(2)
    moved = copies(arrays)
    for name, x in moved.items():
        if x.dtype.kind == "f" and name not in constants and x.size:
            size = float(np.sqrt(np.mean(np.square(x)))) or 1.0
            x += np.asarray(0.01 * size * rng.standard_normal(x.shape), x.dtype)
    wrong = []
    try:
        gradients = structure.run(moved)
        probe = Probe(function, moved, weights, None, precision, None, constants)
        for name in names:
            lines = choose_lines(gradients[name], "directions", 1, 4, rng)
            look = partial(measure, probe, name, lines)
            found = Judgement(probe, name, np.asarray(gradients[name], np.float64), lines, look, rtol).report()
            wrong += [name] if found.wrong else []
    except ValueError:
        return []  # outside of the function's domain
    detail = f"{', '.join(wrong)} wrong there" if wrong else ""
    return [Check(OFF_THE_KINKS, not wrong, detail)]
