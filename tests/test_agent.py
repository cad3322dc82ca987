"""The agent as an object: acting, batches and states that come in, compiled code and its types."""

import pickle
import re
from fractions import Fraction

import naive
import numba
import numpy as np
import pytest
from conftest import JIT, agent_of, make_batch

from minddpg import DDPG, Batch, ConfigError, ReplayBuffer, ShapeError, ddpg
from minddpg import agent as agents
from minddpg.agent import NotFinite
from minddpg.fast import jit
from minddpg.networks import named_parameters
from minddpg.profile import Profile


def unaligned(array):
    odd = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    odd[...] = array
    return odd


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def zero_copy(value):
    """As pickled and read back over bytes that nobody may write to."""
    buffers = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    kept = [bytes(buffer) for buffer in buffers]
    return pickle.loads(data, buffers=kept), kept


def same_state(agent, state):
    return all(np.array_equal(state[name], value) for name, value in agent.state_dict().items())


ODD = {  # one and the same array, as compiled code must not get it
    "Fortran order": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "int32": lambda a: a.astype(np.int32),
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "objects": lambda a: a.astype(object),
    "a list": lambda a: a.tolist(),
    "unaligned": unaligned,
    "read-only": frozen,
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_the_layout_of_what_comes_in_does_not_matter(rng, monkeypatch, odd):
    """Neither for itself nor, as the first call of all, for those that follow."""
    monkeypatch.setattr(jit, "_machine_code", {})
    agent, twin_agent = agent_of(dtype="float32"), agent_of(dtype="float32")
    batch = make_batch(rng, 8, 3, 2, "float32")
    whole = batch._replace(
        **{n: np.round(3 * getattr(batch, n)) for n in ("obs", "rew", "next_obs")}, act=np.sign(batch.act)
    )
    strange = Batch(*(odd(array) for array in whole[:-1]), whole.terminated)
    twin = naive.Twin(twin_agent)
    expected = naive.forward(twin.critic, whole.obs, whole.act)[0][:, 0]
    for obs, act in ((strange.obs, strange.act), (whole.obs, whole.act)):
        np.testing.assert_allclose(agent.q(obs, act), expected, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(agent.act(obs), naive.mu(twin.actor, whole.obs), rtol=2e-5, atol=1e-6)
    for given in (strange, whole):
        twin.update(whole)
        agent.update(given)
        for name, value in twin.state().items():
            np.testing.assert_allclose(agent.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("odd", [ODD[name] for name in ("strided", "big-endian", "float64", "unaligned", "read-only")])
def test_a_learner_that_is_put_in_is_taken_in(rng, odd):
    agent, other, batch = agent_of(seed=1, dtype="float32"), agent_of(seed=2, dtype="float32"), make_batch(rng, 6, 3, 2)
    learner = other.copy().learner
    agent.learner = learner._replace(
        actor=learner.actor._replace(params=odd(learner.actor.params)),
        critic_adam=learner.critic_adam._replace(v=odd(learner.critic_adam.v)),
    )
    agent.update(batch)
    other.update(batch)
    assert same_state(agent, other.state_dict())
    for wrong in (
        learner.actor._replace(params=learner.actor.params[1:]),
        learner.critic,
        learner.actor._replace(act_dim=2),
    ):
        with pytest.raises(ShapeError, match="actor"):
            agent.learner = learner._replace(actor=wrong)
    assert same_state(agent, other.state_dict())


def test_rates_are_floats_whatever_they_are_given_as(rng, monkeypatch):
    monkeypatch.setattr(jit, "_machine_code", {})
    agent, batch = agent_of(dtype="float32"), make_batch(rng, 6, 3, 2)
    agent.rates = agent.rates._replace(tau=1, gamma=Fraction(1, 2))
    agent.update(batch)
    np.testing.assert_array_equal(agent.target_critic.params, agent.critic.params)
    np.testing.assert_array_equal(agent.target_actor.params, agent.actor.params)
    assert agent.copy().rates == agent.rates == agent.copy("float64").rates
    for wrong in (np.nan, None, "0.5", True, 1j):
        with pytest.raises(ConfigError, match="tau must be a finite number"):
            agent.rates = agent.rates._replace(tau=wrong)
    assert {type(rate) for rate in agent.rates} == {float}


def test_memory_that_must_not_be_written_to_is_not(rng):
    agent, batch = agent_of(dtype="float32"), make_batch(rng, 6, 3, 2, "float32")
    agent.update(batch)
    again, kept = zero_copy(agent)
    before = [bytes(content) for content in kept]
    assert len(kept) >= 10
    again.update(batch)
    agent.update(batch)
    assert kept == before
    assert same_state(again, agent.state_dict())
    for name in agent.state_dict():
        array = agent.views()[name] if "adam" in name else getattr(agent, name.split(".")[0]).params
        state = agent.state_dict()
        array.flags.writeable = False
        with pytest.raises(ValueError, match=f"{name.split('.')[0]}.* is read-only"):
            agent.update(batch)
        array.flags.writeable = True
        assert same_state(agent, state)


def test_a_replay_over_read_only_memory_goes_on(rng):
    replay = ReplayBuffer(4, 3, 2)
    for row in zip(*make_batch(rng, 6, 3, 2), strict=True):
        replay.add(*row)
    again, kept = zero_copy(replay)
    before = [bytes(content) for content in kept]
    row = next(zip(*make_batch(rng, 1, 3, 2), strict=True))
    for each in (replay, again):
        each.add(*row)
    assert len(kept) == 5
    assert kept == before
    for one, other in zip(replay.transitions, again.transitions, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(AttributeError):
        replay.transitions = again.transitions


class Drawn(ReplayBuffer):
    """Draws what it is told to."""

    def draw(self, batch_size, rng):
        return self.told


def test_indices_that_somebody_else_draws(rng):
    replay, agent, twin = Drawn(5, 3, 2, "float64"), agent_of(), agent_of()
    rows = make_batch(rng, 5, 3, 2)
    for row in zip(*rows, strict=True):
        replay.add(*row)
    twin.update(Batch(*(array[[4, 0, 2]] for array in rows)))
    for told in ([4, 0, 2], np.array([4, 0, 2], np.int32), np.array([4, 9, 0, 9, 2])[::2], np.array([4, 0, 2], ">i8")):
        replay.told, fresh = told, agent_of()
        fresh.update_from(replay, rng)
        assert same_state(fresh, twin.state_dict())
    state = agent.state_dict()
    for told in (np.array([0, 5]), np.array([-1, 0]), np.array([1 << 40])):
        replay.told = told
        with pytest.raises(IndexError, match="indices must be of transitions that are there"):
            agent.update_from(replay, rng)
        with pytest.raises(IndexError, match="indices must be"):
            ddpg.update(agent.learner, rows, told, agent.rates)
    assert same_state(agent, state)


def test_call_takes_nothing_odd(monkeypatch):
    """The last line of defence: should anything get past `as_array`."""
    monkeypatch.setattr(jit, "_machine_code", {})
    actor = agent_of().actor
    for obs in (np.zeros((3, 4)).T, frozen(np.zeros((4, 3))), unaligned(np.zeros((4, 3))), np.zeros((4, 3), complex)):
        with pytest.raises(TypeError, match="as_array"):
            jit.call(ddpg.policy, "float64", actor, obs)
    assert jit._machine_code == {}
    assert jit.call(ddpg.policy, "float64", actor, np.zeros((4, 3))).shape == (4, 2)


# --- whose fault it is, and nothing changed ---------------------------------------------------------------------------

NOT_NUMBERS = {
    "text": "left",
    "texts": ["1", "2", "3"],
    "None": None,
    "Nones": [None, 1, 2],
    "complex": [1 + 0j, 2, 3],
    "dates": np.array(["2020-01-01"] * 3, "datetime64[D]"),
    "times": np.zeros(3, "timedelta64[s]"),
    "ragged": [[1, 2], [1]],
    "dicts": {"a": 1},
    "masked": np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0]),
}


@pytest.mark.parametrize("obs", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_act_takes_numbers_only(obs):
    with pytest.raises(ShapeError, match="^obs (must be an array of numbers|has masked)"):
        agent_of().act(obs)


def test_an_observation_that_no_action_follows_from_is_named():
    agent = agent_of(dtype="float32")
    for obs, message in [
        ([0, 10**400, 0], r"^obs\[1\] is too large for a float"),
        ([0, 0, 10**39], r"^obs\[2\] is 1e\+39, too large for float32; .* float64"),
        ([[0, 0, 0], [-1e39, 0, 0]], r"^obs\[1, 0\] is -1e\+39, too large"),
        ([0, np.nan, 0], r"^obs\[1\] is nan; it must be finite"),
        (np.float32([0, 0, -np.inf]), r"^obs\[2\] is -inf; it must be finite"),
    ]:
        with pytest.raises(ShapeError, match=message):
            agent.act(obs)
    assert np.isfinite(agent.act([0, 10**25, Fraction(1, 3)])).all()


def test_an_actor_that_overflows_is_named():
    agent = agent_of(dtype="float32")
    agent.actor.params[:] = np.where(np.arange(agent.actor.params.size) % 3, 1e30, -1e30)
    with (
        np.errstate(all="ignore"),
        pytest.raises(NotFinite, match=r"action of the actor is not finite \(actor\..* 1e\+30"),
    ):
        agent.act([1, 2, 3])
    agent.actor.params[:] = np.nan
    with pytest.raises(NotFinite, match=r"\(actor.0.weight holds NaN"):
        agent.act([1, 2, 3])


@pytest.mark.parametrize("field", Batch._fields[:-1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_with_a_bad_number_is_named_and_changes_nothing(rng, field, dtype):
    agent, batch = agent_of(dtype=dtype, action_layer=1), make_batch(rng, 6, 3, 2)
    agent.update(batch)
    state, at = agent.state_dict(), (4,) if field == "rew" else (4, 1)
    for bad in (np.nan, np.inf, -np.inf, 1e39 if dtype == "float32" else np.inf):
        array = getattr(batch, field).copy()
        array[at] = bad
        with pytest.raises(
            ShapeError, match=rf"^batch.{field}\[{', '.join(map(str, at))}\] is {re.escape(format(bad, 'g'))}[;,]"
        ):
            agent.update(batch._replace(**{field: array}))
    huge = getattr(batch, field).copy()
    huge[at] = 1e30 if dtype == "float32" else 1e300
    with (
        np.errstate(all="ignore"),
        pytest.raises(NotFinite, match=rf"the (critic|actor)'s gradient is not finite \({field} is as large as"),
    ):
        agent.update(batch._replace(**{field: huge}))
    if field in ("obs", "act"):  # the loss is finite, but Adam's square of its gradient is not
        huge[at] = 1e12 if dtype == "float32" else 1e100
        with np.errstate(all="ignore"), pytest.raises(NotFinite, match=rf"the critic's gradient .*\({field} is as"):
            agent.update(batch._replace(**{field: huge}))
    with pytest.raises(ShapeError, match=rf"^batch.{field} must be an array of numbers"):
        agent.update(batch._replace(**{field: getattr(batch, field).astype(str)}))
    for wrong in (np.full(6, 0.5), ["yes"] * 6, [None] * 6):
        with pytest.raises(ShapeError, match=r"^batch.terminated must"):
            agent.update(batch._replace(terminated=wrong))
    assert same_state(agent, state)
    agent.update(batch)
    assert agent.updates == 2


def test_an_infinite_next_observation_that_every_relu_closes_on_is_named_too(rng):
    """The target, and the update, would be finite."""
    agent, batch = agent_of(), make_batch(rng, 6, 3, 2)
    for network in (agent.target_actor, agent.target_critic):
        named_parameters(network)["0.weight"][1] = -1
    batch.next_obs[4, 1] = np.inf
    state = agent.state_dict()
    with (
        np.errstate(all="ignore"),
        pytest.raises(ShapeError, match=r"^batch.next_obs\[4, 1\] is inf; it must be finite"),
    ):
        agent.update(batch)
    assert same_state(agent, state)


@pytest.mark.parametrize("name", ["actor", "critic", "target_actor", "target_critic"])
@pytest.mark.parametrize("opened", [False, True])
def test_networks_that_overflow_are_named_and_nothing_changes(rng, name, opened):
    """In the actor's step the critic has already moved: `update` undoes that, to the bit; `update_from` says so."""
    agent, replay, batch = agent_of(dtype="float32"), ReplayBuffer(6, 3, 2), make_batch(rng, 6, 3, 2)
    for row in zip(*batch, strict=True):
        replay.add(*row)
    agent.update_from(replay, rng)
    params = getattr(agent, name).params
    params[:] = np.where(np.arange(params.size) % 3, 1e30, -1e30)
    state = agent.state_dict()
    refused = pytest.raises(
        NotFinite, match=f"the {'actor' if name == 'actor' else 'critic'}'s gradient is not finite \\({name}\\."
    )
    with np.errstate(all="ignore"), refused:
        agent.update(batch)
    assert same_state(agent, state)
    with np.errstate(all="ignore"), refused:
        agent.update_from(replay, rng, Profile().update() if opened else None)
    if name == "actor":
        kept = {key: value for key, value in state.items() if not key.startswith("critic")}
        assert all(np.array_equal(agent.state_dict()[key], value, equal_nan=True) for key, value in kept.items())
    else:
        assert same_state(agent, state)


def test_a_learning_rate_that_is_to_blame_is_named(rng):
    agent = agent_of(critic_lr=1e200)
    state = agent.state_dict()
    with (
        np.errstate(all="ignore"),
        pytest.raises(NotFinite, match=r"the actor's gradient .* \(critic_lr is as large as 1e\+200\)"),
    ):
        agent.update(make_batch(rng, 6, 3, 2))
    assert same_state(agent, state)


def test_a_state_of_no_number_of_updates(rng):
    agent = agent_of()
    state = agent.state_dict()
    for t in (np.array([2.7]), np.array([1e30]), np.array([2.0]), np.array([1 << 62])):
        with pytest.raises(ValueError, match=r"actor_adam.t must be a number of updates"):
            agent.load_state_dict({**state, "actor_adam.t": t})
    agent.load_state_dict({**state, "critic_adam.t": np.array([7], np.uint8)})
    assert agent.updates == 7


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
    monkeypatch.setattr(agents, "mark_warm", lambda what, dtype: calls.append((f"mark_warm {what}", dtype)))
    agents.warmup(dtype)
    assert calls == [("shared_update", dtype), ("policy", dtype), ("mark_warm update", dtype)]


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
    swapped = batch.obs.astype(">f4")
    agent = agent_of(dtype="float32", gamma=0, tau=1, critic_weight_decay=0)
    for odd in (
        batch,
        Batch(*map(frozen, batch)),
        make_batch(rng, 6, 3, 2, "float64"),
        Batch(*(array.tolist() for array in batch)),
        batch._replace(obs=np.asfortranarray(batch.obs), act=batch.act[::-1]),
        batch._replace(obs=unaligned(batch.obs), next_obs=swapped),
        batch._replace(obs=np.ma.masked_array(batch.obs), terminated=batch.terminated.astype(int)),
    ):
        agent.update(odd)
        agent.act(odd.obs)
        agent.act(odd.obs[1])
        agent.q(odd.obs, odd.act)
    replay = ReplayBuffer(20, 3, 2, "float32")
    for row in zip(*batch, strict=True):
        replay.add(*row)
    agent.update_from(replay, rng)
    agent.load_state_dict(agent_of(seed=5, dtype="float32").state_dict())
    agent.update_from(replay, rng)
    assert {name.__name__: len(types) for (name, _), types in seen.items()} == {
        "shared_update": 1,
        "policy": 1,
        "forward": 1,
    }


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
