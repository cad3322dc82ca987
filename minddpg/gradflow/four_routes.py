"""Four routes from Q to the actor's weights, and one gradient.

(a) explicit: dQ/da first, then through the actor; what minddpg trains with.
(b) one pass: -mean Q backward through both networks, as automatic differentiation does it; it computes the critic's
    weight gradients and the states' gradient on the way, and throws them away.
(c) finite differences of -mean Q(s, mu(s)): no backward at all.
(d) the Jacobian da/dtheta formed, row by row, and multiplied by dQ/da: what (a) never does.

In float64, since the question is whether they are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..agent import DDPG
from ..ddpg import actor_gradient
from ..fast.jit import FloatArray
from ..gradcheck import Mode, numeric_gradient
from ..network_options import has_kinks, mixes_rows
from ..networks import (
    Network,
    actor_forward,
    backward,
    backward_to_weights,
    copy_network,
    critic_forward,
    layer_input,
    output_backward,
)
from ..replay import Batch
from ..showing import html_table, text_table
from .way import norm

Result = TypeVar("Result")

ROUTES_HEAD = ("route", "off (a) by", "elements", "seconds", "memory")
SAMPLES = 256  # elements that finite differences look at
LARGEST_JACOBIAN = 256_000_000  # bytes; a larger one is not formed, only counted


@dataclass(frozen=True)
class Route:
    """How one route compares with (a). difference: |its gradient - (a)'s| / |(a)'s|, over the elements compared.

    elements: how many were compared. nbytes: what the route keeps at once besides the networks. note: what it is.
    """

    name: str
    difference: float
    elements: int
    seconds: float
    nbytes: int
    note: str


@dataclass(frozen=True, repr=False)
class Routes:
    """The comparison. `print(routes)` is a table. gradient: that of route (a), (P,)."""

    routes: tuple[Route, ...]
    gradient: FloatArray

    def __str__(self) -> str:
        lines = text_table(ROUTES_HEAD, self.rows()).splitlines()
        notes = ["", *(f"   {route.note}" for route in self.routes)]
        named = ["four routes to the actor's gradient, in float64"]
        return "\n".join([*named, *(line + note for line, note in zip(lines, notes, strict=True))])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table(ROUTES_HEAD, self.rows(), [route.note for route in self.routes])

    def rows(self) -> list[tuple[str, ...]]:
        """As written in tables; "-" for a route that was not taken."""
        return [
            (r.name, *((f"{r.difference:.1e}", f"{r.elements:,}", f"{r.seconds:.4f}") if r.elements else ("-",) * 3),
             _bytes(r.nbytes))
            for r in self.routes
        ]  # fmt: skip


class Chain(NamedTuple):
    """-mean Q(s, mu(s)), in float64."""

    actor: Network
    critic: Network
    obs: FloatArray


def routes(agent: DDPG, batch: Batch, mode: Mode = "sample", samples: int = SAMPLES, seed: int = 0) -> Routes:
    """The actor's gradient by four routes, for the agent as it stands.

    batch: its states are used. mode, samples, seed: which elements finite differences look at; see check_gradient,
    "full" for all. The Jacobian is formed up to 256 MB. Raises ShapeError.
    """
    exact = agent.copy("float64")
    return compare(Chain(exact.actor, exact.critic, exact.checked(batch).obs), mode, samples, seed)


def compare(chain: Chain, mode: Mode = "sample", samples: int = SAMPLES, seed: int = 0) -> Routes:
    """`routes` for one chain."""
    for route in (route_explicit, route_one_pass):
        route(chain)  # compiled on the first call
    explicit, seconds = _timed(route_explicit, chain)
    act, cache = actor_forward(chain.actor, chain.obs)
    held = cache.nbytes + explicit.nbytes
    one_pass, one_seconds = _timed(route_one_pass, chain)
    first = Route("(a) explicit dQ/da", 0.0, explicit.size, seconds, held, "vector-Jacobian products; what trains")
    if getattr(chain.actor, "unbounded", False):
        note = "the same, inverted at the bounds; (c) and (d) would be of -mean Q, whose gradient this is not"
        second = Route("(b) one pass", _off(one_pass, explicit), explicit.size, one_seconds, held, note)
        return Routes((first, second), explicit)
    (numeric, told), numeric_seconds = _timed(route_differences, chain, explicit, mode, samples, seed)
    found = [
        first,
        Route(
            "(b) one pass",
            _off(one_pass, explicit),
            explicit.size,
            one_seconds,
            held + 8 * chain.critic.params.size + chain.obs.nbytes,
            "also computes the critic's weight gradients and dQ/ds, for nothing",
        ),
        Route(
            "(c) finite differences",
            _off(numeric[told], explicit[told]),
            int(told.sum()),
            numeric_seconds,
            8 * explicit.size,
            f"two forward passes per element, or more; {int(np.isfinite(numeric).sum() - told.sum())} at kinks of ReLU",
        ),
    ]
    nbytes = act.size * explicit.nbytes
    what = f"da/dtheta: {act.size:,} x {explicit.size:,}, {nbytes / held:,.0f} times (a)'s memory"
    if nbytes <= LARGEST_JACOBIAN:
        route_jacobian(chain._replace(obs=chain.obs[:1]))  # compiled
        product, seconds = _timed(route_jacobian, chain)
        found.append(Route("(d) Jacobian", _off(product, explicit), explicit.size, seconds, nbytes, what))
    else:
        found.append(Route("(d) Jacobian", 0.0, 0, 0.0, nbytes, f"{what}; not formed"))
    return Routes(tuple(found), explicit)


def route_explicit(chain: Chain) -> FloatArray:
    """(a): `ddpg.actor_gradient`."""
    dtheta, _, _ = actor_gradient(*chain)
    return dtheta


def route_one_pass(chain: Chain) -> FloatArray:
    """(b): one backward pass through everything."""
    actor, critic, obs = chain
    act, actor_cache = actor_forward(actor, obs)
    q, critic_cache = critic_forward(critic, obs, act)
    _, _, dact = backward(critic, np.full((len(q), 1), -1 / len(q)), critic_cache)
    dtheta, _, _ = backward(actor, output_backward(actor, dact, act), actor_cache)
    return dtheta


def route_differences(
    chain: Chain, explicit: FloatArray, mode: Mode, samples: int, seed: int
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """(c): central differences, refined as in gradcheck.    -> numeric (P,), NaN where not looked; told (P,) bool

    told: looked at, and no ReLU changes sides within the step.
    """
    actor, critic, obs = copy_network(chain.actor), chain.critic, chain.obs
    caches = {}

    def q() -> FloatArray:
        act, caches["actor"] = actor_forward(actor, obs)
        values, caches["critic"] = critic_forward(critic, obs, act)
        return values

    def open_units() -> npt.NDArray[np.bool_]:
        hidden = [
            layer_input(network, cache, layer)[:, : network.layout[layer - 1, 1]] > 0
            for network, cache in ((actor, caches["actor"]), (critic, caches["critic"]))
            for layer in range(1, len(network.layout) - 1 if has_kinks(network) else 1)
        ]
        return np.concatenate([np.zeros(0, bool), *(flags.ravel() for flags in hidden)])

    minus_mean = np.full(len(obs), -1 / len(obs))
    return numeric_gradient(
        q, actor.params, minus_mean, explicit, pattern=open_units, mode=mode, samples=samples, seed=seed
    )


def route_jacobian(chain: Chain) -> FloatArray:
    """(d): da/dtheta (N act_dim, P), a row per action component of each sample, times -(1/N) dQ/da."""
    actor, _, obs = chain
    act, _ = actor_forward(actor, obs)
    _, dact, _ = actor_gradient(*chain)
    jacobian = np.empty((act.size, actor.params.size))
    for i in range(len(obs)):
        # A row of its own, but where a batch's statistics let it depend on the others.
        rows = slice(0, len(obs)) if mixes_rows(actor) else slice(i, i + 1)
        a, cache = actor_forward(actor, obs[rows])
        for k in range(act.shape[1]):
            one = np.zeros_like(a)
            one[i - rows.start, k] = 1
            jacobian[i * act.shape[1] + k] = backward_to_weights(actor, output_backward(actor, one, a), cache)
    return dact.ravel() @ jacobian


def _off(gradient: FloatArray, reference: FloatArray) -> float:
    length = norm(reference)
    return norm(gradient - reference) / length if length else norm(gradient)


def _timed(function: Callable[..., Result], *arguments: Any) -> tuple[Result, float]:
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
