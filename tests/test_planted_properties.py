"""Faults of meaning, planted one at a time into a copy of the package: each named test must fail.

Those that a sceptic planted and no test noticed: of the training half, its random numbers, files and compiled code.
That every line to spoil is still there is checked always; that the test fails, with `pytest -m slow`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import JIT, clean_environment

import minddpg

TESTS, PACKAGE = Path(__file__).parent, Path(minddpg.__file__).parent
RUN = "test_reference_run.py::test_a_run_is_the_reference_event_by_event"
TRAINING = "test_reference_run.py::test_a_whole_training_is_what_was_planned"
DRAWS = "test_random_properties.py::test_draws_are_uniform_over_all_that_is_held"
UPDATES = "test_random_properties.py::test_updates_draw_whole_batches_from_all_that_is_held"
GAUSSIAN = "test_random_properties.py::test_gaussian_noise_over_components_and_lags"
OU = "test_random_properties.py::test_ornstein_uhlenbeck_noise_over_components_and_lags"
UNIFORM = "test_random_properties.py::test_uniform_actions_over_components_environments_and_time"
TILE = "test_matmul.py::test_every_shape_at_every_edge_of_the_tile"
SOURCES = "test_cache_properties.py::test_every_source_counts"

EMPTY = 'add a transition before drawing")\n'
FAULTS = {  # name: (file, {right: wrong}, test)
    "the buffer is never smaller than the steps": (
        "training.py",
        {"rows = min(config.buffer_size,": "rows = max(config.buffer_size,"},
        RUN,
    ),
    "losses go on at an episode's end": (
        "training.py",
        {"= Episode(episode.number + 1)": "= Episode(episode.number + 1, 0, 0, 9, [1.0] * 5)"},
        RUN,
    ),
    "the noise goes on after a termination": (
        "training.py",
        {
            "ended.append(i)": "ended.append(i)\n                self.cut = moment.truncated[i]",
            "self.noises[i].reset()": "self.cut and self.noises[i].reset()",
        },
        RUN,
    ),
    "the environment's seed is the run's": (
        "seeds.py",
        {"return _seed(seed, EPISODES, environment, number)": "return seed"},
        "test_reference_run.py::test_every_episode_has_a_start_of_its_own",
    ),
    "evaluations start where training does": (
        "seeds.py",
        {"return _seed(seed, EVALUATION, number)": "return _seed(seed, EPISODES, 0, number)"},
        "test_reference_run.py::test_every_episode_has_a_start_of_its_own",
    ),
    "an update before the transition is stored": (
        "training.py",
        {"        self.steps += len(moment.rows)\n": "        self.steps += len(moment.rows) - 1\n"},
        RUN,
    ),
    "updates begin one step early": (
        "training.py",
        {"step <= config.learning_starts or": "step < config.learning_starts or"},
        RUN,
    ),
    "a truncation is stored as a termination": (
        "training.py",
        {"terminated)\n        except ShapeError": "terminated or truncated)\n        except ShapeError"},
        RUN,
    ),
    "the noise is not bounded": (
        "training.py",
        {"within(self.agent.act(self.obs) + noise, -1.0, 1.0)": "self.agent.act(self.obs) + noise"},
        RUN,
    ),
    "the last evaluation is left out": (
        "evaluation.py",
        {"steps // self._every > self.made": "(steps - 1) // self._every > self.made"},
        TRAINING,
    ),
    "every evaluation has other starts": (
        "evaluation.py",
        {"evaluation_seed(self._seed, number)": "evaluation_seed(self._seed, number + steps)"},
        TRAINING,
    ),
    "gaussian: one number for all components": (
        "noise.py",
        {"self.rng.standard_normal(self.act_dim)": "self.rng.standard_normal() * np.ones(self.act_dim)"},
        GAUSSIAN,
    ),
    "ou: one number for all components": (
        "noise.py",
        {"self.rng.standard_normal(len(self.x))": "self.rng.standard_normal() * np.ones(len(self.x))"},
        OU,
    ),
    "ou: theta of at least 0.1": ("noise.py", {"std, theta, rng\n": "std, max(theta, 0.1), rng\n"}, OU),
    "uniform: one number for all components": (
        "training.py",
        {"uniform(-1.0, 1.0, self.environments.act_dim)": "uniform(-1.0, 1.0, 1) * np.ones(self.environments.act_dim)"},
        UNIFORM,
    ),
    "environments share their random numbers": (
        "training.py",
        {"random_streams(seed, i) for i": "random_streams(seed) for i"},
        UNIFORM,
    ),
    "the newest is never drawn once the ring is full": (
        "replay.py",
        {
            EMPTY: EMPTY + "        if self.size == self.capacity > 1:\n"
            "            return (self.added + rng.integers(self.size - 1, size=batch_size)) % self.capacity\n"
        },
        DRAWS,
    ),
    "a batch of at most the replay's size": (
        "replay.py",
        {EMPTY: EMPTY + "        batch_size = min(batch_size, self.size)\n"},
        UPDATES,
    ),
    "float64 agents see float32": (
        "environment/values.py",
        {"array = source.flatten()\n": "array = source.flatten().astype(np.float32).astype(self._obs_dtype)\n"},
        RUN,
    ),
    "observations flattened column by column": (
        "environment/values.py",
        {
            "array = source.flatten()\n": 'array = source.flatten("F")\n',
            "astype(self._obs_dtype).reshape(-1)\n": 'astype(self._obs_dtype).flatten("F")\n',
        },
        RUN,
    ),
    "SIGTERM is not handled": (
        "training.py",
        {'("SIGINT", "SIGTERM", "SIGHUP") if': '("SIGINT", "SIGHUP") if'},
        "test_signal_properties.py::test_a_second_one_of_any_kind_is_handled_as_before",
    ),
    "sources of the top level only": (
        "fast/cache.py",
        {'sorted(PACKAGE.rglob("*.py"))': 'sorted(PACKAGE.glob("*.py"))'},
        SOURCES,
    ),
    "a source's name does not count": (
        "fast/cache.py",
        {'source.relative_to(PACKAGE).as_posix().encode() + b"\\0" + ': ""},
        SOURCES,
    ),
    "tables with nine digits": (
        "runs/tables.py",
        {"else repr(value) for": 'else f"{value:.9g}" for'},
        "test_table_properties.py::test_any_numbers_come_back_to_the_bit",
    ),
    "a monitor that goes on has another stream": (
        "gradflow/monitor.py",
        {'        self.rng.bit_generator.state = state["rng"]\n': ""},
        "test_monitor_properties.py::test_looks_come_when_due_and_go_on_from_a_state",
    ),
}
COMPILED = {
    "the last rows are left out": ("fast/matmul.py", {"range((m + ROWS - 1) // ROWS)": "range(m // ROWS)"}, TILE),
    "the last columns are left out": (
        "fast/matmul.py",
        {"n - width)\n            _pack_rows(": "n // width * width - width)\n            _pack_rows("},
        TILE,
    ),
    "a division by zero raises": (
        "fast/jit.py",
        {'compiled = numba.njit(function, error_model="numpy", ': "compiled = numba.njit(function, "},
        "test_cache_properties.py::test_a_division_by_zero_raises_nothing_in_compiled_code",
    ),
}
UNSHRUNK = """
from hypothesis import Phase, settings

