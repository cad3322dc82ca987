"""One update: by hand, against the naive twin, against autograd, and in the right order."""

import naive
import numpy as np
import pytest
from conftest import agent_of, make_batch
from test_networks import copied_views, masks, with_inputs

from minddpg import Batch, ddpg, networks
from minddpg.gradcheck import assert_gradients


def test_one_update_by_hand():
    """One transition, one unit per layer, every number worked out on paper.

    critic(s, a) = 3 relu(1 s + 2 a + 0) - 1        actor(s) = tanh(0.5 relu(1 s + 0) + 0)
    s = 1, a = 0.5, r = 1, s' = 0.5, not terminated; gamma = 0.5, tau = 0.1, both learning rates 0.1
    """
    agent = agent_of(1, 1, hidden_sizes=(1,), gamma=0.5, tau=0.1, actor_lr=0.1, critic_lr=0.1)
    state = agent.state_dict()
    for target in ("", "target_"):
        state[f"{target}critic.0.weight"][:] = [[1], [2]]
        state[f"{target}critic.0.bias"][:] = 0
        state[f"{target}critic.1.weight"][:] = 3
        state[f"{target}critic.1.bias"][:] = -1
        state[f"{target}actor.0.weight"][:] = 1
        state[f"{target}actor.0.bias"][:] = 0
        state[f"{target}actor.1.weight"][:] = 0.5
        state[f"{target}actor.1.bias"][:] = 0
    agent.load_state_dict(state)
    s, a, r, s2 = np.array([[1.0]]), np.array([[0.5]]), np.array([1.0]), np.array([[0.5]])
    losses = agent.update(Batch(s, a, r, s2, np.array([False])))
    after = agent.state_dict()

    # mu'(s') = tanh(0.5 . 0.5) = 0.244918662; Q' = 3 (0.5 + 2 . 0.244918662) - 1 = 1.969511974
    # y = 1 + 0.5 . 1.969511974 = 1.984755987
    assert losses.target_q_mean == pytest.approx(1.984755987, abs=1e-9)
    # q = 3 (1 + 2 . 0.5) - 1 = 5; loss = (5 - 1.984755987)^2 = 9.091696458; dq = 2 . 3.015244013 = 6.030488026
    assert losses.q_mean == pytest.approx(5)
    assert losses.critic_loss == pytest.approx(9.091696458, abs=1e-8)
    # h = 2: dW1 = 2 dq, db1 = dq; dh = 3 dq = 18.091464078; dW0 = (s dh, a dh), db0 = dh
    # Adam's first moment is 0.1 of the gradient, the second 0.001 of its square
    gradient = np.array([18.091464078, 9.045732039, 18.091464078, 12.060976052, 6.030488026])
    np.testing.assert_allclose(after["critic_adam.m"], 0.1 * gradient, rtol=1e-9)
    np.testing.assert_allclose(after["critic_adam.v"], 0.001 * gradient**2, rtol=1e-9)
    # its first step is lr g / (|g| + 1e-8) = 0.1 sign(g): every critic parameter goes down by 0.1
    np.testing.assert_allclose(after["critic.0.weight"], [[0.9], [1.9]], atol=1e-8)
    np.testing.assert_allclose(after["critic.0.bias"], [-0.1], atol=1e-8)
    np.testing.assert_allclose(after["critic.1.weight"], [[2.9]], atol=1e-8)
    np.testing.assert_allclose(after["critic.1.bias"], [-1.1], atol=1e-8)
    # the actor step sees that critic: mu(s) = tanh(0.5) = 0.462117157
    # q = 2.9 (0.9 + 1.9 . 0.462117157 - 0.1) - 1.1 = 3.766265536
    assert losses.actor_loss == pytest.approx(-3.766265536, abs=1e-7)
    # dQ/da = 2.9 . 1.9 = 5.51; dact = -5.51; tanh' = 1 - 0.462117157^2 = 0.786447733; dz = -4.333327007
    assert losses.dq_dact_rms == pytest.approx(5.51, abs=1e-7)
    # h = 1: dW1 = db1 = dz; dh = 0.5 dz = -2.166663504 = dW0 = db0
    gradient = np.array([-2.166663504, -2.166663504, -4.333327007, -4.333327007])
    np.testing.assert_allclose(after["actor_adam.m"], 0.1 * gradient, rtol=1e-7)
    np.testing.assert_allclose(after["actor_adam.v"], 0.001 * gradient**2, rtol=1e-7)
    for name, value in {"0.weight": 1.1, "0.bias": 0.1, "1.weight": 0.6, "1.bias": 0.1}.items():
        np.testing.assert_allclose(after[f"actor.{name}"].item(), value, atol=1e-8)
    # Polyak: every target moves a tenth of the 0.1 that its online network moved
    np.testing.assert_allclose(after["target_critic.0.weight"], [[0.99], [1.99]], atol=1e-8)
    np.testing.assert_allclose(after["target_critic.0.bias"], [-0.01], atol=1e-8)
    np.testing.assert_allclose(after["target_critic.1.weight"], [[2.99]], atol=1e-8)
    np.testing.assert_allclose(after["target_critic.1.bias"], [-1.01], atol=1e-8)
    for name, value in {"0.weight": 1.01, "0.bias": 0.01, "1.weight": 0.51, "1.bias": 0.01}.items():
        np.testing.assert_allclose(after[f"target_actor.{name}"].item(), value, atol=1e-8)


