"""The agent as an object: acting, batches and states that come in, compiled code and its types."""

import numba
import numpy as np
import pytest
from conftest import JIT, agent_of, make_batch

from minddpg import DDPG, Batch, ConfigError, ReplayBuffer, ShapeError, ddpg
from minddpg import agent as agents


def test_act(rng):
    agent = agent_of(dtype="float32")
    obs = rng.standard_normal((4, 3))
    many, one = agent.act(obs), agent.act(obs[1])
    assert many.shape == (4, 2)
    assert one.shape == (2,)
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, many[1], rtol=1e-5)
    assert agent.act([0, 1, 2]).shape == (2,)
    for wrong in (rng.standard_normal(2), rng.standard_normal((1, 1, 3)), 1.0):
        with pytest.raises(ShapeError, match="obs has shape"):
            agent.act(wrong)
    with pytest.raises(ShapeError, match="obs must be an array of numbers"):
        agent.act("left")


def test_update_from_a_replay_is_the_update_of_its_sample(rng):
    first, second = agent_of(), agent_of()
    replay = ReplayBuffer(20, 3, 2, "float64")
    for row in zip(*make_batch(rng, 20, 3, 2), strict=True):
        replay.add(*row)
    for seed in range(3):
        losses = first.update_from(replay, np.random.default_rng(seed))
        assert losses == pytest.approx(second.update(replay.sample(5, np.random.default_rng(seed))))
    assert first.updates == 3
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value, second.state_dict()[name])


@pytest.mark.parametrize("field", Batch._fields)
def test_a_batch_that_misfits_is_named(rng, field):
    agent, batch = agent_of(), make_batch(rng, 6, 3, 2)
    before = agent.state_dict()
    wrong = getattr(batch, field)[:, None] if getattr(batch, field).ndim == 1 else getattr(batch, field)[:, :1]
    with pytest.raises(ShapeError, match="must be"):
        agent.update(batch._replace(**{field: wrong}))
    with pytest.raises(ShapeError, match="one row or more"):
        agent.update(Batch(*(a[:0] for a in batch)))
    assert all(np.array_equal(before[k], v) for k, v in agent.state_dict().items())


def test_state_dict_round_trip(rng):
    agent, other, batch = agent_of(seed=1), agent_of(seed=2), make_batch(rng, 6, 3, 2)
    agent.update(batch)
    other.load_state_dict(agent.state_dict())
    agent.update(batch)
    other.update(batch)
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[name])
    assert {"actor.0.weight", "critic.2.bias", "target_actor.1.weight", "critic_adam.v", "actor_adam.t"} <= set(
        agent.state_dict()
    )


