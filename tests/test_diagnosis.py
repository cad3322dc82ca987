"""The numbers against the naive twin; and what is made wrong on purpose gets its diagnosis and no other."""

import naive
import numpy as np
import pytest
from conftest import make_batch, random_agent

from minddpg import DDPG, Config
from minddpg.gradflow import diagnose, explain, look, statistics
from minddpg.gradflow.diagnosis import possible

SEEDS = range(10)


def row_of(agent, batch, rewards=None):
    seen = look(agent.learner, agent.checked(batch), agent.rates)
    rewards = rewards or (float(batch.rew.min()), float(batch.rew.max()))
    return statistics(agent.learner, seen, rewards, agent.config.gamma)


def names(agent, batch):
    return [diagnosis.name for diagnosis in diagnose(row_of(agent, batch))]


@pytest.mark.parametrize("seed", range(12))
def test_every_number_equals_the_twins(seed):
    agent, batch = random_agent(seed, updates=3)
    row, state, config = row_of(agent, batch), agent.state_dict(), agent.config
    nets = {name: naive.layers_of(state, name) for name in ("actor", "critic", "target_actor", "target_critic")}
    next_q = naive.forward(
        nets["target_critic"], batch.next_obs, naive.mu(nets["target_actor"], batch.next_obs), config.action_layer
    )[0][:, 0]
    y = batch.rew + config.gamma * np.where(batch.terminated, 0, next_q)
    q = naive.forward(nets["critic"], batch.obs, batch.act, config.action_layer)[0][:, 0]
    gradients = {
        "critic": naive.critic_gradient(
            nets["critic"], batch.obs, batch.act, y, config.critic_weight_decay, config.action_layer
        )
    }
    moved = agent.copy()
    moved.update(batch)
    critic = naive.layers_of(moved.state_dict(), "critic")
    gradients["actor"] = naive.actor_gradient(nets["actor"], critic, batch.obs, config.action_layer)
    act = naive.mu(nets["actor"], batch.obs)
    expected = {
        "tanh_slope": np.mean(1 - act**2),
        "saturated": np.mean(np.abs(act) > 0.99),
        "q_mean": q.mean(),
        "q_std": q.std(),
        "q_low": q.min(),
        "q_high": q.max(),
        "td_10": np.quantile(q - y, 0.1),
        "td_50": np.quantile(q - y, 0.5),
        "td_90": np.quantile(q - y, 0.9),
        "rew_low": batch.rew.min(),
        "rew_high": batch.rew.max(),
    }
    for name in ("actor", "critic"):
        flat = {key: np.concatenate([p.ravel() for layer in nets[key] for p in layer]) for key in nets}
        expected[f"{name}.distance"] = np.linalg.norm(flat[name] - flat[f"target_{name}"]) / np.linalg.norm(flat[name])
        inputs = naive.forward(nets[name], batch.obs)[1] if name == "actor" else None
        after = naive.layers_of(moved.state_dict(), name)
        for layer, (w, b) in enumerate(nets[name]):
            elements, size = w.size + b.size, np.sqrt(np.sum(w**2) + np.sum(b**2))
            dw, db = gradients[name][layer]
            step = np.sqrt(np.sum((after[layer][0] - w) ** 2) + np.sum((after[layer][1] - b) ** 2))
            expected[f"{name}.{layer}.weight_rms"] = size / np.sqrt(elements)
            expected[f"{name}.{layer}.gradient_rms"] = np.sqrt((np.sum(dw**2) + np.sum(db**2)) / elements)
            expected[f"{name}.{layer}.step_share"] = step / size
            if inputs is not None and layer < len(nets[name]) - 1:
                expected[f"{name}.{layer}.dead"] = np.mean(~inputs[layer + 1].any(axis=0))
                expected[f"{name}.{layer}.shut"] = np.mean(inputs[layer + 1] == 0)
    joined = critic[config.action_layer][0][-agent.act_dim :]
    expected["action.weight_rms"] = np.sqrt(np.mean(joined**2))
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-10), name


