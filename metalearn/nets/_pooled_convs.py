"""Convolutions of few channels, each with pooling and ReLU, that stay fast on CPU.

With few channels there is little to multiply and much to move. Here images come last, so that whatever is moved,
compared or added lies in long rows, and the pixels of two by two tiles are channels: a patch is 36 numbers a channel in
place of 100 for kernels of 5, and one product makes all four outputs of a pooling window, as four arrays.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from metalearn.nets._conv import conv, even, in_pieces, over_tiles
from metalearn.nets._pool import largest, max_pool

_FEW = 20  # channels; with more the products weigh, and a kernel laid over tiles is 1.44 times as large
_IMAGES = 256  # at a time: what lies between the layers then fits into a cache


def pooled_convs(x: jax.Array, layers: Sequence[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Convolutions without padding, each followed by 2×2 max pooling and ReLU: `[n, H, W, C]` to `[n, H', W', F]`.

    `layers` holds a kernel `[k, l, C, F]` and a bias `[F]` for each. Rows and columns that do not fill a window are
    dropped; at a tie the first of a window has the derivative. Twice differentiable. Raises `InputError` where the
    shapes do not fit.
    """
    shapes = jax.eval_shape(_plainly, x, layers)  # refuses what does not fit
    few = all(max(kernel.shape[2:]) <= _FEW for kernel, _ in layers)
    if not few or not math.prod(shapes.shape) or jax.default_backend() != "cpu":
        return _plainly(x, layers)
    return in_pieces(lambda images: _images_last(images, layers), x, even(x.shape[0], _IMAGES))


def _plainly(x, layers):
    for kernel, bias in layers:
        x = jax.nn.relu(max_pool(conv(x, kernel, padding="VALID")) + bias.reshape(1, 1, 1, -1))
    return x


def _images_last(x, layers):
    x = x.transpose(3, 1, 2, 0)
    for kernel, bias in layers:
        x = jax.nn.relu(_tiled(x, kernel) + bias.reshape(-1, 1, 1, 1))
    return x.transpose(3, 1, 2, 0)


def _tiled(x, kernel, side=2):
    """Convolution and pooling, `[C, H, W, n]` to `[F, H', W', n]`."""
    channels, *sizes, count = x.shape
    *lengths, _, filters = kernel.shape
    pooled = [(size - length + 1) // side for size, length in zip(sizes, lengths)]
    windows = [-(-(side + length - 1) // side) for length in lengths]  # in tiles
    tiles = [size + window - 1 for size, window in zip(pooled, windows)]
    cut = [(0, side * tile - size, 0) for tile, size in zip(tiles, sizes)]  # or padded, where below 0 or above
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *cut, (0, 0, 0)))
    x = x.reshape(channels, tiles[0], side, tiles[1], side, count).transpose(2, 4, 0, 1, 3, 5)
    x = x.reshape(-1, *tiles, count)
    places = [(i, j) for i in range(windows[0]) for j in range(windows[1])]
    patches = jnp.concatenate([x[:, i : i + pooled[0], j : j + pooled[1]] for i, j in places])
    wide = over_tiles(kernel, windows, side)
    y = wide.T @ patches.reshape(wide.shape[0], -1)
    return largest(y.reshape(side * side, filters, *pooled, count), (0,))
