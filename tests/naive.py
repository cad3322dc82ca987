"""The obvious NumPy twin of one whole update: lists of matrices, nothing shared with minddpg.

A network is a list of (weight, bias). `action_layer` says which layer reads [h, act].
"""

from typing import NamedTuple

import numpy as np


def layers_of(state, name):
    """The list of (weight, bias) of one network in a state_dict."""
    count = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in state)
    return [(state[f"{name}.{i}.weight"].copy(), state[f"{name}.{i}.bias"].copy()) for i in range(count)]


def forward(layers, obs, act=None, action_layer=0, activation="relu"):
    """Output before any tanh, and the input of every layer."""
    h, inputs = obs, []
    for i, (w, b) in enumerate(layers):
        x = np.concatenate([h, act], axis=1) if act is not None and i == action_layer else h
        inputs.append(x)
        z = x @ w + b
        h = z if i == len(layers) - 1 else np.maximum(z, 0) if activation == "relu" else np.tanh(z)
    return h, inputs


def backward(layers, inputs, dz, act_dim=0, action_layer=0, activation="relu"):
    """Gradients of (weight, bias) per layer, of the observation, and of the action."""
    grads, dact = [None] * len(layers), None
    for i in reversed(range(len(layers))):
        w, _ = layers[i]
        grads[i] = (inputs[i].T @ dz, dz.sum(axis=0))
        dx = dz @ w.T
        h = inputs[i]
        if act_dim and i == action_layer:
            dx, dact, h = dx[:, :-act_dim], dx[:, -act_dim:], h[:, :-act_dim]
        dz = dx if i == 0 else dx * (h > 0) if activation == "relu" else dx * (1 - h * h)
    return grads, dz, dact


class Kind(NamedTuple):
    """Options of the networks."""

    action_layer: int = 0
    activation: str = "relu"
    invert: bool = False


def kind_of(config):
    return Kind(config.action_layer, config.activation, config.invert_gradients)


def mu(actor, obs, kind=Kind()):  # noqa: B008
    z = forward(actor, obs, activation=kind.activation)[0]
    return z if kind.invert else np.tanh(z)


def output_gradient(dact, act, invert):
    """Below tanh; or Hausknecht & Stone's equation 11, an element at a time, for ascent on Q."""
    if not invert:
        return dact * (1 - act**2)
    dz = np.empty_like(dact)
    for index, up in np.ndenumerate(-dact):
        share = (1 - act[index]) / 2 if up > 0 else (act[index] - -1) / 2
        dz[index] = -up * share
    return dz


def actor_gradient(actor, critic, obs, kind):
    z, actor_inputs = forward(actor, obs, activation=kind.activation)
    act = z if kind.invert else np.tanh(z)
    _, critic_inputs = forward(critic, obs, act, kind.action_layer, kind.activation)
    dq = np.full((len(obs), 1), -1 / len(obs), obs.dtype)
    _, _, dact = backward(critic, critic_inputs, dq, act.shape[1], kind.action_layer, kind.activation)
    return backward(actor, actor_inputs, output_gradient(dact, act, kind.invert), activation=kind.activation)[0]


def critic_gradient(critic, obs, act, y, weight_decay, kind):
    q, inputs = forward(critic, obs, act, kind.action_layer, kind.activation)
    dq = (2 / len(y)) * (q - y[:, None])
    grads, _, _ = backward(critic, inputs, dq.astype(obs.dtype), act.shape[1], kind.action_layer, kind.activation)
    return [(dw + weight_decay * w, db) for (dw, db), (w, _) in zip(grads, critic, strict=True)]


class Adam:
    def __init__(self, layers):
        self.moments = [[(np.zeros_like(p), np.zeros_like(p)) for p in layer] for layer in layers]
        self.t = 0

    def step(self, layers, grads, lr):
        self.t += 1
        for i, layer in enumerate(layers):
            for j, p in enumerate(layer):
                m, v = self.moments[i][j]
                g = grads[i][j]
                m[...] = 0.9 * m + 0.1 * g
                v[...] = 0.999 * v + 0.001 * g * g
                mhat, vhat = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
                p -= (lr * mhat / (np.sqrt(vhat) + 1e-8)).astype(p.dtype)


