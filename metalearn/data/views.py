"""How a client sees its examples: functions `(x [n, ...], feature) -> x`, for feature shift between clients.

`clients(…, view=turned, features=quarters)` applies one to what is gathered of client k, with `features[k]`.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from metalearn.core import InputError
from metalearn.data.images import rotate


def turned(x: jax.Array, quarters: jax.Array) -> jax.Array:
    """Square images `[n, H, H, ...]` turned counterclockwise by `quarters` (an integer) times 90°, as `np.rot90` does.

    Rotated MNIST (Ghosh, Chung, Yin, Ramchandran 2020, arXiv 2006.04088) shows every image at four angles, to
    different clients; parts may overlap, so that takes no copy:

    >>> import numpy as np
    >>> from metalearn.data import clients, partitions
    >>> x, y = np.zeros((60, 28, 28, 1), np.uint8), np.zeros(60, np.int32)
    >>> parts = [part for angle in range(4) for part in partitions.iid(60, 3, seed=angle)]
    >>> population = clients(x, y, parts, view=turned, features=np.repeat(np.arange(4), 3))
    >>> population.sizes.sum(), population.x.shape
    (Array(240, dtype=int32), (60, 28, 28, 1))

    Raises `InputError` where images are not square or `quarters` no integers.
    """
    if x.ndim < 3 or x.shape[1] != x.shape[2] or not jnp.issubdtype(jnp.result_type(quarters), jnp.integer):
        raise InputError(
            f"turned needs square images [n, H, H, ...] and integer quarters, got {list(x.shape)} "
            f"and {jnp.result_type(quarters)}."
        )
    images = jnp.moveaxis(x, (1, 2), (-2, -1))
    images = rotate(images, jnp.broadcast_to(quarters % 4, images.shape[:-2]))
    return jnp.moveaxis(images, (-2, -1), (1, 2))


def rotated(x: jax.Array, degrees: jax.Array) -> jax.Array:
    """Images `[n, H, W, ...]` turned counterclockwise about their centre by `degrees`, a number.

    Pixels are interpolated linearly between the four around where they come from; beyond the border is 0. At multiples
    of 90° of a square image that is `turned`, but for rounding.

    Raises `InputError` where `x` is no floating-point images.
    """
    if x.ndim < 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"rotated needs floating-point images [n, H, W, ...], got {x.dtype}{list(x.shape)}.")
    middle = [(length - 1) / 2 for length in x.shape[1:3]]
    row, column = jnp.meshgrid(*(jnp.arange(x.shape[axis + 1]) - middle[axis] for axis in (0, 1)), indexing="ij")
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    source = [cos * row + sin * column + middle[0], cos * column - sin * row + middle[1]]
    planes = jnp.moveaxis(x, (1, 2), (-2, -1))
    flat = planes.reshape(-1, *x.shape[1:3])
    flat = jax.vmap(lambda plane: map_coordinates(plane, source, order=1, mode="constant"))(flat)
    return jnp.moveaxis(flat.reshape(planes.shape), (-2, -1), (1, 2))
