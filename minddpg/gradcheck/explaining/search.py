"""Which mistakes reproduce a gradient: combinations of up to three, the fewest first, each held against every element.

A combination is a choice of switches along the chain (chain.py), a factor (a sign, N, 1/N, ...) and at most one thing
done to the finished gradient (clipping, weight decay, another gradient added). Factors are not tried one by one: the
ratio to what was handed over says which it is. Unknown numbers, a limit or a coefficient, are read off, and then have to
hold for all elements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Given, Layers
from .chain import EXACT, Chain, Problem, Settings, critic_gradient, critic_in_actor_step, noise
from .chain import actor_gradient as actor_chain

MOST = 3  # mistakes at once
Option = tuple[Settings, str]  # switches to set, and the mistake that this is
Factor = tuple[float, tuple[str, ...]]
Tensors = Sequence["Array | None"]


@dataclass(frozen=True)
class Finding:
    """Mistakes that reproduce a gradient. error: of the worst tensor, relative, as norms; allowed: what rounding
    explains of that. numbers: what was read off, in words. tensors: the gradient they make.
    """

    mistakes: tuple[str, ...]
    error: float
    allowed: float
    numbers: str
    tensors: tuple[Array, ...]


@dataclass(frozen=True)
class Question:
    """A gradient to be explained: the chain that should have made it, its switches and its parameters.

    other: a gradient that may have been added to it. first: switches that hold throughout.
    """

    given: Given
    chain: Chain
    problem: Problem
    groups: tuple[tuple[Option, ...], ...]
    factors: tuple[tuple[Factor, ...], ...]
    parameters: Layers
    eps: float
    other: tuple[str, ...] = ()


# --- the switches ---------------------------------------------------------------------------------------------------


def _masks(network: Layers, name: str) -> tuple[Option, ...]:
    """One hidden layer's slopes taken from another of its width; or each from the one below it, or above."""
    widths = [w.shape[1] for w in network.weights[:-1]]
    own = tuple(range(len(widths)))
    found: dict[tuple[int, ...], None] = {}
    for a, b in itertools.permutations(own, 2):
        if widths[a] == widths[b]:
            found[(*own[:a], b, *own[a + 1 :])] = None
    for shift in (-1, 1):
        moved = tuple(min(max(layer + shift, 0), len(own) - 1) for layer in own)
        if moved != own and all(widths[layer] == widths[to] for layer, to in zip(own, moved, strict=True)):
            found[moved] = None
    return tuple(({name: mask}, "another layer's mask") for mask in found)


def _finish(network: Layers, turned: bool) -> tuple[tuple[Option, ...], ...]:
    """What can happen to single tensors."""
    square = [layer for layer, w in enumerate(network.weights) if w.shape[0] == w.shape[1] > 1]
    subsets = [tuple(square)] if square else []
    subsets += [(layer,) for layer in square] if len(square) > 1 else []
    if turned:
        subsets = []  # their shapes have told
    transposed = tuple(({"transposed": layers}, "weight gradient transposed") for layers in subsets)
    return (transposed, (({"bias": "missing"}, "bias gradient missing"),))


def actor_question(given: Given, problem: Problem, eps: float) -> Question:
    """The actor's gradient and all that may be wrong with it."""
    n, act_dim = problem.n, problem.act_dim
    critics = [("target", "target critic")] * (problem.target_critic is not None)
    critics += [("before", "critic before its step")] * (problem.critic_before is not None)
    actions = [("replayed", "replayed action"), ("unscaled", "action not scaled"), ("clipped", "clipped action")]
    actions += [("target actor", "target actor's action")] * (problem.target_actor is not None)
    tanh = [(0, "tanh' missing"), (2, "tanh' twice"), ("of the output", "tanh' of the output"),
            ("of the scaled", "tanh' of the scaled action"), ("plus", "1 + tanh^2")]  # fmt: skip
    groups = (
        tuple(({"critic": value}, name) for value, name in critics),
        tuple(({"action": value}, name) for value, name in actions),
        (({"columns": "wrong"}, "wrong columns"),),
        (({"seed": "q"}, "weighted by Q"),),
        tuple(({"tanh": value}, name) for value, name in tanh),
        (({"scale": 0}, "action scale missing"), ({"scale": 2}, "action scale twice")),
        _masks(problem.critic, "critic mask"),
        _masks(problem.actor, "actor mask"),
        *_finish(problem.actor, given.turned),
    )
    factors = (
        ((-1.0, ("no minus",)),),
        ((float(n), ("sum for mean",)), (1 / n, ("1/N twice",))),
        ((1 / act_dim, ("mean over actions too",)),),
        ((2.0, ("added up twice",)),),
    )
    return Question(given, actor_chain, problem, groups, factors, problem.actor, eps)


