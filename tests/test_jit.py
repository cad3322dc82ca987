"""The decorator and its cache: safe, private, never stale. Each in a process of its own, on a copy."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import JIT, clean_environment

import minddpg
from minddpg.fast import jit

needs_jit = pytest.mark.skipif(not JIT, reason="about compiled code")


@pytest.fixture
def package_copy(tmp_path):
    shutil.copytree(Path(minddpg.__file__).parent, tmp_path / "copy" / "minddpg")
    return tmp_path / "copy"


def python(code, package, cache, **changes):
    environment = clean_environment(PYTHONPATH=str(package), NUMBA_CACHE_DIR=str(cache), **changes)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=200)


TANH = "import numpy as np, minddpg.networks as n; r = np.random.default_rng(0)\n" + (
    "a = n.new_actor(1, 1, (), None, 'float64', r); a.params[:] = 1\n"
    "print(n.actor_forward(a, np.zeros((1, 1)))[0][0, 0])"
)


@needs_jit
def test_an_edit_in_another_file_is_noticed(package_copy, tmp_path):
    """tanh is edited in layers.py; the function asked stands in networks.py."""
    first = python(TANH, package_copy, tmp_path / "cache")
    assert float(first.stdout) == pytest.approx(np.tanh(1)), first.stderr
    layers = package_copy / "minddpg" / "layers.py"
    layers.write_text(layers.read_text().replace("flat[i] = np.tanh(flat[i])", "flat[i] = np.tanh(flat[i]) + 500"))
    second = python(TANH, package_copy, tmp_path / "cache")
    assert float(second.stdout) == pytest.approx(np.tanh(1) + 500), second.stderr


@needs_jit
def test_two_processes_may_compile_at_once(package_copy, tmp_path):
    """Both give the right number, and so does a third that finds what they left in the cache."""
    environment = clean_environment(PYTHONPATH=str(package_copy), NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    pair = [
        subprocess.Popen([sys.executable, "-c", TANH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    for process in pair:
        out, err = process.communicate(timeout=200)
        assert float(out or "nan") == pytest.approx(np.tanh(1)), err
    third = python(TANH, package_copy, tmp_path / "cache")
    assert float(third.stdout) == pytest.approx(np.tanh(1)), third.stderr


CACHE = "import minddpg.fast.jit as j; print(j.CACHE)"


@needs_jit
def test_the_cache_is_private_and_pruned(package_copy, tmp_path):
    home = tmp_path / "cache" / "minddpg"
    for i in range(7):
        (home / f"old{i}").mkdir(parents=True)
        os.utime(home / f"old{i}", (i, i))
    os.chmod(home, 0o700)
    path = Path(python(CACHE, package_copy, tmp_path / "cache").stdout.strip())
    assert path.parent == home
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    left = {p.name for p in home.iterdir()}
    assert path.name in left
    assert len(left) == jit.KEPT_CACHES
    assert "old6" in left


@needs_jit
def test_where_nothing_can_be_written_nothing_is_cached(package_copy, tmp_path):
    (tmp_path / "file").write_text("")
    result = python(CACHE + "\n" + TANH, package_copy, tmp_path / "file" / "cache")
    assert result.stdout.split()[0] == "None", result.stderr
    assert float(result.stdout.split()[1]) == pytest.approx(np.tanh(1))


@needs_jit
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_a_cache_that_others_may_write_is_not_used(package_copy, tmp_path):
    home = tmp_path / "cache" / "minddpg"
    home.mkdir(parents=True)
    os.chmod(home, 0o777)
    assert python(CACHE, package_copy, tmp_path / "cache").stdout.strip() == "None"


def test_without_the_jit_there_is_no_cache_and_functions_stay_python():
    code = (
        "import minddpg.fast.jit as j, minddpg.ddpg as d; print(j.CACHE, type(d.update).__name__, j.is_warm('float32'))"
    )
    result = python(code, Path(minddpg.__file__).parent.parent, "unused", NUMBA_DISABLE_JIT="1")
    assert result.stdout.split() == ["None", "function", "True"], result.stderr


def test_each_and_where(rng):
    @jit.jit
    def clipped(x):
        zero = x.dtype.type(0)
        out = np.empty_like(x)
        for i in jit.each(x):
            out[i] = jit.where(x[i] < zero, zero, x[i])
        return out

    for dtype in ("float32", "float64"):
        x = rng.standard_normal(17).astype(dtype)
        np.testing.assert_array_equal(clipped(x), np.maximum(x, 0))
        assert clipped(x[:0]).size == 0


def test_cache_places(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    for platform, place in [("linux", "/x"), ("darwin", str(Path.home() / "Library" / "Caches")), ("win32", "/local")]:
        monkeypatch.setattr(sys, "platform", platform)
        assert str(jit._cache_home()) == place
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    assert str(jit._cache_home()) == "/chosen"


def test_the_cache_directory_machinery_without_the_jit(tmp_path, monkeypatch):
    """The same checks as above in this process, so that they are covered when nothing is compiled."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    path = jit._open_cache()
    assert path is not None
    monkeypatch.setattr(jit, "CACHE", path)
    monkeypatch.setattr(jit.numba.config, "DISABLE_JIT", 0)
    assert not jit.is_warm("float32")
    jit.mark_warm("float32")
    assert jit.is_warm("float32")
    assert not jit.is_warm("float64")
    for i in range(6):
        (path.parent / f"old{i}").mkdir()
        os.utime(path.parent / f"old{i}", (i, i))
    assert jit._open_cache() == path
    assert len(list(path.parent.iterdir())) == jit.KEPT_CACHES
    os.chmod(path.parent, 0o777)
    assert jit._open_cache() is None
