import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import float64, plain_mlp, regression_tasks

import metalearn as ml
from metalearn.metrics import squared_error

KEY = jax.random.key(5)


def _one_task():
    return jax.tree.map(lambda a: a[0], regression_tasks(KEY, 1))


def test_one_step_goes_by_a_rate_for_every_parameter():
    task, model = _one_task(), ml.Model(lambda key, x: jnp.ones((2, 1)), lambda params, x, key=None: x @ params)
    learner = ml.meta.meta_sgd(model, squared_error)
    rates = jnp.array([[0.3], [-0.1]])
    state = jax.jit(learner.adapt)({"model": jnp.ones((2, 1)), "rates": rates}, task.support, KEY)
    x, y = task.support[:2]
    np.testing.assert_allclose(state.params, 1 - rates * (2 * x.T @ (x @ jnp.ones((2, 1)) - y) / len(x)), rtol=1e-5)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_gradient_of_the_rates_is_minus_the_inner_gradient_times_the_outer_one(first_order):
    """One step: ∂L'(θ - α∘g)/∂α = -g ∘ ∇L'(θ'), first order or not."""
    with float64():
        task, model = _one_task(), ml.Model(lambda key, x: jnp.ones((2, 1)), lambda params, x, key=None: x @ params)
        learner = ml.meta.meta_sgd(model, squared_error, first_order=first_order)
        rates = jnp.array([[0.3], [-0.1]])
        shared = {"model": jnp.ones((2, 1)), "rates": rates}
        update = jax.jit(ml.episodic(learner, squared_error))(shared, task, KEY)

        def gradient(batch, w):
            return 2 * batch.x.T @ (batch.x @ w - batch.y) / len(batch.x)

        inner = gradient(task.support, shared["model"])
        outer = gradient(task.query, shared["model"] - rates * inner)
        np.testing.assert_allclose(update.direction["rates"], -inner * outer, rtol=1e-12)
        hessian = 2 * task.support.x.T @ task.support.x / len(task.support.x)
        through = outer if first_order else outer - hessian @ (rates * outer)
        np.testing.assert_allclose(update.direction["model"], through, rtol=1e-12)


@pytest.mark.slow
def test_rates_begin_where_they_are_told():
    task, model = _one_task(), plain_mlp(40, 1)
    shared = ml.meta.meta_sgd(model, squared_error, rate=(0.01, 0.05)).init(KEY, task)
    assert jax.tree.structure(shared["rates"]) == jax.tree.structure(shared["model"])
    rates = np.concatenate([np.ravel(r) for r in jax.tree.leaves(shared["rates"])])
    assert rates.min() >= 0.01 and rates.max() <= 0.05 and len(np.unique(rates)) > 100
    np.testing.assert_allclose(rates.mean(), 0.03, atol=4 * 0.04 / np.sqrt(12 * len(rates)))
    constant = ml.meta.meta_sgd(model, squared_error, rate=0.02).init(KEY, task)["rates"]
    assert all((np.asarray(r) == np.float32(0.02)).all() for r in jax.tree.leaves(constant))


def test_only_the_leaves_that_adapt_have_rates():
    task, model = _one_task(), plain_mlp(3, 1)
    learner = ml.meta.meta_sgd(model, squared_error, where="head", rate=0.1)
    shared = learner.init(KEY, task)
    assert shared["rates"]["hidden_0"]["kernel"] is None and shared["rates"]["head"]["kernel"].shape == (3, 1)
    state = jax.jit(learner.adapt)(shared, task.support, KEY)
    np.testing.assert_array_equal(state.params["hidden_0"]["kernel"], shared["model"]["hidden_0"]["kernel"])
    assert (state.params["head"]["kernel"] != shared["model"]["head"]["kernel"]).all()


@pytest.mark.slow
def test_training_moves_the_rates():
    tasks, model = regression_tasks(KEY, 3), plain_mlp(3, 1)
    learner = ml.meta.meta_sgd(model, squared_error, rate=0.1)
    algorithm = ml.over_tasks(learner.init, ml.episodic(learner, squared_error), ml.mean(), optax.sgd(0.1))
    state = jax.jit(algorithm.init)(KEY, tasks)
    after, _ = jax.jit(algorithm.step)(state, tasks, KEY)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.params["rates"], state.params["rates"])
    assert all(m > 1e-6 for m in jax.tree.leaves(moved))
