"""Gradients in fewer numbers: the inner products of the gradients themselves, whatever computes the layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import metalearn as ml
from metalearn import aggregate as agg
from metalearn.inner_products import _PIECE, _triangle, products_between, rows_by_rows, same_products
from metalearn.mapping import equations

K, N, D = 3, 4, 12


def inner(tree):
    rows = [leaf.reshape(K, -1) for leaf in jax.tree.leaves(tree)]
    return sum(row @ row.T for row in rows)


def both(fn, params, x, key):
    """The gradients in fewer numbers, or None, and as they are."""
    y, pull = jax.vjp(lambda params: fn(params, x), params)
    cotangents = jax.random.normal(key, (K, *y.shape), y.dtype)
    return same_products(pull, cotangents), jax.vmap(pull)(cotangents)


def layers(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"].T + params["bias"].reshape(1, -1)


def weights(key):
    a, b, bias = jax.random.split(key, 3)
    return {
        "a": jax.random.normal(a, (D, 8)),
        "b": jax.random.normal(b, (5, 8)),  # used turned round
        "bias": jax.random.normal(bias, (5,)),
    }


@pytest.mark.parametrize("jitted", [False, True])
def test_inner_products_of_dense_layers(key, jitted):
    x = jax.random.normal(key, (N, D))
    run = lambda params: both(layers, params, x, key)  # noqa: E731
    fewer, whole = (jax.jit(run) if jitted else run)(weights(key))
    shapes = jax.tree.map(lambda leaf: leaf.shape[1:], fewer[0], is_leaf=lambda leaf: hasattr(leaf, "shape"))
    assert shapes == {"a": (N, 8), "b": (N, 5), "bias": (5,)}
    np.testing.assert_allclose(inner(fewer), inner(whole), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [30, 2048, 9000])
def test_a_triangle_from_pieces(key, size):
    """Whatever the number of pieces, none of them larger than LAPACK works at alone; with two columns alike too."""
    x = jax.random.normal(key, (size, N)).at[:, 1].set(0.5)
    x = x.at[:, 2].set(x[:, 1])
    program = jax.make_jaxpr(_triangle)(x)
    factorised = [e.invars[0].aval.shape for e in equations(program) if e.primitive.name == "qr"]
    assert factorised and all(rows * columns <= _PIECE for *_, rows, columns in factorised)
    triangle = _triangle(x)
    assert triangle.shape == (N, N)
    np.testing.assert_allclose(triangle.T @ triangle, x.T @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-25, 1.0])
def test_inner_products_with_gradients_at_other_examples(key, scale):
    params, sides = weights(key), []
    for count, rows in ((N, K), (N - 1, K + 1)):
        key = jax.random.fold_in(key, count)
        y, pull = jax.vjp(partial(layers, x=jax.random.normal(key, (count, D))), params)
        sides.append((pull, scale * jax.random.normal(key, (rows, *y.shape), y.dtype)))
    found = products_between(*sides)
    expected = rows_by_rows(*(jax.vmap(pull)(cotangents) for pull, cotangents in sides))
    assert found.shape == (K, K + 1)
    np.testing.assert_allclose(found / jnp.abs(found).max(), expected / jnp.abs(expected).max(), atol=1e-5)


def test_no_inner_products_between_where_one_side_would_save_nothing(key):
    params, sides = weights(key), []
    for count in (N, D + 1):
        y, pull = jax.vjp(partial(layers, x=jax.random.normal(key, (count, D))), params)
        sides.append((pull, jnp.ones((K, *y.shape), y.dtype)))
    assert products_between(*sides) is None


@pytest.mark.parametrize("dense", [nn.Dense, ml.nets.MLP], ids=["Flax", "MLP"])
def test_layers_of_flax(key, dense):
    net = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(3)]) if dense is nn.Dense else ml.nets.MLP([16, 3])
    model, x = ml.from_linen(net), jax.random.normal(key, (N, D))
    fewer, whole = both(model.apply, model.init(key, x), x, key)
    assert sum(leaf.size for leaf in jax.tree.leaves(fewer)) < sum(leaf.size for leaf in jax.tree.leaves(whole)) / 2
    np.testing.assert_allclose(inner(fewer), inner(whole), rtol=1e-5, atol=1e-4)


def test_examples_that_are_alike_or_zero(key):
    """x has no full rank then."""
    x = jnp.stack([jnp.ones(D), jnp.ones(D), jnp.zeros(D), jax.random.normal(key, (D,))])
    fewer, whole = both(layers, weights(key), x, key)
    np.testing.assert_allclose(inner(fewer), inner(whole), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("fn", "n"),
    [
        (layers, D),  # as many examples as inputs
        (lambda params, x: jnp.tanh(x @ params["a"] @ params["a"].T) @ params["a"], N),  # a kernel used twice
        (lambda params, x: jax.lax.scan(lambda x, _: (x, x @ params["a"]), x, None, length=2)[1][0], N),  # in a loop
        (lambda params, x: jnp.sin(params["a"]).sum() * x, N),
    ],
)
def test_none_where_it_is_no_product_over_few_examples(key, fn, n):
    params = {"a": weights(key)["a"]} if fn is not layers else weights(key)
    assert both(fn, params, jax.random.normal(key, (n, D)), key)[0] is None


def test_half_precision_is_left_as_it_is(key):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights(key))
    assert both(layers, half, jax.random.normal(key, (N, D), jnp.bfloat16), key)[0] is None


WAYS = {
    "mgda": agg.mgda, "pcgrad": agg.pcgrad, "gradvac": lambda: agg.gradvac(K), "cagrad": agg.cagrad, "nash": agg.nash,
    "imtl_g": agg.imtl_g, "aligned": agg.aligned, "upgrad": agg.upgrad, "dualproj": agg.dualproj, "config": agg.config,
    "fairgrad": agg.fairgrad, "gradnorm": lambda: agg.gradnorm(K, optax.adam(0.1), where="head"),
}  # fmt: skip
QUICK = ("upgrad", "gradnorm")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in WAYS])
@pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_step_is_the_same_as_with_the_gradients_themselves(key, name, every):
    x = jax.random.normal(key, (6, D))
    names = "abc"
    net = lambda *widths: ml.from_linen(ml.nets.MLP(widths))  # noqa: E731
    model = ml.multitask.hard(net(16, 8), {task: net(2) for task in names})
    pieces = ml.multitask.losses(model, dict.fromkeys(names, ml.cross_entropy))
    y = {task: jax.random.randint(jax.random.fold_in(key, k), (6,), 0, 2) for k, task in enumerate(names)}
    mask = jnp.ones((K, 6), bool).at[2].set(False)  # the third task is absent in the second step
    after = []
    for mapping in (None, ml.vmapped()):
        algorithm = ml.over_losses(*pieces, WAYS[name](), optax.sgd(0.1), every=every, mapping=mapping)
        state = algorithm.init(key, ml.Batch(x, y))
        step = jax.jit(algorithm.step)
        for t, batch in enumerate((ml.Batch(x, y, jnp.ones_like(mask)), ml.Batch(x, y, mask))):
            state, metrics = step(state, batch, jax.random.fold_in(key, t))
        after.append((state.params, metrics))
    for ours, theirs in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)
