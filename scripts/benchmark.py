"""How fast is one update, and a whole training run? minddpg beside its floor and beside every peer that is installed.

    python scripts/benchmark.py                  floor, threads, update and training
    python scripts/benchmark.py floor threads update growth flat training matmul     some or all of the sections
    python scripts/benchmark.py update --shape 2 only the second of the shapes
    python scripts/benchmark.py --json out.json  the same, also as JSON
    python scripts/benchmark.py --quick          one shape and few rounds: does it run?

One update: draw a batch, critic step, actor step, both Adams, both Polyak averages, float32. Its floor: the ten
products between two hidden layers, nearly all of an update's arithmetic, by NumPy's BLAS on one thread; the ratio is
the median of the rounds', each of which times both. Peers are optional: install torch, stable-baselines3, sbx-rl,
rltools[mkl] (compiles itself with the system's C++ compiler) beside minddpg. Each runs in a process of its own, with 1
thread and with all, and takes turns with minddpg, so that a busy moment meets both; the ratio is the median of the
rounds', each at its better thread count. RLtools has no DDPG: its figure is a part of its TD3's (see rltools below).
"""
# ruff: noqa: E402

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for library in ("OPENBLAS", "MKL", "OMP"):  # read when NumPy is imported
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import numpy as np

SHAPES = (  # hidden, batch, obs, act
    ((64, 64), 64, 3, 1),
    ((256, 256), 256, 3, 1),
    ((400, 300), 100, 3, 1),
    ((256, 256), 256, 17, 6),
)
SECTIONS = ("floor", "threads", "update", "growth", "flat", "training", "matmul")
DEFAULT = ("floor", "threads", "update", "training")
NEEDS = {"minddpg": "minddpg", "torch": "torch", "sb3": "stable_baselines3", "sbx": "sbx", "rltools": "rltools"}
NAMES = {"torch": "plain PyTorch", "sb3": "Stable-Baselines3", "sbx": "SBX", "rltools": "RLtools (C++)"}
NOTES = {"rltools": " (10/17 of an update of its TD3)"}
STORED = 5000  # transitions in the replay
PROJECTED = 16  # cores


# --- what is timed: each returns a function that makes one update -----------------------------------------------------


def transitions(obs_dim, act_dim):
    """Random ones, the same for all."""
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, STORED, obs_dim)).astype(np.float32)
    act = rng.uniform(-1, 1, (STORED, act_dim)).astype(np.float32)
    return obs, act, rng.standard_normal(STORED).astype(np.float32), next_obs


def minddpg(hidden, batch, obs_dim, act_dim):
    """This package."""
    from minddpg import DDPG, Config, ReplayBuffer

    agent, rng = DDPG(obs_dim, act_dim, Config(hidden_sizes=hidden, batch_size=batch)), np.random.default_rng(0)
    replay = ReplayBuffer(STORED, obs_dim, act_dim)
    for row in zip(*transitions(obs_dim, act_dim), strict=True):
        replay.add(*row, False)
    update = lambda: agent.update_from(replay, rng)  # noqa: E731
    update.agent, agent.threads = agent, int(os.environ.get("BENCHMARK_THREADS", "1"))
    return update


def floor(hidden, batch, obs_dim, act_dim):
    """The products of the hidden layers alone: five forward, three to inputs, two to weights (see ddpg.py)."""
    rng, wide, narrow = np.random.default_rng(0), *hidden
    x, w = rng.standard_normal((batch, wide)).astype("f4"), rng.standard_normal((wide, narrow)).astype("f4")
    y, dx, dw = np.zeros((batch, narrow), "f4"), np.zeros((batch, wide), "f4"), np.zeros((wide, narrow), "f4")

    def products():
        for _ in range(5):
            np.matmul(x, w, out=y)
        for _ in range(3):
            np.matmul(y, w.T, out=dx)
        for _ in range(2):
            np.matmul(x.T, y, out=dw)

    return products


