"""Gradient flow you can see: how dQ/da gets into the actor's weights, and what happens to it on the way.

    trace(agent, batch)         one actor update, array by array, with the ten steps as headings   -> Trace
    routes(agent, batch)        four routes to the actor's gradient, and that they agree           -> Routes
    mistakes(agent, batch)      what each classic mistake does to the gradient                     -> Effects
    look, statistics            an update from inside, as numbers
    tell, diagnose, explain     where its gradient shrinks most; what is wrong; what only looks wrong
    flow_figure, history_figure, action_figure, policy_figure, run_figure    pictures of a run directory (extra plot)
    runs_figure, save           learning curves of several; a picture as a file                    (extra plot)
    write_report(run, path)     all of it as one HTML file                                         (extra plot)

Reading order: way.py (one update, taken apart), story.py (the measure: where the gradient shrinks, and why),
four_routes.py, classic_mistakes.py, diagnosis.py (what is wrong, cause and remedy), tracing.py (all of it as a table),
monitor.py (while training), canvas.py, flow_picture.py, pictures.py, report.py, serving.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .canvas import save as save
    from .classic_mistakes import MISTAKES as MISTAKES
    from .classic_mistakes import Effect as Effect
    from .classic_mistakes import Effects as Effects
    from .classic_mistakes import mistaken_gradient as mistaken_gradient
    from .classic_mistakes import mistakes as mistakes
    from .diagnosis import Diagnosis as Diagnosis
    from .diagnosis import diagnose as diagnose
    from .diagnosis import explain as explain
    from .diagnosis import statistics as statistics
    from .flow_picture import flow_figure as flow_figure
    from .four_routes import Route as Route
    from .four_routes import Routes as Routes
    from .four_routes import routes as routes
    from .pictures import action_figure as action_figure
    from .pictures import history_figure as history_figure
    from .pictures import policy_figure as policy_figure
    from .pictures import run_figure as run_figure
    from .pictures import runs_figure as runs_figure
    from .report import write_report as write_report
    from .story import Story as Story
    from .story import tell as tell
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
    "save": "canvas",
    "Diagnosis": "diagnosis",
    "diagnose": "diagnosis",
    "explain": "diagnosis",
    "statistics": "diagnosis",
    "flow_figure": "flow_picture",
    "Route": "four_routes",
    "Routes": "four_routes",
    "routes": "four_routes",
    "action_figure": "pictures",
    "history_figure": "pictures",
    "policy_figure": "pictures",
    "run_figure": "pictures",
    "runs_figure": "pictures",
    "write_report": "report",
    "Story": "story",
    "tell": "story",
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


def __dir__() -> list[str]:
    return sorted(__all__)
