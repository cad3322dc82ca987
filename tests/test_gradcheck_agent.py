"""check_agent: silent on what is right, whatever the agent; every structural check is broken on purpose once."""

import numpy as np
import pytest
from conftest import JIT, make_batch

from minddpg import DDPG, Batch, Config, ShapeError
from minddpg.gradcheck import agent_structure, check_agent, planted
from minddpg.gradcheck.agent import CLOSED, MINDDPG, _masks
from minddpg.networks import critic_forward

ONE = {"hidden_sizes": (10, 8), "dtype": "float64"}
TENSORS = [f"critic.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")] + ["dq_dact", "dq_dobs"]
TENSORS += [f"actor.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]


def random_case(seed):
    """Any architecture: none to three hidden layers of 1 to 12 units, every option that changes a gradient."""
    rng = np.random.default_rng(seed)
    hidden = tuple(int(width) for width in rng.integers(1, 13, rng.integers(0, 4)))
    config = Config(
        hidden_sizes=hidden,
        action_layer=int(rng.integers(max(1, len(hidden)))),
        final_init=(None, 3e-3, 0.6)[rng.integers(3)],
        critic_weight_decay=(0.0, 1e-2)[rng.integers(2)],
        dtype=("float64", "float32")[rng.integers(2)],
        gamma=float(rng.uniform(0, 0.999)),
        tau=float(rng.uniform(0.001, 1)),
    )
    n, obs_dim, act_dim = (int(rng.integers(1, most)) for most in (20, 8, 5))
    batch = make_batch(rng, n, obs_dim, act_dim)
    return DDPG(obs_dim, act_dim, config, seed), batch._replace(rew=batch.rew * 10 ** rng.uniform(-2, 2))


def test_every_gradient_by_name(rng):
    report = check_agent(DDPG(3, 2, Config(**ONE)), make_batch(rng, 8, 3, 2))
    assert report.ok, report
    assert [tensor.name for tensor in report.tensors] == TENSORS
    assert sum(tensor.looked for tensor in report.tensors) == sum(tensor.size for tensor in report.tensors)
    assert len(report.checks) == 15
    assert all(np.isnan(tensor.float32_error) for tensor in report.tensors)


def test_no_false_alarm_on_200_random_agents():
    compared = closed = 0
    for seed in range(200 if JIT else 25):
        agent, batch = random_case(seed)
        mode = ("full", "sample", "directions")[seed % 10 % 3] if seed % 10 else "full"
        report = check_agent(agent, batch, mode=mode, seed=seed)
        assert report.ok, f"seed {seed}, {mode}\n{report}"
        compared += sum(tensor.checked > 0 for tensor in report.tensors)
        closed += sum(tensor.checked == 0 for tensor in report.tensors)
    assert compared > 10 * closed  # what is closed off proves nothing


def test_a_float32_agent_is_checked_in_float64_and_its_error_stated(rng):
    agent = DDPG(3, 2, Config(hidden_sizes=(10, 8)))
    before = agent.state_dict()
    report = check_agent(agent, make_batch(rng, 8, 3, 2, "float32"))
    assert report.ok, report
    assert all(1e-9 < tensor.float32_error < 1e-4 for tensor in report.tensors)
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_trained_and_saturated_agent_passes(rng):
    """Actions of +-(1 - 1e-9) leave gradients that no difference of Q resolves; a larger upstream settles them."""
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(8, 8), dtype="float64", final_init=0.5)), make_batch(rng, 12, 3, 1)
    for _ in range(20):
        agent.update(batch)
    for name, view in agent.views().items():
        if name.startswith(("actor.2", "critic.2")):
            view *= 30
    act = agent.act(batch.obs)
    assert np.mean(np.abs(act) > 0.999) > 0.5
    report = check_agent(agent, batch)
    assert report.ok, report
    below = planted.Bug("half of what lies below the tanh", "", "networks", planted.WEIGHTS,
                        planted.WEIGHTS + "        dz *= 0.5\n")  # fmt: skip
    with planted.copy_of_minddpg(below) as source:
        copy = source.agent.DDPG(3, 1, agent.config)
        copy.load_state_dict(agent.state_dict())
        assert not check_agent(copy, batch, source=source).ok


