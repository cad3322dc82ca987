"""The historical bugs, planted one at a time into a copy of the package: the named tests must fail.

Each runs in a process of its own, without the JIT, on the copy.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import JIT, clean_environment

import minddpg

TESTS = Path(__file__).parent
SEED = "-1 / n, obs.dtype"
RELU = "relu_backward(linear_backward_input(dz, hidden_rows(network, layer)), x)"
WEIGHTS = "weight(network, dparams, layer), bias(network, dparams, layer))\n        if layer > 0:\n            dz = "
CHAIN = "test_ddpg.py::test_the_chain_into_every_actor_weight"
RESUMED = "test_exact_resume.py::test_a_state_goes_on_in_memory"
PIECES = "test_exact_resume.py::test_a_run_in_pieces_is_the_whole_run"
TWIN = "test_ddpg.py::test_fifty_updates_equal_the_twin"

BUGS = {
    "critic: 1/N twice": ("layers.py", "2 / len(q)", "2 / len(q) ** 2", "test_layers.py::test_squared_error"),
    "critic: sum for mean": ("layers.py", "2 / len(q)", "2.0", "test_layers.py::test_squared_error"),
    "critic: the square's 2 forgotten": ("layers.py", "2 / len(q)", "1 / len(q)", "test_ddpg.py::test_critic_loss"),
    "actor: 1/N twice": ("ddpg.py", SEED, "-1 / n**2, obs.dtype", CHAIN),
    "actor: sum for mean": ("ddpg.py", SEED, "-1.0, obs.dtype", CHAIN),
    "actor: wrong sign": ("ddpg.py", SEED, "1 / n, obs.dtype", "test_ddpg.py::test_a_small_step_climbs"),
    "actor: tanh' missing": ("ddpg.py", "dz = tanh_backward(dact, act)", "dz = dact", CHAIN),
    "actor: dQ/da at the replayed action": (
        "ddpg.py",
        "    dtheta, dact, q = actor_gradient(learner.actor, learner.critic, batch.obs)\n",
        "    act, actor_cache = actor_forward(learner.actor, batch.obs)\n"
        "    q, critic_cache = critic_forward(learner.critic, batch.obs, batch.act)\n"
        "    dq = np.full((len(q), 1), -1 / len(q), q.dtype)\n"
        "    dact = backward_to_action(learner.critic, dq, critic_cache)\n"
        "    dtheta = backward_to_weights(learner.actor, tanh_backward(dact, act), actor_cache)\n",
        TWIN,
    ),
    "actor: all-zero gradient": ("ddpg.py", "return dtheta, dact, q", "return 0 * dtheta, dact, q", CHAIN),
    "critic: all-zero gradient": (
        "ddpg.py",
        "return loss, dparams, q",
        "return loss, 0 * dparams, q",
        "test_ddpg.py::test_critic_loss",
    ),
    "weights: another layer's mask": (
        "networks.py",
        WEIGHTS + RELU,
        WEIGHTS + RELU.replace(", x)", ", layer_input(network, cache, max(1, layer - 1)))"),
        CHAIN,
    ),
    "action: another layer's mask": (
        "networks.py",
        "network.action_layer, -1):\n        x = layer_input(network, cache, layer)",
        "network.action_layer, -1):\n        x = layer_input(network, cache, max(1, layer - 1))",
        CHAIN,
    ),
    "bias gradient dropped": (
        "layers.py",
        "dbias[k] += dy[i, k]",
        "dbias[k] += 0 * dy[i, k]",
        "test_layers.py::test_linear",
    ),
    "weight gradient transposed where it fits": (
        "layers.py",
        "matmul_left_transposed(x, dy, dweight)",
        "matmul_left_transposed(*((dy, x) if x.shape == dy.shape else (x, dy)), dweight)",
        "test_networks.py::test_critic_gradients",
    ),
    "Polyak reversed": (
        "optim.py",
        "target[i] += share * (online[i] - target[i])",
        "target[i] += (1 - share) * (online[i] - target[i])",
        "test_ddpg.py::test_targets_follow_a_frozen_network_by_one_minus_tau",
    ),
    "Adam without bias correction": (
        "optim.py",
        "lr / (1 - BETA1**t)",
        "lr",
        "test_optim.py::test_adam_follows_the_formula",
    ),
    "weight decay on biases too": (
        "ddpg.py",
        "            dflat[i] += decay * flat[i]",
        "            dflat[i] += decay * flat[i]\n    dparams[-1] += decay * critic.params[-1]",
        "test_ddpg.py::test_critic_loss",
    ),
    "truncation as termination": (
        "training.py",
        "moment.next_obs[i], moment.terminated[i])\n",
        "moment.next_obs[i], moment.terminated[i] or moment.truncated[i])\n",
        "test_end_to_end.py::test_a_time_limit_does_not_end_the_value",
    ),
    "the observation is not moved on": (
        "training.py",
        "        self.obs = environments.observations()\n        self.lap",
        "        self.lap",
        "test_training.py::test_what_is_stored_is_what_happened",
    ),
    "observations the wrong way round": (
        "training.py",
        "self.replay.add(self.obs[i], act[i], moment.rew[i], moment.next_obs[i],",
        "self.replay.add(moment.next_obs[i], act[i], moment.rew[i], self.obs[i],",
        "test_training.py::test_what_is_stored_is_what_happened",
    ),
    "the environment's array is not copied": (
        "environment/values.py",
        "array = source.flatten()",
        "array = source.reshape(-1)",
        "test_training.py::test_what_is_stored_is_what_happened",
    ),
    "actions scaled by the upper bound alone": (
        "environment/values.py",
        "self.low + (act + 1.0) * self._half",
        "self.high * act",
        "test_environment.py::test_actions_are_scaled_to_the_bounds_and_back_to_their_shape",
    ),
    "the replay draws from the noise's stream": (
        "training.py",
        "update_from(self.replay, self.random.replay, self._update)",
        "update_from(self.replay, self.random.noise, self._update)",
        "test_training.py::test_streams_do_not_disturb_each_other",
    ),
    "resumed: the replay's stream starts anew": (
        "training.py",
        '        run.random.replay.bit_generator.state = state["random"]["replay"]\n',
        "",
        RESUMED,
    ),
    "resumed: the noise's stream starts anew": (
        "training.py",
        '            noise.rng.bit_generator.state = saved["rng"]\n',
        "",
        RESUMED,
    ),
    "resumed: the noise forgets its last push": (
        "training.py",
        "            noise.restore(saved)\n",
        "",
        RESUMED,
    ),
    "resumed: the episode's return starts at 0": (
        "training.py",
        'run.episodes = [Episode(**episode) for episode in state["episodes"]]',
        'run.episodes = [Episode(**{**episode, "total": 0.0}) for episode in state["episodes"]]',
        RESUMED,
    ),
    "resumed: Adam starts anew": (
        "training.py",
        '        run.agent.load_state_dict(state["agent"])\n',
        '        own = {k: v for k, v in run.agent.state_dict().items() if "adam" in k}\n'
        '        run.agent.load_state_dict({**state["agent"], **own})\n',
        RESUMED,
    ),
    "resumed: the looks' stream starts anew": (
        "gradflow/monitor.py",
        '        self.rng.bit_generator.state = state["rng"]\n',
        "",
        PIECES,
    ),
    "termination ignored": (
        "ddpg.py",
        "discount * (1 - batch.terminated[i])",
        "discount",
        "test_ddpg.py::test_terminated_stops_the_bootstrap",
    ),
    "actor step through the critic before its step": (
        "ddpg.py",
        "    critic_loss, q_mean, target_q_mean = critic_step(learner, batch, rates)\n"
        "    actor_loss, dq_dact_rms = actor_step(learner, batch, rates)",
        "    actor_loss, dq_dact_rms = actor_step(learner, batch, rates)\n"
        "    critic_loss, q_mean, target_q_mean = critic_step(learner, batch, rates)",
        "test_ddpg.py::test_the_actor_step_uses_the_critic_after_its_step",
    ),
    "target actor is the actor": (
        "agent.py",
        "actor, critic, copy_network(actor), copy_network(critic)",
        "actor, critic, actor, copy_network(critic)",
        "test_ddpg.py::test_targets_start_equal_and_share_nothing",
    ),
    "the actor step moves the critic": (
        "ddpg.py",
        "    return -mean(q), dq_dact_rms",
        "    learner.critic.params[0] += 1e-12\n    return -mean(q), dq_dact_rms",
        "test_ddpg.py::test_the_actor_step_leaves_the_critic_alone",
    ),
}


# Taken once: pytest changes os.environ with every test, and the threads below would read it meanwhile.
ENVIRONMENT = clean_environment(NUMBA_DISABLE_JIT="1", PYTHONDONTWRITEBYTECODE="1")


def run_tests(package, test, tmp_path):
    own = (
        f"--basetemp={tmp_path / 'tmp'}"  # by default pytest clears what other pytests left, and runs in another's way
    )
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", own, str(TESTS / test)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(package)}
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)


def planted(bug, directory):
    """The result of the bug's test on a copy with the bug in it; None for the copy as it is."""
    shutil.copytree(Path(minddpg.__file__).parent, directory / "minddpg")
    if bug is None:
        return run_tests(directory, CHAIN, directory)
    file, right, wrong, test = BUGS[bug]
    source = directory / "minddpg" / file
    text = source.read_text()
    assert text.count(right) == 1, (
        f"the line to spoil has changed: {right!r} stands {text.count(right)} times in {file}"
    )
    source.write_text(text.replace(right, wrong))
    return run_tests(directory, test, directory)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of all bugs, as futures: each is a process of its own, and as many run at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {bug: pool.submit(planted, bug, tmp_path_factory.mktemp("copy")) for bug in (None, *BUGS)}


@pytest.mark.skipif(not JIT, reason="planted once, by the run with the JIT")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_fails(bug, results):
    result = results[bug].result()
    assert result.returncode == 1, result.stdout + result.stderr  # 1: tests ran and failed
    assert "AssertionError" in result.stdout, result.stdout  # by a comparison, not by a crash


@pytest.mark.skipif(not JIT, reason="once, by the run with the JIT")
def test_the_unspoilt_copy_passes(results):
    result = results[None].result()
    assert result.returncode == 0, result.stdout + result.stderr
