"""What learning together is worth, task by task, beside learning alone; on the host.

Gains are positive where learning together is better: CAGrad's and Nash-MTL's papers report the same number as a drop.
"""

from collections.abc import Sequence

import numpy as np

from metalearn.core import InputError


def task_gains(together: np.ndarray, alone: np.ndarray, higher_is_better: Sequence[bool]) -> np.ndarray:
    """Relative gains in percent of every task (or metric), `[..., K]`: 100 (together - alone) / |alone|, with the sign
    turned where lower is better. `alone` are *tuned* single-task models.

    >>> print(task_gains(np.array([0.9, 2.0]), np.array([0.8, 2.5]), [True, False]))
    [12.5 20. ]

    Raises `InputError` where shapes do not fit, or learning alone reaches 0.
    """
    together, alone, better = np.asarray(together, float), np.asarray(alone, float), np.asarray(higher_is_better, bool)
    if together.shape[-1:] != better.shape or alone.shape[-1:] != better.shape:
        raise InputError(f"task_gains needs {len(better)} values each, got {together.shape} and {alone.shape}")
    if np.any(alone == 0):
        raise InputError("task_gains divides by what learning alone reaches, which is 0 for a task")
    return np.where(better, 1, -1) * 100 * (together - alone) / np.abs(alone)


def multi_task_gain(together: np.ndarray, alone: np.ndarray, higher_is_better: Sequence[bool]) -> np.ndarray:
    """Δm, the mean of `task_gains` over tasks, in percent (Maninis, Radosavovic, Kokkinos 2019, arXiv 1904.08918)."""
    return task_gains(together, alone, higher_is_better).mean(-1)


def negative_transfer(together: np.ndarray, alone: np.ndarray, higher_is_better: Sequence[bool]) -> np.ndarray:
    """How much every task loses by learning together, in percent `[..., K]`; 0 where it gains."""
    return np.maximum(-task_gains(together, alone, higher_is_better), 0)


def mean_rank(values: np.ndarray, higher_is_better: Sequence[bool]) -> np.ndarray:
    """Each method's rank over tasks, the mean of 1 for the best to M: `values` is `[M, K]`; equals share their ranks.

    >>> print(mean_rank(np.array([[0.9, 1.0], [0.8, 1.0], [0.7, 3.0]]), [True, False]))
    [1.25 1.75 3.  ]

    Raises `InputError` for other shapes.
    """
    from scipy.stats import rankdata

    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[1] != len(higher_is_better):
        raise InputError(f"mean_rank needs values [M, {len(higher_is_better)}], got {values.shape}")
    signed = np.where(np.asarray(higher_is_better, bool), -values, values)
    return rankdata(signed, axis=0).mean(1)
