"""What must hold of an agent's update beyond its gradients' values: what is written, in which order, by whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..networks import Network, named_parameters
from ..optim import BETA1
from ..replay import Batch
from .differences import EPS
from .report import Check
from .structure import SAME, difference, holds_but_for, linear, same_bits

State = dict[str, npt.NDArray[Any]]
ONLINE = ("actor", "critic")


class Source(NamedTuple):
    """minddpg's modules of these names, or a copy with a bug planted in it (see planted.py)."""

    ddpg: Any
    networks: Any
    agent: Any


def agent_gradients(source: Source, agent: Any, batch: Batch) -> dict[str, npt.NDArray[Any]]:
    """The gradients under test, by name."""
    algorithm = source.ddpg
    target_q = bellman(source, agent, batch)
    decay = agent.config.critic_weight_decay
    _, dcritic, _ = algorithm.critic_gradient(agent.critic, batch.obs, batch.act, target_q, decay)
    act, _ = algorithm.actor_forward(agent.actor, batch.obs)
    q, cache = algorithm.critic_forward(agent.critic, batch.obs, act)
    ones = np.ones((len(q), 1), q.dtype)
    dtheta, _, _ = algorithm.actor_gradient(agent.actor, agent.critic, batch.obs)
    return {
        **named("critic", agent.critic._replace(params=dcritic)),
        "dq_dact": algorithm.backward_to_action(agent.critic, ones, cache),
        "dq_dobs": source.networks.backward_to_obs(agent.critic, ones, cache),
        **named("actor", agent.actor._replace(params=dtheta)),
    }


def bellman(source: Source, agent: Any, batch: Batch) -> Any:
    """The critic's target y (N,), which is data: no gradient flows through it."""
    return source.ddpg.bellman_target(agent.target_actor, agent.target_critic, batch, agent.config.gamma)


def named(prefix: str, network: Any) -> dict[str, npt.NDArray[Any]]:
    """Views of a network's parameters, as "prefix.0.weight"."""
    return {f"{prefix}.{name}": view for name, view in named_parameters(Network(*network)).items()}


def check_agent_structure(source: Source, agent: Any, batch: Batch) -> list[Check]:
    """The structural checks of check_agent. agent: in float64, of the modules in `source`; left as it was."""
    checks = [*_gradients(source, agent, batch), *_backwards(source, agent, batch)]
    for check in (_memory, _terminated, _critic_step, _actor_step, _replayed_action, _climbs, _update):
        checks.append(check(source, agent, batch))
    return checks


def _clone(source: Source, agent: Any) -> Any:
    """A copy whose target networks stand apart from the online ones, so that it shows which of them is used."""
    clone, rng = source.agent.DDPG(agent.obs_dim, agent.act_dim, agent.config), np.random.default_rng(0)
    state = agent.state_dict()
    for name in state:
        if name.startswith("target_"):
            state[name] = state[name] + 0.1 * rng.standard_normal(state[name].shape)
    clone.load_state_dict(state)
    return clone


def _changed(before: State, after: State) -> list[str]:
    return [name for name in before if not same_bits(after[name], before[name])]


# --- gradients --------------------------------------------------------------------------------------------------------


def _gradients(source: Source, agent: Any, batch: Batch) -> Iterator[Check]:
    before, kept = agent.state_dict(), [np.array(array) for array in batch]
    first = agent_gradients(source, agent, batch)
    again = agent_gradients(source, agent, batch)
    written = _changed(before, agent.state_dict())
    written += [f"batch.{n}" for n, a, b in zip(Batch._fields, batch, kept, strict=True) if not same_bits(a, b)]
    yield holds_but_for(
        _changed(first, again), "computing gradients twice is bit-equal", "changed: gradients add up, or state is kept"
    )
    yield holds_but_for(written, "computing gradients writes nothing", "written")

    # Three times, not twice: halving is exact in any precision, and would not show a float32 on the way.
    tripled = agent_gradients(source, agent, Batch(*(np.concatenate([array] * 3) for array in batch)))
    errors = {}
    for name, gradient in first.items():
        expected = np.concatenate([gradient] * 3) if name.startswith("dq_") else gradient
        errors[name] = difference(tripled[name], expected)
    wrong, worst = [name for name, error in errors.items() if error > SAME], max(errors.values())
    cause = "a sum for a mean, or 1/N twice" if worst > 1e-3 else "float32 on the way"
    yield holds_but_for(wrong, "a tripled batch has the same gradient", f"off by {worst:.0e}: {cause}")

    n = len(batch.obs)
    if n > 1:
        rng = np.random.default_rng(0)
        other = batch._replace(obs=batch.obs.copy())
        other.obs[-1] = rng.standard_normal(agent.obs_dim)
        moved = agent_gradients(source, agent, other)
        wrong = [k for k in ("dq_dact", "dq_dobs") if difference(moved[k][: n - 1], first[k][: n - 1]) > SAME]
        yield holds_but_for(
            wrong,
            "row i of dQ/da depends on row i only",
            "does not: rows are mixed, by a broadcast or by batch statistics",
        )


