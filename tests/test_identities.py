"""Methods that are the same method under another name, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close, distance, float64, plain_mlp, regression_tasks, tiny_net

import metalearn as ml
from metalearn.core import Batch
from metalearn.metrics import cross_entropy, squared_error
from metalearn.penalty import proximal

KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def _model():
    return tiny_net()


def _moved(task_fn, aggregator, optimizer, tasks, init=None):
    """Shared parameters after an outer step."""
    init = init or (lambda key, task: _model().init(key, task.support.x))
    algorithm = ml.over_tasks(init, task_fn, aggregator, optimizer, mapping=ml.vmapped())

    @jax.jit
    def run(tasks):
        return algorithm.step(algorithm.init(KEY, tasks), tasks, KEY)[0].params

    return run(tasks)


def _direction(task_fn, params, tasks):
    """The updates of all tasks, `[K, ...]`."""
    keys = jax.random.split(KEY, len(tasks.id))
    return jax.jit(jax.vmap(task_fn, in_axes=(None, 0, 0)))(params, tasks, keys).direction


def _ragged(tasks, sizes):
    mask = (jnp.arange(tasks.support.x.shape[1])[None] < jnp.asarray(sizes)[:, None]).astype(float)
    return tasks._replace(support=tasks.support._replace(mask=mask))


def _client(rate=0.1, steps=3, **options):
    return ml.gradient_learner(_model(), squared_error, optax.sgd(rate), steps, **options)


def test_reptile_is_fedavg_where_clients_are_equal_and_only_there():
    tasks = regression_tasks(KEY, 4)
    task_fn = ml.difference(_client().adapt)
    reptile = _moved(task_fn, ml.mean(), optax.sgd(0.5), tasks)
    assert_close(reptile, _moved(task_fn, ml.weighted_mean(), optax.sgd(0.5), tasks))
    ragged = _ragged(tasks, [4, 1, 2, 3])
    reptile, fedavg = (_moved(task_fn, a, optax.sgd(0.5), ragged) for a in (ml.mean(), ml.weighted_mean()))
    assert distance(reptile, fedavg) > 1e-3


def test_the_reptile_learner_of_a_stateless_optimizer_is_plain_fit():
    tasks, options = regression_tasks(KEY, 4), (_model(), squared_error, optax.sgd(0.1), 3)
    learner = ml.meta.reptile(*options)
    shared = _moved(ml.difference(learner.adapt), ml.mean(), optax.sgd(0.5), tasks, learner.init)
    client = ml.gradient_learner(*options)
    assert_close(shared["model"], _moved(ml.difference(client.adapt), ml.mean(), optax.sgd(0.5), tasks, client.init))


def test_one_step_of_reptile_is_the_gradient_of_joint_training_times_the_rate():
    tasks, params = regression_tasks(KEY, 4), _model().init(KEY, jnp.zeros((1, 2)))
    one_step = _direction(ml.difference(_client(0.1, 1).adapt), params, tasks)
    joint = _direction(ml.gradient(ml.supervised(_model(), squared_error)), params, tasks)
    assert_close(one_step, jax.tree.map(lambda g: 0.1 * g, joint), rtol=1e-9)


def test_fedavg_of_one_full_batch_step_is_fedsgd():
    tasks = _ragged(regression_tasks(KEY, 4), [4, 1, 2, 3])
    fedavg = _moved(ml.difference(_client(0.1, None, num_epochs=1).adapt), ml.weighted_mean(), optax.sgd(1.0), tasks)
    loss = ml.supervised(_model(), squared_error)
    assert_close(fedavg, _moved(ml.gradient(loss), ml.weighted_mean(), optax.sgd(0.1), tasks))
    # … which is descent on the mean over everybody's real examples
    params = _model().init(jax.random.key(0), jnp.zeros((1, 2)))
    real = np.asarray(tasks.support.mask) > 0
    pooled = Batch(tasks.support.x[real], tasks.support.y[real])
    shared, _ = ml.weighted_mean().update(
        _direction(ml.gradient(loss), params, tasks), (), weights=tasks.support.mask.sum(1)
    )
    assert_close(shared, jax.grad(lambda p: loss(p, pooled, KEY)[0])(params), rtol=1e-9)


def test_fedprox_without_a_pull_is_fedavg_and_with_one_is_not():
    tasks = regression_tasks(KEY, 3)

    def shared(strength):
        client = _client(penalty=None if strength is None else proximal(strength))
        return _moved(ml.difference(client.adapt), ml.mean(), optax.sgd(1.0), tasks)

    fedavg = shared(None)
    assert_close(shared(0.0), fedavg)
    assert distance(shared(1.0), fedavg) > 1e-3


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_sgd_of_a_constant_rate_is_maml(first_order):
    tasks = regression_tasks(KEY, 3)
    options = {"num_steps": 2, "first_order": first_order}
    maml = ml.meta.maml(_model(), squared_error, optax.sgd(0.1), **options)
    meta_sgd = ml.meta.meta_sgd(_model(), squared_error, rate=0.1, **options)
    shared = meta_sgd.init(KEY, jax.tree.map(lambda a: a[0], tasks))
    both = _direction(ml.episodic(meta_sgd, squared_error), shared, tasks)
    assert_close(both["model"], _direction(ml.episodic(maml, squared_error), shared["model"], tasks), rtol=1e-9)
    assert all(jnp.abs(v).max() > 1e-4 for v in jax.tree.leaves(both["rates"]))  # and the rates have gradients too


def test_anil_of_every_layer_is_maml():
    tasks, params = regression_tasks(KEY, 3), _model().init(KEY, jnp.zeros((1, 2)))
    options = (_model(), squared_error, optax.sgd(0.1), 2)
    anil = _direction(ml.episodic(ml.meta.anil(*options, head="."), squared_error), params, tasks)
    assert_close(anil, _direction(ml.episodic(ml.meta.maml(*options), squared_error), params, tasks))


@pytest.mark.parametrize(("rate", "steps"), [(0.0, 2), (0.1, 0)])
def test_maml_that_does_not_move_is_joint_training_on_queries(rate, steps):
    tasks, params = regression_tasks(KEY, 3), _model().init(KEY, jnp.zeros((1, 2)))
    maml = ml.meta.maml(_model(), squared_error, optax.sgd(rate), steps)
    joint = ml.gradient(ml.supervised(_model(), squared_error))
    swapped = tasks._replace(support=tasks.query)
    expected = _direction(joint, params, swapped)
    assert_close(_direction(ml.episodic(maml, squared_error), params, tasks), expected, rtol=1e-9)


@pytest.mark.slow
def test_a_multi_step_loss_of_the_last_step_alone_is_maml():
    tasks, params = regression_tasks(KEY, 3), _model().init(KEY, jnp.zeros((1, 2)))
    maml = ml.meta.maml(_model(), squared_error, optax.sgd(0.1), 3, trajectory=True)
    multi = ml.episodic(maml, squared_error, step_weights=jnp.array([0.0, 0.0, 1.0]))
    plain = _direction(ml.episodic(maml, squared_error), params, tasks)
    assert_close(_direction(multi, params, tasks), plain, rtol=1e-9)
    spread = ml.episodic(maml, squared_error, step_weights=jnp.array([0.5, 0.3, 0.2]))
    assert distance(_direction(spread, params, tasks), plain) > 1e-2


def test_prototypes_are_a_linear_classifier():
    """-‖f - c‖² and 2 c·f - ‖c‖² differ by what is the same for every class (Snell et al. 2017, §2.3)."""
    model = plain_mlp(4, 3)
    support = Batch(jax.random.normal(KEY, (6, 2)), jnp.array([0, 1, 2, 0, 1, 2], jnp.int32))
    query = Batch(jax.random.normal(jax.random.key(4), (5, 2)), jnp.array([2, 1, 0, 0, 1], jnp.int32))
    params = jax.jit(model.init)(KEY, support.x)
    learner = ml.meta.protonet(model, 3)
    loss, _ = cross_entropy(learner.predict(learner.adapt(params, support, KEY), query.x), query)
    embedded = model.apply(params, support.x)
    means = (embedded[:3] + embedded[3:]) / 2
    linear = 2 * model.apply(params, query.x) @ means.T - (means**2).sum(1)[None]
    np.testing.assert_allclose(loss, cross_entropy(linear, query)[0], rtol=1e-12)
