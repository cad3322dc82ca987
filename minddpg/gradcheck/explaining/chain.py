"""Both gradients of DDPG for anybody's perceptrons, in plain NumPy and float64, with a switch at every hop.

The hops are those of `ddpg.actor_gradient`; with all switches as they should be, tests compare the two. That function
cannot stand here itself: these networks have other activations, other units of the action, and mistakes in the middle.
A chain can also be computed with the rounding of a coarser dtype, which tells how far a right gradient may be off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, ExplainError, Layers

Settings = dict[str, Any]


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * z))


def _gelu(z: Array) -> Array:
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def _gelu_slope(z: Array) -> Array:
    t = np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.asarray(z > 0, np.float64)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z: np.exp(np.minimum(z, 0))),
    "softplus": (lambda z: np.logaddexp(z, 0), _sigmoid),
    "silu": (lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z)))),
    "gelu": (_gelu, _gelu_slope),
    "linear": (lambda z: z, np.ones_like),
}
"""Activations of hidden layers by name: the function and its slope. gelu is the approximation with tanh."""


class Rounding:
    """What a dtype does to a chain: every sum is off by a part eps of what was summed, at random. eps = 0: nothing.

    kink: where slopes are taken, in multiples of that part: what stands closer to a kink than this may be on either
    side. kept: dQ/da by the switches that matter to it, for who computes many chains.
    """

    def __init__(self, eps: float = 0.0, seed: int | None = None, kink: float = 0.0):
        self.eps, self.kink = eps, kink
        self.kept: dict[str, tuple[Array, Array, Cache]] = {}
        self.rng = np.random.default_rng(seed) if seed is not None else None

    def value(self, value: Array, magnitude: Array | None = None) -> Array:
        """The value, rounded as numbers of this magnitude are."""
        if self.rng is None:
            return value
        size = np.abs(value) if magnitude is None else magnitude
        return value + 0.5 * self.eps * self.rng.standard_normal(value.shape) * size

    def product(self, x: Array, w: Array, b: Array | None = None) -> Array:
        """x w + b."""
        y = x @ w if b is None else x @ w + b
        return y if self.rng is None else self.value(y, self.magnitude(x, w, b))

    def magnitude(self, x: Array, w: Array, b: Array | None = None) -> Array:
        """|x| |w| + |b|."""
        size = np.abs(x) @ np.abs(w)
        return size if b is None else size + np.abs(b)

    def slopes(self, slope: Callable[[Array], Array], z: Array, x: Array, w: Array, b: Array) -> Array:
        """The activation's slope at z = x w + b, or a little beside it."""
        beside = self.eps * self.magnitude(x, w, b) + 1e-300  # something even where nothing was summed
        return slope(z + self.kink * beside) if self.kink else slope(z)


EXACT = Rounding()


@dataclass(frozen=True)
class Cache:
    """A forward pass: the input of every layer, the slopes of the hidden ones, the output."""

    inputs: tuple[Array, ...]
    slopes: tuple[Array, ...]
    output: Array


@dataclass(frozen=True)
class Problem:
    """What is explained: networks and a batch in float64. Missing parts are None.

    action_scale, action_offset (act_dim,). activations: of the actor's hidden layers, of the critic's.
    action_first: the joined layer reads [act, h] instead of [h, act].
    """

    actor: Layers
    critic: Layers
    obs: Array
    act: Array
    action_scale: Array
    action_offset: Array
    action_layer: int
    activations: tuple[tuple[str, ...], tuple[str, ...]]
    action_first: bool = False
    rew: Array | None = None
    next_obs: Array | None = None
    terminated: Array | None = None
    truncated: Array | None = None
    gamma: float | None = None
    target_actor: Layers | None = None
    target_critic: Layers | None = None
    critic_before: Layers | None = None

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.obs)

    @property
    def act_dim(self) -> int:
        """Columns of an action."""
        return self.act.shape[1]

    @property
    def has_target(self) -> bool:
        """Whether y can be computed."""
        known = (self.rew, self.next_obs, self.gamma, self.terminated)
        return all(part is not None for part in known)


