"""Every gradient of a DDPG agent by name: the critic's loss, dQ/da, dQ/ds, and the chain into every actor weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from .. import agent as agents
from .. import ddpg, networks, td3
from ..agent import DDPG
from ..fast.jit import FloatArray
from ..network_options import has_kinks, mixes_rows, without_effect
from ..networks import Network, actor_forward, copy_network, critic_forward, layer_input
from ..replay import Batch, ShapeError, check_shapes
from .agent_structure import Source, agent_gradients, bellman, check_agent_structure, critics, named, own
from .checker import check_options
from .differences import EPS, Lines, Measure, Probe, Quotients, measure
from .effort import FULL_BUDGET, Effort
from .judgement import DIRECTIONS, SAMPLES, Judgement, Mode, lines_of, plan
from .report import Report, TensorReport
from .structure import difference
from .sweep import SQUARED_ERROR, Sweep, sweep_actor, sweep_critic

Flags = npt.NDArray[np.bool_]
SWEPT_BUDGET = 500_000  # compiled evaluations up to which mode "auto" looks at every element
CLOSED = "no sample has an open path to it (dead units, or saturated actions)"
NO_EFFECT = "a batch's own mean takes away what it adds"
MINDDPG = Source(ddpg, td3, networks, agents)


def check_agent(
    agent: DDPG,
    batch: Batch,
    *,
    mode: Mode = "auto",
    samples: int = SAMPLES,
    directions: int = DIRECTIONS,
    rtol: float = 1e-6,
    seed: int = 0,
    source: Source = MINDDPG,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check an agent as it stands, on a batch of N transitions, in a float64 copy of both.

    Tensors: critic.* (and critic2.* of TD3) is the gradient of mean (Q - y)^2 and of the weight decay; dq_dact and
    dq_dobs (N, dim) are the slopes of each Q(s_i, a) at a = mu(s_i); actor.* is the gradient of -mean Q(s, mu(s)),
    through the critic, end to end. Of normalised observations, in those. The column float32 is the relative error of
    the same gradient computed in the agent's own dtype. A tensor that
    is zero because no sample has an open path to it is right, and says so.
    Structural checks: see agent_structure.py. Neither agent nor batch is changed.
    mode, samples, directions, rtol, seed: see check_gradient; "auto" reaches further here, 500,000 evaluations, since
    they are compiled. source: whose gradients to check; the finite differences
    are always minddpg's. progress: called with what is checked next. Raises ShapeError where the batch does not fit.
    """
    check_options(mode, samples, directions, rtol)
    tell = progress or (lambda _: None)
    tell("gradients")
    batch = _checked(agent, batch)
    agent = agent.bare()
    exact = source.agent.DDPG(agent.obs_dim, agent.act_dim, agent.config.replace(dtype="float64"))
    exact.load_state_dict(agent.state_dict())
    gradients, narrow = agent_gradients(source, exact, batch), {}
    if agent.config.dtype != "float64":
        narrow = agent_gradients(source, agent, _cast(batch, agent.config.dtype))
    rng, n = np.random.default_rng(seed), len(batch.obs)
    tensors: dict[str, TensorReport] = {}
    target_q = bellman(source, exact, batch)
    no_effect = {
        f"{name}.{parameter}" for name in ("actor", *critics(exact))
        for parameter in without_effect(own(getattr(exact.learner, name)))
    }  # fmt: skip
    losses = [_critic_loss(exact, batch, target_q, name) for name in critics(exact)]
    for function in (*losses, _q_slopes(exact, batch), _chain(exact, batch)):
        tell(f"finite differences of {function.name}")
        sizes = {name: array.size for name, array in function.probe.inputs.items()}
        # As plain NumPy, one forward per step is faster than the sweep's loops.
        compiled = function.sweep is not None and not numba.config.DISABLE_JIT
        modes = plan(sizes, mode, SWEPT_BUDGET if compiled else FULL_BUDGET)
        looks = {name: lines_of(gradients[name], modes[name], samples, directions, rng) for name in sizes}
        effort = Effort(sum(2 * lines.total for lines in looks.values()), progress)
        for name, lines in looks.items():
            effort.what, gradient = name, gradients[name]
            sweep = function.sweep(name) if function.sweep and compiled and modes[name] == "full" else None
            look = sweep or partial(measure, function.probe, name, lines)
            tensor = Judgement(function.probe, name, gradient, lines, look, rtol, 0.0, 0.0, n.__eq__, effort).report()
            error = difference(narrow[name], gradient) if name in narrow else math.nan
            note = CLOSED if name in function.closed else ""
            note = NO_EFFECT if name in no_effect else note
            tensors[name] = replace(tensor, float32_error=error, note=note)
    actor = [tensor for name, tensor in tensors.items() if name.startswith("actor")]
    if mode != "directions" and any(tensor.checked for tensor in actor):
        tensors |= {t.name: _settle(source, exact, batch, t, rtol) for t in actor if t.unresolved and not t.wrong}
    tell("structural checks")
    checks = check_agent_structure(source, exact, batch)
    return Report(tuple(tensors.values()), tuple(checks), rtol, 0.0, mode)


