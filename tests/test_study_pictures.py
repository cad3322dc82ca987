"""The picture of a study: what is drawn is what the statistics say."""

import numpy as np
import pytest
from studies import fake_study

pytest.importorskip("matplotlib")

from minddpg.gradflow.canvas import save
from minddpg.study import study_figure
from minddpg.study.statistics import curve_interval, interquartile_mean


def axes_of(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.get_axes()}


def test_the_curves_are_interquartile_means_and_every_seed(tmp_path):
    study = fake_study(tmp_path / "s", seeds=5, vary={"tau": [0.01, 0.02]})
    axes = axes_of(study_figure(study))["Learning: interquartile mean, 95 % interval; thin: each seed"]
    thick = [line for line in axes.lines if line.get_linewidth() > 2]
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert (len(thick), len(thin)) == (2, 10)
    assert axes.get_xlim() == (0, 20_400)
    steps, curves = study.curves("Pendulum-v1", "tau=0.02")
    np.testing.assert_array_equal(thick[1].get_xdata(), steps)
    np.testing.assert_allclose(thick[1].get_ydata(), interquartile_mean([curves.T]))
    _, low, high = curve_interval(curves)
    band = axes.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(low.min())
    assert band[:, 1].max() == pytest.approx(high.max())
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["tau=0.01:  1,013.1", "tau=0.02:  1,112.5"]


def test_scores_profiles_and_probabilities(tmp_path):
    study = fake_study(tmp_path / "s", seeds=5, vary={"tau": [0.01, 0.02]}, rises=15.0)
    panels = axes_of(study_figure(study))
    dots = [line.get_xdata()[0] for line in panels["Best evaluation"].lines if line.get_marker() == "o"]
    assert dots == [study.summary("Pendulum-v1", v, "best").iqm.value for v in ("tau=0.01", "tau=0.02")]
    ticks = [line.get_xdata() for line in panels["Last 10 evaluations"].lines if line.get_marker() == "|"]
    np.testing.assert_array_equal(ticks[0], study.scores("Pendulum-v1", "tau=0.01", "last10"))
    first = panels["Share of runs above tau"].lines[0]
    assert first.get_ydata()[0] == 1
    assert first.get_ydata()[-1] == 0
    (chance,) = [line for line in panels["Does the best beat this one?"].lines if line.get_marker() == "o"]
    assert chance.get_xdata()[0] == study.improvement("tau=0.02", "tau=0.01").value
    assert 0.5 < chance.get_xdata()[0] < 1


def test_one_variant_needs_no_comparison(tmp_path):
    panels = axes_of(study_figure(fake_study(tmp_path / "s")))
    assert "Does the best beat this one?" not in panels
    assert len(panels) == 4


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_files_of_every_kind(tmp_path, suffix):
    figure = study_figure(fake_study(tmp_path / "s", ("A-v0", "$b_c$-v0"), 2, {"tau": [0.01, 0.02]}, missing=(0, 1)))
    save(figure, tmp_path / f"study{suffix}")
    content = (tmp_path / f"study{suffix}").read_bytes()
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])


@pytest.mark.parametrize(
    ("missing", "title"),
    [((0, 1), "Pendulum-v1, 20,000 steps, 0 of 2 runs"), ((1,), "Pendulum-v1, 20,000 steps, 1 of 2 runs")],
)
def test_studies_of_nothing_and_of_one_run(tmp_path, missing, title):
    figure = study_figure(fake_study(tmp_path / "s", seeds=2, missing=missing))
    assert figure.subfigs[0].get_suptitle() == title
    save(figure, tmp_path / "study.png")
    said = [text.get_text() for axes in figure.get_axes() for text in axes.texts]
    assert ("no run is done yet" in said) == (len(missing) == 2)
