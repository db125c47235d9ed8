import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metalearn.core import InputError, Statistic
from metalearn.nets import MLP, from_linen

X = jax.random.normal(jax.random.key(5), (8, 3))


def is_statistic(leaf):
    return isinstance(leaf, Statistic)


class WithMode(nn.Module):
    """Flax's own layers under every name for the mode that is in use."""

    @nn.compact
    def forward(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


class Train(WithMode):
    def __call__(self, x, train=True):
        return self.forward(x, train)


class Training(WithMode):
    def __call__(self, x, *, training):
        return self.forward(x, training)


class IsTraining(WithMode):
    def __call__(self, x, is_training):
        return self.forward(x, is_training)


class Deterministic(WithMode):
    def __call__(self, x, deterministic=True):
        return self.forward(x, not deterministic)


class Both(WithMode):
    def __call__(self, x, deterministic, use_running_average):
        assert deterministic == use_running_average
        return self.forward(x, not deterministic)


@pytest.mark.parametrize("module", [Train, Training, IsTraining, Deterministic, Both])
def test_the_mode_is_passed_under_the_name_that_the_module_uses(module, key):
    model = from_linen(module())
    params = model.init(key, X)
    evaluation = X @ params["params"]["Dense_0"]["kernel"] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(model.apply(params, X), evaluation, atol=1e-5)
    outputs, statistics = model.train(params, X, key)
    assert 0 < int((outputs == 0).sum()) < outputs.size  # dropout
    np.testing.assert_array_equal(outputs, model.apply(params, X, key))
    mean = (X @ params["params"]["Dense_0"]["kernel"]).mean(0)
    np.testing.assert_allclose(statistics["batch_stats"]["BatchNorm_0"]["mean"].value, 0.1 * mean, atol=1e-6)


def test_statistics_have_the_structure_of_the_parameters(key):
    model = from_linen(Train())
    params = model.init(key, X)
    _, statistics = model.train(params, X, key)
    structure = jax.tree.structure(params, is_leaf=is_statistic)
    assert jax.tree.structure(statistics, is_leaf=lambda leaf: leaf is None or is_statistic(leaf)) == structure
    assert all(is_statistic(leaf) for leaf in jax.tree.leaves(statistics, is_leaf=is_statistic))
    assert jax.tree.leaves(statistics["params"]) == []


def test_a_module_without_statistics_gives_none(key):
    model = from_linen(MLP([4, 1]))
    params = model.init(key, X)
    outputs, statistics = model.train(params, X, key)
    np.testing.assert_array_equal(outputs, model.apply(params, X))
    assert jax.tree.leaves(statistics) == []
    assert statistics == jax.tree.map(lambda _: None, params)


def test_init_gives_what_the_module_gives(key):
    params = from_linen(Train()).init(key, X)
    expected = Train().init(key, X, train=False)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params["params"], expected["params"]))
    assert params["batch_stats"]["BatchNorm_0"]["var"].value.tolist() == [1.0] * 4


def test_a_module_that_knows_no_mode(key):
    model = from_linen(nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]))
    params = model.init(key, X)
    np.testing.assert_array_equal(model.apply(params, X), model.apply(params, X, key))

    always = from_linen(nn.BatchNorm(use_running_average=False))  # writes in evaluation too, and that is dropped
    params = always.init(key, X)
    np.testing.assert_allclose(always.apply(params, X).mean(0), np.zeros(3), atol=1e-6)


def test_no_gradient_reaches_statistics_in_training(key):
    model = from_linen(Train())
    params = model.init(key, X)
    gradient = jax.grad(lambda params: (model.train(params, X, key)[0] ** 2).sum())(params)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(gradient["batch_stats"]))


def test_inputs_that_do_not_fit_are_refused_in_one_sentence(key):
    model = from_linen(MLP([4, 1]))
    params = model.init(key, X)
    with pytest.raises(
        InputError, match=r"x of shape \[8, 2\] does not fit the model's parameters: .*hidden_0"
    ) as error:
        model.apply(params, X[:, :2])
    assert "http" not in str(error.value)
