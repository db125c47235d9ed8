import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close, distance, plain_mlp, regression_tasks

import metalearn as ml
from metalearn.core import Batch, Statistic
from metalearn.metrics import squared_error

KEY = jax.random.key(5)


def _algorithm(learner, rate=0.5):
    return ml.over_tasks(learner.init, ml.difference(learner.adapt), ml.mean(), optax.sgd(rate), mapping=ml.vmapped())


def _values(tree):
    return jax.tree.map(lambda s: s.value, tree, is_leaf=lambda s: isinstance(s, Statistic))


def test_a_step_moves_by_the_rate_towards_the_mean_of_what_tasks_learned():
    """φ' = φ + ε mean_k(θ_k - φ), and the moments of Adam become their mean, its count what every task counted."""
    tasks, model, inner = regression_tasks(KEY, 3), plain_mlp(3, 1), optax.adam(0.05, b1=0.0)
    learner = ml.meta.reptile(model, squared_error, inner, 4)
    algorithm = _algorithm(learner)
    state = jax.jit(algorithm.init)(KEY, tasks)
    after, metrics = jax.jit(algorithm.step)(state, tasks, KEY)

    @jax.jit
    @jax.vmap
    def by_hand(x, y):
        params = state.params["model"]
        opt_state = inner.init(params)
        for _ in range(4):
            loss, grads = jax.value_and_grad(lambda p: jnp.mean((model.apply(p, x) - y) ** 2))(params)
            updates, opt_state = inner.update(grads, opt_state)
            params = optax.apply_updates(params, updates)
        return params, opt_state[0], loss

    learned, adam, losses = by_hand(*tasks.support[:2])
    expected = jax.tree.map(lambda p, q: p + 0.5 * (q - p[None]).mean(0), state.params["model"], learned)
    assert_close(after.params["model"], expected, rtol=1e-4, atol=1e-6)
    kept = _values(after.params["opt_state"])[0]
    assert_close(kept.nu, jax.tree.map(lambda v: v.mean(0), adam.nu), rtol=1e-3, atol=1e-7)
    assert int(kept.count) == 4
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-4)


@pytest.mark.slow
def test_moments_live_on_from_step_to_step_and_into_evaluation():
    tasks, model = regression_tasks(KEY, 3), plain_mlp(3, 1)
    learner = ml.meta.reptile(model, squared_error, optax.adam(0.05, b1=0.0), 2)
    algorithm = _algorithm(learner)
    step, state = jax.jit(algorithm.step), jax.jit(algorithm.init)(KEY, tasks)
    for t in range(3):
        state, _ = step(state, tasks, jax.random.fold_in(KEY, t))
    assert int(_values(state.params["opt_state"])[0].count) == 6
    fresh = {"model": state.params["model"], "opt_state": jax.jit(algorithm.init)(KEY, tasks).params["opt_state"]}
    support = jax.tree.map(lambda a: a[0], tasks.support)
    adapt = jax.jit(learner.adapt)
    assert (
        distance(adapt(state.params, support, KEY).params["model"], adapt(fresh, support, KEY).params["model"]) > 1e-3
    )


def test_the_outer_optimizer_never_sees_the_moments():
    tasks = regression_tasks(KEY, 2)
    learner = ml.meta.reptile(plain_mlp(1), squared_error, optax.adam(0.05), 2)
    algorithm = ml.over_tasks(learner.init, ml.difference(learner.adapt), ml.mean(), optax.sgd(0.5, momentum=0.9))
    state = jax.jit(algorithm.init)(KEY, tasks)
    assert len(jax.tree.leaves(state.opt_state)) == 2  # a trace for the kernel and one for the bias


def test_several_steps_are_not_one_longer_step():
    """The term that sets Reptile apart from joint training: gradients at places other than the start."""
    tasks, model = regression_tasks(KEY, 3), plain_mlp(3, 1)
    params = jax.jit(model.init)(KEY, tasks.support.x[0])

    def moved(steps, rate):
        learner = ml.gradient_learner(model, squared_error, optax.sgd(rate), steps)
        task = jax.tree.map(lambda a: a[0], tasks)
        return jax.jit(ml.difference(learner.adapt))(params, task, KEY).direction

    assert distance(moved(5, 0.1), moved(1, 0.5)) > 0.05


def test_a_query_predicted_alone_does_not_see_the_others():
    """A model that centres its batch, as batch normalisation does."""

    def apply(params, x, key=None):
        return params * (x - x.mean(0, keepdims=True))

    model = ml.Model(lambda key, x: jnp.ones((1, 1)), apply)
    support = Batch(jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1)))
    x = jnp.array([[5.0], [8.0]])
    for transductive, expected in ((True, [[-1.5], [1.5]]), (False, [[5.0 - 3.0], [8.0 - 4.0]])):
        learner = ml.meta.reptile(model, squared_error, optax.sgd(0.0), 1, transductive=transductive)
        shared = learner.init(KEY, ml.Task(support))
        np.testing.assert_allclose(learner.predict(learner.adapt(shared, support, KEY), x), expected, rtol=1e-6)


def test_a_trajectory_can_be_evaluated():
    tasks, model = regression_tasks(KEY, 2), plain_mlp(1)
    learner = ml.meta.reptile(model, squared_error, optax.sgd(0.1), 3, trajectory=True)
    shared = learner.init(KEY, jax.tree.map(lambda a: a[0], tasks))
    loss = jax.jit(ml.evaluate(learner, squared_error))(shared, tasks, KEY)["loss"]
    assert loss.shape == (2, 4)
    start = [float(jnp.mean((model.apply(shared["model"], t.x) - t.y) ** 2)) for t in
             (jax.tree.map(lambda a, k=k: a[k], tasks.query) for k in range(2))]  # fmt: skip
    np.testing.assert_allclose(loss[:, 0], start, rtol=1e-5)
