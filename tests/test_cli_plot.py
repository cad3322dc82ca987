"""`minddpg plot`: a page each, and one picture of several runs."""

import numpy as np
import pytest

from minddpg import RunError, cli
from minddpg.gradflow import runs_figure, save
from minddpg.gradflow.canvas import svg

pytest.importorskip("matplotlib")


def write(directory, table, rows):
    lines = [",".join(rows[0]), *(",".join(map(repr, row.values())) for row in rows)]
    (directory / f"{table}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def runs(run_directory, tmp_path):
    """Of 1,000 steps with evaluations, of few episodes without, of no episode at all."""
    made = [tmp_path / "deep" / name for name in ("learns", "few episodes", "nothing yet")]
    for directory in made:
        directory.mkdir(parents=True)
        (directory / "config.json").write_bytes((run_directory / "config.json").read_bytes())
    rows = [{"step": 10 * i, "return": float(i % 7 - 3 + i / 20), "length": 10} for i in range(1, 101)]
    write(made[0], "progress", rows)
    write(made[1], "progress", rows[:3])
    means = [
        {"step": 200 * i, "episodes": 5, "mean": 1.5 * i, "std": 0.5, "low": 0.0, "high": 9.0} for i in range(1, 6)
    ]
    write(made[0], "eval", means)
    return made


def plot(capsys, *argv):
    try:
        status = cli.main(["plot", *map(str, argv)])
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


def test_several_runs_get_a_page_each_and_a_picture_together(runs, capsys, tmp_path):
    some = [runs[0], runs[2]]
    status, out, err = plot(capsys, *some, runs[0])
    assert status == 0, err
    together = tmp_path / "deep" / "runs.png"
    assert out == [*(f"{run}: {run / 'run.png'}" for run in some), f"all 2 together: {together}"]
    for path in (together, *(run / "run.png" for run in some)):
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_out_names_the_picture_of_several_and_the_page_of_one(runs, capsys, tmp_path):
    status, out, err = plot(capsys, *runs[1:], "--out", "all.pdf")
    assert (status, out[-1]) == (0, "all 2 together: all.pdf"), err
    assert (tmp_path / "all.pdf").read_bytes()[:5] == b"%PDF-"
    assert (runs[1] / "run.png").exists()
    status, out, err = plot(capsys, runs[2], "--out", "page.svg")
    assert (status, out) == (0, [f"{runs[2]}: page.svg"]), err
    assert not (runs[0] / "run.png").exists()


@pytest.mark.parametrize("name", ["all.png", "all.svg", "all.pdf"])
def test_the_same_picture_is_the_same_file(runs, name, tmp_path):
    for path in (name, f"again-{name}"):
        save(runs_figure(runs), path)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def test_nothing_is_drawn_where_one_of_them_is_no_run_or_the_name_is_bad(runs, capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for argv, message in (([runs[0], "nowhere"], "nowhere is not a run directory"),
                          ([*runs, "--out", "all.bmp"], "all.bmp must end in .png, .svg or .pdf"),
                          ([*runs, "--out", "no/all.png"], "no is not a directory; make it first"),
                          ([*runs, "--out", "a" * 250 + ".png"], "too long a name")):  # fmt: skip
        status, _, err = plot(capsys, *argv)
        assert (status, err.count("\n"), message in err) == (2, 1, True), err
    assert sorted(tmp_path.rglob("*")) == before


def lines(axes):
    return [(line.get_xdata(), line.get_ydata()) for line in axes.lines]


def test_the_curves_are_the_tables(runs):
    (axes,) = runs_figure(runs).axes
    (training, mean, few) = lines(axes)
    returns = np.array([i % 7 - 3 + i / 20 for i in range(1, 101)])
    np.testing.assert_allclose(training[0], 10 * np.arange(1, 101))
    expected = [returns[:1].mean(), returns[:5].mean(), returns[41:51].mean(), returns[90:].mean()]
    np.testing.assert_allclose(training[1][[0, 4, 50, 99]], expected)
    np.testing.assert_allclose(mean, [200 * np.arange(1, 6), 1.5 * np.arange(1, 6)])
    np.testing.assert_allclose(few[0], [10, 20, 30])
    (area,) = axes.collections
    corners = area.get_paths()[0].vertices
    assert {(200.0, 1.0), (200.0, 2.0), (1000.0, 7.0), (1000.0, 8.0)} <= {tuple(c) for c in corners.tolist()}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["learns:  7.5", "few episodes:  -0.9", "nothing yet:  no episode ended"]


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_legend_covers_nothing_and_every_run_looks_different(runs, count, tmp_path):
    directories = []
    for i in range(count):
        directories.append(tmp_path / f"a long name of a run number {i} that nobody could ever wish to read")
        directories[-1].mkdir()
        for path in runs[0].iterdir():
            (directories[-1] / path.name).write_bytes(path.read_bytes())
    figure = runs_figure(directories)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend, window = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.x0 > window.x1
    assert figure.bbox.x1 >= legend.x1
    assert legend.y0 >= figure.bbox.y0
    assert window.width > 0.4 * figure.bbox.width
    looks = {(handle.get_color(), handle.get_linestyle()) for handle in axes.get_legend().legend_handles}
    assert len(looks) == count


def test_environments_get_panels_of_their_own_and_names_may_be_anything(runs, tmp_path):
    config = runs[1] / "config.json"
    config.write_text(config.read_text().replace('"Pendulum-v1"', '"$\\\\alpha_$Env-v0"', 1))
    strange = tmp_path / "$x^$ \udcff\u4e16"
    runs[2].rename(strange)
    figure = runs_figure([runs[0], runs[1], strange])
    assert [axes.get_title("left") for axes in figure.axes] == ["Pendulum-v1", "$\\alpha_$Env-v0"]
    assert [len(axes.get_legend().get_texts()) for axes in figure.axes] == [2, 1]
    assert "$x^$ ??:  no episode ended" in svg(figure)


def test_runs_of_one_name_are_told_apart_by_their_paths(runs, tmp_path):
    twin = tmp_path / "other" / "learns"
    twin.mkdir(parents=True)
    for path in runs[0].iterdir():
        (twin / path.name).write_bytes(path.read_bytes())
    legend = runs_figure(["deep/learns", "other/learns"]).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["deep/learns:  7.5", "other/learns:  7.5"]


def test_a_damaged_table_is_named(runs):
    path = runs[0] / "eval.csv"
    path.write_text(path.read_text().replace("std", "other"))
    with pytest.raises(RunError, match=r"eval.csv is damaged \(it has no column std\)"):
        runs_figure(runs)