def torch(hidden, batch, obs_dim, act_dim):
    """What people write: modules, optimisers, zero_grad, backward, step; targets in one foreach call."""
    import torch
    from torch import nn

    def perceptron(inputs, outputs):
        sizes, layers = [inputs, *hidden], []
        for a, b in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    actor, critic = nn.Sequential(perceptron(obs_dim, act_dim), nn.Tanh()), perceptron(obs_dim + act_dim, 1)
    target_actor = nn.Sequential(perceptron(obs_dim, act_dim), nn.Tanh())
    target_critic = perceptron(obs_dim + act_dim, 1)
    pairs = ((actor, target_actor), (critic, target_critic))
    for online, target in pairs:
        target.load_state_dict(online.state_dict())
    actor_adam, critic_adam = (torch.optim.Adam(net.parameters(), lr=1e-3) for net in (actor, critic))
    stored, rng = [torch.from_numpy(array) for array in transitions(obs_dim, act_dim)], np.random.default_rng(0)

    def update():
        rows = torch.from_numpy(rng.integers(STORED, size=batch))
        obs, act, rew, next_obs = (array[rows] for array in stored)
        with torch.no_grad():
            y = rew + 0.99 * target_critic(torch.cat([next_obs, target_actor(next_obs)], 1)).view(-1)
        loss = nn.functional.mse_loss(critic(torch.cat([obs, act], 1)).view(-1), y)
        critic_adam.zero_grad()
        loss.backward()
        critic_adam.step()
        loss = -critic(torch.cat([obs, actor(obs)], 1)).mean()
        actor_adam.zero_grad()
        loss.backward()
        actor_adam.step()
        with torch.no_grad():
            for online, target in pairs:
                torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 0.005)

    return update


def environment(obs_dim, act_dim):
    """One that plays the stored transitions back, whatever one does; as cheap as can be."""
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    _, _, rewards, observations = transitions(obs_dim, act_dim)
    rewards = rewards.tolist()
    played = itertools.cycle([(obs, rew, False, False, {}) for obs, rew in zip(observations, rewards, strict=True)])

    class Played(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (act_dim,), np.float32)
        spec = EnvSpec("Played-v0", max_episode_steps=1000)

        def reset(self, *, seed=None, options=None):
            return observations[0], {}

        def step(self, action):
            return next(played)

    return Played()


def stable(module, hidden, batch, obs_dim, act_dim, **more):
    """A model of Stable-Baselines3's interface with a full replay."""
    from stable_baselines3.common.logger import Logger

    env = environment(obs_dim, act_dim)
    policy = {"net_arch": list(hidden), **more}
    model = module.DDPG("MlpPolicy", env, batch_size=batch, buffer_size=STORED, policy_kwargs=policy)
    model.set_logger(Logger(None, []))
    for obs, act, rew, next_obs in zip(*transitions(obs_dim, act_dim), strict=True):
        model.replay_buffer.add(obs[None], next_obs[None], act[None], np.array([rew]), np.array([False]), [{}])
    return lambda: model.train(gradient_steps=1, batch_size=batch)


def sb3(*shape):
    """Stable-Baselines3."""
    import stable_baselines3

    return stable(stable_baselines3, *shape)


def sbx(*shape):
    """SBX: Stable-Baselines3's interface on JAX."""
    import sbx

    return stable(sbx, *shape)


def rltools(hidden, batch, obs_dim, act_dim):
    """RLtools' TD3, the actor and all targets trained at every step, one batch for all; compiled on first use.

    A step of it also acts and steps the environment: `aside`, the median of the first 100 steps of new states, which it
    makes without training, is subtracted. What is left is scaled by `share`, DDPG's part of the products between hidden
    layers, 10 of 17: RLtools 2.2 makes 5 for the actor, and 6 for each of two critics: forward, to inputs, to weights,
    and 3 for the target (actor, both critics), which it computes for each critic anew.
    """
    if len(set(hidden)) > 1:
        raise ValueError("one width for all hidden layers only")
    if sys.platform == "linux" and platform.machine() == "x86_64" and not has("mkl", "mkl-include"):
        raise ValueError("without MKL it is some twenty times slower: install rltools[mkl]")
    import rltools

    module = rltools.TD3(
        lambda: environment(obs_dim, act_dim),
        interface_name=f"minddpg_{hidden[0]}_{len(hidden)}_{batch}_{obs_dim}_{act_dim}",  # of its cache
        enable_evaluation=False,
        ACTOR_BATCH_SIZE=batch,
        CRITIC_BATCH_SIZE=batch,
        ACTOR_HIDDEN_DIM=hidden[0],
        CRITIC_HIDDEN_DIM=hidden[0],
        ACTOR_NUM_LAYERS=len(hidden) + 1,  # with the output layer
        CRITIC_NUM_LAYERS=len(hidden) + 1,
        ACTOR_TRAINING_INTERVAL=1,
        CRITIC_TRAINING_INTERVAL=1,
        ACTOR_TARGET_UPDATE_INTERVAL=1,
        CRITIC_TARGET_UPDATE_INTERVAL=1,
        N_WARMUP_STEPS=0,  # of random actions; training starts after 100 in any case
        REPLAY_BUFFER_CAP=STORED,
    )
    times = []
    for seed in range(5):
        state = module.State(seed)
        for _ in range(100):
            started = time.perf_counter()
            state.step()
            times.append(time.perf_counter() - started)
    update = lambda: state.step()  # noqa: E731
    update.aside, update.share = statistics.median(times), 10 / 17
    return update


