"""Overlap of boxes: detection."""

import jax
import jax.numpy as jnp

from metalearn.core import InputError
from metalearn.metrics._metric import ratio


def box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boxes `[n, 4]` and `[m, 4]`, as left, top, right, bottom: `[n, m]`.

    >>> print(box_iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0]])))
    [[0.14285715 0.        ]]

    Raises `InputError` for other shapes.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != 4 or b.shape[1] != 4:
        raise InputError(f"box_iou needs boxes [n, 4] and [m, 4], got {a.shape} and {b.shape}")

    def area(box):
        return jnp.prod(jnp.maximum(box[..., 2:] - box[..., :2], 0), -1)

    low = jnp.maximum(a[:, None, :2], b[None, :, :2])
    high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    common = jnp.prod(jnp.maximum(high - low, 0), -1)
    return ratio(common, area(a)[:, None] + area(b)[None] - common)
