"""Convolutions of few channels with pooling: the numbers and derivatives of one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import InputError
from metalearn.nets._pooled_convs import _plainly, pooled_convs


def layers(key, *shapes):
    keys = jax.random.split(key, (len(shapes), 2))
    return [(jax.random.normal(k, shape) / 4, jax.random.normal(b, shape[-1:])) for (k, b), shape in zip(keys, shapes)]


@pytest.mark.parametrize(
    ("images", "shapes"),
    [
        ((3, 28, 28, 1), [(5, 5, 1, 10), (5, 5, 10, 20)]),
        ((2, 36, 36, 1), [(9, 9, 1, 3), (5, 5, 3, 2)]),
        ((1, 13, 16, 3), [(3, 4, 3, 2)]),  # a row too many, and an even kernel
        ((2, 10, 9, 2), [(2, 1, 2, 2), (1, 2, 2, 3)]),
        ((300, 6, 6, 1), [(3, 3, 1, 2)]),  # in two pieces
        ((257, 5, 5, 1), [(2, 2, 1, 2)]),  # a prime number of images: one is left over
        ((0, 8, 8, 1), [(3, 3, 1, 2)]),
    ],
)
def test_the_same_as_one_after_the_other(key, images, shapes):
    x, weights = jax.random.normal(key, images), layers(key, *shapes)

    def both(fn):
        def loss(x, weights):
            y = fn(x, weights)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, weights)

    for ours, theirs in zip(*(jax.tree.leaves(both(fn)) for fn in (pooled_convs, _plainly)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_weights_of_their_own_for_every_task(key):
    x = jax.random.normal(key, (3, 4, 12, 12, 2))
    weights = jax.vmap(lambda k: layers(k, (5, 5, 2, 3)))(jax.random.split(key, 3))
    one_by_one = jnp.stack([_plainly(x[k], jax.tree.map(lambda a: a[k], weights)) for k in range(3)])  # noqa: B023
    np.testing.assert_allclose(jax.vmap(pooled_convs)(x, weights), one_by_one, rtol=1e-5, atol=1e-5)


def test_twice_differentiable(key):
    x, weights = jax.random.normal(key, (2, 6, 6, 1)), layers(key, (3, 3, 1, 2))

    def second(fn):
        def loss(weights):
            return (fn(x, weights) ** 3).mean()

        return jax.jvp(jax.grad(loss), (weights,), (jax.tree.map(jnp.ones_like, weights),))[1]

    for ours, theirs in zip(*(jax.tree.leaves(second(fn)) for fn in (pooled_convs, _plainly)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_ties_and_what_is_not_finite(key):
    kernel, bias = jnp.ones((1, 1, 1, 1)), jnp.zeros(1)
    grad = jax.grad(lambda x: pooled_convs(x, [(kernel, bias)]).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(grad[0, :, :, 0], [[1, 0], [0, 0]])
    for place in np.ndindex(2, 2):
        x = jnp.ones((1, 2, 2, 1)).at[0, *place, 0].set(jnp.nan)
        assert np.all(np.isnan(pooled_convs(x, [(kernel, bias)])))


def test_what_does_not_fit_is_refused(key):
    (layer,) = layers(key, (5, 5, 2, 3))
    with pytest.raises(InputError, match=r"\[n, height, width, 2\]"):
        pooled_convs(jnp.ones((1, 8, 8, 1)), [layer])
    with pytest.raises(InputError, match="does not fit"):
        pooled_convs(jnp.ones((1, 4, 4, 2)), [layer])