class Twin:
    """Takes over an agent's state and makes the same updates."""

    NETWORKS = ("actor", "critic", "target_actor", "target_critic")

    def __init__(self, agent):
        state = agent.state_dict()
        self.config = agent.config
        for name in self.NETWORKS:
            setattr(self, name, layers_of(state, name))
        self.actor_adam, self.critic_adam = Adam(self.actor), Adam(self.critic)

    def update(self, batch, discounts=None):
        """discounts (N,): gamma^k, where a transition covers k steps."""
        c = self.config
        discounts = c.gamma if discounts is None else discounts
        kind = kind_of(c)
        next_act = mu(self.target_actor, batch.next_obs, kind)
        next_q = forward(self.target_critic, batch.next_obs, next_act, *kind[:2])[0]
        y = batch.rew + discounts * np.where(batch.terminated, 0, next_q[:, 0])
        grads = critic_gradient(
            self.critic, batch.obs, batch.act, y.astype(batch.rew.dtype), c.critic_weight_decay, kind
        )
        self.critic_adam.step(self.critic, grads, c.critic_lr)
        self.actor_adam.step(self.actor, actor_gradient(self.actor, self.critic, batch.obs, kind_of(c)), c.actor_lr)
        for targets, onlines in ((self.target_critic, self.critic), (self.target_actor, self.actor)):
            for target, online in zip(targets, onlines, strict=True):
                for t, o in zip(target, online, strict=True):
                    t += (c.tau * (o - t)).astype(t.dtype)

    def state(self):
        """Parameters by minddpg's names."""
        named = {}
        for name in self.NETWORKS:
            for i, (w, b) in enumerate(getattr(self, name)):
                named[f"{name}.{i}.weight"], named[f"{name}.{i}.bias"] = w, b
        return named


class TwinOfTD3(Twin):
    """The same of TD3. noise (N, act_dim): standard normal."""

    NETWORKS = (*Twin.NETWORKS, "critic2", "target_critic2")

    def __init__(self, agent):
        super().__init__(agent)
        self.critic2_adam, self.updates = Adam(self.critic2), 0

    def target(self, batch, noise):
        """y, a transition at a time."""
        c, y = self.config, []
        for i in range(len(batch.rew)):
            next_obs, act = batch.next_obs[i : i + 1], []
            for a, z in zip(mu(self.target_actor, next_obs, kind_of(c))[0], noise[i], strict=True):
                push = min(max(c.target_noise_std * z, -c.target_noise_clip), c.target_noise_clip)
                act.append(min(max(a + push, -1.0), 1.0))
            act = np.array([act], next_obs.dtype)
            values = [
                forward(critic, next_obs, act, *kind_of(c)[:2])[0].item()
                for critic in (self.target_critic, self.target_critic2)
            ]
            y.append(batch.rew[i] if batch.terminated[i] else batch.rew[i] + c.gamma * min(values))
        return np.array(y, batch.rew.dtype)

    def update(self, batch, noise):
        c = self.config
        y = self.target(batch, noise)
        for critic, adam in ((self.critic, self.critic_adam), (self.critic2, self.critic2_adam)):
            grads = critic_gradient(critic, batch.obs, batch.act, y, c.critic_weight_decay, kind_of(c))
            adam.step(critic, grads, c.critic_lr)
        self.updates += 1
        if self.updates % c.policy_delay == 0:
            grads = actor_gradient(self.actor, self.critic, batch.obs, kind_of(c))
            self.actor_adam.step(self.actor, grads, c.actor_lr)
            for name in ("actor", "critic", "critic2"):
                for target, online in zip(getattr(self, f"target_{name}"), getattr(self, name), strict=True):
                    for t, o in zip(target, online, strict=True):
                        t += (c.tau * (o - t)).astype(t.dtype)