# --- processes that take turns ----------------------------------------------------------------------------------------


class Candidate:
    """A process that makes updates when told to."""

    def __init__(self, name, shape, threads):
        self.name, self.threads, self.times = name, threads, []
        hidden, *rest = shape
        command = [sys.executable, __file__, "--worker", name, ",".join(map(str, hidden)), *map(str, rest)]
        number = str(threads)
        limits = {f"{library}_NUM_THREADS": number for library in ("OPENBLAS", "OMP", "MKL", "NUMBA")}
        environment = {**os.environ, **limits, "BENCHMARK_THREADS": number}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        line = self.answer()
        self.trouble = None if line == "ready" else line

    def answer(self):
        """The process's next line: "ready", seconds, or what went wrong."""
        return self.process.stdout.readline().strip() or "its process ended early"

    def go(self, seconds):
        """Time updates for about this long.    -> the median of one, None where something went wrong"""
        if self.trouble:
            return None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        line = self.answer()
        try:
            self.times.append(float(line))
        except ValueError:
            self.trouble = line
            return None
        return self.times[-1]

    def close(self):
        """-> median seconds of an update, None where it did not get to the end"""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        return None if self.trouble else statistics.median(self.times)


def worker(name, hidden, batch, obs_dim, act_dim):
    """The other side of Candidate."""
    threads = int(os.environ["BENCHMARK_THREADS"])
    if hasattr(os, "sched_setaffinity") and threads == 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # JAX takes as many threads as there are CPUs
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library's own words are no answers
    try:
        if NEEDS[name] in ("torch", "stable_baselines3"):
            import torch

            torch.set_num_threads(threads)
        update = globals()[name](hidden, batch, obs_dim, act_dim)
        for _ in range(30):
            update()
    except Exception as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=lines)
        return
    print("ready", file=lines)
    for line in sys.stdin:
        times, end = [], time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 5:
            started = time.perf_counter()
            update()
            times.append(time.perf_counter() - started)
        if threads > 1:
            time.sleep(0.25)  # OpenMP's threads spin for 0.2 s after the last product, and would into another's turn
        print((statistics.median(times) - getattr(update, "aside", 0)) * getattr(update, "share", 1), file=lines)


def race(shape, names, rounds, seconds):
    """How an update of each peer compares with ours, which is timed right before each of its turns; medians.

    -> our seconds and threads, {name: (seconds, ratio, threads)} at the better thread count, {name: what went wrong}
    """
    _, gains = with_threads(shape, 10 * rounds)
    ours = Candidate("minddpg", shape, max(gains, key=lambda n: gains[n]))
    if ours.trouble:
        raise SystemExit(f"minddpg: {ours.trouble}")
    counts = sorted({1, os.cpu_count() or 1})
    peers = [Candidate(name, shape, n) for name in names if name != "minddpg" for n in counts]
    ratios = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers or (ours,):
            mine, its = ours.go(seconds / 2), peer.go(seconds)
            if its:
                ratios.get(peer, []).append(its / mine)
    best, troubles = {}, {}
    for peer in peers:
        median = peer.close()
        if median is None:
            troubles[peer.name] = peer.trouble
        elif peer.name not in best or statistics.median(ratios[peer]) < best[peer.name][1]:
            best[peer.name] = (median, statistics.median(ratios[peer]), peer.threads)
    return (ours.close(), ours.threads), best, {name: trouble for name, trouble in troubles.items() if name not in best}


