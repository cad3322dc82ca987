"""minddpg: DDPG from scratch on NumPy, Numba and Gymnasium, every gradient derived by hand, named and checked.

Reading order, the way data flows:

    config.py               the hyperparameters, a documented line each, and the presets
    seeds.py                one seed, one random stream per purpose
    replay.py               a transition becomes part of a batch
    returns.py              n-step returns, for n_step
    observations.py         their mean and spread, for normalise_obs
    layers.py               linear, ReLU, tanh, norms, squared error: forward beside backward, with the derivation
    networks.py             actor and critic on one flat parameter vector; backward in three functions
    network_options.py      networks that are normalised, have tanh inside or a linear output
    optim.py                Adam, clipping, Polyak averaging
    ddpg.py                 the algorithm on one screen; `actor_gradient` answers "how does the actor get its gradient?"
    td3.py                  the same screen with TD3's three changes: read their difference
    agent.py                DDPG, the object that people hold: act, update, state_dict
    noise.py                exploration
    environment/            the boundary to Gymnasium: flat observations, actions in [-1, 1]
    evaluation.py           episodes without noise: returns, and Q against the returns that follow
    training.py             a run, one step of it, its state; `train` and `resume`, which drive one
    progress.py             what training shows while it goes on
    profile.py              where the time of a run goes
    memory.py               how much memory there is, asked before it is taken
    showing.py              small tables, for a repr and for notebooks
    runs/                   the files of a run: whole or not there, checkpoints, tables, the lock
    gradcheck/              finite differences against hand-written gradients, minddpg's and other people's
    gradflow/               one update from inside: the trace of a gradient, what is wrong with it, pictures
    study/                  many runs over an executor: seeds, environments, settings; statistics, pictures
    export.py               a policy for programs that have no minddpg: NumPy, ONNX
    video.py                an episode as a video
    tensorboard.py          a run's tables as TensorBoard shows them
    extras.py               optional packages, imported late
    cli/                    `minddpg train`, `minddpg eval`, ...: a file per command
    fast/                   what makes it fast: compilation and its cache, products of matrices, threads

minddpg/README.md says more. Of fast/ you need one thing to read the rest: `for i in each(v):` visits every element of v
when compiled; as plain NumPy, i is one slice that covers them all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import gradcheck as gradcheck
    from . import gradflow as gradflow
    from . import study as study
    from .agent import DDPG as DDPG
    from .agent import NotFinite as NotFinite
    from .config import Config as Config
    from .config import ConfigError as ConfigError
    from .environment import EnvError as EnvError
    from .evaluation import evaluate as evaluate
    from .replay import Batch as Batch
    from .replay import ReplayBuffer as ReplayBuffer
    from .replay import ShapeError as ShapeError
    from .runs.directory import load as load
    from .runs.directory import load_batch as load_batch
    from .runs.files import RunError as RunError
    from .training import TrainingError as TrainingError
    from .training import resume as resume
    from .training import train as train

_HOME = {
    "Config": "config",
    "ConfigError": "config",
    "Batch": "replay",
    "ReplayBuffer": "replay",
    "DDPG": "agent",
    "ShapeError": "replay",
    "NotFinite": "agent",
    "train": "training",
    "resume": "training",
    "load_batch": "runs.directory",
    "evaluate": "evaluation",
    "EnvError": "environment",
    "TrainingError": "training",
    "load": "runs.directory",
    "RunError": "runs.files",
    "gradcheck": "",
    "gradflow": "",
    "study": "",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import late: `minddpg --help` and Config need neither Numba nor Gymnasium."""
    if name not in _HOME:
        raise AttributeError(f"module 'minddpg' has no attribute {name!r}")
    home = _HOME[name]
    value = getattr(import_module(f".{home}", __name__), name) if home else import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
