"""The best possible return on Pendulum-v1, start by start, by dynamic programming: the yardstick of reproduce.py.

Value iteration backwards through the 200 undiscounted steps, on a grid of angle x velocity with linear interpolation
between its points and a fixed set of torques. Dynamics and reward are those of Gymnasium's Pendulum-v1 (g = 10,
m = l = 1, dt = 0.05). The finer the grid, the closer to the truth: `--check` prints three grids and what the greedy
policy really gets.

    python scripts/pendulum_optimum.py [--first-seed 10000] [--starts 100] [--check]
"""

import argparse
import math

import gymnasium
import numpy as np
from numba import njit, prange

STEPS, MAX_SPEED, MAX_TORQUE, DT = 200, 8.0, 2.0, 0.05


@njit
def step(angle, speed, torque):
    """One step of Pendulum-v1.    -> reward, angle, speed"""
    wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
    reward = -(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = speed + (15 * math.sin(angle) + 3 * torque) * DT
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    return reward, angle + speed * DT, speed


@njit
def lookup(values, angle, speed):
    """Bilinear interpolation; the angle is periodic, the velocity has both ends on the grid."""
    angles, speeds = values.shape
    x = (angle / (2 * math.pi)) % 1.0 * angles
    y = (speed + MAX_SPEED) / (2 * MAX_SPEED) * (speeds - 1)
    i, j = int(x) % angles, min(int(y), speeds - 2)
    k, u, v = (i + 1) % angles, x - int(x), y - min(int(y), speeds - 2)
    left = (1 - v) * values[i, j] + v * values[i, j + 1]
    right = (1 - v) * values[k, j] + v * values[k, j + 1]
    return (1 - u) * left + u * right


@njit
def best_action(values, angle, speed, torques):
    """The torque of the highest value one step ahead.    -> value, torque"""
    best, chosen = -np.inf, 0.0
    for torque in torques:
        reward, next_angle, next_speed = step(angle, speed, torque)
        value = reward + lookup(values, next_angle, next_speed)
        if value > best:
            best, chosen = value, torque
    return best, chosen


@njit(parallel=True)
def one_step_earlier(values, torques):
    angles, speeds = values.shape
    earlier = np.empty_like(values)
    for i in prange(angles):
        for j in range(speeds):
            speed = -MAX_SPEED + 2 * MAX_SPEED * j / (speeds - 1)
            earlier[i, j] = best_action(values, 2 * math.pi * i / angles, speed, torques)[0]
    return earlier


def solve(angles=600, speeds=401, torques=33):
    """values (STEPS + 1, angles, speeds): the best return of the last t steps, t = 0 ... STEPS."""
    values, choices = [np.zeros((angles, speeds))], np.linspace(-MAX_TORQUE, MAX_TORQUE, torques)
    for _ in range(STEPS):
        values.append(one_step_earlier(values[-1], choices))
    return np.array(values)


def starts(first_seed, count):
    """(angle, velocity) of reset(seed=first_seed), reset(seed=first_seed + 1), ..."""
    env = gymnasium.make("Pendulum-v1")
    states = []
    for seed in range(first_seed, first_seed + count):
        env.reset(seed=seed)
        states.append(tuple(env.unwrapped.state))
    return states


def optimal_returns(first_seed=10_000, count=100):
    """The optimum (count,) for each start."""
    final = solve()[STEPS]
    return np.array([lookup(final, angle, speed) for angle, speed in starts(first_seed, count)])


def greedy_return(values, angle, speed, torques):
    total = 0.0
    for left in range(STEPS, 0, -1):
        torque = best_action(values[left - 1], angle, speed, torques)[1]
        reward, angle, speed = step(angle, speed, torque)
        total += reward
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first-seed", type=int, default=10_000)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="three grids, and what the greedy policy really gets")
    args = parser.parse_args()
    states = starts(args.first_seed, args.starts)
    for angles, speeds, torques in [(150, 101, 17), (300, 201, 33), (600, 401, 33)] if args.check else [(600, 401, 33)]:
        values = solve(angles, speeds, torques)
        optimum = np.mean([lookup(values[STEPS], *state) for state in states])
        line = f"grid {angles} x {speeds} x {torques} torques: mean optimum {optimum:.1f}"
        if args.check:
            choices = np.linspace(-MAX_TORQUE, MAX_TORQUE, torques)
            got = np.mean([greedy_return(values, *state, choices) for state in states])
            line += f", the greedy policy on the grid gets {got:.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
