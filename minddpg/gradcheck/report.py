"""What a check found: one row per tensor, one line per structural check, and the formula by which it judged."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from html import escape

MOST_UNRESOLVED = 0.01  # of the elements looked at
MOST_UNRESOLVED_IN_FLOAT32 = 0.15  # a sum of a few terms is often much smaller than they are
TOLD = ("factor", "sign", "N =", "twice", "half", "mask", "mean")  # hints that leave nothing to guess
LOCAL = " for a derivative that is missing or another layer's (tanh', a ReLU's mask, gamma, a term of a normalisation)"
LISTED = 5  # kinks and unresolved elements printed per tensor; `kinks_at` and `unresolved_at` name them all

RED, GREEN, PLAIN = "\033[31m", "\033[32m", "\033[0m"


@dataclass(frozen=True)
class TensorReport:
    """One tensor's gradient. The counts add up to `looked`; the worst element is that of the largest relative error.

    looked: elements, and `directions` through all of them, if any. checked: compared and right, or compared and wrong.
    zeros: zero on both sides; `flat` of them up to rounding, however far the step. kinks: every step crosses a point
    where the slope jumps. unresolved: too small for finite differences with steps up to 0.1. noisy: the function
    jitters too much to tell right from wrong. tolerance: the largest relative error allowed to one that is right (to
    one that is wrong where none is right), rtol and the error of the finite difference together.
    ratio: numeric / analytic of the worst element. slope: of the Taylor remainder over the step; 1 for a wrong
    gradient, 3 for a right one; NaN where it was not needed. rel_error: |analytic - numeric| / the larger of the two,
    as norms of the whole tensor. float32_error: of the gradient computed in float32, as such a norm; NaN if not asked.
    usual: whether |analytic - numeric| <= 1e-5 + 1e-3 |numeric| everywhere, the usual tolerance of other checkers.
    hint: the likeliest cause of what is wrong. note: why a gradient of nothing but zeros, or kinks, is right.
    along_direction: whether `index` is the number of a direction. may_be_unresolved: this share of the elements.
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
    directions: int = 0
    flat: int = 0
    along_direction: bool = False
    may_be_unresolved: float = MOST_UNRESOLVED

    @property
    def place(self) -> str:
        """The worst element's index, or the direction."""
        return f"direction {self.index[0]}" if self.along_direction else tuple_text(self.index)

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
        return (
            not self.wrong
            and not self.noisy
            and self._is_resolved
            and bool(self.checked or self.note or self.size == 0)
        )

    @property
    def _is_resolved(self) -> bool:
        """Whether little enough was too small. Each direction goes through all of the tensor, so that most must do."""
        return self.unresolved <= self.may_be_unresolved * self.looked + self.directions / 4

    @property
    def verdict(self) -> str:
        """The word ok, or what is the matter."""
        if self.wrong:
            return f"{self.wrong} wrong" + ("" if math.isnan(self.slope) else f", slope {self.slope:.1f}")
        if self.noisy:
            return f"{self.noisy} not told: the function is too noisy"
        if not self._is_resolved:
            return f"{self.unresolved} unresolved: below rounding"
        if self.size == 0:
            return "ok, empty"
        if self.checked == 0:
            if self.kinks and self.note:
                return "ok, on kinks"
            if self.flat and self.note:
                return "ok, zero up to rounding"
            return f"zero: {self.note}" if self.note else "vacuous: nothing but zeros"
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

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return report_html(self)

    @property
    def start(self) -> str:
        """Where the fault starts, in words: the tensors in the order they were returned in, split into right and wrong.

        Empty where nothing is wrong, or where right and wrong ones alternate.
        """
        last_right, first_wrong = self.between
        if not last_right:
            return ""
        row = next(t for t in self.tensors if t.name == first_wrong)
        below = [t for t in self.tensors if t.wrong]
        text = f"right down to {', '.join(last_right)}; wrong from {first_wrong} on: look between"
        return text + (LOCAL if len(below) > 1 and not any(word in row.hint for word in TOLD) else "")

    @property
    def between(self) -> tuple[tuple[str, ...], str]:
        """-> the last tensors that are right, the first that is wrong; ((), "") where there is no such place.

        In the order they were returned in, which should be that of a backward; or in the reverse order, if only that
        one has all the right ones first. Tensors that were not compared, zeros say, belong to either side.
        """
        for order in (self.tensors, self.tensors[::-1]):
            told = [t for t in order if t.checked]
            bad = [bool(t.wrong) for t in told]
            if any(bad) and not all(bad) and bad == sorted(bad):
                first = bad.index(True)
                return tuple(t.name for t in told[max(0, first - 2) : first]), told[first].name
        return (), ""

    def table(self, colour: bool = False) -> str:
        """The report as text. colour: with terminal escapes; `str()` has none."""
        lines = self._rows(colour) if self.tensors else []
        for check in sorted(self.checks, key=lambda c: c.ok):
            word = _painted("holds " if check.ok else "BROKEN", check.ok, colour)
            lines.append(f"{word}  {check.name}" + (f": {check.detail}" if check.detail else ""))
        compared = sum(t.checked for t in self.tensors)
        what = "random directions" if self.mode == "directions" else "elements"
        lines += self.legend() if self.tensors else []
        broken = sum(not t.ok for t in self.tensors) + sum(not c.ok for c in self.checks)
        result = "all right" if self.ok else f"{broken} of {len(self.tensors) + len(self.checks)} not right"
        summary = f"{len(self.tensors)} tensors, {compared:,} {what} compared, {len(self.checks)} structural checks: "
        return "\n".join([*lines, summary + _painted(result, self.ok, colour)])

    def legend(self) -> list[str]:
        """What the columns mean, and what `right` does."""
        atol = f" + {self.atol:g}" if self.atol else ""
        lines = [
            "checked: elements compared; zeros: on both sides; kinks: where the slope jumps; unres.: too small to see",
            "rel err: of the tensor, as norms; worst, allowed: of one element, at most; at, analytic, numeric: that "
            "element, its gradient as given and by differences; ratio: numeric / analytic",
            f"right means |analytic - numeric| <= {self.rtol:g} max(|analytic|, |numeric|){atol} + the error "
            f"of the difference quotient" + ("" if self.atol else "; no absolute tolerance"),
        ]
        if any(not math.isnan(t.float32_error) for t in self.tensors):
            lines.insert(2, "float32: relative error of the same gradient computed in float32")
        if any(t.wrong and not math.isnan(t.slope) for t in self.tensors):
            lines.insert(
                2,
                "slope: |f(x + h) - f(x - h) - 2 h gradient| shrinks like h^slope; 1 is a wrong gradient, 3 would be "
                "finite differences at fault",
            )
        sampled = [t for t in self.tensors if t.looked - t.directions < t.size]
        for t in sampled:
            elements = f"{t.looked - t.directions:,} of {t.size:,} elements" if t.looked > t.directions else ""
            lines_too = f"{t.directions} random directions through all {t.size:,}" if t.directions else ""
            lines.append(f"of {t.name}: " + " and ".join(part for part in (elements, lines_too) if part))
        return lines

    def _rows(self, colour: bool) -> list[str]:
        named = max(len("tensor"), *(len(t.name) for t in self.tensors))
        shaped = max(len("shape"), *(len(tuple_text(t.shape)) for t in self.tensors))
        float32 = any(not math.isnan(t.float32_error) for t in self.tensors)
        placed = max(len("at"), *(len(t.place) for t in self.tensors))
        head = (
            f"{'tensor':<{named}}  {'shape':<{shaped}}{'checked':>8}{'zeros':>7}{'kinks':>6}{'unres.':>7}"
            f"{'rel err':>9}{'worst':>8}{'allowed':>9}  {'at':<{placed}}{'analytic':>12}{'numeric':>12}{'ratio':>10}"
        )
        lines = [head + (f"{'float32':>9}" if float32 else "") + "  verdict"]
        same: dict[str, list[str]] = {}
        for t in self.tensors:
            same.setdefault(t.hint or t.note, []).append(t.name)
        for t in sorted(self.tensors, key=lambda t: (t.ok, -t.max_rel_error)):
            row = (
                f"{t.name:<{named}}  {tuple_text(t.shape):<{shaped}}"
                f"{t.checked:>8}{t.zeros:>7}{t.kinks:>6}{t.unresolved:>7}"
                f"{t.rel_error:>9.0e}{t.max_rel_error:>8.0e}{t.tolerance:>9.0e}  {t.place:<{placed}}"
                f"{t.analytic:>12.3e}{t.numeric:>12.3e} {t.ratio:>9.4g}"
            )
            row += "" if not float32 else f"{'':>9}" if math.isnan(t.float32_error) else f"{t.float32_error:>9.0e}"
            lines.append(f"{row}  {_painted(t.verdict, t.ok, colour)}")
            names = same.pop(t.hint or t.note, [])  # said once, however many tensors it fits
            lines += [f"    {remark}" for remark in _remarks(t, names)]
        if self.start:
            lines.append(f"start: {self.start}")
        return lines

    def to_json(self) -> str:
        """{"ok", "mode", "rtol", "atol", "unchecked", "start", "tensors": [...], "checks": [...]}; NaN becomes null."""
        tensors = [{**asdict(t), "ratio": t.ratio, "verdict": t.verdict, "ok": t.ok} for t in self.tensors]
        record = {
            "ok": self.ok,
            "mode": self.mode,
            "rtol": self.rtol,
            "atol": self.atol,
            "unchecked": self.unchecked,
            "start": self.start,
            "tensors": tensors,
            "checks": [asdict(check) for check in self.checks],
        }
        return json.dumps(finite(record), indent=2, allow_nan=False)