def pytest_pycollect_makemodule():
    phases = Phase.explicit, Phase.generate  # an example that fails need not be made small
    settings.register_profile("unshrunk", settings.get_profile("default"), phases=phases)
    settings.load_profile("unshrunk")
"""
EVERY = {**FAULTS, **COMPILED}


def spoilt(name):
    """The file's text with the fault in it."""
    file, changes, _ = EVERY[name]
    text = (PACKAGE / file).read_text()
    for right, wrong in changes.items():
        count = text.count(right)
        assert count == 1, f"the line to spoil has changed: {right!r} stands {count} times in {file}"
        text = text.replace(right, wrong)
    return text


@pytest.mark.parametrize("name", EVERY)
def test_what_is_to_be_spoilt_is_there(name):
    file, _, test = EVERY[name]
    compile(spoilt(name), file, "exec")
    module, _, function = test.partition("::")
    assert f"\ndef {function}(" in (TESTS / module).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.skipif(not JIT, reason="planted once, by the run with the JIT")
def test_a_planted_fault_is_noticed(name, tmp_path):
    file, _, test = EVERY[name]
    shutil.copytree(PACKAGE, tmp_path / "minddpg")
    (tmp_path / "minddpg" / file).write_text(spoilt(name))
    (tmp_path / "unshrunk.py").write_text(UNSHRUNK)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "unshrunk"]
    command.append(f"--basetemp={tmp_path / 'tmp'}")
    changes = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    if name in FAULTS:
        changes["NUMBA_DISABLE_JIT"] = "1"
    result = subprocess.run([*command, str(TESTS / test)], env=clean_environment(**changes), cwd=tmp_path,
                            capture_output=True, text=True, timeout=300)  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr  # 1: tests ran and failed
    assert "Error" in result.stdout, result.stdout