# --- what the gradients are gradients of, spelled with minddpg's forward alone ----------------------------------------


class _Function(NamedTuple):
    """A function of named arrays. sweep: compiled looks at one of them, if any. closed: whose gradient must be zero."""

    name: str
    probe: Probe
    sweep: Callable[[str], Measure] | None
    closed: set[str]


def _critic_loss(agent: Any, batch: Batch, target_q: FloatArray, prefix: str) -> _Function:
    """mean (Q(s, a) - y)^2 + decay / 2 sum W^2 in the parameters of the critic of this name."""
    critic, decay = _copy(getattr(agent.learner, prefix)), agent.config.critic_weight_decay
    inputs, caches = named(prefix, critic), {}
    weights = [array for name, array in inputs.items() if name.endswith("weight")]

    def loss(_: Any) -> Any:
        q, caches["critic"] = critic_forward(critic, batch.obs, batch.act)
        squares = q * (q - 2 * target_q) / len(q)  # without y^2, a constant that would only add its rounding
        return np.concatenate([squares, [decay / 2 * np.sum(w * w) for w in weights]])

    probe = Probe(loss, inputs, np.ones(len(batch.obs) + len(weights)), lambda _: _masks(critic, caches["critic"]))

    rounding = 4 * EPS * float(np.sum(np.abs(probe.centre[: len(batch.obs)])))
    if not isinstance(critic, Network):  # the sweep knows ReLU alone
        closed = _closed(prefix, critic, caches["critic"], np.ones(len(batch.obs), bool))
        closed = {name for name in closed if not decay or name.endswith("bias")}
        return _Function(f"the critic's loss, in the {prefix}", probe, None, closed)
    swept = sweep_critic(critic, batch.obs, batch.act, target_q, SQUARED_ERROR, rounding)

    def sweep(name: str) -> Measure:
        look, array = _part(prefix, critic, swept, name), inputs[name].ravel()
        if not decay or name.endswith("bias"):
            return look

        def look_with_decay(chosen: npt.NDArray[np.int64], relative: float) -> Quotients:
            found, w = look(chosen, relative), array[chosen]
            h = relative * np.maximum(1, np.abs(w))
            found.numeric[:] += decay / 2 * ((w + h) ** 2 - (w - h) ** 2) / ((w + h) - (w - h))
            return found

        return look_with_decay

    reached = np.ones(len(batch.obs), bool)
    closed = _closed(prefix, critic, caches["critic"], reached)
    if decay:
        closed = {name for name in closed if name.endswith("bias")}
    return _Function(f"the critic's loss, in the {prefix}", probe, sweep, closed)


def _q_slopes(agent: Any, batch: Batch) -> _Function:
    """Q(s_i, a_i) in a and in s, at a = mu(s)."""
    critic, caches = own(agent.critic), {}
    inputs = {"dq_dact": actor_forward(own(agent.actor), batch.obs)[0].copy(), "dq_dobs": batch.obs.copy()}

    def q(_: Any) -> Any:
        values, caches["critic"] = critic_forward(critic, inputs["dq_dobs"], inputs["dq_dact"])
        return values

    probe = Probe(q, inputs, np.ones(len(batch.obs)), lambda _: _masks(critic, caches["critic"]))
    layers = {"dq_dact": critic.action_layer, "dq_dobs": 0}
    reached = np.ones(len(batch.obs), bool)
    closed = {n for n, layer in layers.items() if not _reach(critic, caches["critic"], reached, layer).any()}
    return _Function("Q, in a and s", probe, None, closed)


