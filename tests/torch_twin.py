"""Updates by PyTorch's autograd and optimisers, in float64, from an agent's state_dict: nothing shared with minddpg."""

import numpy as np
import torch


def tensors_of(state, name):
    """{"0.weight": tensor, ...} of one network."""
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in own.items()}


class TorchTwin:
    """Takes over an agent's state and makes the same updates."""

    def __init__(self, agent):
        self.agent, self.config, state = agent, agent.config, agent.state_dict()
        self.obs = None
        if self.config.normalise_obs:
            variance = state["obs_statistics.m2"] / state["obs_statistics.number"]
            self.obs = torch.tensor(state["obs_statistics.mean"]), torch.tensor(np.sqrt(variance + 1e-8))
        self.critics = ["critic", "critic2"] if self.config.algorithm == "td3" else ["critic"]
        online = ["actor", *self.critics]
        self.nets = {name: tensors_of(state, name) for name in [*online, *(f"target_{name}" for name in online)]}
        self.adams, self.updates, self.seen = {}, 0, {}
        for name in online:
            learnt = {key: t for key, t in self.nets[name].items() if not key.endswith((".mean", ".var"))}
            for tensor in learnt.values():
                tensor.requires_grad_()
            decay = self.config.critic_weight_decay if name != "actor" else 0.0
            groups = [
                {"params": [t for key, t in learnt.items() if key.endswith("weight")], "weight_decay": decay},
                {"params": [t for key, t in learnt.items() if not key.endswith("weight")]},
            ]
            lr = self.config.actor_lr if name == "actor" else self.config.critic_lr
            self.adams[name] = torch.optim.Adam(groups, lr=lr)

    def forward(self, name, obs, act=None):
        """The output, before any tanh."""
        net, h = self.nets[name], self.normalised(name, "obs", obs)
        layers = len(self.config.hidden_sizes) + 1
        for layer in range(layers):
            if act is not None and layer == self.config.action_layer:
                h = torch.cat([h, act], 1)
            h = h @ net[f"{layer}.weight"] + net[f"{layer}.bias"]
            h = self.normalised(name, str(layer), h)
            if layer < layers - 1:
                h = torch.relu(h) if self.config.activation == "relu" else torch.tanh(h)
        return h

    def normalised(self, name, site, z):
        """By the batch's statistics in networks that learn, by running ones in targets."""
        net = self.nets[name]
        if f"{site}.gamma" not in net:
            return z
        if self.config.normalisation == "layer":
            return torch.nn.functional.layer_norm(z, z.shape[1:], net[f"{site}.gamma"], net[f"{site}.beta"])
        running = (net[f"{site}.mean"], net[f"{site}.var"]) if name.startswith("target_") else (None, None)
        self.seen[name, site] = z.detach()
        return torch.nn.functional.batch_norm(
            z, *running, net[f"{site}.gamma"], net[f"{site}.beta"], training=running[0] is None
        )

    def learn_statistics(self, obs, act, targets_move):
        """1 % of the batch's at the parameters after the update; targets follow by tau."""
        if self.config.normalisation != "batch":
            return
        with torch.no_grad():
            for name in self.adams:
                self.seen.clear()
                self.forward(name, obs, None if name == "actor" else act)
                for (_, site), z in self.seen.items():
                    of_batch = {"mean": z.mean(dim=0), "var": z.var(dim=0, unbiased=False)}
                    for kind, value in of_batch.items():
                        own, target = (self.nets[n][f"{site}.{kind}"] for n in (name, f"target_{name}"))
                        own += 0.01 * (value - own)
                        if targets_move:
                            target += self.config.tau * (own - target)

    def mu(self, name, obs):
        """What the critic is asked about."""
        z = self.forward(name, obs)
        return z if self.config.invert_gradients else torch.tanh(z)

    def step(self, name, loss):
        """One step of Adam on the gradient of the loss."""
        self.adams[name].zero_grad()
        learnt = [p for group in self.adams[name].param_groups for p in group["params"]]
        loss.backward(inputs=learnt)
        if self.config.normalisation == "batch":  # rounding, of what is 0
            net = self.nets[name]
            for key, tensor in net.items():
                layer, kind = key.split(".")
                shifted = (kind == "bias" and f"{layer}.mean" in net) or (key == "obs.beta" and "0.mean" in net)
                if shifted:
                    assert tensor.grad.abs().max() < 1e-12
                    tensor.grad.zero_()
        decay = self.adams[name].param_groups[0]["weight_decay"]
        if (most := self.config.max_grad_norm) is not None:  # by hand: torch's adds 1e-6 to the length, and no decay
            with torch.no_grad():
                for weight in self.adams[name].param_groups[0]["params"]:
                    weight.grad += decay * weight
                self.adams[name].param_groups[0]["weight_decay"] = 0.0
                length = torch.sqrt(sum((p.grad**2).sum() for p in learnt))
                for p in learnt:
                    p.grad *= min(1.0, most / length)
        share = self.config.final_lr_share
        lr = self.config.actor_lr if name == "actor" else self.config.critic_lr
        for group in self.adams[name].param_groups:
            group["lr"] = lr * (1 - (1 - share) * min(1.0, (self.updates - 1) / self.config.updates))
        self.adams[name].step()
        self.adams[name].param_groups[0]["weight_decay"] = decay

    def update(self, batch, noise=None):
        """One update. noise (N, act_dim): TD3's, standard normal."""
        config = self.config
        obs, act, rew, next_obs = (torch.tensor(np.asarray(a, np.float64)) for a in batch[:4])
        alive = 1 - torch.tensor(np.asarray(batch.terminated, np.float64))
        if self.obs is not None:
            mean, spread = self.obs
            obs, next_obs = (((x - mean) / spread).clamp(-10, 10) for x in (obs, next_obs))
        gamma = config.gamma
        if config.n_step > 1:
            gamma = torch.tensor(config.gamma**batch.steps)
        self.updates += 1
        with torch.no_grad():
            next_act = self.mu("target_actor", next_obs)
            if noise is not None:
                push = (config.target_noise_std * torch.tensor(noise)).clamp(
                    -config.target_noise_clip, config.target_noise_clip
                )
                next_act = (next_act + push).clamp(-1, 1)
            next_q = [self.forward(f"target_{name}", next_obs, next_act)[:, 0] for name in self.critics]
            y = rew + gamma * alive * torch.stack(next_q).min(dim=0).values
        for name in self.critics:
            self.step(name, torch.nn.functional.mse_loss(self.forward(name, obs, act)[:, 0], y))
        if config.algorithm == "td3" and self.updates % config.policy_delay:
            self.learn_statistics(obs, act, False)
            return
        replayed = act
        act = self.mu("actor", obs)
        if config.invert_gradients:  # Hausknecht & Stone 2016, equation 11, as a hook on the action's gradient
            act.register_hook(lambda da: da * torch.where(da < 0, (1 - act) / 2, (act + 1) / 2).detach())
        self.step("actor", -self.forward("critic", obs, act).mean())
        with torch.no_grad():
            for name in self.adams:
                for key, target in self.nets[f"target_{name}"].items():
                    if not key.endswith((".mean", ".var")):
                        target += config.tau * (self.nets[name][key] - target)
        self.learn_statistics(obs, replayed, True)

    def state(self):
        """Parameters by minddpg's names."""
        return {f"{name}.{key}": t.detach().numpy() for name, net in self.nets.items() for key, t in net.items()}
