"""Aggregators made of a sum, and of the whole stack."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _toys import assert_close, regression_tasks

import metalearn as ml


def _clipped_mean():
    """Each update clipped to the norm in the state, averaged over 4; the state counts steps."""

    def each(update, state, key):
        norm = jnp.sqrt(sum(jnp.sum(d**2) for d in jax.tree.leaves(update.direction)))
        scale = jnp.where(update.weight > 0, jnp.minimum(1.0, state["clip"] / norm), 0.0)
        return jax.tree.map(lambda d: scale * d, update.direction)

    def finish(total, state, params, key):
        return jax.tree.map(lambda d: d / 4, total), {**state, "steps": state["steps"] + 1}

    return ml.summed(each, finish, lambda params: {"clip": jnp.array(2.0), "steps": jnp.array(0)})


def test_update_is_finish_of_the_sum_of_each():
    aggregator = _clipped_mean()
    updates = {"u": jnp.array([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])}
    out, state = aggregator.update(updates, aggregator.init(None), weights=jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(out["u"], [1.2 / 4, (1.6 + 1.0) / 4], rtol=1e-6)
    assert int(state["steps"]) == 1
    out, _ = aggregator.update(updates, state)  # without weights all are present
    np.testing.assert_allclose(out["u"], [2.4 / 4, (3.2 + 1.0) / 4], rtol=1e-6)


def test_each_sees_losses_and_a_key_of_its_own():
    aggregator = ml.summed(
        lambda update, state, key: (update.loss * update.direction, jax.random.uniform(key)),
        lambda total, state, params, key: ((total[0], total[1] + 10 * jax.random.uniform(key)), state),
    )
    key, updates = jax.random.key(1), jnp.array([1.0, 2.0, 4.0])
    (weighted, noise), _ = aggregator.update(updates, (), losses=jnp.array([3.0, 2.0, 1.0]), key=key)
    assert float(weighted) == 11.0
    each_key, finish_key = jax.random.split(key)
    draws = [jax.random.uniform(jax.random.fold_in(each_key, k)) for k in range(3)]
    assert len({float(d) for d in draws}) == 3
    np.testing.assert_allclose(noise, sum(draws) + 10 * jax.random.uniform(finish_key), rtol=1e-6)


def test_a_stacked_aggregator_sees_everything_and_equals_the_sum_where_it_does_the_same():
    """The median of each number is no sum; the mean is, and gives the same numbers both ways in an outer loop."""
    seen = {}

    def median(updates, state, params=None, *, weights=None, losses=None, key=None):
        seen.update(weights=weights, losses=losses, key=key, params=params)
        return jax.tree.map(lambda u: jnp.median(u, 0), updates), state

    aggregator = ml.stacked(median)
    assert aggregator.each is None and aggregator.finish is None and aggregator.init(None) == ()
    np.testing.assert_array_equal(aggregator.update(jnp.array([1.0, 5.0, 2.0]), ())[0], 2.0)

    model = ml.Model(lambda key, x: {"w": jnp.zeros((2, 1))}, lambda params, x, key=None: x @ params["w"])
    tasks = regression_tasks(jax.random.key(0), 3)

    def moved(aggregator):
        task_fn = ml.gradient(ml.supervised(model, ml.squared_error))
        algorithm = ml.over_tasks(lambda key, task: model.init(key, None), task_fn, aggregator, optax.sgd(1.0))
        state = algorithm.init(jax.random.key(0), tasks)
        return algorithm.step(state, tasks, jax.random.key(1))[0].params

    moved(aggregator)
    assert seen["weights"].shape == seen["losses"].shape == (3,) and seen["key"] is not None
    assert seen["params"]["w"].shape == (2, 1)
    assert_close(moved(ml.stacked(ml.mean().update)), moved(ml.mean()), rtol=1e-6, atol=1e-7)


def test_parts_are_aggregated_each_in_its_own_way_whether_they_are_sums_or_not():
    median = ml.stacked(lambda u, state, params=None, **_: (jnp.median(u, 0) + params, state + 1), lambda params: 0)
    updates = {"a": jnp.array([[1.0], [5.0], [3.0]]), "b": jnp.array([1.0, 2.0, 9.0])}
    weights, params = jnp.array([1.0, 1.0, 2.0]), {"a": jnp.array([10.0]), "b": jnp.array(0.0)}
    both = ml.aggregate.parts({"a": median, "b": ml.weighted_mean()})
    assert both.each is None
    found, state = both.update(updates, both.init(params), params, weights=weights)
    assert_close(found, {"a": jnp.array([13.0]), "b": jnp.array(5.25)})
    assert state == {"a": 1, "b": ()}
    sums = ml.aggregate.parts({"a": ml.mean(), "b": ml.weighted_mean()})
    assert sums.each is not None
    found, _ = sums.update(updates, sums.init(params), params, weights=weights)
    assert_close(found, {"a": jnp.array([3.0]), "b": jnp.array(5.25)})
