"""Four convolutional blocks: the network of most few-shot papers."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY

import jax
from flax import linen as nn

from metalearn.core import InputError
from metalearn.nets._conv import Conv, Padding, conv
from metalearn.nets._folded import can_fold, conv_norm_relu
from metalearn.nets._norm import BatchNorm, LayerNorm
from metalearn.nets._pool import max_pool
from metalearn.nets._product import Dense

_NORMS = ("batch", "running", "layer", "none")
_HEADS = ("mean", "flatten", "none")


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, norm, ReLU and perhaps 2x2 max pooling; images `[n, H, W, C]` or `[n, H, W]`.

    `norm`: "batch" normalises by the batch at hand always, in evaluation too (transductive); "running" by running
    averages in evaluation; "layer" every example by itself; "none". `scale`: whether the norm has a factor (gamma)
    beside its offset. `head`: "mean" averages over space and "flatten" does not, then a linear layer gives
    `[n, num_outputs]`; "none" gives the flattened features, `[n, d]`. `dropout` is the rate after every block.
    `momentum` and `epsilon` are the norm's, see `BatchNorm`; `padding` and `impl` are those of `conv`.

    The last linear layer is called `head`, the blocks `block_0` to `block_3`, each with `conv` and `norm`.

    What the papers' own code uses on Omniglot (28x28), its `norm` and `head` among the options above:

        paper     strides  pool   norm       scale  epsilon  head       initial weights
        MAML      2        False  "batch"    False  1e-3     "mean"     Glorot uniform; head normal, deviation 1
        Reptile   2        False  "batch"    True   1e-3     "flatten"  Glorot uniform
        ProtoNet  1        True   "running"  True   1e-5     "none"     variance_scaling(1/3, fan-in, uniform)

    Finn et al. 2017 (arXiv 1703.03400), Nichol et al. 2018 (1803.02999), Snell et al. 2017 (1703.05175). MAML's code
    does not adapt the norm's offsets in the inner loop; here they are parameters like all others, to be left out
    by `where`.

    Example:
      >>> maml = Conv4(5, scale=False, head_init=nn.initializers.normal(1.0))
      >>> reptile = Conv4(5, head="flatten")
      >>> torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
      >>> protonet = Conv4(
      ...     norm="running", strides=1, pool=True, head="none", epsilon=1e-5, kernel_init=torch_uniform
      ... )

    Raises `InputError` where `norm` or `head` is unknown, `num_outputs` is missing, or images are too small.
    """

    num_outputs: int | None = None
    _: KW_ONLY
    features: int = 64
    norm: str = "batch"
    strides: int = 2
    pool: bool = False
    head: str = "mean"
    scale: bool = True
    dropout: float = 0.0
    momentum: float = 0.9
    epsilon: float = 1e-3
    padding: Padding = "SAME"
    impl: str | None = None
    kernel_init: Callable = nn.initializers.glorot_uniform()
    head_init: Callable = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        self._check(x)
        x = x if x.ndim == 4 else x[..., None]
        for i in range(4):
            x = _Block(
                features=self.features,
                norm=self.norm,
                strides=self.strides,
                pool=self.pool,
                scale=self.scale,
                dropout=self.dropout,
                momentum=self.momentum,
                epsilon=self.epsilon,
                padding=self.padding,
                impl=self.impl,
                kernel_init=self.kernel_init,
                name=f"block_{i}",
            )(x, train)
        if self.head == "mean":
            x = x.mean((1, 2))
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        if self.head == "none":
            return x
        return Dense(self.num_outputs or 0, kernel_init=self.head_init, name="head")(x)

    def _check(self, x):
        if self.norm not in _NORMS:
            raise InputError(f"norm is {self.norm!r}, but must be one of {', '.join(_NORMS)}.")
        if self.head not in _HEADS:
            raise InputError(f"head is {self.head!r}, but must be one of {', '.join(_HEADS)}.")
        if self.num_outputs is None and self.head != "none":
            raise InputError(f'num_outputs is missing, which head="{self.head}" needs; head="none" gives features.')
        if x.ndim not in (3, 4):
            raise InputError(f"Conv4 takes images [n, H, W, C] or [n, H, W], but x has shape {list(x.shape)}.")


class _Block(nn.Module):
    features: int
    norm: str
    strides: int
    pool: bool
    scale: bool
    dropout: float
    momentum: float
    epsilon: float
    padding: Padding
    impl: str | None
    kernel_init: Callable

    @nn.compact
    def __call__(self, x, train):
        layer = Conv(self.features, 3, self.strides, self.padding, self.impl, kernel_init=self.kernel_init, name="conv")
        kernel, _ = layer.weights(x.shape[-1])
        shape = jax.eval_shape(lambda: conv(x, kernel, self.strides, self.padding, self.impl)).shape
        if self.pool and min(shape[1:3]) < 2:
            raise InputError(f"pool needs images of 2x2 at least in every block, but got {shape[1]}x{shape[2]}.")
        if self.norm in ("batch", "running"):
            norm = BatchNorm(self.norm == "running", self.momentum, self.epsilon, self.scale, name="norm")
            if can_fold(layer, x.shape[-1]):
                x = conv_norm_relu(x, layer, norm, train, self.pool)
                return nn.Dropout(self.dropout)(x, deterministic=not train)
            x = norm(layer(x), train)
        else:
            x = layer(x)
            x = LayerNorm(self.epsilon, self.scale, name="norm")(x) if self.norm == "layer" else x
        x = nn.relu(x)
        x = max_pool(x) if self.pool else x
        return nn.Dropout(self.dropout)(x, deterministic=not train)
