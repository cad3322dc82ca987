"""Every gradient of a DDPG agent by name: the critic's loss, dQ/da, dQ/ds, and the chain into every actor weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from .. import ddpg, networks
from ..ddpg import DDPG
from ..jit import FloatArray
from ..networks import Network, actor_forward, copy_network, critic_forward, layer_input
from ..replay import Batch, ShapeError
from .agent_structure import Source, agent_gradients, bellman, check_agent_structure, named
from .checker import DIRECTIONS, SAMPLES, Mode, choose_lines, judge
from .differences import STEP, Lines, Probe, Quotients, first_look
from .report import Report, TensorReport
from .structure import difference
from .sweep import SQUARED_ERROR, sweep_actor, sweep_critic

Flags = npt.NDArray[np.bool_]
CLOSED = "no sample has an open path to it (dead units, or saturated actions)"


MINDDPG = Source(ddpg, networks)


def check_agent(
    agent: DDPG,
    batch: Batch,
    *,
    mode: Mode = "full",
    samples: int = SAMPLES,
    directions: int = DIRECTIONS,
    rtol: float = 1e-6,
    seed: int = 0,
    source: Source = MINDDPG,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check an agent as it stands, on a batch of N transitions, in a float64 copy of both.

    Tensors: critic.* is the gradient of mean (Q - y)^2 and of the weight decay; dq_dact and dq_dobs (N, dim) are the
    slopes of each Q(s_i, a) at a = mu(s_i); actor.* is the gradient of -mean Q(s, mu(s)), through the critic, end to
    end. The column float32 is the relative error of the same gradient computed in the agent's own dtype. A tensor that
    is zero because no sample has an open path to it is right, and says so.
    Structural checks: see agent_structure.py. Neither agent nor batch is changed.
    mode, samples, directions, rtol, seed: see check_gradient. source: whose gradients to check; the finite differences
    are always minddpg's. progress: called with what is checked next. Raises ShapeError where the batch does not fit.
    """
    tell = progress or (lambda _: None)
    tell("gradients")
    batch = _checked(agent, batch)
    exact = source.ddpg.DDPG(agent.obs_dim, agent.act_dim, agent.config.replace(dtype="float64"))
    exact.load_state_dict(agent.state_dict())
    gradients, narrow = agent_gradients(source, exact, batch), {}
    if agent.config.dtype != "float64":
        narrow = agent_gradients(source, agent, _cast(batch, agent.config.dtype))
    rng = np.random.default_rng(seed)
    tensors = []
    for function in (
        _critic_loss(exact, batch, bellman(source, exact, batch)),
        _q_slopes(exact, batch),
        _chain(exact, batch),
    ):
        tell(f"finite differences of {function.name}")
        # As plain NumPy, one forward per step is faster than the sweep's loops.
        swept = function.sweep() if function.sweep and mode == "full" and not numba.config.DISABLE_JIT else {}
        for name in function.probe.inputs:
            lines = choose_lines(gradients[name].shape, gradients[name], mode, samples, directions, rng)
            looked = swept[name] if name in swept else first_look(function.probe, name, lines)
            tensor = judge(function.probe, name, gradients[name], lines, looked, rtol)
            if tensor.unresolved_at and mode != "directions" and name.startswith("actor"):
                tensor = _settle(source, exact, batch, tensor, rtol)
            error = difference(narrow[name], gradients[name]) if name in narrow else math.nan
            note = CLOSED if name in function.closed else ""
            tensors.append(replace(tensor, float32_error=error, note=note))
    tell("structural checks")
    return Report(tuple(tensors), tuple(check_agent_structure(source, exact, batch)), rtol, 0.0, mode)


# --- what the gradients are gradients of, spelled with minddpg's forward alone ----------------------------------------


class _Function(NamedTuple):
    """A function of named arrays. sweep: compiled first looks, if any. closed: names whose gradient must be zero."""

    name: str
    probe: Probe
    sweep: Callable[[], dict[str, Quotients]] | None
    closed: set[str]


