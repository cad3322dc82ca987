"""Which mistakes reproduce a gradient: combinations of up to three, the fewest first, each held against every element.

A combination is a choice of switches along the chain (chain.py), a factor (a sign, N, 1/N, ...) and at most one thing
done to the finished gradient (clipping, weight decay, another gradient added). Factors are not tried one by one: the
ratio to what was handed over says which it is. Unknown numbers, a limit or a coefficient, are read off, and then have
to hold for all elements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, Given, Layers
from .chain import EXACT, Chain, Problem, Rounding, Settings, critic_gradient, critic_in_actor_step, noise
from .chain import actor_gradient as actor_chain

MOST = 3  # mistakes at once
Option = tuple[Settings, str]  # switches to set, and the mistake that this is
Factor = tuple[float, tuple[str, ...]]
Tensors = Sequence["Array | None"]


@dataclass(frozen=True)
class Finding:
    """Mistakes that reproduce a gradient. error: of the worst tensor, relative, as norms; allowed: what rounding
    explains of that. numbers: what was read off, in words. hidden: mistakes that may be there as well.
    """

    mistakes: tuple[str, ...]
    error: float
    allowed: float
    numbers: str
    hidden: tuple[str, ...] = ()


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
    actions: list[tuple[Any, str]] = [
        ("replayed", "replayed action"),
        ("unscaled", "action not scaled"),
        ("clipped", "clipped action"),
    ]
    actions += [("target actor", "target actor's action")] * (problem.target_actor is not None)
    tanh: list[tuple[Any, str]] = [(0, "tanh' missing"), (2, "tanh' twice"), ("of the output", "tanh' of the output"),
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
    """The answers to a question. Gradients and their rounding are computed once a choice of switches.

    Vectors hold all tensors that were handed over, one behind the other; `sums` adds up a vector per tensor. made: the
    gradients that another search of the same problem has computed.
    """

    def __init__(self, question: Question, made: dict[str, Array] | None = None):
        self.question = question
        self.tensors = question.given.tensors
        self.compared = [number for number, tensor in enumerate(self.tensors) if tensor is not None]
        self.starts = np.cumsum([0, *(self.tensors[number].size for number in self.compared[:-1])])  # type: ignore[union-attr]
        self.vector = self.flat(self.tensors)
        self.squares = self.sums(self.vector * self.vector)
        self.factors = products(question.factors)
        self._exact = Rounding()  # keeps what many chains share
        self._made: dict[str, Array] = {} if made is None else made
        self._noise: dict[str, Array] = {}
        self._other: tuple[Array, Array] | None = None

    def flat(self, tensors: Tensors) -> Array:
        """One vector of what is compared."""
        return np.concatenate([tensors[number].ravel() for number in self.compared])  # type: ignore[union-attr]

    def sums(self, vector: Array) -> Array:
        """Per tensor."""
        return np.asarray(np.add.reduceat(vector, self.starts), np.float64)

    def spread(self, per_tensor: Array) -> Array:
        """Per element."""
        sizes = np.diff([*self.starts, self.vector.size])
        return np.repeat(per_tensor, sizes)

    def made(self, settings: Settings) -> Array:
        """The gradient that these switches make."""
        key = repr(sorted(settings.items()))
        if key not in self._made:
            self._made[key] = self.flat(self.question.chain(self.question.problem, settings, self._exact))
        return self._made[key]

    def noise(self, settings: Settings) -> Array:
        """How far rounding may put each tensor of it."""
        key = repr(sorted(settings.items()))
        if key not in self._noise:
            off = noise(self.question.chain, self.question.problem, settings, self.question.eps)
            self._noise[key] = np.array([off[number] for number in self.compared])
        return self._noise[key]

    def other(self) -> tuple[Array, Array]:
        """The gradient that may have been added, and its rounding."""
        if self._other is None:
            off = noise(critic_in_actor_step, self.question.problem, {}, self.question.eps)
            made = self.flat(critic_in_actor_step(self.question.problem, {}, EXACT))
            self._other = made, np.array([off[number] for number in self.compared])
        return self._other

    def plausible(self, settings: Settings) -> bool:
        """Whether the last layer alone, which needs no way down, could be what was handed over, whatever came later."""
        key = repr(("last", sorted(settings.items())))
        w, b = self.tensors[-2:]
        if "transposed" in settings or "bias" in settings or w is None or b is None:
            return True
        if key not in self._made:
            last = {**settings, "last": True}
            made = np.concatenate([t.ravel() for t in self.question.chain(self.question.problem, last, self._exact)])
            self._made[key] = made
        made, given = self._made[key], np.concatenate([w.ravel(), b])
        if _along(given[: w.size], made[: w.size]) and _along(given[w.size :], made[w.size :]):
            return True
        whole = np.abs(given) < np.abs(self.vector).max() * (1 - 1e-6)  # not cut off at a bound
        if not np.all(whole) and (whole.sum() < 3 or _along(given[whole], made[whole])):
            return True
        others = [self.question.parameters.weights[-1].ravel()]
        if self.question.other:
            others.append(self.other()[0][-given.size :][: w.size])
        # What is left of W when a multiple of the weights, or of another gradient, is taken away.
        return any(_along(given[: w.size], made[: w.size], other) for other in others)

    # --- is it this one? ---

    def near(self, made: Array) -> bool:
        """A first look: whether every tensor is within a hundredth. Rounding is not asked yet."""
        off = self.vector - made
        size = np.maximum(self.squares, self.sums(made * made))
        return bool(np.all(self.sums(off * off) <= 1e-4 * size))

    def finding(self, made: Array, allowed: Array, mistakes: tuple[str, ...], numbers: str = "") -> Iterator[Finding]:
        """One, or none where a tensor is further off than rounding explains."""
        off = np.sqrt(self.sums((self.vector - made) ** 2))
        if np.any(off > allowed + self.question.eps * 1e-37):
            return
        size = np.sqrt(self.sums(made * made))
        relative = np.divide(off, size, out=np.zeros_like(off), where=size > 0)
        worst = int(np.argmax(relative))
        yield Finding(
            mistakes, float(relative[worst]), float(allowed[worst] / size[worst]) if size[worst] else 0.0, numbers
        )

    def ratio(self, wanted: Array, made: Array, looked_at: Array | None = None) -> float:
        """How many times `made` the vector `wanted` is, each tensor counting the same; 0 where that makes no sense."""
        if looked_at is not None:
            wanted, made = wanted * looked_at, made * looked_at
        own = self.sums(made * made)
        weights = np.divide(1.0, own, out=np.zeros_like(own), where=own > 0)
        count = int(np.count_nonzero(own))
        return float(self.sums(wanted * made) @ weights) / count if count else 0.0

    def explain(self, settings: Settings, names: tuple[str, ...], count: int) -> Iterator[Finding]:
        """What explains the gradient with these switches and `count` mistakes in all."""
        if len(names) > 1 and not self.plausible(settings):
            return
        made = self.made(settings)
        left = count - len(names)
        for value, more in self._factors(self.ratio(self.vector, made), left):
            if self.near(value * made):
                yield from self.finding(value * made, abs(value) * self.noise(settings), names + more)
        if left > 0:
            for operation in (self._by_norm, self._by_value, self._decayed, self._added):
                yield from operation(settings, made, names, left - 1)

    def _factors(self, ratio: float, left: int) -> list[Factor]:
        """Those of so many mistakes that are about this ratio."""
        return [f for f in self.factors if len(f[1]) == left and abs(f[0] - ratio) <= 0.02 * abs(f[0])]

    # --- what may have been done to a finished gradient ---

    def _by_norm(self, settings: Settings, made: Array, names: tuple[str, ...], left: int) -> Iterator[Finding]:
        """Shortened to a round length, as a whole or array by array."""
        sizes, eps = np.sqrt(self.sums(made * made)), self.question.eps
        products_ = self.sums(self.vector * made)
        if np.any(np.abs(products_) < 0.99 * sizes * np.sqrt(self.squares)):
            return  # not even the directions
        lengths = np.sqrt(self.squares)
        length, size = float(np.linalg.norm(self.vector)), float(np.linalg.norm(made))
        sign = math.copysign(1.0, float(products_.sum()))
        each = float(lengths.max())
        at_limit = int(np.sum(np.abs(lengths - each) <= 64 * eps * each))
        for value, more in self.factors:
            if len(more) != left or value * sign < 0 or not length:
                continue
            whole = abs(value) * size
            if length < whole * (1 - 1e-4):
                # torch divides by the norm + 1e-6, which short gradients show
                for limit in (length, length * (whole + 1e-6) / whole):
                    if _is_round(limit, 64 * eps):
                        factor = value * length / whole
                        allowed = abs(factor) * self.noise(settings)
                        found = (*names, *more, "clipped by norm")
                        yield from self.finding(factor * made, allowed, found, f"to {limit:.3g}")
                        break
            if len(lengths) > 1 and (at_limit > 1 or _is_round(each, 64 * eps)):
                shortened = np.minimum(1, each / np.maximum(abs(value) * sizes, 1e-300))
                if np.any(shortened < 1 - 1e-4):
                    result = value * self.spread(shortened) * made
                    if self.near(result):
                        allowed, found = (
                            abs(value) * shortened * self.noise(settings),
                            (*names, *more, "clipped by norm"),
                        )
                        yield from self.finding(result, allowed, found, f"each array to {each:.3g}")

    def _by_value(self, settings: Settings, made: Array, names: tuple[str, ...], left: int) -> Iterator[Finding]:
        """Every element cut off at a bound that several reach, or that is round."""
        size, eps = np.abs(self.vector), self.question.eps
        bound = float(size.max(initial=0))
        free = size < bound * (1 - 4 * eps)
        cut = int(np.sum(~free))
        if not bound or (cut < 2 and not _is_round(bound, 64 * eps)):
            return
        # What is cut off says nothing of the factor, but that it is large enough.
        known = free & (made != 0)
        ratio = float(np.median(self.vector[known] / made[known])) if known.any() else 0.0
        for value, more in self.factors:
            if len(more) != left or (ratio and abs(value - ratio) > 0.02 * abs(value)):
                continue
            result = np.clip(value * made, -bound, bound)
            if np.any(np.abs(value * made) > bound * (1 + 1e-4)) and self.near(result):
                allowed = abs(value) * self.noise(settings)
                yield from self.finding(result, allowed, (*names, *more, "clipped by value"), f"to {bound:.3g}")

    def _decayed(self, settings: Settings, made: Array, names: tuple[str, ...], left: int) -> Iterator[Finding]:
        """A positive multiple of the weights, or of all parameters, added."""
        tensors = self.question.parameters.tensors()
        weights = [t if number % 2 == 0 else np.zeros_like(t) for number, t in enumerate(tensors)]
        for of, decayed in (("weights", self.flat(weights)), ("weights and biases", self.flat(tensors))):
            columns = np.stack([made, decayed], axis=1)
            square = columns.T @ columns
            if abs(np.linalg.det(square)) <= 1e-9 * square[0, 0] * square[1, 1]:
                continue
            ratio, slope = np.linalg.solve(square, columns.T @ self.vector)
            if slope <= 0:
                continue
            for value, more in self._factors(float(ratio), left):
                rest = self.vector - value * made
                slope = float(rest @ decayed / (decayed @ decayed))
                result = value * made + slope * decayed
                if slope > 0 and self.near(result):
                    added = slope * np.sqrt(self.sums(decayed * decayed))
                    off = abs(value) * self.noise(settings)
                    if np.any(added > off):
                        allowed, found = off + 8 * self.question.eps * added, (*names, *more, "weight decay added")
                        yield from self.finding(result, allowed, found, f"{slope:.3g} times the {of}")

    def _added(self, settings: Settings, made: Array, names: tuple[str, ...], left: int) -> Iterator[Finding]:
        """Another gradient added."""
        for name in self.question.other:
            added, off = self.other()
            for value, more in self._factors(self.ratio(self.vector - added, made), left):
                if self.near(value * made + added):
                    allowed = abs(value) * self.noise(settings) + off
                    yield from self.finding(value * made + added, allowed, (*names, *more, name))

    # --- all of it ---

    def right(self) -> Finding | None:
        """The gradient as it should be, where that is what was handed over."""
        return next(self.finding(self.made({}), self.noise({}), ()), None)

    def best(self) -> list[Finding]:
        """All explanations with the fewest mistakes, best fit first; none where nothing fits."""
        if not self.squares.any():
            return [Finding(("zero",), 0.0, 0.0, "")]
        turned = ("weight gradient transposed",) if self.question.given.turned else ()
        for count in range(0 if turned else 1, MOST + 1 - len(turned)):
            found: dict[tuple[str, ...], Finding] = {}
            for settings, names in choices(self.question.groups, count):
                for one in self.explain(settings, names, count):
                    key = tuple(sorted(one.mistakes))
                    if key not in found or one.error < found[key].error:
                        found[key] = one
            if found:
                fits = sorted(found.values(), key=lambda one: one.error)
                return [Finding(turned + f.mistakes, f.error, f.allowed, f.numbers, self.hidden(f)) for f in fits]
        return []

    def hidden(self, found: Finding) -> tuple[str, ...]:
        """Mistakes in front of a clipping that it takes away again: with one more of them all numbers are the same.

        A constant factor is one: c g shortened to a length is g shortened to that length, where both are longer.
        """
        if not {"clipped by norm", "clipped by value"} & {*found.mistakes}:
            return ()
        names_found: dict[str, None] = {}
        count = len(found.mistakes)
        for settings, names in choices(self.question.groups, count):
            if len({*names} - {*found.mistakes}) > 1:
                continue
            for other in self.explain(settings, names, count + 1):
                if {*found.mistakes} < {*other.mistakes}:
                    names_found |= dict.fromkeys(name for name in other.mistakes if name not in found.mistakes)
        return tuple(names_found)

    def untold(self) -> list[str]:
        """Single mistakes that would make the same gradient on this batch, to rounding: nothing can be said of them."""
        right, allowed = self.made({}), self.noise({})
        hidden: dict[str, bool] = {}
        for settings, names in choices(self.question.groups, 1):
            for name in names:
                off = np.sqrt(self.sums((self.made(settings) - right) ** 2))
                hidden[name] = hidden.get(name, True) and bool(np.all(off <= allowed))
        hidden |= {name: value == 1 for group in self.question.factors for value, names in group for name in names}
        if self.question.problem.target_critic is not None:  # nothing of the critic's own could flow through y
            hidden.pop("target is not detached", None)
        return [name for name, is_hidden in hidden.items() if is_hidden]

    def rows(self) -> list[tuple[int, float, float, float, bool]]:
        """Per tensor against the right gradient: its number, relative error, cosine, length, whether it is right."""
        right, allowed = self.made({}), self.noise({})
        off = np.sqrt(self.sums((self.vector - right) ** 2))
        size, length = np.sqrt(self.sums(right * right)), np.sqrt(self.squares)
        product = self.sums(self.vector * right)
        result = []
        for at, number in enumerate(self.compared):
            both = float(size[at] * length[at])
            cosine = float(product[at]) / both if both else math.nan
            relative = float(off[at] / size[at]) if size[at] else (math.inf if length[at] else 0.0)
            longer = float(length[at] / size[at]) if size[at] else math.nan
            result.append((number, relative, cosine, longer, bool(off[at] <= allowed[at])))
        return result


def _along(given: Array, made: Array, other: Array | None = None) -> bool:
    """Whether a vector is a multiple of another to about a hundredth, or of two of them together."""
    columns = made[:, None] if other is None else np.stack([made, other], axis=1)
    best = np.linalg.lstsq(columns, given, rcond=None)[0] if other is not None else None
    if best is None:
        square = float(made @ made)
        rest = given - made * (float(given @ made) / square) if square else given
    else:
        rest = given - columns @ best
    return float(rest @ rest) <= 1e-3 * float(given @ given)


def _is_round(value: float, tolerance: float) -> bool:
    """Whether a limit is one that people write: two digits and zeros."""
    if value <= 0 or not math.isfinite(value):
        return False
    written = float(f"{value:.1e}")
    return abs(value - written) <= tolerance * written
