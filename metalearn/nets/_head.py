"""A linear head on the features of any model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metalearn.core import InputError, Model

_GLOROT = jax.nn.initializers.glorot_uniform()


def with_head(
    body: Model,
    num_outputs: int,
    *,
    kernel_init: Callable = _GLOROT,
    bias_init: Callable = jax.nn.initializers.zeros,
) -> Model:
    """`body`, whose outputs are features `[n, d]`, with a linear layer on top: outputs `[n, num_outputs]`.

    Parameters: `{"body": …, "head": {"kernel": [d, num_outputs], "bias": [num_outputs]}}`. Statistics, dropout and
    modes are the body's.

    Raises `InputError` where the body's outputs are not `[n, d]`.
    """

    def init(key, x):
        body_key, kernel_key, bias_key = jax.random.split(key, 3)
        params = body.init(body_key, x)
        features = jax.eval_shape(body.apply, params, x)
        if getattr(features, "ndim", None) != 2:
            raise InputError(f"with_head needs a body whose outputs are [n, d], but got {features}.")
        dtype = jnp.promote_types(features.dtype, jnp.float32)
        kernel = kernel_init(kernel_key, (features.shape[1], num_outputs), dtype)
        return {"body": params, "head": {"kernel": kernel, "bias": bias_init(bias_key, (num_outputs,), dtype)}}

    def linear(head, features):
        return features @ head["kernel"] + head["bias"].reshape(1, -1)

    def apply(params, x, key=None):
        return linear(params["head"], body.apply(params["body"], x, key))

    def train(params, x, key):
        features, statistics = body.train(params["body"], x, key)
        nothing = jax.tree.map(lambda _: None, params["head"])
        return linear(params["head"], features), {"body": statistics, "head": nothing}

    return Model(init, apply, train if body.train else None)