# --- sections ---------------------------------------------------------------------------------------------------------


ONLY = None  # the number of one shape; None: all


def some(cases, quick):
    """All of them, or the first, or the one that was asked for."""
    if ONLY is not None and cases is SHAPES:
        return cases[ONLY - 1 : ONLY]
    return cases[:1] if quick else cases


def with_threads(shape, rounds):
    """An update with 1, 2, 4, ... threads up to all, in turns.    -> {threads: median seconds}, {threads: gain}"""
    update, most = minddpg(*shape), os.cpu_count() or 1
    counts = sorted({1, most, *(2**n for n in range(most.bit_length()))})
    rows = []
    for turn in range(rounds + 2):
        row = []
        for update.agent.threads in counts:
            times = []
            for _ in range(6):
                started = time.perf_counter()
                update()
                times.append(time.perf_counter() - started)
            row.append(statistics.median(times[1:]))  # the first one finds another number's helpers asleep
        rows += [row] * (turn > 1)
    table = np.array(rows)
    gains = np.median(table[:, :1] / table, axis=0)
    return dict(zip(counts, np.median(table, axis=0).tolist(), strict=True)), dict(
        zip(counts, gains.tolist(), strict=True)
    )


def threads_section(installed, quick):
    """One update with 1, 2, 4, ... threads, and what Amdahl's law makes of it: a projection, not a measurement."""
    rows = []
    for shape in some(SHAPES, quick):
        times, gains = with_threads(shape, 3 if quick else 40)
        text = ", ".join(f"{n}: {1e3 * times[n]:.3f} ms ({gains[n]:.2f} x)" for n in times)
        row = {"shape": shape, "seconds": times, "gain": gains}
        if (most := max(times)) > 1:
            share = max(0.0, (1 - 1 / gains[most]) / (1 - 1 / most))  # of the time that threads divide among them
            row |= {"share": share, "projected": 1 / (1 - share + share / PROJECTED)}
            text += f"; {share:.0%} shared, so {PROJECTED} cores might give {row['projected']:.1f} x"
        print(f"{shape_text(shape)}: threads {text}", flush=True)
        rows.append(row)
    return rows


def beside_floor(shape, rounds):
    """Medians of the update, its floor and one act of the policy, in seconds, and of the first two's ratio."""
    update, products = minddpg(*shape), floor(*shape)
    obs = np.zeros(shape[2], np.float32)
    timed = update, products, lambda: [update.agent.act(obs) for _ in range(20)]
    for function in timed * 5:
        function()
    rows = []
    for _ in range(rounds):
        times = []
        for function in timed:
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
        rows.append(times)
    ours, least, acts = np.array(rows).T
    return float(np.median(ours)), float(np.median(least)), float(np.median(acts)) / 20, float(np.median(ours / least))


def floor_section(installed, quick):
    """One update beside its floor, and the policy for one observation, the call from Python included."""
    rows = []
    for shape in some(SHAPES, quick):
        ours, least, act, ratio = beside_floor(shape, 20 if quick else 300)
        print(f"{shape_text(shape)}: {1e3 * ours:.3f} ms, floor {1e3 * least:.3f} ms, {ratio:.2f} x; "
              f"act {1e6 * act:.1f} us", flush=True)  # fmt: skip
        rows.append({"shape": shape, "seconds": ours, "floor": least, "ratio": ratio, "act": act})
    return rows


def update_section(installed, quick):
    """One update, all candidates."""
    rows = []
    for shape in some(SHAPES, quick):
        (ours, number), best, troubles = race(
            shape, installed, rounds=1 if quick else 9, seconds=0.05 if quick else 0.4
        )
        print(f"{shape_text(shape)}: minddpg {1e3 * ours:.3f} ms, {number} thread{'s' * (number > 1)}", flush=True)
        for name, (seconds, ratio, threads) in best.items():
            print(f"    {NAMES[name]:<18} {1e3 * seconds:8.3f} ms, {threads} thread{'s' * (threads > 1)}: "
                  f"{ratio:.2f} x as long{NOTES.get(name, '')}", flush=True)  # fmt: skip
        for name, trouble in troubles.items():
            print(f"    {NAMES[name]:<18} not measured: {trouble}", flush=True)
        peers = {name: {"seconds": s, "ratio": r, "threads": n} for name, (s, r, n) in best.items()}
        rows.append({"shape": shape, "seconds": ours, "threads": number, "peers": peers, "not measured": troubles})
    return rows


