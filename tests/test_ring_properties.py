"""The replay memory beside a deque: for any sequence of adds and looks both hold the same, in the same order."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from minddpg import ReplayBuffer, ShapeError
from minddpg.replay import Batch, gather

NUMBERS = st.floats(-1e6, 1e6)


class Ring(RuleBasedStateMachine):
    @initialize(capacity=st.integers(1, 7), obs_dim=st.integers(1, 3), act_dim=st.integers(1, 2),
                dtype=st.sampled_from(["float32", "float64"]))  # fmt: skip
    def make(self, capacity, obs_dim, act_dim, dtype):
        self.obs_dim, self.act_dim, self.dtype, self.added = obs_dim, act_dim, dtype, 0
        self.ring, self.model = ReplayBuffer(capacity, obs_dim, act_dim, dtype), deque(maxlen=capacity)

    @rule(data=st.data(), rew=NUMBERS, terminated=st.booleans(), kind=st.sampled_from([np.array, list, tuple]))
    def add(self, data, rew, terminated, kind):
        obs, act, next_obs = (
            kind(data.draw(st.lists(NUMBERS, min_size=n, max_size=n)))
            for n in (self.obs_dim, self.act_dim, self.obs_dim)
        )
        self.ring.add(obs, act, rew, next_obs, terminated)
        self.model.append([np.array(value, self.dtype) for value in (obs, act, rew, next_obs)] + [terminated])
        self.added += 1
        if kind is np.array:  # what was handed in is the caller's to change
            obs[:], act[:], next_obs[:] = 7, 7, 7

    @rule(which=st.integers(0, 2), more=st.sampled_from([-1, 1]))
    def add_what_misfits(self, which, more):
        sizes = [self.obs_dim, self.act_dim, self.obs_dim]
        sizes[which] += more
        obs, act, next_obs = (np.full(size, 9.0) for size in sizes)
        with pytest.raises(ShapeError, match=("obs", "act", "next_obs")[which]):
            self.ring.add(obs, act, 9.0, next_obs, True)

    @rule(count=st.integers(0, 9), seed=st.integers(0, 5))
    def sample(self, count, seed):
        if self.model and count:
            rng = np.random.default_rng(seed)
            drawn, again = self.ring.sample(count, rng), self.ring.sample(count, np.random.default_rng(seed))
            assert [array.dtype for array in drawn] == [*[self.dtype] * 4, np.bool_]
            for row in rows_of(drawn):
                assert any(same(row, held) for held in self.model)
            assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
            for array, stored in zip(drawn, self.ring.transitions, strict=True):
                assert len(array) == count
                array[...] = 5  # a batch is the caller's too
                assert not np.shares_memory(array, stored)

    @invariant()
    def both_hold_the_same(self):
        if hasattr(self, "ring"):
            assert (len(self.ring), self.ring.size, self.ring.added) == (len(self.model), len(self.model), self.added)
            everything = rows_of(self.ring.spread(self.ring.capacity + 3))
            assert len(everything) == len(self.model)
            assert all(same(row, held) for row, held in zip(everything, self.model, strict=True))
            some = rows_of(self.ring.spread(2))
            if len(self.model) > 1:
                assert same(some[0], self.model[0])
                assert same(some[1], self.model[-1])


def rows_of(batch):
    return list(zip(*batch, strict=True))


def same(row, held):
    return all(np.array_equal(a, b) for a, b in zip(row, held, strict=True))


TestRing = Ring.TestCase
TestRing.settings = settings(max_examples=20, stateful_step_count=25)


@given(size=st.integers(1, 40), count=st.integers(0, 50))
def test_spread_is_even(size, count):
    """From the oldest to the newest, each once, and no gap larger than another by more than one."""
    replay = ReplayBuffer(40, 1, 1)
    for i in range(size):
        replay.add([i], [0], i, [0], False)
    held = replay.spread(count).rew.astype(int).tolist()
    assert len(held) == min(count, size)
    assert held == sorted(set(held))
    if len(held) > 1:
        gaps = np.diff(held)
        assert (held[0], held[-1]) == (0, size - 1)
        assert gaps.max() - gaps.min() <= 1


@given(rows=st.lists(st.integers(0, 6), min_size=1, max_size=9), dtype=st.sampled_from(["float32", "float64"]))
def test_gather_copies_rows_of_any_shape(rows, dtype):
    rng = np.random.default_rng(len(rows))
    stored = Batch(
        *(rng.standard_normal(shape).astype(dtype) for shape in ((7, 3), (7, 2), (7,), (7, 3))), rng.random(7) < 0.5
    )
    batch = gather(stored, np.array(rows, np.int64))
    for name, array, source in zip(Batch._fields, batch, stored, strict=True):
        np.testing.assert_array_equal(array, source[rows], err_msg=name)
        assert array.dtype == source.dtype
        assert not np.shares_memory(array, source)
