"""Clients that do not answer, or answer what is not finite, in every algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _regression import ALGORITHMS, KEY, MODEL, RATE, STEPS, N, assert_near, clients, criterion, some_slow

import metalearn as ml
from metalearn import federated as fl
from metalearn.host import NonFiniteLoss

pytestmark = pytest.mark.usefixtures("double")


def spoiled(tasks, who):
    """The same clients, with a label of `who` that is not a number."""
    y = tasks.support.y.at[jnp.asarray(who), 0].set(jnp.nan)
    return tasks._replace(support=tasks.support._replace(y=y))


def without(tasks, who):
    mask = tasks.support.mask.at[jnp.asarray(who)].set(0)
    return tasks._replace(support=tasks.support._replace(mask=mask))


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.isfinite(a).all()
        assert_near(a, b)


@pytest.mark.parametrize("name", some_slow(ALGORITHMS))
def test_who_is_absent_and_who_is_dropped(name):
    """A client with a NaN is an absent one; and a round without anyone, absent or dropped, changes nothing."""
    algorithm = ALGORITHMS[name](num_steps=STEPS, drop_nonfinite=True)
    tasks, step = clients(query=name == "perfedavg"), jax.jit(algorithm.step)
    state, metrics = step(algorithm.init(KEY, tasks), tasks, KEY)
    assert int(metrics["dropped"]) == 0
    dropped, metrics = step(state, spoiled(tasks, [1]), KEY)
    absent, expected = step(state, without(tasks, [1]), KEY)
    assert int(metrics["dropped"]) == 1 and int(expected["dropped"]) == 0
    same(dropped, absent)
    assert_near(metrics["loss"], expected["loss"])
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(jax.tree.leaves(dropped), jax.tree.leaves(state)))
    everyone = list(range(N))
    nobody, _ = step(state, without(tasks, everyone), KEY)
    same(nobody, state)
    nobody, metrics = step(state, spoiled(tasks, everyone), KEY)
    same(nobody, state)
    assert int(metrics["dropped"]) == N


def test_a_round_without_anyone_goes_on_with_the_momentum():
    algorithm = ml.federated.fedavg(MODEL, criterion, optax.sgd(RATE), server=fl.fedavgm(1.0), num_steps=STEPS)
    tasks, step = clients(), jax.jit(algorithm.step)
    start = algorithm.init(KEY, tasks)
    state, _ = step(start, tasks, KEY)
    nobody, _ = step(state, without(tasks, list(range(N))), KEY)
    for name in ("body", "head"):
        moved = state.params[name] - start.params[name]
        assert_near(nobody.params[name], state.params[name] + 0.9 * moved)


def _cohorts(key):
    return clients()


def test_run_stops_at_what_is_not_finite_and_keeps_the_last_good_checkpoint(tmp_path):
    """Rate 10 multiplies the error about 20-fold a step, until float64 ends."""
    algorithm = fl.fedavg(MODEL, criterion, optax.sgd(10.0), num_steps=8)
    options = {"key": KEY, "checkpoint_every": 5, "log_every": 5, "progress": False, "tensorboard": False}
    with pytest.raises(NonFiniteLoss) as error:
        ml.run(algorithm, _cohorts, 100, folder=tmp_path, **options)
    message = str(error.value)
    assert "not finite after step" in message or "The loss is" in message
    assert "the last good checkpoint is that of step" in message and message.count(". ") == 0
    saved = [int(word.strip(".")) for word in message.split() if word.strip(".").isdigit()][-1]
    assert saved >= 5 and saved % 5 == 0
    state, _ = ml.run(algorithm, _cohorts, saved, folder=tmp_path, **options)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_run_goes_on_where_such_updates_are_dropped():
    algorithm = fl.fedavg(MODEL, criterion, optax.sgd(RATE), num_steps=2, drop_nonfinite=True)
    options = {"key": KEY, "log_every": 3, "progress": False}
    state, history = ml.run(algorithm, lambda key: spoiled(clients(), [0]), 3, **options)
    assert history[0]["train/dropped"] == 1 and np.isfinite(history[0]["train/loss"])
    kept, _ = ml.run(algorithm, lambda key: without(clients(), [0]), 3, **options)
    same(state, kept)


@pytest.mark.parametrize("masked", [True, False])
def test_clients_without_a_single_example_that_counts_are_noticed(masked, capfd):
    x = jnp.ones((4, 5, 2))
    tasks = ml.Task(ml.Batch(x, x.sum(-1, keepdims=True), jnp.full((4, 5), 0.0 if masked else 1.0)))
    model = ml.from_linen(ml.nets.MLP([1]))
    algorithm = ml.federated.fedavg(model, ml.squared_error, optax.sgd(0.1), num_epochs=1, batch_size=5)
    state, _ = ml.run(algorithm, lambda key: tasks, 20, key=jax.random.key(0), log_every=5, progress=False)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    sentence = "warning: the loss was exactly 0 in each of 20 steps; where all weights or masks are 0, nothing is"
    assert capfd.readouterr().err.count(sentence) == masked
