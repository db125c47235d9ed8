"""Weights from losses: each against its formula, step by step, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn import aggregate as agg
from metalearn.core import InputError

KEY = jax.random.key(1)
LOSSES = np.array([[1.0, 2.0, 0.5], [0.9, 1.0, 0.6], [0.7, 0.8, 0.4], [0.6, 0.9, 0.3], [0.5, 0.7, 0.2]])
RATE = 0.1


pytestmark = pytest.mark.usefixtures("double")


def weights(aggregator, losses=LOSSES, present=None):
    """The weights of every step, read off unit vectors, as `over_losses` reads them."""
    state, found = aggregator.init(None), []
    for t, row in enumerate(losses):
        key = jax.random.fold_in(KEY, t)
        w, after = aggregator.weigh(None, state, losses=jnp.asarray(row), weights=present, key=key)
        direction, state = aggregator.update(
            jnp.eye(len(row)), state, losses=jnp.asarray(row), weights=present, key=key
        )
        np.testing.assert_allclose(direction, w, rtol=1e-12)
        jax.tree.map(np.testing.assert_array_equal, after, state)
        found.append(np.asarray(w))
    return np.stack(found)


def test_fixed():
    np.testing.assert_array_equal(weights(agg.fixed([1.0, 0.5, 2.0])), [[1.0, 0.5, 2.0]] * 5)


@pytest.mark.parametrize("regression", [None, (False, True, False)])
def test_uncertainty(regression):
    s, expected = np.zeros(3), []
    c = np.ones(3) if regression is None else np.where(regression, 0.5, 1.0)
    for losses in LOSSES:
        expected.append(c * np.exp(-s))
        s = s - RATE * (0.5 - c * np.exp(-s) * losses)
    np.testing.assert_allclose(weights(agg.uncertainty(3, optax.sgd(RATE), regression=regression)), expected, rtol=1e-9)


@pytest.mark.slow
def test_imtl_l_and_its_optimum():
    s, expected = np.zeros(3), []
    for losses in LOSSES:
        expected.append(np.exp(s))
        s = s - RATE * (np.exp(s) * losses - 1)
    np.testing.assert_allclose(weights(agg.imtl_l(3, optax.sgd(RATE))), expected, rtol=1e-9)
    last = weights(agg.imtl_l(3, optax.sgd(0.5)), np.tile([[0.3, 1.0, 4.0]], (60, 1)) * 0.2)[-1]
    np.testing.assert_allclose(last * 0.2 * np.array([0.3, 1.0, 4.0]), 1, rtol=1e-2)


@pytest.mark.slow
def test_dwa_goes_by_the_last_two_periods():
    means = LOSSES[:4].reshape(2, 2, 3).mean(1)
    ratio = means[1] / means[0]
    expected = 3 * np.exp(ratio / 1.5) / np.exp(ratio / 1.5).sum()
    found = weights(agg.dwa(3, period=2, temperature=1.5))
    np.testing.assert_array_equal(found[:4], np.ones((4, 3)))
    np.testing.assert_allclose(found[4], expected, rtol=1e-9)


def test_random_is_a_softmax_of_normals_anew_every_step():
    found = weights(agg.random())
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert len({tuple(row) for row in found}) == 5
    many = jax.vmap(lambda k: agg.random().weigh(None, (), losses=jnp.ones(3), key=k)[0])(jax.random.split(KEY, 4000))
    logits = np.log(many) - np.log(many).mean(1, keepdims=True)
    np.testing.assert_allclose(logits.std(0), np.sqrt(2 / 3), rtol=0.05)  # of centred standard normals
    with pytest.raises(InputError, match="needs a key"):
        agg.random().update(jnp.eye(3), (), losses=jnp.ones(3))


def test_geometric_is_the_gradient_of_the_geometric_mean():
    expected = [jax.grad(lambda x: jnp.prod(x) ** (1 / 3))(jnp.asarray(row)) for row in LOSSES]
    np.testing.assert_allclose(weights(agg.geometric()), expected, rtol=1e-9)
    assert np.all(weights(agg.geometric(), np.array([[0.0, 1.0, 2.0]])) == 0)


@pytest.mark.slow
def test_priority_is_a_focal_loss_of_running_performance():
    k, expected = np.exp(-LOSSES[0]), []
    for t, losses in enumerate(LOSSES):
        k = k if t == 0 else 0.8 * k + 0.2 * np.exp(-losses)
        expected.append(-((1 - k) ** 2.0) * np.log(k))
    np.testing.assert_allclose(weights(agg.priority(3, focus=2.0, decay=0.2)), expected, rtol=1e-9)


def test_tchebycheff_is_the_gradient_of_the_smooth_maximum():
    preference, ideal, mu = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.0, 0.2]), 0.05

    def smooth(x):
        return mu * jax.nn.logsumexp(preference * (x - ideal) / mu)

    expected = [jax.grad(smooth)(jnp.asarray(row)) for row in LOSSES]
    np.testing.assert_allclose(weights(agg.tchebycheff(preference, ideal=ideal, smoothness=mu)), expected, rtol=1e-9)
    sharp = weights(agg.tchebycheff(smoothness=1e-3))  # the maximum itself
    np.testing.assert_allclose(sharp, np.eye(3)[LOSSES.argmax(1)] / 3, atol=1e-6)


MADE = {
    "fixed": lambda: agg.fixed([1.0, 2.0, 3.0]),
    "uncertainty": lambda: agg.uncertainty(3, optax.sgd(RATE)),
    "imtl_l": lambda: agg.imtl_l(3, optax.sgd(RATE)),
    "dwa": lambda: agg.dwa(3, 1),
    "random": agg.random,
    "geometric": agg.geometric,
    "priority": lambda: agg.priority(3),
    "tchebycheff": agg.tchebycheff,
}


ALONE = {
    "fixed": lambda: agg.fixed([1.0]),
    "uncertainty": lambda: agg.uncertainty(1, optax.sgd(RATE)),
    "uncertainty of a regression": lambda: agg.uncertainty(1, optax.sgd(RATE), regression=[True]),
    "imtl_l": lambda: agg.imtl_l(1, optax.sgd(RATE)),
    "dwa": lambda: agg.dwa(1, 1),
    "random": agg.random,
    "geometric": agg.geometric,
    "priority": lambda: agg.priority(1),
    "tchebycheff": agg.tchebycheff,
}


@pytest.mark.parametrize("name", [n if n == "geometric" else pytest.param(n, marks=pytest.mark.slow) for n in MADE])
def test_an_absent_task_has_no_weight_and_changes_nobodys(name):
    losses = LOSSES.copy()
    losses[:, 1] = np.nan
    found = weights(MADE[name](), losses, jnp.array([3.0, 0.0, 1.0]))
    assert np.all(found[:, 1] == 0)
    assert np.all(np.isfinite(found))
    if name != "random":
        other = LOSSES.copy()
        other[:, 1] = 7.0
        np.testing.assert_array_equal(found, weights(MADE[name](), other, jnp.array([3.0, 0.0, 1.0])))


@pytest.mark.parametrize("name", [n if n == "geometric" else pytest.param(n, marks=pytest.mark.slow) for n in MADE])
def test_none_looks_at_directions(name):
    aggregator = MADE[name]()
    assert aggregator.linear
    rows = np.random.RandomState(0).randn(3, 7)
    direction, _ = aggregator.update(jnp.asarray(rows), aggregator.init(None), losses=jnp.asarray(LOSSES[0]), key=KEY)
    w, _ = aggregator.weigh(None, aggregator.init(None), losses=jnp.asarray(LOSSES[0]), key=KEY)
    np.testing.assert_allclose(direction, np.asarray(w) @ rows, rtol=1e-9)


@pytest.mark.parametrize("name", [n if n == "imtl_l" else pytest.param(n, marks=pytest.mark.slow) for n in ALONE])
def test_one_task_has_its_own_gradient(name):
    np.testing.assert_allclose(weights(ALONE[name](), LOSSES[:, :1]), 1, rtol=1e-12)


def test_losses_are_needed():
    with pytest.raises(InputError, match="losses"):
        agg.geometric().update(jnp.eye(3), ())


@pytest.mark.slow
def test_before_changes_every_update_by_itself():
    def clipped(u):
        return u * jnp.minimum(1, 1 / jnp.linalg.norm(u))

    rows = jnp.array([[3.0, 4.0], [0.1, 0.2], [0.0, -2.0]])
    for aggregator in (agg.mean(), agg.mgda()):
        direction, _ = agg.before(clipped, aggregator).update(rows, ())
        expected, _ = aggregator.update(jax.vmap(clipped)(rows), ())
        np.testing.assert_allclose(direction, expected, rtol=1e-12)
    assert agg.before(clipped, agg.mean()).each is not None
    assert not agg.before(clipped, agg.mean()).linear
