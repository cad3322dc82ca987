import os

import numpy as np
import pytest
from conftest import Faults
from hypothesis import given
from hypothesis import strategies as st

from minddpg import RunError
from minddpg.runs.tables import TABLES, Table, Tables, load_table


def filled(directory, rows=3):
    tables = Tables(directory)
    for step in range(rows):
        tables.append("progress", {"step": step, "return": -0.1 * step, "loss": float("nan")})
    return tables


def test_rows_are_read_back(tmp_path):
    filled(tmp_path).close()
    assert (tmp_path / "progress.csv").read_text() == "step,return,loss\n0,-0.0,\n1,-0.1,\n2,-0.2,\n"
    table = load_table(tmp_path, "progress")
    np.testing.assert_array_equal(table["return"], [0, -0.1, -0.2])
    assert np.isnan(table["loss"]).all()
    assert [type(row["step"]) for row in table.as_rows()] == [int] * 3
    assert load_table(tmp_path, "eval") == {}
    with pytest.raises(RunError, match=r"progress.csv is damaged \(it has no column q\)"):
        table["q"]


def test_rows_are_of_whole_numbers_only_where_an_int_can_hold_them(tmp_path):
    (tmp_path / "eval.csv").write_text("a,b,c\n1,inf,1e300\n-2,3,5\n")
    assert load_table(tmp_path, "eval").as_rows() == [{"a": 1, "b": np.inf, "c": 1e300}, {"a": -2, "b": 3, "c": 5}]


def test_cut_back_to_a_checkpoint(tmp_path):
    tables = filled(tmp_path)
    assert tables.rows == {**dict.fromkeys(TABLES, 0), "progress": 3}
    tables.close()
    (tmp_path / "eval.csv").write_text("step\n1\n")  # written after the checkpoint
    with (tmp_path / "progress.csv").open("a") as file:
        file.write("3,-0.")
    tables = Tables(tmp_path, {"progress": 2})
    tables.append("progress", {"step": 7, "return": 0.5, "loss": 1.0})
    tables.sync()
    tables.close()
    assert (tmp_path / "progress.csv").read_text() == "step,return,loss\n0,-0.0,\n1,-0.1,\n7,0.5,1.0\n"
    assert not (tmp_path / "eval.csv").exists()


def test_a_table_that_is_too_short_for_its_checkpoint_is_left_alone(tmp_path):
    filled(tmp_path).close()
    path = tmp_path / "progress.csv"
    for content in (path.read_bytes()[:-1], b"step\n", b""):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"progress.csv is damaged \(it has not the 3 rows of the checkpoint\)"):
            Tables(tmp_path, {"progress": 3})
        assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(RunError, match="has not the 3 rows"):
        Tables(tmp_path, {"progress": 3})


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    filled(tmp_path).close()
    path = tmp_path / "progress.csv"
    whole = path.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:end])
        assert len(load_table(tmp_path, "progress")["step"]) == whole[:end].count(b"\n") - 1


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("how", ["ENOSPC", "EIO"])
def test_a_row_is_whole_or_not_there(tmp_path, rows, how):
    """Where the disk fails in the middle of a row, what was written of it is taken back."""
    tables = filled(tmp_path, rows)
    before = (tmp_path / "progress.csv").read_bytes() if rows else b""
    with pytest.MonkeyPatch.context() as patch:
        real, calls = os.write, []

        def write(file, content):  # a part, and then no more
            calls.append(file)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(file, content[:3])

        patch.setattr(os, "write", write)
        with pytest.raises(RunError, match=r"cannot write .*progress.csv: No space left"):
            tables.append("progress", {"step": 8, "return": 9.5, "loss": 1.0})
    assert (tmp_path / "progress.csv").read_bytes() == before
    assert tables.rows["progress"] == rows
    tables.append("progress", {"step": 8, "return": 9.5, "loss": 1.0})
    tables.close()
    assert load_table(tmp_path, "progress").as_rows()[-1] == {"step": 8, "return": 9.5, "loss": 1.0}
    for at in range(3):
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, how)
            again = None
            try:
                again = Tables(tmp_path, {"progress": rows})
                again.append("progress", {"step": 8, "return": 9.5, "loss": 1.0})
            except RunError as error:
                assert "progress.csv" in str(error) or "eval" in str(error)  # noqa: PT017
            else:
                assert not faults.happened
            if again:
                again.close()
        Tables(tmp_path, {"progress": rows}).close()  # and it goes on from there
        tables = Tables(tmp_path, {"progress": rows})
        tables.append("progress", {"step": 8, "return": 9.5, "loss": 1.0})
        tables.close()


def test_short_writes_go_on(tmp_path, monkeypatch):
    Faults(monkeypatch, how="short")
    filled(tmp_path).close()
    assert (tmp_path / "progress.csv").read_text() == "step,return,loss\n0,-0.0,\n1,-0.1,\n2,-0.2,\n"


CELLS = st.sampled_from(["", "1", "-0.5", "nan", "1e999", "x", "\0", "1_0", " 2", "\x85", "\u0665", '"1"'])
LIKE_TABLES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=5).map("\n".join).map(str.encode)


@given(content=st.binary(max_size=60) | LIKE_TABLES)
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any" / "eval.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        table = load_table(path.parent, "eval")
        rows = table.as_rows()
    except RunError as error:
        message = str(error)
        assert "eval.csv is damaged" in message
        assert len(message.splitlines()) == 1
    else:
        assert isinstance(table, Table)
        assert {len(column) for column in table.values()} <= {len(rows)}
    for kept in (1, 2):
        path.write_bytes(content)
        try:
            Tables(path.parent, {"eval": kept}).close()
        except RunError:
            assert path.read_bytes() == content
        else:
            assert content.startswith(path.read_bytes())
            assert path.read_bytes().count(b"\n") == kept + 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_is_no_file_is_refused_at_once(tmp_path):
    path = tmp_path / "progress.csv"
    for make, remove in (
        (path.mkdir, path.rmdir),
        (lambda: os.mkfifo(path), path.unlink),
        (lambda: path.symlink_to("/dev/zero"), path.unlink),
        (lambda: path.symlink_to(path.name), path.unlink),
    ):
        make()
        with pytest.raises(RunError, match="cannot read"):
            load_table(tmp_path, "progress")
        with pytest.raises(RunError, match="cannot write"):
            Tables(tmp_path, {"progress": 1})
        remove()


def test_a_table_that_another_version_began_keeps_its_columns(tmp_path):
    """What it does not name is left out, what is not known any more is empty: the file stays one table."""
    with_old_names = Tables(tmp_path)
    with_old_names.append("gradients", {"step": 1, "norm": 2.5, "q": 3})
    with_old_names.close()
    now = Tables(tmp_path, {"gradients": 1})
    now.append("gradients", {"step": 2, "rms": 0.5, "q": 4})
    now.append("gradients", {"step": 3, "rms": 0.5, "q": 5})
    now.close()
    assert (tmp_path / "gradients.csv").read_text() == "step,norm,q\n1,2.5,3\n2,,4\n3,,5\n"
    table = load_table(tmp_path, "gradients")
    assert table["q"].tolist() == [3, 4, 5]
    fresh = Tables(tmp_path)  # from the start again: today's columns
    fresh.append("gradients", {"step": 1, "rms": 0.5})
    fresh.close()
    assert (tmp_path / "gradients.csv").read_text() == "step,rms\n1,0.5\n"
