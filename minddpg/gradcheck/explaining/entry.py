"""`explain`: what is wrong with somebody else's DDPG update; `assert_ddpg_update`, the same for tests."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import chain, steps
from .arrays import (
    IN_OUT,
    OUT_IN,
    Array,
    ExplainError,
    Given,
    Layers,
    Raw,
    gradient,
    layers,
    layouts,
    leaves,
    precision,
    raw_layers,
    rows,
    to_array,
)
from .chain import ACTIVATIONS, Problem
from .report import Explanation, Part, apart
from .search import Question, Search, actor_question, critic_question, question_of_moved_critic

EPS32 = float(np.finfo(np.float32).eps)
LEFT_OVER = 0.1, 2.0  # cosine and length from which on earlier gradients may be in it
NETWORKS = (
    "actor", "critic", "target_actor", "target_critic", "critic_before", "actor_after", "critic_after",
    "target_actor_after", "target_critic_after",
)  # fmt: skip


def explain(
    actor: Any,
    critic: Any,
    obs: Any,
    act: Any,
    actor_gradient: Any,
    *,
    rew: Any = None,
    next_obs: Any = None,
    terminated: Any = None,
    truncated: Any = None,
    gamma: float | None = None,
    target_actor: Any = None,
    target_critic: Any = None,
    critic_gradient: Any = None,
    critic_before: Any = None,
    actor_after: Any = None,
    critic_after: Any = None,
    target_actor_after: Any = None,
    target_critic_after: Any = None,
    action_layer: int = 0,
    activation: Any = "relu",
    action_scale: Any = 1.0,
    action_offset: Any = 0.0,
    layout: str | None = None,
) -> Explanation:
    """What is wrong with this DDPG update: right, to how much; or the mistakes of DDPG_MISTAKES that reproduce it.

    actor, critic and the other networks: [W0, b0, W1, b1, ...] of arrays of any framework, (in, out) or (out, in), or a
    torch module, a Keras model, or a (nested) dict; perceptrons with linear outputs, the actor's before its tanh. The
    actor returns action_scale tanh(z) + action_offset; the critic reads [h, act] at its layer action_layer, in those
    units. critic is the one that the actor's step asks, after its own step; critic_before: before that, where the
    critic's gradient is taken. *_after: when the update is over.

    obs (N, obs_dim), act (N, act_dim): the batch, act as it was replayed, in the environment's units; rew, terminated,
    truncated (N,), next_obs (N, obs_dim), gamma: for the critic's gradient.

    actor_gradient, critic_gradient: what your code hands to its optimisers, descending, a gradient per
    parameter (from a torch module: its .grad); None inside counts as zero. actor_gradient
    None, with actor_after: the step is explained.

    activation: of hidden layers, or one for the actor and one for the critic, each a name or one per layer: relu,
    leaky_relu, tanh, sigmoid, elu, softplus, silu, gelu, linear. layout: "out,in" (PyTorch) or "in,out",
    needed only where all weights are square; left out, what explains the numbers decides.

    Everything is computed in float64; a gradient has to be reproduced in every tensor to the rounding of its own dtype.
    Raises ExplainError, one line, where arrays do not fit together.
    """
    if layout is not None and str(layout).replace(" ", "") not in (IN_OUT, OUT_IN):
        raise ExplainError(f'layout is {layout!r} and must be "in,out" or "out,in"')
    if actor_gradient is None and actor_after is None and critic_gradient is None:
        raise ExplainError("there is nothing to explain: hand over actor_gradient, or actor_after, or critic_gradient")
    values = (actor, critic, target_actor, target_critic, critic_before, actor_after, critic_after,
              target_actor_after, target_critic_after)  # fmt: skip
    raws = {
        n: raw_layers(v, n) for n, v in zip(NETWORKS, values, strict=True) if v is not None or n in ("actor", "critic")
    }
    actor_gradient, critic_gradient = (
        None if g is None else leaves(g, gradients=True) for g in (actor_gradient, critic_gradient)
    )
    obs = rows(obs, "obs", None, 0)
    n, obs_dim = obs.shape
    if act is None:
        raise ExplainError("act is missing: the actions that were replayed, a row per row of obs")
    act_dim = _act_dim(to_array(act), n)
    act = rows(act, "act", n, act_dim)
    gamma = None if gamma is None else _number(gamma, "gamma", 0.0, 1.0)
    action_layer = int(_number(action_layer, "action_layer", 0, math.inf, whole=True))
    if action_layer >= len(raws["critic"].weights):
        raise ExplainError(f"action_layer is {action_layer}, and the critic has {len(raws['critic'].weights)} layers")

    activations = _activations(activation, len(raws["actor"].weights) - 1, len(raws["critic"].weights) - 1)
    allowed = {}
    for name, raw in raws.items():
        if "actor" in name:
            allowed[name] = layouts(raw, name, obs_dim, (-1, 0), act_dim)
        else:
            allowed[name] = layouts(raw, name, obs_dim, (action_layer, act_dim), 1)
    tried = _tried(allowed, layout)

    def scale(value: Any, name: str) -> Array:
        array = np.asarray(to_array(value), np.float64).reshape(-1)
        if array.size not in (1, act_dim) or not np.isfinite(array).all():
            raise ExplainError(f"{name} must be a number, or one per action ({act_dim})")
        if name == "action_scale" and not array.all():
            raise ExplainError("action_scale must not be 0: the actor returns action_scale tanh(z) + action_offset")
        return np.broadcast_to(array, (act_dim,)).copy()

    def column(value: Any, name: str) -> Array | None:
        array = None if value is None else rows(value, name, n, None)
        if array is not None and name in ("terminated", "truncated") and not np.isin(array, (0, 1)).all():
            raise ExplainError(f"{name} holds {array[~np.isin(array, (0, 1))][0]:g} and must be 0 or 1 throughout")
        return array

    if critic_gradient is not None and rew is not None:
        wanted = {"next_obs": next_obs, "gamma": gamma}
        missing = [name for name, value in wanted.items() if value is None]
        if missing:
            raise ExplainError(f"the critic's gradient needs {' and '.join(missing)} too")
    notes = []
    if rew is not None and terminated is None:
        notes.append("terminated was not handed over: taken as False throughout")
    parts_of: list[tuple[Problem, str]] = []
    for each in tried:
        here = {name: layers(raw, each[name]) for name, raw in raws.items()}
        _same_shapes(here)
        parts_of.append(
            (
                Problem(
                    here["actor"], here["critic"], obs, act, scale(action_scale, "action_scale"),
                    scale(action_offset, "action_offset"), action_layer, activations,
                    rew=column(rew, "rew"),
                    next_obs=None if next_obs is None else rows(next_obs, "next_obs", n, obs_dim),
                    terminated=np.zeros(n) if terminated is None else column(terminated, "terminated"),
                    truncated=column(truncated, "truncated"),
                    gamma=gamma,
                    target_actor=here.get("target_actor"), target_critic=here.get("target_critic"),
                    critic_before=here.get("critic_before"),
                ),
                "; ".join(sorted(set(each.values()))),
            )
        )  # fmt: skip
    explained = [
        _all_parts(problem, raws, each, here_layout, actor_gradient, critic_gradient)
        for (problem, here_layout), each in zip(parts_of, tried, strict=True)
    ]
    parts, more = min(explained, key=_badness)
    if len(tried) > 1:
        chosen = parts_of[explained.index((parts, more))][1]
        equal = sum(_badness(one) == _badness((parts, more)) for one in explained) > 1
        notes.append(
            "all weights are square, and both layouts explain the numbers equally well: say which with layout=..."
            if equal else f"all weights are square: read as ({chosen}), which explains the numbers"
        )  # fmt: skip
    return Explanation(tuple(parts), (*notes, *more))


def assert_ddpg_update(actor: Any, critic: Any, obs: Any, act: Any, actor_gradient: Any, **more: Any) -> None:
    """`explain` for tests: raises AssertionError, which says what is wrong, unless all is right. Arguments as there."""
    explanation = explain(actor, critic, obs, act, actor_gradient, **more)
    if not explanation.ok:
        raise AssertionError(f"the DDPG update is not right\n{explanation}")


# --- reading --------------------------------------------------------------------------------------------------------


def _act_dim(act: Any, n: int) -> int:
    if act.ndim == 2 and len(act) == n:
        return int(act.shape[1])
    if act.ndim == 1 and len(act) == n:
        return 1
    raise ExplainError(f"act has shape {act.shape} and must be ({n}, act_dim): a row per row of obs")


def _number(value: Any, name: str, low: float, high: float, whole: bool = False) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise ExplainError(f"{name} is {value!r} and must be {kind}, " + (f"{low:g} to {high:g}" if high < math.inf
                           else f"{low:g} or more"))  # fmt: skip
    return number


def _same_shapes(networks: dict[str, Layers]) -> None:
    """Targets, and networks before or after, are copies of the actor or the critic."""
    for name, network in networks.items():
        base = "actor" if "actor" in name else "critic"
        shapes, wanted = ([w.shape for w in net.weights] for net in (network, networks[base]))
        if shapes != wanted:
            raise ExplainError(f"{name} has weights {_text(shapes)} and {base} {_text(wanted)}; they must be the same")


def _text(shapes: list[tuple[int, ...]]) -> str:
    return " ".join(str(shape) for shape in shapes)


def _activations(wanted: Any, *hidden: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names per hidden layer, of the actor and of the critic."""
    both = (wanted, wanted) if isinstance(wanted, str) else tuple(wanted) if isinstance(wanted, (list, tuple)) else ()
    if len(both) != 2 or not all(isinstance(one, (str, list, tuple)) for one in both):
        raise ExplainError("activation must be a name, or two: the actor's and the critic's")
    found = []
    for name, layers_of, count in zip(both, ("actor", "critic"), hidden, strict=True):
        names = (name,) * count if isinstance(name, str) else tuple(name)
        if len(names) != count:
            raise ExplainError(f"activation: the {layers_of} has {count} hidden layers, and {len(names)} are named")
        for one in names:
            if one not in ACTIVATIONS:
                raise ExplainError(f"activation {one!r} is not known; one of {', '.join(ACTIVATIONS)}")
        found.append(names)
    return found[0], found[1]


