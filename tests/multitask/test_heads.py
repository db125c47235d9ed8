"""Heads as rows of a table: tasks with examples of their own on one trunk."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import float64, plain_mlp

import metalearn as ml
from metalearn import multitask as mt
from metalearn.core import Batch, Task

KEY = jax.random.key(0)
TRUNK, HEAD = plain_mlp(3), plain_mlp(1)


def tasks(ids=(2, 0), sizes=(4, 2)):
    r = np.random.RandomState(0)
    mask = (np.arange(4)[None] < np.array(sizes)[:, None]).astype(float)
    batch = Batch(jnp.asarray(r.randn(len(ids), 4, 2)), jnp.asarray(r.randn(len(ids), 4, 1)), jnp.asarray(mask))
    return Task(batch, batch, jnp.array(ids))


def test_a_step_is_one_of_the_trunk_and_one_of_every_sampled_head():
    with float64():
        algorithm, learner = mt.heads(
            TRUNK, HEAD, ml.squared_error, ml.weighted_mean(), optax.sgd(0.1), num_tasks=3,
            head_optimizer=optax.sgd(0.5),
        )  # fmt: skip
        batch = tasks()
        before = algorithm.init(KEY, batch)
        after, metrics = jax.jit(algorithm.step)(before, batch, KEY)

        def loss(shared, own, k):
            n = int(batch.support.mask[k].sum())
            z = HEAD.apply(own, TRUNK.apply(shared, batch.support.x[k, :n]))
            return jnp.mean((z - batch.support.y[k, :n]) ** 2)

        rows = [jax.tree.map(lambda a, i=int(i): a[i], before.table[0]) for i in batch.id]
        trunk = [jax.grad(loss)(before.params, rows[k], k) for k in range(2)]
        expected = jax.tree.map(lambda p, a, b: p - 0.1 * (4 * a + 2 * b) / 6, before.params, *trunk)
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
        for k, i in enumerate((2, 0)):
            own = jax.tree.map(lambda p, g: p - 0.5 * g, rows[k], jax.grad(loss, 1)(before.params, rows[k], k))
            found = jax.tree.map(lambda a, i=i: a[i], after.table[0])
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, own)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), after.table, before.table)
        np.testing.assert_allclose(metrics["loss"], np.mean([loss(before.params, rows[k], k) for k in range(2)]))
        measured = ml.evaluate(learner, ml.squared_error)(before.params, batch, KEY, before.table)
        np.testing.assert_allclose(measured["loss"], [loss(before.params, rows[k], k) for k in range(2)], rtol=1e-9)


@pytest.mark.slow
def test_gradients_of_tasks_meet_in_any_aggregator():
    algorithm, _ = mt.heads(TRUNK, HEAD, ml.squared_error, ml.aggregate.upgrad(), optax.sgd(0.02), num_tasks=3)
    batch = tasks((0, 1, 2), (4, 3, 2))
    batch = jax.tree.map(lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, batch)
    before = algorithm.init(KEY, batch)
    after, _ = jax.jit(algorithm.step)(before, batch, KEY)

    def loss(shared, k):
        n = int(batch.support.mask[k].sum())
        own = jax.tree.map(lambda a: a[k], before.table[0])
        z = HEAD.apply(own, TRUNK.apply(shared, batch.support.x[k, :n]))
        return jnp.mean((z - batch.support.y[k, :n]) ** 2)

    gradients = [jax.grad(loss)(before.params, k) for k in range(3)]
    direction, _ = ml.aggregate.upgrad().update(jax.tree.map(lambda *g: jnp.stack(g), *gradients), ())
    for p, q, u in zip(*map(jax.tree.leaves, (before.params, after.params, direction)), strict=True):
        np.testing.assert_allclose(q, p - 0.02 * u, rtol=1e-4, atol=1e-6)


def test_a_head_with_running_statistics_is_refused():
    norm = ml.from_linen(ml.nets.BatchNorm(running=True))
    algorithm, _ = mt.heads(TRUNK, norm, ml.squared_error, ml.mean(), optax.sgd(0.1), num_tasks=3)
    with pytest.raises(ml.InputError, match="running statistics"):
        algorithm.init(KEY, tasks())


def test_an_aggregator_that_goes_by_place_is_refused():
    algorithm, _ = mt.heads(TRUNK, HEAD, ml.squared_error, ml.aggregate.gradvac(2), optax.sgd(0.1), num_tasks=3)
    with pytest.raises(ml.InputError, match="keeps something between steps"):
        algorithm.init(KEY, tasks())


def test_a_task_needs_a_row_of_its_own():
    algorithm, _ = mt.heads(TRUNK, HEAD, ml.squared_error, ml.mean(), optax.sgd(0.1), num_tasks=3)
    with pytest.raises(ml.InputError, match=r"task\.id, which is None"):
        algorithm.init(KEY, tasks()._replace(id=None))
    batch = tasks((1, 3))
    _, metrics = algorithm.step(algorithm.init(KEY, batch), batch, KEY)
    assert np.isnan(metrics["loss"])
