"""What must hold of an agent's update beyond its gradients' values: what is written, in which order, by whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..network_options import STATISTICS_SHARE, OptionNetwork, mixes_rows, named_statistics
from ..networks import Network, named_parameters
from ..optim import BETA1
from ..replay import Batch
from .differences import EPS
from .report import Check
from .structure import SAME, difference, holds_but_for, linear, same_bits

RUNNING = (".mean", ".var")  # statistics, which an update of the algorithm leaves alone
State = dict[str, npt.NDArray[Any]]


class Source(NamedTuple):
    """minddpg's modules of these names, or a copy with a bug planted in it (see planted.py)."""

    ddpg: Any
    td3: Any
    networks: Any
    agent: Any

    def algorithm(self, agent: Any) -> Any:
        """The module of the agent's algorithm."""
        return self.td3 if agent.config.algorithm == "td3" else self.ddpg


def critics(agent: Any) -> tuple[str, ...]:
    """The names of the agent's critics; dQ/da comes from the first."""
    return ("critic", "critic2") if agent.config.algorithm == "td3" else ("critic",)


def online(agent: Any) -> tuple[str, ...]:
    """The names of the networks that optimisers move."""
    return ("actor", *critics(agent))


def drawn(agent: Any, batch: Batch) -> tuple[Any, ...]:
    """What an update draws, as its last arguments: nothing, or TD3's noise on the target's actions.

    Here it follows from the transition, so that a transition has the same in every batch.
    """
    if agent.config.algorithm != "td3":
        return ()
    ways = np.random.default_rng(0).standard_normal((agent.obs_dim, agent.act_dim))
    return ((1.4 * np.sin(100 * (batch.next_obs @ ways))).astype(agent.config.dtype),)


def agent_gradients(source: Source, agent: Any, batch: Batch) -> dict[str, npt.NDArray[Any]]:
    """The gradients under test, by name."""
    algorithm = source.algorithm(agent)
    target_q = bellman(source, agent, batch)
    decay = agent.config.critic_weight_decay
    found: dict[str, npt.NDArray[Any]] = {}
    for name in critics(agent):
        critic = getattr(agent.learner, name)
        _, dcritic, _ = algorithm.critic_gradient(critic, batch.obs, batch.act, target_q, decay)
        found |= named(name, critic._replace(params=dcritic))
    act, _ = algorithm.actor_forward(agent.actor, batch.obs)
    q, cache = algorithm.critic_forward(agent.critic, batch.obs, act)
    ones = np.ones((len(q), 1), q.dtype)
    dtheta, _, _ = algorithm.actor_gradient(agent.actor, agent.critic, batch.obs)
    return {
        **found,
        "dq_dact": algorithm.backward_to_action(agent.critic, ones, cache),
        "dq_dobs": source.networks.backward_to_obs(agent.critic, ones, cache),
        **named("actor", agent.actor._replace(params=dtheta)),
    }


def bellman(source: Source, agent: Any, batch: Batch) -> Any:
    """The critic's target y (N,), which is data: no gradient flows through it."""
    return _target(source, agent, batch, *drawn(agent, batch))


def _target(source: Source, agent: Any, batch: Batch, *noise: Any) -> Any:
    learner = agent.learner
    if noise:
        targets = learner.target_actor, learner.target_critic, learner.target_critic2
        return source.td3.bellman_target(*targets, batch, agent.rates, *noise)
    return source.ddpg.bellman_target(learner.target_actor, learner.target_critic, batch, agent.config.gamma)


def named(prefix: str, network: Any) -> dict[str, npt.NDArray[Any]]:
    """Views of a network's parameters, as "prefix.0.weight"."""
    return {f"{prefix}.{name}": view for name, view in named_parameters(own(network)).items()}


def own(network: Any) -> Any:
    """A network of `source` as one of minddpg's, on the same parameters."""
    return Network(*network) if len(network) == len(Network._fields) else OptionNetwork(*network)


