"""Smaller options of Config: clipped gradients, falling learning rates, scaled rewards; and all of them together."""

import naive
import numpy as np
import pytest
from conftest import JIT, agent_of, compiles_long, make_batch, random_agent

import minddpg
from minddpg import Config, evaluation
from minddpg.environment import make_environments
from minddpg.gradcheck import check_agent, planted
from minddpg.gradflow import trace
from minddpg.optim import Adam, adam, clipped, new_adam
from minddpg.replay import LongBatch
from minddpg.training import Run

pytestmark = compiles_long  # tests/test_threads.py compares what is compiled

# --- max_grad_norm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_by_norm(rng, dtype):
    gradient = rng.standard_normal(50).astype(dtype)
    gradient *= 5 / np.linalg.norm(gradient)
    kept = gradient.copy()
    np.testing.assert_allclose(clipped(gradient, 2.0), kept * 0.4, rtol=1e-6)
    np.testing.assert_array_equal(clipped(gradient, 6.0), kept)
    np.testing.assert_array_equal(clipped(0 * gradient, 6.0), 0 * kept)
    np.testing.assert_array_equal(gradient, kept)
    huge = np.full(4, 1e30, dtype)  # whose square float32 cannot hold
    np.testing.assert_allclose(clipped(huge, 1.0), 0.5, rtol=1e-6)


def test_an_adam_that_clips_makes_the_step_of_the_clipped_gradient(rng):
    params, gradients = rng.standard_normal(20), rng.standard_normal((30, 20))
    other, plain, clipping = params.copy(), new_adam(params), new_adam(params, 3.0)
    assert type(plain) is Adam
    for gradient in gradients:
        adam(params, gradient, clipping, 1e-2)
        length = np.linalg.norm(gradient)
        adam(other, gradient * min(1, 3 / length), plain, 1e-2)
    np.testing.assert_allclose(params, other, rtol=1e-12)
    assert clipping.t == 30


class ClippedTwin(naive.Twin):
    """Every Adam gets gradients that are as long as max_grad_norm at most."""

    def __init__(self, agent):
        super().__init__(agent)
        for name in ("actor_adam", "critic_adam"):
            own = getattr(self, name)
            own.step = self.clipping(own.step, agent.config.max_grad_norm)

    def clipping(self, step, most):
        def clipped_step(layers, grads, lr):
            length = np.sqrt(sum(np.sum(g**2) for layer in grads for g in layer))
            share = min(1.0, most / length)
            self.shares.append(share)
            step(layers, [[share * g for g in layer] for layer in grads], lr)

        return clipped_step

    shares = []  # noqa: RUF012


