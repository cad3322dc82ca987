"""The actor's gradient in four frameworks: dQ/da by name and then through the actor, and the one-shot form of each.

    python scripts/frameworks.py

One update's numbers, the same weights and batch everywhere, as users of each would write it; every framework that is
installed has to give minddpg's gradient to rounding, both ways, and `explain` has to call it right. What is not
installed is said and left out: torch comes with the extra crosscheck; jax, tensorflow and keras are for you to install.
"""

import importlib
import importlib.util

import numpy as np

from minddpg.gradcheck import explain

N, OBS, ACT, HIDDEN, SCALE = 64, 3, 2, 32, 2.0


def networks():
    """Actor and critic as [W0, b0, W1, b1] (in, out), observations and replayed actions, in float32."""
    rng = np.random.default_rng(0)
    shapes = {"actor": (OBS, ACT), "critic": (OBS + ACT, 1)}
    nets = {}
    for name, (inputs, outputs) in shapes.items():
        nets[name] = [
            (rng.standard_normal(shape) / np.sqrt(shape[0])).astype("float32")
            for shape in ((inputs, HIDDEN), (HIDDEN,), (HIDDEN, outputs), (outputs,))
        ]
    obs = rng.standard_normal((N, OBS)).astype("float32")
    return nets["actor"], nets["critic"], obs, rng.uniform(-SCALE, SCALE, (N, ACT)).astype("float32")


def numpy_way(actor, critic, obs):
    """minddpg's own: `ddpg.actor_gradient` on the same numbers, whose actions are in [-1, 1]."""
    from minddpg.ddpg import actor_gradient
    from minddpg.networks import Network, named_parameters, new_layout

    def network(tensors, layout, act_dim):
        return Network(np.concatenate([t.ravel() for t in tensors]).astype("float64"), 0, act_dim, layout)

    w0 = critic[0].astype("float64").copy()
    w0[OBS:] *= SCALE  # the critic there reads the tanh, here the action in the environment's units
    mu = network(actor, new_layout(OBS, 0, ACT, (HIDDEN,), 0), 0)
    q = network([w0, *critic[1:]], new_layout(OBS, ACT, 1, (HIDDEN,), 0), ACT)
    dtheta, _, _ = actor_gradient(mu, q, obs.astype("float64"))
    return [*named_parameters(mu._replace(params=dtheta)).values()]


def torch_ways(actor, critic, obs):
    """PyTorch 2: autograd.grad with grad_outputs, and -mean Q in one."""
    import torch

    obs, params = torch.tensor(obs), [torch.tensor(p, requires_grad=True) for p in actor]
    w = [torch.tensor(p) for p in critic]

    def mu():
        return SCALE * torch.tanh(torch.relu(obs @ params[0] + params[1]) @ params[2] + params[3])

    def q(act):
        return torch.relu(torch.cat([obs, act], 1) @ w[0] + w[1]) @ w[2] + w[3]

    act = mu()
    at = act.detach().requires_grad_(True)
    (dq_da,) = torch.autograd.grad(q(at).sum(), at)
    by_name = torch.autograd.grad(act, params, grad_outputs=-dq_da / len(obs))
    in_one = torch.autograd.grad(-q(mu()).mean(), params)
    return [g.numpy() for g in by_name], [g.numpy() for g in in_one]


def tensorflow_ways(actor, critic, obs):
    """TensorFlow 2 (and Keras 3 on it): a tape with output_gradients, and -mean Q in one."""
    import tensorflow as tf

    obs, params = tf.constant(obs), [tf.Variable(p) for p in actor]
    w = [tf.constant(p) for p in critic]

    def mu():
        return SCALE * tf.tanh(tf.nn.relu(obs @ params[0] + params[1]) @ params[2] + params[3])

    def q(act):
        return tf.nn.relu(tf.concat([obs, act], 1) @ w[0] + w[1]) @ w[2] + w[3]

    at = mu()
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = q(at)
    dq_da = tape.gradient(value, at)
    with tf.GradientTape() as tape:
        act = mu()
    by_name = tape.gradient(act, params, output_gradients=-dq_da / len(obs))
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(q(mu()))
    in_one = tape.gradient(loss, params)
    return [g.numpy() for g in by_name], [g.numpy() for g in in_one]


