"""An episode as a video, by Gymnasium's own recorder (extra video)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from .environment.making import flattened_and_rest
from .extras import ExtraError, need
from .runs.files import RunError, first_line

SUFFIX = ".mp4"


class VideoError(ValueError):
    """A video that cannot be made; the message is one line."""


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises VideoError where `recorded` would refuse the name, ExtraError where the recorder is missing."""
    if Path(path).suffix.lower() != SUFFIX:
        raise VideoError(f"{os.fspath(path)} must end in {SUFFIX}")
    need("moviepy", "video", "a video")


@contextmanager
def recorded(
    env: str, path: str | os.PathLike[str], env_kwargs: Mapping[str, Any] | None = None
) -> Iterator[Callable[[], gymnasium.Env[Any, Any]]]:
    """Gives a callable that makes the environment such that the first episode played in it is recorded.

    Behind the block the video stands at path, whole; where the block raises, nothing does. Recording keeps every frame
    in memory. Raises VideoError where the environment cannot be drawn, ExtraError, RunError.
    """
    check_path(path)
    path, kwargs = Path(path), {**(env_kwargs or {}), "render_mode": "rgb_array"}
    if env_kwargs and "render_mode" in env_kwargs:
        raise VideoError("a video has a render_mode of its own; leave render_mode out")
    _draw_without_a_screen()
    _check_that_it_can_be_drawn(env, kwargs)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None

    recorders = []

    def make() -> gymnasium.Env[Any, Any]:
        made = _make(env, kwargs)
        fps = made.metadata.get("render_fps") or 30
        recorder = gymnasium.wrappers.RecordVideo(made, str(folder / "video"), lambda episode: episode == 0, fps=fps)
        recorders.append(recorder)
        return recorder

    try:
        yield make
        videos = sorted(folder.glob(f"video/*{SUFFIX}"))
        if not videos:
            raise VideoError(f"no episode of {env} was recorded")
        os.replace(videos[0], path)
    except OSError as error:  # also what ffmpeg says in many lines
        raise RunError(f"cannot write {path}: {error.strerror or first_line(error)}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for recorder in recorders:
            recorder.recorded_frames = []  # where writing them has failed, they would be missed loudly


def _draw_without_a_screen() -> None:
    """Frames are drawn into memory; these are read when pygame and mujoco are imported."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")


def _make(env: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    flat, rest = flattened_and_rest(kwargs)
    made = gymnasium.make(env, disable_env_checker=True, **rest)
    return gymnasium.wrappers.FlattenObservation(made) if flat else made


def _check_that_it_can_be_drawn(env: str, kwargs: dict[str, Any]) -> None:
    """Draw a frame: what is wrong shows before an episode is played."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = _make(env, kwargs)
        try:
            if made.render_mode != "rgb_array" or "rgb_array" not in made.metadata.get("render_modes", ()):
                raise ValueError("it has no render mode rgb_array")
            made.reset(seed=0)
            frame = np.asarray(made.render())
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                raise ValueError(f"its rgb_array is {frame.dtype} {frame.shape}, not uint8 (height, width, 3)")
        finally:
            made.close()
    except gymnasium.error.DependencyNotInstalled as error:
        raise ExtraError(
            f"to draw {env} needs the extra video ({first_line(error)[:80]}); from a checkout: pip install '.[video]'"
        ) from None
    except Exception as error:  # whatever the code of an environment, or of what it draws with, raises
        raise VideoError(f"{env} cannot be drawn: {first_line(error)[:200]}; leave the video out") from None
