"""Gradient flow you can see: how dQ/da gets into the actor's weights, and what happens to it on the way.

    trace(agent, batch)         one actor update, array by array, with the ten steps as headings   -> Trace

Reading order: trace.py (the way, taken apart), diagnosis.py (what is wrong, cause and remedy), monitor.py (the same
while training).
"""

from .diagnosis import Diagnosis, diagnose, statistics
from .trace import Hop, Trace, look, trace, walk

__all__ = ["Diagnosis", "Hop", "Trace", "diagnose", "look", "statistics", "trace", "walk"]
