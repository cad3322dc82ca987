"""The one measure, and the answer in words: made worse on purpose at each hop in turn, that hop is named."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from conftest import make_batch, random_agent
from test_diagnosis import changed, row_of, still
from test_way import twin_arrays

from minddpg import DDPG, Config
from minddpg.ddpg import critic_step
from minddpg.gradflow import tell
from minddpg.gradflow.story import factor, gradient_way, way_of


def agent_and_batch(seed=0, action_layer=0):
    config = Config(hidden_sizes=(12, 10), action_layer=action_layer, dtype="float64")
    return DDPG(4, 2, config, seed), make_batch(np.random.default_rng(seed), 32, 4, 2)


@pytest.mark.parametrize("seed", range(20))
def test_the_shares_are_the_twins_and_make_up_the_whole(seed):
    agent, batch = random_agent(seed, updates=2)
    story = tell(row_of(agent, batch))
    critic_step(agent.learner, batch, agent.rates)
    size = {name: float(np.sqrt(np.mean(array**2))) for name, array in twin_arrays(agent, batch).items()}
    if not size["dact"] or not size["actor.0.dweight"]:
        assert story.died
        return
    assert story.critic == pytest.approx(size["dact"] / size["dq"])
    assert story.actor == pytest.approx(size["actor.0.dweight"] / size["dact"])
    assert story.total == pytest.approx(story.critic * story.actor)
    way = [size[name] for name in gradient_way(size)]
    assert story.factor == pytest.approx(min(b / a for a, b in pairwise(way)))


@pytest.mark.parametrize(
    ("name", "change", "worst", "said"),
    [
        ("critic.2.weight", lambda w: w * 1e-3, "critic.1.dh", "the weights of the critic's layer 2"),
        ("critic.1.bias", lambda b: b - 0.53, "critic.1.dz", "the ReLUs of the critic's layer 1"),
        ("critic.1.weight", lambda w: w * 1e-3, "critic.0.dh", "the weights of the critic's layer 1"),
        ("critic.0.weight", lambda w: np.r_[w[:-2], w[-2:] * 1e-3], "dact", "the action's weights in the critic"),
        ("actor.2.bias", lambda b: b + 5, "actor.2.dz", "tanh'"),
        ("actor.2.weight", lambda w: w * 1e-3, "actor.1.dh", "the weights of the actor's layer 2"),
        ("actor.1.weight", lambda w: w * 1e-3, "actor.0.dh", "the weights of the actor's layer 1"),
    ],
)
def test_the_hop_made_worst_is_named_with_its_cause(name, change, worst, said):
    agent, batch = agent_and_batch()
    if name == "critic.1.bias":
        changed(agent, critic__2__weight=lambda w: 40 * w)
    changed(agent, **{name.replace(".", "__"): change})
    row = row_of(still(agent), batch)
    story = tell(row)
    assert (story.worst, story.where) == (worst, said)
    assert str(story).startswith(f"shrinks most at {said} (x {story.factor:.2g}): ")
    if "weights" in said:
        column = "action.weight_rms" if worst == "dact" else f"{name.rsplit('.', 1)[0]}.weight_rms"
        assert story.why == f"they have RMS {row[column]:.2g}"
    elif said == "tanh'":
        assert story.why == f"{100 * row['saturated']:.0f} % of the actions are beyond 0.99"
        assert row["saturated"] > 0.5
    else:
        assert re.fullmatch(r"\d+ % are shut", story.why)
    shares = r"; from dq to the actor's first weight x \S+ in all; the critic's share x \S+, the actor's x \S+$"
    assert re.search(shares, str(story))


def test_where_it_dies_and_where_it_only_grows():
    agent, batch = agent_and_batch()
    changed(agent, actor__2__bias=lambda b: b + 100)
    story = tell(row_of(agent, batch))
    assert str(story).startswith("dies at tanh': 100 % of the actions are beyond 0.99; ")
    assert (story.died, story.total, story.actor) == (True, 0, 0)
    agent, batch = agent_and_batch()
    row = {name: 2.0**i for i, name in enumerate(f"rms.{n}" for n in way_of(row_of(agent, batch)))}
    assert str(tell(row)).startswith("shrinks nowhere (least growth: ")
    assert str(tell({**row, "rms.dact": math.nan})).startswith("the gradient is not finite, or 0 from the start; ")
    assert str(tell(dict.fromkeys(row, 0.0))).startswith("the gradient is not finite, or 0 from the start; ")


def test_a_table_of_an_earlier_version_is_told_without_causes():
    row = {name: x for name, x in row_of(*agent_and_batch()).items() if name.startswith("rms.")}
    assert tell(row).why == ""
    assert "): " not in str(tell(row))


def test_factors_of_what_is_no_number():
    assert factor(2.0, 1.0) == 0.5
    assert all(math.isnan(factor(before, 1.0)) for before in (0.0, math.nan, math.inf))
