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


def as_kind(kind):
    """A Kind, of one or of the action_layer alone."""
    return Kind(kind) if isinstance(kind, int) else kind


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
    kind = as_kind(kind)
    z, actor_inputs = forward(actor, obs, activation=kind.activation)
    act = z if kind.invert else np.tanh(z)
    _, critic_inputs = forward(critic, obs, act, kind.action_layer, kind.activation)
    dq = np.full((len(obs), 1), -1 / len(obs), obs.dtype)
    _, _, dact = backward(critic, critic_inputs, dq, act.shape[1], kind.action_layer, kind.activation)
    return backward(actor, actor_inputs, output_gradient(dact, act, kind.invert), activation=kind.activation)[0]


def critic_gradient(critic, obs, act, y, weight_decay, kind):
    kind = as_kind(kind)
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


# --- normalised networks ----------------------------------------------------------------------------------------------


def whitened(z):
    """(z - mean) / s of a vector, and the matrix of its derivatives, element by element."""
    n, s = len(z), np.sqrt(z.var() + 1e-5)
    x = (z - z.mean()) / s
    return x, (np.eye(n) - np.full((n, n), 1 / n) - np.outer(x, x) / n) / s


class Normalised:
    """A network of a state_dict: layers, and gamma, beta, mean, var by level (0: the observation)."""

    def __init__(self, state, name, config):
        self.layers, self.config, self.is_target = layers_of(state, name), config, name.startswith("target_")
        self.action_layer = config.action_layer if "critic" in name else None
        names = {level: f"{name}.{level - 1}" if level else f"{name}.obs" for level in range(len(self.layers))}
        kinds = ("gamma", "beta", "mean", "var") if config.normalisation == "batch" else ("gamma", "beta")
        self.norms = {
            level: [state[f"{site}.{kind}"].copy() for kind in kinds]
            for level, site in names.items() if f"{site}.gamma" in state
        }  # fmt: skip
        self.names = names

    def parameters(self):
        return [*self.layers, *(tuple(norm[:2]) for norm in self.norms.values())]

    def normalise(self, level, z):
        """-> gamma x + beta, x, and what gives dz from dx."""
        if level not in self.norms:
            return z, None, lambda dy: dy
        gamma, beta, *running = self.norms[level]
        rows = self.config.normalisation == "layer"
        if running and self.is_target:
            s = np.sqrt(running[1] + 1e-5)
            x = (z - running[0]) / s
            return gamma * x + beta, x, lambda dx: dx / s
        parts = [whitened(vector) for vector in (z if rows else z.T)]
        x = np.array([part[0] for part in parts])
        x = x if rows else x.T

        def back(dx):
            found = np.array([part[1].T @ d for part, d in zip(parts, dx if rows else dx.T, strict=True)])
            return found if rows else found.T

        return gamma * x + beta, x, back

    def forward(self, obs, act=None):
        """-> the output, and what backward needs: per layer its input, and per level x and back."""
        h, x, back = self.normalise(0, obs)
        tape, seen = [], {0: (x, back)}
        self.z = {0: obs}
        for i, (w, b) in enumerate(self.layers):
            joined = np.concatenate([h, act], axis=1) if i == self.action_layer else h
            z = joined @ w + b
            tape.append((joined, h))
            if i < len(self.layers) - 1:
                self.z[i + 1] = z
                y, x, back = self.normalise(i + 1, z)
                seen[i + 1] = (x, back)
                h = np.maximum(y, 0)
        return z, (tape, seen)

    def backward(self, kept, dz, act_dim=0):
        """-> gradients as `parameters`, and of the action."""
        (tape, seen), layers, norms, dact = kept, [], {}, None
        for i in reversed(range(len(self.layers))):
            joined, h = tape[i]
            shifted = self.config.normalisation == "batch" and i + 1 in self.norms and not self.is_target
            db = 0 * dz.sum(axis=0) if shifted else dz.sum(axis=0)
            layers.insert(0, (joined.T @ dz, db))
            dh = dz @ self.layers[i][0].T
            if i == self.action_layer:
                dh, dact = dh[:, : h.shape[1]], dh[:, h.shape[1] :]
            dy = dh * (h > 0) if i else dh
            x, back = seen[i]
            if i in self.norms:
                nothing = i == 0 and self.config.normalisation == "batch" and 1 in self.norms
                norms[i] = ((dy * x).sum(axis=0), 0 * dy.sum(axis=0) if nothing else dy.sum(axis=0))
                dy = dy * self.norms[i][0]
            dz = back(dy)
        return [*layers, *(norms[level] for level in self.norms)], dact


class NormalisedTwin:
    """The same of DDPG with normalised networks."""

    def __init__(self, agent):
        state, self.config = agent.state_dict(), agent.config
        self.nets = {name: Normalised(state, name, agent.config) for name in Twin.NETWORKS}
        self.adams = {name: Adam(self.nets[name].parameters()) for name in ("actor", "critic")}

    def update(self, batch):
        c, n, act_dim = self.config, len(batch.rew), batch.act.shape[1]
        actor, critic, target_actor, target_critic = (self.nets[name] for name in Twin.NETWORKS)
        next_q, _ = target_critic.forward(batch.next_obs, np.tanh(target_actor.forward(batch.next_obs)[0]))
        y = batch.rew + c.gamma * np.where(batch.terminated, 0, next_q[:, 0])
        q, kept = critic.forward(batch.obs, batch.act)
        grads, _ = critic.backward(kept, 2 / n * (q - y[:, None]), act_dim)
        self.adams["critic"].step(critic.parameters(), grads, c.critic_lr)
        z, actor_kept = actor.forward(batch.obs)
        act = np.tanh(z)
        _, kept = critic.forward(batch.obs, act)
        _, dact = critic.backward(kept, np.full((n, 1), -1 / n), act_dim)
        grads, _ = actor.backward(actor_kept, dact * (1 - act**2))
        self.adams["actor"].step(actor.parameters(), grads, c.actor_lr)
        for name in ("actor", "critic"):
            online, target = self.nets[name], self.nets[f"target_{name}"]
            for own, followed in zip(target.parameters(), online.parameters(), strict=True):
                for t, o in zip(own, followed, strict=True):
                    t += c.tau * (o - t)
            online.forward(batch.obs, batch.act)
            for level, (_, _, *running) in online.norms.items():
                of_batch = online.z[level].mean(axis=0), online.z[level].var(axis=0)
                for r, value, t in zip(running, of_batch, target.norms[level][2:], strict=False):
                    r += 0.01 * (value - r)
                    t += c.tau * (r - t)

    def state(self):
        """Parameters and statistics by minddpg's names."""
        named = {}
        for name, net in self.nets.items():
            for i, (w, b) in enumerate(net.layers):
                named[f"{name}.{i}.weight"], named[f"{name}.{i}.bias"] = w, b
            for level, arrays in net.norms.items():
                for kind, array in zip(("gamma", "beta", "mean", "var"), arrays, strict=False):
                    named[f"{net.names[level]}.{kind}"] = array
        return named