def test_fifty_updates_with_clipping_equal_the_twin(rng):
    agent = agent_of(max_grad_norm=0.3, tau=0.02)
    twin = ClippedTwin(agent)
    for _ in range(50):
        batch = make_batch(rng, 12, 3, 2)
        agent.update(batch)
        twin.update(batch)
    assert min(twin.shares) < 0.5 < max(twin.shares) == 1
    state = agent.state_dict()
    for name, expected in twin.state().items():
        np.testing.assert_allclose(state[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)


def test_a_trace_shows_the_step_that_clipping_leaves(rng):
    agent, batch = agent_of(max_grad_norm=1e-9, actor_lr=1e-3), make_batch(rng, 8, 3, 2)
    traced = trace(agent, batch)
    before = agent.state_dict()
    agent.update(batch)
    moved = agent.state_dict()["actor.1.weight"] - before["actor.1.weight"]
    np.testing.assert_allclose(traced["actor.1.step_weight"].array, moved, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("changes", [{"max_grad_norm": 0.05}, {"max_grad_norm": 0.05, "algorithm": "td3"}])
def test_every_gradient(rng, changes):
    report = check_agent(agent_of(**changes), make_batch(rng, 8, 3, 2))
    assert report.ok, report


# --- final_lr_share ---------------------------------------------------------------------------------------------------


def test_learning_rates_fall_linearly(rng):
    """100 steps, 60 of them updates; at the k-th one the rates are 1 - 0.75 k / 60 of themselves."""
    agent = agent_of(steps=100, learning_starts=40, final_lr_share=0.25, actor_lr=1e-3, critic_lr=2e-3)
    assert agent.planned == 60
    batch, shares = make_batch(rng, 6, 3, 2), []
    for _ in range(70):
        shares.append(agent.rates.actor_lr / 1e-3)
        assert agent.rates.critic_lr == 2 * agent.rates.actor_lr
        agent.update(batch)
    np.testing.assert_allclose(shares, [1 - 0.75 * min(1, k / 60) for k in range(70)])
    assert agent.copy().rates == agent.rates
    fresh = agent_of(steps=100, learning_starts=40, final_lr_share=0.25, actor_lr=1e-3, critic_lr=2e-3)
    fresh.load_state_dict(agent.state_dict())
    assert fresh.rates == agent.rates


def test_the_rate_is_what_adam_gets(rng):
    one, other, batch = agent_of(final_lr_share=0.5, steps=1_200), agent_of(), make_batch(rng, 6, 3, 2)
    assert one.planned == 200
    for k in range(20):
        share = 1 - 0.5 * k / 200
        other.rates = other.rates._replace(actor_lr=share * 1e-3, critic_lr=share * 1e-3)
        one.update(batch)
        other.update(batch)
    for name, value in other.state_dict().items():
        np.testing.assert_allclose(one.state_dict()[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "updates"),
    [({}, 60), ({"updates_per_step": 3}, 180), ({"update_every": 7}, 9), ({"learning_starts": 0}, 100)],
)
def test_updates_planned_are_updates_made(changes, updates):
    config = Config(**{"steps": 100, "learning_starts": 40, "hidden_sizes": (4,), "batch_size": 4, **changes})
    run = Run(environments := make_environments("Pendulum-v1", "float32", 1, "sync", None), config)
    while run.steps < config.steps:
        run.step()
    environments.close()
    assert run.agent.updates == config.updates == updates


CONFIG = Config(steps=240, hidden_sizes=(8, 8), batch_size=16, learning_starts=80, evaluate_every=0, diagnose_every=50)


def test_an_extended_run_keeps_the_plan_and_says_so(tmp_path):
    config, said = CONFIG.replace(final_lr_share=0.1), []
    minddpg.train("Pendulum-v1", config, out=tmp_path / "run")
    result = minddpg.resume(tmp_path / "run", steps=300, warn=said.append)
    assert ["learning rates" in text and "160 updates" in text for text in said] == [True]
    assert result.agent.rates.actor_lr == pytest.approx(0.1 * config.actor_lr)
    again = minddpg.resume(tmp_path / "run", steps=310, warn=said.append)  # not forgotten the second time
    assert again.agent.planned == 160
    assert again.agent.rates == result.agent.rates


# --- reward_scale -----------------------------------------------------------------------------------------------------


def test_rewards_are_scaled_where_they_are_stored_and_nowhere_else(tmp_path):
    results = {scale: minddpg.train("Pendulum-v1", CONFIG.replace(reward_scale=scale, learning_starts=239),
                                    out=tmp_path / str(scale)) for scale in (1.0, 0.25)}  # fmt: skip
    one, quarter = (minddpg.load_batch(tmp_path / str(scale), 50) for scale in (1.0, 0.25))
    np.testing.assert_allclose(quarter.rew, 0.25 * one.rew, rtol=1e-6)
    assert results[1.0].history[0]["return"] == results[0.25].history[0]["return"]


def test_q_is_compared_with_returns_in_their_units(rng):
    agent = agent_of(reward_scale=0.1)
    plain = agent_of()
    made = [evaluation.Step(rng.standard_normal(3), np.zeros(2), 1.0, np.zeros(3), False, k == 2) for k in range(3)]
    rows, others = (evaluation.compare(0, [made], one) for one in (agent, plain))
    assert [row["q"] for row in rows] == pytest.approx([10 * row["q"] for row in others])
    after = plain.q(np.zeros((1, 3)), plain.act(np.zeros((1, 3))))[0]
    assert rows[-1]["discounted_return"] == pytest.approx(1 + 0.99 * 10 * after)


def test_a_run_from_before_the_options_goes_on():
    """Its checkpoint does not name them."""
    config = CONFIG.replace(steps=100)
    environments = make_environments("Pendulum-v1", "float32", 1, "sync", None)
    run = Run(environments, config)
    for _ in range(5):
        run.step()
    state = run.state()
    for name in ("algorithm", "n_step", "normalisation", "final_lr_share"):
        del state["config"][name]

    def fill(replay, added):
        replay.added = added

    again, lost = Run.resume(state, environments, fill, config)
    assert (again.steps, lost) == (5, [])
    with pytest.raises(ValueError, match="other hyperparameters"):
        Run.resume({**state, "config": {**state["config"], "gamma": 0.5}}, environments, fill, config)
    environments.close()


# --- planted bugs, and everything together ----------------------------------------------------------------------------


OF_OPTION = {str(bug.options): [] for bug in planted.OPTION_BUGS}
for _bug in planted.OPTION_BUGS:
    OF_OPTION[str(_bug.options)].append(_bug)
PLANTED = [  # one of each option in every run of the tests
    pytest.param(bug, marks=pytest.mark.slow if number else (), id=bug.name)
    for bugs in OF_OPTION.values() for number, bug in enumerate(bugs)
]  # fmt: skip


def test_three_bugs_of_every_option_that_changes_a_gradient_are_known():
    assert len(OF_OPTION) == 6
    assert min(map(len, OF_OPTION.values())) >= 3


@pytest.mark.skipif(JIT, reason="the copies run as plain NumPy either way")
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(bug):
    verdict = planted.verdict(bug)
    assert verdict.caught, planted.text(verdict)


def combination(seed):
    """Options at random, of those that change an update."""
    rng = np.random.default_rng(seed)
    choices = {
        "algorithm": ["ddpg", "td3"],
        "n_step": [1, 3],
        "max_grad_norm": [None, 0.2],
        "normalise_obs": [False, True],
        "final_lr_share": [1.0, 0.3],
        "action_layer": [0, 1],
        "critic_weight_decay": [0.0, 1e-2],
        "activation": ["relu", "tanh"],
        "normalisation": ["none", "batch", "layer"],
        "invert_gradients": [False, True],
    }
    return {name: values[rng.integers(len(values))] for name, values in choices.items()}


ALONE = [{"algorithm": "td3"}, {"n_step": 3}, {"max_grad_norm": 0.2}, {"normalise_obs": True}, {"final_lr_share": 0.3},
         {"activation": "tanh"}, {"invert_gradients": True}, {"normalisation": "batch", "action_layer": 1},
         {"normalisation": "layer", "action_layer": 1}]  # fmt: skip


RANDOM = [
    pytest.param(combination(s), marks=pytest.mark.slow if s > 2 else (), id=str(combination(s))) for s in range(10)
]


@pytest.mark.parametrize("changes", [*ALONE, *RANDOM], ids=str)
def test_fifty_updates_equal_autograd(rng, changes):
    pytest.importorskip("torch", reason="install the crosscheck extra")
    from torch_twin import TorchTwin

    agent = agent_of(tau=0.02, steps=1_060, **changes)
    for _ in range(30 if agent.config.normalise_obs else 0):
        agent.observe(1 + 2 * rng.standard_normal(3))
    twin = TorchTwin(agent)
    for _ in range(50):
        batch = make_batch(rng, 16, 3, 2)
        if agent.config.n_step > 1:
            batch = LongBatch(*batch, rng.integers(1, 4, 16))
        noise = agent.copy().draw_smoothing(agent.copy().smoothing, 16) if agent.config.algorithm == "td3" else None
        agent.update(batch)
        twin.update(batch, noise)
    state = agent.state_dict()
    for name, expected in twin.state().items():
        np.testing.assert_allclose(state[name], expected, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow if seed > 2 else ()) for seed in range(10)])
