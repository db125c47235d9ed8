import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from metalearn.core import InputError, Model, Statistic
from metalearn.nets import MLP, from_linen, from_nnx, with_head

X = jax.random.normal(jax.random.key(5), (8, 3))


def layers(items):
    return nnx.List(items) if hasattr(nnx, "List") else items  # from Flax 0.12 on


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.hidden_0, self.head = nnx.Linear(3, 40, rngs=rngs), nnx.Linear(40, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden_0(x)))


class Deep(nnx.Module):
    def __init__(self, rngs):
        self.stack = layers([nnx.Linear(3, 3, rngs=rngs) for _ in range(12)])
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for layer in self.stack:
            x = layer(x)
        return self.dropout(self.norm(x))


class Explicit(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.dropout = nnx.Linear(3, 50, rngs=rngs), nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        return self.dropout(self.linear(x), rngs=rngs)


class LinenDeep(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for i in range(12):
            x = nn.Dense(3, name=f"stack_{i}")(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)


def test_linen_and_nnx_and_a_plain_pair_agree_on_the_same_weights(key):
    model = from_nnx(lambda rngs: Plain(rngs))
    params = model.init(key, X)
    outputs = from_linen(MLP([40, 2])).apply({"params": params}, X)
    np.testing.assert_allclose(model.apply(params, X), outputs, atol=1e-6)

    def apply(params, x, key=None):
        hidden = jnp.maximum(x @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"].reshape(1, -1), 0)
        return hidden @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)

    np.testing.assert_allclose(Model(model.init, apply).apply(params, X), outputs, atol=1e-6)
    assert model.train is None


def test_linen_and_nnx_agree_on_running_statistics(key):
    ours = from_nnx(Deep)
    params = ours.init(key, X)
    theirs = from_linen(LinenDeep())
    others = theirs.init(key, X)
    linear = {f"stack_{i}": layer for i, layer in params["stack"].items()}
    affine = {name: params["norm"][name] for name in ("scale", "bias")}
    others = {**others, "params": {**linear, "norm": affine}}
    for _ in range(2):
        np.testing.assert_allclose(ours.apply(params, X), theirs.apply(others, X), atol=1e-5)
        _, new = ours.train(params, X, key)
        _, other = theirs.train(others, X, key)
        for name in ("mean", "var"):
            moved = other["batch_stats"]["norm"][name].value
            np.testing.assert_allclose(new["norm"][name].value, moved, rtol=1e-5, atol=1e-6)
        params = {**params, "norm": {**params["norm"], **{name: new["norm"][name] for name in ("mean", "var")}}}
        others = {**others, "batch_stats": other["batch_stats"]}


def test_parameters_are_a_dict_by_attribute_names(key):
    model = from_nnx(Deep)
    params = model.init(key, X)
    assert set(params) == {"stack", "norm"}
    assert set(params["norm"]) == {"scale", "bias", "mean", "var"}
    assert isinstance(params["norm"]["mean"], Statistic)
    assert isinstance(params["norm"]["scale"], jax.Array)
    _, statistics = model.train(params, X, key)
    kept = jax.tree.leaves(statistics, is_leaf=lambda leaf: isinstance(leaf, Statistic))
    assert len(kept) == 2
    assert all(isinstance(leaf, Statistic) for leaf in kept)
    is_leaf = lambda leaf: leaf is None or isinstance(leaf, Statistic)  # noqa: E731
    assert jax.tree.structure(statistics, is_leaf=is_leaf) == jax.tree.structure(params, is_leaf=is_leaf)


def test_init_gives_what_the_module_gives(key):
    model = from_nnx(Deep)
    module = Deep(nnx.Rngs(key))
    module.eval()
    np.testing.assert_allclose(model.apply(model.init(key, X), X), module(X), atol=1e-6)
    other = model.init(jax.random.key(1), X)
    assert jnp.abs(other["stack"][0]["kernel"] - model.init(key, X)["stack"][0]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("module", [Deep, Explicit])
def test_dropout_acts_only_with_a_key(module, key):
    model = from_nnx(module)
    params = model.init(key, X)
    np.testing.assert_array_equal(model.apply(params, X), model.apply(params, X))
    assert not jnp.any(model.apply(params, X) == 0)
    one, again, two = (model.apply(params, X, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert jnp.any((one == 0) != (two == 0))
    assert 0.2 < float((one == 0).mean()) < 0.8


def test_under_jit_vmap_and_two_derivatives(key):
    model = from_nnx(lambda rngs: Plain(rngs))
    keys = jax.random.split(key, 3)
    params = jax.jit(jax.vmap(lambda key: model.init(key, X)))(keys)

    def loss(params):
        return (model.apply(params, X) ** 2).mean()

    def after_a_step(params):
        return loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)))

    together = jax.jit(jax.vmap(jax.grad(after_a_step)))(params)
    alone = jax.jit(jax.grad(after_a_step))(jax.tree.map(lambda leaf: leaf[1], params))
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b, atol=1e-5)


def test_head_on_an_nnx_body(key):
    model = with_head(from_nnx(Deep), 4)
    params = model.init(key, X)
    outputs, statistics = model.train(params, X, key)
    assert outputs.shape == (8, 4)
    assert len(jax.tree.leaves(statistics)) == 2


def test_a_module_in_place_of_a_factory_is_refused():
    with pytest.raises(InputError, match="function of rngs"):
        from_nnx(Plain(nnx.Rngs(0)))
