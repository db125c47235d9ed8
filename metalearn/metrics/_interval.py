"""Means with 95% confidence intervals, over tasks and over seeds, on the host."""

from typing import NamedTuple

import numpy as np

from metalearn.core import InputError


class Interval(NamedTuple):
    """A mean and the half-width of its 95% confidence interval, with the number of values behind it."""

    mean: float
    half: float
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants of an interval

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half:.2g}"


def interval(values: np.ndarray) -> Interval:
    """Mean and 95% interval of independent values: Student's t over `len(values) - 1` degrees of freedom.

    The half-width is NaN for a single value. Non-finite values are not dropped: they show in the mean.
    Raises `InputError` where there is no value.

    >>> print(interval(np.array([1.0, 2.0, 3.0, 4.0])))
    2.5 ± 2.1
    """
    values = np.asarray(values, np.float64).ravel()
    if values.size == 0:
        raise InputError("interval needs at least one value, got none")
    if values.size < 2:
        return Interval(float(values.mean()), float("nan"), values.size)
    from scipy.stats import t  # scipy comes with jax

    with np.errstate(invalid="ignore"):  # an infinity shows in the result, and needs no warning beside it
        half = t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return Interval(float(values.mean()), float(half), values.size)


def paired(values: np.ndarray, reference: np.ndarray) -> Interval:
    """The mean difference of two methods on the same tasks, with the interval of the differences.

    Raises `InputError` where their shapes differ.
    """
    values, reference = np.asarray(values), np.asarray(reference)
    if values.shape != reference.shape:
        raise InputError(f"paired values need one shape, got {values.shape} and {reference.shape}")
    with np.errstate(invalid="ignore"):
        return interval(values - reference)
