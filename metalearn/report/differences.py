"""Differences of two methods on the same test tasks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metalearn.core import InputError
from metalearn.metrics import Interval, paired
from metalearn.report.results import Row


class Difference(NamedTuple):
    """A row minus its reference, with the 95% interval of the paired differences; none for the reference itself.

    `over_seeds` is the same of the two rows' means, seed by seed: None where their numbers of seeds differ.
    """

    reference: Row
    interval: Interval | None
    over_seeds: Interval | None = None


def differences(rows: Sequence[Row], against: str | None) -> list[Difference | None]:
    """For each row, its difference to the method `against`; None where no row of that method had the same tasks.

    The reference is the row of that method with the same protocol and metric and, of several, the one with as many
    adaptation steps; else with as large a budget; else with the most steps; else the first. A method that does not
    adapt in steps is compared with the most steps. Each task is first averaged over seeds; where one row has fewer
    tasks, the first ones that both have are compared. The interval over tasks says nothing of other seeds, nor that
    over seeds of other tasks.

    Raises InputError where no row is of the method, or where values to compare are missing.
    """
    if against is None:
        return [None] * len(rows)
    known = {row.method.casefold(): row.method for row in rows}
    if against.casefold() not in known:
        there = ", ".join(sorted(known.values())) or "none"
        raise InputError(f"against is {against!r}, which is the method of no row; there are {there}.")
    return [_difference(row, rows, against.casefold()) for row in rows]


def _difference(row: Row, rows: Sequence[Row], against: str) -> Difference | None:
    fits = [
        other
        for other in rows
        if other.method.casefold() == against and (other.protocol, other.metric) == (row.protocol, row.metric)
    ]
    if not fits:
        return None
    steps = None if stepless(row, rows) else row.adapt_steps
    reference = max(
        fits, key=lambda other: (other.adapt_steps == steps, other.budget == row.budget, other.adapt_steps or 0)
    )
    if reference is row:
        return Difference(reference, None)
    pair = [_values(one) for one in (row, reference)]
    shared = min(values.shape[1] for values in pair)
    pair = [values[:, :shared] for values in pair]
    with np.errstate(invalid="ignore"):
        over_tasks = paired(*(values.mean(0) for values in pair))
        alike = len(pair[0]) == len(pair[1]) > 1
        return Difference(reference, over_tasks, paired(*(values.mean(1) for values in pair)) if alike else None)


def stepless(row: Row, rows: Sequence[Row]) -> bool:
    """Whether the row's method does not adapt in steps: it was tested on these tasks after none, and after no more."""
    same = [other for other in rows if (other.method, other.protocol, other.run) == (row.method, row.protocol, row.run)]
    return not any(other.adapt_steps for other in same)


def _values(row: Row) -> np.ndarray:
    if row.values is None:
        raise InputError(f"results.npz of {row.run or row.method} is missing, and differences need the values in it.")
    return np.asarray(row.values, np.float64)