def test_every_gradient_of_random_combinations(rng, seed):
    agent = agent_of(hidden_sizes=(6, 5), **combination(seed))
    batch = make_batch(rng, 8, 3, 2)
    report = check_agent(agent, LongBatch(*batch, rng.integers(1, 4, 8)) if agent.config.n_step > 1 else batch)
    assert report.ok, report


def test_options_that_are_off_leave_no_trace():
    """The default agent is made of the types it always was: no variant, nothing more in its state."""
    agent, _ = random_agent(1)
    assert {type(part).__name__ for part in agent.learner} == {"Network", "Adam"}
    assert not [name for name in agent.state_dict() if not name.startswith(("actor", "critic", "target_"))]
    assert agent.kind == agent.config.dtype


@pytest.mark.skipif(not JIT, reason="about compiled code")
def test_the_default_update_compiles_no_variant():
    """What is off is not compiled: no variant has a signature after a process that made default updates."""
    import subprocess
    import sys

    code = (
        "from minddpg.agent import warmup; from minddpg.optim import clipping_adam; from minddpg import td3\n"
        "warmup('float32'); print(len(clipping_adam.signatures), len(td3.update.signatures))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "0"]


# --- what cannot be computed ------------------------------------------------------------------------------------------


def failing(dtype="float32", updates=3, **options):
    """An agent that has learnt a little, and a batch."""
    agent, rng = agent_of(dtype=dtype, **options), np.random.default_rng(0)
    for _ in range(updates):
        agent.update(make_batch(rng, 12, 3, 2, dtype))
    return agent, make_batch(rng, 12, 3, 2, dtype)


def refuses(agent, batch, match):
    """Raises NotFinite, and the agent is as it was, its random stream included."""
    before, stream = agent.state_dict(), agent.smoothing.bit_generator.state
    with pytest.raises(minddpg.agent.NotFinite, match=match):
        agent.update(batch)
    for name, value in agent.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert agent.smoothing.bit_generator.state == stream


def test_an_update_of_td3_that_fails_is_undone_wherever_it_fails():
    td3 = {"algorithm": "td3", "policy_delay": 2}
    for network, whose in (("critic", "critic's"), ("critic2", "second critic's"), ("actor", "actor's")):
        agent, batch = failing(**td3)
        params = getattr(agent.learner, network).params
        params[:] = np.where(np.arange(params.size) % 3, 1e30, -1e30)
        refuses(agent, batch, f"the {whose} gradient is not finite")


def test_a_variance_that_overflows_is_noticed():
    for kind, action_layer in (("batch", 0), ("layer", 0), ("batch", 1), ("layer", 1)):
        agent, batch = failing(normalisation=kind, action_layer=action_layer)
        wide = batch._replace(obs=(1e25 * batch.obs).astype("f4"))
        refuses(agent, wide, r"not finite \(obs is as large as")


def test_an_output_without_bounds_that_overflows_is_no_action():
    agent, batch = failing(invert_gradients=True)
    agent.views()["actor.2.weight"][:] = 3e38
    with pytest.raises(minddpg.agent.NotFinite, match="an action of the actor is not finite"):
        agent.act(1e3 * batch.obs[0])
    agent.views()["actor.2.weight"][:] = 3e3
    assert np.abs(agent.act(1e3 * batch.obs)).max() == 1


def test_clipping_does_not_hide_a_gradient_that_is_not_finite(rng):
    for bad in (np.nan, np.inf, 1e200):
        gradient, params = rng.standard_normal(6), rng.standard_normal(6)
        gradient[2], before, state = bad, params.copy(), new_adam(params, 1.0)
        with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="not finite"):
            adam(params, gradient, state, 0.1)
        np.testing.assert_array_equal(params, before)
        assert state.t == 0
        assert not state.m.any()