def _tried(allowed: dict[str, set[str]], layout: str | None) -> list[dict[str, str]]:
    """Per network its layout; two of them where nothing decides."""
    if layout is not None:
        layout = layout.replace(" ", "")
        for name, fitting in allowed.items():
            if layout not in fitting:
                raise ExplainError(f"{name}: its shapes do not fit layout {layout!r}")
        return [dict.fromkeys(allowed, layout)]
    sure = {next(iter(fitting)) for fitting in allowed.values() if len(fitting) == 1}
    choices = sorted(sure) if len(sure) == 1 else [IN_OUT, OUT_IN]
    if len(sure) == 2 and not any(len(fitting) == 2 for fitting in allowed.values()):
        choices = [IN_OUT]
    return [
        {name: choice if len(fitting) == 2 else next(iter(fitting)) for name, fitting in allowed.items()}
        for choice in choices
    ]


def _badness(explained: tuple[list[Part], list[str]]) -> tuple[int, int]:
    parts, _ = explained
    return sum(not part.explained for part in parts), sum(len(part.mistakes) for part in parts)


# --- part by part ---------------------------------------------------------------------------------------------------


def _all_parts(
    problem: Problem, raws: dict[str, Raw], layout: dict[str, str], _: str, actor_gradient: Any, critic_gradient: Any
) -> tuple[list[Part], list[str]]:
    after = {name: layers(raw, layout[name]) for name, raw in raws.items()}
    parts, notes = [], []
    given = None
    if actor_gradient is not None:
        given = gradient(actor_gradient, raws["actor"], layout["actor"], "actor_gradient")
        first = _gradient_part("actor gradient", given, problem, actor_question)
        swapped = dataclasses.replace(problem, action_first=True)
        if not first.ok and (not first.explained or _is_right(given, swapped)):
            other = _gradient_part("actor gradient", given, swapped, actor_question)
            if other.explained:
                notes.append("the critic reads [act, h], not [h, act]: that explains the numbers")
                problem, first = swapped, other
        parts.append(first)
    if critic_gradient is not None:
        where = "critic_before" if "critic_before" in raws else "critic"
        given_critic = gradient(critic_gradient, raws[where], layout[where], "critic_gradient")
        if problem.has_target:
            part = _gradient_part("critic gradient", given_critic, problem, critic_question)
            if not part.ok and len(part.mistakes) != 1:
                moved = _gradient_part("critic gradient", given_critic, problem, _moved_question)
                if moved.explained and not any(name == "zero" for name in moved.mistakes):
                    names = ("critic's weights moved too", *moved.mistakes)
                    said = ("this is d(-mean Q(s, mu(s))) in the critic, and nothing of the critic's own loss",)
                    if not part.mistakes or len(names) < len(part.mistakes):
                        part = dataclasses.replace(moved, ok=False, mistakes=names, said=said)
        else:
            part = _critic_without_target(given_critic, problem)
        parts.append(part)
    if "actor_after" in after:
        parts.append(_actor_step(problem, raws, after["actor_after"], given))
    if "critic_after" in after:
        parts.append(_critic_step(problem, raws, after["critic_after"]))
    for which in ("actor", "critic"):
        if f"target_{which}_after" in after:
            parts.append(_target(which, raws, after))
    return parts, notes


