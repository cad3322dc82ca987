"""TD3: against the naive twin and autograd, what its three changes do, and that two pages differ by them alone."""

import difflib
from pathlib import Path

import naive
import numpy as np
import pytest
from conftest import JIT, agent_of, compiles_long, make_batch

import minddpg
from minddpg import Config, ReplayBuffer, ddpg, td3
from minddpg.gradcheck import check_agent, planted
from minddpg.gradflow import trace

TD3 = {"algorithm": "td3"}


def assert_close(agent, expected, **tolerance):
    state = agent.state_dict()
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, **tolerance, err_msg=name)


def noise_of(agent, n):
    """What the agent's next update will draw."""
    return agent.copy().draw_smoothing(agent.copy().smoothing, n)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=compiles_long)])
@pytest.mark.parametrize(
    "changes", [{}, {"action_layer": 1, "critic_weight_decay": 1e-2, "policy_delay": 3}, {"target_noise_std": 2.0}]
)
def test_fifty_updates_equal_the_twin(rng, changes, dtype):
    agent = agent_of(dtype=dtype, tau=0.02, **TD3, **changes)
    twin = naive.TwinOfTD3(agent)
    for _ in range(50):
        batch = make_batch(rng, 10, 3, 2, dtype)
        noise = noise_of(agent, 10)
        agent.update(batch)
        twin.update(batch, noise)
    tolerance = {"rtol": 1e-8, "atol": 1e-10} if dtype == "float64" else {"rtol": 5e-3, "atol": 1e-3}
    assert_close(agent, twin.state(), **tolerance)
    assert agent.updates == 50


@compiles_long
@pytest.mark.parametrize("changes", [{}, {"action_layer": 1, "critic_weight_decay": 1e-2, "target_noise_std": 1.0}])
def test_fifty_updates_equal_autograd(rng, changes):
    pytest.importorskip("torch", reason="install the crosscheck extra")
    from torch_twin import TorchTwin

    agent = agent_of(tau=0.02, **TD3, **changes)
    twin = TorchTwin(agent)
    for _ in range(50):
        batch = make_batch(rng, 16, 3, 2)
        noise = noise_of(agent, 16)
        agent.update(batch)
        twin.update(batch, noise)
    assert_close(agent, twin.state(), rtol=0, atol=1e-9)


def test_target_by_hand():
    """Q1' = s + 2 a, Q2' = 3 s + a, mu' = tanh(0.5 s); s' = 1, r = 1, gamma = 0.5, std 1, clip 0.25."""
    agent = agent_of(1, 1, hidden_sizes=(), gamma=0.5, target_noise_std=1.0, target_noise_clip=0.25, **TD3)
    for name, values in (("actor", [0.5, 0]), ("critic", [1, 2, 0]), ("critic2", [3, 1, 0])):
        getattr(agent.learner, f"target_{name}").params[:] = values
    one = np.ones((1, 1))
    batch = minddpg.Batch(one, one, np.ones(1), one, np.array([False]))
    learner = agent.learner
    for noise, a in ((0.1, 0.562117157), (7.0, 0.712117157), (-7.0, 0.212117157)):  # mu' = 0.462117157
        y = td3.bellman_target(
            learner.target_actor, learner.target_critic, learner.target_critic2, batch, agent.rates, noise * one
        )
        assert y[0] == pytest.approx(1 + 0.5 * (1 + 2 * a), abs=1e-8)  # Q1' is the smaller one below a = 2


def test_the_smaller_critic_is_chosen_row_by_row(rng):
    agent, batch = agent_of(**TD3), make_batch(rng, 40, 3, 2)
    learner, silent = agent.learner, np.zeros((40, 2))
    learner.target_critic2.params[-1] -= 0.15  # now either is the smaller one in some rows
    y = td3.bellman_target(
        learner.target_actor, learner.target_critic, learner.target_critic2, batch, agent.rates, silent
    )
    first = ddpg.bellman_target(learner.target_actor, learner.target_critic, batch, agent.config.gamma)
    second = ddpg.bellman_target(learner.target_actor, learner.target_critic2, batch, agent.config.gamma)
    np.testing.assert_allclose(y, np.minimum(first, second), rtol=1e-12)
    alive = ~batch.terminated
    assert 0 < np.mean(first[alive] < second[alive]) < 1


def test_without_its_three_changes_it_is_ddpg(rng):
    """Twins that are one, no delay, no noise: the same bits as DDPG."""
    plain = agent_of()
    agent = agent_of(policy_delay=1, target_noise_std=0.0, **TD3)
    for name in ("critic2", "target_critic2"):
        getattr(agent.learner, name).params[:] = plain.critic.params
    for _ in range(20):
        batch = make_batch(rng, 8, 3, 2)
        assert agent.update(batch) == pytest.approx(plain.update(batch), rel=1e-12)
    assert_close(agent, {k: v for k, v in plain.state_dict().items()}, rtol=1e-9, atol=1e-12)