def test_where_every_action_is_saturated_nothing_is_claimed(rng):
    """1 - |a| = 1e-13: no difference of Q tells a sign there. The actor is unresolved, and no check calls it wrong."""
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(8, 8), dtype="float64")), make_batch(rng, 12, 3, 1)
    agent.views()["actor.2.bias"][:] = 15
    report = check_agent(agent, batch)
    assert not any(tensor.wrong for tensor in report.tensors)
    assert all(check.ok for check in report.checks), report
    actor = [tensor for tensor in report.tensors if tensor.name.startswith("actor")]
    assert all("unresolved" in tensor.verdict for tensor in actor), report


def test_dead_layers_are_explained_not_called_wrong(rng):
    agent = DDPG(3, 2, Config(**ONE))
    agent.views()["critic.1.bias"][:] = -100
    report = check_agent(agent, make_batch(rng, 8, 3, 2))
    assert report.ok, report
    by_name = {tensor.name: tensor for tensor in report.tensors}
    for name in ("critic.0.weight", "critic.1.bias", "dq_dact", "actor.0.weight", "actor.2.bias"):
        assert by_name[name].verdict == f"zero: {CLOSED}"
    assert by_name["critic.2.bias"].verdict == "ok"


def test_what_is_closed_off_must_be_zero(rng, monkeypatch):
    """A gradient that leaks through a dead layer is wrong, not explained."""
    agent, batch = DDPG(3, 2, Config(**ONE)), make_batch(rng, 8, 3, 2)
    agent.views()["critic.1.bias"][:] = -100
    bug = planted.Bug("leaks", "", "ddpg", planted.DTHETA, planted.DTHETA.replace("dtheta,", "dtheta + 1e-9,"))
    with planted.copy_of_minddpg(bug) as source:
        copy = source.agent.DDPG(3, 2, Config(**ONE))
        copy.load_state_dict(agent.state_dict())
        report = check_agent(copy, batch, source=source)
    assert {t.name for t in report.tensors if not t.ok} == {name for name in TENSORS if name.startswith("actor")}


@pytest.mark.parametrize(
    "options", [{"mode": "fast"}, {"rtol": 5}, {"rtol": np.nan}, {"samples": 0}, {"directions": 0}]
)
def test_options_that_make_no_sense_are_refused(rng, options):
    with pytest.raises(ValueError, match="must be"):
        check_agent(DDPG(3, 2, Config(**ONE)), make_batch(rng, 8, 3, 2), **options)


@pytest.mark.parametrize("name", Batch._fields[:4])
def test_a_batch_that_misfits_is_named(rng, name):
    agent, batch = DDPG(3, 2, Config(**ONE)), make_batch(rng, 8, 3, 2)
    with pytest.raises(ShapeError, match=f"batch.{name} has shape"):
        check_agent(agent, batch._replace(**{name: np.ones((8, 9))}))
    spoilt = getattr(batch, name).copy()
    spoilt[0] = np.nan
    with pytest.raises(ShapeError, match=f"batch.{name} holds a NaN"):
        check_agent(agent, batch._replace(**{name: spoilt}))


def test_progress_is_told(rng):
    told = []
    check_agent(DDPG(3, 2, Config(**ONE)), make_batch(rng, 4, 3, 2), mode="directions", progress=told.append)
    assert told[0] == "gradients"
    assert told[-1] == "structural checks"
    assert len(told) == 5


# --- against torch ----------------------------------------------------------------------------------------------------