def _moved_question(given: Given, problem: Problem, eps: float) -> Question:
    question = question_of_moved_critic(given, problem, eps)
    return question if problem.critic_before is None else dataclasses.replace(question, parameters=problem.critic)


def _is_right(given: Given, problem: Problem) -> bool:
    return not given.turned and Search(actor_question(given, problem, given.eps)).right() is not None


def _names(search: Search) -> list[str]:
    return [f"{'Wb'[number % 2]}{number // 2}" for number in range(len(search.tensors))]


def _gradient_part(name: str, given: Given, problem: Problem, ask: Callable[[Given, Problem, float], Question]) -> Part:
    """Right, named, or neither. A float64 gradient that only float32 explains is said to be one."""
    said = [f"{given.missing} of its arrays were None, which counts as zero"] if given.missing else []
    made: dict[str, Array] = {}
    searches = [Search(ask(given, problem, eps), made) for eps in dict.fromkeys((given.eps, max(given.eps, EPS32)))]
    names = _names(searches[0])
    table = searches[0].rows()
    right = tuple(names[row[0]] for row in table if row[4])
    wrong = tuple(names[row[0]] for row in table if not row[4])
    for search in searches:
        found = search.right()
        if found is not None and not given.turned:
            if search.question.eps != given.eps:
                said.append("these are float64 numbers with float32's rounding: something on the way is float32")
            untold = tuple(search.untold())
            return Part(name, True, (), (), found.error, found.allowed, "", tuple(names[row[0]] for row in table),
                        (), untold, (), tuple(said))  # fmt: skip
    for search in searches:
        fits = search.best()
        if fits:
            best, *others = fits
            if others:
                said.append(f"what would tell them apart: {apart(tuple(f.mistakes for f in fits), problem.n)}")
            return Part(name, False, best.mistakes, tuple(f.mistakes for f in others), best.error, best.allowed,
                        best.numbers, right, wrong, (), best.hidden, tuple(said))  # fmt: skip
    return Part(name, False, (), (), max(row[1] for row in table), 0.0, "", right, wrong, (), (),
                (*said, *_how_wrong(table, names, searches[0])))  # fmt: skip


