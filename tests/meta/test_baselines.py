"""Pre-train then fine-tune, and from scratch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close, plain_mlp, regression_tasks

import metalearn as ml
from metalearn.core import Batch, InputError
from metalearn.metrics import cross_entropy, squared_error
from metalearn.nets import with_head

KEY = jax.random.key(5)


def _labelled(count, classes):
    return Batch(jax.random.normal(KEY, (count, 3)), jnp.arange(count, dtype=jnp.int32) % classes)


def test_fine_tuning_is_fit_from_the_trained_parameters():
    task, model = jax.tree.map(lambda a: a[0], regression_tasks(KEY, 1)), plain_mlp(3, 1)
    options = (model, squared_error, optax.sgd(0.1), 3)
    params = jax.jit(model.init)(KEY, task.support.x)
    state = jax.jit(ml.meta.finetune(*options).adapt)(params, task.support, KEY)
    expected = jax.jit(ml.fit(ml.supervised(model, squared_error), *options[2:]))(params, task.support, KEY)
    assert_close(state.params, expected.params, 0, 0)
    assert float(state.metrics["loss"][-1]) < float(state.metrics["loss"][0])


def test_a_new_head_begins_at_zero_with_as_many_outputs_as_asked_for():
    model, support = with_head(plain_mlp(3, 4), 20), _labelled(6, 2)
    params = jax.jit(model.init)(KEY, support.x)
    learner = ml.meta.finetune(model, cross_entropy, optax.sgd(0.0), 1, new_head=2)
    state = jax.jit(learner.adapt)(params, support, KEY)
    assert_close(state.params["head"], {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)}, 0, 0)
    assert_close(state.params["body"], params["body"], 0, 0)
    np.testing.assert_array_equal(learner.predict(state, support.x), np.zeros((6, 2)))


def test_a_new_head_alone_is_logistic_regression_on_features():
    model, support = with_head(plain_mlp(3, 4), 20), _labelled(6, 2)
    params = jax.jit(model.init)(KEY, support.x)
    learner = ml.meta.finetune(model, cross_entropy, optax.sgd(0.5), 1, new_head=2, where="^head")
    state = jax.jit(learner.adapt)(params, support, KEY)
    features = plain_mlp(3, 4).apply(params["body"], support.x)
    error = 0.5 - jax.nn.one_hot(support.y, 2)  # softmax of zeros
    np.testing.assert_allclose(state.params["head"]["kernel"], -0.5 * features.T @ error / 6, rtol=1e-5, atol=1e-7)
    assert_close(state.params["body"], params["body"], 0, 0)


def test_a_new_head_needs_a_model_with_a_head():
    model, support = plain_mlp(3, 4), _labelled(6, 2)
    params = {"layers": jax.jit(model.init)(KEY, support.x)}
    learner = ml.meta.finetune(model, cross_entropy, optax.sgd(0.5), 1, new_head=2)
    with pytest.raises(InputError, match="with_head"):
        learner.adapt(params, support, KEY)


def test_from_scratch_nothing_is_shared_and_every_task_begins_anew():
    tasks, model = regression_tasks(KEY, 2), plain_mlp(3, 1)
    support = jax.tree.map(lambda a: a[0], tasks.support)
    learner = ml.meta.scratch(model, squared_error, optax.sgd(0.1), 5)
    assert learner.init(KEY, tasks) == ()
    adapt = jax.jit(learner.adapt)
    first, again, other = adapt((), support, KEY), adapt((), support, KEY), adapt((), support, jax.random.key(6))
    assert_close(first.params, again.params, 0, 0)
    assert float(first.metrics["loss"][0]) != float(other.metrics["loss"][0])
    assert float(first.metrics["loss"][-1]) < float(first.metrics["loss"][0])
    start = model.init(jax.random.split(KEY)[0], support.x)
    loss = jnp.mean((model.apply(start, support.x) - support.y) ** 2)
    np.testing.assert_allclose(first.metrics["loss"][0], loss, rtol=1e-6)


def test_from_scratch_can_stand_where_a_trained_learner_does():
    """A meta-training step has nothing to change, with a model that keeps statistics too."""
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            x = ml.nets.BatchNorm(running=True)(nn.Dense(2)(x), train)
            return nn.Dense(1)(x)

    tasks = regression_tasks(KEY, 2)
    for model in (plain_mlp(2, 1), ml.from_linen(Net())):
        learner = ml.meta.scratch(model, squared_error, optax.sgd(0.1), 2)
        algorithm = ml.over_tasks(learner.init, ml.episodic(learner, squared_error), ml.mean(), optax.sgd(0.1))
        state = jax.jit(algorithm.init)(KEY, tasks)
        state, metrics = jax.jit(algorithm.step)(state, tasks, KEY)
        assert state.params == () and float(metrics["loss"]) > 0
