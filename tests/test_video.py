import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from minddpg import DDPG, Config, RunError, evaluate
from minddpg.extras import ExtraError
from minddpg.video import VideoError, check_path, recorded


class Painter(gymnasium.Env):
    """Draws its step's number as a grey; episodes of five steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": None}  # noqa: RUF012
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None, frame=(32, 48, 3), breaks=False):
        self.render_mode, self.frame, self.breaks = render_mode, frame, breaks

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.breaks:
            raise RuntimeError("broken")
        return np.zeros(1, np.float32), 1.0, self.steps == 5, False, {}

    def render(self):
        return np.full(self.frame, 40 * self.steps, np.uint8)


class Blind(Painter):
    metadata = {"render_modes": []}  # noqa: RUF012


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")  # what a recording sets is taken back
        monkeypatch.delenv(name)
    gymnasium.register("Painter-v0", entry_point=Painter)
    gymnasium.register("Blind-v0", entry_point=Blind)
    yield
    del gymnasium.registry["Painter-v0"], gymnasium.registry["Blind-v0"]


AGENT = DDPG(1, 1, Config(hidden_sizes=(2,)))


def frames(path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).reshape(-1, 32, 48)


def test_the_first_episode_is_recorded(tmp_path):
    pytest.importorskip("moviepy")
    Path("video.mp4").write_bytes(b"old")
    with recorded("Painter-v0", "video.mp4") as make:
        assert evaluate(AGENT, make, episodes=3).tolist() == [5, 5, 5]
    shown = frames("video.mp4").mean((1, 2))
    assert len(shown) in (5, 6)  # of the reset and five steps; moviepy may round the last one off
    np.testing.assert_allclose(shown, 40 * np.arange(len(shown)), atol=4)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_pendulum_is_recorded_without_a_screen_and_returns_the_same(monkeypatch):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    agent = DDPG(3, 1, Config(hidden_sizes=(2,)))
    with recorded("Pendulum-v1", "video.mp4", {"g": 5.0}) as make:
        returns = evaluate(agent, make, episodes=1, seed=3)
    assert Path("video.mp4").read_bytes()[4:8] == b"ftyp"
    assert returns == evaluate(agent, lambda: gymnasium.make("Pendulum-v1", g=5.0), 1, 3)


def test_where_playing_fails_nothing_is_left(tmp_path):
    pytest.importorskip("moviepy")
    Path("video.mp4").write_bytes(b"precious")
    with pytest.raises(Exception, match="broken"), recorded("Painter-v0", "video.mp4", {"breaks": True}) as make:
        evaluate(AGENT, make)
    with pytest.raises(VideoError, match="no episode of Painter-v0 was recorded"), recorded("Painter-v0", "video.mp4"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    assert Path("video.mp4").read_bytes() == b"precious"
    with (
        pytest.raises(RunError, match="cannot write no/video.mp4: No such file"),
        recorded("Painter-v0", "no/video.mp4"),
    ):
        pass


def test_a_video_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    pytest.importorskip("moviepy")

    def full(*args, **kwargs):
        raise OSError("MoviePy error: no space left\nand what ffmpeg says\nin many lines")

    monkeypatch.setattr("moviepy.video.io.ImageSequenceClip.ImageSequenceClip.write_videofile", full)
    with pytest.raises(RunError, match=r"^cannot write video.mp4: MoviePy error: no space left$"):  # noqa: PT012, SIM117
        with recorded("Painter-v0", "video.mp4") as make:
            environment = make()
            environment.reset()
            environment.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "path", "kwargs", "error", "message"),
    [
        ("Painter-v0", "video.gif", {}, VideoError, "video.gif must end in .mp4"),
        ("Painter-v0", "video.mp4", {"render_mode": "human"}, VideoError, "leave render_mode out"),
        ("Painter-v0", "video.mp4", {"frame": (32, 48)}, VideoError, r"its rgb_array is uint8 \(32, 48\), not"),
        (
            "Blind-v0",
            "video.mp4",
            {},
            VideoError,
            "cannot be drawn: it has no render mode rgb_array; leave the video out",
        ),
    ],
)
def test_what_cannot_be_recorded_is_one_line(tmp_path, env, path, kwargs, error, message):
    pytest.importorskip("moviepy")
    with pytest.raises(error, match=message) as caught, recorded(env, path, kwargs):
        pass
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    with pytest.raises(ExtraError, match=r"^a video needs the extra video; from a checkout: pip install '.\[video\]'$"):
        check_path("video.mp4")


def test_what_draws_an_environment_is_named_too(monkeypatch):
    pytest.importorskip("moviepy")

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(Painter, "render", render)
    with (
        pytest.raises(ExtraError, match=r"needs the extra video \(pygame is not installed\)"),
        recorded("Painter-v0", "video.mp4"),
    ):
        pass