def _critic_loss(agent: Any, batch: Batch, target_q: FloatArray) -> _Function:
    """mean (Q(s, a) - y)^2 + decay / 2 sum W^2 in the critic's parameters."""
    critic, decay = _copy(agent.critic), agent.config.critic_weight_decay
    inputs, caches = named("critic", critic), {}
    weights = [array for name, array in inputs.items() if name.endswith("weight")]

    def loss(_: Any) -> Any:
        q, caches["critic"] = critic_forward(critic, batch.obs, batch.act)
        return np.mean((q - target_q) ** 2) + decay / 2 * sum(np.sum(w * w) for w in weights)

    probe = Probe(loss, inputs, np.array(1.0), lambda _: _masks(critic, caches["critic"]), {len(batch.obs)})

    def sweep() -> dict[str, Quotients]:
        swept = sweep_critic(critic, batch.obs, batch.act, target_q, SQUARED_ERROR, probe.rounding)
        found = _split("critic", critic, swept)
        for name, array in inputs.items():
            if decay and name.endswith("weight"):
                h, w = STEP * np.maximum(1, np.abs(array)).ravel(), array.ravel()
                found[name].numeric[:] += decay / 2 * ((w + h) ** 2 - (w - h) ** 2) / ((w + h) - (w - h))
        return found

    reached = np.ones(len(batch.obs), bool)
    closed = _closed("critic", critic, caches["critic"], reached)
    if decay:
        closed = {name for name in closed if name.endswith("bias")}
    return _Function("the critic's loss, in the critic", probe, sweep, closed)


def _q_slopes(agent: Any, batch: Batch) -> _Function:
    """Q(s_i, a_i) in a and in s, at a = mu(s)."""
    critic, caches = Network(*agent.critic), {}
    inputs = {"dq_dact": actor_forward(Network(*agent.actor), batch.obs)[0], "dq_dobs": batch.obs.copy()}

    def q(_: Any) -> Any:
        values, caches["critic"] = critic_forward(critic, inputs["dq_dobs"], inputs["dq_dact"])
        return values

    probe = Probe(q, inputs, np.ones(len(batch.obs)), lambda _: _masks(critic, caches["critic"]), {len(batch.obs)})
    layers = {"dq_dact": critic.action_layer, "dq_dobs": 0}
    reached = np.ones(len(batch.obs), bool)
    closed = {n for n, layer in layers.items() if not _reach(critic, caches["critic"], reached, layer).any()}
    return _Function("Q, in a and s", probe, None, closed)


def _chain(agent: Any, batch: Batch) -> _Function:
    """-mean Q(s, mu(s)) in the actor's parameters."""
    actor, critic, caches = _copy(agent.actor), Network(*agent.critic), {}
    inputs = named("actor", actor)
    minus_mean = np.full(len(batch.obs), -1 / len(batch.obs))

    def q_of_mu(_: Any) -> Any:
        act, caches["actor"] = actor_forward(actor, batch.obs)
        values, caches["critic"] = critic_forward(critic, batch.obs, act)
        return values

    def pattern(_: Any) -> Flags:
        return np.concatenate([_masks(actor, caches["actor"]), _masks(critic, caches["critic"])])

    probe = Probe(q_of_mu, inputs, minus_mean, pattern, {len(batch.obs)})

    def sweep() -> dict[str, Quotients]:
        return _split("actor", actor, sweep_actor(actor, critic, batch.obs, minus_mean, probe.rounding))

    act, actor_cache = actor_forward(actor, batch.obs)
    reached = _reach(critic, caches["critic"], np.ones(len(act), bool), critic.action_layer)
    reached &= (np.abs(act) < 1).any(axis=1)
    return _Function("-mean Q(s, mu(s)), in the actor", probe, sweep, _closed("actor", actor, actor_cache, reached))