def critic_question(given: Given, problem: Problem, eps: float) -> Question:
    """The critic's gradient and all that may be wrong with it."""
    n, critic = problem.n, problem.critic_before or problem.critic
    online = "online networks in the target"
    nets: list[Option] = []
    if problem.target_critic is not None:
        nets += [({"nets": "online"}, online), ({"nets": "online critic"}, online)]
    if problem.target_actor is not None:
        nets += [({"nets": "online actor"}, online)]
    masks = [("none", "terminal mask missing"), ("inverted", "terminal mask inverted")]
    masks += [("truncated", "truncated as terminated")] * (problem.truncated is not None)
    tables = ("q - y", "r", "q'", "mask", "r, mask", "q' alone", "r, q'")
    groups = (
        tuple(({"mask": value}, name) for value, name in masks),
        (({"gamma": "missing"}, "gamma missing"),),
        tuple(nets),
        (({"next action": "replayed"}, "replayed action in the target"),),
        (({"next obs": "obs"}, "this state in the target"),),
        (({"judged": "mu"}, "mu(s) for the replayed action"),),
        tuple(({"broadcast": table}, "broadcast (N,1)-(N,)") for table in tables),
        (({"detached": "no"}, "target is not detached"),),
        (({"loss": "huber"}, "Huber loss"),),
        _masks(critic, "critic mask"),
        *_finish(critic, given.turned),
    )
    factors = (
        ((-1.0, ("critic climbs its loss",)),),
        ((float(n), ("sum for mean",)), (1 / n, ("1/N twice",))),
        ((0.5, ("square's 2 missing",)), (2.0, ("added up twice",))),
    )
    return Question(given, critic_gradient, problem, groups, factors, critic, eps, ("critic gradient added",))


def question_of_moved_critic(given: Given, problem: Problem, eps: float) -> Question:
    """The same gradient as what an actor's step may leave in the critic: nothing, or d(-mean Q)."""
    groups = _finish(problem.critic, given.turned)
    factors = actor_question(given, problem, eps).factors[:2]
    return Question(given, critic_in_actor_step, problem, groups, factors, problem.critic, eps)


# --- the search -----------------------------------------------------------------------------------------------------


def choices(groups: Sequence[Sequence[Option]], most: int = MOST) -> Iterator[tuple[Settings, tuple[str, ...]]]:
    """Every choice of at most one option a group, the fewest first."""
    used = [group for group in groups if group]
    for size in range(most + 1):
        for some in itertools.combinations(used, size):
            for options in itertools.product(*some):
                settings: Settings = {}
                for switch, _ in options:
                    settings.update(switch)
                yield settings, tuple(name for _, name in options)


def products(factors: Sequence[Sequence[Factor]]) -> list[Factor]:
    """Every product of at most one factor a group, with its names, the fewest first. Those that are 1 are left out."""
    found: list[Factor] = []
    for some in itertools.product(*[((1.0, ()), *(f for f in group if f[0] != 1)) for group in factors]):
        found.append((math.prod(value for value, _ in some), tuple(n for _, names in some for n in names)))
    return sorted(found, key=lambda factor: len(factor[1]))


