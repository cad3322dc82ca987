"""`explain` names what is planted, calls right ones right, and says nothing of what it does not know."""

import dataclasses
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import planted_ddpg
import pytest
from conftest import random_agent
from planted_ddpg import ACTOR_GROUPS, CRITIC_GROUPS, STEPS, TARGETS, numpy_actor, outcome, planted_step, random_case

from minddpg import ddpg
from minddpg.gradcheck import DDPG_MISTAKES, ExplainError, assert_ddpg_update, explain
from minddpg.gradcheck.explaining import chain
from minddpg.gradcheck.explaining.arrays import Layers
from minddpg.gradcheck.explaining.catalogue import ACTOR, CRITIC
from minddpg.gradcheck.explaining.report import Explanation, Part
from minddpg.networks import named_parameters

FRAMEWORKS = ["numpy", *(["torch"] if importlib.util.find_spec("torch") else [])]


def case_of(seed=3, **changes):
    return dataclasses.replace(random_case(seed), **changes)


def plain_case(seed=0, n=9, dtype="float64", obs_dim=3, act_dim=2, hidden=(8, 7), scale=2.0):
    """Nothing special: two hidden layers of different widths, (in, out)."""
    rng = np.random.default_rng(seed)
    sizes = {"actor": (obs_dim, *hidden, act_dim), "critic": (obs_dim + act_dim, *hidden, 1)}
    nets = {}
    for name, widths in {**sizes, "target_actor": sizes["actor"], "target_critic": sizes["critic"]}.items():
        nets[name] = []
        for a, b in itertools.pairwise(widths):
            nets[name] += [rng.standard_normal((a, b)) / np.sqrt(a), 0.1 * rng.standard_normal(b)]
    obs, next_obs = rng.standard_normal((2, n, obs_dim))
    act = scale * np.tanh(rng.standard_normal((n, act_dim)))
    terminated, truncated = (np.arange(n) % 3 == 0) * 1.0, (np.arange(n) % 3 == 1) * 1.0
    case = planted_ddpg.Case(
        seed, dtype, "in,out", hidden, "relu", np.full(act_dim, scale), np.zeros(act_dim), 0, nets, obs, act,
        rng.standard_normal(n), next_obs, terminated, truncated, 0.9,
    )  # fmt: skip
    return case.cast(dtype)


def explained(case, mistakes=(), **changes):
    return explain(**{**case.handed_over("actor_gradient", numpy_actor(case, mistakes)), **changes})


