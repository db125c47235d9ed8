"""Max pooling by comparisons."""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

_COMPARED = 20  # channels up to which pooling goes through comparisons, whose derivative is then the faster


def max_pool(x: jax.Array, window: int = 2) -> jax.Array:
    """The maximum over windows that do not overlap: `[n, H, W, C]` to `[n, H // window, W // window, C]`.

    Rows and columns that do not fill a window are dropped. Twice differentiable, and fast inside loops, which
    `lax.reduce_window` is not; at a tie the first of a window has the derivative.
    """
    n, height, width, channels = x.shape
    height, width = height // window, width // window
    x = x[:, : height * window, : width * window].reshape(n, height, window, width, window, channels)
    return largest(x, (2, 4)) if channels > _COMPARED else _largest_by_axis(x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The maximum over `axes`, in rising order; NaN is the largest, and at a tie the first has the derivative. That is
    by its place: the one through comparisons puts what comes back into gaps, one comparison after another."""
    return _best_and_place(x, axes)[0]


@largest.defjvp
def _(axes, primals, tangents):
    (x,), (dx,) = primals, tangents
    best, place = _best_and_place(x, axes)
    here = jnp.arange(math.prod(x.shape[axis] for axis in axes), dtype=place.dtype)
    here = here.reshape([size if axis in axes else 1 for axis, size in enumerate(x.shape)])
    return best, jnp.where(jnp.expand_dims(place, axes) == here, dx, 0).sum(axes)


def _best_and_place(x, axes):
    # by comparisons: where a compiler computes a maximum twice, rounded differently, no entry equals it
    windows = [range(size) if axis in axes else [slice(None)] for axis, size in enumerate(x.shape)]
    best, *others = (x[place] for place in itertools.product(*windows))
    place = jnp.zeros(best.shape, jnp.int16)
    for k, other in enumerate(others, 1):
        larger = _above(other, best)
        best, place = jnp.where(larger, other, best), jnp.where(larger, jnp.int16(k), place)
    return best, place


def _largest_by_axis(x):
    for axis in (4, 2):
        best, *others = (lax.index_in_dim(x, i, axis) for i in range(x.shape[axis]))
        for other in others:
            best = jnp.where(_above(other, best), other, best)
        x = best
    return x[:, :, 0, :, 0]


def _above(other, best):
    return (other > best) | jnp.isnan(other)  # what is not finite must be seen, not pooled away
