"""A metric as three functions, so that it streams: of every batch its parts, merged two by two, then one number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from metalearn.core import Batch, InputError


def _added(first, second):
    return jax.tree.map(jnp.add, first, second)


@dataclass(frozen=True)  # no named tuple: `jax.jit` of a callable one crashes, for it cannot be weakly referenced
class Metric:
    """`each(outputs, batch) -> parts`, any tree; `merge(parts, parts) -> parts` of both, a sum unless given; and
    `finish(parts) -> value`. `metric(outputs, batch)` is the metric of one batch.

    Examples with `batch.mask` 0 count for nothing.

    >>> from metalearn.metrics import mae
    >>> first = mae.each(jnp.array([1.0, 2.0]), Batch(None, jnp.array([1.0, 4.0])))
    >>> second = mae.each(jnp.array([0.0]), Batch(None, jnp.array([4.0])))
    >>> float(mae.finish(mae.merge(first, second)))
    2.0
    """

    each: Callable[[Any, Batch], Any]
    finish: Callable[[Any], jax.Array]
    merge: Callable[[Any, Any], Any] = _added

    def __call__(self, outputs: Any, batch: Batch) -> jax.Array:
        return self.finish(self.each(outputs, batch))


def real(batch: Batch, like: jax.Array) -> jax.Array:
    """Which examples are real, as numbers that broadcast against `like` `[n, ...]`."""
    mask = jnp.ones(like.shape[:1], bool) if batch.mask is None else batch.mask > 0
    return jnp.broadcast_to(mask.reshape(-1, *[1] * (like.ndim - 1)), like.shape)


def same_shape(name: str, outputs: jax.Array, targets: jax.Array) -> None:
    """Refuses outputs and targets that would broadcast."""
    if outputs.shape != targets.shape:
        raise InputError(f"{name} needs outputs and targets of one shape, got {outputs.shape} and {targets.shape}")


def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """a / b, and 0 where b is 0, as scikit-learn has it."""
    return jnp.where(b != 0, a / jnp.where(b != 0, b, 1), 0)
