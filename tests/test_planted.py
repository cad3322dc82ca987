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
from minddpg.gradcheck.planted import BUGS, OF_A_RUN

TESTS = Path(__file__).parent
CHAIN = "test_ddpg.py::test_the_chain_into_every_actor_weight"
RESUMED = "test_exact_resume.py::test_a_state_goes_on_in_memory"
PIECES = "test_exact_resume.py::test_a_run_in_pieces_is_the_whole_run"
TWIN = "test_ddpg.py::test_fifty_updates_equal_the_twin"

CATALOGUE = {bug.name: bug for bug in (*BUGS, *OF_A_RUN)}
SCALED = "test_environment.py::test_actions_are_scaled_to_the_bounds_and_back_to_their_shape"
CAUGHT_BY = {
    "critic: divided by N twice": "test_layers.py::test_squared_error",
    "critic: sum for mean": "test_layers.py::test_squared_error",
    "critic: the square's factor 2": "test_ddpg.py::test_critic_loss",
    "actor: divided by N twice": CHAIN,
    "actor: sum for mean": CHAIN,
    "actor: the minus is missing": "test_ddpg.py::test_a_small_step_climbs",
    "actor: the step through tanh left out": CHAIN,
    "actor: dQ/da at the replayed action": TWIN,
    "actor: gradient detached": CHAIN,
    "critic: all-zero gradient": "test_ddpg.py::test_critic_loss",
    "weights: another layer's mask": CHAIN,
    "ReLU: the mask of another layer": CHAIN,
    "bias: gradient not written": "test_layers.py::test_linear",
    "weight: transposed where it fits": "test_networks.py::test_critic_gradients",
    "target: Polyak the wrong way round": "test_ddpg.py::test_targets_follow_a_frozen_network_by_one_minus_tau",
    "Adam without bias correction": "test_optim.py::test_adam_follows_the_formula",
    "weight decay on biases too": "test_ddpg.py::test_critic_loss",
    "truncation as termination": "test_end_to_end.py::test_a_time_limit_does_not_end_the_value",
    "the observation is not moved on": "test_training.py::test_what_is_stored_is_what_happened",
    "observations the wrong way round": "test_training.py::test_what_is_stored_is_what_happened",
    "the environment's array is not copied": "test_training.py::test_what_is_stored_is_what_happened",
    "actions scaled by the upper bound alone": SCALED,
    "the replay draws from the noise's stream": "test_training.py::test_streams_do_not_disturb_each_other",
    "resumed: the replay's stream starts anew": RESUMED,
    "resumed: the noise's stream starts anew": RESUMED,
    "resumed: the noise forgets its last push": RESUMED,
    "resumed: the episode's return starts at 0": RESUMED,
    "resumed: Adam starts anew": RESUMED,
    "resumed: the looks' stream starts anew": PIECES,
    "target: y bootstraps past the end": "test_ddpg.py::test_terminated_stops_the_bootstrap",
    "the actor steps before the critic": "test_ddpg.py::test_the_actor_step_uses_the_critic_after_its_step",
    "target: the same object as the network": "test_ddpg.py::test_targets_start_equal_and_share_nothing",
    "the actor step moves the critic": "test_ddpg.py::test_the_actor_step_leaves_the_critic_alone",
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
    if bug is None:
        shutil.copytree(Path(minddpg.__file__).parent, directory / "minddpg")
        return run_tests(directory, CHAIN, directory)
    return spoilt(CATALOGUE[bug].file, CATALOGUE[bug].right, CATALOGUE[bug].wrong, CAUGHT_BY[bug], directory)


def spoilt(file, right, wrong, test, directory):
    """The result of a test on a copy, made in the directory, with one line of a file spoilt."""
    shutil.copytree(Path(minddpg.__file__).parent, directory / "minddpg")
    source = directory / "minddpg" / f"{file}.py"
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
        yield {bug: pool.submit(planted, bug, tmp_path_factory.mktemp("copy")) for bug in (None, *CAUGHT_BY)}


@pytest.mark.skipif(not JIT, reason="planted once, by the run with the JIT")
@pytest.mark.parametrize("bug", CAUGHT_BY)
def test_planted_bug_fails(bug, results):
    result = results[bug].result()
    assert result.returncode == 1, result.stdout + result.stderr  # 1: tests ran and failed
    assert "AssertionError" in result.stdout, result.stdout  # by a comparison, not by a crash


@pytest.mark.skipif(not JIT, reason="once, by the run with the JIT")
def test_the_unspoilt_copy_passes(results):
    result = results[None].result()
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_bug_that_gradient_checks_do_not_see_has_a_test():
    assert {bug.name for bug in OF_A_RUN} <= set(CAUGHT_BY) <= set(CATALOGUE)
    assert len(CATALOGUE) == len(BUGS) + len(OF_A_RUN)
