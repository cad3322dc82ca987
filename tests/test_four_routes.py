"""Four routes, one gradient; and a mistake on any of them shows."""

import numpy as np
import pytest
from conftest import make_batch, random_agent

from minddpg import DDPG, Config
from minddpg.ddpg import actor_gradient
from minddpg.gradflow import four_routes, routes


@pytest.mark.parametrize("seed", range(50))
def test_four_routes_agree(seed):
    agent, batch = random_agent(seed, updates=5 * (seed % 2), units=9)
    found = routes(agent, batch, mode="full")
    explicit, one_pass, differences, jacobian = found.routes
    assert found.gradient.shape == agent.actor.params.shape
    assert explicit.elements == one_pass.elements == jacobian.elements == agent.actor.params.size
    assert differences.elements > 0.9 * agent.actor.params.size  # the others stand on kinks
    for route in (one_pass, differences, jacobian):
        assert route.difference < 1e-9, route
    assert jacobian.nbytes == len(batch.obs) * agent.act_dim * agent.actor.params.size * 8


def test_the_gradients_compared_are_not_nothing():
    agents = [random_agent(seed, updates=5 * (seed % 2), units=9) for seed in range(50)]
    lengths = [np.linalg.norm(actor_gradient(agent.actor, agent.critic, batch.obs)[0]) for agent, batch in agents]
    assert sum(length > 1e-3 for length in lengths) >= 40


@pytest.mark.parametrize(
    ("name", "mistaken", "off"),
    [
        ("actor_gradient", lambda right: lambda *a: (right(*a)[0] * 1.001, *right(*a)[1:]), [True] * 3),
        ("output_backward", lambda right: lambda actor, da, a: da, [True, False, True]),
        ("backward", lambda right: lambda *a: (-right(*a)[0], right(*a)[1], right(*a)[2]), [True, False, False]),
        ("backward_to_weights", lambda right: lambda *a: right(*a) * 1.001, [False, False, True]),
    ],
)
def test_a_mistake_on_one_route_shows(rng, monkeypatch, name, mistaken, off):
    agent, batch = DDPG(3, 2, Config(hidden_sizes=(7, 5), action_layer=1), seed=2), make_batch(rng, 8, 3, 2)
    monkeypatch.setattr(four_routes, name, mistaken(getattr(four_routes, name)))
    assert [route.difference > 1e-6 for route in routes(agent, batch, mode="full").routes[1:]] == off


def test_a_large_jacobian_is_counted_and_not_formed(rng, monkeypatch):
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(8,)), seed=0), make_batch(rng, 4, 3, 1)
    monkeypatch.setattr(four_routes, "LARGEST_JACOBIAN", 100)
    monkeypatch.delattr(four_routes, "route_jacobian")
    found = routes(agent, batch)
    assert (found.routes[3].elements, found.routes[3].nbytes) == (0, 4 * 41 * 8)
    assert "not formed" in str(found).splitlines()[-1]


def test_the_table(rng):
    agent, batch = DDPG(3, 1, Config(hidden_sizes=(8,)), seed=0), make_batch(rng, 4, 3, 1)
    lines = str(routes(agent, batch, samples=10)).splitlines()
    assert len(lines) == 6
    assert lines[4].split()[4] == "10"  # elements that finite differences looked at
    assert "4 x 41" in lines[5]
