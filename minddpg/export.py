"""A trained policy as one file, for programs that have no minddpg: .npz for NumPy, .onnx for everything else.

Both compute act = offset + scale * tanh(z_L), z_(l+1) = relu(z_l) W_l + b_l: observations in, actions in the
environment's units out. minddpg/runs/README.md documents the members and shows how to use them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .agent import DDPG
from .environment import Environment
from .extras import need
from .network_options import folded_parameters, has_kinks
from .observations import MOST, centre_and_scale
from .runs.directory import RunInfo, load, load_info
from .runs.files import RunError, write_whole

Array = npt.NDArray[Any]

SUFFIXES = (".npz", ".onnx")
OPSETS = {"float32": 13, "float64": 14}  # of ONNX: the oldest that do, for the sake of old runtimes
IR_VERSION = 8


def export(directory: str | os.PathLike[str], path: str | os.PathLike[str], best: bool = False) -> None:
    """Write the policy of a run directory to path, an .npz or .onnx, whole or not at all; a file that is there is
    replaced.

    best: the agent with the best evaluation instead of the last one. Raises RunError, ExtraError (an .onnx needs the
    extra onnx), EnvError (of a run that does not say its bounds, where its environment cannot be made).
    """
    path = Path(path)
    check_suffix(path)
    arrays = policy_arrays(kept_agent(directory, best), *action_bounds(load_info(directory)))
    content = onnx_file(arrays) if path.suffix.lower() == ".onnx" else npz_file(arrays)
    try:
        write_whole(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raises RunError, and ExtraError, where `export` would."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise RunError(f"{os.fspath(path)} must end in {' or '.join(SUFFIXES)}")
    if suffix == ".onnx":
        need("onnx", "onnx", "an .onnx file")


def policy_arrays(agent: DDPG, low: Array, high: Array) -> dict[str, Array]:
    """What `export` writes, by name: "0.weight" (in, out), "0.bias" (out,), ..., "action_scale" and "action_offset"
    (act_dim,), all of the dtype that was trained, and "obs_dim" (), int64.

    low, high (act_dim,): the actions' bounds, in the environment's units. With normalise_obs also "obs_mean" and
    "obs_scale" (obs_dim,): the networks get (obs - obs_mean) * obs_scale, clipped to [-10, 10]. With a hidden tanh
    instead of ReLU also "tanh", with an output that is clipped instead of tanh "unbounded": (), True.
    """
    scale, offset = scale_and_offset(low, high, agent.config.dtype)
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise RunError(
            f"the environment's actions are larger than {agent.config.dtype} can hold; train with --dtype float64"
        )
    try:
        arrays = folded_parameters(agent.actor)
    except ValueError as error:
        raise RunError(
            f"{error}, so this policy cannot be exported; train with --normalisation batch or none"
        ) from None
    if agent.statistics is not None:
        mean, spread = (part.astype(agent.config.dtype) for part in centre_and_scale(agent.statistics))
        arrays |= {"obs_mean": mean, "obs_scale": spread}
    for name, on in (("tanh", not has_kinks(agent.actor)), ("unbounded", agent.config.invert_gradients)):
        arrays |= {name: np.array(True)} if on else {}
    return {**arrays, "action_scale": scale, "action_offset": offset, "obs_dim": np.array(agent.obs_dim, np.int64)}


def kept_agent(directory: str | os.PathLike[str], best: bool) -> DDPG:
    """The run's last agent, or its best by evaluation. Raises RunError."""
    options: Any = {"best": True} if best else {}
    return load(directory, **options)


def action_bounds(info: RunInfo) -> tuple[Array, Array]:
    """Lowest and highest action (act_dim,), float64, in the environment's units: as the run says, else as its
    environment does. Raises EnvError, RunError.
    """
    low, high = getattr(info, "action_low", None), getattr(info, "action_high", None)
    if low is None or high is None:
        environment: Any = Environment(info.env)
        environment.close()
        low, high = (getattr(environment, name, getattr(environment, f"_{name}", None)) for name in ("low", "high"))
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if low.shape != (info.act_dim,) or high.shape != (info.act_dim,):
        raise RunError(f"{info.env} has {low.size} actions here, but the run had {info.act_dim}; restore it as it was")
    return low, high


def scale_and_offset(low: Array, high: Array, dtype: str) -> tuple[Array, Array]:
    """Half the range and its middle, (act_dim,) each, such that offset + scale * [-1, 1], rounded, is within bounds."""
    with np.errstate(over="ignore", invalid="ignore"):
        scale, offset = (high / 2 - low / 2).astype(dtype), (high / 2 + low / 2).astype(dtype)
        for _ in range(2):  # the sum is rounded too: at most one of its last places on either side
            beyond = ((offset + scale).astype(np.float64) > high) | ((offset - scale).astype(np.float64) < low)
            place = np.spacing(np.maximum(abs(offset) + scale, np.finfo(dtype).tiny))
            scale = np.where(beyond, np.maximum(scale - place, 0), scale)
    return scale.astype(dtype), offset


def npz_file(arrays: Mapping[str, Array]) -> bytes:
    """The content of an .npz."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def onnx_file(arrays: Mapping[str, Array]) -> bytes:
    """The content of an .onnx: Gemm, Relu, ..., Gemm, Tanh, Mul, Add. "obs" (batch, obs_dim) -> "act" (batch, act_dim).

    With normalised observations, Sub, Mul, Clip come first.

    Raises ExtraError.
    """
    need("onnx", "onnx", "an .onnx file")
    from onnx import checker, helper, numpy_helper

    constants = {name: array for name, array in arrays.items() if name not in ("obs_dim", "tanh", "unbounded")}
    hidden = "Tanh" if "tanh" in arrays else "Relu"
    layers = sum(name.endswith(".weight") for name in constants)
    nodes, x = [], "obs"
    if "obs_mean" in constants:
        most = np.array(MOST, constants["obs_mean"].dtype)
        constants |= {"most": most, "least": -most}
        nodes.append(helper.make_node("Sub", ["obs", "obs_mean"], ["centred"]))
        nodes.append(helper.make_node("Mul", ["centred", "obs_scale"], ["spread"]))
        nodes.append(helper.make_node("Clip", ["spread", "least", "most"], ["normalised"]))
        x = "normalised"
    for layer in range(layers):
        last = layer == layers - 1
        nodes.append(helper.make_node("Gemm", [x, f"{layer}.weight", f"{layer}.bias"], [f"z{layer}"]))
        x = "bounded" if last else f"h{layer + 1}"
        if last and "unbounded" in arrays:
            one = np.array(1, constants["action_scale"].dtype)
            constants |= {"lowest": -one, "highest": one}
            nodes.append(helper.make_node("Clip", [f"z{layer}", "lowest", "highest"], [x]))
        else:
            nodes.append(helper.make_node("Tanh" if last else hidden, [f"z{layer}"], [x]))
    nodes.append(helper.make_node("Mul", [x, "action_scale"], ["scaled"]))
    nodes.append(helper.make_node("Add", ["scaled", "action_offset"], ["act"]))
    scale = constants["action_scale"]
    element = helper.np_dtype_to_tensor_dtype(scale.dtype)
    graph = helper.make_graph(
        nodes,
        "actor",
        [helper.make_tensor_value_info("obs", element, ["batch", int(arrays["obs_dim"])])],
        [helper.make_tensor_value_info("act", element, ["batch", len(scale)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", OPSETS[scale.dtype.name])
    model = helper.make_model(graph, producer_name="minddpg", opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