def growth_section(installed, quick):
    """How an update grows with batch and width, beside its floor."""
    rows = []
    cases = [((256, 256), n, 3, 1) for n in (32, 64, 128, 256, 512, 1024)]
    cases += [((n, n), 256, 3, 1) for n in (32, 64, 128, 256, 512)]
    for shape in some(cases, quick):
        ours, least, _, ratio = beside_floor(shape, 20 if quick else 60)
        print(f"{shape_text(shape)}: {1e3 * ours:8.3f} ms, floor {1e3 * least:8.3f} ms, {ratio:.2f} x", flush=True)
        rows.append({"shape": shape, "seconds": ours, "floor": least, "ratio": ratio})
    return rows


def flat_section(installed, quick):
    """5,000 updates from one replay: the time of one must not grow (denormal numbers in Adam would make it)."""
    update, rows = minddpg((64, 64), 64, 3, 1), []
    for start in some(range(0, 5000, 500), quick):
        times = []
        for _ in range(500):
            started = time.perf_counter()
            update()
            times.append(time.perf_counter() - started)
        rows.append(statistics.median(times))
        print(f"updates {start + 1:>4} to {start + 500:>4}: {1e6 * rows[-1]:6.1f} us", flush=True)
    return rows


TRAINING = {
    "minddpg": """
import minddpg
config = minddpg.Config(hidden_sizes=({hidden}), batch_size={batch}, learning_starts=1000, steps={steps})
minddpg.train("{env}", config)
""",
    "sb3": """
import gymnasium, torch, numpy as np
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import NormalActionNoise
torch.set_num_threads({threads})
env = gymnasium.make("{env}")
noise = NormalActionNoise(np.zeros(env.action_space.shape), 0.1 * np.ones(env.action_space.shape))
model = DDPG("MlpPolicy", env, batch_size={batch}, learning_starts=1000, train_freq=1, gradient_steps=1,
             action_noise=noise, policy_kwargs=dict(net_arch=[{hidden}]))
model.learn({steps})
""",
}


RUNS = (("Pendulum-v1", (64, 64), 64, 20_000), ("HalfCheetah-v5", (256, 256), 256, 10_000))  # hidden, batch, steps


def training_run(name, env, hidden, batch, steps, threads):
    """Train in a process of its own.    -> seconds, None where it failed (it has said why)"""
    sizes = ",".join(map(str, hidden))
    text = TRAINING[name].format(env=env, hidden=sizes, batch=batch, steps=steps, threads=threads)
    started = time.perf_counter()
    failed = subprocess.run([sys.executable, "-c", text], check=name == "minddpg").returncode
    return None if failed else time.perf_counter() - started


def training_section(installed, quick):
    """Whole processes, environment and imports included: same network, batch, one update per step from the 1,000th on.

    minddpg trains before and after each run of a peer, with the number of threads that it chooses itself; the ratio is
    against the mean of the two. HalfCheetah-v5 needs the extra mujoco.
    """
    subprocess.run([sys.executable, "-m", "minddpg", "warmup"], check=True, stdout=subprocess.DEVNULL)
    rows = []
    for env, hidden, batch, steps in some(RUNS if importlib.util.find_spec("mujoco") else RUNS[:1], quick):
        steps = 1500 if quick else steps
        ours, peers = [training_run("minddpg", env, hidden, batch, steps, 1)], []
        for name in (name for name in TRAINING if name in installed and name != "minddpg"):
            for threads in sorted({1, os.cpu_count() or 1}):
                seconds = training_run(name, env, hidden, batch, steps, threads)
                ours.append(training_run("minddpg", env, hidden, batch, steps, 1))
                if seconds:
                    ratio = 2 * seconds / (ours[-2] + ours[-1])
                    peers.append({"name": name, "threads": threads, "seconds": seconds, "ratio": ratio})
        median = statistics.median(ours)
        what = f"{env}, {shape_text((hidden, batch))}, {steps:,} steps"
        print(f"{what}: minddpg {median:.1f} s (median of {len(ours)})")
        for peer in peers:
            print(f"    {NAMES[peer['name']]:<18} {peer['seconds']:8.1f} s, {peer['threads']} "
                  f"thread{'s' * (peer['threads'] > 1)}: {peer['ratio']:.1f} x as long", flush=True)  # fmt: skip
        rows.append({"env": env, "hidden": hidden, "batch": batch, "seconds": ours, "peers": peers})
    return rows


