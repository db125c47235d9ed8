"""Paired differences against hand-computed ones, and which row a row is compared with."""

import math

import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.report.differences import differences
from metalearn.report.results import Row, summarized

T2 = 4.302652729911275  # Student's t, 97.5%, 2 degrees of freedom


def row(method, values, steps=1, protocol="omniglot/a", **settings):
    values = np.asarray(values, float)
    return summarized(Row(method, "accuracy", values, protocol, adapt_steps=steps, **settings))


MAML = row("MAML", [[0.2, 0.4, 0.9]])


def test_difference_is_paired_by_task():
    other = row("ANIL", [[0.1, 0.5, 0.6]])  # differences -.1, .1, -.3: mean -.1, variance .04
    reference, found = differences([MAML, other], "MAML")
    assert reference.reference is MAML
    assert reference.interval is None
    assert found.interval.mean == pytest.approx(-0.1)
    assert found.interval.half == pytest.approx(T2 * 0.2 / math.sqrt(3))
    shuffled = row("ANIL", [[0.6, 0.1, 0.5]])
    assert differences([MAML, shuffled], "MAML")[1].interval.half != pytest.approx(found.interval.half)


def test_seeds_are_averaged_before_pairing():
    other = row("ANIL", [[0.0, 0.5, 0.5], [0.2, 0.5, 0.7]])
    (_, found) = differences([MAML, other], "maml")
    assert found.interval.mean == pytest.approx(-0.1)
    assert found.interval.half == pytest.approx(T2 * 0.2 / math.sqrt(3))


def test_over_seeds_the_means_are_paired():
    first = row("MAML", [[0.2, 0.4, 0.9], [0.4, 0.6, 0.8], [0.1, 0.2, 0.6]])  # means .5, .6, .3
    other = row("ANIL", [[0.3, 0.5, 0.7], [0.5, 0.5, 1.1], [0.2, 0.7, 0.6]])  # .5, .7, .5: differences 0, .1, .2
    found = differences([first, other], "MAML")[1].over_seeds
    assert (found.mean, found.count) == (pytest.approx(0.1), 3)
    assert found.half == pytest.approx(T2 * 0.1 / math.sqrt(3))
    # one seed has no interval, and two are not three
    assert differences([MAML, row("ANIL", [[0.1, 0.5, 0.6]])], "MAML")[1].over_seeds is None
    assert differences([first, row("ANIL", [[0.1, 0.5, 0.6], [0.2, 0.3, 0.4]])], "MAML")[1].over_seeds is None


def test_fewer_tasks_are_compared_on_those_that_both_have():
    other = row("ANIL", [[0.1, 0.5, 0.6, 1.0, 1.0]])
    assert differences([MAML, other], "MAML")[1].interval.count == 3


def test_other_tasks_and_other_metrics_are_not_compared():
    other = row("ANIL", [[0.1, 0.5, 0.6]], protocol="omniglot/b")
    loss = summarized(Row("ANIL", "loss", np.array([[0.1, 0.2, 0.3]]), "omniglot/a"))
    assert differences([MAML, other, loss], "MAML")[1:] == [None, None]
    assert differences([MAML], None) == [None]


def test_reference_has_as_many_steps_then_the_budget_then_the_most_steps_then_comes_first():
    values = [[0.2, 0.4, 0.9]]
    one, three = row("MAML", values, 1, budget=10), row("MAML", values, 3, budget=10)
    longer, again = row("MAML", values, 3, budget=99), row("MAML", values, 3, budget=99)
    rows = [one, three, longer, again]

    def reference(other):
        return differences([*rows, other], "MAML")[-1].reference

    assert reference(row("ANIL", values, 1, budget=99)) is one
    assert reference(row("ANIL", values, 3, budget=10)) is three
    assert reference(row("ANIL", values, 3, budget=99)) is longer
    assert reference(row("ANIL", values, 7, budget=10)) is three
    assert reference(row("ANIL", values, 7, budget=5)) is three


@pytest.mark.parametrize("steps", [0, None])
def test_a_method_without_steps_is_compared_with_the_adapted_reference(steps):
    before, after = row("MAML", [[0.2, 0.2, 0.2]], 0), row("MAML", [[0.9, 0.9, 0.9]], 5)
    protonet = row("ProtoNet", [[0.9, 0.8, 0.7]], steps)
    assert differences([before, after, protonet], "MAML")[-1].reference is after
    anil = [row("ANIL", [[0.2, 0.2, 0.2]], 0), row("ANIL", [[0.9, 0.9, 0.9]], 5)]
    assert differences([before, after, *anil], "MAML")[2].reference is before


def test_a_value_that_is_not_finite_makes_the_difference_so():
    other = row("ANIL", [[0.1, np.inf, 0.6]])
    assert not math.isfinite(differences([MAML, other], "MAML")[1].interval.mean)


def test_unknown_reference():
    with pytest.raises(InputError, match="against is 'MALM', which is the method of no row; there are MAML"):
        differences([MAML], "MALM")


def test_values_are_needed():
    other = row("ANIL", [[0.1, 0.5, 0.6]])._replace(values=None, run="runs-anil")
    with pytest.raises(InputError, match=r"results\.npz of runs-anil is missing"):
        differences([MAML, other], "MAML")
