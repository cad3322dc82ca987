"""The cache of compiled code: believed after its checksum only, private, never in the way, never in others' way."""

import errno
import io
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from conftest import JIT, clean_environment
from hypothesis import given
from hypothesis import strategies as st

import minddpg
from minddpg.fast import cache as caches
from minddpg.fast import jit
from minddpg.fast.cache import DAY, HOUR, CodeCache, FunctionCache, open_cache, prune

needs_jit = pytest.mark.skipif(not JIT, reason="about compiled code")
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
PACKAGE = Path(minddpg.__file__).parents[1]


def version(home, name, age=0.0, size=0):
    """A version's directory, `age` seconds old."""
    path = home / f"{name:016x}"
    path.mkdir(parents=True)
    with open(path / "code", "wb") as file:
        file.truncate(size)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "minddpg"


@pytest.fixture
def cache(tmp_path):
    return CodeCache(tmp_path / "0123456789abcdef")


def said(capsys):
    """What was said since last asked, line by line."""
    return capsys.readouterr().err.splitlines()


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(cache, capsys):
    for content in (b"", b"x", bytes(100_000)):
        assert cache.write("a.code", content)
        assert cache.read("a.code") == content
    assert cache.read("b.code") is None
    assert [path.name for path in cache.directory.iterdir()] == ["a.code"]
    assert said(capsys) == []


def flipped(whole, data):
    i = data.draw(st.integers(0, len(whole) - 1))
    return whole[:i] + bytes([whole[i] ^ data.draw(st.integers(1, 255))]) + whole[i + 1 :]


DAMAGE = {
    "a flip": flipped,
    "cut": lambda whole, data: whole[: data.draw(st.integers(0, len(whole) - 1))],
    "longer": lambda whole, data: whole + data.draw(st.binary(min_size=1)),
    "other bytes": lambda whole, data: data.draw(st.binary(max_size=200)),
    "zeros, as after a power failure": lambda whole, data: bytes(len(whole)),
}


@pytest.mark.parametrize("kind", DAMAGE)
@given(data=st.data())
def test_a_damaged_file_is_never_believed_and_said_once(kind, data):
    with tempfile.TemporaryDirectory() as directory, redirect_stderr(io.StringIO()) as err:
        cache = CodeCache(Path(directory) / "0123456789abcdef")
        for name in ("a", "b"):
            cache.write(name, data.draw(st.binary(max_size=100)))
            path = cache.directory / name
            path.write_bytes(DAMAGE[kind](path.read_bytes(), data))
            assert cache.read(name) is None
            assert not path.exists()
            assert cache.read(name) is None  # now it is just not there
    assert err.getvalue().count("\n") == 1
    assert err.getvalue().startswith("minddpg: warning: compiled code in ")


def test_a_file_at_another_ones_place_is_damaged(cache, tmp_path, capsys):
    other = CodeCache(tmp_path / "fedcba9876543210")
    for target in (cache.directory / "b", other.directory / "a"):
        cache.write("a", b"content")
        other.directory.mkdir(exist_ok=True)
        shutil.copy(cache.directory / "a", target)
    assert cache.read("b") is None
    assert other.read("a") is None
    assert len(said(capsys)) == 2
    assert cache.read("a") == b"content"


def test_a_directory_that_was_removed_is_made_again(cache, capsys):
    cache.write("a", b"1")
    shutil.rmtree(cache.directory)
    assert cache.write("b", b"2")
    assert cache.read("b") == b"2"
    assert said(capsys) == []


def test_what_is_no_file_is_damage_too(cache, capsys):
    (cache.directory / "a").mkdir(parents=True)
    assert cache.read("a") is None
    assert not cache.write("a", b"")
    assert len(said(capsys)) == 1


