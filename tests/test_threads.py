"""Several threads for one update: the same bits, and no end of the process, whatever people do around it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import JIT, agent_of, clean_environment, make_batch

from minddpg import Config, ReplayBuffer, resume, train
from minddpg.fast import threads
from minddpg.fast.choice import Threads
from minddpg.fast.jit import jit
from minddpg.fast.threads import TROUBLE, begin, cpus, end, share, team

LARGE = {
    "hidden_sizes": (130, 70),
    "batch_size": 129,
    "dtype": "float32",
    "buffer_size": 400,
    "critic_weight_decay": 0.01,
}
needs_team = pytest.mark.skipif(bool(TROUBLE), reason=TROUBLE or "none")


@jit
def count(first, last, taken, scale):
    for part in range(first, last):
        taken[part] += scale


@jit
def many_loops(address, number, taken, loops):
    begin(address, number)
    for _ in range(loops):
        share(count, len(taken), 1 << 40, (taken, 2))
    end(address)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_every_part_is_made_once(number):
    for parts in (1, 2, 7, 64):
        taken = np.zeros(parts, np.int64)
        many_loops(team(number), number, taken, 300)
        many_loops(0, 1, taken, 1)
        np.testing.assert_array_equal(taken, 602)


@needs_team
def test_helpers_take_parts_and_are_waited_for():
    """Two parts that each wait for the other one: one thread would never end. One of them takes longer afterwards."""
    code = """
import time, numpy as np
from minddpg.fast.jit import jit
from minddpg.fast.threads import begin, end, share, team, _add, _load

@jit
def meet(first, last, here, made):
    _add(here, 1)
    while _load(here) < 2:
        pass
    if first == 1:
        for _ in range(100_000):
            _load(here)
    made[first] = 1

@jit
def meeting(address, here, made):
    begin(address, 2)
    share(meet, 2, 1 << 40, (here, made))
    total = made.sum()
    end(address)
    return total

here = np.zeros(1, np.int64)
team(2)
time.sleep(0.5)  # until the helper, a Python thread, has begun
totals = []
for _ in range(40):
    here[0] = 0
    totals.append(meeting(team(2), here.ctypes.data, np.zeros(2, np.int64)))
print(set(map(int, totals)))
"""
    assert output_of(code) == "{2}"


def parameters_after(number, updates, dtype="float32", change=None, **options):
    agent, rng = agent_of(17, 6, **{**LARGE, "dtype": dtype, **options}), np.random.default_rng(0)
    replay = ReplayBuffer(400, 17, 6, dtype, agent.config.n_step)
    for i, transition in enumerate(zip(*make_batch(rng, 400, 17, 6, dtype), strict=True)):
        replay.add(*transition, steps=1 + i % agent.config.n_step)
        agent.observe(transition[0])
    for made in range(updates):
        agent.threads = number if change is None or made < updates // 2 else change
        agent.update_from(replay, rng)
    return {name: value.tobytes() for name, value in agent.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype):
    alone = parameters_after(1, 40, dtype)
    for number in (2, 3, 5):
        assert parameters_after(number, 40, dtype) == alone
    assert parameters_after(3, 40, dtype, change=2) == alone


OPTIONS = {
    "td3": {"algorithm": "td3", "policy_delay": 3},
    "batch": {"normalisation": "batch", "action_layer": 1},
    "layer": {"normalisation": "layer", "action_layer": 1},
    "tanh": {"activation": "tanh"},
    "inverted": {"invert_gradients": True},
    "n_step": {"n_step": 3},
    "clipped": {"max_grad_norm": 0.1},
    "normalise_obs": {"normalise_obs": True},
    "rates": {"final_lr_share": 0.1},
}
TOGETHER = {  # of one kind, which is compiled once
    "all, batch": {name: value for one in OPTIONS.values() for name, value in one.items()} | OPTIONS["batch"],
    "all, layer": {name: value for one in OPTIONS.values() for name, value in one.items()},
}


@pytest.mark.parametrize("name", [*TOGETHER, *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS)])
def test_the_bits_of_options_do_not_depend_on_it_either(name):
    options = {**OPTIONS, **TOGETHER}[name]
    alone = parameters_after(1, 12, **options)
    assert all(parameters_after(number, 12, **options) == alone for number in (2, 3, 5))
    assert parameters_after(3, 12, change=2, **options) == alone
    assert alone != parameters_after(1, 11, **options)


@pytest.mark.skipif(not JIT, reason="compares compiled code with plain NumPy")
@pytest.mark.parametrize("name", TOGETHER)
def test_compiled_options_compute_what_their_lines_do_as_plain_numpy(name):
    """The first gradients of both critics and of the actor, in Adam's memory."""
    code = f"""
import sys, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_threads import TOGETHER, gradients_of
np.savez("plain.npz", **gradients_of({name!r}))
"""
    output_of(code, NUMBA_DISABLE_JIT="1")
    compiled = gradients_of(name)
    assert len(compiled) == 3
    with np.load("plain.npz") as plain:
        for key, gradient in compiled.items():
            largest = np.abs(plain[key]).max()
            assert largest > 0
            np.testing.assert_allclose(gradient, plain[key], rtol=2e-3, atol=2e-5 * largest, err_msg=key)