def test_a_state_that_misfits_changes_nothing():
    agent = agent_of()
    before = agent.state_dict()
    missing = {k: v for k, v in before.items() if k != "actor.0.bias"}
    wrong_shape = {**before, "actor.0.bias": np.zeros(3)}
    not_finite = {**before, "critic.0.bias": np.full(8, np.nan)}
    text = {**before, "critic.0.bias": np.array(["x"] * 8)}
    huge = {**before, "critic.0.bias": np.full(8, 1e300)}
    negative = {**before, "actor_adam.t": np.array([-5])}
    with pytest.raises(ValueError, match="finite"):
        agent_of(dtype="float32").load_state_dict(huge)
    for state, message in [
        (negative, "negative"),
        (missing, "actor.0.bias is missing"),
        ({}, "agent: actor.0.bias, actor.0.weight, actor.1.bias is missing"),
        (wrong_shape, "must be"),
        (not_finite, "finite"),
        (text, "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            agent.load_state_dict(state)
    assert all(np.array_equal(before[k], v) for k, v in agent.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_warmup_calls_what_training_calls(monkeypatch, dtype):
    """Then it is remembered. (The next test cannot see a call left out that a test before it has made.)"""
    calls = []

    def spied(name, function):
        def spy(*arguments):
            network = arguments[2].actor if name == "shared_update" else arguments[0]
            calls.append((name, network.params.dtype.name))
            return function(*arguments)

        return spy

    for name in ("shared_update", "policy"):
        monkeypatch.setattr(agents, name, spied(name, getattr(agents, name)))
    monkeypatch.setattr(agents, "mark_warm", lambda dtype: calls.append(("mark_warm", dtype)))
    agents.warmup(dtype)
    assert calls == [("shared_update", dtype), ("policy", dtype), ("mark_warm", dtype)]


@pytest.mark.skipif(not JIT, reason="about compiled code")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_warmup_leaves_nothing_to_compile(rng, dtype):
    agents.warmup(dtype)
    compiled = set(ddpg.update.signatures), set(ddpg.policy.signatures)
    agent = agent_of(dtype=dtype, action_layer=1)
    agent.update(make_batch(rng, 6, 3, 2, dtype))
    agent.act(np.zeros(3))
    assert compiled == (set(ddpg.update.signatures), set(ddpg.policy.signatures))


@pytest.mark.skipif(not JIT, reason="about compiled code")
def test_whatever_comes_in_compiled_code_gets_the_same_types(rng, monkeypatch):
    """`call` looks at the types once per dtype and trusts that they stay."""
    seen = {}

    def spy(function, dtype, *arguments):
        seen.setdefault((function, dtype), set()).add(tuple(map(numba.typeof, arguments)))
        return function(*arguments)

    monkeypatch.setattr(agents, "call", spy)
    agents.warmup("float32")
    batch = make_batch(rng, 6, 3, 2, "float32")
    frozen = batch._replace(**{name: array.copy() for name, array in batch._asdict().items()})
    for array in frozen:
        array.flags.writeable = False
    unaligned = np.zeros(6 * 3 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(6, 3)
    swapped = batch.obs.astype(">f4")
    agent = agent_of(dtype="float32", gamma=0, tau=1, critic_weight_decay=0)
    for odd in (
        batch,
        frozen,
        make_batch(rng, 6, 3, 2, "float64"),
        Batch(*(array.tolist() for array in batch)),
        batch._replace(obs=np.asfortranarray(batch.obs), act=batch.act[::-1]),
        batch._replace(obs=unaligned, next_obs=swapped),
        batch._replace(obs=np.ma.masked_array(batch.obs), terminated=batch.terminated.astype(int)),
    ):
        agent.update(odd)
        agent.act(odd.obs)
        agent.act(odd.obs[1])
    replay = ReplayBuffer(20, 3, 2, "float32")
    for row in zip(*batch, strict=True):
        replay.add(*row)
    agent.update_from(replay, rng)
    agent.load_state_dict(agent_of(seed=5, dtype="float32").state_dict())
    agent.update_from(replay, rng)
    assert {name.__name__: len(types) for (name, _), types in seen.items()} == {"shared_update": 1, "policy": 1}


def test_losses_are_plain_numbers(rng):
    losses = agent_of(dtype="float32").update(make_batch(rng, 6, 3, 2))
    assert {type(value) for value in losses} == {float}


def test_what_cannot_be_an_agent_is_said(rng):
    with pytest.raises(ShapeError, match="obs_dim and act_dim"):
        DDPG(0, 1)
    with pytest.raises(ConfigError, match="seed"):
        DDPG(1, 1, seed=-1)
    assert DDPG(1, 1, seed=np.int64(3)).is_finite()
    with pytest.raises(ShapeError, match="the replay holds float32 obs"):
        agent_of().update_from(ReplayBuffer(5, 3, 2, "float32"), rng)
    with pytest.raises(ShapeError, match="act"):
        agent_of().update_from(ReplayBuffer(5, 3, 1, "float64"), rng)
    with pytest.raises(ShapeError, match="batch.rew|batch.obs"):
        agent_of().update(make_batch(rng, 6, 3, 2)._replace(rew=1.0))