def _backwards(source: Source, agent: Any, batch: Batch) -> Iterator[Check]:
    """Zero and linear in upstream, and the four backwards agree."""
    rng, net = np.random.default_rng(0), source.networks
    not_zero, differ, written = [], [], []
    combined, at_first, at_second = {}, {}, {}
    none = np.empty((len(batch.obs), 0))
    for name in ONLINE:
        network = getattr(agent, name)
        cache = net.forward(network, batch.obs, batch.act if name == "critic" else none)
        out = network.layout[-1, net.FAN_IN]
        first, second = rng.standard_normal((2, len(batch.obs), out))
        ways = ("to_weights", "to_obs", "to_action") if name == "critic" else ("to_weights", "to_obs")
        kept, seed = cache.copy(), first.copy()
        both = dict(zip(("to_weights", "to_obs", "to_action"), net.backward(network, seed, cache), strict=True))
        for way in ways:
            getattr(net, f"backward_{way}")(network, seed, cache)
        if not same_bits(cache, kept) or not same_bits(seed, first):
            written.append(name)
        for way in ways:
            backward = partial(_run, getattr(net, f"backward_{way}"), network, kept)
            if np.any(backward(0 * first)):
                not_zero.append(f"{name} {way}")
            a, b = backward(first), backward(second)
            key = f"{name} {way}"
            combined[key], at_first[key], at_second[key] = backward(2 * first - 3 * second), a, b
            if difference(both[way], a) > SAME:
                differ.append(f"{name} {way}")
    yield holds_but_for(written, "backward writes neither upstream nor what forward kept", "written")
    yield holds_but_for(not_zero, "zero upstream gives zero gradients", "not")
    yield linear(combined, at_first, at_second)
    yield holds_but_for(differ, "backward equals its parts, to weights, to obs, to action", "differ")


def _run(backward: Callable[..., Any], network: Any, cache: Any, dz: Any) -> Any:
    return backward(network, dz.copy(), cache.copy())


# --- the update -------------------------------------------------------------------------------------------------------


def _memory(source: Source, agent: Any, batch: Batch) -> Check:
    arrays = {name: getattr(agent, name).params for name in ("actor", "critic", "target_actor", "target_critic")}
    names = list(arrays)
    shared = [f"{a} and {b}" for i, a in enumerate(names) for b in names[:i] if np.shares_memory(arrays[a], arrays[b])]
    return holds_but_for(shared, "the four networks share no memory", "are one")


def _terminated(source: Source, agent: Any, batch: Batch) -> Check:
    """y = r where the episode terminated, and r + gamma Q'(s', mu'(s')) of the target networks elsewhere."""
    clone, algorithm = _clone(source, agent), source.ddpg
    half = batch._replace(terminated=np.arange(len(batch.rew)) % 2 == 0)
    y = algorithm.bellman_target(clone.target_actor, clone.target_critic, half, agent.config.gamma)
    act, _ = algorithm.actor_forward(clone.target_actor, half.next_obs)
    next_q, _ = algorithm.critic_forward(clone.target_critic, half.next_obs, act)
    expected = half.rew + agent.config.gamma * np.where(half.terminated, 0, next_q)
    over = half.terminated
    wrong = [
        name
        for name, rows in (("y of terminated rows", over), ("y of the other rows", ~over))
        if difference(y[rows], expected[rows]) > SAME
    ]
    return holds_but_for(wrong, "terminated stops the bootstrap, and nothing else does", "wrong")