def matmul_section(installed, quick):
    """Our three products against NumPy's BLAS on one thread, many in a row: ours from compiled code, NumPy's not."""
    import numba

    from minddpg.fast.matmul import matmul, matmul_left_transposed, matmul_right_transposed

    def repeated(product):
        @numba.njit
        def ours(a, b, out, times):
            for _ in range(times):
                product(a, b, out)

        return ours

    shapes = (64, 64, 64), (128, 128, 128), (256, 256, 256), (100, 256, 256), (64, 400, 300), (256, 4, 256)
    products = {"a @ b": matmul, "a.T @ b": matmul_left_transposed, "a @ b.T": matmul_right_transposed}
    rows = []
    for text, product in products.items():
        ours = repeated(product)
        for m, k, n in some(shapes, quick):
            a = np.ones((k, m) if "a.T" in text else (m, k), "f4")
            b = np.ones((n, k) if "b.T" in text else (k, n), "f4")
            x, y = a.T if "a.T" in text else a, b.T if "b.T" in text else b
            out, times = np.zeros((m, n), "f4"), max(3, int(2e7 / (m * k * n)))
            ours(a, b, out, 1)
            pairs = []
            for _ in range(3 if quick else 15):
                t0 = time.perf_counter()
                ours(a, b, out, times)
                t1 = time.perf_counter()
                for _ in range(times):
                    np.matmul(x, y, out=out)
                pairs.append(((t1 - t0) / times, (time.perf_counter() - t1) / times))
            mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{text:<7} {m} x {k} x {n}: {1e6 * mine:7.1f} us, BLAS {1e6 * theirs:7.1f} us, "
                  f"{theirs / mine:.2f} x its speed", flush=True)  # fmt: skip
            rows.append({"product": text, "shape": (m, k, n), "seconds": mine, "blas": theirs})
    return rows


def shape_text(shape):
    """hidden, batch (obs, act)."""
    hidden, batch, *dims = shape
    return f"{'-'.join(map(str, hidden))}, batch {batch}" + (f", ({dims[0]}, {dims[1]})" if dims else "")


def has(*packages):
    """Are they all installed?"""
    try:
        return all(map(version, packages))
    except PackageNotFoundError:
        return False


def describe():
    """Versions and machine kind."""
    found = {"python": platform.python_version(), "cpus": os.cpu_count()}
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")] \
        if cpu.exists() else [platform.processor()]  # fmt: skip
    found["cpu"] = names[0] if names else platform.machine()
    for package in ("minddpg", "numpy", "numba", "gymnasium", "torch", "stable_baselines3", "sbx-rl", "jax",
                    "rltools", "mkl"):  # fmt: skip
        if has(package):
            found[package] = version(package)
    return found


def main():
    """Run the sections."""
    global ONLY
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: {' '.join(DEFAULT)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="one shape and few rounds")
    parser.add_argument("--shape", type=int, choices=range(1, len(SHAPES) + 1), help="only this one")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, hidden, *rest = args.worker
        worker(name, tuple(map(int, hidden.split(","))), *map(int, rest))
        return
    ONLY = args.shape
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    installed = [name for name, module in NEEDS.items() if importlib.util.find_spec(module)]
    missing = [NAMES[name] for name in NEEDS if name not in installed]
    result = {"about": describe()}
    print(", ".join(f"{key} {value}" for key, value in result["about"].items()))
    if missing:
        print(f"not installed, so not measured: {', '.join(missing)}")
    for section in args.sections or DEFAULT:
        print("\n" + globals()[f"{section}_section"].__doc__.splitlines()[0])
        result[section] = globals()[f"{section}_section"](installed, args.quick)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