def test_losses_of_an_update_without_an_actor_step_are_those_last_seen(rng):
    agent = agent_of(policy_delay=2, **TD3)
    losses = [agent.update(make_batch(rng, 6, 3, 2)) for _ in range(5)]
    assert losses[0].actor_loss == losses[0].dq_dact_rms == 0
    assert losses[1].actor_loss == losses[2].actor_loss != losses[3].actor_loss == losses[4].actor_loss
    assert losses[1].dq_dact_rms == losses[2].dq_dact_rms > 0


@compiles_long
def test_every_gradient(rng):
    report = check_agent(agent_of(**TD3), make_batch(rng, 8, 3, 2))
    assert report.ok, report
    names = [tensor.name for tensor in report.tensors]
    assert {"critic.0.weight", "critic2.2.bias", "dq_dact", "actor.0.weight"} <= set(names)
    assert len(report.checks) == 19


def test_the_unspoilt_copy_passes():
    nothing = planted.Bug("none", "", "td3", "def smooth", "def smooth", TD3)
    assert all(report.ok for report in planted.check_planted(nothing))


def test_a_trace_names_the_first_critic(rng):
    agent, batch = agent_of(**TD3), make_batch(rng, 8, 3, 2)
    traced = trace(agent, batch)
    assert "of TD3's two critics it is the first" in str(traced)
    np.testing.assert_allclose(traced.climb.ratio, 1, rtol=1e-2)
    agent.learner.critic2.params[:] = 0
    np.testing.assert_array_equal(trace(agent, batch)["dact"].array, traced["dact"].array)


def test_a_copy_draws_the_same_noise(rng):
    agent, batch = agent_of(**TD3), make_batch(rng, 6, 3, 2)
    agent.update(batch)
    copy = agent.copy()
    for each in (agent, copy):
        each.update(batch)
    assert_close(copy, agent.state_dict(), rtol=0, atol=0)
    assert str(agent).startswith("TD3(")


@pytest.mark.skipif(not JIT, reason="about compiled code")
def test_warmup_leaves_nothing_to_compile(rng):
    from minddpg import agent as agents

    config = Config(dtype="float64", **TD3)
    agents.warmup("float64", config)
    compiled = set(td3.update.signatures), set(ddpg.policy.signatures)
    agent = agent_of(action_layer=1, **TD3)
    replay = ReplayBuffer(20, 3, 2, "float64")
    for row in zip(*make_batch(rng, 20, 3, 2), strict=True):
        replay.add(*row)
    agent.update_from(replay, rng)
    agent.act(np.zeros(3))
    assert compiled == (set(td3.update.signatures), set(ddpg.policy.signatures))


def test_a_run_in_pieces_is_the_whole_run(tmp_path):
    from test_exact_resume import in_pieces

    config = Config(
        steps=240, hidden_sizes=(8, 8), batch_size=16, learning_starts=80, evaluate_every=0, diagnose_every=50, **TD3
    )
    in_pieces(tmp_path, config, 2)
    agent = minddpg.load(tmp_path / "whole")
    assert "critic2.0.weight" in agent.state_dict()
    assert check_agent(agent, minddpg.load_batch(tmp_path / "whole", 8), mode="sample", samples=5).ok


def test_a_profiled_update_has_the_same_bits(rng):
    from minddpg.profile import Profile

    first, second = agent_of(**TD3), agent_of(**TD3)
    replay = ReplayBuffer(20, 3, 2, "float64")
    for row in zip(*make_batch(rng, 20, 3, 2), strict=True):
        replay.add(*row)
    for seed in range(3):
        first.update_from(replay, np.random.default_rng(seed), Profile().update("td3"))
        second.update_from(replay, np.random.default_rng(seed))
    assert_close(first, second.state_dict(), rtol=0, atol=0)


def test_the_two_pages_differ_by_the_three_changes():
    """Whatever stands in one of them alone speaks of twins, delay or smoothing."""
    root = Path(minddpg.__file__).parent
    before, after = ((root / name).read_text().splitlines() for name in ("ddpg.py", "td3.py"))
    same = difflib.SequenceMatcher(None, before, after, autojunk=False)
    unchanged = sum(block.size for block in same.get_matching_blocks())
    assert unchanged > 0.6 * len(before)
    body = [line for line in after if line.strip()]
    names = [line for line in body if line.startswith(("def ", "class "))]
    theirs = [line for line in before if line.startswith(("def ", "class ")) and "class Losses" not in line]
    kept = [line.split("(")[0] for line in names if "Seen" not in line and "smooth" not in line]
    assert kept == [line.split("(")[0] for line in theirs if "def policy" not in line]
    for name in ("add_weight_decay", "critic_gradient", "actor_gradient", "actor_step"):
        assert code_of(before, name) == code_of(after, name), name


def code_of(lines, name):
    """The lines of a function, without comments."""
    start = next(i for i, line in enumerate(lines) if line.startswith(f"def {name}"))
    stop = next(i for i in range(start + 1, len(lines) + 1) if i == len(lines) or lines[i][:1] not in ("", " ", ")"))
    return [line for line in lines[start:stop] if not line.strip().startswith("#")]
