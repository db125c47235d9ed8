"""A multi-layer perceptron."""

import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from metalearn.arguments import number, whole
from metalearn.core import InputError
from metalearn.nets._norm import LayerNorm
from metalearn.nets._product import Dense


class MLP(nn.Module):
    """Dense layers with an activation between them: `x` `[n, ...]`, flattened to `[n, d]`, to `[n, features[-1]]`.

    The last layer is called `head`, those before it `hidden_0`, `hidden_1`, …; `dropout` is the rate after every
    hidden layer; `norm="layer"` puts layer normalisation, `norm_0`, …, before every activation. `kernel_init` is used
    in all layers, `head_init` (where given) in the last; biases begin at zero.

    Example:
      >>> regressor = MLP([40, 40, 1])
      >>> as_in_the_code_of_maml = MLP([40, 40, 1], kernel_init=nn.initializers.truncated_normal(0.01))

    MAML's code: github.com/cbfinn/maml, for Finn et al. 2017 (arXiv 1703.03400).

    Raises `InputError` where `features` is empty or has a width below 1, `dropout` is not in [0, 1), or `norm` is
    unknown.
    """

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    norm: str = "none"
    kernel_init: Callable = nn.initializers.lecun_normal()
    head_init: Callable | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if len(self.features) == 0:
            raise InputError("features is empty, but MLP needs one number of outputs at least.")
        for width in self.features:
            whole("every number of features", width)
        number("dropout", self.dropout, least=0, below=1)
        if self.norm not in ("none", "layer"):
            raise InputError(f"norm must be 'none' or 'layer', but is {self.norm!r}.")
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for i, size in enumerate(self.features[:-1]):
            x = Dense(size, kernel_init=self.kernel_init, name=f"hidden_{i}")(x)
            x = self.activation(LayerNorm(name=f"norm_{i}")(x) if self.norm == "layer" else x)
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Dense(self.features[-1], kernel_init=self.head_init or self.kernel_init, name="head")(x)
