"""The published formulas: values worked out by hand, and what must hold of any scores."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minddpg.study import improvement, interquartile_mean, interval, mean, median, profile
from minddpg.study.results import number
from minddpg.study.statistics import curve_interval

runs = arrays(np.float64, st.integers(1, 12), elements=st.integers(-50, 50).map(float))
tasks = st.lists(runs, min_size=1, max_size=3)


def one(*values):
    return [np.array(values, float)]


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 0, 10, 12, 14, 16, 100, 1000), 13.0),  # 8: two are cut at each end
        ((4, 1, 3, 2), 2.5),  # 4: one
        ((1, 2, 30), 11.0),  # 3: none, the mean
        ((9, 1, 2, 3, 4, 5, 6, 7, 8, 0), 4.5),  # 10: two, and 2, 3, 4, 5, 6, 7 are left
        ((7,), 7.0),
    ],
)
def test_interquartile_mean(values, expected):
    assert interquartile_mean(one(*values)) == expected


def test_the_interquartile_mean_takes_runs_of_all_tasks_together():
    assert interquartile_mean([np.array([1.0, 2.0]), np.array([3.0, 100.0])]) == 2.5


def test_mean_and_median():
    scores = [np.array([1.0, 2.0, 9.0]), np.array([10.0, 30.0]), np.array([0.0])]
    assert mean(scores) == (4 + 20 + 0) / 3
    assert median(scores) == 4
    assert median(scores[:1]) == 2


def test_probability_of_improvement():
    """3 beats 1; 5 beats 1 and 4 and draws with 5: 3.5 of 6 pairs."""
    assert improvement(one(3, 5), one(1, 4, 5)) == pytest.approx(3.5 / 6)
    assert improvement([*one(3, 5), *one(2)], [*one(1, 4, 5), *one(9)]) == pytest.approx((3.5 / 6 + 0) / 2)


def test_performance_profile():
    scores = [np.array([1.0, 2.0]), np.array([3.0, 3.0])]
    np.testing.assert_array_equal(profile(scores, np.array([0.5, 1.0, 2.5, 3.0])), [1, 0.75, 0.5, 0])


def test_the_bootstrap_of_two_runs():
    """The mean of two draws from 0 and 1 is 0 with 1/4, 0.5 with 1/2, 1 with 1/4."""
    assert interval(mean, one(0, 1)) == (0, 1)
    assert interval(mean, one(0, 1), level=0.4) == (0.5, 0.5)
    assert interval(mean, one(0, 1), level=0.6) == (0, 1)


def test_the_bootstrap_is_stratified():
    """Runs are drawn within their task: between tasks that differ, but not within themselves, nothing varies."""
    scores = [np.zeros(5), np.full(3, 10.0)]
    assert interval(mean, scores) == (5, 5)
    assert interval(interquartile_mean, scores) == (2.5, 2.5)  # 0 0 0 10 of 8 sorted, without two at each end


def test_groups_are_drawn_independently():
    """The same runs drawn together would always be a draw."""
    low, high = interval(improvement, one(1, 2, 3, 4), one(1, 2, 3, 4))
    assert low < 0.3
    assert high > 0.7


def test_one_run_has_no_interval():
    assert np.isnan(interval(mean, one(5.0))).all()
    assert np.isnan(interval(improvement, one(1, 2), one(3))).all()
    assert interval(lambda scores: profile(scores, np.zeros(4)), one(3))[0].shape == (4,)


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(statistic):
    """Of 300 samples of 30 numbers around 0, 95 % have 0 in their interval; a percentile interval, a bit less."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        low, high = interval(statistic, [rng.standard_normal(30)], repetitions=400)
        held += low <= 0 <= high
    assert 0.88 <= held / 300 <= 0.98


def test_learning_curves():
    curves = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0], [0.0, 7.0]])
    centre, low, high = curve_interval(curves)
    np.testing.assert_array_equal(centre, [0, 4])
    assert low[0] == high[0] == 0
    assert 1 <= low[1] < 3
    assert 5 < high[1] <= 7
    assert np.isnan(curve_interval(curves[:1])[1]).all()


# --- of any scores ----------------------------------------------------------------------------------------------------


@given(tasks, st.randoms(use_true_random=False))
def test_the_order_of_runs_does_not_matter(scores, random):
    mixed = [np.array(random.sample(list(task), len(task))) for task in scores]
    for statistic in (mean, median, interquartile_mean):
        assert statistic(mixed) == pytest.approx(statistic(scores), abs=1e-9)


@given(tasks, st.floats(0.1, 10), st.floats(-100, 100))
def test_another_scale_gives_the_same_on_that_scale(scores, scale, shift):
    for statistic in (mean, median, interquartile_mean):
        assert statistic([scale * task + shift for task in scores]) == pytest.approx(
            scale * statistic(scores) + shift, abs=1e-6
        )


@given(runs)
def test_outliers_do_not_move_the_interquartile_mean(scores):
    worse = scores.copy()
    order = np.argsort(scores, kind="stable")
    cut = len(scores) // 4
    worse[order[:cut]] -= 1e6
    worse[order[len(scores) - cut :]] += 1e6
    assert interquartile_mean([worse]) == pytest.approx(interquartile_mean([scores]), abs=1e-9)


@given(runs, runs)
def test_one_beats_the_other_or_the_other_way_round(mine, others):
    chance = improvement([mine], [others])
    assert 0 <= chance <= 1
    assert chance + improvement([others], [mine]) == pytest.approx(1)
    assert improvement([mine**3], [others**3]) == pytest.approx(chance)  # only the order counts
    assert improvement([mine], [mine]) == pytest.approx(0.5)


@given(tasks, st.lists(st.floats(-60, 60), min_size=2, max_size=8))
def test_a_profile_falls(scores, thresholds):
    shares = profile(scores, np.sort(thresholds))
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(shares) <= 0).all()


@given(tasks)
def test_samples_in_front_are_each_taken_for_itself(scores):
    several = [np.stack([task, task + 1, -task]) for task in scores]
    for statistic in (mean, median, interquartile_mean, lambda s: improvement(s, scores)):
        found = statistic(several)
        assert found.shape == (3,)
        for i in range(3):
            assert found[i] == pytest.approx(statistic([task[i] for task in several]), abs=1e-9)


@given(st.lists(runs.filter(lambda scores: len(scores) > 1), min_size=1, max_size=3))
def test_an_interval_lies_within_the_scores_and_repeats_itself(scores):
    low, high = interval(interquartile_mean, scores, repetitions=200)
    every = np.concatenate(scores)
    assert every.min() - 1e-9 <= low <= high <= every.max() + 1e-9
    assert interval(interquartile_mean, scores, repetitions=200) == (low, high)


def test_numbers_are_written_with_as_many_digits_as_a_return_needs():
    texts = {9.994: "9.99", 10.0: "10.0", 10.04: "10.0", -10.0: "-10.0", 1234.56: "1,234.6", 0.0: "0", math.nan: "-"}
    assert [number(value) for value in texts] == list(texts.values())
