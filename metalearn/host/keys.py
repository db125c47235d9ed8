"""Typed keys as the numbers that they are, which files can hold and collectives can carry."""

from typing import Any

import jax
import jax.numpy as jnp


def is_key(leaf: Any) -> bool:
    """Whether a leaf, or the shape of one, is of typed keys."""
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def numbers(leaf: Any) -> Any:
    """A key's numbers, or their shape where that is given; every other leaf as it is."""
    if not is_key(leaf):
        return leaf
    data = jax.random.key_data
    return data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(data, leaf)


def like(value: Any, leaf: Any) -> Any:
    """Numbers as the key that `leaf` is; as they are where it is none."""
    if not is_key(leaf):
        return value
    return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(jnp.empty((), leaf.dtype)))
