"""What a federation is judged by: how soon it is good, and for whom; on the host."""

from collections.abc import Sequence

import numpy as np

from metalearn.core import InputError


def rounds_to_target(rounds: Sequence[float], values: Sequence[float], target: float) -> float:
    """The round in which a curve first reaches `target`; infinity where it never does.

    As in McMahan et al. 2017 (arXiv 1602.05629): the curve is made monotone by taking the best value so far, and the
    crossing is interpolated between the two evaluations around it. Values that are not finite count as no progress.

    >>> rounds_to_target([10, 20, 30], [0.5, 0.4, 0.9], 0.7)
    25.0

    Raises `InputError` where rounds do not increase, or have not a value each.
    """
    at, heights = np.asarray(rounds, float), np.asarray(values, float)
    if at.ndim != 1 or at.shape != heights.shape or not at.size or np.any(np.diff(at) <= 0):
        raise InputError(f"rounds must increase, with a value each; got shapes {at.shape} and {heights.shape}.")
    best = np.maximum.accumulate(np.where(np.isfinite(heights), heights, -np.inf))
    if best[-1] < target:
        return float("inf")
    first = int(np.argmax(best >= target))
    if first == 0 or not np.isfinite(best[first - 1]):
        return float(at[first])
    share = (target - best[first - 1]) / (best[first] - best[first - 1])
    return float(at[first - 1] + share * (at[first] - at[first - 1]))


def worst(values: np.ndarray, share: float = 0.1) -> float:
    """The mean of the lowest `share` of clients' values `[K]`, of one client at least.

    >>> worst(np.array([0.9, 0.25, 0.5]), 0.5)
    0.375

    Raises `InputError` without a value, or for a share outside (0, 1].
    """
    values = np.sort(np.asarray(values, float).ravel())
    if not values.size or not 0 < share <= 1:
        raise InputError(f"worst needs a value at least and a share in (0, 1], got {values.size} and {share}.")
    return float(values[: max(1, int(np.ceil(share * values.size - 1e-9)))].mean())
