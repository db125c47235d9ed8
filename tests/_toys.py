"""Small things that several test files share; nothing here is a test."""

import functools
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import Aux, Batch, Model, Task


@contextmanager
def float64(enable: bool = True):
    """Double precision inside (or single), and whatever it was before outside."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", enable)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def plain_mlp(*sizes: int, activation=jnp.tanh, dropout: float = 0.0) -> Model:
    """An (init, apply) pair in the default float, float64 where that is enabled; the last layer is `head`."""

    def init(key, x):
        widths = (x.shape[-1], *sizes)
        names = [f"hidden_{i}" for i in range(len(sizes) - 1)] + ["head"]
        keys = jax.random.split(key, len(sizes))
        return {
            name: {"kernel": jax.random.normal(k, (a, b)) / np.sqrt(a), "bias": jnp.zeros(b)}
            for name, k, a, b in zip(names, keys, widths[:-1], widths[1:], strict=True)
        }

    def apply(params, x, key=None):
        for i in range(len(sizes) - 1):
            layer = params[f"hidden_{i}"]
            x = activation(x @ layer["kernel"] + layer["bias"].reshape(1, -1))
            if key is not None and dropout:
                keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - dropout, x.shape)
                x = jnp.where(keep, x / (1 - dropout), 0)
        return x @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)

    return Model(init, apply)


def tiny_net(dropout: float = 0.0) -> Model:
    """Two inputs, three units, one output, and no biases; it begins at fixed numbers, and compiles fast."""

    def init(key, x):
        return {"body": jnp.array([[0.9, -0.4, 0.3], [0.2, 0.7, -1.1]]), "head": jnp.array([[0.8], [-0.5], [0.6]])}

    def apply(params, x, key=None):
        x = jnp.tanh(x @ params["body"])
        if key is not None and dropout:
            x = jnp.where(jax.random.bernoulli(key, 1 - dropout, x.shape), x / (1 - dropout), 0)
        return x @ params["head"]

    return Model(init, apply)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def regression_tasks(key, count: int, support: int = 4, query: int = 5, dim: int = 2, ids: bool = True) -> Task:
    """`count` noisy linear tasks, `x` `[count, n, dim]` and `y` `[count, n, 1]`."""
    x_key, w_key, noise_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (count, support + query, dim))
    w = jax.random.normal(w_key, (count, dim, 1))
    y = x @ w + 0.1 * jax.random.normal(noise_key, (count, support + query, 1))
    tasks = Task(Batch(x[:, :support], y[:, :support]), Batch(x[:, support:], y[:, support:]))
    return tasks._replace(id=jnp.arange(count, dtype=jnp.int32)) if ids else tasks


def quadratic_loss(params, batch, key):
    """½ (θ - c)ᵀ H (θ - c) + ½ b², H = diag(1, 2, …), where c is the batch's first row: every derivative is known."""
    centre = batch.x[0]
    curvature = jnp.arange(1.0, centre.shape[0] + 1)
    value = 0.5 * jnp.sum(curvature * (params["w"] - centre) ** 2) + 0.5 * jnp.sum(params["b"] ** 2)
    return value, Aux({})


def pad(batch: Batch, count: int, fill: float = 0.0) -> Batch:
    """The batch with `count` more rows that are not real."""

    def more(a):
        return jnp.concatenate([a, jnp.full((count, *a.shape[1:]), fill, a.dtype)])

    mask = jnp.ones(len(batch.x)) if batch.mask is None else batch.mask
    return Batch(more(batch.x), more(batch.y), jnp.concatenate([mask, jnp.zeros(count, mask.dtype)]))


def assert_close(actual, expected, rtol=1e-12, atol=1e-12):
    """Two trees of one structure and the same numbers."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


def distance(a, b) -> float:
    """The Euclidean distance of two trees, relative to the norm of the second."""
    flat = [jnp.concatenate([jnp.ravel(v) for v in jax.tree.leaves(tree)]) for tree in (a, b)]
    return float(jnp.linalg.norm(flat[0] - flat[1]) / jnp.linalg.norm(flat[1]))
