"""What can be read off an update: numbers, and what is visibly wrong with the gradient's way, with cause and remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from .. import td3
from ..ddpg import Learner
from ..fast.jit import FloatArray
from ..network_options import has_kinks
from ..networks import PARAMS_START, Network, action_rows, named_parameters
from .story import factor, percent, place, way_of
from .way import Look, norm, rms

Statistics = dict[str, float]

SATURATED = 0.99  # |act| beyond which tanh' is below 0.02
BLOCKED = 1e-3  # mean tanh' below which an actor no longer learns
BLIND = 1e-5  # RMS of dQ/da over the spread of Q below which the critic ignores the action
BEYOND = 0.1  # share of the interval of possible values by which Q may leave it
FRESH_Q = 1.0  # |Q| that a network may say before it has learnt anything, for observations of RMS 1
VANISHED = 1e-5  # from below the tanh to the actor's first layer; a final_init of 0.003 begins with 5e-4
FADED = 0.02  # of a network's hidden layers together; two begin with 0.3, six of 32 units with 0.006
EXPLODED = 1e4  # of either; trained agents reach 100
TINY_OBS, LARGE_OBS = 1e-3, 10.0  # RMS
LARGE_ERROR = 1e3  # median |Q - y| above which rewards are large
SWITCHING, AGREED = 0.3, 0.5  # share of saturated actions that makes a policy bang-bang; of those, held at most


def statistics(learner: Learner | td3.Learner, seen: Look, rewards: tuple[float, float], gamma: float) -> Statistics:
    """What a look at one update says, by name: a row of gradients.csv.

    dq_dact_rms: RMS of dQ/da at mu(s). tanh_slope: mean of tanh' = 1 - act^2. saturated: share of |act| > 0.99; held:
    share of those that dQ/da would take back inside. q_*: of Q at the replayed actions; td_*: quantiles of Q - y.
    rew_low, rew_high: `rewards`; possible_low, possible_high: between which values Q must then lie (see `possible`).
    Per network: distance, |theta - theta'| / |theta|. Per layer: RMS of its weights and biases together and of their
    gradient, and Adam's step as a share of them; dead, the share of units that are 0 for the whole batch at mu(s), and
    shut, the share of all its outputs that are 0, in the critic after its step. action.weight_rms: of the critic's
    weights that meet the action. rms.*: RMS of each array on the actor's way (see way.py). With options also: room, the
    mean of what inverted gradients put in the place of tanh'; of a layer, slope, the mean tanh' of its units, and
    gamma_rms, of what it is normalised to.
    """
    with np.errstate(all="ignore"):  # an agent that diverges is told by its numbers
        return _statistics(learner, seen, rewards, gamma)


def _statistics(learner: Learner | td3.Learner, seen: Look, rewards: tuple[float, float], gamma: float) -> Statistics:
    arrays = {passed.name: passed.array for passed in seen.passed}
    act, q = arrays["act"], seen.q.astype(np.float64)
    error = q - seen.target_q
    low, high = possible(rewards, gamma)
    beyond = np.abs(act) > SATURATED
    td_10, td_50, td_90 = np.quantile(error, (0.1, 0.5, 0.9)).tolist()
    row = {
        "dq_dact_rms": rms(arrays["dq_dact"]),
        "tanh_slope": 1 - float(np.mean(act * act)),
        "saturated": float(np.mean(beyond)),
        "held": float(np.mean((act * arrays["dq_dact"] < 0)[beyond])) if beyond.any() else 0.0,
        "q_mean": float(q.mean()),
        "q_std": float(q.std()),
        "q_low": float(q.min()),
        "q_high": float(q.max()),
        "rew_low": rewards[0],
        "rew_high": rewards[1],
        "possible_low": low,
        "possible_high": high,
        "td_10": td_10,
        "td_50": td_50,
        "td_90": td_90,
    }
    dtheta = learner.actor._replace(params=seen.passed[-1].array)
    for name, network, target, gradient, step in (
        ("actor", learner.actor, learner.target_actor, dtheta, seen.actor_step),
        ("critic", learner.critic, learner.target_critic, seen.dcritic, seen.critic_step),
    ):
        row[f"{name}.distance"] = _share(norm(network.params - target.params), norm(network.params))
        for layer in range(len(network.layout) - 1):
            size = rms(_layer(network, layer))
            row[f"{name}.{layer}.weight_rms"] = size
            row[f"{name}.{layer}.gradient_rms"] = rms(_layer(gradient, layer))
            row[f"{name}.{layer}.step_share"] = _share(rms(_layer(step, layer)), size)
            if layer < len(network.layout) - 2:
                h = arrays[f"{name}.{layer}.h"]
                row[f"{name}.{layer}.dead"] = 1 - float(np.mean(h.any(axis=0)))
                row[f"{name}.{layer}.shut"] = float(1 - np.count_nonzero(h) / h.size)
                if not has_kinks(network):
                    row[f"{name}.{layer}.slope"] = 1 - float(np.mean(h * h))
                parameters = named_parameters(network)
                if f"{layer}.gamma" in parameters:
                    row[f"{name}.{layer}.gamma_rms"] = rms(parameters[f"{layer}.gamma"])
    row["action.weight_rms"] = rms(action_rows(seen.critic))
    if getattr(learner.actor, "unbounded", False):
        room = np.where(arrays["dq_dact"] > 0, 1 - act, 1 + act)  # to the bound that dQ/da pushes towards
        row["room"] = float(np.mean(np.abs(room))) / 2
    row |= {f"rms.{name}": rms(array) for name, array in arrays.items()}
    return row


def possible(rewards: tuple[float, float], gamma: float) -> tuple[float, float]:
    """Between which values Q must lie if no reward leaves [r_min, r_max]: r_min / (1 - gamma), r_max / (1 - gamma).

    Zero is always possible: an episode may end.
    """
    return min(0.0, rewards[0]) / (1 - gamma), max(0.0, rewards[1]) / (1 - gamma)


def _layer(network: Network, layer: int) -> FloatArray:
    """A layer's weights and biases, as one vector."""
    return network.params[network.layout[layer, PARAMS_START] : network.layout[layer + 1, PARAMS_START]]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