# --- gradients --------------------------------------------------------------------------------------------------------

CHAINS = [((5,), 0, None), ((8, 8), 0, None), ((8, 7), 1, None), ((), 0, None), ((8, 8), 0, 3e-3), ((8, 7), 1, 3e-3)]


@pytest.mark.parametrize(("hidden", "action_layer", "final_init"), CHAINS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_chain_into_every_actor_weight(hidden, action_layer, final_init, seed):
    """-mean Q(s, mu(s)) differentiated in the actor's own weights, through the critic: the product itself."""
    agent = agent_of(hidden_sizes=hidden, action_layer=action_layer, final_init=final_init, seed=seed)
    obs = np.random.default_rng(seed).standard_normal((6, 3))
    actor, critic = agent.actor, agent.critic
    kept = critic.params.copy()
    dtheta, dact, q = ddpg.actor_gradient(actor, critic, obs)
    np.testing.assert_array_equal(critic.params, kept)

    def q_of_mu(p):
        act, _ = networks.actor_forward(with_inputs(actor, p), obs)
        return networks.critic_forward(critic, obs, act)[0]

    def pattern(p):
        changed = with_inputs(actor, p)
        act, actor_cache = networks.actor_forward(changed, obs)
        return np.concatenate(
            [masks(changed, actor_cache), masks(critic, networks.critic_forward(critic, obs, act)[1])]
        )

    np.testing.assert_array_equal(q_of_mu(copied_views(actor, actor.params)), q)
    report = assert_gradients(
        q_of_mu,
        copied_views(actor, actor.params),
        copied_views(actor, dtheta),
        upstream=np.full(6, -1 / 6),  # the checker's own idea of -mean
        pattern=pattern,
    )
    assert sum(t.checked for t in report.tensors) > 0.3 * actor.params.size
    act = networks.actor_forward(actor, obs)[0]
    assert_gradients(
        lambda p: networks.critic_forward(critic, obs, p["act"])[0],
        {"act": act},
        {"act": dact},
        upstream=np.full(6, -1 / 6),
        pattern=lambda p: masks(critic, networks.critic_forward(critic, obs, p["act"])[1]),
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize(("hidden", "action_layer"), [((6,), 0), ((6, 6), 1)])
def test_critic_loss(rng, hidden, action_layer, weight_decay):
    """mean (Q - y)^2 + weight_decay / 2 sum W^2, over weights and not biases."""
    agent = agent_of(hidden_sizes=hidden, action_layer=action_layer)
    batch = make_batch(rng, 6, 3, 2)
    critic = agent.critic
    loss, dparams, q = ddpg.critic_gradient(critic, batch.obs, batch.act, batch.rew, weight_decay)
    assert loss == pytest.approx(np.mean((q - batch.rew) ** 2))

    def total_loss(p):
        q, _ = networks.critic_forward(with_inputs(critic, p), batch.obs, batch.act)
        squares = sum(np.sum(w**2) for name, w in p.items() if name.endswith("weight"))
        return np.mean((q - batch.rew) ** 2) + weight_decay / 2 * squares

    def pattern(p):
        return masks(critic, networks.critic_forward(with_inputs(critic, p), batch.obs, batch.act)[1])

    assert_gradients(total_loss, copied_views(critic, critic.params), copied_views(critic, dparams), pattern=pattern)


def test_duplicating_the_batch_does_not_change_a_mean(rng):
    agent, batch = agent_of(), make_batch(rng, 6, 3, 2)
    twice = Batch(*(np.concatenate([a, a]) for a in batch))
    once = ddpg.actor_gradient(agent.actor, agent.critic, batch.obs)[0]
    np.testing.assert_allclose(ddpg.actor_gradient(agent.actor, agent.critic, twice.obs)[0], once, rtol=1e-9)
    once = ddpg.critic_gradient(agent.critic, batch.obs, batch.act, batch.rew, 0.0)[1]
    doubled = ddpg.critic_gradient(agent.critic, twice.obs, twice.act, twice.rew, 0.0)[1]
    np.testing.assert_allclose(doubled, once, rtol=1e-9)


def test_a_small_step_climbs(rng):
    """Step 10: plain gradient descent on the loss raises mean Q(s, mu(s)) by lr |g|^2, to first order."""
    agent, obs = agent_of(seed=3), rng.standard_normal((20, 3))
    dtheta, _, before = ddpg.actor_gradient(agent.actor, agent.critic, obs)
    lr = 1e-6
    agent.actor.params[:] -= lr * dtheta
    _, _, after = ddpg.actor_gradient(agent.actor, agent.critic, obs)
    assert np.dot(dtheta, dtheta) > 1e-6
    assert after.mean() - before.mean() == pytest.approx(lr * np.dot(dtheta, dtheta), rel=1e-3)


def test_what_an_actor_step_reports(rng):
    """-mean Q and the RMS of dQ/da over samples and dimensions, both at mu(s) and before the step."""
    agent, batch = agent_of(), make_batch(rng, 6, 3, 2)
    act, _ = networks.actor_forward(agent.actor, batch.obs)
    q, cache = networks.critic_forward(agent.critic, batch.obs, act)
    dq_dact = networks.backward_to_action(agent.critic, np.ones((6, 1)), cache)
    loss, rms = ddpg.actor_step(agent.learner, batch, agent.rates)
    assert loss == pytest.approx(-q.mean(), rel=1e-12)
    assert rms == pytest.approx(np.sqrt(np.mean(dq_dact**2)), rel=1e-12)


# --- whole updates against two independent implementations ------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "action_layer", "weight_decay"),
    [((8,), 0, 0.0), ((16, 20), 0, 0.0), ((9, 18), 1, 1e-2), ((17, 5, 16), 2, 0.0), ((), 0, 1e-2)],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fifty_updates_equal_the_twin(rng, hidden, action_layer, weight_decay, dtype):
    agent = agent_of(
        hidden_sizes=hidden, action_layer=action_layer, critic_weight_decay=weight_decay, dtype=dtype, tau=0.02,
        actor_lr=5e-4, critic_lr=1e-3,
    )  # fmt: skip
    twin = naive.Twin(agent)
    for _ in range(50):
        batch = make_batch(rng, 20, 3, 2, dtype)
        agent.update(batch)
        twin.update(batch)
    state = agent.state_dict()
    for name, expected in twin.state().items():
        # In float32 the last bits of a gradient near zero decide Adam's step, hence the room of a few steps' rounding.
        tolerance = {"rtol": 1e-8, "atol": 1e-10} if dtype == "float64" else {"rtol": 5e-3, "atol": 5e-4}
        np.testing.assert_allclose(state[name], expected, **tolerance, err_msg=name)
        assert state[name].dtype == dtype


def torch_update(torch, nets, optims, batch, config):
    def forward(net, obs, act=None):
        h = obs
        for i, layer in enumerate(net):
            if act is not None and i == config.action_layer:
                h = torch.cat([h, act], 1)
            h = layer(h)
            if i < len(net) - 1:
                h = torch.relu(h)
        return h

    obs, act, rew, next_obs, terminated = (torch.as_tensor(np.asarray(a)) for a in batch)
    with torch.no_grad():
        next_q = forward(nets["target_critic"], next_obs, torch.tanh(forward(nets["target_actor"], next_obs)))
        y = rew + config.gamma * (~terminated) * next_q[:, 0]
    loss = torch.nn.functional.mse_loss(forward(nets["critic"], obs, act)[:, 0], y)
    optims["critic"].zero_grad()
    loss.backward()
    optims["critic"].step()
    loss = -forward(nets["critic"], obs, torch.tanh(forward(nets["actor"], obs))).mean()
    optims["actor"].zero_grad()
    loss.backward()
    optims["actor"].step()
    with torch.no_grad():
        for name in ("actor", "critic"):
            for t, o in zip(nets[f"target_{name}"].parameters(), nets[name].parameters(), strict=True):
                t += config.tau * (o - t)


@pytest.mark.parametrize(("hidden", "action_layer", "weight_decay"), [((16, 12), 0, 0.0), ((12, 10), 1, 1e-2)])
def test_fifty_updates_equal_autograd(rng, hidden, action_layer, weight_decay):
    torch = pytest.importorskip("torch", reason="install the crosscheck extra")
    agent = agent_of(
        hidden_sizes=hidden, action_layer=action_layer, critic_weight_decay=weight_decay, tau=0.01, actor_lr=5e-4,
        critic_lr=1e-3,
    )  # fmt: skip
    state, nets = agent.state_dict(), {}
    for name in ("actor", "critic", "target_actor", "target_critic"):
        nets[name] = torch.nn.ModuleList()
        for w, b in naive.layers_of(state, name):
            layer = torch.nn.Linear(*w.shape, dtype=torch.float64)
            layer.weight.data, layer.bias.data = torch.tensor(w.T.copy()), torch.tensor(b)
            nets[name].append(layer)
    critic_groups = [
        {"params": [layer.weight for layer in nets["critic"]], "weight_decay": weight_decay},
        {"params": [layer.bias for layer in nets["critic"]]},
    ]
    optims = {
        "actor": torch.optim.Adam(nets["actor"].parameters(), lr=agent.config.actor_lr),
        "critic": torch.optim.Adam(critic_groups, lr=agent.config.critic_lr),
    }
    for _ in range(50):
        batch = make_batch(rng, 16, 3, 2)
        agent.update(batch)
        torch_update(torch, nets, optims, batch, agent.config)
    state = agent.state_dict()
    for name, net in nets.items():
        for i, layer in enumerate(net):
            np.testing.assert_allclose(state[f"{name}.{i}.weight"], layer.weight.detach().numpy().T, rtol=0, atol=1e-9)
            np.testing.assert_allclose(state[f"{name}.{i}.bias"], layer.bias.detach().numpy(), rtol=0, atol=1e-9)


# --- the order, and who moves when ------------------------------------------------------------------------------------


def test_the_actor_step_leaves_the_critic_alone(rng):
    agent, batch = agent_of(), make_batch(rng, 6, 3, 2)
    before = agent.state_dict()
    ddpg.actor_step(agent.learner, batch, agent.rates)
    after = agent.state_dict()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {n for n in before if n.startswith(("actor.", "actor_adam."))}


def test_the_critic_step_leaves_the_actor_and_the_targets_alone(rng):
    agent, batch = agent_of(), make_batch(rng, 6, 3, 2)
    before = agent.state_dict()
    ddpg.critic_step(agent.learner, batch, agent.rates)
    after = agent.state_dict()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {n for n in before if n.startswith(("critic.", "critic_adam."))}


def test_the_actor_step_uses_the_critic_after_its_step(rng):
    agent, batch = agent_of(critic_lr=0.05), make_batch(rng, 6, 3, 2)
    actor, old_critic = networks.copy_network(agent.actor), networks.copy_network(agent.critic)
    agent.update(batch)
    through_new = ddpg.actor_gradient(actor, agent.critic, batch.obs)[0]
    through_old = ddpg.actor_gradient(actor, old_critic, batch.obs)[0]
    np.testing.assert_allclose(agent.learner.actor_adam.m, 0.1 * through_new, rtol=1e-9)
    assert not np.allclose(through_old, through_new, rtol=1e-3)


def test_targets_start_equal_and_share_nothing():
    agent = agent_of()
    pairs = [(agent.actor, agent.target_actor), (agent.critic, agent.target_critic)]
    for online, target in pairs:
        np.testing.assert_array_equal(online.params, target.params)
        assert not np.shares_memory(online.params, target.params)
    arrays = [net.params for pair in pairs for net in pair]
    arrays += [a for adam in (agent.learner.actor_adam, agent.learner.critic_adam) for a in (adam.m, adam.v)]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_targets_follow_a_frozen_network_by_one_minus_tau(rng):
    agent, batch = agent_of(actor_lr=1e-300, critic_lr=1e-300, tau=0.1), make_batch(rng, 6, 3, 2)
    online = {name: getattr(agent, name).params.copy() for name in ("actor", "critic")}
    for name in online:
        getattr(agent, f"target_{name}").params[:] += rng.standard_normal(online[name].size)
    distance = {name: getattr(agent, f"target_{name}").params - online[name] for name in online}
    for k in range(1, 6):
        agent.update(batch)
        for name in online:
            np.testing.assert_array_equal(getattr(agent, name).params, online[name])
            left = getattr(agent, f"target_{name}").params - online[name]
            np.testing.assert_allclose(left, 0.9**k * distance[name], rtol=1e-9, atol=1e-14)


def test_terminated_stops_the_bootstrap(rng):
    agent, batch = agent_of(gamma=0.7), make_batch(rng, 6, 3, 2)
    next_act, _ = networks.actor_forward(agent.target_actor, batch.next_obs)
    next_q, _ = networks.critic_forward(agent.target_critic, batch.next_obs, next_act)
    for terminated in (True, False):
        case = batch._replace(terminated=np.full(6, terminated))
        y = ddpg.bellman_target(agent.target_actor, agent.target_critic, case, 0.7)
        np.testing.assert_allclose(y, batch.rew if terminated else batch.rew + 0.7 * next_q, rtol=1e-12)


# --- the agent --------------------------------------------------------------------------------------------------------


def test_means_are_summed_in_float64(rng):
    """100,000 float32 numbers around 1,000, one after the other, would be off by 1e-4 of it."""
    agent, n = agent_of(dtype="float32", hidden_sizes=()), 100_000
    for network in (agent.critic, agent.target_critic):
        network.params[:] = 0
        network.params[-1] = 1000.1
    batch = make_batch(rng, n, 3, 2, "float32")._replace(terminated=np.ones(n, bool))
    losses = agent.update(batch)
    assert losses.q_mean == pytest.approx(float(np.float32(1000.1)), rel=1e-12)
    assert losses.target_q_mean == pytest.approx(batch.rew.mean(dtype="float64"), rel=1e-12)
    expected = np.mean(np.square(np.float32(1000.1) - batch.rew), dtype="float64")
    assert losses.critic_loss == pytest.approx(expected, rel=1e-7)
