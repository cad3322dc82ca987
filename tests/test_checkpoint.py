import json
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import random_agent, resealed
from hypothesis import given, settings
from hypothesis import strategies as st

import minddpg
from minddpg import Config, ReplayBuffer, RunError
from minddpg.runs import checkpoint
from minddpg.runs.checkpoint import (
    ReplayFiles,
    check_like,
    pack,
    read_checkpoint,
    segment_rows,
    segments,
    unpack,
    write_checkpoint,
)
from minddpg.runs.files import MOST_META, array_file, open_arrays

# --- trees ------------------------------------------------------------------------------------------------------------

ARRAYS = st.sampled_from(["<f4", "<f8", "<i8", "|u1", "|b1", ">f8", "<c16"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 3), max_size=3).map(lambda shape: np.ones(shape, dtype))
)
KEYS = st.sampled_from(["", "a", "b", "a/b", "/", "array", ".", "a.npy", "%", "\0", "\ud800", "é", "0"]) | st.text(
    max_size=3
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**130), 2**130)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | ARRAYS
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for value, another in zip(one, other, strict=True):
            assert_same(value, another)
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    else:
        assert one == other


def saved(path, tree):
    """The tree, by way of a file."""
    packed, arrays = pack(tree)
    path.write_bytes(array_file("checkpoint", arrays, {"state": packed}))
    with open_arrays(path, "checkpoint", 1 << 30, "") as file:
        shapes = {name: checkpoint.shape_of(array) for name, array in arrays.items()}
        file.none_but(shapes)
        return unpack(file.meta["state"], file.read(shapes))


