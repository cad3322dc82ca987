"""One tensor's gradient: which lines to look at, what they show, and the row of the table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..fast.jit import FloatArray
from .differences import (
    FLOAT32,
    Lines,
    Measure,
    Probe,
    SecondLook,
    in_extended_precision,
    is_resolved,
    measure,
    neighbouring_slopes,
    reaches,
    refine,
    second_look,
    spread_out,
    stirs,
)
from .effort import FULL_BUDGET, FULL_NUMBERS, Effort
from .hints import hint
from .locate import locate
from .report import MOST_UNRESOLVED, MOST_UNRESOLVED_IN_FLOAT32, TensorReport

Mode = Literal["auto", "full", "sample", "directions"]
WORDS = ("right", "wrong", "zero", "flat", "kink", "noisy", "unresolved")
SAMPLES = 32  # elements per tensor
DIRECTIONS = 8  # per tensor
NOISY = "the function jitters: it computes in float32 somewhere, draws random numbers, or large terms in it cancel"
OFF_THE_POINT = "nothing but kinks and zeros here: move off the point (random biases, no zero rows) to compare it"
DOUBTFUL = 3e-5  # relative error of a difference above which extended precision is asked
WORST_LOOKED_AT = 4  # second looks at a tensor's wrong elements; where all of them stay wrong, so do the others
UNRESOLVED_LOOKED_AT = 4  # the same for those that are not resolved
LOCATED = 8  # elements compared of what a direction found

FACTOR = re.compile("N =|twice|half|factor|sign")  # hints of a whole tensor, which leave nothing to locate

Flags = npt.NDArray[np.bool_]


def choose_lines(gradient: FloatArray, mode: Mode, samples: int, directions: int, rng: np.random.Generator) -> Lines:
    """The elements or directions to look at; both in mode "auto", for a tensor that is too large for "full"."""
    shape, size = gradient.shape, gradient.size
    drawn = None
    if mode in ("directions", "auto") and size:
        drawn = rng.standard_normal((directions, *shape))
        drawn /= np.linalg.norm(drawn.reshape(directions, -1), axis=1).reshape(-1, *[1] * len(shape))
    if mode == "directions" and size:
        return Lines(shape, np.zeros(0, np.int64), drawn)
    if mode not in ("sample", "auto") or size <= samples:
        return Lines(shape, np.arange(size), None)
    # Each axis is gone through in an order of its own: min(samples, rows) rows are met, and as many columns.
    orders = [np.concatenate([rng.permutation(length) for _ in range(-(-samples // length))]) for length in shape]
    chosen = {int(np.abs(gradient).argmax())}
    for where in zip(*orders, strict=False):
        if len(chosen) < samples:
            chosen.add(int(np.ravel_multi_index(where, shape)))
    while len(chosen) < samples:
        chosen.add(int(rng.integers(size)))
    return Lines(shape, np.array(sorted(chosen)), drawn)


def plan(sizes: dict[str, int], mode: Mode, budget: int = FULL_BUDGET, numbers: int = 0) -> dict[str, Mode]:
    """How each tensor is looked at: in mode "auto" all elements of the small ones, as far as the budget reaches.

    numbers: how many the function is given; of large inputs fewer evaluations are cheap.
    """
    modes, spent = dict.fromkeys(sizes, mode), 0
    budget = min(budget, FULL_NUMBERS // max(1, numbers))
    if mode == "auto":
        for name in sorted(sizes, key=lambda name: sizes[name]):
            spent += 2 * sizes[name]
            modes[name] = "full" if spent <= budget else "auto"
    return modes


def lines_of(gradient: FloatArray, mode: Mode, samples: int, directions: int, rng: np.random.Generator) -> Lines:
    """`choose_lines`, but that a sample of a larger tensor also gets two directions: it alone passes a dead column."""
    if mode == "sample" and gradient.size > samples:
        return choose_lines(gradient, "auto", samples, min(2, directions), rng)
    return choose_lines(gradient, mode, samples, directions, rng)


class Judgement:
    """One tensor's gradient, line by line. state: one of WORDS."""

    def __init__(
        self,
        probe: Probe,
        name: str,
        gradient: FloatArray,
        lines: Lines,
        look: Measure,
        rtol: float,
        atol: float = 0.0,
        blur: float = 0.0,
        is_batch_size: Callable[[int], bool] = lambda n: False,
        effort: Effort | None = None,
        own: Callable[[], float] = lambda: 0.0,
    ):
        """look: first looks at lines. blur: rounding error of the gradient itself. is_batch_size: for hints.

        own: tells what rounding does to a gradient that was computed in float64.
        """
        self.probe, self.name, self.gradient, self.lines = probe, name, gradient, lines
        self.tolerances, self.is_batch_size = (rtol, atol, blur), is_batch_size
        self.own, self.tried = own, math.nan
        self.effort = effort or Effort(2 * lines.total)
        self.place: str | None = None
        self.analytic, self.numeric, self.error, self.slope, self.state = self._judge(lines, look)
        self._look_again(np.arange(lines.total))
        directions = np.flatnonzero(self.state[len(lines.numbers) :] == "wrong")
        told = len(directions) and len(directions) == np.sum(self.state != "zero") and FACTOR.search(self._hint())
        if len(directions) and not told and gradient.size > 1 and lines.directions is not None:
            self._locate(lines.directions[directions[0]])

    def _judge(self, lines: Lines, look: Measure) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, Flags]:
        rtol, atol, blur = self.tolerances
        precision, count = self.probe.precision, lines.total
        analytic, first = lines.slopes(self.gradient), look(np.arange(count), self.probe.precision.step)
        numeric, error = refine(look, first, analytic, rtol, precision.step)
        size = np.maximum(np.abs(analytic), np.abs(numeric))
        near = np.abs(analytic - numeric) <= rtol * size + atol + error + blur
        state = np.full(count, "unresolved")
        state[near & (is_resolved(error, blur, size, precision.resolved) | (atol > 0))] = "right"
        state[~near] = "wrong"
        state[size == 0] = "zero"
        state[first.kinked] = "kink"
        return analytic, numeric, error, np.full(count, math.nan), state

    def _look_again(self, lines: npt.NDArray[np.int64]) -> None:
        suspects = lines[self.state[lines] == "wrong"]
        suspects = suspects[np.argsort(-self._relative_error()[suspects], kind="stable")]
        self._family(suspects, WORST_LOOKED_AT if len(self.lines.numbers) else 2)
        self._family(lines[self.state[lines] == "unresolved"], UNRESOLVED_LOOKED_AT)
        self._family(lines[self.state[lines] == "kink"], len(lines))
        self._tell_doubtful(lines[self.state[lines] == "right"])
        if np.any(self.state == "kink"):  # then others may stand on several that cancel along their lines
            for i in lines[self.state[lines] == "wrong"][:LOCATED]:
                where = self.lines.where(int(i))
                slopes = neighbouring_slopes(self.probe, self.name, where)
                if spread_out(slopes) and reaches(slopes, float(self.analytic[i]), 1):
                    self.state[i] = "kink"
        if np.all(self.state == "zero") and not np.any(self.gradient):
            self._zeros()

    def _family(self, suspects: npt.NDArray[np.intp], some: int) -> None:
        """Second looks at some of these; at the others where those did not all stay what they seemed."""
        words: list[str] = []
        seemed = self.state[suspects]
        for k, i in enumerate(suspects):
            if k == some and all(word == was for word, was in zip(words, seemed, strict=False)):
                return
            word = self._second_look(i, k == 0 or self.effort.left())
            if word:
                words.append(word)
            else:  # no time to ask them all
                self.state[suspects[k:]] = next((word for word in ("noisy", "flat") if word in words), "unresolved")
                return

    def _second_look(self, i: np.intp, patient: bool) -> str:
        """What it says; "" where it was cut short."""
        before, where = self.probe.evaluations, self.lines.where(int(i))
        again: SecondLook | None = second_look(
            self.probe,
            self.name,
            where,
            float(self.analytic[i]),
            *self.tolerances,
            known=float(self.numeric[i]),
            patient=patient,
            largest=float(np.abs(self.gradient).max()),
            own=self.own,
            tried=self.tried,
        )
        self.effort.again += self.probe.evaluations - before
        if again is None:
            return ""
        if again.word == "right" and isinstance(where, tuple):
            self.tried = again.step
        self.state[i], self.slope[i] = again.word, again.slope
        if not math.isnan(again.numeric):
            self.numeric[i], self.error[i] = again.numeric, again.error
        return again.word

    def _tell_doubtful(self, right: npt.NDArray[np.int64]) -> None:
        """Where rounding left much room, and more digits are to be had, use them: 1e-4 may hide in 1e-3."""
        size = np.maximum(np.abs(self.analytic), np.abs(self.numeric))
        wide = None
        for k, i in enumerate(right[self.error[right] > DOUBTFUL * size[right]]):
            where = self.lines.where(int(i))
            wide = wide or self.probe.widened()
            if wide is None or not isinstance(where, tuple) or not self.effort.left():
                return
            before = wide.evaluations
            again = in_extended_precision(wide, self.name, where)
            self.effort.again += wide.evaluations - before
            own = self.own()
            if again is None or own == 0 or again[1] > 1e-5 * size[i]:
                continue
            if abs(again[0] - self.numeric[i]) > 3 * self.error[i]:
                continue  # of another branch
            self.numeric[i], self.error[i] = again
            if abs(self.analytic[i] - again[0]) > self.tolerances[0] * size[i] + self.tolerances[1] + again[1] + own:
                self.state[i] = "wrong"
            elif k >= WORST_LOOKED_AT and not np.any(self.state == "wrong"):
                return

    def _zeros(self) -> None:
        """Zeros alone prove nothing, unless f depends on the tensor, by rounding alone."""
        for i in range(min(WORST_LOOKED_AT, len(self.state))):
            if self.effort.left() and stirs(self.probe, self.name, self.lines.where(i)):
                self.state[:] = "flat"
                return

    def _locate(self, direction: FloatArray) -> None:
        """Where in the tensor a wrong direction is wrong; elements of that place are then compared."""
        before = self.probe.evaluations
        numbers, self.place = locate(self.probe, self.name, self.gradient, direction, self.tolerances[0], LOCATED)
        self.effort.again += self.probe.evaluations - before
        numbers = np.setdiff1d(numbers, self.lines.numbers)
        if len(numbers) == 0 or not self.place:
            return
        more = Lines(self.lines.shape, numbers, None)
        found = self._judge(more, partial(measure, self.probe, self.name, more))
        old = len(self.lines.numbers)
        for key, values in zip(("analytic", "numeric", "error", "slope", "state"), found, strict=True):
            kept = getattr(self, key)
            setattr(self, key, np.concatenate([kept[:old], values, kept[old:]]))
        self.lines = self.lines._replace(numbers=np.concatenate([self.lines.numbers, numbers]))
        self._look_again(np.arange(old, old + len(numbers)))

    def _relative_error(self) -> FloatArray:
        size = np.maximum(np.abs(self.analytic), np.abs(self.numeric))
        return np.divide(np.abs(self.analytic - self.numeric), size, out=np.zeros_like(size), where=size > 0)

    def report(self) -> TensorReport:
        """The row of the table."""
        count = {word: int(np.sum(self.state == word)) for word in WORDS}
        wrong, compared = self.state == "wrong", (self.state == "right") | (self.state == "wrong")
        elements = np.arange(len(self.state)) < len(self.lines.numbers)
        rank = np.where(compared | (self.state == "noisy"), self._relative_error() + wrong, -1.0)
        rank = np.where(elements | ~wrong, rank + (wrong & elements), rank)
        worst = int(np.argmax(rank)) if len(rank) and rank.max() >= 0 else None
        a, n, told = self.analytic[compared], self.numeric[compared], wrong & ~np.isnan(self.slope)
        size = np.maximum(np.abs(a), np.abs(n))
        allowed = self.tolerances[0] + (self.error[compared] + self.tolerances[1]) / np.maximum(size, 1e-300)
        some = ~wrong[compared] if np.any(~wrong[compared]) else wrong[compared]
        norm = max(float(np.linalg.norm(a)), float(np.linalg.norm(n)))
        return TensorReport(
            self.name,
            self.gradient.shape,
            looked=len(rank),
            checked=int(compared.sum()),
            zeros=count["zero"] + count["flat"],
            kinks=count["kink"],
            unresolved=count["unresolved"],
            noisy=count["noisy"],
            wrong=count["wrong"],
            max_rel_error=0.0 if worst is None else float(self._relative_error()[worst]),
            tolerance=float(np.where(np.isfinite(allowed), allowed, 1.0)[some].max(initial=0.0)),
            index=() if worst is None else self.lines.index_of(worst),
            analytic=0.0 if worst is None else float(self.analytic[worst]),
            numeric=0.0 if worst is None else float(self.numeric[worst]),
            rel_error=float(np.linalg.norm(a - n)) / norm if norm else 0.0,
            slope=float(np.median(self.slope[told])) if told.any() else math.nan,
            usual=bool(np.all(np.abs(a - n) <= 1e-5 + 1e-3 * np.abs(n))),
            hint=self._hint(),
            note=self._note(count),
            kinks_at=self._indices("kink"),
            unresolved_at=self._indices("unresolved"),
            directions=0 if self.lines.directions is None else len(self.lines.directions),
            flat=count["flat"],
            along_direction=worst is not None and not elements[worst],
            may_be_unresolved=MOST_UNRESOLVED_IN_FLOAT32 if self.probe.precision is FLOAT32 else MOST_UNRESOLVED,
        )

    def kinks(self) -> Flags:
        """Which elements of the tensor stand on a kink."""
        found = np.zeros(self.gradient.size, bool)
        found[self.lines.numbers[self.state[: len(self.lines.numbers)] == "kink"]] = True
        return found.reshape(self.gradient.shape)

    def _indices(self, word: str) -> tuple[tuple[int, ...], ...]:
        return tuple(self.lines.index_of(int(i)) for i in np.flatnonzero(self.state == word))

    def _note(self, count: dict[str, int]) -> str:
        if count["right"] or count["wrong"] or count["noisy"]:
            return ""
        if count["kink"]:
            return OFF_THE_POINT
        if count["flat"]:
            upstream = self.probe.upstream
            uniform = bool(np.all(upstream == upstream.flat[0])) if upstream.size else True
            return FLAT_UNIFORM if uniform else FLAT
        return ""

    def _hint(self) -> str:
        wrong = self.state == "wrong"
        if not wrong.any():
            return NOISY if np.any(self.state == "noisy") else ""
        known = wrong | (self.state == "right") | (self.state == "zero")
        numeric, x = np.where(known, self.numeric, math.nan), self.probe.inputs[self.name]
        if len(self.lines.numbers) == self.gradient.size and self.lines.directions is None:
            shape = self.gradient.shape
            order = np.argsort(self.lines.numbers)
            numeric, wrong = numeric[order].reshape(shape), wrong[order].reshape(shape)
            return hint(self.gradient, numeric, wrong, x, self.is_batch_size)
        place = self.place or ""
        if self.place and len(self.lines.numbers):  # the rest is right: what is wrong is explained on its own
            numeric = np.where(wrong, numeric, math.nan)
            here = np.arange(len(wrong)) < len(self.lines.numbers)
            wrong, numeric = wrong[here], numeric[here]
            return hint(
                self.analytic[here], numeric, wrong, self.lines.slopes(x)[here], self.is_batch_size, place=place
            )
        return hint(self.analytic, numeric, wrong, self.lines.slopes(x), self.is_batch_size, place=place)


FLAT = (
    "zero up to rounding: the function does not see it, as a softmax or a normalisation does not see "
    "what shifts all of its inputs"
)
FLAT_UNIFORM = (
    "zero up to rounding: under this upstream, the same everywhere, what a softmax or a normalisation "
    "returns adds up to a constant; a non-uniform upstream shows more"
)
