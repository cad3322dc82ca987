"""Bugs of options that only runs and data show, planted one at a time into a copy: the named tests must fail.

Those that a gradient check shows are in minddpg/gradcheck/planted.py.
"""

import pytest
from conftest import JIT
from test_planted import spoilt

OF_OPTIONS = {
    "n_step: gamma to the wrong power": (
        "returns", "(np.asarray(steps, np.float64) - 1)", "np.asarray(steps, np.float64)",
        "test_returns.py::test_what_the_bootstrap_is_worth",
    ),
    "n_step: a time limit ends the value": (
        "returns", "yield from self.cut(terminated)", "yield from self.cut(True)",
        "test_returns.py::test_against_brute_force",
    ),
    "n_step: rewards are not discounted": (
        "returns", "self.gamma ** self._steps[started] * rew", "rew", "test_returns.py::test_by_hand",
    ),
    "n_step: rewards of the next episode": (
        "returns", "if terminated or truncated:", "if terminated:", "test_returns.py::test_against_brute_force",
    ),
    "n_step: a resumed run forgets what is pending": (
        "training", "            returns.restore(saved)\n", "            returns.count = saved['count']\n",
        "test_returns.py::test_a_run_in_pieces_is_the_whole_run",
    ),
    "normalise_obs: Welford with the old mean twice": (
        "observations", "off * (wide - mean)", "off * off",
        "test_observations.py::test_welford_is_the_mean_and_the_variance",
    ),
    "normalise_obs: the next observation is not": (
        "agent", "next_obs=self.in_units(batch.next_obs)", "next_obs=batch.next_obs",
        "test_observations.py::test_fifty_updates_equal_the_twin",
    ),
    "normalise_obs: act sees other observations": (
        "agent", "in_use(self._learner.actor), self.in_units(rows))", "in_use(self._learner.actor), rows)",
        "test_observations.py::test_all_that_feeds_a_network_normalises",
    ),
    "normalise_obs: the next observation is counted too": (
        "training", "        self.agent.observe(self.obs[i])\n",
        "        self.agent.observe(self.obs[i])\n        self.agent.observe(next_obs)\n",
        "test_observations.py::test_a_run_learns_from_what_it_stores_and_from_nothing_else",
    ),
    "reward_scale: the tables are scaled too": (
        "training", "episode.total += moment.rew[i]", "episode.total += self.config.reward_scale * moment.rew[i]",
        "test_options.py::test_rewards_are_scaled_where_they_are_stored_and_nowhere_else",
    ),
    "reward_scale: rewards are stored as they come": (
        "training", "rew = self.config.reward_scale * rew", "rew = 1.0 * rew",
        "test_options.py::test_rewards_are_scaled_where_they_are_stored_and_nowhere_else",
    ),
    "reward_scale: Q is scaled the wrong way": (
        "evaluation", "[step.act for step in made])) / scale", "[step.act for step in made])) * scale",
        "test_options.py::test_q_is_compared_with_returns_in_their_units",
    ),
    "final_lr_share: the critic's does not fall": (
        "agent", "critic_lr=share * config.critic_lr", "critic_lr=config.critic_lr",
        "test_options.py::test_learning_rates_fall_linearly",
    ),
    "final_lr_share: of what is left each time": (
        "agent", "actor_lr=share * config.actor_lr", "actor_lr=share * self.rates.actor_lr",
        "test_options.py::test_learning_rates_fall_linearly",
    ),
    "final_lr_share: falls on behind the plan": (
        "agent", "min(1.0, self.updates / max(1, self.planned))", "self.updates / max(1, self.planned)",
        "test_options.py::test_learning_rates_fall_linearly",
    ),
    "final_lr_share: an extended run plans anew": (
        "training", '        run.agent.planned = int(state.get("planned", run.agent.planned))\n', "",
        "test_options.py::test_an_extended_run_keeps_the_plan_and_says_so",
    ),
}  # fmt: skip
QUICK = {bug.split(":")[0]: bug for bug in reversed(OF_OPTIONS)}.values()  # the first of each option


@pytest.mark.skipif(not JIT, reason="planted once, by the run with the JIT")
@pytest.mark.parametrize("bug", [b if b in QUICK else pytest.param(b, marks=pytest.mark.slow) for b in OF_OPTIONS])
def test_planted_bug_of_an_option_fails(bug, tmp_path):
    result = spoilt(*OF_OPTIONS[bug], tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "AssertionError" in result.stdout or "Failed" in result.stdout, result.stdout