def _settle(source: Source, agent: Any, batch: Batch, tensor: TensorReport, rtol: float) -> TensorReport:
    """Look at a saturated actor's unresolved elements under an upstream that makes them large.

    Where tanh' is 1e-12, no difference of Q shows what lies below it. So the same backward gets a random gradient below
    the tanh, where finite differences see its weights again; that the chain hands it the right one, all others show.
    """
    actor, name = _copy(agent.actor), tensor.name
    inputs, caches, none = named("actor", actor), {}, np.empty((len(batch.obs), 0))

    def z(_: Any) -> Any:
        caches["actor"] = networks.forward(actor, batch.obs, none)
        return networks.output(actor, caches["actor"])

    dz = np.random.default_rng(0).standard_normal((len(batch.obs), agent.act_dim))
    probe = Probe(z, inputs, dz, lambda _: _masks(actor, caches["actor"]), {len(batch.obs)})
    cache = source.networks.forward(agent.actor, batch.obs, none)
    dtheta = source.networks.backward_to_weights(agent.actor, dz.copy(), cache)
    gradient = named("actor", agent.actor._replace(params=dtheta))[name]
    numbers = np.array([np.ravel_multi_index(index, tensor.shape) for index in tensor.unresolved_at])
    lines = Lines(tensor.shape, numbers, None)
    again = judge(probe, name, gradient, lines, first_look(probe, name, lines), rtol)
    if again.wrong or again.noisy:
        return replace(again, checked=tensor.checked + again.checked, looked=tensor.looked)
    left = again.unresolved_at
    return replace(
        tensor,
        checked=tensor.checked + again.checked,
        zeros=tensor.zeros + again.zeros,
        kinks=tensor.kinks + again.kinks,
        settled=tensor.settled + again.checked,
        unresolved=len(left),
        unresolved_at=left,
    )


def _masks(network: Network, cache: FloatArray) -> Flags:
    """Which side every ReLU stands on, for every sample."""
    hidden = [layer_input(network, cache, i).ravel() > 0 for i in range(1, len(network.layout) - 1)]
    return np.concatenate([np.zeros(0, bool), *hidden])


def _reach(network: Network, cache: FloatArray, reached: Flags, layer: int) -> Flags:
    """For which samples (N,) a gradient at the output gets to the pre-activation of `layer` at all."""
    for above in range(len(network.layout) - 2, layer, -1):
        units = network.layout[above - 1, networks.FAN_OUT]
        reached = reached & (layer_input(network, cache, above)[:, :units] > 0).any(axis=1)
    return reached


def _closed(prefix: str, network: Network, cache: FloatArray, reached: Flags) -> set[str]:
    """The parameters whose gradient has to be zero: no sample reaches them, or nothing comes in from below."""
    names = set()
    for layer in range(len(network.layout) - 1):
        open_samples = _reach(network, cache, reached, layer)
        if not open_samples.any():
            names.add(f"{prefix}.{layer}.bias")
        if not layer_input(network, cache, layer)[open_samples].any():
            names.add(f"{prefix}.{layer}.weight")
    return names


def _copy(network: Any) -> Network:
    return copy_network(Network(*network))


def _split(prefix: str, network: Network, swept: Quotients) -> dict[str, Quotients]:
    """First looks at all parameters (P,), tensor by tensor."""
    numeric, rounding, kinked = (named(prefix, network._replace(params=np.asarray(column))) for column in swept)
    return {name: Quotients(numeric[name].ravel(), rounding[name].ravel(), kinked[name].ravel()) for name in numeric}


def _checked(agent: Any, batch: Batch) -> Batch:
    """The batch in float64. Raises ShapeError."""
    n = len(np.atleast_1d(batch.rew))
    shapes = ((n, agent.obs_dim), (n, agent.act_dim), (n,), (n, agent.obs_dim), (n,))
    for name, array, shape in zip(Batch._fields, batch, shapes, strict=True):
        if np.shape(array) != shape or n == 0:
            raise ShapeError(f"batch.{name} has shape {np.shape(array)}, but must be {shape}, one row or more")
        if not np.isfinite(np.asarray(array, np.float64)).all():
            raise ShapeError(f"batch.{name} holds a NaN or an infinity")
    return _cast(batch, "float64")


def _cast(batch: Batch, dtype: str) -> Batch:
    obs, act, rew, next_obs = (np.array(array, dtype, order="C") for array in batch[:-1])
    return Batch(obs, act, rew, next_obs, np.array(batch.terminated, bool))