# --- layers ---------------------------------------------------------------------------------------------------------


def forward(
    problem: Problem, network: Layers, obs: Array, act: Array | None, activations: tuple[str, ...], rounding: Rounding
) -> Cache:
    """obs (N, obs_dim), act (N, act_dim) or None -> the output before any tanh, and what backward needs."""
    x, inputs = obs, list[Array]()
    slopes: list[Array] = []
    last = len(network.weights) - 1
    for layer, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
        if act is not None and layer == problem.action_layer:
            x = np.hstack([act, x] if problem.action_first else [x, act])
        inputs.append(x)
        z = rounding.product(x, w, b)
        if layer == last:
            return Cache(tuple(inputs), tuple(slopes), z)
        function, slope = ACTIVATIONS[activations[layer]]
        slopes.append(rounding.slopes(slope, z, x, w, b))
        x = rounding.value(function(z))
    raise ExplainError("a network needs a layer")


def backward(
    network: Layers,
    cache: Cache,
    dz: Array,
    rounding: Rounding,
    mask: tuple[int, ...] | None,
    joined: slice,
    layer: int,
    last_alone: bool = False,
) -> tuple[list[Array], Array]:
    """dz (N, out) of the last layer -> [dW0, db0, ...] and the gradient at the joined columns of `layer`'s input.

    mask: per hidden layer, which layer's slopes are taken; None: its own. joined: columns that come from outside.
    last_alone: stop below the last layer.
    """
    tensors: list[Array] = []
    outside = np.zeros((len(dz), 0))
    for at in range(len(network.weights) - 1, -1, -1):
        x, w = cache.inputs[at], network.weights[at]
        db = rounding.value(dz.sum(axis=0), np.abs(dz).sum(axis=0))
        tensors[:0] = [rounding.product(x.T, dz), db]
        if last_alone:
            break
        dx = rounding.product(dz, w.T)
        if at == layer:
            outside = dx[:, joined]
            dx = np.delete(dx, joined, axis=1)
        if at > 0:
            dz = dx * cache.slopes[at - 1 if mask is None else mask[at - 1]]
    return tensors, outside


def action_columns(problem: Problem, wrong: bool = False) -> slice:
    """Where the joined layer's input holds the action; wrong: the same number of columns at the other end."""
    width = len(problem.critic.weights[problem.action_layer])
    first = problem.action_first != wrong
    return slice(0, problem.act_dim) if first else slice(width - problem.act_dim, width)


# --- the actor ------------------------------------------------------------------------------------------------------


def mu(problem: Problem, actor: Layers, obs: Array, rounding: Rounding) -> tuple[Array, Array, Cache]:
    """The action in the environment's units, the tanh (both (N, act_dim)), and the cache."""
    cache = forward(problem, actor, obs, None, problem.activations[0], rounding)
    t = rounding.value(np.tanh(cache.output))
    act = problem.action_scale * t + problem.action_offset
    return rounding.value(act, np.abs(problem.action_scale * t) + np.abs(problem.action_offset)), t, cache


def critic_of(problem: Problem, which: str) -> Layers:
    """By name: critic, target, before."""
    found = {"critic": problem.critic, "target": problem.target_critic, "before": problem.critic_before}[which]
    if found is None:
        raise ExplainError(f"there is no {which} critic")
    return found