def gradients_of(name):
    """Of an agent's first update, in which the actor makes a step."""
    agent = agent_of(17, 6, **{**LARGE, **TOGETHER[name], "policy_delay": 1})
    batch = make_batch(np.random.default_rng(0), 129, 17, 6, "float32")
    for obs in batch.obs[:40]:
        agent.observe(obs)
    agent.update(batch)
    return {name: value for name, value in agent.state_dict().items() if name.endswith("_adam.m")}


@needs_team
def test_times_of_td3_are_compared_over_as_many_updates_as_one_has_an_actor_step(monkeypatch):
    monkeypatch.setattr("minddpg.fast.choice.cpus", lambda: 2)
    choice, took = Threads("auto"), []
    choice.choice.took = took.append
    now = iter([0, 1, 10, 13, 20, 21, 30, 33])  # every second update takes three times as long
    monkeypatch.setattr("minddpg.fast.choice.time.perf_counter", lambda: next(now))

    class Agent:
        config = Config(algorithm="td3", policy_delay=2)
        update_from = staticmethod(lambda *_: None)

    for _ in range(4):
        choice.update(Agent(), None, None)
    assert took == [2, 2]


@pytest.mark.slow
def test_the_bits_after_2000_updates():
    alone = parameters_after(1, 2000)
    assert all(parameters_after(number, 2000) == alone for number in (2, 3, 5))


@needs_team
def test_large_loops_are_shared():
    """Otherwise the tests of equal bits would compare one thread with itself."""
    code = """
import ctypes, numpy as np
from minddpg import DDPG, Config, ReplayBuffer
from minddpg.fast import threads
agent = DDPG(17, 6, Config(hidden_sizes=(256, 256), batch_size=256))
replay = ReplayBuffer(1, 17, 6)
replay.add([0.0] * 17, [0.0] * 6, 0.0, [0.0] * 17, True)
agent.threads = 2
agent.update_from(replay, np.random.default_rng(0))
print(ctypes.c_int64.from_address(threads.team(2) + threads.PARTS).value > 0)
"""
    assert output_of(code) == "True"


def output_of(code, seconds=300, **changes):
    """What a process prints that must end well, and in time."""
    environment = clean_environment(PYTHONPATH=os.pathsep.join(sys.path), PYTHONWARNINGS="ignore", **changes)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout.strip()


COMMON = """
import hashlib, os, sys, threading
import numpy as np, minddpg
from minddpg import Config, ReplayBuffer, DDPG

CONFIG = Config(hidden_sizes=(130, 70), batch_size=129, learning_starts=130, steps=220)
LOOK = {"progress": False, "threads": 3}

def run(seed=0, **more):
    agent = minddpg.train("Pendulum-v1", CONFIG, seed=seed, **{**LOOK, **more}).agent
    return hashlib.sha256(b"".join(v.tobytes() for v in agent.state_dict().values())).hexdigest()
"""
SAFE = {
    "two agents in two Python threads": """
alone, found = [run(seed, threads=1) for seed in (1, 2)], {}
both = [threading.Thread(target=lambda seed=seed: found.update({seed: run(seed)})) for seed in (1, 2)]
[one.start() for one in both]; [one.join() for one in both]
print([found[1], found[2]] == alone)
""",
    "act from several threads during training": """
agent, over = DDPG(3, 1, CONFIG), []
def ask():
    while not over:
        assert abs(agent.act(np.zeros((200, 3)))).max() <= 1
askers = [threading.Thread(target=ask) for _ in range(3)]
[one.start() for one in askers]
replay = ReplayBuffer(5, 3, 1); replay.add([1, 2, 3], [0.5], 1, [1, 2, 3], False)
agent.threads = 3
for _ in range(100): agent.update_from(replay, np.random.default_rng(0))
over.append(True); [one.join() for one in askers]
print(agent.is_finite())
""",
    "fork after use": """
first = run()
child = os.fork()
if child == 0:
    os._exit(0 if run() == first else 1)
print(os.waitpid(child, 0)[1] == 0 and run() == first)
""",
    "fork of a fork, which ends as an interpreter does": """
first = run()
child = os.fork()
if child == 0:
    assert run() == first
    grandchild = os.fork()
    if grandchild == 0:
        sys.exit(0 if run() == first else 1)
    sys.exit(os.waitpid(grandchild, 0)[1])
print(os.waitpid(child, 0)[1] == 0 and run() == first)
""",
    "asynchronous environments": """
config = CONFIG.replace(num_envs=2)
first = run()
bits = [minddpg.train("Pendulum-v1", config, vectorization="async", progress=False, threads=n).agent for n in (1, 3)]
print(bits[0].actor.params.tobytes() == bits[1].actor.params.tobytes() and run() == first)
""",
    "an update that ends in an exception": """
from minddpg import agent as module
import minddpg.fast.threads as threads, ctypes
first, real = run(), module.call
def failing(*arguments):
    if arguments[0] is not module.shared_update: return real(*arguments)
    ctypes.c_int64.from_address(threads.team(3) + threads.THREADS).value = 3  # as if it had not come to its end
    raise KeyboardInterrupt
module.call = failing
try: run()
except KeyboardInterrupt: pass
module.call = real
resting = not threads.team(3) or ctypes.c_int64.from_address(threads.team(3) + threads.THREADS).value == 0
print(resting and run() == first)
""",
    "one CPU": """
first = run(threads=1)
if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(run() == first)
""",
}
STARTED = """
if __name__ == "__main__":
    import multiprocessing
    first, context = run(), multiprocessing.get_context({how!r})
    with context.Pool(2) as pool:
        print(set(pool.map(run, [0, 0, 0])) == {{first}} and run() == first)
"""


