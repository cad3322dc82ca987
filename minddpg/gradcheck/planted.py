"""The catalogue of gradient bugs, each planted and caught: a checker that misses one fails.

BUGS stand in copies of minddpg's own source, one at a time, and so do OPTION_BUGS, in agents with that option;
SITUATIONS (situations.py) are small functions. OF_A_RUN are bugs that only minddpg's tests see. This is the one list of
them all: tests and classic_mistakes.py take from it.

Each names where it was seen: an issue, a pull request or a repository. The copy runs as plain NumPy and is checked by
`check_agent` against minddpg's forward, on an agent as the paper has it: the action joins at the second layer, weight
decay 1e-2, last layer +-3e-3, which makes gradients as small as 1e-8; and on one with a larger last layer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..config import Config
from ..fast import jit
from ..replay import Batch
from .agent import check_agent
from .agent_structure import Source
from .report import Report
from .situations import SITUATIONS, Situation

N = 16  # transitions
PACKAGE = "minddpg_with_a_bug"
COPIED = (  # in the order of their imports
    "optim", "layers", "networks", "network_options", "ddpg", "td3", "observations", "returns", "agent",
)  # fmt: skip
SHARED = ("config", "seeds", "replay", "showing", "fast.matmul", "fast.threads")  # taken as they are


class Bug(NamedTuple):
    """`right` stands once in `file`; the bug puts `wrong` in its place."""

    name: str
    source: str
    file: str
    right: str
    wrong: str
    options: Mapping[str, Any] = {}  # of the Config in which it shows


def bug(name: str) -> Bug:
    """The bug of this name. Raises KeyError."""
    return {bug.name: bug for bug in (*BUGS, *OF_A_RUN)}[name]


class Verdict(NamedTuple):
    """What the check of one bug found.

    usual: what rtol=1e-3, atol=1e-5 would have said of the same gradients. wrong_with_small_weights: whether finite
    differences caught it on the agent as the paper initialises it already.
    """

    bug: Bug | Situation
    by_differences: bool
    by_structure: bool
    hint: str
    broken: str
    usual: str
    wrong_with_small_weights: bool

    @property
    def caught(self) -> bool:
        """Whether anything was found."""
        return self.by_differences or self.by_structure


SEED = "dq = np.full((n, 1), -1 / n, obs.dtype)"
TO_ACTION = "dact = backward_to_action(critic, dq, critic_cache)"
DTHETA = "    return dtheta, dact, q\n"
MASK = (
    "        x = layer_input(network, cache, layer)\n        dz = relu_backward(linear_backward_input(dz, hidden_rows("
)
ACTOR_STEP = "    dtheta, dact, q = actor_gradient(learner.actor, learner.critic, batch.obs)\n"
WEIGHTS = """        x = layer_input(network, cache, layer)
        linear_backward_weights(x, dz, weight(network, dparams, layer), bias(network, dparams, layer))
        if layer > 0:
            dz = relu_backward(linear_backward_input(dz, hidden_rows(network, layer)), x)