def _how_wrong(table: list[tuple[int, float, float, float, bool]], names: list[str], search: Search) -> list[str]:
    """Where nothing explains a gradient: cosine and length, per tensor, and what can be said of them."""
    said = []
    cosines = [row[2] for row in table if not math.isnan(row[2])]
    lengths = [row[3] for row in table if not math.isnan(row[3]) and row[3]]
    for number, relative, cosine, length, ok in table:
        if ok:
            continue
        if length == 0 or math.isinf(relative):
            said.append(f"{names[number]}: zero, and should not be" if length == 0 else f"{names[number]}: not zero, "
                        "and should be")  # fmt: skip
            continue
        said.append(f"{names[number]}: off by {relative:.2g} of its length, cosine {cosine:.6f}, length {length:.4g}")
    spread = max(lengths) - min(lengths) if lengths else math.inf
    if cosines and min(np.abs(cosines)) > 1 - 1e-6 and spread < 1e-2 * abs(lengths[0] - 1):
        sign = "" if min(cosines) > 0 else "-"
        length = float(np.linalg.norm(search.vector))
        said.append(
            f"the direction is right and the length {sign}{lengths[0]:.6g} of what it should be: a weight in the loss, "
            f"or clipping by norm to {length:.4g}, which is no round number"
        )
    elif cosines and min(cosines) > LEFT_OVER[0] and min(lengths) > LEFT_OVER[1]:
        said.append(
            "far too long and roughly the same way in every tensor: gradients of earlier updates may be in it, never "
            "cleared (zero_grad)"
        )
    elif cosines and min(cosines) > 0.999:
        said.append("close everywhere: half precision, TF32, or another network than the one that was used")
    wrong = [names[row[0]] for row in table if not row[4]]
    right = [names[row[0]] for row in table if row[4]]
    order = list(reversed(names))
    if right and wrong and max(order.index(r) for r in right) < min(order.index(w) for w in wrong):
        said.append(
            f"right down to {max(right, key=order.index)}, wrong from {min(wrong, key=order.index)} on: look between"
        )
    return said