def test_held_counts_saturated_actions_that_dq_da_would_take_back(rng):
    agent, batch = DDPG(2, 1, Config(hidden_sizes=(), dtype="float64"), seed=0), make_batch(rng, 40, 2, 1)
    state = agent.state_dict()
    state["actor.0.weight"] *= 1000.0  # to the one bound or the other
    state["critic.0.weight"][-1] = 1.0  # dQ/da = 1, always up
    agent.load_state_dict(state)
    row = row_of(agent, batch)
    act = agent.act(batch.obs)
    assert row["saturated"] == pytest.approx(np.mean(np.abs(act) > 0.99))
    assert row["held"] == pytest.approx(np.mean(act[np.abs(act) > 0.99] < 0))
    assert 0.1 < row["held"] < 0.9


def test_what_q_can_be():
    assert possible((-2.0, 1.0), 0.9) == (pytest.approx(-20), pytest.approx(10))
    assert possible((1.0, 3.0), 0.5) == (0, 6)  # an episode may end at once
    assert possible((-3.0, -1.0), 0.5) == (-6, 0)


@pytest.fixture(params=SEEDS)
def healthy(request):
    """An agent that has learnt a little, of either architecture; and its batch."""
    seed = request.param
    config = Config(hidden_sizes=(16, 12), action_layer=seed % 2, final_init=3e-3 if seed % 3 else None)
    rng = np.random.default_rng(seed)
    agent, batch = DDPG(4, 2, config, seed), make_batch(rng, 64, 4, 2, "float32")
    for _ in range(20 * (seed % 2)):
        agent.update(batch)
    return agent, batch


def changed(agent, **changes):
    state = agent.state_dict()
    for name, change in changes.items():
        name = name.replace("__", ".")
        state[name] = change(state[name])
    agent.load_state_dict(state)


def test_a_healthy_agent_has_no_diagnosis(healthy):
    assert names(*healthy) == []


def test_a_dead_actor_layer(healthy):
    changed(healthy[0], actor__1__bias=lambda b: b - 100)
    assert names(*healthy) == ["dead actor"]
    assert "actor's layer 1" in str(diagnose(row_of(*healthy))[0])


def test_a_dead_critic_layer_hides_the_blindness_that_follows_from_it(healthy):
    changed(healthy[0], critic__1__bias=lambda b: b - 100)
    row = row_of(*healthy)
    assert row["dq_dact_rms"] == 0
    assert [d.name for d in diagnose(row)] == ["dead critic"]


def test_a_saturated_actor(healthy):
    changed(healthy[0], actor__2__weight=lambda w: 1e4 * w + 1e4 * np.sign(w), actor__2__bias=lambda b: b + 100)
    assert names(*healthy) == ["saturated"]


def test_a_critic_that_ignores_the_action(healthy):
    agent, batch = healthy
    layer = agent.config.action_layer
    for rows in (0.0, 1e-7):
        before = agent.state_dict()
        name = f"critic.{layer}.weight"
        before[name][-agent.act_dim :] *= rows
        before["critic_adam.m"][:] = 0  # no step that would bring it back
        agent.load_state_dict(before)
        assert names(still(agent), batch) == ["action-blind"]


def still(agent):
    """The same agent with a critic that does not move, so that what was planted stays."""
    agent.rates = agent.rates._replace(critic_lr=1e-30)
    return agent


def test_a_q_beyond_what_rewards_allow(healthy):
    agent, batch = healthy
    high = 1.5 * possible((float(batch.rew.min()), float(batch.rew.max())), agent.config.gamma)[1]
    changed(agent, critic__2__bias=lambda b: b + high)
    assert names(agent, batch) == ["impossible Q"]
    changed(agent, critic__2__bias=lambda b: b - 3 * high)
    assert names(agent, batch) == ["impossible Q"]