"""
CRITIC_FIRST = """    critic_loss, q_mean, target_q_mean = critic_step(learner, batch, rates)
"""
BIAS = "            dbias[k] += row[k]"
TANH = "result[i] = upstream[i] * (1 - output[i] * output[i])"
RELU = "gradient[j] *= output[j] > zero"

TD3: dict[str, Any] = {"algorithm": "td3"}
CLIP: dict[str, Any] = {"max_grad_norm": 0.05}
HIDDEN_TANH: dict[str, Any] = {"activation": "tanh"}
INVERT: dict[str, Any] = {"invert_gradients": True}
BATCH: dict[str, Any] = {"normalisation": "batch"}
LAYER: dict[str, Any] = {"normalisation": "layer"}

BUGS = (
    # the batch
    Bug("critic: divided by N twice", "kcg2015/DDPG_numpy_only", "layers", "2 / len(q)", "2 / len(q) ** 2"),
    Bug("actor: divided by N twice", "floodsung/DDPG#2", "ddpg", SEED, SEED.replace("/ n,", "/ n**2,")),
    Bug("actor: sum for mean", "IntelLabs/coach#344", "ddpg", SEED, SEED.replace("/ n,", "/ 1,")),
    Bug("critic: sum for mean", "pemami4911/deep-rl#15", "layers", "2 / len(q)", "2 / 1"),
    Bug("critic: the square's factor 2", "CS231n notes, neural-networks-3", "layers", "2 / len(q)", "1 / len(q)"),
    Bug(
        "critic: (N, 1) minus (N,) broadcast", "openai/spinningup#339", "layers",
        "error = q - target_q", "error = np.mean(q.reshape(-1, 1) - target_q, axis=1)",
    ),
    # the actor's chain
    Bug("actor: the minus is missing", "germain-hug/Deep-RL-Keras#5", "ddpg", SEED, SEED.replace("-1", "1")),
    Bug("actor: gradient detached", "thu-ml/tianshou#1268", "ddpg", DTHETA, DTHETA.replace("dtheta,", "0 * dtheta,")),
    Bug(
        "actor: dQ/da at the replayed action", "floodsung/DDPG#14", "ddpg", ACTOR_STEP,
        "    act, actor_cache = actor_forward(learner.actor, batch.obs)\n"
        "    q, critic_cache = critic_forward(learner.critic, batch.obs, batch.act)\n"
        "    dact = backward_to_action(learner.critic, np.full((len(q), 1), -1 / len(q)), critic_cache)\n"
        "    dtheta = backward_to_weights(learner.actor, output_backward(learner.actor, dact, act), actor_cache)\n",
    ),
    Bug(
        "actor: dQ/da lost where Q is clipped", "openai/baselines#131", "ddpg",
        TO_ACTION, "dq[q > np.median(q)] = 0\n    " + TO_ACTION,
    ),
    Bug(
        "actor: action scale on the way back only", "udacity/deep-reinforcement-learning#41", "ddpg",
        TO_ACTION, TO_ACTION + " * 2.0",
    ),
    Bug(
        "actor: the step through tanh left out", "arthurdouillard/deepcourse#9", "ddpg",
        "dz = output_backward(actor, dact, act)", "dz = dact",
    ),
    Bug(
        "tanh': of the output, not of its input", "davidrmiller/neural2d#40", "layers",
        TANH, "result[i] = upstream[i] * (1 - np.tanh(output[i]) ** 2)",
    ),
    Bug("tanh': 1 + a^2", "gy910210/neural-network-from-scratch#2", "layers", TANH, TANH.replace("1 -", "1 +")),
    Bug(
        "tanh': upstream not multiplied in", "yizt/numpy_neural_network#6", "layers",
        TANH, "result[i] = 1 - np.tanh(upstream[i]) ** 2",
    ),
    Bug(
        "dQ/da: the action's rows from the wrong end", "NervanaSystems/neon#111", "networks",
        "    return full[len(full) - network.act_dim :]", "    return full[: network.act_dim]",
    ),
    Bug(
        "dQ/da: rows mixed by batch statistics", "keras-team/keras-io#198", "networks",
        "    return linear_backward_input(dz, action_rows(network))",
        "    dact = linear_backward_input(dz, action_rows(network))\n    return dact - dact.mean(axis=0)",
    ),
    # layers
    Bug("ReLU: upstream overwritten by the mask", "haifengl/smile#528", "layers", RELU, RELU.replace("*=", "=")),
    Bug(
        "ReLU: the mask of another layer", "pytorch/pytorch#11662", "networks", "network.action_layer, -1):\n" + MASK,
        "network.action_layer, -1):\n" + MASK.replace("cache, layer)", "cache, max(1, layer - 1))[:, :10]"),
    ),
    Bug(
        "bias: gradient not written", "CS231n notes, neural-networks-3", "layers", BIAS, BIAS.replace("row", "0 * row"),
    ),
    Bug(
        "bias: mean over the batch in a hidden layer", "kvfrans/notes#5", "networks", WEIGHTS,
        WEIGHTS + "        if layer == 0 and network.act_dim == 0:\n"
        "            bias(network, dparams, 0)[:] /= len(x)\n",
    ),
    Bug(
        "bias: before the activation's derivative", "arthurdouillard/deepcourse#9", "networks", WEIGHTS,
        WEIGHTS + "        if layer == 0 and network.act_dim == 0:\n"
        "            bias(network, dparams, 0)[:] = linear_backward_input(above, hidden_rows(network, 1)).sum(axis=0)\n"
        "        above = dz\n",
    ),
    Bug(
        "bias: summed over the units too", "rasbt/stat453-deep-learning-ss21#5", "layers",
        BIAS, BIAS.replace("row[k]", "row.sum()"),
    ),
    Bug(
        "weight: transposed where it fits", "apache/tvm#5695", "layers", "matmul_left_transposed(x, dy, dweight)",
        "matmul_left_transposed(*((dy, x) if x.shape == dy.shape else (x, dy)), dweight)",
    ),
    Bug(
        "weight: one element in a hundred is off", "pytorch/pytorch#57166", "layers",
        "    matmul_left_transposed(x, dy, dweight)",
        "    matmul_left_transposed(x, dy, dweight)\n    dweight[0, 0] *= 1.01",
    ),
    Bug(
        "weight decay left out of the gradient", "CS231n notes, neural-networks-3", "ddpg",
        "        add_weight_decay(critic, dparams, weight_decay)", "        pass",
    ),
    Bug(
        "float32 inside a float64 backward", "jax-ml/jax#641", "ddpg",
        "output_backward(actor, dact, act)", "output_backward(actor, dact.astype('f4').astype('f8'), act)",
    ),
    Bug(
        "float16 on the way back", "jax-ml/jax#39821", "ddpg",
        "output_backward(actor, dact, act)", "output_backward(actor, dact.astype('f2').astype('f8'), act)",
    ),
    # what finite differences do not see
    Bug(
        "gradients add up from call to call", "JoshuaWu1997/PyTorch-DDPG-Stock-Trading#2", "ddpg", DTHETA,
        "    actor_gradient.sum = dtheta = dtheta + getattr(actor_gradient, 'sum', 0)\n" + DTHETA,
    ),
    Bug(
        "gradients are random (dropout left on)", "kornia/kornia#503", "ddpg", DTHETA,
        "    dtheta = dtheta * (1 + 1e-9 * np.random.default_rng().standard_normal(dtheta.size))\n" + DTHETA,
    ),
    Bug(
        "backward writes into what forward kept", "deeplearning4j/deeplearning4j#364", "networks",
        "    dparams, dact = np.empty_like(network.params),",
        "    cache[:] *= 0.5\n    dparams, dact = np.empty_like(network.params),",
    ),
    Bug(
        "the actor step moves the critic", "shariqiqbal2810/maddpg-pytorch#43", "ddpg",
        "    adam(learner.actor.params, dtheta,",
        "    _, cache = critic_forward(learner.critic, batch.obs, batch.act)\n"
        "    minus_mean = np.full((len(q), 1), -1 / len(q))\n"
        "    dcritic = backward_to_weights(learner.critic, minus_mean, cache)\n"
        "    adam(learner.critic.params, dcritic, learner.critic_adam, rates.critic_lr)\n"
        "    adam(learner.actor.params, dtheta,",
    ),
    Bug(
        "Adam steps twice per update", "kcg2015/DDPG_numpy_only", "ddpg",
        "    adam(learner.critic.params, dparams, learner.critic_adam, rates.critic_lr)\n",
        "    adam(learner.critic.params, dparams, learner.critic_adam, rates.critic_lr)\n" * 2,
    ),
    Bug(
        "the actor steps before the critic", "openai/spinningup (order of updates)", "ddpg",
        CRITIC_FIRST + "    actor_loss, dq_dact_rms = actor_step(learner, batch, rates)",
        "    actor_loss, dq_dact_rms = actor_step(learner, batch, rates)\n" + CRITIC_FIRST.rstrip("\n"),
    ),
    Bug(
        "target: the same object as the network", "datawhalechina/easy-rl#140", "agent",
        "targets = in_use(copy_network(actor)),", "targets = in_use(actor),",
    ),
    Bug(
        "target: the actor's never follows", "kakaoenterprise/JORLDY#120", "ddpg",
        "    polyak(learner.target_actor.params, learner.actor.params, rates.tau)\n", "",
    ),
    Bug(
        "target: Polyak the wrong way round", "rail-berkeley/softlearning#18", "optim",
        "target[i] += tau * (online[i] - target[i])", "target[i] += (1 - tau) * (online[i] - target[i])",
    ),
    Bug(
        "target: y bootstraps past the end", "keras-team/keras-io, ddpg_pendulum", "ddpg",
        "discount * (1 - batch.terminated[i])", "discount",
    ),
    Bug(
        "target: y from the online critic", "MorvanZhou/Reinforcement-learning-with-tensorflow#106", "ddpg",
        "bellman_target(learner.target_actor, learner.target_critic, batch, rates.gamma)",
        "bellman_target(learner.target_actor, learner.critic, batch, rates.gamma)",
    ),
)  # fmt: skip

# What can be got wrong in an option; told by the paper it is from.
OPTION_BUGS = (
    # TD3
    Bug(
        "TD3: the larger of both critics", "Fujimoto et al. 2018, section 4.2", "td3",
        "np.minimum(next_q[i], next_q2[i])", "np.maximum(next_q[i], next_q2[i])", TD3,
    ),
    Bug(
        "TD3: the first critic's target alone", "Fujimoto et al. 2018, section 4.2", "td3",
        "np.minimum(next_q[i], next_q2[i])", "next_q[i]", TD3,
    ),
    Bug(
        "TD3: smoothing noise not clipped", "Fujimoto et al. 2018, equation 14", "td3",
        "push = np.minimum(np.maximum(size * drawn[i], -most), most)", "push = size * drawn[i]", TD3,
    ),
    Bug(
        "TD3: smoothed action out of bounds", "Fujimoto et al. 2018, equation 14", "td3",
        "flat[i] = np.minimum(np.maximum(flat[i] + push, -one), one)", "flat[i] = flat[i] + push", TD3,
    ),
    Bug(
        "TD3: the policy is not delayed", "Fujimoto et al. 2018, section 5.2", "td3",
        "learner.critic_adam.t[0] % rates.policy_delay == 0", "rates.policy_delay", TD3,
    ),
    Bug(
        "TD3: dQ/da from the second critic", "Fujimoto et al. 2018, algorithm 1", "td3",
        "actor_gradient(learner.actor, learner.critic, batch.obs)",
        "actor_gradient(learner.actor, learner.critic2, batch.obs)", TD3,
    ),
    Bug(
        "TD3: the second critic has the first one's gradient", "Fujimoto et al. 2018, algorithm 1", "td3",
        "adam(learner.critic2.params, dparams2,", "adam(learner.critic2.params, dparams,", TD3,
    ),
    Bug(
        "TD3: the second target never follows", "Fujimoto et al. 2018, algorithm 1", "td3",
        "        polyak(learner.target_critic2.params, learner.critic2.params, rates.tau)\n", "", TD3,
    ),
    # clipping by norm
    Bug(
        "clipping: by the largest element", "Pascanu et al. 2013, algorithm 1", "optim",
        "total = np.sum(wide * wide)", "total = np.max(wide * wide)", CLIP,
    ),
    Bug(
        "clipping: what is short is lengthened too", "Pascanu et al. 2013, algorithm 1", "optim",
        "if total > max_norm * max_norm:", "if total > 0:", CLIP,
    ),
    Bug(
        "clipping: compared with the square", "Pascanu et al. 2013, algorithm 1", "optim",
        "max_norm / math.sqrt(total)", "max_norm / total", CLIP,
    ),
    Bug(
        "clipping: element by element", "Pascanu et al. 2013, algorithm 1", "optim",
        "shorter[i] = factor * gradient[i]", "shorter[i] = np.clip(gradient[i], -max_norm, max_norm)", CLIP,
    ),
    # hidden tanh
    Bug(
        "hidden tanh: the mask of ReLU", "the other activation's backward", "network_options",
        "tanh_hidden_backward(dh, x) if network.tanh else", "relu_backward(dh, x) if network.tanh else", HIDDEN_TANH,
    ),
    Bug(
        "hidden tanh: 1 - h", "the square forgotten", "layers",
        "gradient[j] *= 1 - output[j] * output[j]", "gradient[j] *= 1 - output[j]", HIDDEN_TANH,
    ),
    Bug(
        "hidden tanh: upstream overwritten", "haifengl/smile#528", "layers",
        "gradient[j] *= 1 - output[j] * output[j]", "gradient[j] = 1 - output[j] * output[j]", HIDDEN_TANH,
    ),
    # normalisation
    Bug(
        "batch: the mean's term left out", "Ioffe & Szegedy 2015, section 3", "layers",
        "one_nth * (dbeta[j] + x * dgamma[j])", "one_nth * (x * dgamma[j])", BATCH,
    ),
    Bug(
        "batch: the variance's term left out", "Ioffe & Szegedy 2015, section 3", "layers",
        "one_nth * (dbeta[j] + x * dgamma[j])", "one_nth * dbeta[j]", BATCH,
    ),
    Bug(
        "batch: statistics as constants", "detached while training", "network_options",
        "gamma, dgamma, dbeta, network.training)", "gamma, dgamma, dbeta, False)", BATCH,
    ),
    Bug(
        "batch: evaluation mode while training", "running statistics for the batch's", "network_options",
        "    if network.training:\n        return batch_statistics(z)\n", "", BATCH,
    ),
    Bug(
        "batch: gamma left out on the way back", "Odyssey#3666", "layers",
        "dz[i, j] = gamma[j] / s * (", "dz[i, j] = 1 / s * (", BATCH,
    ),
    Bug(
        "batch: the variance by N - 1", "Bessel's correction", "layers",
        "    for j in each(var):\n        var[j] *= one_nth",
        "    for j in each(var):\n        var[j] /= len(z) - 1", BATCH,
    ),
    Bug(
        "batch: targets use the batch's statistics", "the training mode left on", "agent",
        "in_use(copy_network(actor)), in_use(copy_network(critic))", "copy_network(actor), copy_network(critic)", BATCH,
    ),
    Bug(
        "batch: act uses the batch's statistics", "the training mode left on", "agent",
        "call(policy, self.kind, in_use(self._learner.actor),", "call(policy, self.kind, self.learner.actor,", BATCH,
    ),
    Bug(
        "batch: running statistics never learnt", "no update of them", "network_options",
        "            polyak(network.running[start : start + width], mean, take_in)\n", "", BATCH,
    ),
    Bug(
        "batch: running statistics of the wrong network", "the target's for the network's", "agent",
        "pair = learner[name], learner[f\"target_{name}\"]", "pair = learner[f\"target_{name}\"], learner[name]", BATCH,
    ),
    Bug(
        "batch: the targets' statistics stay", "parameters alone are averaged", "network_options",
        "    polyak(target.running, network.running, tau)\n", "", BATCH,
    ),
    Bug(
        "batch: forward learns statistics", "as other libraries do", "network_options",
        "        mean, var = statistics_of(network, z, level)\n        batch_norm_forward(",
        "        mean, var = statistics_of(network, z, level)\n        network.running[: len(mean)] += 0.01 * mean\n"
        "        batch_norm_forward(", BATCH,
    ),
    Bug(
        "layer: the mean's term left out", "Odyssey#3666", "layers",
        "(dx[j] - mean_dx - x[j] * mean_dx_x) / s", "(dx[j] - x[j] * mean_dx_x) / s", LAYER,
    ),
    Bug(
        "layer: the variance's term left out", "Odyssey#3666", "layers",
        "(dx[j] - mean_dx - x[j] * mean_dx_x) / s", "(dx[j] - mean_dx) / s", LAYER,
    ),
    Bug(
        "layer: gamma left out on the way back", "Odyssey#3666", "layers",
        "x, dx = centred / s, gamma * upstream", "x, dx = centred / s, 1.0 * upstream", LAYER,
    ),
    # inverted gradients
    Bug(
        "inverting: the bounds the wrong way round", "Hausknecht & Stone 2016, equation 11", "layers",
        "where(upstream[i] < 0, 1 - output[i], 1 + output[i])", "where(upstream[i] < 0, 1 + output[i], 1 - output[i])",
        INVERT,
    ),
    Bug(
        "inverting: not over the range", "Hausknecht & Stone 2016, equation 11", "layers",
        "upstream[i] * half * room", "upstream[i] * room", INVERT,
    ),
    Bug(
        "inverting: clipped instead of turned round", "Hausknecht & Stone 2016, section 6.3", "layers",
        "upstream[i] * half * room", "upstream[i] * half * np.maximum(room, 0)", INVERT,
    ),
    Bug(
        "inverting: tanh' as well", "Hausknecht & Stone 2016, equation 11", "network_options",
        "invert_gradient(dact, act) if actor", "tanh_backward(invert_gradient(dact, act), act) if actor", INVERT,
    ),
)  # fmt: skip
# What gradient checks do not see, or see as one of the above: planted by minddpg's tests, into the whole package.
OF_A_RUN = (
    Bug("critic: all-zero gradient", "minddpg", "ddpg", "return loss, dparams, q", "return loss, 0 * dparams, q"),
    Bug(
        "weights: another layer's mask",
        "minddpg",
        "networks",
        "weight(network, dparams, layer), bias(network, dparams, layer))\n"
        "        if layer > 0:\n"
        "            dz = relu_backward(linear_backward_input(dz, hidden_rows(network, layer)), x)",
        "weight(network, dparams, layer), bias(network, dparams, layer))\n"
        "        if layer > 0:\n"
        "            dz = relu_backward(linear_backward_input(dz, hidden_rows(network, layer)), "
        "layer_input(network, cache, max(1, layer - 1)))",
    ),
    Bug("Adam without bias correction", "minddpg", "optim", "lr / (1 - BETA1**t)", "lr"),
    Bug(
        "weight decay on biases too",
        "minddpg",
        "ddpg",
        "            dflat[i] += decay * flat[i]",
        "            dflat[i] += decay * flat[i]\n    dparams[-1] += decay * critic.params[-1]",
    ),
    Bug(
        "truncation as termination",
        "minddpg",
        "training",
        "            self.replay.add(self.obs[i], act, rew, next_obs, terminated)\n",
        "            self.replay.add(self.obs[i], act, rew, next_obs, terminated or truncated)\n",
    ),
    Bug(
        "the observation is not moved on",
        "minddpg",
        "training",
        "        self.obs = environments.observations()\n        self.lap",
        "        self.lap",
    ),
    Bug(
        "observations the wrong way round",
        "minddpg",
        "training",
        "self.replay.add(self.obs[i], act, rew, next_obs, terminated)\n",
        "self.replay.add(next_obs, act, rew, self.obs[i], terminated)\n",
    ),
    Bug(
        "the environment's array is not copied",
        "minddpg",
        "environment/values",
        "array = source.flatten()",
        "array = source.reshape(-1)",
    ),
    Bug(
        "actions scaled by the upper bound alone",
        "minddpg",
        "environment/values",
        "self.low + (act + 1.0) * self._half",
        "self.high * act",
    ),
    Bug(
        "the replay draws from the noise's stream",
        "minddpg",
        "training",
        "threads.update(self.agent, self.replay, self.random.replay, self._update)",
        "threads.update(self.agent, self.replay, self.random.noise, self._update)",
    ),
    Bug(
        "resumed: the replay's stream starts anew",
        "minddpg",
        "training",
        '            rng.bit_generator.state = state["random"][name]\n',
        "            pass\n",
    ),
    Bug(
        "resumed: the noise's stream starts anew",
        "minddpg",
        "training",
        '            noise.rng.bit_generator.state = saved["rng"]\n',
        "",
    ),
    Bug("resumed: the noise forgets its last push", "minddpg", "training", "            noise.restore(saved)\n", ""),
    Bug(
        "resumed: the episode's return starts at 0",
        "minddpg",
        "training",
        'run.episodes = [Episode(**episode) for episode in state["episodes"]]',
        'run.episodes = [Episode(**{**episode, "total": 0.0}) for episode in state["episodes"]]',
    ),
    Bug(
        "resumed: Adam starts anew",
        "minddpg",
        "training",
        '        run.agent.load_state_dict(state["agent"])\n',
        '        own = {k: v for k, v in run.agent.state_dict().items() if "adam" in k}\n'
        '        run.agent.load_state_dict({**state["agent"], **own})\n',
    ),
    Bug(
        "resumed: the looks' stream starts anew",
        "minddpg",
        "gradflow/monitor",
        '        self.rng.bit_generator.state = state["rng"]\n',
        "",
    ),
)

CATALOGUE: tuple[Bug | Situation, ...] = (*BUGS, *SITUATIONS, *OPTION_BUGS)


@contextmanager
def copy_of_minddpg(bug: Bug | None) -> Iterator[Source]:
    """A copy of the algorithm's modules, as plain NumPy, with the bug in it (or none)."""
    root = Path(__file__).parent.parent
    plain = ModuleType(f"{PACKAGE}.fast.jit")
    names = ("FloatArray", "by_type", "call", "each", "where", "squares_are_finite", "mark_warm", "variant")
    vars(plain).update({name: getattr(jit, name) for name in names}, jit=lambda function: function)
    modules = {
        PACKAGE: ModuleType(PACKAGE),
        f"{PACKAGE}.fast": ModuleType(f"{PACKAGE}.fast"),
        f"{PACKAGE}.fast.jit": plain,
    }
    for package in (PACKAGE, f"{PACKAGE}.fast"):
        modules[package].__path__ = []  # what makes it a package, whose modules may import each other
    modules.update({f"{PACKAGE}.{name}": import_module(f"minddpg.{name}") for name in SHARED})
    try:
        sys.modules.update(modules)
        for name in COPIED:
            text = (root / f"{name}.py").read_text(encoding="utf-8")
            if bug is not None and bug.file == name:
                if text.count(bug.right) != 1:
                    raise LookupError(f"{name}.py has changed: it holds {bug.right!r} {text.count(bug.right)} times")
                text = text.replace(bug.right, bug.wrong)
            module = modules[f"{PACKAGE}.{name}"] = sys.modules[f"{PACKAGE}.{name}"] = ModuleType(f"{PACKAGE}.{name}")
            module.__package__ = PACKAGE
            exec(compile(text, f"{name}.py with a bug", "exec"), vars(module))
        yield Source(*(modules[f"{PACKAGE}.{name}"] for name in Source._fields))
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def check_planted(bug: Bug | None, seed: int = 0) -> list[Report]:
    """check_agent of a copy with this bug in it: as the paper initialises it, and with actions spread over (-1, 1).

    Small initial actions hide what is wrong with tanh', where it is 1; larger gradients hide what is small.
    """
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.standard_normal((2, N, 3))
    act, terminated = rng.uniform(-1, 1, (N, 2)), rng.random(N) < 0.3
    batch = Batch(obs, act, rng.standard_normal(N), next_obs, terminated)
    reports = []
    with copy_of_minddpg(bug) as source:
        for final_init in (3e-3, 0.6):
            config = Config(
                hidden_sizes=(10, 10), action_layer=1, final_init=final_init, critic_weight_decay=1e-2, dtype="float64",
                **(bug.options if bug else {}),
            )  # fmt: skip
            agent = source.agent.DDPG(3, 2, config, seed)
            _move(agent, rng)
            reports.append(check_agent(agent, batch, source=source))
    return reports


