"""Batch norm folded into a convolution: numbers, derivatives and running averages of one after the other."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.nets import Conv, Conv4
from metalearn.nets._conv import conv
from metalearn.nets._folded import can_fold, moments

KINDS = {
    "ProtoNet": {"norm": "running", "strides": 1, "pool": True, "head": "none", "epsilon": 1e-5},
    "MAML": {"num_outputs": 3, "scale": False},
    "strides, running": {"num_outputs": 3, "head": "flatten", "norm": "running"},
}


def both(fn):
    """What `fn()` gives with folding and without."""
    ours = fn()
    with mock.patch("metalearn.nets._folded._FEW", 0):
        return ours, fn()


def assert_near(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "many"), [(6, 4_000_000), pytest.param(7, 0, marks=pytest.mark.slow)])
def test_the_same_as_convolution_and_then_norm(key, kind, count, many, monkeypatch):
    monkeypatch.setattr("metalearn.nets._folded._MANY", many)  # 0: in pieces
    monkeypatch.setattr("metalearn.nets._folded._ROWS", 800)
    net = Conv4(features=4, **KINDS[kind])
    x = jax.random.normal(key, (count, 16, 16, 1)) + 3
    variables = net.init(key, x)
    slope = jax.random.normal(key, net.apply(variables, x).shape)

    def loss(params, x, train):
        rest = {name: value for name, value in variables.items() if name != "params"}
        y, changed = net.apply({"params": params} | rest, x, train, mutable=["batch_stats"])
        return jnp.vdot(y, slope), changed

    for train in (True, False):
        grad = lambda: jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)(  # noqa: E731
            variables["params"],
            x,
            train,  # noqa: B023
        )
        assert_near(*both(grad))


@pytest.mark.slow
def test_second_derivatives(key):
    net = Conv4(2, features=4)
    x, params = jax.random.normal(key, (5, 16, 16, 1)), net.init(key, jnp.ones((5, 16, 16, 1)))

    def after_a_step(params):
        loss = lambda params: jnp.square(net.apply(params, x)).mean()  # noqa: E731
        return loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)))

    assert_near(*both(lambda: jax.jit(jax.grad(after_a_step))(params)))


@pytest.mark.parametrize("far", [0.0, 1e3])
def test_moments_are_those_of_the_outputs(key, far):
    """Of images far from zero too, where a mean of squares would lose everything."""
    x, kernel = jax.random.normal(key, (9, 8, 8, 2)) + far, jax.random.normal(key, (3, 3, 2, 5))
    y = np.asarray(conv(x, kernel, 1, "VALID"), np.float64) + 1
    mean, var = moments(x, kernel, jnp.ones(5), 1, "VALID")
    np.testing.assert_allclose(mean, y.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(var, y.var((0, 1, 2)), rtol=1e-3)


def test_only_what_has_few_numbers_is_folded():
    assert can_fold(Conv(64, 3), 1) and can_fold(Conv(64, 3), 3)
    assert not can_fold(Conv(64, 3), 64)
    assert not can_fold(Conv(64, 3, impl="lax"), 1)
