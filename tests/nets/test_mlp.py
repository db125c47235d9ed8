import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metalearn.core import InputError
from metalearn.nets import MLP, from_linen


def test_value_and_paths(key):
    x = jax.random.normal(key, (3, 2))
    params = MLP([4, 5, 1]).init(key, x)["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "hidden_0": {"kernel": (2, 4), "bias": (4,)},
        "hidden_1": {"kernel": (4, 5), "bias": (5,)},
        "head": {"kernel": (5, 1), "bias": (1,)},
    }
    hidden = jnp.tanh(x @ params["hidden_0"]["kernel"])
    hidden = jnp.tanh(hidden @ params["hidden_1"]["kernel"])
    outputs = MLP([4, 5, 1], jnp.tanh).apply({"params": params}, x)
    np.testing.assert_allclose(outputs, hidden @ params["head"]["kernel"], rtol=1e-5, atol=1e-6)


def test_images_are_flattened(key):
    x = jax.random.normal(key, (3, 4, 4, 2))
    params = MLP([6, 5]).init(key, x)
    assert params["params"]["hidden_0"]["kernel"].shape == (32, 6)
    np.testing.assert_array_equal(MLP([6, 5]).apply(params, x), MLP([6, 5]).apply(params, x.reshape(3, 32)))
    assert MLP([6, 5]).apply(params, x[:0]).shape == (0, 5)


def test_initial_weights(key):
    x = jnp.zeros((1, 1))
    small = MLP([400, 400, 1], kernel_init=nn.initializers.truncated_normal(0.01)).init(key, x)["params"]
    for layer in small.values():
        assert float(jnp.abs(layer["kernel"]).max()) <= 0.02
        assert not jnp.any(layer["bias"])
    # a normal cut at two deviations has 0.8796 of its deviation
    np.testing.assert_allclose(float(small["hidden_1"]["kernel"].std()), 0.008796, rtol=0.01)
    zero = MLP([4, 2], head_init=nn.initializers.zeros).init(key, x)["params"]
    assert jnp.any(zero["hidden_0"]["kernel"])
    assert not jnp.any(zero["head"]["kernel"])


def test_dropout_acts_only_with_a_key(key):
    x = jax.random.normal(key, (3, 2))
    model = from_linen(MLP([50, 2], dropout=0.5))
    params = model.init(key, x)
    np.testing.assert_array_equal(model.apply(params, x), MLP([50, 2]).apply(params, x))
    assert jnp.abs(model.apply(params, x, key) - model.apply(params, x)).max() > 1e-3


def test_no_layers_are_refused(key):
    with pytest.raises(InputError, match="features is empty"):
        MLP([]).init(key, jnp.zeros((1, 1)))