def _steps(source: Source, agent: Any, batch: Batch, step: str, name: str) -> Check:
    """A step moves its own network by the gradient that was checked, once, and touches nothing else."""
    clone = _clone(source, agent)
    before = clone.state_dict()
    gradients = agent_gradients(source, clone, batch)
    gradient = np.concatenate([g.ravel() for key, g in gradients.items() if key.startswith(f"{name}.")])
    getattr(source.ddpg, step)(clone.learner, batch, clone.rates)
    after = clone.state_dict()
    allowed = (f"{name}.", f"{name}_adam.")
    wrong = [f"{key} (written)" for key in _changed(before, after) if not key.startswith(allowed)]
    m = f"{name}_adam.m"
    if difference(after[m], BETA1 * before[m] + (1 - BETA1) * gradient) > SAME:
        wrong.append(f"the gradient given to {name}_adam (another one)")
    if after[f"{name}_adam.t"][0] != before[f"{name}_adam.t"][0] + 1:
        wrong.append(f"{name}_adam (not stepped once)")
    if np.any(gradient) and not any(key.startswith(f"{name}.") for key in _changed(before, after)):
        wrong.append(f"{name} (not moved)")
    return holds_but_for(wrong, f"{step} moves the {name} alone, once, by its gradient", "")


def _critic_step(source: Source, agent: Any, batch: Batch) -> Check:
    return _steps(source, agent, batch, "critic_step", "critic")


def _actor_step(source: Source, agent: Any, batch: Batch) -> Check:
    return _steps(source, agent, batch, "actor_step", "actor")


def _replayed_action(source: Source, agent: Any, batch: Batch) -> Check:
    """The actor step asks the critic about mu(s): what was replayed cannot matter."""
    moved = []
    for act in (batch.act, -batch.act[::-1]):
        clone = _clone(source, agent)
        source.ddpg.actor_step(clone.learner, batch._replace(act=np.ascontiguousarray(act)), clone.rates)
        moved.append(clone.actor.params)
    same = same_bits(*moved)
    return Check("the actor step does not look at the replayed action", same, "" if same else "it does")


def _climbs(source: Source, agent: Any, batch: Batch) -> Check:
    """A small step down the gradient of -mean Q raises mean Q by step |g|^2."""
    name = "a small step along the actor's gradient raises mean Q by lr |g|^2"
    clone, algorithm = _clone(source, agent), source.ddpg

    def q() -> Any:
        act, _ = algorithm.actor_forward(clone.actor, batch.obs)
        return algorithm.critic_forward(clone.critic, batch.obs, act)[0]

    dtheta, _, _ = algorithm.actor_gradient(clone.actor, clone.critic, batch.obs)
    length = float(np.linalg.norm(dtheta))
    if length == 0:
        return Check(name, True, "the gradient is zero here")
    ratios, before = [], q()
    for step in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        lr = step / length
        if lr * length**2 > 1e4 * EPS * float(np.mean(np.abs(before))):  # or rounding hides it
            clone.actor.params[:] -= lr * dtheta
            ratios.append(float(np.mean(q() - before)) / (lr * length**2))
            clone.actor.params[:] += lr * dtheta
    if not ratios:
        return Check(name, True, "not made: the gradient is too small to be seen in Q")
    nearest = min(ratios, key=lambda ratio: abs(ratio - 1))
    right = abs(nearest - 1) < 0.1
    return Check(name, right, "" if right else f"it changes it by {nearest:.3g} of that")


def _update(source: Source, agent: Any, batch: Batch) -> Check:
    """An update is the critic step, the actor step through that critic, then Polyak averaging of both targets."""
    whole, parts = _clone(source, agent), _clone(source, agent)
    rates, indices = whole.rates, np.arange(len(batch.rew))
    before = whole.state_dict()
    source.ddpg.update(whole.learner, batch, indices, rates)
    source.ddpg.critic_step(parts.learner, batch, rates)
    source.ddpg.actor_step(parts.learner, batch, rates)
    after, expected = whole.state_dict(), parts.state_dict()
    wrong = []
    for name in ONLINE:
        keys = [key for key in after if key.startswith((f"{name}.", f"{name}_adam."))]
        if any(difference(after[key], expected[key]) > SAME for key in keys):
            wrong.append(f"{name} (not as after its step in this order)")
        for key in [key for key in after if key.startswith(f"target_{name}.")]:
            move = agent.config.tau * (after[key.removeprefix("target_")] - before[key])
            rounding = SAME * np.linalg.norm(before[key]) + 1e-8 * np.linalg.norm(move)
            if np.linalg.norm(after[key] - before[key] - move) > rounding:
                wrong.append(f"{key} (not moved by tau of the way)")
    return holds_but_for(wrong, "update = critic step, actor step through it, targets by tau", "")