@needs_team
@pytest.mark.slow
@pytest.mark.parametrize("what", SAFE)
def test_safe(what):
    assert output_of(COMMON + SAFE[what]).splitlines()[-1] == "True"


@needs_team
@pytest.mark.slow
@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_safe_with_processes(how, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(COMMON + STARTED.format(how=how))
    code = f"import subprocess, sys; subprocess.run([sys.executable, {str(program)!r}], check=True, timeout=250)"
    assert output_of(code) == "True"


@needs_team
def test_helpers_sleep_between_updates():
    """A second without an update costs next to no time of the CPU."""
    code = """
import time, numpy as np
from minddpg.fast.threads import begin, end, team
from minddpg.fast.jit import jit

@jit
def nothing(address):
    begin(address, 3)
    end(address)

for _ in range(100): nothing(team(3))
time.sleep(0.1)
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before < 0.05)
"""
    assert output_of(code) == "True"


def test_where_no_team_can_be_made(monkeypatch):
    monkeypatch.setattr(threads, "TROUBLE", "there are no POSIX threads")
    assert team(4) == 0


@needs_team
def test_a_system_without_room_for_threads(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    made = threads.Team()
    monkeypatch.setattr(threads.threading.Thread, "start", refused)
    made.grow(4)
    taken = np.zeros(9, np.int64)
    many_loops(made.address, 4, taken, 10)
    np.testing.assert_array_equal(taken, 20)


def test_threads_of_a_run_change_no_bit():
    config = Config(hidden_sizes=(64, 64), batch_size=64, learning_starts=64, steps=150)
    found = {n: train("Pendulum-v1", config, seed=1, threads=n).agent.state_dict() for n in (1, 2, "auto")}
    for name, value in found[1].items():
        np.testing.assert_array_equal(found[2][name], value)
        np.testing.assert_array_equal(found["auto"][name], value)


def test_a_run_goes_on_with_another_number(tmp_path):
    config = Config(hidden_sizes=(64, 64), batch_size=64, learning_starts=64, steps=120)
    whole = train("Pendulum-v1", config, seed=1, threads=1).agent.state_dict()
    train("Pendulum-v1", config.replace(steps=90), seed=1, threads=3, out=tmp_path / "run")
    for name, value in resume(tmp_path / "run", steps=120, threads=2).agent.state_dict().items():
        np.testing.assert_array_equal(whole[name], value, err_msg=name)


def test_a_run_says_what_it_chose(caplog):
    caplog.set_level("INFO", "minddpg")
    train("Pendulum-v1", Config(hidden_sizes=(4,), batch_size=8, learning_starts=8, steps=40))
    lines = [line for line in caplog.messages if "for an update" in line]
    assert len(lines) == (cpus() > 1 and not TROUBLE)
    assert all(line.startswith("one thread for an update: ") for line in lines)


@needs_team
def test_the_numbers_of_a_team_stand_in_lines_of_the_cache_of_their_own():
    """Wherever the memory happens to begin, and inside of it."""
    teams, taken = [], []
    for number in range(16):
        taken.append(np.zeros(16 * number + 8, np.uint8))  # so that it begins elsewhere each time
        teams.append(threads.Team())
    for one in teams:
        first = one._memory.ctypes.data
        assert one.address % 64 == 0
        assert first <= one.address
        assert one.address + threads.BYTES <= first + one._memory.nbytes
