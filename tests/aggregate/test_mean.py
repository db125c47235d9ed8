import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.aggregate import mean, weighted_mean

_UPDATES = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]]), "b": (jnp.array([1.0, 2.0, 6.0]), None)}


def _update(aggregator, updates, weights=None):
    params = jax.tree.map(lambda u: u[0], updates)
    return aggregator.update(updates, aggregator.init(params), params, weights=weights)[0]


def test_the_mean_is_over_rows():
    out = _update(mean(), _UPDATES)
    np.testing.assert_allclose(out["a"], [4.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(out["b"][0], 3.0, rtol=1e-6)
    assert out["b"][1] is None


def test_the_mean_ignores_how_many_examples_there_are_but_not_whether():
    np.testing.assert_allclose(_update(mean(), _UPDATES, jnp.array([5.0, 0.0, 1.0]))["a"], [4.5, 1.0], rtol=1e-6)


def test_the_weighted_mean_goes_by_examples():
    out = _update(weighted_mean(), _UPDATES, jnp.array([5.0, 0.0, 1.0]))
    np.testing.assert_allclose(out["a"], [13 / 6, 10 / 6], rtol=1e-6)
    np.testing.assert_allclose(out["b"][0], 11 / 6, rtol=1e-6)


@pytest.mark.parametrize("aggregator", [mean, weighted_mean])
def test_what_an_absent_task_carries_is_left_out(aggregator):
    garbage = {"a": jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])}
    np.testing.assert_array_equal(_update(aggregator(), garbage, jnp.array([3.0, 0.0]))["a"], [1.0, 2.0])


@pytest.mark.parametrize("aggregator", [mean, weighted_mean])
def test_no_task_at_all_is_no_update(aggregator):
    np.testing.assert_array_equal(_update(aggregator(), _UPDATES, jnp.zeros(3))["a"], [0.0, 0.0])


@pytest.mark.parametrize("aggregator", [mean, weighted_mean])
def test_types_are_those_of_the_updates(aggregator):
    out = _update(aggregator(), {"half": jnp.ones((3, 2), jnp.bfloat16), "full": jnp.ones((3, 2))}, jnp.ones(3))
    assert out["half"].dtype == jnp.bfloat16 and out["full"].dtype == jnp.float32


@pytest.mark.parametrize("aggregator", [mean, weighted_mean])
def test_order_of_tasks_does_not_matter_and_scale_passes_through(aggregator):
    weights, order = jnp.array([5.0, 2.0, 1.0]), jnp.array([2, 0, 1])
    expected = _update(aggregator(), _UPDATES, weights)
    permuted = _update(aggregator(), jax.tree.map(lambda u: u[order], _UPDATES), weights[order])
    doubled = _update(aggregator(), jax.tree.map(lambda u: 2 * u, _UPDATES), weights)
    for e, p, d in zip(*map(jax.tree.leaves, (expected, permuted, doubled)), strict=True):
        np.testing.assert_allclose(p, e, rtol=1e-6)
        np.testing.assert_allclose(d, 2 * e, rtol=1e-6)
    assert aggregator().linear
