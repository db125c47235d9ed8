import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import plain_mlp

import metalearn as ml
from metalearn.core import Batch, InputError
from metalearn.metrics import cross_entropy

KEY = jax.random.key(5)
_LABELS = np.array([2, 0, 1, 0, 2, 2, 1, 0], np.int32)


def _setting(mask=None, labels=_LABELS, embedding=4):
    model = plain_mlp(5, embedding)
    x = jax.random.normal(KEY, (8, 3))
    support = Batch(x, jnp.asarray(labels), None if mask is None else jnp.asarray(mask))
    return model, jax.jit(model.init)(KEY, x), support, jax.random.normal(jax.random.key(6), (6, 3))


@pytest.mark.parametrize("mask", [None, np.array([1, 1, 1, 0, 1, 0, 1, 1.0])])
def test_prototypes_and_distances_equal_a_loop(mask):
    model, params, support, x = _setting(mask)
    learner = ml.meta.protonet(model, 3)
    state = jax.jit(learner.adapt)(params, support, KEY)
    real = np.ones(8, bool) if mask is None else mask > 0
    embedded, queries = np.asarray(model.apply(params, support.x)), np.asarray(model.apply(params, x))
    logits = np.zeros((6, 3))
    for c in range(3):
        rows = [embedded[i] for i in range(8) if real[i] and _LABELS[i] == c]
        np.testing.assert_allclose(state.means[c], np.mean(rows, 0), rtol=1e-5)
        assert state.counts[c] == len(rows)
        for q in range(6):
            logits[q, c] = -sum((queries[q, d] - np.mean(rows, 0)[d]) ** 2 for d in range(4))
    np.testing.assert_allclose(learner.predict(state, x), logits, rtol=1e-4, atol=1e-5)


def test_a_class_without_an_example_is_never_predicted_and_spoils_no_gradient():
    model, params, support, x = _setting()
    task = ml.Task(support, Batch(x, jnp.array([0, 1, 2, 0, 1, 2], jnp.int32)))
    four, three = ml.meta.protonet(model, 4), ml.meta.protonet(model, 3)
    state = jax.jit(four.adapt)(params, support, KEY)
    assert state.counts[3] == 0
    logits = four.predict(state, x)
    np.testing.assert_allclose(logits[:, :3], three.predict(three.adapt(params, support, KEY), x), rtol=1e-6)
    np.testing.assert_array_equal(jax.nn.softmax(logits)[:, 3], np.zeros(6))
    update, plain = (jax.jit(ml.episodic(learner, cross_entropy))(params, task, KEY) for learner in (four, three))
    np.testing.assert_allclose(update.loss, plain.loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(update.direction), jax.tree.leaves(plain.direction), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_its_gradient_goes_through_the_prototypes_too():
    """The distinguishing term: were the prototypes constants, the last bias, which cancels, would have a gradient."""
    model, params, support, x = _setting()
    query = Batch(x, jnp.array([0, 1, 2, 0, 1, 2], jnp.int32))
    learner = ml.meta.protonet(model, 3)
    through = jax.jit(ml.episodic(learner, cross_entropy))(params, ml.Task(support, query), KEY).direction
    np.testing.assert_allclose(through["head"]["bias"], np.zeros(4), atol=1e-6)
    state = jax.jit(learner.adapt)(params, support, KEY)
    constant = jax.jit(jax.grad(lambda p: cross_entropy(learner.predict(state._replace(params=p), x), query)[0]))(
        params
    )
    assert float(jnp.abs(constant["head"]["bias"]).max()) > 1e-3


def test_more_ways_in_training_than_in_testing_share_parameters():
    model, params, support, x = _setting()
    assert jax.tree.structure(ml.meta.protonet(model, 60).init(KEY, ml.Task(support))) == jax.tree.structure(params)
    two = ml.meta.protonet(model, 2)
    state = jax.jit(two.adapt)(params, Batch(support.x, jnp.asarray(_LABELS % 2)), KEY)
    assert two.predict(state, x).shape == (6, 2)


def test_training_shows_support_and_query_to_the_network_together():
    """A model that centres its batch: in training by all fourteen examples, in evaluation set by set."""
    centred = ml.Model(lambda key, x: jnp.ones(()), lambda params, x, key=None: params * (x - x.mean(0, keepdims=True)))
    _, _, support, x = _setting()
    learner = ml.meta.protonet(centred, 3)
    state = jax.jit(learner.adapt)(jnp.ones(()), support, KEY)

    def expected(s, q):
        means = np.stack([s[c == _LABELS].mean(0) for c in range(3)])
        return -((q[:, None] - means[None]) ** 2).sum(-1)

    s, q = np.asarray(support.x), np.asarray(x)
    np.testing.assert_allclose(learner.predict(state, x), expected(s - s.mean(0), q - q.mean(0)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(learner.train(state, x, KEY)[0], expected(s, q), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(learner.predict(state, x, KEY), expected(s, q), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [_LABELS.astype(np.float32), None])
def test_regression_is_refused(labels):
    model, params, support, _ = _setting()
    support = support._replace(y=None if labels is None else jnp.asarray(labels))
    with pytest.raises(InputError, match="cannot be used for regression"):
        ml.meta.protonet(model, 3).adapt(params, support, KEY)


def test_at_least_one_way():
    with pytest.raises(InputError, match="num_ways must be a whole number of at least 1, but is 0"):
        ml.meta.protonet(plain_mlp(1), 0)


def test_an_untrained_step_lowers_the_loss():
    model, _, support, x = _setting()
    tasks = jax.tree.map(lambda a: a[None], ml.Task(support, Batch(x, jnp.array([0, 1, 2, 0, 1, 2], jnp.int32))))
    learner = ml.meta.protonet(model, 3)
    algorithm = ml.over_tasks(learner.init, ml.episodic(learner, cross_entropy), ml.mean(), optax.adam(0.02))
    step, state = jax.jit(algorithm.step), jax.jit(algorithm.init)(KEY, tasks)
    losses = []
    for t in range(30):
        state, metrics = step(state, tasks, jax.random.fold_in(KEY, t))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
@pytest.mark.optimised
def test_the_compiled_gradient_of_a_large_episode_is_the_uncompiled_one():
    """Of 60 ways and 5 shots: two slices of what was embedded together made XLA's compiled gradient crash on CPU."""
    model = ml.Model(lambda key, x: jnp.eye(64), lambda params, x, key=None: x @ params)
    labels = jnp.repeat(jnp.arange(60), 5)
    support, query = (Batch(jax.random.normal(jax.random.key(i), (300, 64)) / 8, labels) for i in (0, 1))
    step = ml.episodic(ml.meta.protonet(model, 60), cross_entropy)
    compiled = jax.jit(step)(jnp.eye(64), ml.Task(support, query), KEY).direction
    with jax.disable_jit():
        plain = step(jnp.eye(64), ml.Task(support, query), KEY).direction
    np.testing.assert_allclose(compiled, plain, rtol=1e-3, atol=1e-5)
