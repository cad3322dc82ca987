"""What one update costs beside its large matrix products alone, done by NumPy's BLAS on one thread.

    python scripts/update_floor.py [--dtype float64] [--rounds 300]

The products between two hidden layers are nearly all of an update's arithmetic; there are ten of them, whatever the
language. Each round times one update and then those ten, so that a noisy machine slows both; the ratio is the median of
the rounds'. The last column is the policy for one observation, the call from Python included.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

for library in ("OPENBLAS", "MKL", "OMP"):  # read when NumPy is imported
    os.environ[f"{library}_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Callable

import numpy as np

from minddpg import DDPG, Config, ReplayBuffer

# hidden sizes, batch, obs_dim, act_dim, and the ratio aimed at
SHAPES = (
    ((64, 64), 64, 3, 1, 1.6),
    ((256, 256), 256, 3, 1, 1.25),
    ((256, 256), 256, 17, 6, 1.25),
    ((400, 300), 100, 3, 1, 1.25),
)
FORWARD, TO_WEIGHTS, TO_INPUT = 5, 2, 3  # passes through the hidden layers in one update; see ddpg.py
ACTS = 20  # timed at once


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def filled_replay(agent: DDPG, rng: np.random.Generator, size: int = 5000) -> ReplayBuffer:
    replay = ReplayBuffer(size, agent.obs_dim, agent.act_dim, agent.config.dtype)
    for _ in range(size):
        obs, next_obs = rng.standard_normal((2, agent.obs_dim))
        replay.add(obs, rng.uniform(-1, 1, agent.act_dim), rng.standard_normal(), next_obs, bool(rng.random() < 0.1))
    return replay


def floor(hidden: tuple[int, int], n: int, dtype: str, rng: np.random.Generator) -> Callable[[], None]:
    """The ten products of an update between two hidden layers, one after another."""
    below, above = hidden
    x, w = rng.standard_normal((n, below)).astype(dtype), rng.standard_normal((below, above)).astype(dtype)
    y, dx, dw = rng.standard_normal((n, above)).astype(dtype), np.empty_like(x), np.empty_like(w)
    out = np.empty_like(y)

    def products() -> None:
        for _ in range(FORWARD):
            np.matmul(x, w, out=out)
        for _ in range(TO_WEIGHTS):
            np.matmul(x.T, y, out=dw)
        for _ in range(TO_INPUT):
            np.matmul(y, w.T, out=dx)

    return products


def measure(hidden: tuple[int, int], n: int, obs_dim: int, act_dim: int, dtype: str, rounds: int) -> list[float]:
    """Medians in microseconds of the update, the floor and one act, and of the first two's ratio."""
    rng = np.random.default_rng(0)
    agent = DDPG(obs_dim, act_dim, Config(hidden_sizes=hidden, batch_size=n, dtype=dtype))
    replay, obs = filled_replay(agent, rng), rng.standard_normal(obs_dim).astype(dtype)
    timed = (
        lambda: agent.update_from(replay, rng),
        floor(hidden, n, dtype, rng),
        lambda: [agent.act(obs) for _ in range(ACTS)],
    )
    for function in timed * 5:  # compiled, and everything in the caches that will be
        function()
    update, ten, acts = np.array([[seconds(function) for function in timed] for _ in range(rounds)]).T
    return [*(float(np.median(times)) * 1e6 for times in (update, ten, acts / ACTS)), float(np.median(update / ten))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    print(" hidden  batch obs act    update     floor  ratio  goal      act")
    for hidden, n, obs_dim, act_dim, goal in SHAPES:
        update, ten, act, ratio = measure(hidden, n, obs_dim, act_dim, options.dtype, options.rounds)
        print(f"{'-'.join(map(str, hidden)):>7} {n:6} {obs_dim:3} {act_dim:3}", end=" ")
        print(f"{update:6.0f} us {ten:6.0f} us {ratio:6.2f} {goal:5.2f} {act:5.1f} us", flush=True)


if __name__ == "__main__":
    main()
