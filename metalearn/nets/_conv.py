"""A convolution that stays fast on CPU when every task has its own weights.

A convolution mapped over its weights becomes a grouped one, and inside any loop XLA's CPU backend leaves its fast
path; both cost about an order of magnitude. A matrix product suffers from neither.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from metalearn.core import InputError
from metalearn.nets._product import product

_MANY = 4_000_000  # numbers in the patches of all images, 16 MB
_ROWS = 1_600  # patches of one matrix product
_LARGE = 5  # kernels of this size, from few channels to few filters, are laid over tiles of two by two
_TILED = 20
_TILES = 6_400  # of one matrix product

Padding = str | int | Sequence[tuple[int, int]]


def conv(x: jax.Array, kernel: jax.Array, strides: int = 1, padding: Padding = "SAME", impl: str | None = None):
    """Convolve images with a kernel: `[n, H, W, C]` and `[k, l, C, F]` to `[n, H', W', F]`.

    `padding` is "SAME" (as TensorFlow and JAX pad: what is odd goes to the end), "VALID", one number for every side
    (as PyTorch pads; with strides 2 it differs from "SAME"), or a pair of numbers for each of height and width.

    `impl` is "patches" (patches as rows, then one matrix product), "lax" (`jax.lax.conv_general_dilated`), or None:
    patches on CPU, lax elsewhere. Both give the same numbers and derivatives, up to rounding.

    Raises `InputError` where the shapes do not fit, or `padding` or `impl` is unknown.
    """
    if x.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        expected = f"[n, height, width, {kernel.shape[2]}]"
        raise InputError(f"conv takes images of shape {expected}, but x has shape {list(x.shape)}.")
    impl = impl or ("patches" if jax.default_backend() == "cpu" else "lax")
    if impl not in ("patches", "lax"):
        raise InputError(f'impl is {impl!r}, but must be "patches", "lax" or None.')
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    sides = _pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    padded = [size + sum(pads) for size, pads in zip(x.shape[1:3], sides)]
    if any(size < window for size, window in zip(padded, kernel.shape)):
        raise InputError(f"a window of {list(kernel.shape[:2])} does not fit into padded images of {padded}.")
    if impl == "lax":
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (strides, strides), sides, dimension_numbers=dimensions)

    if strides == 1 and min(kernel.shape[:2]) >= _LARGE and max(kernel.shape[2:]) <= _TILED:
        return _by_tiles(x, kernel, sides)
    return _by_windows(x, kernel, strides, sides, _at_once(x.shape, kernel.shape, strides))


def general(lhs, rhs, window_strides, padding, lhs_dilation=None, rhs_dilation=None, **options):
    """`jax.lax.conv_general_dilated`, done by `conv` where that can: images with channels last, one stride, no
    dilation, no groups. What Flax's layers call in place of it."""
    last = ("NHWC", "HWIO", "NHWC")
    given, *others = options.pop("dimension_numbers", None), *options.values()
    plain = lhs.ndim == 4 and lax.conv_dimension_numbers(lhs.shape, rhs.shape, given) == lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, last
    )
    dilated = any(step != 1 for steps in (lhs_dilation, rhs_dilation) for step in steps or ())
    asked = any(other not in (None, 1) for other in others)  # groups, a precision, a type
    if plain and not dilated and not asked and len(set(window_strides)) == 1:
        return conv(lhs, rhs, window_strides[0], padding)
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers=given, **options
    )