# --- the chain is DDPG's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_right_chains_are_those_of_ddpg(seed):
    agent, batch = random_agent(seed)

    def layers(network):
        tensors = list(named_parameters(network).values())
        return Layers(tuple(tensors[::2]), tuple(tensors[1::2]))

    hidden = len(agent.config.hidden_sizes)
    problem = chain.Problem(
        layers(agent.actor), layers(agent.critic), batch.obs, batch.act,
        np.ones(agent.act_dim),
        np.zeros(agent.act_dim), agent.critic.action_layer, (("relu",) * hidden,) * 2, rew=batch.rew,
        next_obs=batch.next_obs,
        terminated=batch.terminated.astype(float), gamma=0.97, target_actor=layers(agent.target_actor),
        target_critic=layers(agent.target_critic),
    )  # fmt: skip
    dtheta, _, _ = ddpg.actor_gradient(agent.actor, agent.critic, batch.obs)
    mine = np.concatenate([t.ravel() for t in chain.actor_gradient(problem, {})])
    np.testing.assert_allclose(mine, dtheta, rtol=1e-9, atol=1e-15)
    checked = batch._replace(terminated=batch.terminated.astype(float))
    y = ddpg.bellman_target(agent.target_actor, agent.target_critic, checked, 0.97)
    _, dcritic, _ = ddpg.critic_gradient(agent.critic, batch.obs, batch.act, y, 0.0)
    mine = np.concatenate([t.ravel() for t in chain.critic_gradient(problem, {})])
    np.testing.assert_allclose(mine, dcritic, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", chain.ACTIVATIONS)
def test_slopes_are_slopes(name):
    function, slope = chain.ACTIVATIONS[name]
    z = np.linspace(-3, 3, 30)
    np.testing.assert_allclose(slope(z), (function(z + 1e-6) - function(z - 1e-6)) / 2e-6, rtol=1e-6, atol=1e-9)


# --- the proof, small and whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("which", ["actor", "critic"])
def test_right_ones_are_right(framework, which):
    found = [outcome(seed, framework, which, 0) for seed in range(8)]
    assert [line for kind, line in found if kind != "right"] == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("which", ["actor", "critic"])
@pytest.mark.parametrize("many", [1, 2])
def test_planted_ones_are_named(framework, which, many):
    found = [outcome(seed, framework, which, many) for seed in range(2)]
    assert [line for kind, line in found if kind not in ("exact", "among several")] == []
    assert any(kind == "exact" for kind, _ in found)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("which", ["actor", "critic"])
def test_the_whole_proof(framework, which):
    right = [outcome(seed, framework, which, 0) for seed in range(1000 // (2 * len(FRAMEWORKS)))]
    assert [line for kind, line in right if kind != "right"] == []
    found = [outcome(seed, framework, which, many) for many in (1, 2) for seed in range(200)]
    assert [line for kind, line in found if kind in ("other name", "missed")] == []
    assert sum(kind == "exact" for kind, _ in found) >= 0.98 * len(found)


ACTORS = [name for group in ACTOR_GROUPS for name in group]
CRITICS = [name for group in CRITIC_GROUPS for name in group]


def test_everything_that_can_be_named_is_planted():
    assert {*ACTORS} == {m.name for m in DDPG_MISTAKES.values() if ACTOR in m.parts}
    assert {*CRITICS} == {m.name for m in DDPG_MISTAKES.values() if CRITIC in m.parts}
    assert {*STEPS, *TARGETS} - {""} == {n for n, m in DDPG_MISTAKES.items() if {"step", "targets"} & {*m.parts}}
    for mistake in DDPG_MISTAKES.values():
        assert mistake.does
        assert mistake.instead
        assert all(mistake.lines.values())


@pytest.mark.parametrize("which", ["actor", "critic"])
def test_each_mistake_of_the_catalogue_is_named_alone(which):
    implementation, groups, _ = planted_ddpg.IMPLEMENTATIONS["numpy", which]
    for name in [name for group in groups for name in group]:
        mistakes = (name,)
        if name == "target is not detached":
            mistakes = ("online networks in the target", name)
        seed = next(
            seed for seed in range(300)
            if planted_ddpg.possible(random_case(seed), mistakes, None)
            and planted_ddpg.is_seen(implementation, random_case(seed), mistakes)
        )  # fmt: skip
        case = random_case(seed)
        part = explain(**case.handed_over(f"{which}_gradient", implementation(case, mistakes))).parts[0]
        assert {*mistakes} in [{*names} for names in (part.mistakes, *part.alternatives)], (name, seed, part)


# --- what is not in the catalogue -------------------------------------------------------------------------------------


def spoiled(how, gradient, rng):
    wrong = [g.copy() for g in gradient]
    if how == "one tensor":
        wrong[2] *= 1.01
    elif how == "one element":
        wrong[0][0, 0] += 1e-3 * np.abs(wrong[0]).max()
    elif how == "columns":
        wrong[0] = wrong[0][:, ::-1].copy()
    elif how == "random":
        wrong = [rng.standard_normal(g.shape) for g in wrong]
    elif how == "noise":
        wrong = [g * (1 + 1e-4 * rng.standard_normal(g.shape)) for g in wrong]
    return wrong


@pytest.mark.parametrize("how", ["one tensor", "one element", "columns", "random", "noise"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_unknown_gets_no_name(how, dtype, rng):
    case = plain_case(dtype=dtype)
    wrong = [g.astype(dtype) for g in spoiled(how, numpy_actor(case, ()), rng)]
    explanation = explain(**case.handed_over("actor_gradient", wrong))
    assert not explanation.ok
    assert explanation.mistakes == ()
    right, bad = explanation.locates
    if how == "one tensor":
        assert bad == ("W1",)
        assert {*right} == {"W0", "b0", "b1", "W2", "b2"}
        assert "W1: off by 0.01" in str(explanation)
    if how == "one element":
        assert bad == ("W0",)
        assert "right down to b0, wrong from W0 on" in str(explanation)
    if how == "noise":
        assert "half precision, TF32" in str(explanation)


def test_a_factor_that_nobody_knows_is_told_and_not_named():
    case = plain_case()
    explanation = explain(**case.handed_over("actor_gradient", [0.3712345 * g for g in numpy_actor(case, ())]))
    assert explanation.mistakes == ()
    assert "the length 0.371234 of what it should be" in str(explanation) or "0.371235" in str(explanation)


def test_limits_and_coefficients_are_read_off():
    case = plain_case(n=12)
    right = numpy_actor(case, ())
    norm = np.sqrt(sum((g**2).sum() for g in right))
    limit = float(f"{norm / 3:.1g}")
    assert f"clipped by norm (to {limit:.3g})" in str(
        explain(**case.handed_over("actor_gradient", [g * limit / norm for g in right]))
    )
    each = float(f"{np.linalg.norm(right[0]) / 2:.1g}")
    clipped = [g * min(1, each / np.linalg.norm(g)) for g in right]
    assert f"(each array to {each:.3g})" in str(explain(**case.handed_over("actor_gradient", clipped)))
    decayed = [g + 0.0123 * w for g, w in zip(right, case.nets["actor"], strict=True)]
    assert "0.0123 times the weights and biases" in str(explain(**case.handed_over("actor_gradient", decayed)))


def clipped(gradient, limit):
    norm = np.sqrt(sum((g**2).sum() for g in gradient))
    return [g * min(1, limit / norm) for g in gradient]


@pytest.mark.parametrize("each", [False, True])
def test_what_a_clipping_hides_is_said(each):
    case = plain_case(act_dim=2, scale=2.0)
    right = numpy_actor(case, ())
    smallest = min(np.linalg.norm(g) for g in right)
    limit = float(f"{0.3 * (smallest if each else np.sqrt(sum((g**2).sum() for g in right))):.1g}")

    def clip(gradient):
        return [clipped([g], limit)[0] for g in gradient] if each else clipped(gradient, limit)

    explanation = explain(**case.handed_over("actor_gradient", clip(right)))
    assert explanation.mistakes == ("clipped by norm",)
    assert explanation.ambiguous
    hidden = {*explanation.parts[0].hidden}
    factors = {"sum for mean", "1/N twice", "mean over actions too", "added up twice", "action scale missing",
               "action scale twice", "no minus"}  # fmt: skip
    same = {
        name for name in factors
        if all(np.allclose(a, b) for a, b in zip(clip(numpy_actor(case, (name,))), clip(right), strict=True))
    }  # fmt: skip
    assert hidden == same == factors - {"1/N twice", "no minus"}
    assert "changes the length cannot be seen: " in str(explanation)
    assert "a batch with a smaller gradient" in explanation._repr_html_()


def test_a_clipping_hides_no_scale_that_differs_by_action():
    case = plain_case(act_dim=2)
    case.scale = np.array([2.0, 0.5])
    limit = 0.01
    for mistakes in (("clipped by norm",), ("action scale missing", "clipped by norm")):
        gradient = clipped(numpy_actor(case, tuple(m for m in mistakes if m != "clipped by norm")), limit)
        explanation = explain(**case.handed_over("actor_gradient", gradient))
        assert explanation.mistakes == mistakes
        assert not {"action scale missing", "action scale twice"} & {*explanation.parts[0].hidden}


def test_three_at_once():
    mistakes = ("no minus", "replayed action", "tanh' missing")
    assert {*explained(plain_case(), mistakes).mistakes} == {*mistakes}


def test_two_that_fit_are_both_said_with_the_batch_that_tells_them_apart():
    explanation = explained(plain_case(act_dim=2, scale=0.5), ("action scale missing",))
    assert explanation.ambiguous
    assert {*explanation.told_of()} == {"action scale missing", "added up twice"}
    assert "another action scale" in str(explanation)
    assert "number of samples" not in str(explanation)  # both are constants


def test_what_a_batch_cannot_show_is_said():
    case = plain_case(act_dim=1, scale=1.0)
    for at, t in enumerate(case.nets["actor"][-2:]):
        case.nets["actor"][4 + at] = 1e-9 * t
    explanation = explained(case)
    assert explanation.ok
    assert {"mean over actions too", "tanh' missing", "action scale missing"} <= {*explanation.parts[0].untold}
    assert "tanh' missing (needs actions that are not close to 0)" in str(explanation)
    assert "replayed action" not in explanation.parts[0].untold


def test_rounding_decides_and_nothing_else():
    """An error of 1e-5 is none of float32's, and one of 1e-7 none of float64's, unless float32 is on the way."""
    right = numpy_actor(plain_case(), ())
    for dtype, error, ok in [("float32", 1e-5, False), ("float32", 1e-8, True), ("float64", 1e-11, True)]:
        case = plain_case(dtype=dtype)
        off = [(g * (1 + error)).astype(dtype) for g in right]
        explanation = explain(**case.handed_over("actor_gradient", off))
        assert explanation.ok == ok, (dtype, error)
    assert "something on the way is float32" in str(explanation)


def test_a_unit_on_its_kink_may_have_either_slope(monkeypatch):
    case = plain_case()
    case.nets["actor"][1::2] = [0 * b for b in case.nets["actor"][1::2]]
    case.obs[0] = 0.0
    assert explained(case).ok
    monkeypatch.setattr(planted_ddpg, "_slope", lambda case, z: (z >= 0).astype(z.dtype))
    assert explained(case).ok
    monkeypatch.setattr(planted_ddpg, "_slope", lambda case, z: (z >= 0.1).astype(z.dtype))
    assert not explained(plain_case(n=40)).ok


# --- whatever it is handed --------------------------------------------------------------------------------------------


class Tensor:
    """What TensorFlow and PyTorch hand over."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def numpy(self):
        return self.array


def as_is(case, mistakes=()):
    return {**case.handed_over("actor_gradient", numpy_actor(case, mistakes))}


def test_containers():
    handed = as_is(plain_case())
    keys = ("actor", "critic", "actor_gradient")
    for wrap in (
        lambda net: [Tensor(a) for a in net],
        lambda net: {f"layer{i}": {"kernel": net[2 * i], "bias": net[2 * i + 1]} for i in range(3)},
        lambda net: {f"layer{i}": {"bias": net[2 * i + 1], "kernel": net[2 * i]} for i in range(3)},
        lambda net: [net[0], net[1][None], net[2], net[3][None], net[4], net[5][None]],
        lambda net: [a.tolist() for a in net],
    ):
        assert explain(**{**handed, **{key: wrap(handed[key]) for key in keys}}).ok
    assert explain(**{**handed, "rew": handed["rew"][:, None]}).ok


def test_parameters_of_torch_and_generators():
    torch = pytest.importorskip("torch")
    handed = as_is(plain_case())
    parameters = [torch.nn.Parameter(torch.tensor(a)) for a in handed["actor"]]
    for parameter, gradient in zip(parameters, handed["actor_gradient"], strict=True):
        parameter.grad = torch.tensor(gradient)
    assert explain(**{**handed, "actor": iter(parameters), "actor_gradient": iter(parameters)}).ok
    square = plain_case(obs_dim=4, act_dim=4, hidden=(4, 4))
    two_layouts = {**square.handed_over("actor_gradient", iter(numpy_actor(square, ()))), "layout": None}
    assert explain(**{**two_layouts, "critic": iter(square.nets["critic"])}).ok


def test_no_biases():
    case = plain_case()
    for net in case.nets.values():
        net[1::2] = [0 * b for b in net[1::2]]
    handed = as_is(case)
    for key in ("actor", "critic", "actor_gradient"):
        handed[key] = handed[key][::2]
    assert explain(**handed).ok


def test_square_layers_are_told_apart_by_the_numbers():
    case = plain_case(obs_dim=4, act_dim=4, hidden=(4, 4))
    for mistakes in ((), ("weight gradient transposed",)):
        gradient = numpy_actor(case, mistakes)
        actor_only = {"target_actor": None, "target_critic": None}
        for turn in (lambda a: a, lambda a: a.T):
            handed = {**as_is(case), **actor_only, "layout": None, "critic": [turn(a) for a in case.nets["critic"]]}
            handed |= {"actor": [turn(a) for a in case.nets["actor"]], "actor_gradient": [turn(g) for g in gradient]}
            assert explain(**handed).mistakes == mistakes


def test_a_transposed_gradient_is_told_by_its_shape():
    handed = as_is(plain_case())
    handed["actor_gradient"] = [g.T for g in handed["actor_gradient"]]
    assert explain(**handed).mistakes == ("weight gradient transposed",)
    handed["actor_gradient"] = [-g for g in handed["actor_gradient"]]
    assert {*explain(**handed).mistakes} == {"weight gradient transposed", "no minus"}


def test_a_critic_that_reads_the_action_first():
    handed = as_is(plain_case())
    for name in ("critic", "target_critic"):
        w = handed[name][0]
        handed[name] = [np.vstack([w[3:], w[:3]]), *handed[name][1:]]
    explanation = explain(**handed)
    assert explanation.ok
    assert "[act, h]" in str(explanation)


def test_no_gradient_is_zero():
    handed = as_is(plain_case())
    handed["actor_gradient"] = [None] * 6
    explanation = explain(**handed)
    assert explanation.mistakes == ("zero",)
    assert "6 of its arrays were None" in str(explanation)
    assert ".detach()" in str(explanation)


def test_modules_of_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    actor = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2), torch.nn.Tanh())
    critic = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    obs, act = torch.randn(16, 3), torch.rand(16, 2)
    critic(torch.cat([obs, actor(obs)], 1)).mean().backward()
    assert explain(actor, critic, obs, act, actor).mistakes == ("no minus",)
    left = explain(actor, critic, obs, act, None, critic_gradient=critic)
    assert left.mistakes == ("critic's weights moved too", "no minus")


def test_what_cannot_be_read_is_said_in_one_line():
    good = as_is(plain_case())
    for changes, said in [
        ({"actor": []}, "actor is empty"),
        ({"actor": good["actor"][:-1]}, "a weight (2-D) and a bias (1-D) per layer"),
        ({"actor": good["critic"]}, "do not lead from 3 observations to 2 outputs"),
        ({"critic": good["actor"]}, "say with action_layer where the action comes in"),
        ({"actor_gradient": good["actor_gradient"][:-1]}, "has 5 arrays and its parameters 6"),
        ({"actor_gradient": good["critic"]}, "a gradient (5, 8) for a parameter (3, 8)"),
        ({"obs": good["obs"][:-1]}, "act has shape (9, 2) and must be (8, act_dim)"),
        ({"rew": good["rew"][:-1]}, "rew has shape (8,) and must be (9,)"),
        ({"obs": good["obs"] * np.nan}, "obs is empty, or holds NaN"),
        ({"actor": [a * np.inf for a in good["actor"]]}, "NaN or infinity"),
        ({"activation": "swish"}, "activation 'swish' is not known"),
        ({"activation": ("relu", ["relu"])}, "the critic has 2 hidden layers, and 1 are named"),
        ({"layout": "oi"}, 'must be "in,out" or "out,in"'),
        ({"layout": "out,in"}, "do not fit layout"),
        ({"action_scale": [1, 2, 3]}, "action_scale must be a number, or one per action (2)"),
        ({"action_layer": 3}, "action_layer is 3"),
        ({"actor_gradient": None}, "there is nothing to explain"),
        ({"critic_gradient": good["critic"], "gamma": None}, "needs gamma too"),
        ({"target_critic_after": good["critic"], "target_critic": None}, "needs target_critic too"),
        ({"actor": ["a", "b"]}, "actor: list holds no numbers"),
        ({"actor": None}, "actor is empty or holds None"),
        ({"critic": [a.astype(complex) for a in good["critic"]]}, "critic: ndarray holds no numbers"),
        ({"obs": None}, "obs: NoneType holds no numbers"),
        ({"act": None}, "act is missing"),
        ({"gamma": "x"}, "gamma is 'x' and must be a number, 0 to 1"),
        ({"gamma": float("nan")}, "gamma is nan and must be a number, 0 to 1"),
        ({"action_layer": 0.5}, "action_layer is 0.5 and must be a whole number, 0 or more"),
        ({"activation": np.tanh}, "activation must be a name, or two"),
        ({"layout": 3}, 'must be "in,out" or "out,in"'),
        ({"action_scale": 0.0}, "action_scale must not be 0"),
        ({"terminated": 5 * np.ones(9)}, "terminated holds 5 and must be 0 or 1 throughout"),
        ({"target_critic": [*good["critic"][:2], *good["critic"][4:]]}, "target_critic: weights"),
        ({"actor_after": [a[:, :4] for a in good["actor"][:1]] + [good["actor"][1][:4], good["actor"][2][:4],
                                                                *good["actor"][3:]]}, "they must be the same"),
    ]:  # fmt: skip
        with pytest.raises(ExplainError) as error:
            explain(**{**good, **changes})
        assert said in str(error.value), (said, str(error.value))
        assert "\n" not in str(error.value)


# --- steps and targets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", STEPS)
def test_steps_from_parameters_alone(mistake):
    for seed, target in enumerate(TARGETS):
        if target == "swapped" and "critic" in mistake:
            continue
        explanation = explain(**planted_step(seed, mistake, target))
        assert {mistake, target} - {""} <= {*explanation.mistakes}, (seed, target, explanation)
        extra = {"no minus", mistake, target} | ({"critic's weights moved too"} if target == "swapped" else set())
        assert {*explanation.mistakes} <= extra
        assert explanation.ok == (not explanation.mistakes)


def test_a_step_of_a_gradient_that_is_handed_over():
    case = plain_case(dtype="float32")
    gradient = numpy_actor(case, ("sum for mean",))
    after = [(p - np.float32(0.01) * g).astype("float32") for p, g in zip(case.nets["actor"], gradient, strict=True)]
    explanation = explain(**{**case.handed_over("actor_gradient", gradient), "actor_after": after})
    assert explanation.mistakes == ("sum for mean",)
    assert "SGD with lr = 0.01" in str(explanation)


def test_a_later_step_of_adam_is_not_told(rng):
    handed = as_is(plain_case())
    handed["actor_after"] = [p + 1e-3 * rng.standard_normal(p.shape) for p in handed["actor"]]
    explanation = explain(**{**handed, "actor_gradient": None})
    assert not explanation.ok
    assert explanation.mistakes == ()
    assert "later ones depend on moments" in str(explanation)


def test_a_target_that_goes_elsewhere(rng):
    handed = as_is(plain_case())
    handed["target_critic_after"] = [t + 1e-2 * rng.standard_normal(t.shape) for t in handed["target_critic"]]
    explanation = explain(**handed)
    assert not explanation.ok
    assert "not towards its network" in str(explanation)


def test_nothing_may_reach_the_critic_where_no_reward_is_known():
    case = plain_case()
    handed = {**as_is(case), "rew": None}
    nothing = [np.zeros_like(t) for t in case.nets["critic"]]
    assert explain(**{**handed, "critic_gradient": nothing}).ok
    moved = planted_ddpg.numpy_critic(case, ("critic's weights moved too",))
    assert explain(**{**handed, "critic_gradient": moved}).mistakes == ("critic's weights moved too",)
    unknown = explain(**{**handed, "critic_gradient": case.nets["critic"]})
    assert not unknown.ok
    assert unknown.mistakes == ()


@pytest.mark.parametrize(("tau", "mistakes"), [(0.005, ()), (0.995, ("tau reversed",))])
def test_a_target_close_to_its_network_in_float32(tau, mistakes, rng):
    """Where the way is short, tau itself is known to few digits."""
    case = plain_case(dtype="float32", hidden=(64, 64))
    online = case.nets["critic"]
    target = [(w + 1e-3 * rng.standard_normal(w.shape)).astype("float32") for w in online]
    after = [np.float32(1 - tau) * t + np.float32(tau) * w for t, w in zip(target, online, strict=True)]
    handed = {**as_is(case), "target_critic": target, "critic_after": online, "target_critic_after": after}
    assert explain(**handed).mistakes == mistakes
    elsewhere = [t + np.float32(1e-4) * np.abs(t) for t in after]
    assert "not towards its network" in str(explain(**{**handed, "target_critic_after": elsewhere}))


# --- what it says -----------------------------------------------------------------------------------------------------


def test_texts_and_json_and_html():
    right, wrong = explained(plain_case()), explained(plain_case(), ("sum for mean", "replayed action"))
    assert right.ok
    assert str(right).startswith("actor gradient  right, to ")
    assert json.loads(right.to_json())["mistakes"] == []
    said = json.loads(wrong.to_json())
    assert {*said["mistakes"]} == {"sum for mean", "replayed action"} == {*said["catalogue"]}
    assert not said["ok"]
    assert said["parts"][0]["allowed"] < 1e-10
    for text in (str(wrong), wrong._repr_html_()):
        assert "replayed action" in text
        assert "critic(obs, batch.act)" in text
    assert wrong.locates[0] == ()
    assert repr(wrong) == str(wrong)


def test_gradients_that_were_never_cleared_are_supposed():
    case = plain_case(n=30)
    right = planted_ddpg.numpy_critic(case, ())
    others = [planted_ddpg.numpy_critic(dataclasses.replace(case, rew=case.rew + k), ()) for k in (1, 2, 3)]
    added = [sum(tensors) for tensors in zip(right, *others, strict=True)]
    explanation = explain(**case.handed_over("critic_gradient", added))
    assert explanation.mistakes == ()
    assert "zero_grad" in str(explanation)


def test_locates_is_of_the_gradient_that_is_wrong():
    case = plain_case()
    handed = {**case.handed_over("critic_gradient", planted_ddpg.numpy_critic(case, ("Huber loss",))),
              "actor_gradient": numpy_actor(case, ())}  # fmt: skip
    explanation = explain(**handed)
    assert explanation.mistakes == ("Huber loss",)
    assert explanation.locates[1] == ("W0", "b0", "W1", "b1", "W2", "b2")


def test_the_assertion():
    case = plain_case()
    assert_ddpg_update(**as_is(case))
    with pytest.raises(AssertionError, match="not right\nactor gradient  1/N twice"):
        assert_ddpg_update(**as_is(case, ("1/N twice",)))


def test_four_frameworks_give_the_same_gradient(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "scripts"))
    frameworks = pytest.importorskip("frameworks")
    actor, critic, obs, act = frameworks.networks()
    right = frameworks.numpy_way(actor, critic, obs)
    assert explain(actor, critic, obs, act, right, action_scale=frameworks.SCALE).ok
    monkeypatch.setattr(frameworks, "WAYS", {k: v for k, v in frameworks.WAYS.items() if k in FRAMEWORKS})
    assert frameworks.main() == 0
    assert ("| right |" in capsys.readouterr().out) == ("torch" in FRAMEWORKS)
    sys.modules.pop("frameworks", None)


# --- the chapter ------------------------------------------------------------------------------------------------------

CHAPTER = Path(chain.__file__).parent / "README.md"


def test_the_chapters_example_says_what_is_shown(capsys):
    text = CHAPTER.read_text(encoding="utf-8")
    example, shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.S).groups()
    exec(example, {})
    printed = capsys.readouterr().out
    numbers = r"\d(?:\.\d+)?e-\d+|(?<=to )0(?= )"  # the last digits of another CPU
    assert re.sub(numbers, "#", printed.strip()) == re.sub(numbers, "#", shown.strip())


def test_the_chapter_lists_every_mistake():
    text = CHAPTER.read_text(encoding="utf-8")
    for mistake in DDPG_MISTAKES.values():
        assert f"| {mistake.name} | {', '.join(mistake.parts)} | {mistake.does} |" in text


def test_the_error_of_an_explanation_is_that_of_its_worst_part():
    parts = [Part(str(error), True, error=error) for error in (0.0, 3e-9, 2e-16)]
    for order in itertools.permutations(parts):
        assert Explanation(order).error == 3e-9
    assert Explanation(()).error == 0.0
