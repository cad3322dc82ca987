"""Gradient flow you can see: how dQ/da gets into the actor's weights, and what happens to it on the way.

    trace(agent, batch)         one actor update, array by array, with the ten steps as headings   -> Trace
    routes(agent, batch)        four routes to the actor's gradient, and that they agree           -> Routes
    mistakes(agent, batch)      what each classic mistake does to the gradient                     -> Effects
    look, statistics, diagnose  an update from inside, as numbers, and what is wrong with it

Reading order: way.py (one update, taken apart), four_routes.py, classic_mistakes.py, diagnosis.py (what is wrong, cause
and remedy), tracing.py (all of it as a table), monitor.py (while training), canvas.py and the pictures, report.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classic_mistakes import MISTAKES as MISTAKES
    from .classic_mistakes import Effect as Effect
    from .classic_mistakes import Effects as Effects
    from .classic_mistakes import mistaken_gradient as mistaken_gradient
    from .classic_mistakes import mistakes as mistakes
    from .diagnosis import Diagnosis as Diagnosis
    from .diagnosis import diagnose as diagnose
    from .diagnosis import statistics as statistics
    from .four_routes import Route as Route
    from .four_routes import Routes as Routes
    from .four_routes import routes as routes
    from .tracing import Hop as Hop
    from .tracing import Trace as Trace
    from .tracing import trace as trace
    from .way import look as look
    from .way import walk as walk

_HOME = {
    "MISTAKES": "classic_mistakes",
    "Effect": "classic_mistakes",
    "Effects": "classic_mistakes",
    "mistaken_gradient": "classic_mistakes",
    "mistakes": "classic_mistakes",
    "Diagnosis": "diagnosis",
    "diagnose": "diagnosis",
    "statistics": "diagnosis",
    "Route": "four_routes",
    "Routes": "four_routes",
    "routes": "four_routes",
    "Hop": "tracing",
    "Trace": "tracing",
    "trace": "tracing",
    "look": "way",
    "walk": "way",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import late: training takes looks, and needs neither the four routes nor the checker behind them."""
    if name not in _HOME:
        raise AttributeError(f"module 'minddpg.gradflow' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
