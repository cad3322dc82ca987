"""Memory is asked for before it is taken."""

import pytest

from minddpg import Config, ConfigError, train
from minddpg.memory import check_memory, in_words, memory_limit


def test_the_smallest_limit_counts(tmp_path):
    machine = memory_limit(tmp_path)
    assert machine is None or machine > 1 << 28
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == machine
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_limit(tmp_path) == 1_000_000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("999\n")
    assert memory_limit(tmp_path) == 999


def test_too_much_is_said_before_it_is_taken(tmp_path):
    check_memory(1, "a byte", "wait")
    with pytest.raises(ConfigError, match=r"all takes 1,000,000.0 GB, but there are .* of memory; wait"):
        check_memory(10**15, "all", "wait")
    with pytest.raises(ConfigError, match="the replay memory of 1,000,000,000,000 transitions takes"):
        train("Pendulum-v1", Config(steps=10**12, buffer_size=10**12), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sizes_are_readable():
    assert [in_words(n) for n in (14_850, 33_000_000, 5.5e9)] == ["14.8 kB", "33.0 MB", "5.5 GB"]
