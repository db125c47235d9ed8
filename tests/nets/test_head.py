import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metalearn.core import InputError, Model, Statistic
from metalearn.nets import MLP, from_linen, with_head

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))


def test_outputs_are_linear_in_the_features(key):
    body = from_linen(Body())
    model = with_head(body, 3)
    params = model.init(key, X)
    assert set(params) == {"body", "head"}
    assert params["head"]["kernel"].shape == (8, 3)
    assert params["head"]["bias"].tolist() == [0, 0, 0]
    params["head"]["bias"] = jnp.arange(3.0)
    expected = body.apply(params["body"], X) @ params["head"]["kernel"] + jnp.arange(3.0).reshape(1, 3)
    np.testing.assert_allclose(model.apply(params, X), expected, atol=1e-6)

    outputs, statistics = model.train(params, X, key)
    features, of_body = body.train(params["body"], X, key)
    np.testing.assert_allclose(outputs, features @ params["head"]["kernel"] + jnp.arange(3.0).reshape(1, 3), atol=1e-6)
    is_statistic = lambda leaf: isinstance(leaf, Statistic)  # noqa: E731
    assert statistics["head"] == {"kernel": None, "bias": None}
    assert jax.tree.structure(statistics["body"], is_leaf=is_statistic) == jax.tree.structure(
        of_body, is_leaf=is_statistic
    )


def test_a_plain_pair_needs_no_adapter(key):
    body = Model(lambda key, x: {"w": jnp.ones((2,))}, lambda params, x, key=None: x * params["w"].reshape(1, 2))
    model = with_head(body, 1, kernel_init=jax.nn.initializers.ones)
    params = model.init(key, jnp.ones((3, 2)))
    assert model.apply(params, jnp.array([[1.0, 2.0]])).tolist() == [[3.0]]
    assert model.train is None


def test_dropout_of_the_body_acts_only_with_a_key(key):
    x = jax.random.normal(key, (4, 3))
    model = with_head(from_linen(MLP([30, 20], dropout=0.5)), 2)
    params = model.init(key, x)
    assert jnp.abs(model.apply(params, x, key) - model.apply(params, x)).max() > 1e-3
    np.testing.assert_array_equal(model.train(params, x, key)[0], model.apply(params, x, key))


def test_features_that_are_no_vectors_are_refused(key):
    body = Model(lambda key, x: {}, lambda params, x, key=None: x)
    with pytest.raises(InputError, match=r"outputs are \[n, d\]"):
        with_head(body, 2).init(key, X[None])
