"""How long a check of every parameter takes, beside torch.autograd.gradcheck on the same chain in the same run.

    python scripts/gradcheck_speed.py [--json]

The chain is -mean Q(s, mu(s)) in the actor's parameters, in float64. Torch (extra `crosscheck`) is optional; its time
is taken with one thread, and for the small networks only. Medians, after one call that compiles.
"""

import argparse
import json
import platform
import statistics
import sys
import time

import numba
import numpy as np

from minddpg import DDPG, Batch, Config
from minddpg.gradcheck import check_agent
from minddpg.gradcheck.differences import STEP
from minddpg.gradcheck.sweep import sweep_actor

CASES = (  # hidden sizes, action_layer, N, obs_dim, act_dim, repetitions
    ((64, 64), 0, 32, 3, 1, 9),
    ((256, 256), 0, 32, 17, 6, 1),
    ((400, 300), 1, 16, 3, 1, 1),
    ((400, 300), 0, 16, 3, 1, 1),
)


def seconds(function, repetitions):
    """The median time of a call."""
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def sweep(agent, obs, weights):
    """Central differences of the chain in every parameter of the actor."""
    look = sweep_actor(agent.actor, agent.critic, obs, weights, 1e-16)
    return look(np.ones(agent.actor.params.size, bool), STEP)


def torch_gradcheck(agent, obs):
    """torch.autograd.gradcheck of the chain, as a function without arguments; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    state = {name: torch.tensor(array) for name, array in agent.state_dict().items()}
    actor = [v.requires_grad_() for name, v in state.items() if name.startswith("actor.")]
    critic = [v for name, v in state.items() if name.startswith("critic.")]
    x = torch.tensor(obs)

    def perceptron(params, x):
        for i in range(0, len(params), 2):
            x = x @ params[i] + params[i + 1]
            x = torch.relu(x) if i < len(params) - 2 else x
        return x

    def minus_q(*actor):
        return -perceptron(critic, torch.cat([x, torch.tanh(perceptron(actor, x))], dim=1)).mean()

    return lambda: torch.autograd.gradcheck(minus_q, actor)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    for hidden, action_layer, n, obs_dim, act_dim, repetitions in CASES:
        config = Config(hidden_sizes=hidden, action_layer=action_layer, dtype="float64")
        agent = DDPG(obs_dim, act_dim, config)
        obs, next_obs = rng.standard_normal((2, n, obs_dim))
        act, rew, over = rng.uniform(-1, 1, (n, act_dim)), rng.standard_normal(n), rng.random(n) < 0.2
        batch, minus_mean = Batch(obs, act, rew, next_obs, over), np.full(n, -1 / n)
        if not rows:  # compiles
            sweep(agent, obs, minus_mean)
            check_agent(agent, batch)
        peer = torch_gradcheck(agent, obs) if hidden == (64, 64) and action_layer == 0 else None
        ours, theirs = [], []
        for _ in range(repetitions):  # in turns, so that a busy moment meets both
            ours.append(seconds(lambda a=agent, o=obs, w=minus_mean: sweep(a, o, w), 1))
            if peer and len(theirs) < 3:
                theirs.append(seconds(peer, 1))
        whole = seconds(lambda a=agent, b=batch: check_agent(a, b), min(3, repetitions))
        rows.append(
            {
                "hidden": list(hidden), "action_layer": action_layer, "batch": n, "obs": obs_dim, "act": act_dim,
                "actor_parameters": agent.actor.params.size, "chain_s": statistics.median(ours),
                "check_agent_s": whole, "torch_gradcheck_s": statistics.median(theirs) if theirs else None,
            }
        )  # fmt: skip
        if not args.json:
            row = rows[-1]
            line = f"{hidden} action_layer={action_layer} N={n} ({obs_dim}, {act_dim}): "
            line += f"{row['actor_parameters']:,} actor parameters through the critic {row['chain_s']:.3f} s, "
            line += f"whole agent {whole:.2f} s"
            if theirs:
                line += f", torch.autograd.gradcheck {row['torch_gradcheck_s']:.2f} s"
                line += f" ({row['torch_gradcheck_s'] / row['chain_s']:.0f} times as long)"
            print(line, flush=True)
    torch = sys.modules.get("torch")
    versions = {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__}
    versions |= {"torch": torch.__version__} if torch else {}
    print(json.dumps({"versions": versions, "rows": rows}, indent=2) if args.json else versions)


if __name__ == "__main__":
    main()
