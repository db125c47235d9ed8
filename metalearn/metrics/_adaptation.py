"""How fast and how well a learner adapts, from its query scores after 0…T steps; on the host.

Meta-accuracy and meta-loss are what papers report (Finn et al. 2017, arXiv 1703.03400, and others since); papers show
adaptation as curves, so how time and efficiency are read off these is this library's own definition.
"""

import numpy as np

from metalearn.arguments import number, whole
from metalearn.core import InputError


def _curves(values):
    values = np.asarray(values, float)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise InputError(f"an adaptation curve needs values after 0…T steps, [..., T + 1], got {values.shape}")
    return values


def adaptation_time(values: np.ndarray, share: float = 0.95, *, seconds_per_step: float | None = None) -> np.ndarray:
    """Steps until `share` of the final query gain, or loss, is reached, `[...]`.

    The first t with v_t - v_0 at least that share of v_T - v_0, for scores `[..., T + 1]` that rise or fall; where
    nothing is gained at all it is 0, where adaptation makes things worse it is how soon, and NaN where the end is not
    finite. With `seconds_per_step`, in seconds.

    >>> print(adaptation_time(np.array([0.2, 0.8, 0.97, 1.0])))
    2.0

    Raises `InputError` for a curve of fewer than two values, or a share outside (0, 1].
    """
    values = _curves(values)
    number("share", share, above=0, most=1)
    with np.errstate(invalid="ignore"):
        gain = values[..., -1:] - values[..., :1]
        reached = (values - values[..., :1]) * np.sign(gain) >= share * np.abs(gain)
    steps = np.where(np.isfinite(gain[..., 0]), np.argmax(reached, -1), np.nan)
    return steps if seconds_per_step is None else steps * seconds_per_step


def adaptation_efficiency(values: np.ndarray, num_support: int) -> np.ndarray:
    """Query gain per support example and step, `[...]`: (v_T - v_0) / (n T), for scores `[..., T + 1]`; of a loss that
    falls it is negative.

    >>> print(adaptation_efficiency(np.array([0.2, 0.6, 1.0]), num_support=4))
    0.1

    Raises `InputError` for a curve of fewer than two values, or fewer than one example.
    """
    values = _curves(values)
    return (values[..., -1] - values[..., 0]) / (whole("num_support", num_support) * (values.shape[-1] - 1))


def meta_accuracy(accuracies: np.ndarray) -> float:
    """The mean query accuracy after adaptation over unseen tasks, from `[K]` or, after 0…T steps, `[K, T + 1]`."""
    return _last(accuracies)


def meta_loss(losses: np.ndarray) -> float:
    """The mean query loss after adaptation over unseen tasks, from `[K]` or, after 0…T steps, `[K, T + 1]`."""
    return _last(losses)


def _last(values):
    values = np.asarray(values, float)
    if not values.size or values.ndim not in (1, 2):
        raise InputError(f"values of tasks must be [K] or [K, T + 1], got {values.shape}")
    return float((values if values.ndim == 1 else values[:, -1]).mean())