def test_gradients_and_verdicts_equal_torchs():
    """50 architectures: gradients equal autograd's to 1e-10, and torch.autograd.gradcheck says the same of them."""
    torch = pytest.importorskip("torch")

    def perceptron(params, x, act=None, action_layer=0):
        layers = len(params) // 2
        for i in range(layers):
            x = torch.cat([x, act], dim=1) if act is not None and i == action_layer else x
            x = x @ params[2 * i] + params[2 * i + 1]
            x = torch.relu(x) if i < layers - 1 else x
        return x

    verdicts = 0
    for seed in range(50):
        agent, batch = random_case(seed)
        exact = DDPG(agent.obs_dim, agent.act_dim, agent.config.replace(dtype="float64"))
        exact.load_state_dict(agent.state_dict())
        batch = Batch(*(np.array(a, bool if a.dtype == bool else float) for a in batch))
        ours = agent_structure.agent_gradients(MINDDPG, exact, batch)
        y = torch.tensor(agent_structure.bellman(MINDDPG, exact, batch))
        state = {k: torch.tensor(v, requires_grad=True) for k, v in exact.state_dict().items() if v.dtype == float}
        actor = [v for k, v in state.items() if k.startswith("actor.")]
        critic = [v for k, v in state.items() if k.startswith("critic.")]
        obs, act, joined = torch.tensor(batch.obs), torch.tensor(batch.act), agent.config.action_layer

        def minus_q(*actor, obs=obs, critic=critic, joined=joined):
            return -perceptron(critic, obs, torch.tanh(perceptron(actor, obs)), joined).mean()

        mu = torch.tanh(perceptron(actor, obs)).detach().requires_grad_()
        states = obs.clone().requires_grad_()
        slopes = torch.autograd.grad(perceptron(critic, states, mu, joined).sum(), [mu, states])
        loss = ((perceptron(critic, obs, act, joined)[:, 0] - y) ** 2).mean()
        loss = loss + agent.config.critic_weight_decay / 2 * sum((w**2).sum() for w in critic[::2])
        theirs = [*torch.autograd.grad(loss, critic), *slopes, *torch.autograd.grad(minus_q(*actor), actor)]
        for (name, gradient), other in zip(ours.items(), theirs, strict=True):
            error = np.linalg.norm(gradient - other.numpy()) / max(np.linalg.norm(gradient), 1e-300)
            assert error < 1e-10 or not (np.any(gradient) or other.any()), (seed, name, error)

        dtheta = [torch.tensor(g) for name, g in ours.items() if name.startswith("actor.")]
        if seed < 20 and all(g.abs().max() > 1e-6 for g in dtheta):
            for factor, right in ((1.0, True), (1.5, False)):

                class Ours(torch.autograd.Function):
                    """-mean Q with our gradient as its backward."""

                    @staticmethod
                    def forward(ctx, *actor, function=minus_q):
                        return function(*actor)

                    @staticmethod
                    def backward(ctx, upstream, factor=factor, dtheta=dtheta):
                        return tuple(factor * upstream * g for g in dtheta)

                said = torch.autograd.gradcheck(Ours.apply, actor, atol=1e-9, rtol=1e-4, raise_exception=False)
                bug = planted.Bug("", "", "ddpg", planted.DTHETA, f"    dtheta = {factor} * dtheta\n{planted.DTHETA}")
                with planted.copy_of_minddpg(bug) as source:
                    copy = source.agent.DDPG(agent.obs_dim, agent.act_dim, exact.config)
                    copy.load_state_dict(exact.state_dict())
                    assert said == right == check_agent(copy, batch, source=source).ok
                verdicts += 1
    assert verdicts >= 10


# --- planted bugs -----------------------------------------------------------------------------------------------------


def test_the_unspoilt_copy_passes_and_leaves_nothing_behind():
    import sys

    from minddpg.fast import jit

    assert all(report.ok for report in planted.check_planted(None))
    assert not [name for name in sys.modules if name.startswith(planted.PACKAGE)]
    assert sys.modules["minddpg.fast.jit"] is jit


@pytest.mark.skipif(not JIT, reason="the copies run as plain NumPy either way; the sweeps make it quick")
def test_every_planted_bug_is_caught():
    passed = []
    for bug in (*planted.BUGS, *planted.SITUATIONS):  # of options: test_options.py
        verdict = planted.verdict(bug)
        assert verdict.caught, planted.text(verdict)
        alone = "broadcast" in bug.name or bug.name.startswith(("-max", "upstream of ones"))
        assert verdict.hint or verdict.broken or alone, planted.text(verdict)
        assert bug.name in planted.text(verdict)
        assert "#" in bug.source or "/" in bug.source or "CS231n" in bug.source
        if verdict.wrong_with_small_weights and verdict.usual != "fail":
            passed.append(bug.name)
    assert len({bug.name for bug in planted.CATALOGUE}) == len(planted.CATALOGUE) >= 50
    # wrong values, not only wrong structure, which atol=1e-5 accepts of a freshly initialised agent
    assert len(passed) >= 5, passed


