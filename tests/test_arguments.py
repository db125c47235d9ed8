"""What a tired user hands over by mistake is refused in one sentence, when it is built and not when it runs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import regression_tasks

import metalearn as ml
from metalearn.arguments import number, whole

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


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "3", None, np.float32(2)])
def test_what_is_no_count(count):
    sentence = f"chunk must be a whole number of at least 1, but is {count!r}"
    with pytest.raises(ml.InputError, match=re.escape(sentence)):
        ml.scanned(count)


def test_counts_of_numpy_and_jax_are_counts():
    assert [whole("n", count) for count in (3, np.int64(3), np.array(3), jnp.array(3))] == [3] * 4
    n = np.int64(2)
    ml.federated.pfedme(MODEL, ml.squared_error, optax.sgd(0.1), 0.1, strength=1.0, personal_steps=n, num_steps=n)


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        (0.0, {"above": 0}, "above 0"),
        (-0.1, {"least": 0}, "at least 0"),
        (1.0, {"least": 0, "below": 1}, "at least 0 and below 1"),
        (1.1, {"above": 0, "most": 1}, "above 0 and at most 1"),
        (float("nan"), {"least": 0}, "at least 0"),
    ],
)
def test_numbers_out_of_bounds(value, bounds, said):
    with pytest.raises(ml.InputError, match=f"share must be {said}, but is {value}"):
        number("share", value, **bounds)
    jax.jit(lambda v: number("share", v, **bounds))(value)  # what is not known is not refused