def test_infinite_observations_are_refused_where_they_would_be_brought_back_to_the_range():
    agent, batch = failing(normalise_obs=True)
    agent.observe(batch.obs[0]), agent.observe(batch.obs[1])
    for name in ("obs", "next_obs"):
        wrong = {name: getattr(batch, name).copy()}
        wrong[name][3, 1] = np.inf
        with pytest.raises(minddpg.ShapeError, match=rf"batch.{name}\[3, 1\] is inf"):
            agent.update(batch._replace(**wrong))
    before = [array.copy() for array in agent.statistics]
    with pytest.raises(minddpg.ShapeError, match="too large"):
        agent.observe([1e200, 0, 0])
    for array, kept in zip(agent.statistics, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_rewards_that_scaling_makes_too_large_end_training_in_a_line():
    config = Config(hidden_sizes=(4,), batch_size=4, learning_starts=4, steps=20, reward_scale=1e39)
    with pytest.raises(minddpg.TrainingError, match="lower reward_scale"):
        minddpg.train("Pendulum-v1", config, progress=False)


def test_updates_wait_for_the_first_return_of_n_steps():
    config = Config(hidden_sizes=(4,), batch_size=4, learning_starts=0, steps=12, n_step=5)
    assert minddpg.train("Pendulum-v1", config, progress=False).agent.updates == 8
