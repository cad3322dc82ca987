"""What a check found: one row per tensor, one line per structural check, and the formula by which it judged."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

MOST_UNRESOLVED = 0.01  # of the elements looked at
LISTED = 5  # kinks and unresolved elements printed per tensor; `kinks_at` and `unresolved_at` name them all

RED, GREEN, PLAIN = "\033[31m", "\033[32m", "\033[0m"


@dataclass(frozen=True)
class TensorReport:
    """One tensor's gradient. The counts add up to `looked`; the worst element is that of the largest relative error.

    checked: compared and right, or compared and wrong. zeros: zero on both sides. kinks: every step crosses a point
    where the slope jumps. unresolved: too small for finite differences with steps up to 0.1. noisy: the function
    jitters too much to tell right from wrong. tolerance: the largest relative error allowed to one that is right, rtol
    and the error of the finite difference together.
    ratio: numeric / analytic of the worst element. slope: of the Taylor remainder over the step; 1 for a wrong
    gradient, 3 for a right one; NaN where it was not needed. rel_error: |analytic - numeric| / the larger of the two,
    as norms of the whole tensor. float32_error: of the gradient computed in float32, as such a norm; NaN if not asked.
    usual: whether |analytic - numeric| <= 1e-5 + 1e-3 |numeric| everywhere, the usual tolerance of other checkers.
    hint: the likeliest cause of what is wrong. note: why a gradient of nothing but zeros is right.
    """

    name: str
    shape: tuple[int, ...]
    looked: int
    checked: int
    zeros: int
    kinks: int
    unresolved: int
    noisy: int
    wrong: int
    max_rel_error: float
    tolerance: float
    index: tuple[int, ...]
    analytic: float
    numeric: float
    rel_error: float
    slope: float = math.nan
    float32_error: float = math.nan
    usual: bool = True
    hint: str = ""
    note: str = ""
    kinks_at: tuple[tuple[int, ...], ...] = ()
    unresolved_at: tuple[tuple[int, ...], ...] = ()

    @property
    def size(self) -> int:
        """Number of elements of the tensor; in the modes sample and directions not all of them are looked at."""
        return math.prod(self.shape)

    @property
    def ratio(self) -> float:
        """numeric / analytic of the worst element."""
        return self.numeric / self.analytic if self.analytic else math.inf if self.numeric else math.nan

    @property
    def ok(self) -> bool:
        """Whether the gradient was compared, and is right."""
        enough = self.unresolved <= MOST_UNRESOLVED * self.looked
        return not self.wrong and not self.noisy and enough and bool(self.checked or self.note or self.size == 0)

    @property
    def verdict(self) -> str:
        """The word ok, or what is the matter."""
        if self.wrong:
            return f"{self.wrong} wrong" + ("" if math.isnan(self.slope) else f", slope {self.slope:.1f}")
        if self.noisy:
            return f"{self.noisy} not told: the function is too noisy"
        if self.unresolved > MOST_UNRESOLVED * self.looked:
            return f"{self.unresolved} unresolved: below rounding"
        if self.size == 0:
            return "ok, empty"
        if self.checked == 0:
            return f"zero: {self.note}" if self.note else "vacuous: nothing but zeros and kinks"
        return f"ok, {self.unresolved} unresolved" if self.unresolved else "ok"


@dataclass(frozen=True)
class Check:
    """A structural check: something that must hold and that finite differences do not see."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The result of `check_gradient` or `check_agent`. `print(report)` is a table, worst tensor first."""

    tensors: tuple[TensorReport, ...]
    checks: tuple[Check, ...] = ()
    rtol: float = 1e-6
    atol: float = 0.0
    mode: str = "full"
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every gradient was compared and is right, and every structural check holds."""
        return all(tensor.ok for tensor in self.tensors) and all(check.ok for check in self.checks)

    def __str__(self) -> str:
        return self.table()

    def table(self, colour: bool = False) -> str:
        """The report as text. colour: with terminal escapes; `str()` has none."""
        lines = self._rows(colour) if self.tensors else []
        for check in sorted(self.checks, key=lambda c: c.ok):
            word = _painted("holds " if check.ok else "BROKEN", check.ok, colour)
            lines.append(f"{word}  {check.name}" + (f": {check.detail}" if check.detail else ""))
        compared = sum(t.checked for t in self.tensors)
        what = "random directions" if self.mode == "directions" else "elements"
        if self.unchecked:
            lines.append(f"not checked, no gradient was given: {', '.join(self.unchecked)}")
        if any(t.wrong and not math.isnan(t.slope) for t in self.tensors):
            lines.append(
                "slope: |f(x + h) - f(x - h) - 2 h gradient| shrinks like h^slope; 1 is a wrong gradient, 3 would be "
                "finite differences at fault"
            )
        if self.tensors:
            lines.append(
                "rel err: of the tensor, as norms; worst, allowed: of one element, at most; ratio: numeric / analytic"
            )
            atol = f" + {self.atol:g}" if self.atol else ""
            lines.append(
                f"right means |analytic - numeric| <= {self.rtol:g} max(|analytic|, |numeric|){atol} + the error "
                f"of the difference quotient" + ("" if self.atol else "; no absolute tolerance")
            )
        broken = sum(not t.ok for t in self.tensors) + sum(not c.ok for c in self.checks)
        result = "all right" if self.ok else f"{broken} of {len(self.tensors) + len(self.checks)} not right"
        summary = f"{len(self.tensors)} tensors, {compared:,} {what} compared, {len(self.checks)} structural checks: "
        return "\n".join([*lines, summary + _painted(result, self.ok, colour)])

    def _rows(self, colour: bool) -> list[str]:
        named = max(len("tensor"), *(len(t.name) for t in self.tensors))
        shaped = max(len("shape"), *(len(tuple_text(t.shape)) for t in self.tensors))
        float32 = any(not math.isnan(t.float32_error) for t in self.tensors)
        placed = max(len("at"), *(len(tuple_text(t.index)) for t in self.tensors))
        head = (
            f"{'tensor':<{named}}  {'shape':<{shaped}}{'checked':>8}{'zeros':>7}{'kinks':>6}{'unres.':>7}"
            f"{'rel err':>9}{'worst':>8}{'allowed':>9}  {'at':<{placed}}{'analytic':>12}{'numeric':>12}{'ratio':>10}"
        )
        lines = [head + (f"{'float32':>9}" if float32 else "") + "  verdict"]
        for t in sorted(self.tensors, key=lambda t: (t.ok, -t.max_rel_error)):
            row = (
                f"{t.name:<{named}}  {tuple_text(t.shape):<{shaped}}"
                f"{t.checked:>8}{t.zeros:>7}{t.kinks:>6}{t.unresolved:>7}"
                f"{t.rel_error:>9.0e}{t.max_rel_error:>8.0e}{t.tolerance:>9.0e}  {tuple_text(t.index):<{placed}}"
                f"{t.analytic:>12.3e}{t.numeric:>12.3e} {t.ratio:>9.4g}"
            )
            row += "" if not float32 else f"{'':>9}" if math.isnan(t.float32_error) else f"{t.float32_error:>9.0e}"
            lines.append(f"{row}  {_painted(t.verdict, t.ok, colour)}")
            lines += [f"    {remark}" for remark in _remarks(t)]
        return lines

    def to_json(self) -> str:
        """{"ok", "mode", "rtol", "atol", "unchecked", "tensors": [...], "checks": [...]}; NaN becomes null."""
        tensors = [{**asdict(t), "ratio": t.ratio, "verdict": t.verdict, "ok": t.ok} for t in self.tensors]
        record = {
            "ok": self.ok,
            "mode": self.mode,
            "rtol": self.rtol,
            "atol": self.atol,
            "unchecked": self.unchecked,
            "tensors": tensors,
            "checks": [asdict(check) for check in self.checks],
        }
        return json.dumps(finite(record), indent=2, allow_nan=False)


def _remarks(t: TensorReport) -> list[str]:
    remarks = []
    if t.hint:
        remarks.append(f"hint: {t.hint}")
    for what, where, shown in (("on a kink", t.kinks_at, not t.ok), ("unresolved", t.unresolved_at, True)):
        if where and shown:
            more = f" and {len(where) - LISTED} more" if len(where) > LISTED else ""
            remarks.append(f"{what}: {', '.join(map(tuple_text, where[:LISTED]))}{more}")
    return remarks


def tuple_text(numbers: tuple[int, ...]) -> str:
    """A shape or an index: (3,64)."""
    return "(" + ",".join(map(str, numbers)) + ")"


def _painted(text: str, ok: bool, colour: bool) -> str:
    return f"{GREEN if ok else RED}{text}{PLAIN}" if colour else text


def finite(value: object) -> object:
    """The same value, with null for what JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
