import numpy as np
import pytest
from scipy import stats

from metalearn.core import InputError
from metalearn.metrics import interval, paired


@pytest.mark.parametrize("count", [2, 5, 600])
def test_the_interval_is_that_of_students_t(count):
    values = np.random.default_rng(count).normal(3.0, 2.0, count)
    out = interval(values)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([out.mean - out.half, out.mean + out.half], [low, high], rtol=1e-12)
    assert out.count == count


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [abs(out.mean) <= out.half for out in (interval(rng.normal(size=10)) for _ in range(2000))]
    assert abs(np.mean(hits) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_one_value_has_no_interval():
    out = interval(np.array([2.0]))
    assert out.mean == 2.0 and np.isnan(out.half) and out.count == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(bad):
    out = interval(np.array([1.0, bad, 2.0]))
    assert not np.isfinite(out.mean) and not np.isfinite(out.half)


def test_no_value_is_refused():
    with pytest.raises(InputError, match="at least one value"):
        interval(np.array([]))


def test_any_array_of_numbers_will_do():
    assert interval(np.array([[1, 2], [3, 4]], np.int32)).mean == 2.5
    assert str(interval(np.array([1.0, 2.0, 3.0, 4.0]))) == "2.5 ± 2.1"


def test_differences_are_paired():
    easy_and_hard = np.linspace(0, 100, 50)
    better = easy_and_hard - 1 + 0.1 * np.random.default_rng(0).normal(size=50)
    out = paired(better, easy_and_hard)
    assert abs(out.mean + 1) < 0.05
    np.testing.assert_allclose(out.half, stats.sem(better - easy_and_hard) * stats.t.ppf(0.975, 49), rtol=1e-12)
    assert interval(better).half > 50 * out.half  # unpaired, the tasks' own differences hide it


def test_pairs_need_one_shape():
    with pytest.raises(InputError, match=r"one shape, got \(3,\) and \(2,\)"):
        paired(np.zeros(3), np.zeros(2))
