"""The matrix product of a layer, and the dense layer made of it."""

from functools import partial
from typing import Any

import jax
from flax import linen as nn
from jax import lax

from metalearn.tree import narrow

_MANY = 128  # rows


def product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    """`rows @ kernel`, `[n, d]` and `[d, F]`.

    The kernel's derivative has the shape of the kernel, and XLA's CPU backend is slow at a product with more rows than
    columns: up to four times for few outputs, twice for many rows. There a barrier keeps it the other way round; with
    few rows and many outputs turning the kernel itself would cost more.
    """
    inputs, outputs = kernel.shape
    many = outputs < inputs and rows.shape[0] >= _MANY and jax.default_backend() == "cpu"
    if many or narrow(kernel.shape):
        return rows @ lax.optimization_barrier(kernel.T).T
    return rows @ kernel


def _dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None, **options: Any):
    if x.ndim != 2 or precision is not None:
        return lax.dot_general(x, kernel, dimension_numbers, precision=precision, **options)
    return product(x, kernel)


Dense = partial(nn.Dense, dot_general=_dot_general)
"""Flax's dense layer on `product`."""
