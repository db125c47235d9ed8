"""Experts of one shape, and gates that mix them."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from metalearn.arguments import whole
from metalearn.core import Key, Model


def init_experts(expert: Model, count: int, key: Key, x: Any) -> Any:
    """Parameters of `count` experts, `[E, ...]`."""
    count = whole("the number of experts", count)
    return jax.vmap(expert.init, (0, None))(jax.random.split(key, count), x)


def run_experts(expert: Model, params: Any, x: Any, key: Key | None = None) -> jax.Array:
    """What every expert makes of the same input: `[E, n, ...]`."""
    if key is None:
        return jax.vmap(expert.apply, (0, None))(params, x)
    keys = jax.random.split(key, jax.tree.leaves(params)[0].shape[0])
    return jax.vmap(expert.apply, (0, None, 0))(params, x, keys)


def init_gate(x: jax.Array, count: int) -> jax.Array:
    """A gate's weights, `[d, E]`, 0 for an equal mixture."""
    return jnp.zeros((math.prod(x.shape[1:]), count), jnp.result_type(float))


def gate(weights: jax.Array, x: jax.Array, outputs: jax.Array) -> jax.Array:
    """Experts' `outputs` `[E, n, ...]` mixed by the softmax of the flattened input times `weights`: `[n, ...]`."""
    shares = jax.nn.softmax(x.reshape(len(x), -1) @ weights)
    return jnp.einsum("ne,en...->n...", shares, outputs)