def check_agent_structure(source: Source, agent: Any, batch: Batch) -> list[Check]:
    """The structural checks of check_agent. agent: in float64, of the modules in `source`; left as it was."""
    checks = [*_gradients(source, agent, batch), *_backwards(source, agent, batch)]
    options: list[Callable[[Source, Any, Batch], Check]] = []
    if agent.config.normalisation == "batch":
        options += [_statistics, _in_use]
    if agent.config.algorithm == "td3":
        options += [_smaller, _smoothed, _first_critic, _delayed]
    for check in (_memory, _terminated, _critic_step, _actor_step, _replayed_action, _climbs, _update, *options):
        checks.append(check(source, agent, batch))
    return checks


def _clone(source: Source, agent: Any) -> Any:
    """A copy whose target networks stand apart from the online ones, so that it shows which of them is used."""
    clone, rng = source.agent.DDPG(agent.obs_dim, agent.act_dim, agent.config), np.random.default_rng(0)
    state = agent.state_dict()
    for name in state:
        if name.startswith("target_"):
            state[name] = state[name] + 0.1 * rng.standard_normal(state[name].shape)
        if name.endswith(".var"):
            state[name] = np.abs(state[name])
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
    if n > 1 and mixes_rows(own(agent.critic)):
        yield Check("row i of dQ/da depends on row i only", True, "not made: batch statistics mix rows")
    elif n > 1:
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
    for name in ("actor", "critic"):
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
    names = [prefix + name for prefix in ("", "target_") for name in online(agent)]
    arrays = {name: getattr(agent.learner, name).params for name in names}
    shared = [f"{a} and {b}" for i, a in enumerate(names) for b in names[:i] if np.shares_memory(arrays[a], arrays[b])]
    return holds_but_for(shared, f"the {'six' if len(names) == 6 else 'four'} networks share no memory", "are one")


def _terminated(source: Source, agent: Any, batch: Batch) -> Check:
    """y = r where the episode terminated, and r + gamma Q'(s', mu'(s')) of the target networks elsewhere."""
    clone = _clone(source, agent)
    over = np.arange(len(batch.rew)) % 2 == 0
    half, next_q = batch._replace(terminated=over), _next_q(source, clone, batch)
    y = bellman(source, clone, half)
    expected = half.rew + agent.config.gamma * np.where(over, 0, next_q.min(axis=0))
    wrong = [
        name
        for name, rows in (("y of terminated rows", over), ("y of the other rows", ~over))
        if difference(y[rows], expected[rows]) > SAME
    ]
    expected = batch.rew + agent.config.gamma * (1 - batch.terminated) * next_q.min(axis=0)
    if difference(bellman(source, clone, batch), expected) > SAME:
        wrong.append("y of the batch")
    return holds_but_for(wrong, "terminated stops the bootstrap, and nothing else does", "wrong")


def _next_q(source: Source, agent: Any, batch: Batch) -> Any:
    """Q' of the target critics at the target actor's (for TD3: smoothed) action.    -> (critics, N)"""
    learner, algorithm, config = agent.learner, source.algorithm(agent), agent.config
    act, _ = algorithm.actor_forward(learner.target_actor, batch.next_obs)
    for noise in drawn(agent, batch):
        most = config.target_noise_clip
        act = np.clip(act + np.clip(config.target_noise_std * noise, -most, most), -1, 1)
    names = [f"target_{name}" for name in critics(agent)]
    return np.stack([algorithm.critic_forward(getattr(learner, name), batch.next_obs, act)[0] for name in names])