def _chain(agent: Any, batch: Batch) -> _Function:
    """-mean Q(s, mu(s)) in the actor's parameters."""
    actor, critic, caches = _copy(agent.actor), own(agent.critic), {}
    inputs = named("actor", actor)
    if agent.config.invert_gradients:
        return _inverted_chain(actor, critic, batch.obs)
    minus_mean = np.full(len(batch.obs), -1 / len(batch.obs))

    def q_of_mu(_: Any) -> Any:
        act, caches["actor"] = actor_forward(actor, batch.obs)
        values, caches["critic"] = critic_forward(critic, batch.obs, act)
        return values

    def pattern(_: Any) -> Flags:
        return np.concatenate([_masks(actor, caches["actor"]), _masks(critic, caches["critic"])])

    probe = Probe(q_of_mu, inputs, minus_mean, pattern)

    swept = None
    if isinstance(actor, Network):
        swept = sweep_actor(actor, critic, batch.obs, minus_mean, probe.rounding)
    act, actor_cache = actor_forward(actor, batch.obs)
    reached = _reach(critic, caches["critic"], np.ones(len(act), bool), critic.action_layer)
    reached &= (np.abs(act) < 1).any(axis=1)
    sweep = None if swept is None else partial(_part, "actor", actor, swept)
    return _Function("-mean Q(s, mu(s)), in the actor", probe, sweep, _closed("actor", actor, actor_cache, reached))


def _inverted_chain(actor: Network, critic: Network, obs: FloatArray) -> _Function:
    """mu(s) in the actor's parameters, under the upstream that inverted gradients are by definition.

    That is dq_dact of minddpg, which has been checked by then, over -N, times the room to the bound that it pushes
    towards, over 2.
    """
    inputs, caches = named("actor", actor), {}
    act, cache = actor_forward(actor, obs)
    act, (_, critic_cache) = act.copy(), critic_forward(critic, obs, act)
    dq_dact = networks.backward_to_action(critic, np.ones((len(obs), 1)), critic_cache)
    upstream = -dq_dact / len(obs) * np.where(dq_dact > 0, 1 - act, 1 + act) / 2

    def mu(_: Any) -> Any:
        value, caches["actor"] = actor_forward(actor, obs)
        return value.ravel()

    probe = Probe(mu, inputs, upstream.ravel(), lambda _: _masks(actor, caches["actor"]))
    closed = _closed("actor", actor, cache, np.asarray(upstream.any(axis=1)))
    return _Function("mu(s) under inverted gradients, in the actor", probe, None, closed)


def _settle(source: Source, agent: Any, batch: Batch, tensor: TensorReport, rtol: float) -> TensorReport:
    """Look at a saturated actor's unresolved elements under an upstream that makes them large.

    Where tanh' is 1e-12, no difference of Q shows what lies below it. So the same backward gets a random gradient below
    the tanh, where finite differences see its weights again. That the chain hands it the right one, the elements show
    that were compared through it; there must be some.
    """
    actor, name = _copy(agent.actor), tensor.name
    inputs, caches, none = named("actor", actor), {}, np.empty((len(batch.obs), 0))

    def z(_: Any) -> Any:
        caches["actor"] = networks.forward(actor, batch.obs, none)
        return networks.output(actor, caches["actor"])

    dz = np.random.default_rng(0).standard_normal((len(batch.obs), agent.act_dim))
    probe = Probe(z, inputs, dz, lambda _: _masks(actor, caches["actor"]))
    cache = source.networks.forward(agent.actor, batch.obs, none)
    dtheta = source.networks.backward_to_weights(agent.actor, dz.copy(), cache)
    gradient = named("actor", agent.actor._replace(params=dtheta))[name]
    numbers = np.array([np.ravel_multi_index(index, tensor.shape) for index in tensor.unresolved_at])
    lines = Lines(tensor.shape, numbers, None)
    look = partial(measure, probe, name, lines)
    again = Judgement(probe, name, gradient, lines, look, rtol).report()
    if again.wrong or again.noisy:
        return replace(again, name=f"{name} below the tanh")
    return replace(
        tensor,
        checked=tensor.checked + again.checked,
        zeros=tensor.zeros + again.zeros,
        kinks=tensor.kinks + again.kinks,
        kinks_at=tensor.kinks_at + again.kinks_at,
        unresolved=again.unresolved,
        unresolved_at=again.unresolved_at,
    )


