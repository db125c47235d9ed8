"""Normalisation layers, computed in float32 at least."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, `[n, ..., C]`.

    `running=False`: always by the statistics of the batch at hand, in evaluation too (transductive), and no state is
    kept. `running=True`: by the batch in training, in evaluation by running averages, which training moves to
    `momentum * old + (1 - momentum) * batch` (Flax's convention: PyTorch's momentum .1 is .9 here). The variance is
    the biased one in both places, as in Flax and TensorFlow; PyTorch keeps the unbiased one in its running average.

    Parameters: `scale` `[C]` (with `use_scale`) and `bias` `[C]`. Running averages: `mean` and `var` `[C]`, in the
    collection `batch_stats`.
    """

    running: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        shape = (1,) * (x.ndim - 1) + (-1,)
        (mean, var), scale, bias = self.weights(x.shape[-1], lambda: _moments(x, tuple(range(x.ndim - 1))), train)
        if self.running and not train:
            y = _normalise(x, mean.reshape(shape), var.reshape(shape), self.epsilon)
        else:
            y = _standard(x, self.epsilon)
        return _affine(y, scale, bias, x)

    @nn.compact
    def weights(self, channels: int, moments: Callable[[], Any], train: bool = False):
        """((mean, variance), scale or None, bias) for inputs of so many channels, where something else is done with
        them: the running averages in evaluation, else those of the batch, `moments()`, which move the running ones."""
        found = () if self.running and not train else moments()
        if self.running:
            names, starts = ("mean", "var"), (jnp.zeros, jnp.ones)
            kept = [self.variable("batch_stats", *pair, channels, jnp.float32) for pair in zip(names, starts)]
            if found and not self.is_initializing():
                for one, new in zip(kept, found, strict=True):
                    one.value = self.momentum * one.value + (1 - self.momentum) * lax.stop_gradient(new).reshape(-1)
            found = found or tuple(one.value for one in kept)
        return found, *_scale_and_bias(self, channels)


class LayerNorm(nn.Module):
    """Layer normalisation of every example over all its axes, `[n, ..., C]`, with a `scale` and `bias` a channel."""

    epsilon: float = 1e-5
    use_scale: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _normalise(x, *_moments(x, tuple(range(1, x.ndim))), self.epsilon)
        return _affine(y, *_scale_and_bias(self, x.shape[-1]), x)


def _moments(x, axes):
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


@jax.custom_jvp
def _standard(x, epsilon):
    """`x` less its mean over its deviation, channel by channel. With a derivative of its own: the one through mean and
    variance keeps twice as many arrays of this size, and sums over them once more."""
    return _normalise(x, *_moments(x, tuple(range(x.ndim - 1))), epsilon)


@_standard.defjvp
def _(primals, tangents):
    (x, epsilon), (dx, depsilon) = primals, tangents
    axes = tuple(range(x.ndim - 1))
    mean, var = _moments(x, axes)
    rate = lax.rsqrt(var + epsilon)
    y, dx = (x.astype(mean.dtype) - mean) * rate, dx.astype(mean.dtype)
    slope = (y * dx).mean(axes, keepdims=True) + 0.5 * rate * depsilon
    return y, rate * (dx - dx.mean(axes, keepdims=True) - y * slope)


def _normalise(x, mean, var, epsilon):
    return (x.astype(mean.dtype) - mean) * lax.rsqrt(var + epsilon)


def _scale_and_bias(module, channels):
    scale = module.param("scale", nn.initializers.ones, (channels,)) if module.use_scale else None
    return scale, module.param("bias", nn.initializers.zeros, (channels,))


def _affine(y, scale, bias, x):
    shape = (1,) * (x.ndim - 1) + (-1,)
    y = y if scale is None else y * scale.reshape(shape)
    return (y + bias.reshape(shape)).astype(jnp.promote_types(x.dtype, jnp.float32))