class Conv(nn.Module):
    """A convolution with a bias, `[n, H, W, C]` to `[n, H', W', features]`; see `conv` for `padding` and `impl`.

    Parameters: `kernel` `[kernel, kernel, C, features]` and, with `use_bias`, `bias` `[features]`.
    """

    features: int
    kernel: int = 3
    strides: int = 1
    padding: Padding = "SAME"
    impl: str | None = None
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.glorot_uniform()
    bias_init: Callable = nn.initializers.zeros

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.weights(x.shape[-1])
        y = conv(x, kernel, self.strides, self.padding, self.impl)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Kernel and bias for images of so many channels, where something else is done with them."""
        kernel = self.param("kernel", self.kernel_init, (self.kernel, self.kernel, channels, self.features))
        return kernel, self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None


def _pads(sizes, windows, strides, padding) -> list[tuple[int, int]]:
    if isinstance(padding, int):
        return [(padding, padding)] * 2
    if not isinstance(padding, str):
        return [(int(low), int(high)) for low, high in padding]
    if padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
        raise InputError(
            f'padding is {padding!r}, but must be "SAME", "SAME_LOWER", "VALID", a number or two pairs of numbers.'
        )
    return lax.padtype_to_pads(sizes, windows, (strides, strides), padding.upper())


def _by_windows(x, kernel, strides, sides, at_once):
    """Every window as a row of a matrix, so many images at a time."""

    def some(images):
        patches = _patches(images, kernel.shape[:2], strides, sides)
        rows = product(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, kernel.shape[-1]))
        return rows.reshape(*patches.shape[:-1], kernel.shape[-1])

    return in_pieces(some, x, at_once)


def in_pieces(some: Callable[[jax.Array], jax.Array], images: jax.Array, at_once: int) -> jax.Array:
    """`some(images)` for `at_once` of them at a time; each piece is computed once more in the backward pass, which is
    faster than to keep its patches."""
    count = images.shape[0]
    if at_once >= count:
        return some(images)
    full = count // at_once * at_once
    y = lax.map(jax.checkpoint(some, prevent_cse=False), images[:full].reshape(-1, at_once, *images.shape[1:]))
    y = y.reshape(full, *y.shape[2:])
    return y if full == count else jnp.concatenate([y, some(images[full:])])


def _by_tiles(x, kernel, sides, side=2):
    """The same where there is little to multiply and much to copy: the pixels of a tile become channels, so that a
    patch is fewer and longer pieces, and the kernel, laid over every place of a tile, is smaller and has some zeros.
    Pooling by two then finds its windows as they are.

    In pieces, because what was computed before a loop is not computed anew for each place of a window.
    """
    count, *shape, channels = x.shape
    *lengths, _, filters = kernel.shape
    sizes = [n + sum(pads) - length + 1 for n, pads, length in zip(shape, sides, lengths)]
    tiles = [-(-size // side) for size in sizes]
    windows = [-(-(side + length - 1) // side) for length in lengths]  # in tiles
    rows, columns = (n + window - 1 for n, window in zip(tiles, windows))
    around = [(low, side * n - low - size, 0) for (low, _), n, size in zip(sides, (rows, columns), shape)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *around, (0, 0, 0)))
    x = x.reshape(count, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(count, rows, columns, -1)
    wide = over_tiles(kernel, windows, side).reshape(*windows, x.shape[-1], -1)
    y = _by_windows(x, wide, 1, [(0, 0), (0, 0)], even(count, _TILES // math.prod(tiles)))
    y = y.reshape(count, *tiles, side, side, filters).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(count, *(side * n for n in tiles), filters)[:, : sizes[0], : sizes[1]]


def over_tiles(kernel: jax.Array, windows: Sequence[int], side: int) -> jax.Array:
    """The kernel laid over every place of a tile, `[k, l, C, F]` to `[·, 4 F]`, its rows as those of the patches."""
    height, width, channels, _ = kernel.shape
    room = [window * side - length for window, length in zip(windows, (height, width))]
    laid = [
        jnp.pad(kernel, ((i, room[0] - i), (j, room[1] - j), (0, 0), (0, 0))) for i in range(side) for j in range(side)
    ]
    wide = jnp.concatenate(laid, -1).reshape(windows[0], side, windows[1], side, channels, -1)
    return wide.transpose(0, 2, 1, 3, 4, 5).reshape(-1, wide.shape[-1])


def _at_once(images, kernel, strides):
    """How many images' patches are made at a time: all while they are few, else as many as a cache holds."""
    count, places = images[0], math.prod(math.ceil(size / strides) for size in images[1:3])
    return count if count * places * math.prod(kernel[:3]) < _MANY else even(count, _ROWS // places)


def even(count: int, most: int) -> int:
    """The largest number up to `most`, from its half on, of which `count` is a multiple, or else `most`."""
    most = min(count, max(1, most))
    return next((even for even in range(most, most // 2, -1) if count % even == 0), most)


def patches_of(x: jax.Array, windows: Sequence[int], strides: int = 1, padding: Padding = "SAME") -> jax.Array:
    """Every window as a row: `[n, H, W, C]` to `[n, H', W', k * l * C]`, in the order of a kernel `[k, l, C, F]`."""
    return _patches(x, windows, strides, _pads(x.shape[1:3], windows, strides, padding))


def _patches(x, windows, strides, sides):
    return jnp.concatenate(_shifts(x, windows, strides, sides), axis=-1)


def _shifts(x, windows, strides, sides):
    """The images under each place of a window, `[n, H', W', C]`."""
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in sides), (0, 0, 0)))
    height, width = ((size - window) // strides + 1 for size, window in zip(x.shape[1:3], windows, strict=True))

    def shifted(i, j):
        stop = (x.shape[0], i + (height - 1) * strides + 1, j + (width - 1) * strides + 1, x.shape[3])
        return lax.slice(x, (0, i, j, 0), stop, (1, strides, strides, 1))

    return [shifted(i, j) for i in range(windows[0]) for j in range(windows[1])]