def minus_dq_dact(problem: Problem, settings: Settings, rounding: Rounding = EXACT) -> tuple[Array, Array, Cache]:
    """-(1/N) dQ/da at the action that the settings name (N, act_dim); the actor's tanh and cache."""
    act, t, cache = mu(problem, problem.actor, problem.obs, rounding)
    where = settings.get("action", "mu")
    inside: Array | float = 1.0
    if where == "replayed":
        act = problem.act
    elif where == "unscaled":
        act = t
    elif where == "clipped":
        inside, act = np.asarray(np.abs(act) <= 1, np.float64), np.clip(act, -1, 1)
    elif where == "target actor":
        assert problem.target_actor is not None
        act, _, _ = mu(problem, problem.target_actor, problem.obs, rounding)
    critic = critic_of(problem, settings.get("critic", "critic"))
    judged = forward(problem, critic, problem.obs, act, problem.activations[1], rounding)
    seed = np.full((problem.n, 1), -1 / problem.n)
    if settings.get("seed") == "q":
        seed = seed * judged.output
    columns = action_columns(problem, settings.get("columns") == "wrong")
    _, dact = backward(critic, judged, seed, rounding, settings.get("critic mask"), columns, problem.action_layer)
    return dact * inside, t, cache


def actor_gradient(problem: Problem, settings: Settings, rounding: Rounding = EXACT) -> list[Array]:
    """d(-mean Q(s, mu(s))) in the actor, [dW0, db0, ...], with the mistakes that the settings name."""
    key = repr([settings.get(switch) for switch in ("action", "critic", "seed", "columns", "critic mask")])
    if rounding is EXACT or key not in rounding.kept:
        rounding.kept[key] = minus_dq_dact(problem, settings, rounding)
    dact, t, cache = rounding.kept[key]
    scale, tanh = problem.action_scale, settings.get("tanh", 1)
    power = settings.get("scale", 1) - (settings.get("action") == "unscaled")
    slope = rounding.value(1 - t * t, 1 + t * t)
    if tanh == "of the output":
        factor = 1 - np.tanh(t) ** 2
    elif tanh == "of the scaled":
        factor = 1 - (scale * t + problem.action_offset) ** 2
    elif tanh == "plus":
        factor = 1 + t * t
    else:
        factor = slope**tanh
    dz = dact * factor * scale**power
    none = slice(0, 0)
    tensors, _ = backward(problem.actor, cache, dz, rounding, settings.get("actor mask"), none, -1, "last" in settings)
    return finished(tensors, settings)


def critic_in_actor_step(problem: Problem, settings: Settings, rounding: Rounding = EXACT) -> list[Array]:
    """d(-mean Q(s, mu(s))) in the critic: what the actor's loss leaves there where nobody keeps it out."""
    act, _, _ = mu(problem, problem.actor, problem.obs, rounding)
    cache = forward(problem, problem.critic, problem.obs, act, problem.activations[1], rounding)
    seed = np.full((problem.n, 1), -1 / problem.n)
    columns = action_columns(problem)
    tensors, _ = backward(problem.critic, cache, seed, rounding, None, columns, problem.action_layer)
    return finished(tensors, settings)