def test_a_closed_stderr_is_no_error(cache, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    cache.write("a", b"1")
    (cache.directory / "a").write_bytes(b"")
    assert cache.read("a") is None


# --- disks that are full or fail --------------------------------------------------------------------------------------

ERRORS = [getattr(errno, name) for name in ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EMFILE", "ESTALE")]
CALLS = {
    "read": (Path, "read_bytes"),
    "write": (Path, "write_bytes"),
    "replace": (os, "replace"),
    "unlink": (Path, "unlink"),
    "mkdir": (Path, "mkdir"),
    "lstat": (Path, "lstat"),
    "exists": (Path, "exists"),
    "glob": (Path, "glob"),
    "utime": (os, "utime"),
    "scandir": (os, "scandir"),
    "rglob": (Path, "rglob"),
}


@contextmanager
def failing(monkeypatch, call, error, of=""):
    """Let a call fail, where its path has `of` in it. What is written is written by half."""
    place, name = CALLS[call]
    original = getattr(place, name)

    def fail(*args, **kwargs):
        if of not in str(args[0]) or ".py" in str(args[0]) or str(args[0]).startswith(str(PACKAGE)):
            return original(*args, **kwargs)
        if call == "write":
            original(args[0], args[1][: len(args[1]) // 2])
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        yield


def use(warm=False):
    """Everything a run does with its cache."""
    cache = open_cache()
    was_warm = cache.is_warm("float32")
    found = cache.read("a")
    if found is None:
        cache.write("a", b"content")
    cache.in_use("a")
    cache.mark_warm("float32")
    return was_warm, found


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
def test_whatever_fails_is_said_once_and_nothing_stops(call, error, home, monkeypatch, capsys):
    for state in ("cold", "warm", "damaged", "old"):
        shutil.rmtree(home, ignore_errors=True)
        old = version(home, 1, 99 * DAY) if state == "old" else None
        if state in ("warm", "damaged"):
            use()
        if state == "damaged":
            next(home.glob("*/a")).write_bytes(b"")
        with failing(monkeypatch, call, error, str(home)):
            _, found = use()
            assert found in (None, b"content")
        lines = said(capsys)
        assert len(lines) <= 1
        if lines and state != "damaged":
            assert os.strerror(error) in lines[0]
        if call != "unlink":
            assert list(home.glob("*/*.tmp")) == []
        use()  # the disk is well again: what is left is whole
        assert use() == (True, b"content")
        if old and call in ("utime", "replace", "write"):
            assert not old.exists()
        capsys.readouterr()


def test_a_full_disk_leaves_a_warm_cache_in_use(home, monkeypatch, capsys):
    use()
    with failing(monkeypatch, "write", errno.ENOSPC):
        assert use() == (True, b"content")
    assert said(capsys) == []


def test_a_failed_write_leaves_what_was_there(cache, monkeypatch):
    cache.write("a", b"old")
    for call in ("write", "replace"):
        with failing(monkeypatch, call, errno.ENOSPC, str(cache.directory)):
            assert not cache.write("a", b"new")
        assert cache.read("a") == b"old"


def test_an_interrupted_write_leaves_nothing(cache, monkeypatch):
    def interrupt(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.write("a", b"content")
    assert list(cache.directory.iterdir()) == []


def test_what_could_not_be_kept_is_not_marked_warm(home, monkeypatch, capsys):
    cache = open_cache()
    with failing(monkeypatch, "write", errno.ENOSPC, "b."):
        assert cache.write("a", b"1")
        cache.in_use("a")
        assert not cache.write("b", b"2")
    cache.mark_warm("float32")
    assert not cache.is_warm("float32")
    (line,) = said(capsys)
    assert "No space left on device" in line
    assert "NUMBA_CACHE_DIR" in line


def test_where_there_is_no_directory_nothing_is_read(home, capsys):
    home.parent.write_text("a file")
    cache = open_cache()
    assert cache.read("a") is None
    assert not cache.can_write()
    cache.in_use("a")
    cache.mark_warm("float32")
    assert not cache.is_warm("float32")
    assert len(said(capsys)) == 1
    assert home.parent.read_text() == "a file"


def test_can_write_leaves_nothing_behind(home, capsys):
    cache = open_cache()
    assert cache.can_write()
    assert list(cache.directory.iterdir()) == []
    assert said(capsys) == []


# --- warm or not ------------------------------------------------------------------------------------------------------


def test_warm_is_what_is_there(home):
    cache = open_cache()
    cache.mark_warm("float32")  # nothing has been compiled: nothing is known
    assert list(cache.directory.iterdir()) == []
    for name in ("a", "b"):
        cache.write(name, name.encode())
        cache.in_use(name)
    cache.mark_warm("float32")
    assert open_cache().is_warm("float32")
    assert not open_cache().is_warm("float64")


@pytest.mark.parametrize("name", ["a", "b", "float32.warm"])
@pytest.mark.parametrize("damage", [b"", b"content", None])
def test_not_warm_where_a_file_is_missing_or_damaged(name, damage, home, capsys):
    cache = open_cache()
    for code in ("a", "b"):
        cache.write(code, b"content")
        cache.in_use(code)
    cache.mark_warm("float32")
    path = cache.directory / name
    path.unlink() if damage is None else path.write_bytes(damage)
    assert not open_cache().is_warm("float32")
    assert len(said(capsys)) == (damage is not None)
    cache.write("a", b"content")
    cache.write("b", b"content")
    cache.mark_warm("float32")
    assert open_cache().is_warm("float32")
    assert said(capsys) == []


def test_old_temporary_files_are_removed(cache):
    cache.write("a", b"")
    for age in (0, 2 * HOUR, -2 * HOUR):
        path = cache.directory / f"b.{age}.tmp"
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    cache.in_use("a")
    cache.mark_warm("float32")
    assert not (cache.directory / f"b.{2 * HOUR}.tmp").exists()
    assert len(list(cache.directory.glob("*.tmp"))) == 2


# --- the directory ----------------------------------------------------------------------------------------------------


def test_cache_places(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    for platform, place in [("linux", "/x"), ("darwin", str(Path.home() / "Library" / "Caches")), ("win32", "/local")]:
        monkeypatch.setattr(sys, "platform", platform)
        assert str(caches._home()) == place
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    assert str(caches._home()) == "/chosen"


def test_each_version_of_everything_has_its_own_directory(home, monkeypatch):
    found = [open_cache().directory]
    assert open_cache().directory == found[0]
    for module, name in ((numba, "__version__"), (np, "__version__"), (caches.llvmlite, "__version__")):
        monkeypatch.setattr(module, name, "0.0")
        found.append(open_cache().directory)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "")
    found.append(open_cache().directory)
    monkeypatch.setattr(caches, "get_host_cpu_name", lambda: "another")
    found.append(open_cache().directory)

    def unknown():
        raise RuntimeError

    monkeypatch.setattr(caches, "get_host_cpu_features", unknown)
    found.append(open_cache().directory)
    assert len(set(found)) == len(found) == 7


@posix
def test_a_cache_that_others_may_write_is_not_used(home, capsys):
    cache = open_cache()
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(cache.directory.stat().st_mode) == 0o700
    cache.write("a", b"content")
    for place in (home, cache.directory):
        os.chmod(place, 0o777)
        assert open_cache().read("a") is None
        assert not open_cache().write("a", b"other")
        assert "others can write to it" in said(capsys)[0]
        os.chmod(place, 0o700)
    assert open_cache().read("a") == b"content"
    shutil.move(home, home.parent / "elsewhere")
    home.symlink_to(home.parent / "elsewhere")
    assert open_cache().read("a") is None
    assert open_cache().problem


def test_prune_by_age(home):
    kept = [version(home, 1, 29 * DAY), version(home, 2), version(home, 3, -9 * 365 * DAY)]  # the last: in the future
    gone = [version(home, 4, 31 * DAY), version(home, 5, 20_000 * DAY)]
    mine = version(home, 6, 99 * DAY)
    stranger, link = home / "stranger", home / f"{7:016x}"
    stranger.mkdir()
    os.utime(stranger, (0, 0))
    link.symlink_to(stranger)
    prune(home, mine)
    assert set(home.iterdir()) == {*kept, mine, stranger, link}
    assert not any(path.exists() for path in gone)


def test_prune_goes_on_where_others_are_in_the_way(home, monkeypatch):
    old = [version(home, i, 99 * DAY) for i in range(3)]
    for unlucky in old:
        size = caches._size

        def gone(entry, unlucky=unlucky, size=size):
            if entry.path == str(unlucky):
                raise FileNotFoundError(errno.ENOENT, "gone")
            return size(entry)

        with monkeypatch.context() as patch:
            patch.setattr(caches, "_size", gone)
            prune(home, home / "x")
        assert [path.exists() for path in old] == [path == unlucky for path in old]
        shutil.rmtree(home)
        old = [version(home, i, 99 * DAY) for i in range(3)]

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "refused")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        prune(home, home / "x")
    assert all(path.exists() for path in old)


def test_prune_by_size(home, monkeypatch):
    monkeypatch.setattr(caches, "MOST", 3000)
    big = [version(home, i, i * DAY, 1000) for i in (2, 3, 4, 5)]
    today = [version(home, 10 + i, i * HOUR, 1000) for i in range(3)]
    future = version(home, 20, -DAY, 1000)
    prune(home, version(home, 30))
    assert [path.exists() for path in big] == [False] * 4
    assert all(path.exists() for path in (*today, future))  # more than there should be, but in use
    monkeypatch.setattr(caches, "MOST", 6000)
    big = [version(home, i, i * DAY, 1000) for i in (2, 3, 4, 5)]
    prune(home, home / f"{30:016x}")
    assert [path.exists() for path in big] == [True, True, False, False]  # oldest first


def test_many_installs_do_not_evict_one_another(home, monkeypatch):
    for _ in range(2):
        for i in range(12):
            monkeypatch.setattr(caches, "_version", lambda i=i: f"{i:016x}")
            open_cache().write("a", b"content")
    assert len(list(home.glob("*/a"))) == 12


def test_a_run_touches_its_directory_and_prunes_for_a_new_version_only(home):
    cache = open_cache()
    os.utime(cache.directory, (0, 0))
    old = version(home, 1, 99 * DAY)
    assert open_cache().directory == cache.directory
    assert time.time() - cache.directory.stat().st_mtime < HOUR
    assert old.exists()  # looking through all of them takes time, and nothing new has come
    shutil.rmtree(cache.directory)
    open_cache()
    assert not old.exists()


def test_several_processes_prune_at_once(home):
    for i in range(40):
        path = version(home, i, 99 * DAY)
        for j in range(10):
            (path / str(j)).write_bytes(b"x")
        os.utime(path, (0, 0))
    code = "import sys; from pathlib import Path; from minddpg.fast.cache import prune; sys.stdin.read(1); "
    code += f"prune(Path({str(home)!r}), Path('x'))"
    processes = [python(code, home, wait=False, stdin=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        process.stdin.write("x")
        process.stdin.flush()
    outcomes = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert outcomes == [("", "", 0)] * 3
    assert list(home.iterdir()) == []


# --- functions --------------------------------------------------------------------------------------------------------


def scaled(x, out):
    for i in range(x.size):
        out[i] = 12345.678 * x[i]


def other(x, out):
    for i in range(x.size):
        out[i] = -x[i]


def compiled_with(directory, function=scaled):
    """As in a new process: compiled, or from the cache in this directory."""
    compiled = numba.njit(function)
    compiled._cache = FunctionCache(CodeCache(directory), function)
    return compiled


def asked(compiled, dtype="float64"):
    """Its results, and how often it was compiled."""
    out = np.zeros(3, dtype)
    compiled(np.arange(3, dtype=dtype), out)
    return list(out), sum(compiled._cache_misses.values())


RIGHT = [0.0, 12345.678, 24691.356]


def flip_the_factor(path):
    """The multiplication's constant in the machine code: what Numba's own cache loads and runs."""
    code, factor = path.read_bytes(), np.float64(12345.678).tobytes()
    assert code.count(factor) >= 1
    path.write_bytes(code.replace(factor, np.float64(1).tobytes()))


def seal(path, content):
    assert CodeCache(path.parent).write(path.name, content)


SPOILT = {
    "machine code": flip_the_factor,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no pickle": lambda path: seal(path, b"no pickle"),
    "a pickle of something else": lambda path: seal(path, pickle.dumps(7)),
    "a pickle of what is gone": lambda path: seal(path, b"cminddpg.fast.cache\nGone\n."),
    "too large a pickle": lambda path: seal(path, b"\x80\x04\x8e" + (2**62).to_bytes(8, "little")),
    "code of another version": lambda path: seal(
        path, pickle.dumps((pickle.loads(path.read_bytes()[caches.DIGEST :])[0], ("x", 1)))
    ),
}


@needs_jit
@pytest.mark.parametrize("spoil", SPOILT)
def test_a_spoilt_function_is_compiled_again_and_the_file_replaced(spoil, tmp_path, capsys):
    assert asked(compiled_with(tmp_path)) == (RIGHT, 1)
    assert asked(compiled_with(tmp_path)) == (RIGHT, 0)
    (path,) = tmp_path.iterdir()
    SPOILT[spoil](path)
    assert asked(compiled_with(tmp_path)) == (RIGHT, 1)
    assert len(said(capsys)) == 1
    assert asked(compiled_with(tmp_path)) == (RIGHT, 0)
    assert said(capsys) == []


@needs_jit
def test_another_functions_file_is_not_run(tmp_path, capsys):
    asked(compiled_with(tmp_path))
    (mine,) = tmp_path.iterdir()
    asked(compiled_with(tmp_path, other))
    (others,) = set(tmp_path.iterdir()) - {mine}
    shutil.copy(others, mine)
    assert asked(compiled_with(tmp_path)) == (RIGHT, 1)
    assert len(said(capsys)) == 1


@needs_jit
def test_types_of_one_name_are_not_taken_for_each_other(tmp_path, capsys, monkeypatch):
    """Two named tuples may have one name: the key inside tells."""
    monkeypatch.setattr(FunctionCache, "_key", lambda self, signature, codegen: (signature, "one name"))
    assert asked(compiled_with(tmp_path)) == (RIGHT, 1)
    assert asked(compiled_with(tmp_path), "float32")[1] == 1
    assert asked(compiled_with(tmp_path), "float32")[1] == 0
    assert said(capsys) == []


@needs_jit
@pytest.mark.parametrize("call", ["read", "write", "replace", "unlink", "mkdir", "lstat"])
def test_a_failing_disk_stops_no_function(call, tmp_path, monkeypatch, capsys):
    with failing(monkeypatch, call, errno.EIO, str(tmp_path)):
        assert asked(compiled_with(tmp_path)) == (RIGHT, 1)
    asked(compiled_with(tmp_path))
    capsys.readouterr()
    with failing(monkeypatch, call, errno.EIO, str(tmp_path)):
        assert asked(compiled_with(tmp_path)) == (RIGHT, int(call == "read"))
    assert len(said(capsys)) == (call == "read")


@needs_jit
@pytest.mark.parametrize("callback", ["_raw_object_cache_notify", "_raw_object_cache_getbuffer"])
def test_an_interrupt_in_a_callback_of_llvm_is_not_lost(callback, tmp_path, capsys):
    """There Python notices one that came while LLVM was at work, which takes seconds; and there it would drop it."""

    def fresh():
        compiled = jit.jit(scaled)
        compiled._cache = FunctionCache(CodeCache(tmp_path), scaled)
        return compiled

    def interrupt(frame, event, arg):
        if event == "call" and frame.f_code.co_name == callback:
            sys.setprofile(None)
            raise KeyboardInterrupt

    if callback.endswith("getbuffer"):
        asked(fresh())
    interrupted = fresh()
    hook, files = sys.unraisablehook, len(list(tmp_path.iterdir()))
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            asked(interrupted)
    finally:
        sys.setprofile(None)
    assert sys.unraisablehook is hook
    assert len(list(tmp_path.iterdir())) == files  # what it had is good, and nothing was added
    assert asked(interrupted)[0] == asked(fresh())[0] == RIGHT
    assert asked(fresh()) == (RIGHT, 0)
    assert said(capsys) == []


def test_other_exceptions_in_callbacks_are_reported_as_ever(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with caches.no_interrupt_lost():
        sys.unraisablehook(SimpleNamespace(exc_value=ValueError()))
        sys.unraisablehook(SimpleNamespace(exc_value=None))
    assert len(seen) == 2

    @caches.no_interrupt_lost()
    def interrupted_twice():
        for _ in range(2):
            sys.unraisablehook(SimpleNamespace(exc_value=KeyboardInterrupt()))

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    caches.raise_lost()  # nothing is left
    thread = threading.Thread(target=caches.no_interrupt_lost()(lambda: seen.append(sys.unraisablehook)))
    thread.start()
    thread.join()
    assert seen[-1] == seen.append


@needs_jit
def test_recompiled_functions_are_not_kept(tmp_path):
    """Numba recompiles for other globals, which the name of the directory knows nothing of."""
    compiled = compiled_with(tmp_path)
    asked(compiled)
    before = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    compiled.recompile()
    assert asked(compiled)[0] == RIGHT
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == before
    assert compiled.stats.cache_path == str(tmp_path)


def test_only_functions_of_the_package_without_a_closure_are_kept():
    from minddpg.optim import polyak

    assert FunctionCache.fits(getattr(polyak, "py_func", polyak))
    assert not FunctionCache.fits(scaled)  # its file is not among those that name the directory
    assert all(not FunctionCache.fits(function) for function in (lambda: JIT, lambda: caches))
    code = "def outer(x):\n    def inner(): return x\n    return inner"
    namespace = {}
    exec(compile(code, str(PACKAGE / "minddpg" / "optim.py"), "exec"), namespace)
    assert not FunctionCache.fits(namespace["outer"](1))


class Code:
    """What Numba compiled, as far as the cache looks at it."""

    lifted, library, codegen = (), SimpleNamespace(has_dynamic_globals=False), None
    context = SimpleNamespace(refresh=lambda: None, codegen=lambda: Code.codegen)

    def _reduce(self):
        return (1, 2)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    from numba.core.compiler import CompileResult

    monkeypatch.setattr(Code, "codegen", SimpleNamespace(magic_tuple=lambda: ("x86",)))
    monkeypatch.setattr(CompileResult, "_rebuild", lambda context, *reduced: reduced)
    return lambda: FunctionCache(CodeCache(tmp_path), scaled)


def test_functions_without_the_jit(fake, capsys):
    """The same path as above, so that it is covered when nothing is compiled."""
    for use in (lambda f: f.save_overload(("a",), Code()), lambda f: f.load_overload(("a",), Code.context)):
        function = fake()
        use(function)
        function.cache.mark_warm("float32")  # both count as in use
        (flag,) = function.cache.directory.glob("*.warm")
        assert fake().cache.is_warm("float32")
        flag.unlink()
    assert fake().load_overload(("a",), Code.context) == (1, 2)
    assert fake().load_overload(("b",), Code.context) is None
    stopped = fake()
    stopped.enable()
    stopped.disable()
    stopped.save_overload(("b",), Code())
    assert stopped.load_overload(("a",), Code.context) is None
    assert fake().load_overload(("b",), Code.context) is None
    assert said(capsys) == []


@pytest.mark.parametrize("what", ["lifted", "_reduce", "codegen", "library"])
def test_what_numba_does_differently_is_said_and_costs_the_cache_only(what, fake, monkeypatch, capsys):
    monkeypatch.setattr(Code, what, None)
    if what == "lifted":
        monkeypatch.setattr(Code, what, ("a loop",))
    fake().save_overload(("a",), Code())
    assert len(said(capsys)) == 1
    assert fake().load_overload(("a",), Code.context) is None


# --- processes --------------------------------------------------------------------------------------------------------


def python(code, cache, wait=True, **options):
    environment = clean_environment(PYTHONPATH=str(PACKAGE), NUMBA_CACHE_DIR=str(cache))
    command = [sys.executable, *([code] if isinstance(code, Path) else ["-c", code] if isinstance(code, str) else code)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, **options}
    if wait:
        return subprocess.run(command, timeout=200, **options)
    return subprocess.Popen(command, **options)


USE = """
import numpy as np
from minddpg.optim import polyak
target = np.arange(3, dtype="{0}")
polyak(target, np.ones(3, "{0}"), 0.5)
print(list(map(float, target)), sum(polyak._cache_misses.values()))
"""
RESULT = "[0.5, 1.0, 1.5]"


@needs_jit
def test_a_file_that_cannot_grow(tmp_path):
    """The system's own refusal in the middle of a write: a limit of 8 KB a file."""
    resource = pytest.importorskip("resource")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, {resource.RLIM_INFINITY}))\n"
    result = python(limit + USE.format("float64"), tmp_path)
    assert result.stdout.strip() == f"{RESULT} 1", result.stderr
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@needs_jit
def test_two_processes_compile_at_once(tmp_path):
    """One function for two types at the same moment, then the other way round; a third finds both."""
    orders = [("float32", "float64"), ("float64", "float32")]
    pair = [python("".join(map(USE.format, order)), tmp_path, wait=False) for order in orders]
    outcomes = [process.communicate(timeout=200) for process in pair]
    assert all(out.count(RESULT) == 2 and err == "" for out, err in outcomes), outcomes
    third = python("".join(map(USE.format, orders[0])), tmp_path)
    assert (third.stdout.splitlines(), third.stderr) == ([f"{RESULT} 0"] * 2, "")
    assert len(list(tmp_path.glob("*/*/*"))) == 2


def kill_while_compiling(code, cache, delay):
    process = python(code, cache, wait=False)
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=60)


@needs_jit
def test_killed_while_compiling(tmp_path):
    """Whatever the instant, the next process is right and has nothing to say."""
    for delay in (1.0, 1.5):
        kill_while_compiling("".join(map(USE.format, ("float32", "float64"))), tmp_path, delay)
    result = python("".join(map(USE.format, ("float32", "float64"))), tmp_path)
    assert result.stdout.count(RESULT) == 2
    assert result.stderr == ""


@needs_jit
def test_killed_in_the_middle_of_a_write(tmp_path):
    half = "import os, pathlib, signal; write = pathlib.Path.write_bytes\n"
    half += "def die(path, content): write(path, content[:9999]); os.kill(os.getpid(), 9)\n"
    half += "pathlib.Path.write_bytes = die\n"
    assert python(half + USE.format("float64"), tmp_path).returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".tmp"]
    result = python(USE.format("float64"), tmp_path)
    assert (result.stdout.strip(), result.stderr) == (f"{RESULT} 1", "")


WARMUP = ["-m", "minddpg", "warmup"]
# Where the interrupt came while a string was executed, CPython ends by the signal itself; a shell calls both 130.
INTERRUPTED = [(status, "\ninterrupted\n") for status in (130, -signal.SIGINT)]


def interrupt_warmup(cache, delay):
    process = python(WARMUP, cache, wait=False, start_new_session=True)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)  # a terminal interrupts the helper, too
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@needs_jit
@posix
def test_an_interrupted_compilation_ends_with_one_line(tmp_path):
    process = python(WARMUP, tmp_path, wait=False, start_new_session=True)
    assert process.stdout.read(9) == "compiling"
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) in INTERRUPTED
    assert list(tmp_path.rglob("*.tmp")) == []


def whole_package(cache):
    """What a first run does, and whether it compiled anything; a hash of what it learnt."""
    code = (
        "import hashlib, numba, minddpg.ddpg as d; from minddpg.cli import main; from minddpg.agent import smallest\n"
        "import numpy as np, gc; main(['warmup'])\n"
        "agent, replay = smallest('float32'); r = np.random.default_rng(0)\n"
        "for _ in range(9): agent.update_from(replay, r)\n"
        "misses = sum(sum(f._cache_misses.values()) for f in gc.get_objects()\n"
        "             if type(f).__name__ == 'CPUDispatcher' and f._cache.cache_path)\n"
        "params = hashlib.sha256(agent.actor.params.tobytes() + agent.critic.params.tobytes()).hexdigest()\n"
        "print(params, misses)"
    )
    result = python(code, cache)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split(), result.stderr


@needs_jit
@pytest.mark.slow
def test_the_whole_package_with_every_file_spoilt(tmp_path):
    """Each file of a real cache spoilt in turn, and all at once: what is learnt is the same, to the bit."""
    (right, _), err = whole_package(tmp_path)
    assert err == ""
    assert whole_package(tmp_path) == ([right, "0"], "")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) > 10
    rng = random.Random(0)

    def flip(path):
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    for number, chosen in enumerate([[path] for path in files] + [files]):
        for path in chosen:
            (flip if number % 2 else lambda path: os.truncate(path, rng.randrange(path.stat().st_size)))(path)
        (found, misses), err = whole_package(tmp_path)
        assert found == right
        assert int(misses) <= sum(path.suffix == ".code" for path in chosen)  # the helper compiles some of them
        assert err.count("\n") == 1
        assert whole_package(tmp_path) == ([right, "0"], "")


@needs_jit
@posix
@pytest.mark.slow
def test_the_whole_package_killed_and_interrupted(tmp_path):
    rng = random.Random(1)
    for _ in range(6):
        kill_while_compiling(WARMUP, tmp_path, rng.uniform(1, 20))
        status, out, err = interrupt_warmup(tmp_path, rng.uniform(2, 12))
        assert (status, err) in [*INTERRUPTED, (0, "")], out
    assert whole_package(tmp_path)[1] == ""
    assert whole_package(tmp_path)[0][1] == "0"


@needs_jit
def test_the_package_uses_it():
    from minddpg.ddpg import update

    assert isinstance(jit.CACHE, CodeCache)
    assert type(update._cache) is FunctionCache
