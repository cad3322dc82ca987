"""What is wrong with somebody else's DDPG update: which mistake reproduces the gradient that their code computed.

Reading order: arrays.py (any framework's arrays as ours), chain.py (both gradients in float64, with a switch at every
hop, and what rounding makes of them), catalogue.py (the mistakes, in words), search.py (which of them, up to three),
steps.py (optimiser steps and targets), entry.py (`explain`), report.py (what it says).
"""

from .arrays import ExplainError
from .catalogue import DDPG_MISTAKES, Mistake
from .entry import assert_ddpg_update, explain
from .report import Explanation, Part

__all__ = ["DDPG_MISTAKES", "ExplainError", "Explanation", "Mistake", "Part", "assert_ddpg_update", "explain"]
