"""What `explain` found: a part per gradient or step, in words, as JSON, as HTML."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from .catalogue import DDPG_MISTAKES


@dataclass(frozen=True)
class Part:
    """One gradient or step. mistakes: those that reproduce it. alternatives: others that do so as well.

    told: False where nothing could be said of it. error: relative, of the explanation, in its worst tensor (of the
    right gradient, where nothing explains it); allowed: what rounding explains of that. right, wrong: tensors by name,
    against the right gradient. untold: mistakes that this batch cannot show. hidden: those that a clipping takes away
    again, so that they may be there as well. said: the rest, in words.
    """

    name: str
    ok: bool
    mistakes: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()
    error: float = 0.0
    allowed: float = 0.0
    numbers: str = ""
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    told: bool = True

    @property
    def explained(self) -> bool:
        """Whether it is right, or named."""
        return self.ok or bool(self.mistakes)

    def details(self) -> list[str]:
        """The lines below it."""
        lines = []
        if not self.explained and self.told and (self.right or self.wrong):
            lines.append(f"right: {' '.join(self.right) or 'none'}; wrong: {' '.join(self.wrong) or 'none'}")
        lines += self.said
        if self.hidden:
            lines.append(
                f"what comes before the clipping and only changes the length cannot be seen: {', '.join(self.hidden)}; "
                "it can without the clipping, or on a batch with a smaller gradient"
            )
        if self.untold:
            lines.append(f"not seen on this batch: {'; '.join(_untold(name) for name in self.untold)}")
        return lines

    def verdict(self) -> str:
        """The first line."""
        if not self.told:
            return "not told"
        explains = f" (rounding explains {self.allowed:.1g})" if self.allowed else ""
        off = f"to {self.error:.1g}{explains}" if self.error or explains else ""
        if self.ok:
            return f"right, {off}" if off else "right"
        if not self.mistakes:
            return "wrong, and no mistake of the catalogue explains it"
        numbers = f" ({self.numbers})" if self.numbers else ""
        named = " and ".join(self.mistakes)
        either = "".join(f", or {' and '.join(names)}" for names in self.alternatives)
        return f"{named}{numbers}{either}" + (f": reproduces it {off}" if off else "")


@dataclass(frozen=True)
class Explanation:
    """What is wrong with an update, or that nothing is. `print(explanation)` says it."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    framework: str = field(default="torch", compare=False)

    @property
    def ok(self) -> bool:
        """Whether everything that could be told is right, and something could."""
        return all(part.ok for part in self.parts) and any(part.told for part in self.parts)

    @property
    def mistakes(self) -> tuple[str, ...]:
        """Names in DDPG_MISTAKES, in the order of the parts, each once. Empty: right, or nothing explains it."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.mistakes))

    @property
    def ambiguous(self) -> bool:
        """Whether other mistakes fit equally well, or hidden ones may be there as well."""
        return any(part.alternatives or part.hidden for part in self.parts)

    @property
    def error(self) -> float:
        """The largest relative error of an explanation."""
        return max((part.error for part in self.parts), default=0.0)

    @property
    def locates(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Tensors that are right, and those that are wrong: ("W2", "b2"), ("W1", "b1", ...).

        Of the first gradient that is wrong, or else of the first.
        """
        shown = [part for part in self.parts if part.right or part.wrong]
        first = next((part for part in shown if part.wrong), shown[0] if shown else None)
        return (first.right, first.wrong) if first else ((), ())

    def __str__(self) -> str:
        lines: list[str] = []
        width = max(len(part.name) for part in self.parts)
        for part in self.parts:
            lines.append(f"{part.name:<{width}}  {part.verdict()}")
            lines += [f"    {line}" for line in part.details()]
        for name in self.told_of():
            mistake = DDPG_MISTAKES[name]
            lines += ["", f"{name}: {mistake.does}.", f"    instead: {mistake.instead}"]
            lines += [f"    {line}" for line in mistake.printed()]
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines)

    __repr__ = __str__

    def told_of(self) -> list[str]:
        """Every mistake that is named, alternatives too."""
        named = [name for part in self.parts for names in (part.mistakes, *part.alternatives) for name in names]
        return list(dict.fromkeys(named))

    def to_json(self) -> str:
        """Everything that `str` says, as JSON."""
        right, wrong = self.locates
        record = {
            "ok": self.ok,
            "mistakes": self.mistakes,
            "ambiguous": self.ambiguous,
            "error": self.error,
            "locates": {"right": right, "wrong": wrong},
            "parts": [{**asdict(part), "verdict": part.verdict()} for part in self.parts],
            "catalogue": {name: {**asdict(DDPG_MISTAKES[name])} for name in self.told_of()},
            "notes": self.notes,
        }
        return json.dumps(_finite(record), indent=2)

    def _repr_html_(self) -> str:
        rows = []
        for part in self.parts:
            colour = "#1b7f3b" if part.ok and part.told else "#555" if not part.told else "#b00020"
            said = "".join(f"<br><small>{escape(line)}</small>" for line in part.details())
            rows.append(
                f"<tr><td style='text-align: left'>{escape(part.name)}</td>"
                f"<td style='text-align: left; color: {colour}'>{escape(part.verdict())}{said}</td></tr>"
            )
        told = "".join(
            f"<p><b>{escape(name)}</b>: {escape(DDPG_MISTAKES[name].does)}. Instead: "
            f"{escape(DDPG_MISTAKES[name].instead)}</p><ul>"
            + "".join(f"<li>{at}: <code>{escape(line)}</code></li>" for at, line in DDPG_MISTAKES[name].lines.items())
            + "</ul>"
            for name in self.told_of()
        )
        notes = "".join(f"<p><small>{escape(note)}</small></p>" for note in self.notes)
        return f"<table>{''.join(rows)}</table>{told}{notes}"


def _untold(name: str) -> str:
    needs = DDPG_MISTAKES[name].untold
    return f"{name} (needs {needs})" if needs else name


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def apart(alternatives: tuple[tuple[str, ...], ...], n: int) -> str:
    """The batch that would tell alternatives apart."""
    common = set.intersection(*(set(names) for names in alternatives))
    differ = {name for names in alternatives for name in names} - common
    wanted: dict[str, None] = {}
    for name in DDPG_MISTAKES:
        if name not in differ:
            continue
        if name in ("sum for mean", "1/N twice"):
            wanted[f"another number of samples, such as {2 * n + 1}"] = None
        elif name.startswith("action scale"):
            wanted["another action scale, or one per action"] = None
        elif name == "mean over actions too":
            wanted["another number of actions"] = None
        elif name.startswith("clipped by"):
            wanted["a batch on which the gradient is shorter, or longer"] = None
        elif DDPG_MISTAKES[name].untold:
            wanted[DDPG_MISTAKES[name].untold] = None
    return " and ".join(wanted) or "another batch"
