import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import Statistic
from metalearn.penalty import proximal


def _params(scale=1.0):
    return {"a": scale * jnp.array([1.0, 2.0]), "b": [scale * jnp.array(3.0), Statistic(jnp.array(4.0))]}


def test_the_value_is_half_the_strength_times_the_squared_distance(key):
    penalty = proximal(0.6)
    anchor = penalty.init(_params())
    moved = {"a": jnp.array([2.0, 4.0]), "b": [jnp.array(0.0), Statistic(jnp.array(99.0))]}
    np.testing.assert_allclose(penalty.value(moved, anchor, None, key), 0.3 * (1 + 4 + 9), rtol=1e-6)
    np.testing.assert_allclose(penalty.value(_params(), anchor, None, key), 0.0)


def test_the_gradient_is_the_strength_times_the_difference_and_spares_statistics(key):
    penalty = proximal(0.5)
    grads = jax.grad(penalty.value)(_params(3.0), penalty.init(_params()), None, key)
    np.testing.assert_allclose(grads["a"], [1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(grads["b"][0], 3.0, rtol=1e-6)
    np.testing.assert_allclose(grads["b"][1].value, 0.0)


def test_consolidation_moves_the_anchor(key):
    penalty = proximal(2.0)
    state = penalty.consolidate(penalty.init(_params()), _params(2.0), None, key)
    np.testing.assert_allclose(penalty.value(_params(2.0), state, None, key), 0.0)
    np.testing.assert_allclose(penalty.value(_params(), state, None, key), 1 + 4 + 9, rtol=1e-6)


def test_the_strength_vmaps(key):
    values = jax.vmap(lambda s: proximal(s).value(_params(2.0), proximal(s).init(_params()), None, key))(
        jnp.arange(3.0)
    )
    np.testing.assert_allclose(values, [0.0, 7.0, 14.0], rtol=1e-6)