def _masks(network: Network, cache: FloatArray) -> Flags:
    """Which side every ReLU stands on, for every sample."""
    if not has_kinks(network):
        return np.zeros(0, bool)
    hidden = []
    for above in range(1, len(network.layout) - 1):
        units = network.layout[above - 1, networks.FAN_OUT]  # behind them stands a joined action, which is no ReLU
        hidden.append(layer_input(network, cache, above)[:, :units].ravel() > 0)
    return np.concatenate([np.zeros(0, bool), *hidden])


def _reach(network: Network, cache: FloatArray, reached: Flags, layer: int) -> Flags:
    """For which samples (N,) a gradient at the output gets to the pre-activation of `layer` at all."""
    if not has_kinks(network):
        return reached
    for above in range(len(network.layout) - 2, layer, -1):
        units = network.layout[above - 1, networks.FAN_OUT]
        reached = reached & (layer_input(network, cache, above)[:, :units] > 0).any(axis=1)
        if mixes_rows(network):
            reached = np.full(len(reached), reached.any())
    return reached


def _closed(prefix: str, network: Network, cache: FloatArray, reached: Flags) -> set[str]:
    """The parameters whose gradient has to be zero: no sample reaches them, or nothing comes in from below."""
    names = set()
    for layer in range(len(network.layout) - 1):
        open_samples = _reach(network, cache, reached, layer)
        if not open_samples.any():
            names.add(f"{prefix}.{layer}.bias")
            names |= {f"{prefix}.{layer}.gamma", f"{prefix}.{layer}.beta"}
            names |= {f"{prefix}.obs.gamma", f"{prefix}.obs.beta"} if layer == 0 else set()
        if not layer_input(network, cache, layer)[open_samples].any():
            names.add(f"{prefix}.{layer}.weight")
    return names


def _copy(network: Any) -> Network:
    return copy_network(own(network))


def _part(prefix: str, network: Network, swept: Sweep, name: str) -> Measure:
    """A sweep's looks at the elements of one tensor."""
    numbers = named(prefix, network._replace(params=np.arange(float(network.params.size))))[name].ravel().astype(int)

    def look(chosen: npt.NDArray[np.int64], relative: float) -> Quotients:
        wanted = np.zeros(network.params.size, bool)
        wanted[numbers[chosen]] = True
        numeric, rounding, kinked = swept(wanted, relative)
        return Quotients(numeric[numbers[chosen]], rounding[numbers[chosen]], kinked[numbers[chosen]])

    return look


def _checked(agent: Any, batch: Batch) -> Batch:
    """The batch in float64. Raises ShapeError."""
    if any(np.asarray(array).dtype.kind not in "fiub" for array in batch):
        raise ShapeError("the batch must hold real numbers")
    check_shapes(batch, agent.obs_dim, agent.act_dim)
    for name, array in batch._asdict().items():
        if not np.isfinite(np.asarray(array, np.float64)).all():
            raise ShapeError(f"batch.{name} holds a NaN or an infinity")
    exact = [np.array(array, np.float64, order="C") for array in batch[:4]]
    wide = batch._replace(**dict(zip(Batch._fields, exact, strict=False)), terminated=np.array(batch.terminated))
    return _cast(agent.prepared(wide), "float64")


def _cast(batch: Batch, dtype: str) -> Batch:
    obs, act, rew, next_obs = (np.array(array, dtype, order="C") for array in batch[:-1])
    over = np.array(batch.terminated)  # a number where it is a factor; see returns.py
    return Batch(obs, act, rew, next_obs, over.astype(dtype if over.dtype.kind == "f" else bool))