def keras_ways(actor, critic, obs):
    """Keras 3 models on TensorFlow."""
    import keras
    import tensorflow as tf

    relu, linear = {"activation": "relu"}, {"activation": None}
    state, action = keras.Input((OBS,)), keras.Input((ACT,))
    tanh = keras.layers.Dense(ACT, activation="tanh")(keras.layers.Dense(HIDDEN, **relu)(state))
    mu = keras.Model(state, keras.layers.Rescaling(SCALE)(tanh))
    joined = keras.layers.Concatenate()([state, action])
    value = keras.layers.Dense(1, **linear)(keras.layers.Dense(HIDDEN, **relu)(joined))
    q = keras.Model([state, action], value)
    obs = keras.ops.convert_to_tensor(obs)
    mu.set_weights(actor)
    q.set_weights(critic)
    at = tf.convert_to_tensor(mu(obs))
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = q([obs, at])
    dq_da = tape.gradient(value, at)
    with tf.GradientTape() as tape:
        act = mu(obs)
    by_name = tape.gradient(act, mu.trainable_variables, output_gradients=-dq_da / len(obs))
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(q([obs, mu(obs)]))
    in_one = tape.gradient(loss, mu.trainable_variables)
    return [g.numpy() for g in by_name], [g.numpy() for g in in_one]


def jax_ways(actor, critic, obs):
    """JAX: vjp, and grad of -mean Q in one."""
    import jax
    import jax.numpy as jnp

    def mu(p):
        return SCALE * jnp.tanh(jax.nn.relu(obs @ p[0] + p[1]) @ p[2] + p[3])

    def q(act):
        return jax.nn.relu(jnp.concatenate([obs, act], 1) @ critic[0] + critic[1]) @ critic[2] + critic[3]

    params = [jnp.asarray(p) for p in actor]
    act, pull_back = jax.vjp(mu, params)
    dq_da = jax.grad(lambda a: q(a).sum())(act)
    (by_name,) = pull_back(-dq_da / len(obs))
    in_one = jax.grad(lambda p: -q(mu(p)).mean())(params)
    return [np.asarray(g) for g in by_name], [np.asarray(g) for g in in_one]


WAYS = {"torch": torch_ways, "tensorflow": tensorflow_ways, "keras": keras_ways, "jax": jax_ways}


def installed():
    """The frameworks that are there."""
    return [
        name for name in WAYS
        if importlib.util.find_spec(name) and (name != "keras" or importlib.util.find_spec("tensorflow"))
    ]  # fmt: skip


def off(gradient, right):
    """The largest relative error of a tensor, as norms."""
    return max(float(np.linalg.norm(g - r) / np.linalg.norm(r)) for g, r in zip(gradient, right, strict=True))


def main():
    """Print; 1 where one of them is not minddpg's."""
    actor, critic, obs, act = networks()
    right = numpy_way(actor, critic, obs)
    print("| framework | dQ/da by name, then through the actor | -mean Q in one | explain says |")
    print("|---|---|---|---|")
    fine, there = True, installed()
    for name in there:
        by_name, in_one = WAYS[name](actor, critic, obs)
        said = [explain(actor, critic, obs, act, gradient, action_scale=SCALE) for gradient in (by_name, in_one)]
        errors = off(by_name, right), off(in_one, right)
        fine &= all(e.ok for e in said) and max(errors) < 1e-5
        verdict = "right" if all(e.ok for e in said) else str(said[0].mistakes)
        version = getattr(importlib.import_module(name), "__version__", "")
        print(f"| {name} {version} | {errors[0]:.0e} | {errors[1]:.0e} | {verdict} |")
    missing = [name for name in WAYS if name not in there]
    if missing:
        print(f"\nnot installed: {', '.join(missing)}")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