class Diagnosis(NamedTuple):
    """Something visibly wrong. name: of the condition. what: seen, with its cause. remedy: what to do."""

    name: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def diagnose(row: Mapping[str, float]) -> list[Diagnosis]:
    """What is wrong, by a row of `statistics`; nothing for a healthy agent. A cause hides what only follows from it."""
    if not all(math.isfinite(row[name]) for name in ("q_low", "q_high", "dq_dact_rms", "tanh_slope")):
        what = f"Q from {row['q_low']:.3g} to {row['q_high']:.3g}, RMS of dQ/da {row['dq_dact_rms']:.3g}: not finite"
        return [Diagnosis("not finite", what, "lower critic_lr and actor_lr, or scale rewards and observations")]
    obs = row["rms.obs"]
    if 0 < obs < TINY_OBS:
        what = f"the observations have RMS {obs:.1e}: the networks hardly see them, and do the same in every state"
        return [Diagnosis("tiny observations", what, f"multiply the observations by about {1 / obs:.0e}")]
    found = []
    scale = f"divide the observations, which have RMS {obs:.3g}, by about that"
    dead = {name: _dead_layer(row, name) for name in ("actor", "critic")}
    for name, layer in dead.items():
        if layer is not None:
            found.append(
                Diagnosis(
                    f"dead {name}",
                    f"every unit of the {name}'s layer {layer} is 0 for the whole batch: no gradient passes its ReLUs",
                    scale if obs > LARGE_OBS else f"start again with a lower {name}_lr",
                )
            )
    if row["tanh_slope"] < BLOCKED and "room" not in row:  # inverted gradients come back from the bounds
        found.append(
            Diagnosis(
                "saturated",
                f"the actor is saturated: {percent(row['saturated'])} of its actions are beyond 0.99, tanh' lets "
                f"{row['tanh_slope']:.1e} of dQ/da through, and {percent(row['held'])} of "
                "them would follow it back inside and cannot",
                scale if obs > LARGE_OBS else "lower actor_lr, or set final_init to 0.003",
            )
        )
    if not any(layer is not None for layer in dead.values()):
        found += _along_the_way(row)
    if dead["critic"] is None and row["dq_dact_rms"] <= BLIND * row["q_std"]:
        found.append(
            Diagnosis(
                "action-blind",
                f"the critic ignores the action: dQ/da has RMS {row['dq_dact_rms']:.1e}, Q a spread of "
                f"{row['q_std']:.1e}, so the actor learns nothing",
                "explore more (noise_std, learning_starts), or lower critic_lr",
            )
        )
    error, largest = abs(row["td_50"]), max(abs(row["q_low"]), abs(row["q_high"]))
    if error > max(LARGE_ERROR, largest):
        found.append(
            Diagnosis(
                "large rewards",
                f"Q is off by {error:.2g} (the median) and nowhere larger than {largest:.2g}: Adam moves a weight by "
                "critic_lr at most per update, whatever the error, so Q will not get there",
                f"divide the rewards by about {error:.0e}",
            )
        )
    slack = max(BEYOND * (row["possible_high"] - row["possible_low"]), FRESH_Q * max(1.0, obs))
    if row["q_high"] > row["possible_high"] + slack or row["q_low"] < row["possible_low"] - slack:
        found.append(
            Diagnosis(
                "impossible Q",
                f"Q reaches from {row['q_low']:.3g} to {row['q_high']:.3g}, but rewards seen allow only "
                f"{row['possible_low']:.3g} to {row['possible_high']:.3g} (r / (1 - gamma)): the critic diverges",
                "lower critic_lr, tau or gamma, or scale the rewards",
            )
        )
    return found