def _move(agent: Any, rng: np.random.Generator) -> None:
    """To where options show: gammas of 1 and betas of 0 hide what is missing, and so do actions within bounds."""
    for name, view in agent.views().items():
        if name.endswith((".gamma", ".beta")):
            view += rng.uniform(0.2, 0.6, view.shape)
    if agent.config.invert_gradients:
        agent.views()["actor.2.bias"][:] = [1.4, -0.8]


def verdict(bug: Bug | Situation) -> Verdict:
    """Plant it, check, and say what caught it. Raises LookupError where the source it spoils has changed."""
    reports = [bug.check()] * 2 if isinstance(bug, Situation) else check_planted(bug)
    wrong = [tensor for report in reports for tensor in report.tensors if not tensor.ok]
    broken = [check for report in reports for check in report.checks if not check.ok]
    hints = [tensor.hint for tensor in wrong if tensor.hint] or [report.start for report in reports if report.start]
    paper, larger = (all(tensor.usual for tensor in report.tensors) for report in reports)
    usual = "pass" if paper and larger else "pass with the paper's initial weights" if paper else "fail"
    shown = f"{broken[0].name}: {broken[0].detail}" if broken else ""
    small = any(tensor.wrong for tensor in reports[0].tensors)
    best = max(hints, key=hints.count) if hints else ""
    return Verdict(bug, bool(wrong), bool(broken), best, shown, usual, small)


def text(found: Verdict) -> str:
    """One bug of the catalogue in some lines."""
    by = {
        (True, True): "finite differences and structure",
        (True, False): "finite differences",
        (False, True): "structure",
        (False, False): "nothing",
    }[found.by_differences, found.by_structure]
    lines = [
        f"{'caught' if found.caught else 'MISSED'}  {found.bug.name}  [{found.bug.source}]",
        f"        by {by}; at atol=1e-5, rtol=1e-3: {found.usual}",
    ]
    lines += [f"        hint: {found.hint}"] if found.hint else []
    lines += [f"        broken: {found.broken}"] if found.broken else []
    return "\n".join(lines)
