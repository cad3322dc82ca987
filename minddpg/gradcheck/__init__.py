"""A gradient checker for hand-written networks: minddpg's own, and any other on NumPy.

    check_gradient(function, inputs, gradients)    one function with named inputs   -> Report
    assert_gradients(...)                          the same for tests: raises AssertionError with the table
    check_agent(agent, batch)                      every gradient of a DDPG agent, by name
    explain(actor, critic, obs, act, gradient)     which mistake makes somebody else's actor gradient -> Explanation
    assert_ddpg_update(...)                        the same for tests
    numeric_gradient(function, x, upstream, ...)   central differences alone
    planted_bug(name)                              of the catalogue
    json_value, tuple_text                         numbers as these reports write them

Reading order: report.py (what a check says), differences.py (finite differences), checker.py (the comparison),
structure.py (what differences miss), hints.py (from a ratio to the mistake), sweep.py (every parameter of a network,
compiled), numeric.py (central differences alone), agent.py and agent_structure.py (the whole agent), planted.py
(historical bugs, each caught), explaining/ (`explain`, plain NumPy).
"""

from .agent import check_agent
from .checker import assert_gradients, check_gradient
from .explaining import DDPG_MISTAKES, ExplainError, Explanation, assert_ddpg_update, explain
from .judgement import Mode
from .numeric import numeric_gradient
from .planted import bug as planted_bug
from .report import Check, Report, TensorReport, tuple_text
from .report import finite as json_value

__all__ = ["DDPG_MISTAKES", "Check", "ExplainError", "Explanation", "Mode", "Report", "TensorReport",
           "assert_ddpg_update", "assert_gradients", "check_agent", "check_gradient", "explain", "json_value",
           "numeric_gradient", "planted_bug", "tuple_text"]  # fmt: skip
