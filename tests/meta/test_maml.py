"""MAML's outer gradient against closed forms and finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close, distance, float64, plain_mlp, regression_tasks

import metalearn as ml
from metalearn.core import InputError
from metalearn.metrics import squared_error

KEY = jax.random.key(5)


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def _one_task(key=KEY, **sizes):
    return jax.tree.map(lambda a: a[0], regression_tasks(key, 1, **sizes))


@pytest.mark.parametrize("steps", [1, 4])
def test_meta_gradients_of_linear_regression_are_their_closed_forms(steps):
    """With A = 2 XᵀX / n: w_T - w* = (I - αA)^T (w - w*), and ∇ is (I - αA)^T times the query gradient at w_T."""
    task, rate = _one_task(), 0.05
    model = ml.Model(lambda key, x: jnp.ones((2, 1)), lambda params, x, key=None: x @ params)
    w = np.array([[0.5], [-1.0]])
    x, y = (np.asarray(a) for a in task.support[:2])
    hessian, target = 2 * x.T @ x / len(x), 2 * x.T @ y / len(x)
    optimum = np.linalg.solve(hessian, target)
    shrink = np.linalg.matrix_power(np.eye(2) - rate * hessian, steps)
    reached = optimum + shrink @ (w - optimum)
    qx, qy = (np.asarray(a) for a in task.query[:2])
    at_reached = 2 * qx.T @ (qx @ reached - qy) / len(qx)

    def direction(first_order):
        learner = ml.meta.maml(model, squared_error, optax.sgd(rate), steps, first_order=first_order)
        return jax.jit(ml.episodic(learner, squared_error))(jnp.asarray(w), task, KEY)

    second, first = direction(False), direction(True)
    np.testing.assert_allclose(second.direction, shrink @ at_reached, rtol=1e-12)
    np.testing.assert_allclose(first.direction, at_reached, rtol=1e-12)
    np.testing.assert_allclose(second.loss, np.mean((qx @ reached - qy) ** 2), rtol=1e-12)
    assert distance(first.direction, second.direction) > 0.01


@pytest.mark.slow
def test_the_outer_gradient_of_a_network_is_the_finite_difference():
    model, task = plain_mlp(3, 1), _one_task()
    params = jax.jit(model.init)(KEY, task.support.x)
    learner = ml.meta.maml(model, squared_error, optax.sgd(0.2), 3)
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    @jax.vmap
    def loss(v):
        state = jax.jit(learner.adapt)(unflatten(v), task.support, KEY)
        return squared_error(learner.predict(state, task.query.x), task.query)[0]

    moves = 1e-5 * jnp.eye(len(flat))
    numeric = (loss(flat[None] + moves) - loss(flat[None] - moves)) / 2e-5
    update = jax.jit(ml.episodic(learner, squared_error))(params, task, KEY)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(update.direction)[0], numeric, rtol=1e-6, atol=1e-9)
    fomaml = ml.meta.maml(model, squared_error, optax.sgd(0.2), 3, first_order=True)
    first = jax.jit(ml.episodic(fomaml, squared_error))(params, task, KEY)
    assert_close(first.loss, update.loss)
    assert distance(first.direction, update.direction) > 0.05


def test_an_optimizer_that_cannot_be_differentiated_through_is_refused_unless_first_order():
    options = (plain_mlp(1), squared_error)
    with pytest.raises(InputError, match="eps_root=1e-16"):
        ml.meta.maml(*options, optax.adam(0.1))
    ml.meta.maml(*options, optax.adam(0.1), first_order=True)
    ml.meta.maml(*options, optax.adam(0.1, eps_root=1e-16))


@pytest.mark.slow
def test_training_the_initialisation_lowers_the_loss_after_adaptation_and_joint_training_does_not():
    """Tasks y = ±x: no single line fits them, one step from a trained one does (the distinguishing term)."""
    x = jnp.linspace(-1.0, 1.0, 6)[None, :, None] * jnp.ones((2, 1, 1))
    y = x * jnp.array([1.0, -1.0]).reshape(2, 1, 1)
    tasks = ml.Task(ml.Batch(x[:, ::2], y[:, ::2]), ml.Batch(x[:, 1::2], y[:, 1::2]), jnp.arange(2))
    model = plain_mlp(8, 1)

    def trained(steps):
        learner = ml.meta.maml(model, squared_error, optax.sgd(0.5), steps)
        algorithm = ml.over_tasks(learner.init, ml.episodic(learner, squared_error), ml.mean(), optax.adam(0.02))

        @jax.jit
        def run(key):
            start = algorithm.init(key, tasks)
            step = lambda state, k: (algorithm.step(state, tasks, k)[0], None)  # noqa: E731
            end, _ = jax.lax.scan(step, start, jax.random.split(key, 100))
            return ml.evaluate(learner, squared_error)(end.params, tasks, key)["loss"].mean()

        return float(run(KEY))

    spread = float((y[:, 1::2] ** 2).mean())
    assert trained(0) > 0.95 * spread
    assert trained(1) < 0.1 * spread