def _critic_without_target(given: Given, problem: Problem) -> Part:
    """The critic's gradient in the actor's step, where no reward was handed over: it has to be nothing."""
    part = _gradient_part("critic gradient", given, problem, _moved_question)
    if part.mistakes == ("zero",):
        return Part("critic gradient", True, said=("nothing reached the critic in the actor's step; its own loss needs "
                    "rew, "
                    "next_obs, terminated and gamma",))  # fmt: skip
    if part.explained:
        return dataclasses.replace(part, ok=False, mistakes=("critic's weights moved too", *part.mistakes), untold=())
    said = "it is not zero, and not d(-mean Q); with rew, next_obs, terminated and gamma its own loss can be looked at"
    return Part("critic gradient", False, told=True, said=(said,))


# --- steps ----------------------------------------------------------------------------------------------------------


def _eps_of(raw: Raw) -> float:
    return precision([a for a in (*raw.weights, *raw.biases) if a is not None])


def _actor_step(problem: Problem, raws: dict[str, Raw], after: Layers, given: Given | None) -> Part:
    """actor -> actor_after as one step of the gradient handed over, or else of the right one, or of a mistaken one."""
    name, before = "actor step", problem.actor
    delta = steps.flat(after.tensors()) - steps.flat(before.tensors())
    eps = _eps_of(raws["actor_after"])
    rounding = steps.spacing(before, after, eps)
    if not delta.any():
        return Part(name, False, ("not moved",), said=("the actor is what it was",))
    if given is not None and all(t is not None for t in given.tensors):
        mine = steps.flat([t for t in given.tensors if t is not None])
        return _step_part(name, steps.first_step(delta, [mine], rounding, max(eps, given.eps)), delta, mine)

    question = actor_question(Given([None], False, eps, 0), problem, eps)
    rounded = [chain.Rounding(eps, seed) for seed in range(4)]
    from .search import choices

    for most in range(3):
        fits: dict[tuple[str, ...], steps.StepFit] = {}
        for settings, names in choices(question.groups, most):
            if len(names) != most:
                continue
            gradients = [steps.flat(chain.actor_gradient(problem, settings))]
            if _cosine_of_signs(delta, gradients[0]) < 0.9:
                continue
            gradients += [steps.flat(chain.actor_gradient(problem, settings, one)) for one in rounded]
            fit = steps.first_step(delta, gradients, rounding, eps)
            if fit is not None:
                uphill = ("step uphill",) if fit.lr < 0 else ()
                fits.setdefault((*names, *uphill), fit)
        if fits:
            (mistakes, fit), *others = sorted(fits.items(), key=lambda item: len(item[0]))
            others = [other for other in others if len(other[0]) == len(mistakes)]
            part = _step_part(name, fit, delta, steps.flat(chain.actor_gradient(problem, {})))
            more = [other[0] for other in others]
            if "step uphill" in mistakes:
                more.append(tuple("no minus" if m == "step uphill" else m for m in mistakes))
            return dataclasses.replace(part, ok=not mistakes, mistakes=mistakes, alternatives=tuple(more))
        if most == 0:

            def gradient_at(actor: Layers) -> Array:
                return steps.flat(chain.actor_gradient(dataclasses.replace(problem, actor=actor), {}))

            twice = steps.two_steps(delta, before, gradient_at, rounding, eps)
            if twice is not None:
                said = (f"two steps of {twice.optimiser} with lr = {abs(twice.lr):.4g}",)
                mistakes = ("two steps",) if twice.lr > 0 else ("two steps", "step uphill")
                return Part(name, False, mistakes, (), twice.error, said=said)
    return _step_part(name, None, delta, steps.flat(chain.actor_gradient(problem, {})))


