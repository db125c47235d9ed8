"""Rounds to a target, and the clients that are worst off."""

import math

import numpy as np
import pytest

from metalearn import metrics
from metalearn.core import InputError


def test_a_curve_that_falls_back_is_made_monotone_and_interpolated():
    # best so far: .2 .6 .6 .6 .9
    rounds, values = [1, 2, 4, 6, 10], [0.2, 0.6, 0.3, 0.5, 0.9]
    assert metrics.rounds_to_target(rounds, values, 0.4) == pytest.approx(1.5)
    assert metrics.rounds_to_target(rounds, values, 0.6) == 2
    assert metrics.rounds_to_target(rounds, values, 0.75) == pytest.approx(8)


def test_a_target_that_is_not_reached_is_infinite_and_the_first_round_is_the_least():
    assert metrics.rounds_to_target([5, 10], [0.1, 0.2], 0.3) == math.inf
    assert metrics.rounds_to_target([5, 10], [0.4, 0.2], 0.3) == 5


def test_what_is_not_finite_is_no_progress():
    assert metrics.rounds_to_target([1, 2, 3], [np.nan, 0.5, 1.0], 0.5) == 2
    assert metrics.rounds_to_target([1, 2, 3], [0.4, np.inf, 0.6], 0.5) == pytest.approx(2.5)
    assert metrics.rounds_to_target([1, 2], [np.nan, np.nan], 0.5) == math.inf


@pytest.mark.parametrize(("rounds", "values"), [([], []), ([1, 1], [0.1, 0.2]), ([2, 1], [0.1, 0.2]), ([1], [1, 2])])
def test_rounds_must_increase_and_have_a_value_each(rounds, values):
    with pytest.raises(InputError, match="rounds must increase, with a value each"):
        metrics.rounds_to_target(rounds, values, 0.5)


def test_the_worst_are_a_share_and_one_at_least():
    values = np.arange(20)[::-1] / 20
    assert metrics.worst(values) == pytest.approx(0.025)  # of twenty the two lowest: 0 and .05
    assert metrics.worst(values, 1.0) == pytest.approx(values.mean())
    assert metrics.worst(np.array([0.3, 0.2])) == 0.2
    for values, share in (([], 0.1), ([1.0], 0.0), ([1.0], 1.5)):
        with pytest.raises(InputError, match="worst needs a value"):
            metrics.worst(np.array(values), share)