def _along_the_way(row: Mapping[str, float]) -> Iterator[Diagnosis]:
    """A gradient that vanishes or explodes between the layers; at the tanh it may, that is another diagnosis."""
    for network in ("critic", "actor"):
        way = [name for name in way_of(row) if name.startswith(f"{network}.") and name.endswith((".dz", ".dh"))]
        hidden = [name for name in way if f"rms.{network}.{name.split('.')[1]}.dh" in row]
        if not hidden:
            continue
        through = factor(row[f"rms.{hidden[0]}"], row[f"rms.{hidden[-1]}"])
        whole = factor(row[f"rms.{way[0]}"], row[f"rms.{way[-1]}"]) if network == "actor" else through
        layers = f"the {network}'s {len(hidden) // 2} hidden layers"
        if whole < VANISHED and through >= FADED:
            where, why = place(hidden[0], row)
            yield Diagnosis(
                "vanishing gradient",
                f"the gradient vanishes in the actor: x {whole:.1e} from below the tanh to its first layer, most of it "
                f"at {where} ({why})",
                "set final_init to 0.003, or leave it out",
            )
        elif through < FADED:
            yield Diagnosis(
                "vanishing gradient",
                f"the gradient vanishes layer by layer: x {through:.1e} through {layers}",
                "use fewer layers (hidden_sizes), or wider ones",
            )
        elif max(whole, through) > EXPLODED:
            yield Diagnosis(
                "exploding gradient",
                f"the gradient explodes: x {max(whole, through):.1e} through {layers}",
                f"start again with a lower {network}_lr or fewer layers",
            )


def explain(row: Mapping[str, float]) -> list[str]:
    """What looks wrong and is not, by a row of `statistics`."""
    if row["saturated"] < SWITCHING or row["tanh_slope"] < BLOCKED or not row["held"] <= AGREED:
        return []
    return [
        f"{percent(row['saturated'])} of the actions are beyond 0.99, and dQ/da would take only "
        f"{percent(row['held'])} of those back inside: a policy that switches between its bounds because the critic "
        "wants it there; no fault"
    ]


def _dead_layer(row: Mapping[str, float], name: str) -> int | None:
    layer = 0
    while f"{name}.{layer}.dead" in row:
        if row[f"{name}.{layer}.dead"] == 1:
            return layer
        layer += 1
    return None