def test_a_changed_source_is_named():
    with pytest.raises(LookupError, match="has changed"):
        planted.verdict(planted.Bug("old", "", "ddpg", "what is not there", ""))


@pytest.mark.parametrize(
    ("file", "right", "wrong", "check"),
    [
        ("ddpg", planted.DTHETA, "    obs[0, 0] += 1e-3\n" + planted.DTHETA, "computing gradients writes nothing"),
        ("networks", "    return linear_backward_input(dz, hidden_rows(network, 0))",
         "    return linear_backward_input(dz, hidden_rows(network, 0)) + 1e-12", "zero upstream gives zero gradients"),
        ("networks", "    return linear_backward_input(dz, hidden_rows(network, 0))",
         "    return linear_backward_input(np.clip(dz, -1, 1), hidden_rows(network, 0))",
         "gradients are linear in upstream"),
        ("networks", "            dact = linear_backward_input(dz, action_rows(network))",
         "            dact = 2 * linear_backward_input(dz, action_rows(network))",
         "backward equals its parts, to weights, to obs, to action"),
        ("ddpg", "    adam(learner.actor.params, dtheta, learner.actor_adam, rates.actor_lr)", "    pass",
         "actor_step moves the actor alone, once, by its gradient"),
        ("ddpg", "    polyak(learner.target_critic.params, learner.critic.params, rates.tau)",
         "    polyak(learner.target_critic.params, learner.critic.params, 2 * rates.tau)",
         "update = critic step, actor step through it, targets by tau"),
        ("ddpg", planted.ACTOR_STEP, planted.ACTOR_STEP + "    dtheta = dtheta * batch.act[0, 0]\n",
         "the actor step does not look at the replayed action"),
    ],
)  # fmt: skip
@pytest.mark.skipif(not JIT, reason="as above")
def test_each_structural_check_can_fail(file, right, wrong, check):
    reports = planted.check_planted(planted.Bug("", "", file, right, wrong))
    assert any(check == c.name and not c.ok for report in reports for c in report.checks), reports[1]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_joined_action_is_no_relu(rng, layer):
    """Only hidden units have a side to stand on, and no action moves them to another."""
    agent = DDPG(3, 2, Config(hidden_sizes=(6, 5, 4), action_layer=layer, dtype="float64"))
    obs, act = rng.standard_normal((8, 3)), rng.uniform(-1, 1, (8, 2))
    masks = [_masks(agent.critic, critic_forward(agent.critic, obs, act)[1]) for act in (act, -act)]
    assert masks[0].size == 8 * (6 + 5 + 4)
    below = 8 * sum((6, 5, 4)[:layer])
    np.testing.assert_array_equal(masks[0][:below], masks[1][:below])


@pytest.mark.parametrize("mode", ["auto", "directions"])
@pytest.mark.parametrize(("scale", "rew_scale"), [(1e-3, 1.0), (1.0, 1e-6), (1e-5, 1e-8), (1e3, 1e6)])
def test_a_right_agent_is_right_at_any_scale(mode, scale, rew_scale):
    batch = make_batch(np.random.default_rng(1), 12, 3, 2)
    batch = batch._replace(obs=scale * batch.obs, next_obs=scale * batch.next_obs, rew=rew_scale * batch.rew)
    agent = DDPG(3, 2, Config(hidden_sizes=(8, 6), action_layer=1, final_init=3e-3, critic_weight_decay=1e-2), 1)
    report = check_agent(agent, batch, mode=mode)
    assert report.ok, report


def test_an_agent_whose_q_is_constant_is_checked_to_its_end(rng):
    """A small step along a gradient of zero has no length."""
    agent, batch = DDPG(2, 1, Config(hidden_sizes=(3,), dtype="float64")), make_batch(rng, 4, 2, 1)
    for name, view in agent.views().items():
        if name.startswith(("critic.", "target_critic.")):
            view[...] = 0
    report = check_agent(agent, batch)
    climb = next(check for check in report.checks if "raises mean Q" in check.name)
    assert climb.ok
    assert climb.detail == "the gradient is zero here"