def finished(tensors: list[Array], settings: Settings) -> list[Array]:
    """What happens to single tensors at the end: weights transposed where they are square, biases left out."""
    turned = settings.get("transposed", ())
    tensors = [t.T if number // 2 in turned and t.ndim == 2 else t for number, t in enumerate(tensors)]
    bias = settings.get("bias", "")
    if bias:
        tensors = [np.zeros_like(t) if number % 2 and bias == "missing" else t for number, t in enumerate(tensors)]
    return tensors


# --- the critic -----------------------------------------------------------------------------------------------------


def critic_gradient(problem: Problem, settings: Settings, rounding: Rounding = EXACT) -> list[Array]:
    """d mean (Q(s, a) - y)^2 in the critic that the step starts from, with the mistakes that the settings name."""
    critic = problem.critic_before or problem.critic
    rew, next_obs, terminated = problem.rew, problem.next_obs, problem.terminated
    assert rew is not None
    assert next_obs is not None
    assert terminated is not None
    assert problem.gamma is not None
    n, activation, columns = problem.n, problem.activations[1], action_columns(problem)
    judged = mu(problem, problem.actor, problem.obs, rounding)[0] if settings.get("judged") == "mu" else problem.act
    cache = forward(problem, critic, problem.obs, judged, activation, rounding)
    q = cache.output[:, 0]

    nets = settings.get("nets", "targets")
    online_critic = nets in ("online", "online critic") or problem.target_critic is None
    online_actor = nets in ("online", "online actor") or problem.target_actor is None
    next_critic = critic if online_critic else problem.target_critic
    next_actor = problem.actor if online_actor else problem.target_actor
    assert next_critic is not None
    assert next_actor is not None
    next_act = (
        problem.act if settings.get("next action") == "replayed" else mu(problem, next_actor, next_obs, rounding)[0]
    )
    asked = problem.obs if settings.get("next obs") == "obs" else next_obs
    next_cache = forward(problem, next_critic, asked, next_act, activation, rounding)
    goes_on = {
        "terminated": 1 - terminated,
        "none": np.ones(n),
        "inverted": terminated,
        "truncated": 1 - np.maximum(terminated, 0 if problem.truncated is None else problem.truncated),
    }[settings.get("mask", "terminated")]
    discount = (1.0 if settings.get("gamma") == "missing" else problem.gamma) * goes_on
    next_q = discount * next_cache.output[:, 0]

    broadcast = settings.get("broadcast", "")
    if broadcast == "q - y":
        error = q - (rew + next_q).mean()
    elif broadcast == "r":  # rewards (N,) beside (N, 1): y is (N, N)
        error = q - rew.mean() - next_q
    elif broadcast == "q'":
        error = q - rew - next_q.mean()
    elif broadcast == "q' alone":
        error = q - rew - discount * next_cache.output.mean()
    elif broadcast == "r, q'":
        error = q - rew.mean() - discount * next_cache.output.mean()
    elif broadcast == "mask":
        error = q - rew - discount.mean() * next_cache.output[:, 0]
    elif broadcast == "r, mask":
        error = q - rew.mean() - discount.mean() * next_cache.output[:, 0]
    else:
        error = q - (rew + next_q)
    error = rounding.value(error, np.abs(q) + np.abs(rew) + np.abs(next_q))
    if settings.get("loss") == "huber":
        error = np.clip(error, -1, 1) / 2
    dq = (2 / n * error)[:, None]
    last, at = "last" in settings, problem.action_layer
    tensors, _ = backward(critic, cache, dq, rounding, settings.get("critic mask"), columns, at, last)
    if settings.get("detached") == "no" and online_critic:
        dy = -dq * discount[:, None]
        through, _ = backward(critic, next_cache, dy, rounding, None, columns, at, last)
        tensors = [a + b for a, b in zip(tensors, through, strict=True)]
    return finished(tensors, settings)


# --- what rounding explains -----------------------------------------------------------------------------------------

Chain = Callable[[Problem, Settings, Rounding], list[Array]]
SAFETY = 8.0  # sums in another order, by other machines
NEAR = 4.0


def noise(chain: Chain, problem: Problem, settings: Settings, eps: float, runs: int = 4) -> list[float]:
    """How far each tensor of this chain may be off in a dtype of this eps, as a norm."""
    exact = chain(problem, settings, EXACT)
    squares = [0.0] * len(exact)
    for seed in range(runs):
        off = chain(problem, settings, Rounding(eps, seed))
        for number, (a, b) in enumerate(zip(off, exact, strict=True)):
            squares[number] += float(np.sum((a - b) ** 2)) / runs
    allowed = [SAFETY * math.sqrt(square) for square in squares]
    for kink in (NEAR, -NEAR):
        beside = chain(problem, settings, Rounding(eps, None, kink))
        for number, (a, b) in enumerate(zip(beside, exact, strict=True)):
            allowed[number] += float(np.linalg.norm(a - b))
    return allowed
