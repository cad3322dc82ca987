"""How long a check of every parameter takes, beside torch.autograd.gradcheck on the same chain in the same run.

    python scripts/gradcheck_speed.py [--json]

First a layer, tanh(x W + b) with W of 1000 x 1000 and x of 64 x 1000: a right backward and wrong ones, in the modes
that do not look at every element, with evaluations of the function; and a softmax regression of 3072 x 20.

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
from minddpg.gradcheck import check_agent, check_gradient
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


def layer(p):
    """The function."""
    return np.tanh(p["x"] @ p["W"] + p["b"])


def layer_backward(p, upstream):
    """Its gradients."""
    dz = upstream * (1 - np.tanh(p["x"] @ p["W"] + p["b"]) ** 2)
    return {"b": dz.sum(axis=0), "W": p["x"].T @ dz, "x": dz @ p["W"].T}


def twice(p, upstream):
    """All of them too large."""
    return {name: 2 * gradient for name, gradient in layer_backward(p, upstream).items()}


def without_tanh(p, upstream):
    """The local derivative is left out."""
    return {"b": upstream.sum(axis=0), "W": p["x"].T @ upstream, "x": upstream @ p["W"].T}


def dead_column(p, upstream):
    """One unit's weights get no gradient."""
    gradients = layer_backward(p, upstream)
    gradients["W"][:, 7] = 0
    return gradients


def one_element(p, upstream):
    """One of a million is off."""
    gradients = layer_backward(p, upstream)
    gradients["W"][3, 5] *= 1.5
    return gradients


def regression(p):
    """Softmax cross entropy of x W."""
    z = p["x"] @ p["W"]
    z = z - z.max(axis=1, keepdims=True)
    return -np.mean(z[np.arange(len(z)), p["y"]] - np.log(np.exp(z).sum(axis=1)))


def regression_backward(p):
    """Its gradients."""
    z = p["x"] @ p["W"]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    dz = e / e.sum(axis=1, keepdims=True)
    dz[np.arange(len(z)), p["y"]] -= 1
    return {"W": p["x"].T @ dz / len(z), "x": dz @ p["W"].T / len(z)}


def large_layers():
    """Rows of (what, mode, right, seconds, evaluations, hint)."""
    rng, n = np.random.default_rng(0), 1000
    inputs = {"x": rng.standard_normal((64, n)), "W": rng.standard_normal((n, n)) / 30, "b": rng.standard_normal(n)}
    upstream = rng.standard_normal((64, n))
    x, labels = rng.standard_normal((16, 3072)), rng.integers(0, 20, 16)
    images = {"x": x, "W": rng.standard_normal((3072, 20)) / 30, "y": labels}
    cases = [
        ("1000 x 1000", mode, backward, layer, inputs, upstream)
        for mode in ("directions", "auto")
        for backward in (layer_backward, twice, without_tanh, dead_column, one_element)
    ]
    cases.append(("3072 x 20", "auto", regression_backward, regression, images, None))
    rows = []
    for what, mode, backward, function, given, seed in cases:
        calls = []

        def counted(p, function=function, calls=calls):
            calls.append(0)
            return function(p)

        started = time.perf_counter()
        report = check_gradient(counted, given, backward, upstream=seed, mode=mode)
        spent = time.perf_counter() - started
        hints = [t.hint for t in report.tensors if t.hint] or [report.start]
        rows.append((what, mode, backward.__name__, "right" if report.ok else "wrong", spent, len(calls), hints[0]))
    return rows


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    large = large_layers()
    for row in large if not args.json else []:
        print("{} {:10} {:20} {:5} {:6.2f} s {:5} evaluations  {}".format(*row), flush=True)
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
    print(json.dumps({"versions": versions, "large": large, "rows": rows}, indent=2) if args.json else versions)


if __name__ == "__main__":
    main()
