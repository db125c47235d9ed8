"""What a tired user hands over by mistake is refused in one sentence, when it is built and not when it runs."""

import jax
import jax.numpy as jnp
import optax
import pytest
from _toys import regression_tasks

import metalearn as ml

MODEL = ml.from_linen(ml.nets.MLP([2, 1]))
LOSS = ml.supervised(MODEL, ml.squared_error)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ml.supervised(ml.nets.MLP([2, 1]), ml.squared_error), "MLP has no 'train'; a Linen module becomes"),
        (lambda: ml.fit(LOSS, 0.01, 1), "optimizer: float has no 'init'; give an Optax"),
        (lambda: ml.meta.maml(MODEL, ml.squared_error, optax.sgd, 1), "optimizer: sgd has no 'init'"),
        (lambda: ml.over_tasks(MODEL.init, ml.gradient(LOSS), ml.mean, optax.sgd(0.1)), "mean has no 'init'; call"),
        (lambda: ml.over_tasks(MODEL.init, ml.gradient(LOSS), optax.sgd(0.1), ml.mean()), "has no 'linear'"),
        (lambda: ml.over_losses(None, None, {"a": None}, ml.aggregate.upgrad, optax.sgd(0.1)), "upgrad has no 'init'"),
        (lambda: ml.over_losses(None, None, {"a": None}, ml.mean(), optax.adam), "adam has no 'init'"),
    ],
)
def test_what_was_not_called_or_wrapped(build, sentence):
    with pytest.raises(ml.InputError, match=sentence):
        build()


def test_tasks_without_a_query_set_have_nothing_to_be_evaluated_on():
    learner = ml.gradient_learner(MODEL, ml.squared_error, optax.sgd(0.1), 1)
    tasks = regression_tasks(jax.random.key(0), 3)._replace(query=None)
    params = MODEL.init(jax.random.key(1), jnp.ones((1, 2)))
    with pytest.raises(ml.InputError, match=r"on task\.query, which"):
        ml.evaluate(learner, ml.squared_error)(params, tasks, jax.random.key(2))