def _steps(source: Source, agent: Any, batch: Batch, step: str, names: tuple[str, ...], *noise: Any) -> Check:
    """A step moves its own networks by the gradients that were checked, once, and touches nothing else."""
    clone = _clone(source, agent)
    before = clone.state_dict()
    gradients = agent_gradients(source, clone, batch)
    getattr(source.algorithm(agent), step)(clone.learner, batch, clone.rates, *noise)
    after = clone.state_dict()
    allowed = tuple(start for name in names for start in (f"{name}.", f"{name}_adam."))
    wrong = [f"{key} (written)" for key in _changed(before, after) if not key.startswith(allowed)]
    for name in names:
        gradient, m = flat(gradients, name), f"{name}_adam.m"
        if agent.config.max_grad_norm is not None and np.any(gradient):
            gradient = gradient * min(1.0, agent.config.max_grad_norm / float(np.linalg.norm(gradient)))
        if difference(after[m], BETA1 * before[m] + (1 - BETA1) * gradient) > SAME:
            wrong.append(f"the gradient given to {name}_adam (another one)")
        if after[f"{name}_adam.t"][0] != before[f"{name}_adam.t"][0] + 1:
            wrong.append(f"{name}_adam (not stepped once)")
        if np.any(gradient) and not any(key.startswith(f"{name}.") for key in _changed(before, after)):
            wrong.append(f"{name} (not moved)")
    alone = f"the {names[0]} alone" if len(names) == 1 else "both critics alone"
    return holds_but_for(wrong, f"{step} moves {alone}, once, by its gradient", "")


