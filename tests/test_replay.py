import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minddpg import ReplayBuffer, ShapeError
from minddpg.replay import gather, replay_nbytes


def transition(i):
    return [i, i + 0.25], [i / 100], i + 0.5, [i + 1, i + 1.25], i % 3 == 0


@given(capacity=st.integers(1, 9), added=st.integers(0, 30))
def test_the_ring_holds_the_newest(capacity, added):
    replay = ReplayBuffer(capacity, 2, 1)
    for i in range(added):
        replay.add(*transition(i))
    assert len(replay) == min(capacity, added)
    held = sorted(replay.transitions.rew[: len(replay)])
    assert held == [i + 0.5 for i in range(max(0, added - capacity), added)]
    for k in range(len(replay)):
        i = int(replay.transitions.rew[k])
        for stored, given_ in zip(replay.transitions, transition(i), strict=True):
            np.testing.assert_array_equal(stored[k], np.asarray(given_, stored.dtype))


def test_samples_are_whole_rows_of_what_is_held():
    replay = ReplayBuffer(50, 2, 1, "float64")
    for i in range(20):
        replay.add(*transition(i))
    rng = np.random.default_rng(0)
    batch = replay.sample(500, rng)
    assert [a.shape for a in batch] == [(500, 2), (500, 1), (500,), (500, 2), (500,)]
    i = np.floor(batch.rew)
    assert set(i) == set(range(20))
    np.testing.assert_array_equal(batch.obs[:, 0], i)
    np.testing.assert_array_equal(batch.next_obs[:, 1], i + 1.25)
    np.testing.assert_array_equal(batch.act[:, 0], i / 100)
    np.testing.assert_array_equal(batch.terminated, i % 3 == 0)
    counts = np.bincount(i.astype(int))
    assert counts.min() > 8  # uniform: 25 expected each


def test_samples_are_copies_and_seeded():
    replay = ReplayBuffer(5, 2, 1)
    for i in range(5):
        replay.add(*transition(i))
    one, two = (replay.sample(8, np.random.default_rng(3)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not any(np.shares_memory(a, stored) for stored in replay.transitions)
    assert not np.array_equal(one.rew, replay.sample(8, np.random.default_rng(4)).rew)
    np.testing.assert_array_equal(gather(replay.transitions, np.array([4, 0])).rew, [4.5, 0.5])


def test_what_is_added_is_copied():
    replay, obs = ReplayBuffer(3, 2, 1), np.ones(2)
    replay.add(obs, [0], 0, obs, False)
    obs[:] = 9
    assert replay.transitions.obs[0, 0] == replay.transitions.next_obs[0, 0] == 1


def test_memory_is_what_the_arrays_take():
    replay = ReplayBuffer(1000, 17, 6)
    assert replay.nbytes == 1000 * (17 * 4 + 6 * 4 + 4 + 17 * 4 + 1)
    assert replay.transitions.obs.dtype == np.float32
    assert replay_nbytes(1_000_000, 17, 6) == 165_000_000  # HalfCheetah's
    for dtype in ("float32", "float64"):
        assert replay_nbytes(1000, 17, 6, dtype) == ReplayBuffer(1000, 17, 6, dtype).nbytes


def test_shapes_that_misfit_are_named():
    replay = ReplayBuffer(3, 4, 2)
    for obs, act, next_obs in [(7.0, [1, 1], [0] * 4), ([0] * 4, [1], [0] * 4), ([0] * 4, [1, 1], [0] * 3)]:
        with pytest.raises(ShapeError, match="must be"):
            replay.add(obs, act, 0, next_obs, False)
    assert len(replay) == 0


BAD = {
    "obs": (["a", "b", "c", "d"], [1e39, 0, 0, 0], [0, 0, np.nan, 0], None, [None] * 4, [0, 0, 0, 10**400]),
    "act": ([1j, 0], [0, np.inf], "ab", [[0, 0]]),
    "rew": (None, "1", 1e39, np.nan, -np.inf, 1j, [1.0, 2.0], np.datetime64("2020"), 10**400),
    "next_obs": ([0, 0, 0, -1e39], [0, 0, 0], [0, 0, 0, np.inf]),
    "terminated": (None, "no", 0.5, np.nan, [True, False]),
}


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, several in BAD.items() for bad in several])
def test_a_bad_transition_is_named_and_leaves_the_ring_as_it_was(name, bad):
    replay = ReplayBuffer(3, 4, 2)
    good = {"obs": np.ones(4), "act": np.zeros(2), "rew": 1.0, "next_obs": np.ones(4), "terminated": False}
    for _ in range(5):  # full: what the row holds is sampled
        replay.add(**good)
    before = [array.tobytes() for array in replay.transitions]
    with pytest.raises(ShapeError, match=rf"^{name}\b"):
        replay.add(**{**{key: 7 * np.asarray(value) for key, value in good.items()}, "terminated": True, name: bad})
    assert [array.tobytes() for array in replay.transitions] == before
    assert replay.added == 5


@pytest.mark.parametrize("terminated", [True, np.True_, 1, 1.0, np.array(1)])
def test_terminated_in_any_form(terminated):
    replay = ReplayBuffer(3, 1, 1)
    replay.add([0], [0], np.float64(2), [0], terminated)
    assert replay.transitions.terminated[0]
    assert replay.transitions.rew[0] == 2


def test_gather_reads_no_foreign_memory():
    ring = ReplayBuffer(3, 2, 1).transitions
    for indices in ([3], [0, -1], [1 << 40]):
        with pytest.raises(IndexError, match="indices must be"):
            gather(ring, np.array(indices))
    for name in ring._fields:
        with pytest.raises(ValueError, match="one row per transition"):
            gather(ring._replace(**{name: getattr(ring, name)[:2]}), np.array([0]))


def test_an_empty_replay_says_so():
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(3, 1, 1).sample(1, np.random.default_rng(0))


@pytest.mark.parametrize("held", [1, 2, 3, 7, 100])
def test_draws_are_uniform_over_what_is_held(held):
    """Chi-square has the mean `cells` and the variance 2 cells; in pairs: one draw tells nothing of the next."""
    replay, rng = ReplayBuffer(100, 2, 1), np.random.default_rng(held)
    for i in range(held):
        replay.add(*transition(i))
    indices = np.concatenate([replay.draw(256, rng) for _ in range(400)])
    pairs = indices[::2] * held + indices[1::2]
    for seen, number in ((indices, held), (pairs, held**2)):
        expected, cells = len(seen) / number, number - 1
        statistic = np.sum((np.bincount(seen, minlength=number) - expected) ** 2) / expected
        assert abs(statistic - cells) <= 5 * np.sqrt(2 * cells)


@pytest.mark.parametrize("held", [1, 2, 3, 10, 2**20, 10**6 - 1, 2**31 - 1, 10**9])
def test_the_largest_and_the_smallest_random_number_draw_what_is_held(held):
    class Extremes:
        def random(self, n):
            return np.array([0.0, 1 - 2**-53])[:n]

    replay = ReplayBuffer(1, 1, 1)
    replay.capacity = replay.added = held  # no memory is touched
    assert replay.draw(2, Extremes()).tolist() == [0, held - 1]