@given(tree=TREES)
def test_any_tree_is_the_same_again(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.npz"
    try:
        again = saved(path, tree)
    except TypeError as error:
        assert "keys that are not plain text" in str(error)  # noqa: PT017
        assert "array" in repr(tree)
        return
    assert_same(tree, again)
    first = path.read_bytes()
    saved(path, tree)
    assert path.read_bytes() == first


def test_what_a_tree_cannot_hold_is_named():
    for what, tree in {
        "a/0 holds a set": {"a": [{1}]},
        "a holds an array of object": {"a": np.array([{}])},
        "the state has keys that are not plain text": {1: 2},
        "b has keys": {"b": {"array": 1}},
    }.items():
        with pytest.raises(TypeError, match=what):
            pack(tree)


@pytest.mark.parametrize(
    ("saved", "own"),
    [(1.0, 1), (1, 1.0), (True, 1), (-1, 1), ("1", 1), (None, 1), (float("nan"), 1.0), ([1], [1, 2]),
     ({"a": 1}, {"b": 2}),
     ({"a": 1, "b": 1}, {"a": 1}), ([], {}), (1, []), (np.zeros(2), np.zeros(3)), (np.zeros(2, "f4"), np.zeros(2)),
     (np.array([np.nan, 1]), np.zeros(2)), ([0, 0], np.zeros(2)), (np.zeros(()), 0.0)],
)  # fmt: skip
def test_what_is_not_like_a_state_is_refused(saved, own):
    check_like(own, own)
    check_like({"x": [own, -1.0]}, {"x": (own, 1.0)})
    with pytest.raises(ValueError, match="the state: x: 0.* is not like a run's"):
        check_like({"x": [saved]}, {"x": [own]})


@pytest.mark.parametrize("seed", range(6))
def test_any_agent_is_the_same_again(tmp_path, seed):
    agent, batch = random_agent(seed, ("float32", "float64")[seed % 2], updates=2)
    tree = {"run": {"steps": 2, "agent": agent.views()}, "best": None, "tables": {}, "replay": {}}
    write_checkpoint(tmp_path, tree, agent.act_dim, agent.config)
    content = (tmp_path / "checkpoint.npz").read_bytes()
    again, _ = random_agent(seed, agent.config.dtype)
    again.load_state_dict(read_checkpoint(tmp_path, agent.obs_dim, agent.act_dim, agent.config)["run"]["agent"])
    tree["run"]["agent"] = again.views()
    write_checkpoint(tmp_path, tree, agent.act_dim, agent.config)
    assert (tmp_path / "checkpoint.npz").read_bytes() == content
    assert again.update(batch) == agent.update(batch)
    assert all(again.state_dict()[name].tobytes() == array.tobytes() for name, array in agent.state_dict().items())


def test_a_state_that_would_not_be_read_is_not_written(tmp_path, monkeypatch):
    agent, _ = random_agent(0)
    tree = {"run": {"steps": 0, "agent": agent.views(), "environments": np.zeros(1000)}, "best": None}
    monkeypatch.setattr(checkpoint, "ELSEWHERE", 8_000 - 8 * (agent.act_dim + 1) * agent.config.steps)
    write_checkpoint(tmp_path, {**tree, "tables": {}, "replay": {}}, agent.act_dim, agent.config)
    read_checkpoint(tmp_path, agent.obs_dim, agent.act_dim, agent.config)
    monkeypatch.setattr(checkpoint, "ELSEWHERE", 7_999 - 8 * (agent.act_dim + 1) * agent.config.steps)
    with pytest.raises(RunError, match="it is larger than this run's state"):
        read_checkpoint(tmp_path, agent.obs_dim, agent.act_dim, agent.config)
    with pytest.raises(RunError, match="the environment's state is too large to be kept: 8,000 bytes, 7,999 at most"):
        write_checkpoint(tmp_path, tree, agent.act_dim, agent.config)
    with pytest.raises(RunError, match="too large for a checkpoint file"):
        write_checkpoint(tmp_path, {"run": {}, "best": None, "text": "x" * MOST_META}, agent.act_dim, agent.config)


# --- the replay memory ------------------------------------------------------------------------------------------------


def add(replay, count):
    for i in range(replay.added, replay.added + count):
        replay.add([i, -i, 0.5], [0.1 * (i % 7)], -i, [i + 1, 0, 0], i % 5 == 0)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.is_dir() else {}


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 23), rows=st.sampled_from([1, 2, 4, 8]), adds=st.lists(st.integers(0, 30), max_size=6),
    resumed=st.lists(st.booleans(), min_size=6, max_size=6), failed=st.lists(st.booleans(), min_size=6, max_size=6),
)  # fmt: skip
def test_checkpoints_in_between_leave_no_trace(tmp_path_factory, capacity, rows, adds, resumed, failed):
    """Whenever the replay memory is written, whether the process lived on or not: the files in the end are the same."""
    base = tmp_path_factory.mktemp("replay")
    with pytest.MonkeyPatch.context() as patch:
        replay = ReplayBuffer(capacity, 3, 1)
        patch.setattr(checkpoint, "SEGMENT", rows * (replay.nbytes // capacity))
        assert segment_rows(replay.nbytes // capacity) == rows
        files, named = ReplayFiles(base / "often"), {}
        (base / "often").mkdir()
        for count, again, lost in zip(adds, resumed, failed, strict=False):
            add(replay, count)
            digests = files.write(replay)
            if not lost:  # otherwise no checkpoint has come of it
                named = digests
                files.keep(named)
            elif again:
                continue
            if again:
                files = ReplayFiles(base / "often", named)
                files.keep(named)
        named = files.write(replay)
        files.keep(named)
        once = ReplayFiles(base / "once")
        (base / "once").mkdir()
        assert once.write(replay) == named
        assert contents(base / "often" / "replay") == contents(base / "once" / "replay")
        assert set(contents(base / "once" / "replay")) == set(named)
        assert len({segment.start for segment in segments(replay.added, capacity, rows)}) == len(named)
        read = ReplayBuffer(capacity, 3, 1)
        ReplayFiles(base / "often", named).read(read, replay.added)
        assert read.added == replay.added
        for one, other in zip(read.transitions, replay.transitions, strict=True):
            assert one.tobytes() == other.tobytes()
    shutil.rmtree(base)


def test_what_has_not_changed_is_not_written_again(tmp_path, monkeypatch):
    replay = ReplayBuffer(12, 3, 1)
    monkeypatch.setattr(checkpoint, "SEGMENT", 4 * (replay.nbytes // 12))
    files, written = ReplayFiles(tmp_path), []
    real = checkpoint.write_whole
    monkeypatch.setattr(
        checkpoint, "write_whole", lambda path, content: (written.append(path.name), real(path, content))
    )
    for count, names in ((6, ["0-4", "4-2"]), (1, ["4-3"]), (5, ["4-4", "8-4"]), (0, []), (2, ["0-6"])):
        add(replay, count)
        written.clear()
        files.keep(files.write(replay))
        assert written == [f"{int(n.split('-')[0]):010d}-{int(n.split('-')[1]):010d}.npz" for n in names]
    assert len(list((tmp_path / "replay").iterdir())) == 3


def test_nothing_but_segments_is_removed(tmp_path):
    replay = ReplayBuffer(12, 3, 1)
    add(replay, 5)
    files = ReplayFiles(tmp_path)
    files.keep(files.write(replay))
    (tmp_path / "replay" / "notes.txt").write_text("mine")
    (tmp_path / "replay" / "0000000000-0000000005.npz.d").mkdir()
    (tmp_path / "replay" / ".0000000000-0000000005.npz.0a0b0c0d.tmp").write_text("")
    files.keep({})
    assert {path.name for path in (tmp_path / "replay").iterdir()} == {"notes.txt", "0000000000-0000000005.npz.d"}
    ReplayFiles(tmp_path / "nowhere").keep({})


def test_a_damaged_segment_is_named(tmp_path):
    replay, rng = ReplayBuffer(12, 3, 1), np.random.default_rng(1)
    add(replay, 9)
    files = ReplayFiles(tmp_path)
    named = files.write(replay)
    path = tmp_path / "replay" / next(iter(named))
    whole = path.read_bytes()
    nan = {**{n: a[:9] for n, a in replay.transitions._asdict().items()}, "rew": np.full(9, np.nan, "f4")}
    other = array_file("replay", nan, {"start": 0, "stop": 9})
    broken = [whole[: i * len(whole) // 100] for i in range(100)]
    for _ in range(60):
        position = int(rng.integers(len(whole) - 64))
        broken.append(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        broken.append(resealed(broken[-1]))
    for content in [*broken, other]:
        path.write_bytes(content)
        with pytest.raises(RunError, match="is damaged") as caught:
            files.read(ReplayBuffer(12, 3, 1), 9)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RunError, match="rew must hold finite numbers"):
        ReplayFiles(tmp_path, {path.name: other[-64:].decode()}).read(ReplayBuffer(12, 3, 1), 9)
    path.unlink()
    with pytest.raises(RunError, match="a part of the replay is lost"):
        files.read(ReplayBuffer(12, 3, 1), 9)


# --- checkpoints that were tampered with ------------------------------------------------------------------------------

CONFIG = Config(
    steps=40, hidden_sizes=(3, 2), batch_size=4, buffer_size=30, learning_starts=5, noise="ou", diagnose_every=4,
    evaluate_every=20, evaluation_episodes=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose checkpoint has everything in it: an episode in progress, findings, a best agent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minddpg.evaluation.MOST_STEPS", 3)
        out = tmp_path_factory.mktemp("trained") / "run"
        minddpg.train("Pendulum-v1", CONFIG, out=out, seed=1, progress=False, warn=lambda text: None)
    return out


def parts(path):
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
        arrays = {n[:-4]: np.load(archive.open(n)) for n in archive.namelist() if n.endswith(".npy")}
    return meta, arrays


def write_parts(path, meta, arrays):
    path.write_bytes(array_file(meta.pop("kind"), arrays, meta))


def ways(tree, way=()):
    """Every place in a tree of JSON, and what is there."""
    yield way, tree
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from ways(tree[key], (*way, key))


def mutated(rng, content):
    """Some bytes flipped, cut out, or put elsewhere."""
    content, start, target = bytearray(content), *map(int, rng.integers(len(content) - 64, size=2))
    stop = start + int(rng.integers(1, 30))
    match rng.integers(4):
        case 0:
            content[start] ^= 1 << int(rng.integers(8))
        case 1:
            del content[start:stop]
        case 2:
            content[target : target + stop - start] = content[start:stop]
        case 3:
            content[start:stop] = rng.bytes(stop - start)
    return bytes(content)


def mutations(path, count):
    """Read, resealed, what was changed at random.    -> how many were refused"""
    rng, refused, peak = np.random.default_rng(5), 0, 0
    whole = (path / "checkpoint.npz").read_bytes()
    tree = read_checkpoint(path, 3, 1, CONFIG)
    tracemalloc.start()
    read_checkpoint(path, 3, 1, CONFIG)
    usual = tracemalloc.get_traced_memory()[1]
    for _ in range(count):
        (path / "checkpoint.npz").write_bytes(resealed(mutated(rng, whole)))
        found = None
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        try:
            found = read_checkpoint(path, 3, 1, CONFIG)
        except RunError as error:
            refused += len(str(error).splitlines()) == 1
        else:
            for part in ("run", "best"):
                agent, own = tree[part]["agent"], found[part]["agent"]
                assert agent.keys() == own.keys()
                assert all(checkpoint.shape_of(own[name]) == checkpoint.shape_of(agent[name]) for name in agent)
                assert all(np.isfinite(array).all() for array in own.values())
            count -= 1
        peak = max(peak, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert peak < 2 * usual + 100_000
    assert refused == count
    return refused


def test_a_changed_checkpoint_is_one_line(trained, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run") / "checkpoint.npz"
    whole = path.read_bytes()
    for percent in range(100):
        path.write_bytes(whole[: percent * len(whole) // 100])
        with pytest.raises(RunError, match="checkpoint.npz is damaged"):
            read_checkpoint(tmp_path / "run", 3, 1, CONFIG)
    path.write_bytes(whole)
    assert mutations(tmp_path / "run", 60) > 40


@pytest.mark.slow
def test_10_000_changed_checkpoints(trained, tmp_path):
    assert mutations(shutil.copytree(trained, tmp_path / "run"), 10_000) > 6_000


def test_a_checkpoint_of_another_agent_is_named(trained, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run")
    meta, arrays = parts(path / "checkpoint.npz")
    where = "best/agent/actor.0.bias"
    for changes, message in (
        ({where: np.zeros(7, "f4")}, "it is of another agent: best/agent/actor.0.bias"),
        ({where: np.zeros(3)}, "it is of another agent: best/agent/actor.0.bias"),
        ({where: np.full(3, np.nan, "f4")}, f"{where} must hold finite numbers only"),
        ({"x": np.zeros(9 << 20)}, "it is larger than this run's state"),
        ({"x": np.zeros(3)}, "an array is not where its name says"),
    ):
        now = {**arrays, **changes}
        shapes = {name: list(checkpoint.shape_of(array)) for name, array in now.items()}
        write_parts(path / "checkpoint.npz", {**meta, "arrays": shapes}, now)
        with pytest.raises(RunError, match=message):
            read_checkpoint(path, 3, 1, CONFIG)
    elsewhere = changed(meta, ("state", "best", "agent", "actor.1.bias"), {"array": "run/agent/actor.1.bias"})
    write_parts(path / "checkpoint.npz", elsewhere, arrays)
    with pytest.raises(RunError, match="an array is not where its name says"):
        read_checkpoint(path, 3, 1, CONFIG)
    for other in ("meta", ["<f8"], [["O", [3]]], {"x": ["O", [3]]}, {"x": ["<f8", [-1]]}, {"x": ["<f8", ["a"]]}):
        write_parts(path / "checkpoint.npz", {**meta, "arrays": other}, arrays)
        with pytest.raises(RunError, match="is damaged"):
            read_checkpoint(path, 3, 1, CONFIG)


def changed(meta, way, value):
    """A copy with another value there; `...` takes it away."""
    meta = json.loads(json.dumps(meta))
    inner = meta
    for key in way[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[way[-1]]
    else:
        inner[way[-1]] = value
    return meta


WRONG = (None, True, -1, 1.5, "x", "12", [], {}, [1], {"array": "run/agent/actor.0.bias"}, 2**70, 10**30 + 0.5, ...)


def wrong_values(found):
    """Values of other types than the one that is there, and numbers that it cannot be."""
    kind = type(found)
    if isinstance(found, dict) and set(found) == {"array"}:
        return [value for value in WRONG if value != found]
    values = [value for value in WRONG if type(value) is not kind]
    return [value for value in values if not (kind in (dict, list) and value in ([], {}) and not found)]


def refused(path, meta, arrays):
    """minddpg.resume of a run whose checkpoint says this: one line, and nothing else."""
    write_parts(path / "checkpoint.npz", meta, arrays)
    with pytest.raises(RunError) as caught:
        minddpg.resume(path, steps=41, progress=False, warn=lambda text: None)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def every_place(meta):
    state = meta["state"]
    for way, found in ways(state):
        if way and not (way[0] == "tables" and len(way) == 2 and found == 0):
            for value in wrong_values(found):
                if value is ... and way[:1] == ("tables",) and len(way) == 2:
                    continue  # a table that is not named has no rows
                if way in (("replay",), ("best",)) and value is None:
                    continue  # that there is none is no damage
                if "environments" in way and way[-1] == "seed" and value is None:
                    continue  # an episode may have been started without one, and is then started anew
                if way[0] == "monitor" and len(way) == 3 and way[1] in ("seen", "found") and value is ...:
                    continue  # one finding less is a state too
                yield ("state", *way), value


def fuzz(trained, path, step):
    shutil.copytree(trained, path)
    kept = {p.name: p.read_bytes() for p in path.iterdir() if p.is_file() and p.name != "checkpoint.npz"}
    meta, arrays = parts(path / "checkpoint.npz")
    meta["state"]["monitor"] |= {"seen": {"dead": [4, 2]}, "found": [["dead", "what", "remedy", 4, 20]]}
    write_parts(path / "checkpoint.npz", changed(meta, ("kind",), "checkpoint"), arrays)
    result = minddpg.resume(path, steps=41, progress=False)
    assert result.steps == 41  # so that it is the change that is refused below
    shutil.rmtree(path)
    shutil.copytree(trained, path)
    assert meta["state"]["best"]
    tried = list(every_place(meta))[::step]
    not_refused = []
    for way, value in tried:
        try:
            refused(path, changed(meta, way, value), arrays)
        except BaseException as error:
            not_refused.append((way, value, f"{type(error).__name__}: {error}"[:200]))
            shutil.rmtree(path)
            shutil.copytree(trained, path)
    assert not_refused == []
    config = {p.name: p.read_bytes() for p in path.iterdir() if p.name in ("agent.npz", "best.npz", "transitions.npz")}
    assert config.items() <= kept.items()
    return len(tried)


def test_a_wrong_value_in_a_state_is_one_line(trained, tmp_path):
    """A share of what the slow test tries: coprime with the number of wrong values, so that all of them come up."""
    assert fuzz(trained, tmp_path / "run", 41) > 40


@pytest.mark.slow
def test_any_wrong_value_at_any_place_of_a_state_is_one_line(trained, tmp_path):
    assert fuzz(trained, tmp_path / "run", 1) > 1_500