def flat(gradients: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    """All gradients of one network as one vector, laid out like its parameters."""
    return np.concatenate([gradient.ravel() for key, gradient in gradients.items() if key.startswith(f"{name}.")])


def _critic_step(source: Source, agent: Any, batch: Batch) -> Check:
    return _steps(source, agent, batch, "critic_step", critics(agent), *drawn(agent, batch))


def _actor_step(source: Source, agent: Any, batch: Batch) -> Check:
    return _steps(source, agent, batch, "actor_step", ("actor",))


def _replayed_action(source: Source, agent: Any, batch: Batch) -> Check:
    """The actor step asks the critic about mu(s): what was replayed cannot matter."""
    moved = []
    for act in (batch.act, -batch.act[::-1]):
        clone = _clone(source, agent)
        replayed = batch._replace(act=np.ascontiguousarray(act))
        source.algorithm(agent).actor_step(clone.learner, replayed, clone.rates)
        moved.append(clone.actor.params)
    same = same_bits(*moved)
    return Check("the actor step does not look at the replayed action", same, "" if same else "it does")


def _climbs(source: Source, agent: Any, batch: Batch) -> Check:
    """A small step down the gradient of -mean Q raises mean Q by step |g|^2.

    Where g is inverted at the bounds, by step (g . the gradient itself).
    """
    inverting = agent.config.invert_gradients
    name = f"a small step along the actor's gradient raises mean Q by lr {'g . dJ' if inverting else '|g|^2'}"
    clone, algorithm = _clone(source, agent), source.algorithm(agent)

    def q() -> Any:
        act, _ = algorithm.actor_forward(clone.actor, batch.obs)
        return algorithm.critic_forward(clone.critic, batch.obs, act)[0]

    dtheta, dact, _ = algorithm.actor_gradient(clone.actor, clone.critic, batch.obs)
    length = float(np.linalg.norm(dtheta))
    if length == 0:
        return Check(name, True, "the gradient is zero here")
    slope = length
    if inverting:
        _, cache = algorithm.actor_forward(clone.actor, batch.obs)
        slope = float(dtheta @ source.networks.backward_to_weights(clone.actor, dact, cache)) / length
    ratios, before = [], q()
    for step in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        lr = step / length
        if abs(step * slope) > 1e4 * EPS * float(np.mean(np.abs(before))):  # or rounding hides it
            clone.actor.params[:] -= lr * dtheta
            ratios.append(float(np.mean(q() - before)) / (step * slope))
            clone.actor.params[:] += lr * dtheta
    if not ratios:
        return Check(name, True, "not made: the gradient is too small to be seen in Q")
    nearest = min(ratios, key=lambda ratio: abs(ratio - 1))
    right = abs(nearest - 1) < 0.1
    return Check(name, right, "" if right else f"it changes it by {nearest:.3g} of that")


def _update(source: Source, agent: Any, batch: Batch) -> Check:
    """An update is the critic step, the actor step through that critic, then Polyak averaging of both targets."""
    whole, parts = _clone(source, agent), _clone(source, agent)
    algorithm, noise = source.algorithm(agent), drawn(agent, batch)
    if noise:
        for clone in (whole, parts):  # the next update is one at which a delayed policy moves
            clone.learner.critic_adam.t[0] = agent.config.policy_delay - 1
    rates, indices = whole.rates, np.arange(len(batch.rew))
    before = whole.state_dict()
    algorithm.update(whole.learner, batch, indices, rates, *noise)
    algorithm.critic_step(parts.learner, batch, rates, *noise)
    algorithm.actor_step(parts.learner, batch, rates)
    after, expected = whole.state_dict(), parts.state_dict()
    wrong = []
    for name in online(agent):
        keys = [key for key in after if key.startswith((f"{name}.", f"{name}_adam."))]
        if any(difference(after[key], expected[key]) > SAME for key in keys):
            wrong.append(f"{name} (not as after its step in this order)")
        for key in [key for key in after if key.startswith(f"target_{name}.") and not key.endswith(RUNNING)]:
            move = agent.config.tau * (after[key.removeprefix("target_")] - before[key])
            rounding = SAME * np.linalg.norm(before[key]) + 1e-8 * np.linalg.norm(move)
            if np.linalg.norm(after[key] - before[key] - move) > rounding:
                wrong.append(f"{key} (not moved by tau of the way)")
    return holds_but_for(wrong, "update = critic step, actor step through it, targets by tau", "")


# --- batch normalisation ----------------------------------------------------------------------------------------------


def _statistics(source: Source, agent: Any, batch: Batch) -> Check:
    """An update moves running statistics by a share towards the batch's, and the targets' by tau towards those."""
    clone, wrong = _clone(source, agent), []
    clone.learner.critic_adam.t[0] = agent.config.policy_delay - 1  # of TD3: an update at which targets move
    before = clone.state_dict()
    clone.update(batch)
    after = clone.state_dict()
    for name in online(agent):
        network = own(getattr(clone.learner, name))
        z = named_statistics(network._replace(running=_batch_statistics(network, clone.checked(batch))))
        for key, own_of_batch in z.items():
            mine, target = f"{name}.{key}", f"target_{name}.{key}"
            expected = before[mine] + STATISTICS_SHARE * (own_of_batch - before[mine])
            if difference(after[mine], expected) > SAME:
                wrong.append(mine)
            if difference(after[target], before[target] + agent.config.tau * (after[mine] - before[target])) > SAME:
                wrong.append(target)
    return holds_but_for(wrong, "an update takes its batch into the running statistics, targets follow", "wrong")


def _batch_statistics(network: Any, batch: Batch) -> npt.NDArray[Any]:
    """Of every site, laid out like network.running. In plain NumPy, layer by layer."""
    running, h = network.running.copy(), batch.obs
    named_weights = named_parameters(network)
    for level, (width, _, start, _) in enumerate(network.sites.tolist()):
        if not width:
            break
        z = h if level == 0 else h @ named_weights[f"{level - 1}.weight"] + named_weights[f"{level - 1}.bias"]
        mean, var = z.mean(axis=0), z.var(axis=0)
        running[start : start + 2 * width] = np.concatenate([mean, var])
        site = "obs" if level == 0 else str(level - 1)
        y = named_weights[f"{site}.gamma"] * (z - mean) / np.sqrt(var + 1e-5) + named_weights[f"{site}.beta"]
        h = y if level == 0 else np.tanh(y) if network.tanh else np.maximum(y, 0)
    return running


def _in_use(source: Source, agent: Any, batch: Batch) -> Check:
    """Networks that learn use the batch's statistics; targets, and the policy that acts, their running ones."""
    clone = _clone(source, agent)
    wrong = [name for name in online(agent) if not getattr(clone.learner, name).training]
    wrong += [f"target_{name}" for name in online(agent) if getattr(clone.learner, f"target_{name}").training]
    act, _ = source.algorithm(agent).actor_forward(clone.learner.actor._replace(training=False), batch.obs)
    acted = clone.act(batch.obs)
    if difference(acted, np.clip(act, -1, 1)) > SAME:
        wrong.append("act")
    alone = np.stack([clone.act(obs) for obs in batch.obs])
    if difference(alone, acted) > 1e3 * SAME:
        wrong.append("act, of one observation")
    return holds_but_for(wrong, "batch statistics where it learns, running ones where it acts", "the other ones")


# --- TD3's three changes ----------------------------------------------------------------------------------------------


def _smaller(source: Source, agent: Any, batch: Batch) -> Check:
    """Where each critic is the smaller one in some rows, y follows the smaller."""
    clone = _clone(source, agent)
    first, second = _next_q(source, clone, batch)
    between = float(np.median(first - second))  # now half of the rows have the other one as the smaller
    bias = named_parameters(own(clone.learner.target_critic2))[f"{len(clone.config.hidden_sizes)}.bias"]
    bias += between
    alive = batch._replace(terminated=np.zeros(len(batch.rew), bool))
    y, expected = bellman(source, clone, alive), _next_q(source, clone, batch).min(axis=0)
    right = difference(y, alive.rew + agent.config.gamma * expected) <= SAME
    return Check("y is made with the smaller of both target critics", right, "" if right else "it is not")


def _smoothed(source: Source, agent: Any, batch: Batch) -> Check:
    """Noise counts up to its clip and no further, and never leads out of [-1, 1]."""
    clone, wrong = _clone(source, agent), []
    alive = batch._replace(terminated=np.zeros(len(batch.rew), bool))
    algorithm, learner, rates = source.td3, clone.learner, clone.rates
    targets = learner.target_actor, learner.target_critic, learner.target_critic2
    act, _ = algorithm.actor_forward(learner.target_actor, batch.next_obs)
    signs = np.where(np.arange(act.size).reshape(act.shape) % 2, 1.0, -1.0)
    for size, push in ((0.0, 0.0), (0.3, 0.3), (50.0, 0.6)):
        changed = rates._replace(target_noise_std=1.0, target_noise_clip=0.6)
        y = algorithm.bellman_target(*targets, alive, changed, size * signs)
        smoothed = np.clip(act + push * signs, -1, 1)
        next_q = [algorithm.critic_forward(critic, batch.next_obs, smoothed)[0] for critic in targets[1:]]
        if difference(y, alive.rew + agent.config.gamma * np.minimum(*next_q)) > SAME:
            wrong.append(f"noise of {size:g} with a clip of 0.6")
    return holds_but_for(wrong, "the target's action is mu' with clipped noise, within [-1, 1]", "is not so")


def _first_critic(source: Source, agent: Any, batch: Batch) -> Check:
    """dQ/da comes from the first critic: the second may be anything."""
    moved = []
    for scale in (1.0, -2.0):
        clone = _clone(source, agent)
        clone.learner.critic2.params[:] *= scale
        source.td3.actor_step(clone.learner, batch, clone.rates)
        moved.append(clone.actor.params)
    same = same_bits(*moved)
    return Check("dQ/da comes from the first critic", same, "" if same else "the second one matters")


def _delayed(source: Source, agent: Any, batch: Batch) -> Check:
    """Actor and targets move at every policy_delay-th update and at no other."""
    clone, wrong, noise = _clone(source, agent), [], drawn(agent, batch)
    delay, indices = 3, np.arange(len(batch.rew))
    clone.learner.critic_adam.t[0] = 0
    gradient = flat(agent_gradients(source, clone, batch), "actor")
    for number in range(1, 2 * delay + 1):
        before = clone.state_dict()
        source.td3.update(clone.learner, batch, indices, clone.rates._replace(policy_delay=delay), *noise)
        slow = [key for key in _changed(before, clone.state_dict()) if key.startswith(("actor", "target_"))]
        if bool(slow) != (number % delay == 0) and (slow or np.any(gradient)):
            wrong.append(f"update {number}")
    return holds_but_for(wrong, "actor and targets move at every policy_delay-th update alone", "wrong")
