"""Many runs: environments x settings x seeds over an executor, and what they say together.

    study = run("studies/rates", "Pendulum-v1", seeds=5, vary={"actor_lr": [1e-4, 1e-3]})    make it, or go on with it
    study = Study("studies/rates")                                                           look at one that is there
    print(study.table()); study.best("Pendulum-v1"); study.write_tables(); study_figure(study)

Reading order: plan.py (what is asked for), jobs.py (one run), leading.py (all of them), processes.py (the executor of
this machine), statistics.py (the published formulas), results.py (what came of it), board.py (what is shown meanwhile),
pictures.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .jobs import run_job as run_job
    from .leading import dask as dask
    from .leading import lead as lead
    from .leading import processes as processes
    from .pictures import study_figure as study_figure
    from .plan import Job as Job
    from .plan import Plan as Plan
    from .plan import grid as grid
    from .results import Study as Study
    from .results import run as run
    from .statistics import improvement as improvement
    from .statistics import interquartile_mean as interquartile_mean
    from .statistics import interval as interval
    from .statistics import mean as mean
    from .statistics import median as median
    from .statistics import profile as profile

_HOME = {
    "Study": "results",
    "run": "results",
    "Plan": "plan",
    "Job": "plan",
    "grid": "plan",
    "run_job": "jobs",
    "lead": "leading",
    "processes": "leading",
    "dask": "leading",
    "study_figure": "pictures",
    "mean": "statistics",
    "median": "statistics",
    "interquartile_mean": "statistics",
    "improvement": "statistics",
    "profile": "statistics",
    "interval": "statistics",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import late: the plan of a study needs no Numba, and a worker no pictures."""
    if name not in _HOME:
        raise AttributeError(f"module 'minddpg.study' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