def fresh(seed, hidden_sizes=(64, 64), final_init=None, obs=1.0, rew=1.0):
    rng = np.random.default_rng(seed)
    agent, batch = DDPG(3, 1, Config(hidden_sizes=hidden_sizes, final_init=final_init), seed), make_batch(rng, 64, 3, 1)
    return agent, batch._replace(obs=obs * batch.obs, next_obs=obs * batch.next_obs, rew=rew * (batch.rew - 3))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("sick", "name", "said", "remedy"),
    [
        ({"final_init": 1e-8}, "vanishing gradient", "most of it at the weights of the actor's layer 2", "final_init"),
        ({"hidden_sizes": (32,) * 6}, "vanishing gradient", "6 hidden layers", "fewer layers"),
        ({"obs": 1e-6}, "tiny observations", "hardly see them", "multiply the observations by about 1e+06"),
        ({"rew": 1e6}, "large rewards", "Q will not get there", "divide the rewards by about"),
        ({}, None, "", ""),
        ({"final_init": 3e-3}, None, "", ""),
        ({"hidden_sizes": (400, 300), "final_init": 3e-3}, None, "", ""),
        ({"rew": 1e-4}, None, "", ""),
        ({"rew": 0.0}, None, "", ""),
        ({"rew": 100.0}, None, "", ""),
    ],
)
def test_what_a_new_agent_has(seed, sick, name, said, remedy):
    found = diagnose(row_of(*fresh(seed, **sick)))
    if name is None:
        assert found == []
        return
    assert name in [diagnosis.name for diagnosis in found]
    assert {diagnosis.name for diagnosis in found} == {name}
    assert said in found[0].what
    assert remedy in found[0].remedy


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gradient_that_explodes(seed):
    agent, batch = fresh(seed)
    changed(agent, actor__1__weight=lambda w: 1e6 * w, actor__2__weight=lambda w: 1e-6 * w)
    assert "exploding gradient" in names(agent, batch)


def test_large_observations_are_blamed_for_what_they_do(healthy):
    agent, batch = healthy
    changed(agent, actor__2__weight=lambda w: 1e4 * w + 1e4 * np.sign(w), actor__2__bias=lambda b: b + 100)
    assert "actor_lr" in diagnose(row_of(agent, batch))[0].remedy
    large = {name: 1e4 * getattr(batch, name) for name in ("obs", "next_obs")}
    found = {d.name: d.remedy for d in diagnose(row_of(agent, batch._replace(**large)))}
    assert "divide the observations" in found["saturated"]


def test_the_q_of_a_new_network_is_no_divergence_but_what_grows_beyond_it_is(healthy):
    agent, batch = healthy
    nothing = batch._replace(rew=0 * batch.rew)
    changed(agent, critic__2__bias=lambda b: b + 0.2)
    assert names(agent, nothing) == []
    changed(agent, critic__2__bias=lambda b: b + 3)
    assert names(agent, nothing) == ["impossible Q"]


def test_a_policy_that_switches_is_explained_and_not_blamed():
    agent, batch = fresh(0)
    changed(agent, actor__2__weight=lambda w: 60 * w)
    row = row_of(agent, batch)
    assert 0.3 < row["saturated"] < 1
    assert diagnose(row) == []
    assert explain({**row, "held": 0.05}) == [
        f"{100 * row['saturated']:.0f} % of the actions are beyond 0.99, and dQ/da would take only 5 % of those "
        "back inside: a policy that switches between its bounds because the critic wants it there; no fault"
    ]
    assert explain({**row, "held": 0.9}) == explain({**row, "saturated": 0.1}) == []
    assert explain({**row, "tanh_slope": 1e-5}) == []  # that is a diagnosis


@pytest.mark.parametrize("factor", [np.nan, np.inf, 1e30])
def test_an_agent_of_no_finite_numbers_is_not_called_healthy(healthy, factor):
    agent, batch = healthy
    with np.errstate(all="ignore"):
        agent.critic.params[:] *= np.float32(factor)
    with np.errstate(over="ignore", invalid="ignore"):
        found = names(agent, batch)
    assert found in (["not finite"], ["impossible Q"])
    assert found == ["not finite"] or factor == 1e30


def test_each_diagnosis_names_cause_and_remedy_in_one_line(healthy):
    agent, batch = healthy
    changed(agent, critic__2__bias=lambda b: b + 1e4, actor__0__bias=lambda b: b - 1e4)
    for diagnosis in diagnose(row_of(agent, batch)):
        assert "\n" not in str(diagnosis)
        assert str(diagnosis) == f"{diagnosis.what}; {diagnosis.remedy}"
        assert len(diagnosis.remedy) > 10