def _remarks(t: TensorReport, names: list[str]) -> list[str]:
    """names: the tensors with this hint or note; none where it has been said."""
    remarks = []
    note = t.note if t.kinks or t.flat else ""  # or it stands in the verdict
    if names and (t.hint or note):
        others = [name for name in names if name != t.name]
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        what = f"hint: {t.hint}" if t.hint else note
        remarks.append(what + (f" (as in {', '.join(others[:4])}{more})" if others else ""))
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


STYLE = (
    "<style>.minddpg-gradcheck td, .minddpg-gradcheck th {text-align: right; padding: 1px 8px; white-space: nowrap} "
    ".minddpg-gradcheck .l {text-align: left} .minddpg-gradcheck .w {white-space: normal} "
    ".minddpg-gradcheck .bad {color: #b00020; font-weight: bold} .minddpg-gradcheck .good {color: #1b7f3b}</style>"
)


def report_html(report: Report) -> str:
    """The report as a table for notebooks."""
    heads = ("tensor", "shape", "checked", "zeros", "kinks", "unres.", "rel err", "worst", "allowed", "at", "analytic",
             "numeric", "ratio", "float32", "verdict")  # fmt: skip
    left = {"tensor", "shape", "at", "verdict"}
    rows, said = [], set()
    for t in sorted(report.tensors, key=lambda t: (t.ok, -t.max_rel_error)):
        float32 = "" if math.isnan(t.float32_error) else f"{t.float32_error:.0e}"
        cells = (t.name, tuple_text(t.shape), f"{t.checked:,}", f"{t.zeros:,}", f"{t.kinks:,}", f"{t.unresolved:,}",
                 f"{t.rel_error:.0e}", f"{t.max_rel_error:.0e}", f"{t.tolerance:.0e}", t.place, f"{t.analytic:.3e}",
                 f"{t.numeric:.3e}", f"{t.ratio:.4g}", float32)  # fmt: skip
        row = [
            f"<td{' class=l' if head in left else ''}>{escape(cell)}</td>"
            for head, cell in zip(heads, cells, strict=False)
        ]
        row.append(f"<td class='l {'good' if t.ok else 'bad'}'>{escape(t.verdict)}</td>")
        rows.append(f"<tr>{''.join(row)}</tr>")
        remark = f"hint: {t.hint}" if t.hint else t.note if t.kinks or t.flat else ""
        if remark and remark not in said:
            rows.append(f"<tr><td></td><td class='l w' colspan={len(heads) - 1}>{escape(remark)}</td></tr>")
        said.add(remark)
    head = "".join(f"<th{' class=l' if head in left else ''}>{head}</th>" for head in heads)
    checks = "".join(
        f"<li class={'good' if c.ok else 'bad'}>{'holds' if c.ok else 'BROKEN'}: {escape(c.name)}"
        f"{': ' + escape(c.detail) if c.detail else ''}</li>"
        for c in sorted(report.checks, key=lambda c: c.ok)
    )
    last = str(report).splitlines()[-1]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    start = f"<p>start: {escape(report.start)}</p>" if report.start else ""
    legend = "<br>".join(map(escape, report.legend())) if report.tensors else ""
    return (
        f"{STYLE}<div class=minddpg-gradcheck><p class={'good' if report.ok else 'bad'}>{escape(last)}</p>"
        f"{table}{start}<ul>{checks}</ul><details><summary>what the columns mean</summary>{legend}</details></div>"
    )
