"""DDPG's two gradients by implementations of the tests' own, NumPy's and PyTorch's, with any mistakes planted in them.

Nothing of minddpg is used: weights are (in, out) lists, rounding is that of the dtype, and a case hands over what a
user would: arrays in a layout of their own, and the batch.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np

ACTOR_GROUPS = (  # at most one of each is planted
    ("no minus",),
    ("sum for mean", "1/N twice"),
    ("mean over actions too",),
    ("added up twice",),
    ("weighted by Q",),
    ("replayed action", "target actor's action", "action not scaled", "clipped action"),
    ("target critic", "critic before its step"),
    ("wrong columns",),
    ("tanh' missing", "tanh' twice", "tanh' of the output", "tanh' of the scaled action", "1 + tanh^2"),
    ("action scale missing", "action scale twice"),
    ("weight gradient transposed",),
    ("bias gradient missing",),
    ("another layer's mask",),
    ("clipped by norm", "clipped by value", "weight decay added"),
    ("zero",),
)
CRITIC_GROUPS = (
    ("critic climbs its loss",),
    ("sum for mean", "1/N twice"),
    ("square's 2 missing", "added up twice"),
    ("terminal mask missing", "terminal mask inverted", "truncated as terminated"),
    ("gamma missing",),
    ("online networks in the target",),
    ("target is not detached",),
    ("replayed action in the target",),
    ("this state in the target",),
    ("mu(s) for the replayed action",),
    ("broadcast (N,1)-(N,)",),
    ("Huber loss",),
    ("another layer's mask",),
    ("weight gradient transposed",),
    ("bias gradient missing",),
    ("clipped by norm", "clipped by value", "weight decay added", "critic gradient added"),
    ("critic's weights moved too",),
    ("zero",),
)
# What torch's users write with autograd; the rest needs a backward by hand.
TORCH_ACTOR = {
    "no minus", "sum for mean", "1/N twice", "mean over actions too", "added up twice", "weighted by Q",
    "replayed action", "target actor's action", "action not scaled", "clipped action", "target critic",
    "critic before its step",
    "tanh' missing", "tanh' twice", "action scale missing", "action scale twice", "clipped by norm", "clipped by value",
    "weight decay added", "bias gradient missing", "zero",
}  # fmt: skip
TORCH_CRITIC = {name for group in CRITIC_GROUPS for name in group} - {
    "another layer's mask",
    "weight gradient transposed",
}
ALONE = {"zero", "critic's weights moved too"}


@dataclass
class Case:
    """Networks as [W0, b0, ...] (in, out) in one dtype, a batch, and what is done with them."""

    seed: int
    dtype: str
    layout: str
    hidden: tuple
    activation: str
    scale: np.ndarray
    offset: np.ndarray
    action_layer: int
    nets: dict
    obs: np.ndarray
    act: np.ndarray
    rew: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    gamma: float
    limit: float = 0.0
    twice: bool = field(default=False)

    @property
    def n(self):
        return len(self.obs)

    def handed_over(self, gradient, tensors):
        """Keyword arguments for `explain`, in this case's layout."""
        turn = (lambda a: a.T) if self.layout == "out,in" else (lambda a: a)
        nets = {name: [turn(a) for a in net] for name, net in self.nets.items()}
        batch = {name: getattr(self, name) for name in ("obs", "act", "rew", "next_obs", "terminated", "truncated")}
        more = {"gamma": self.gamma, "action_layer": self.action_layer, "activation": self.activation}
        bounds = {"action_scale": self.scale, "action_offset": self.offset, "layout": self.layout}
        handed = {**nets, **batch, **more, **bounds, "actor_gradient": None}
        return {**handed, gradient: [turn(a) for a in tensors]}

    def cast(self, dtype):
        """The same case in another dtype."""
        arrays = {k: v.astype(dtype) for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        nets = {name: [a.astype(dtype) for a in net] for name, net in self.nets.items()}
        return Case(**{**vars(self), **arrays, "nets": nets, "dtype": dtype})


def random_case(seed):
    """Any architecture, bounds, layout and dtype."""
    rng = np.random.default_rng([seed, 15])
    layers = int(rng.integers(1, 4))
    width = int(rng.integers(3, 25))
    equal = rng.random() < 0.5
    hidden = tuple(width if equal else int(rng.integers(3, 25)) for _ in range(layers))
    obs_dim, act_dim, n = int(rng.integers(1, 7)), int(rng.integers(1, 5)), int(rng.integers(2, 41))
    action_layer = int(rng.integers(0, layers))
    dtype = ("float32", "float64")[int(rng.integers(2))]
    scale = np.full(act_dim, rng.choice([1.0, 2.0, 0.4, 3.0])) if rng.random() < 0.6 else rng.uniform(0.5, 3, act_dim)
    offset = np.zeros(act_dim) if rng.random() < 0.6 else rng.uniform(-0.5, 0.5, act_dim)

    def net(inputs, joined, outputs):
        sizes, tensors = [inputs, *hidden, outputs], []
        for layer, (a, b) in enumerate(itertools.pairwise(sizes)):
            rows = a + (joined if layer == action_layer else 0)
            tensors.append(rng.standard_normal((rows, b)) * 1.3 / np.sqrt(rows))
            tensors.append(rng.standard_normal(b) * 0.2)
        return tensors

    actor, critic = net(obs_dim, 0, act_dim), net(obs_dim, act_dim, 1)
    moved = {
        "actor": actor, "critic": critic, "critic_before": [t + 0.05 * rng.standard_normal(t.shape) for t in critic],
        "target_actor": [t + 0.1 * rng.standard_normal(t.shape) for t in actor],
        "target_critic": [t + 0.1 * rng.standard_normal(t.shape) for t in critic],
    }  # fmt: skip
    if rng.random() < 0.2:
        del moved["critic_before"]
    act = scale * np.tanh(rng.standard_normal((n, act_dim))) + offset
    terminated = (rng.random(n) < 0.3).astype(float)
    truncated = ((rng.random(n) < 0.3) * (1 - terminated)).astype(float)
    case = Case(
        seed, dtype, ("in,out", "out,in")[int(rng.integers(2))], hidden, str(rng.choice(["relu", "relu", "tanh"])),
        scale, offset, action_layer, moved, rng.standard_normal((n, obs_dim)), act, rng.standard_normal(n),
        rng.standard_normal((n, obs_dim)), terminated, truncated, float(rng.choice([0.9, 0.99])),
    )  # fmt: skip
    return case.cast(dtype)


def draw_mistakes(rng, groups, many):
    """So many, of different groups."""
    names = [group[int(rng.integers(len(group)))] for group in groups]
    names = [name for name in names if many == 1 or name not in ALONE]
    return tuple(sorted(str(name) for name in rng.choice(names, many, replace=False)))


# --- NumPy ----------------------------------------------------------------------------------------------------------


def _act(case, z):
    return np.maximum(z, 0) if case.activation == "relu" else np.tanh(z)


def _slope(case, z):
    return (z > 0).astype(z.dtype) if case.activation == "relu" else 1 - np.tanh(z) ** 2


def _forward(case, net, x, act=None):
    xs, zs = [], []
    for layer in range(len(net) // 2):
        if act is not None and layer == case.action_layer:
            x = np.concatenate([x, act], axis=1)
        xs.append(x)
        zs.append(x @ net[2 * layer] + net[2 * layer + 1])
        x = _act(case, zs[-1])
    return zs[-1], xs, zs


def _backward(case, net, xs, zs, dz, act_dim, wrong_mask, wrong_columns):
    grads, dact = [], None
    for layer in reversed(range(len(net) // 2)):
        grads = [xs[layer].T @ dz, dz.sum(axis=0), *grads]
        dx = dz @ net[2 * layer].T
        if act_dim and layer == case.action_layer:
            dact = dx[:, :act_dim] if wrong_columns else dx[:, -act_dim:]
            dx = dx[:, :-act_dim]
        if layer:
            masked = layer - 1
            if wrong_mask and len(zs) > 2 and zs[1].shape == zs[0].shape and layer == 1:
                masked = 1
            dz = dx * _slope(case, zs[masked])
    return grads, dact


def _mu(case, net, obs):
    z, xs, zs = _forward(case, net, obs)
    t = np.tanh(z)
    return case.scale * t + case.offset, t, xs, zs


def numpy_actor(case, mistakes):
    """The actor's gradient, [dW0, db0, ...] (in, out)."""
    n, act_dim = case.act.shape
    if "zero" in mistakes:
        return [np.zeros_like(t) for t in case.nets["actor"]]
    act, t, xs, zs = _mu(case, case.nets["actor"], case.obs)
    net = "target_critic" if "target critic" in mistakes else "critic"
    net = "critic_before" if "critic before its step" in mistakes else net
    inside = 1
    if "replayed action" in mistakes:
        act = case.act
    if "target actor's action" in mistakes:
        act = _mu(case, case.nets["target_actor"], case.obs)[0]
    if "action not scaled" in mistakes:
        act = t
    if "clipped action" in mistakes:
        inside, act = np.abs(act) <= 1, np.clip(act, -1, 1)
    q, cxs, czs = _forward(case, case.nets[net], case.obs, act)
    dq = np.full((n, 1), -1 / n, case.dtype)
    if "weighted by Q" in mistakes:
        dq = dq * q
    if "no minus" in mistakes:
        dq = -dq
    if "sum for mean" in mistakes:
        dq = dq * n
    if "1/N twice" in mistakes:
        dq = dq / n
    if "added up twice" in mistakes:
        dq = dq * 2
    if "mean over actions too" in mistakes:
        dq = dq / act_dim
    mask = "another layer's mask" in mistakes
    _, dact = _backward(
        case, case.nets[net], cxs, czs, dq, act_dim, mask and case.seed % 2, "wrong columns" in mistakes
    )
    dact = dact * inside
    if "action not scaled" not in mistakes:
        dact = dact * case.scale
    if "action scale missing" in mistakes:
        dact = dact / case.scale
    if "action scale twice" in mistakes:
        dact = dact * case.scale
    slope = 1 - t**2
    if "tanh' missing" in mistakes:
        slope = np.ones_like(t)
    if "tanh' twice" in mistakes:
        slope = slope**2
    if "tanh' of the output" in mistakes:
        slope = 1 - np.tanh(t) ** 2
    if "tanh' of the scaled action" in mistakes:
        slope = 1 - (case.scale * t + case.offset) ** 2
    if "1 + tanh^2" in mistakes:
        slope = 1 + t**2
    grads, _ = _backward(case, case.nets["actor"], xs, zs, dact * slope, 0, mask and not case.seed % 2, False)
    return _finish(case, case.nets["actor"], grads, mistakes)


def _finish(case, net, grads, mistakes):
    if "weight gradient transposed" in mistakes:
        grads = [g.T if g.ndim == 2 and g.shape[0] == g.shape[1] else g for g in grads]
    if "bias gradient missing" in mistakes:
        grads = [g if g.ndim == 2 else np.zeros_like(g) for g in grads]
    if "clipped by norm" in mistakes:
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        limit = float(f"{norm * 0.3:.0e}")
        grads = [g * np.minimum(1, limit / (norm + 1e-6)).astype(case.dtype) for g in grads]
    if "clipped by value" in mistakes:
        limit = float(f"{np.quantile(np.abs(np.concatenate([g.ravel() for g in grads])), 0.9):.0e}")
        grads = [np.clip(g, -limit, limit) for g in grads]
    if "weight decay added" in mistakes:
        grads = [g + np.asarray(0.01, case.dtype) * w if g.ndim == 2 else g for g, w in zip(grads, net, strict=True)]
    return [g.astype(case.dtype) for g in grads]


def numpy_critic(case, mistakes):
    """The critic's gradient, [dW0, db0, ...] (in, out)."""
    n, act_dim = case.act.shape
    nets = case.nets
    net = nets.get("critic_before", nets["critic"])
    if "zero" in mistakes:
        return [np.zeros_like(t) for t in net]
    columns = (case, nets["critic"], case.obs, _mu(case, nets["actor"], case.obs)[0])
    _, mxs, mzs = _forward(*columns)
    moved, _ = _backward(case, nets["critic"], mxs, mzs, np.full((n, 1), -1 / n, case.dtype), act_dim, False, False)
    if "critic's weights moved too" in mistakes:
        return moved
    judged = _mu(case, nets["actor"], case.obs)[0] if "mu(s) for the replayed action" in mistakes else case.act
    q, xs, zs = _forward(case, net, case.obs, judged)
    online = "online networks in the target" in mistakes
    how = case.seed % 3 if "target is not detached" not in mistakes else case.seed % 2
    next_critic = net if online and how in (0, 1) else nets["target_critic"]
    next_actor = nets["actor"] if online and how in (0, 2) else nets["target_actor"]
    next_act = _mu(case, next_actor, case.next_obs)[0]
    if "replayed action in the target" in mistakes:
        next_act = case.act
    at = case.obs if "this state in the target" in mistakes else case.next_obs
    next_q, nxs, nzs = _forward(case, next_critic, at, next_act)
    alive = 1 - case.terminated
    if "terminal mask missing" in mistakes:
        alive = np.ones_like(alive)
    if "terminal mask inverted" in mistakes:
        alive = case.terminated
    if "truncated as terminated" in mistakes:
        alive = 1 - np.maximum(case.terminated, case.truncated)
    discount = (1.0 if "gamma missing" in mistakes else np.asarray(case.gamma, case.dtype)) * alive
    if "broadcast (N,1)-(N,)" in mistakes:
        if case.seed % 2:
            error = np.mean(q - (case.rew + discount * next_q[:, 0]), axis=1)  # (N, 1) - (N,)
        else:
            error = np.mean(q - (case.rew + discount[:, None] * next_q), axis=1)  # rew (N,) beside (N, 1)
    else:
        error = q[:, 0] - case.rew - discount * next_q[:, 0]
    dq = 2 * error / n
    if "Huber loss" in mistakes:
        dq = np.clip(error, -1, 1) / n
    if "critic climbs its loss" in mistakes:
        dq = -dq
    if "sum for mean" in mistakes:
        dq = dq * n
    if "1/N twice" in mistakes:
        dq = dq / n
    if "square's 2 missing" in mistakes:
        dq = dq / 2
    if "added up twice" in mistakes:
        dq = dq * 2
    dq = dq.astype(case.dtype)[:, None]
    mask = "another layer's mask" in mistakes
    grads, _ = _backward(case, net, xs, zs, dq, act_dim, mask, False)
    if "target is not detached" in mistakes and next_critic is net:
        through, _ = _backward(case, net, nxs, nzs, -dq * discount[:, None], act_dim, False, False)
        grads = [a + b for a, b in zip(grads, through, strict=True)]
    grads = _finish(case, net, grads, mistakes)
    if "critic gradient added" in mistakes:
        grads = [(a + b).astype(case.dtype) for a, b in zip(grads, moved, strict=True)]
    return grads


# --- PyTorch, as its users write it ---------------------------------------------------------------------------------


def torch_actor(case, mistakes):
    """The same with autograd: dQ/da by name, then through the actor."""
    import torch

    nets = {name: [torch.tensor(t) for t in net] for name, net in case.nets.items()}
    obs, replayed = torch.tensor(case.obs), torch.tensor(case.act)
    scale, offset, n = torch.tensor(case.scale), torch.tensor(case.offset), case.n
    params = [p.requires_grad_(True) for p in nets["actor"]]

    def run(net, x, act=None):
        for layer in range(len(net) // 2):
            if act is not None and layer == case.action_layer:
                x = torch.cat([x, act], dim=1)
            x = x @ net[2 * layer] + net[2 * layer + 1]
            if layer < len(net) // 2 - 1:
                x = torch.relu(x) if case.activation == "relu" else torch.tanh(x)
        return x

    z = run(params, obs)
    t = torch.tanh(z)
    act = t if "action not scaled" in mistakes else scale * t + offset
    if "clipped action" in mistakes:
        act = act.clamp(-1, 1)
    asked = act.detach()
    if "replayed action" in mistakes:
        asked = replayed
    if "target actor's action" in mistakes:
        asked = (scale * torch.tanh(run(nets["target_actor"], obs)) + offset).detach()
    asked = asked.clone().requires_grad_(True)
    which = "target_critic" if "target critic" in mistakes else "critic"
    which = "critic_before" if "critic before its step" in mistakes else which
    q = run(nets[which], obs, asked)
    (dq_da,) = torch.autograd.grad(q.sum(), asked)
    if "weighted by Q" in mistakes:
        dq_da = q.detach() * dq_da
    if "tanh' twice" in mistakes:
        dq_da = dq_da * (1 - t.detach() ** 2)
    if "action scale twice" in mistakes:
        dq_da = dq_da * scale
    # Where the gradient is put in: at the action, at the tanh, below it.
    where = act
    if "tanh' missing" in mistakes:
        where, dq_da = z, dq_da * (1 if {"action scale missing", "action not scaled"} & {*mistakes} else scale)
        if "clipped action" in mistakes:
            dq_da = dq_da * ((scale * t + offset).abs() <= 1)
    elif "action scale missing" in mistakes:
        where = t
        if "action not scaled" in mistakes:
            dq_da = dq_da / scale
        if "clipped action" in mistakes:
            dq_da = dq_da * ((scale * t + offset).abs() <= 1)
    loss = (where.detach() * 0 + where) * dq_da
    loss = loss.mean() * n if "mean over actions too" in mistakes else loss.sum()
    loss = loss if "no minus" in mistakes else -loss
    divided = {"sum for mean": 1, "1/N twice": n * n}
    loss = loss / next((divided[name] for name in mistakes if name in divided), n)
    if "zero" in mistakes:
        return [np.zeros_like(t) for t in case.nets["actor"]]
    for _ in range(1 + ("added up twice" in mistakes)):
        loss.backward(retain_graph=True)
    return _torch_finish(params, mistakes)


def _torch_finish(params, mistakes):
    import torch

    if "bias gradient missing" in mistakes:
        for p in params[1::2]:
            p.grad.zero_()
    if "clipped by norm" in mistakes:
        norm = torch.sqrt(sum((p.grad**2).sum() for p in params))
        torch.nn.utils.clip_grad_norm_(params, float(f"{float(norm) * 0.3:.0e}"))
    if "clipped by value" in mistakes:
        every = torch.cat([p.grad.abs().flatten() for p in params])
        torch.nn.utils.clip_grad_value_(params, float(f"{float(every.quantile(0.9)):.0e}"))
    if "weight decay added" in mistakes:
        (0.005 * sum((p**2).sum() for p in params[::2])).backward()
    return [p.grad.numpy() for p in params]


def torch_critic(case, mistakes):
    """The same with autograd, one loss."""
    import torch

    nets = {name: [torch.tensor(t) for t in net] for name, net in case.nets.items()}
    obs, replayed, next_obs = (torch.tensor(a) for a in (case.obs, case.act, case.next_obs))
    rew, terminated, truncated = (torch.tensor(a) for a in (case.rew, case.terminated, case.truncated))
    scale, offset, n = torch.tensor(case.scale), torch.tensor(case.offset), case.n
    params = [p.requires_grad_(True) for p in nets.get("critic_before", nets["critic"])]
    if "zero" in mistakes:
        return [np.zeros_like(p.detach()) for p in params]

    def run(net, x, act=None):
        for layer in range(len(net) // 2):
            if act is not None and layer == case.action_layer:
                x = torch.cat([x, act], dim=1)
            x = x @ net[2 * layer] + net[2 * layer + 1]
            if layer < len(net) // 2 - 1:
                x = torch.relu(x) if case.activation == "relu" else torch.tanh(x)
        return x

    def mu(net, x):
        return scale * torch.tanh(run(net, x)) + offset

    judged = mu(nets["actor"], obs) if "mu(s) for the replayed action" in mistakes else replayed
    q = run(params, obs, judged)
    online = "online networks in the target" in mistakes
    how = case.seed % 3 if "target is not detached" not in mistakes else case.seed % 2
    next_critic = params if online and how in (0, 1) else nets["target_critic"]
    next_act = mu(nets["actor"] if online and how in (0, 2) else nets["target_actor"], next_obs)
    next_act = replayed if "replayed action in the target" in mistakes else next_act
    next_q = run(next_critic, obs if "this state in the target" in mistakes else next_obs, next_act)
    alive = 1 - terminated
    alive = torch.ones_like(alive) if "terminal mask missing" in mistakes else alive
    alive = terminated if "terminal mask inverted" in mistakes else alive
    alive = 1 - torch.maximum(terminated, truncated) if "truncated as terminated" in mistakes else alive
    discount = (1.0 if "gamma missing" in mistakes else case.gamma) * alive
    if "broadcast (N,1)-(N,)" in mistakes:
        y = rew + discount * next_q[:, 0] if case.seed % 2 else rew + discount[:, None] * next_q
    else:
        q, y = q[:, 0], rew + discount * next_q[:, 0]
    y = y if "target is not detached" in mistakes else y.detach()
    if "Huber loss" in mistakes:
        error = q - y if q.ndim == 1 else (q - y).mean(dim=1)
        loss = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
    else:
        loss = ((q - y) ** 2).mean()
    factors = {"sum for mean": n, "1/N twice": 1 / n, "square's 2 missing": 0.5, "critic climbs its loss": -1}
    for name in mistakes:
        loss = loss * factors.get(name, 1)
    actor_loss = -run(params if "critic_before" not in nets else nets["critic"], obs, mu(nets["actor"], obs)).mean()
    if "critic_before" in nets:
        others = [p.requires_grad_(True) for p in nets["critic"]]
        actor_loss = -run(others, obs, mu(nets["actor"], obs)).mean()
    else:
        others = params
    left = [g.numpy() for g in torch.autograd.grad(actor_loss, others)]
    if "critic's weights moved too" in mistakes:
        return left
    for _ in range(1 + ("added up twice" in mistakes)):
        loss.backward(retain_graph=True)
    grads = _torch_finish(params, mistakes)
    return [a + b for a, b in zip(grads, left, strict=True)] if "critic gradient added" in mistakes else grads


# --- what is planted, and whether it can be seen ----------------------------------------------------------------------


IMPLEMENTATIONS = {
    ("numpy", "actor"): (numpy_actor, ACTOR_GROUPS, None),
    ("numpy", "critic"): (numpy_critic, CRITIC_GROUPS, None),
    ("torch", "actor"): (torch_actor, ACTOR_GROUPS, TORCH_ACTOR),
    ("torch", "critic"): (torch_critic, CRITIC_GROUPS, TORCH_CRITIC),
}


def is_seen(implementation, case, mistakes):
    """Whether leaving any of the mistakes out changes the gradient by more than a hundredth of a percent."""
    exact = case.cast("float64")
    with np.errstate(all="ignore"):
        all_of_them = implementation(exact, mistakes)
        for left_out in mistakes:
            without = implementation(exact, tuple(name for name in mistakes if name != left_out))
            pairs = zip(all_of_them, without, strict=True)
            if all(np.linalg.norm(a - b) <= 1e-4 * max(np.linalg.norm(a), np.linalg.norm(b)) for a, b in pairs):
                return False
    return all(np.linalg.norm(t) > 0 for t in all_of_them[::2]) or bool({"zero"} & {*mistakes})


def coincides(case, mistakes):
    """Whether other factors of no more mistakes are the same number here: N, act_dim, 2 and the bound may coincide."""
    bound = float(case.scale[0]) if np.ptp(case.scale) == 0 else 1.0
    factors = {
        "sum for mean": case.n, "1/N twice": 1 / case.n, "mean over actions too": 1 / case.act.shape[1],
        "added up twice": 2, "square's 2 missing": 0.5, "action scale missing": 1 / bound, "action scale twice": bound,
    }  # fmt: skip
    mine = [name for name in mistakes if name in factors]
    wanted = np.prod([factors[name] for name in mine])
    for many in range(len(mine) + 1):
        for names in itertools.combinations(factors, many):
            if {*names} != {*mine} and abs(np.prod([factors[name] for name in names]) - wanted) < 0.01 * wanted:
                return bool(mine)
    return False


def possible(case, mistakes, allowed):
    """Whether this case can have them, and have them told from others."""
    if (allowed is not None and not {*mistakes} <= allowed) or coincides(case, mistakes):
        return False
    return "critic_before" in case.nets or "critic before its step" not in mistakes


def planted(seed, framework, which, many):
    """A case, the mistakes in it, and the gradient it hands over; drawn again until each of them is seen."""
    implementation, groups, allowed = IMPLEMENTATIONS[framework, which]
    for again in itertools.count():
        rng = np.random.default_rng([seed, again, many])
        case = random_case(1000 * seed + again)
        mistakes = draw_mistakes(rng, groups, many)
        if "target is not detached" in mistakes and many == 1:  # with targets of their own nothing flows
            mistakes = ("online networks in the target", "target is not detached")
        if possible(case, mistakes, allowed) and is_seen(implementation, case, mistakes):
            return case, mistakes, implementation(case, mistakes)


# --- steps ------------------------------------------------------------------------------------------------------------

STEPS = ("", "step uphill", "two steps", "not moved", "critic's weights moved too")
TARGETS = ("", "tau reversed", "hard copy", "swapped", "not moved")


def _stepped(params, grads, how, lr, state, up=False):
    """One step of SGD, Adam or RMSprop, as written everywhere."""
    result, sign = [], 1 if up else -1
    state["t"] = t = state.get("t", 0) + 1
    for at, (p, g) in enumerate(zip(params, grads, strict=True)):
        m, v = state.get(at, (np.zeros_like(g), np.zeros_like(g)))
        m, v = np.asarray(0.9 * m + 0.1 * g, g.dtype), np.asarray(0.999 * v + 0.001 * g * g, g.dtype)
        if how == "rmsprop":
            v = np.asarray(0.01 * g * g, g.dtype)
            step = g / (np.sqrt(v) + 1e-8)
        elif how == "adam":
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        else:
            step = g
        state[at] = (m, v)
        result.append((p + sign * lr * step).astype(p.dtype))
    return result


def planted_step(seed, mistake, target_mistake):
    """Keyword arguments for `explain` with parameters before and after alone, no gradient handed over."""
    rng = np.random.default_rng([seed, 99])
    case = random_case(seed)
    case = case.cast("float64") if mistake == "two steps" else case  # in float32 the second is too close to the first
    how = ("sgd", "adam", "rmsprop")[int(rng.integers(2 if mistake == "two steps" else 3))]
    lr, tau = float(rng.choice([1e-3, 1e-2])), float(rng.choice([0.005, 0.01, 0.1]))
    before, state = case.nets["actor"], {}
    after = before if mistake == "not moved" else _stepped(
        before, numpy_actor(case, ()), how, lr, state, mistake == "step uphill"
    )  # fmt: skip
    if mistake == "two steps":
        moved = Case(**{**vars(case), "nets": {**case.nets, "actor": after}})
        after = _stepped(after, numpy_actor(moved, ()), how, lr, state)
    critic_after = case.nets["critic"]
    if mistake == "critic's weights moved too":
        critic_after = _stepped(critic_after, numpy_critic(case, (mistake,)), how, lr, {})
    target, critic, online_after = case.nets["target_critic"], case.nets["critic"], critic_after
    shares = {"": tau, "tau reversed": 1 - tau, "hard copy": 1.0, "not moved": 0.0, "swapped": 0.0}
    share = np.asarray(shares[target_mistake], case.dtype)
    target_after = [t + share * (o - t) for t, o in zip(target, online_after, strict=True)]
    if target_mistake == "hard copy":
        target_after = [o.copy() for o in online_after]
    if target_mistake == "swapped":
        online_after = [o + np.asarray(tau, case.dtype) * (t - o) for t, o in zip(target, critic, strict=True)]
    turn = (lambda a: a.T) if case.layout == "out,in" else (lambda a: a)
    handed = case.handed_over("actor_gradient", [])
    nets = {"actor_after": after, "critic_after": online_after, "target_critic_after": target_after}
    return {**handed, "actor_gradient": None, **{name: [turn(a) for a in net] for name, net in nets.items()}}


# --- the count --------------------------------------------------------------------------------------------------------


def outcome(seed, framework, which, many):
    """(what happened, a line that shows it): right, accused, exact, among several, other name, ..."""
    from minddpg.gradcheck import explain

    if many:
        case, mistakes, gradient = planted(seed, framework, which, many)
    else:
        case, mistakes = random_case(seed), ()
        gradient = IMPLEMENTATIONS[framework, which][0](case, ())
    part = explain(**case.handed_over(f"{which}_gradient", gradient)).parts[0]
    line = f"{framework} {which} seed {seed}: {mistakes} -> {part.mistakes} {part.alternatives}"
    if not many:
        return ("right" if part.ok else "accused"), line
    if part.ok:
        return "missed", line
    if not part.mistakes:
        return "not explained", line
    fits = [{*names} for names in (part.mistakes, *part.alternatives)]
    if {*mistakes} in fits:
        return ("exact" if len(fits) == 1 else "among several"), line
    if len(fits) == 1 and fits[0] < {*mistakes} <= {*fits[0], *part.hidden}:
        return "hidden, and said", line
    return "other name", line
