"""Tables: whatever is written comes back to the bit, and a run that goes on from any row leaves the same file."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minddpg import RunError
from minddpg.runs.tables import TABLES, Tables, load_table

NUMBERS = st.floats() | st.integers(0, 2**53) | st.floats(width=32)
NAMES = st.lists(st.sampled_from(["step", "return", "a.0.b", "q_mean", "x"]), min_size=1, max_size=4, unique=True)


@st.composite
def tables(draw):
    """A table's name, its columns and rows."""
    names = draw(NAMES)
    rows = draw(st.lists(st.lists(NUMBERS, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))
    return draw(st.sampled_from(TABLES)), [dict(zip(names, row, strict=True)) for row in rows]


@given(written=tables(), data=st.data())
def test_any_numbers_come_back_to_the_bit(tmp_path_factory, written, data):
    table, rows = written
    directory = tmp_path_factory.mktemp("tables")
    kept = data.draw(st.integers(0, len(rows)))
    files = Tables(directory)
    for row in rows:
        files.append(table, row)
    files.sync()
    files.close()
    whole = (directory / f"{table}.csv").read_bytes()
    found = load_table(directory, table)
    assert list(found) == list(rows[0])
    for name, column in found.items():
        assert [bits(value) for value in column.tolist()] == [bits(float(row[name])) for row in rows]
    for row, read in zip(rows, found.as_rows(), strict=True):
        assert list(read) == list(row)
        assert all(math.isnan(row[name]) if value != value else value == row[name] for name, value in read.items())
    again = Tables(directory, {table: kept})  # from a checkpoint
    assert again.rows == {**dict.fromkeys(TABLES, 0), table: kept}
    for row in rows[kept:]:
        again.append(table, row)
    again.close()
    assert (directory / f"{table}.csv").read_bytes() == whole
    with pytest.raises(RunError, match=f"{table}.csv is damaged"):
        Tables(directory, {table: len(rows) + 1})


def bits(number):
    """NaN is NaN; 0 is not -0."""
    return "nan" if number != number else number.hex()