def _cosine_of_signs(delta: Array, g: Array) -> float:
    """How far the signs of two vectors agree, or disagree, weighted by the first: what Adam and SGD both keep."""
    total = float(np.abs(delta).sum())
    return abs(float(np.sum(delta * np.sign(g)))) / total if total else 0.0


def _step_part(name: str, fit: steps.StepFit | None, delta: Array, mine: Array) -> Part:
    if fit is None:
        size = float(np.linalg.norm(delta) * np.linalg.norm(mine)) or 1.0
        cosine = float(delta @ mine) / size
        way = "downhill" if cosine < 0 else "uphill"
        return Part(name, True, told=False, said=(
            f"not a first step of SGD, Adam or RMSprop on this gradient (later ones depend on moments); it goes {way}, "
            f"cosine {-cosine:.3f} with the steepest descent",))  # fmt: skip
    what = f"{fit.optimiser} with lr = {abs(fit.lr):.4g}"
    if fit.optimiser == "Adam":
        what = f"Adam's first step with lr = {abs(fit.lr):.4g}, or RMSprop's with {abs(fit.lr) / 10:.4g} (alpha = 0.99)"
    twice = "the same as two of half that on one and the same gradient"
    if fit.lr < 0:
        return Part(name, False, ("step uphill",), (), fit.error, said=(what,))
    return Part(name, True, (), (), fit.error, said=(what, twice))


def _critic_step(problem: Problem, raws: dict[str, Raw], after: Layers) -> Part:
    """The critic has to stand still in the actor's step."""
    name, before = "critic in the actor's step", problem.critic
    delta = steps.flat(after.tensors()) - steps.flat(before.tensors())
    eps = _eps_of(raws["critic_after"])
    if not delta.any():
        return Part(name, True, said=("it did not move",))
    rounding = steps.spacing(before, after, eps)
    candidates: list[tuple[str, chain.Chain]] = [("critic's weights moved too", chain.critic_in_actor_step)]
    if problem.has_target and problem.critic_before is None:
        candidates.append(("critic before its step", chain.critic_gradient))
    for mistake, made in candidates:
        gradients = [steps.flat(made(problem, {}, chain.EXACT))]
        gradients += [steps.flat(made(problem, {}, chain.Rounding(eps, seed))) for seed in range(4)]
        fit = steps.first_step(delta, gradients, rounding, eps)
        if fit is not None:
            said = f"{fit.optimiser}, lr = {fit.lr:.4g}"
            return Part(name, False, (mistake,), (), fit.error, said=(said,))
    return Part(name, False, said=("it moved, and neither d(-mean Q) nor its own loss explains how",))


def _target(which: str, raws: dict[str, Raw], after: dict[str, Layers]) -> Part:
    name, target = f"target {which}", after.get(f"target_{which}")
    if target is None:
        raise ExplainError(f"target_{which}_after needs target_{which} too")
    eps = _eps_of(raws[f"target_{which}_after"])
    found = steps.target_step(target, after[f"target_{which}_after"], after[which], after.get(f"{which}_after"), eps)
    mistakes = (found.mistake,) if found.mistake not in ("", "?") else ()
    return Part(name, found.mistake == "", mistakes, said=(found.said,), told=found.told)