class Search:
    """The answers to a question. Gradients and their rounding are computed once a choice of switches."""

    def __init__(self, question: Question):
        self.question = question
        self.tensors = question.given.tensors
        self.compared = [number for number, tensor in enumerate(self.tensors) if tensor is not None]
        self.norms = [0.0 if t is None else float(np.linalg.norm(t)) for t in self.tensors]
        self.factors = products(question.factors)
        self._made: dict[str, list[Array]] = {}
        self._noise: dict[str, list[float]] = {}
        self._other: tuple[list[Array], list[float]] | None = None

    def made(self, settings: Settings) -> list[Array]:
        """The gradient that these switches make."""
        key = repr(sorted(settings.items()))
        if key not in self._made:
            self._made[key] = self.question.chain(self.question.problem, settings, EXACT)
        return self._made[key]

    def noise(self, settings: Settings) -> list[float]:
        """How far rounding may put each tensor of it."""
        key = repr(sorted(settings.items()))
        if key not in self._noise:
            self._noise[key] = noise(self.question.chain, self.question.problem, settings, self.question.eps)
        return self._noise[key]

    def other(self) -> tuple[list[Array], list[float]]:
        """The gradient that may have been added, and its rounding."""
        if self._other is None:
            problem = self.question.problem
            off = noise(critic_in_actor_step, problem, {}, self.question.eps)
            self._other = critic_in_actor_step(problem, {}, EXACT), off
        return self._other

    # --- is it this one? ---

    def near(self, made: Sequence[Array]) -> bool:
        """A first look: whether every tensor is within a hundredth. Rounding is not asked yet."""
        return all(
            _distance(self.tensors[number], made[number]) <= 1e-2 * max(self.norms[number], _norm(made[number]))
            for number in self.compared
        )

    def misfit(self, made: Sequence[Array], allowed: Sequence[float]) -> tuple[float, float] | None:
        """None where a tensor is further off than rounding explains; else the worst error and what is allowed there."""
        worst, limit = 0.0, 0.0
        tiny = self.question.eps * 1e-37
        for number in self.compared:
            off = _distance(self.tensors[number], made[number])
            if off > allowed[number] + tiny:
                return None
            size = _norm(made[number])
            relative = off / size if size else 0.0
            if relative >= worst:
                worst, limit = relative, allowed[number] / size if size else 0.0
        return worst, limit

    def finding(
        self, made: Sequence[Array], allowed: Sequence[float], mistakes: tuple[str, ...], numbers: str = ""
    ) -> Iterator[Finding]:
        """One, or none where the gradient is further off."""
        fit = self.misfit(made, allowed)
        if fit is not None:
            yield Finding(mistakes, *fit, numbers, tuple(made))

    def explain(self, settings: Settings, names: tuple[str, ...], count: int) -> Iterator[Finding]:
        """What explains the gradient with these switches and `count` mistakes in all."""
        made = self.made(settings)
        left = count - len(names)
        for value, more in self.factors:
            if len(more) != left:
                continue
            scaled = [value * tensor for tensor in made]
            if self.near(scaled):
                allowed = [abs(value) * off for off in self.noise(settings)]
                yield from self.finding(scaled, allowed, names + more)
        if left > 0:
            yield from self._finished(settings, names, left - 1)

    def _finished(self, settings: Settings, names: tuple[str, ...], left: int) -> Iterator[Finding]:
        made = self.made(settings)
        for value, more in self.factors:
            if len(more) != left:
                continue
            scaled = [value * tensor for tensor in made]
            known = names + more
            for result, allowed, name, numbers in self._operations(scaled, settings, value):
                if self.near(result):
                    yield from self.finding(result, allowed(), (*known, name), numbers)

    def _operations(
        self, scaled: list[Array], settings: Settings, value: float
    ) -> Iterator[tuple[list[Array], Callable[[], list[float]], str, str]]:
        """Everything that may have been done to a finished gradient, its numbers read off what was handed over."""

        def off(factor: float = 1.0) -> list[float]:
            return [abs(value * factor) * one for one in self.noise(settings)]

        eps = self.question.eps
        known = [self.tensors[number] for number in self.compared]
        given = [np.zeros(0) if tensor is None else tensor for tensor in known]
        here = [scaled[number] for number in self.compared]
        size, length = _length(here), _length(given)

        if 0 < length < size * (1 - 1e-4):
            limit = length
            # torch divides by the norm + 1e-6, which short gradients show
            for of, exact in (("", limit), (" (as torch does it)", limit * (size + 1e-6) / size)):
                if _is_round(exact, 64 * eps):
                    factor = limit / size
                    result = [factor * tensor for tensor in scaled]
                    yield result, lambda f=factor: off(f), "clipped by norm", f"to {exact:.3g}{of}"
                    break
            each = max((_norm(tensor) for tensor in given), default=0.0)
            shortened = [min(1.0, each / (_norm(tensor) or 1.0)) for tensor in scaled]
            at_limit = sum(abs(_norm(tensor) - each) <= 64 * eps * each for tensor in given)
            if at_limit > 1 or (at_limit == 1 and _is_round(each, 64 * eps)):
                result = [f * tensor for f, tensor in zip(shortened, scaled, strict=True)]

                def off_each(factors: list[float] = shortened) -> list[float]:
                    return [f * one for f, one in zip(factors, off(), strict=True)]

                yield result, off_each, "clipped by norm", f"each array to {each:.3g}"

        bound = max((float(np.abs(tensor).max(initial=0)) for tensor in given), default=0.0)
        if bound > 0 and bound < max(float(np.abs(tensor).max(initial=0)) for tensor in here) * (1 - 1e-4):
            at_bound = sum(int(np.sum(np.abs(tensor) >= bound * (1 - 2 * eps))) for tensor in given)
            if at_bound > 1 or _is_round(bound, 64 * eps):
                yield [np.clip(tensor, -bound, bound) for tensor in scaled], off, "clipped by value", f"to {bound:.3g}"

        difference = [g - s for g, s in zip(given, here, strict=True)]
        if self.question.parameters is not None:
            weights = self.question.parameters.tensors()
            for of, decayed in (
                ("weights", [w if number % 2 == 0 else np.zeros_like(w) for number, w in enumerate(weights)]),
                ("weights and biases", weights),
            ):
                there = [decayed[number] for number in self.compared]
                square = sum(float(np.sum(w * w)) for w in there)
                if of != "weights" and not any(w.any() for w in weights[1::2]):
                    continue
                slope = sum(float(np.sum(d * w)) for d, w in zip(difference, there, strict=True)) / (square or 1.0)
                if slope <= 0:
                    continue

                def off_decayed(c: float = slope, decayed: list[Array] = decayed) -> list[float]:
                    return [o + 8 * eps * c * _norm(w) for o, w in zip(off(), decayed, strict=True)]

                result = [s + slope * w for s, w in zip(scaled, decayed, strict=True)]
                if all(_norm(slope * w) <= o for w, o in zip(decayed, off(), strict=True)):
                    continue  # nothing that could be seen
                yield result, off_decayed, "weight decay added", f"{slope:.3g} times the {of}"

        for name in self.question.other:
            added, off_added = self.other()
            result = [s + a for s, a in zip(scaled, added, strict=True)]
            yield result, lambda: [a + b for a, b in zip(off(), off_added, strict=True)], name, ""

    # --- all of it ---

    def right(self) -> Finding | None:
        """The gradient as it should be, where that is what was handed over."""
        return next(self.finding(self.made({}), self.noise({}), ()), None)

    def best(self) -> list[Finding]:
        """All explanations with the fewest mistakes, best fit first; none where nothing fits."""
        if all(norm == 0 for norm in self.norms):
            return [self._zero()]
        turned = ("weight gradient transposed",) if self.question.given.turned else ()
        for count in range(1 if not turned else 0, MOST + 1 - len(turned)):
            found: dict[tuple[str, ...], Finding] = {}
            for settings, names in choices(self.question.groups, count):
                for one in self.explain(settings, names, count):
                    key = tuple(sorted(one.mistakes))
                    if key not in found or one.error < found[key].error:
                        found[key] = one
            if found:
                fits = sorted(found.values(), key=lambda one: one.error)
                return [Finding(turned + f.mistakes, f.error, f.allowed, f.numbers, f.tensors) for f in fits]
        return []

    def _zero(self) -> Finding:
        return Finding(("zero",), 0.0, 0.0, "", tuple(np.zeros_like(t) for t in self.made({})))

    def untold(self) -> list[str]:
        """Single mistakes that would make the same gradient on this batch, to rounding: nothing can be said of them."""
        right, allowed = self.made({}), self.noise({})
        same = []
        for settings, names in choices(self.question.groups, 1):
            if names and all(
                _norm(a - b) <= off for a, b, off in zip(self.made(settings), right, allowed, strict=True)
            ):
                same.append(names[0])
        for group in self.question.factors:
            same += [name for value, names in group for name in names if value == 1]
        seen = {name: None for name in same}
        other_ways = {name for settings, names in choices(self.question.groups, 1) for name in names} - {*seen}
        return [name for name in seen if name not in other_ways]

    def rows(self) -> list[tuple[int, float, float, float, bool]]:
        """Per tensor against the right gradient: its number, relative error, cosine, length, whether it is right."""
        right, allowed = self.made({}), self.noise({})
        result = []
        for number in self.compared:
            given, wanted = self.tensors[number], right[number]
            assert given is not None
            size, length = _norm(wanted), _norm(given)
            off = _norm(given - wanted)
            cosine = float(np.sum(given * wanted)) / (size * length) if size and length else math.nan
            relative = off / size if size else (math.inf if length else 0.0)
            result.append((number, relative, cosine, length / size if size else math.nan, off <= allowed[number]))
        return result


def _distance(a: Array | None, b: Array) -> float:
    return 0.0 if a is None else float(np.linalg.norm(a - b))


def _norm(a: Array) -> float:
    return float(np.linalg.norm(a))


def _length(tensors: Sequence[Array]) -> float:
    return math.sqrt(sum(float(np.sum(t * t)) for t in tensors))


def _is_round(value: float, tolerance: float) -> bool:
    """Whether a limit is one that people write: two digits and zeros."""
    if value <= 0 or not math.isfinite(value):
        return False
    written = float(f"{value:.1e}")
    return abs(value - written) <= tolerance * written
