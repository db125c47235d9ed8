"""A convolution of few numbers with batch norm folded into it: its outputs, a network's largest arrays, are never held.

How such a convolution's outputs are spread follows from the mean and the covariance of the patches, which are few; with
the norm a part of kernel and bias, ReLU and pooling come a few images at a time.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from metalearn.nets._conv import Conv, Padding, conv, even, in_pieces, patches_of
from metalearn.nets._norm import BatchNorm
from metalearn.nets._pool import max_pool

_FEW = 32  # numbers of a patch; the covariance has their square
_MANY = 4_000_000  # outputs, 16 MB, which are not made all at once
_ROWS = 12_800  # patches of one piece


def can_fold(layer: Conv, channels: int) -> bool:
    """Whether it pays for a layer that is given images of so many channels: measured on CPU alone."""
    return jax.default_backend() == "cpu" and layer.impl != "lax" and layer.kernel**2 * channels <= _FEW


def conv_norm_relu(x: jax.Array, layer: Conv, norm: BatchNorm, train: bool, pool: bool) -> jax.Array:
    """ReLU of `norm(layer(x), train)`, then perhaps 2×2 max pooling, whose numbers and derivatives it has up to
    rounding: `[n, H, W, C]` to `[n, H', W', F]`."""
    kernel, bias = layer.weights(x.shape[-1])
    bias = jnp.zeros(layer.features) if bias is None else bias
    how = (layer.strides, layer.padding)
    (mean, var), scale, offset = norm.weights(layer.features, lambda: moments(x, kernel, bias, *how), train)
    factor = lax.rsqrt(var + norm.epsilon)
    factor = factor if scale is None else factor * scale
    kernel, constant = kernel * factor.reshape(1, 1, 1, -1), (bias - mean) * factor + offset

    def some(images):
        y = jax.nn.relu(conv(images, kernel, *how) + constant.reshape(1, 1, 1, -1))
        return max_pool(y) if pool else y

    count, *places, filters = jax.eval_shape(lambda: conv(x, kernel, *how)).shape
    few = count * math.prod(places) * filters < _MANY
    return some(x) if few else in_pieces(some, x, even(count, _ROWS // math.prod(places)))


def moments(x: jax.Array, kernel: jax.Array, bias: jax.Array, strides: int, padding: Padding):
    """The mean and the (biased) variance `[F]` of each channel of `conv(x, kernel, strides, padding) + bias`: over all
    patches p they are kᵀ E[p] + b and kᵀ Cov[p] k. In float32 at least."""
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, kernel.dtype), jnp.float32)
    patches = patches_of(x.astype(dtype), kernel.shape[:2], strides, padding)
    rows, filters = patches.reshape(-1, patches.shape[-1]), kernel.astype(dtype).reshape(-1, kernel.shape[-1])
    mean = rows.mean(0)
    centred = rows - mean.reshape(1, -1)
    covariance = centred.T @ centred / len(rows)
    return mean @ filters + bias, (filters * (covariance @ filters)).sum(0)
