import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from metalearn.core import InputError, Model, Statistic
from metalearn.nets import Conv4, from_linen

X = jax.random.uniform(jax.random.key(7), (6, 28, 28, 1))
MAML = Conv4(5, features=8, scale=False, head_init=nn.initializers.normal(1.0))
REPTILE = Conv4(5, features=8, head="flatten")
PROTONET = Conv4(features=8, norm="running", strides=1, pool=True, head="none", epsilon=1e-5)
LAYER = Conv4(5, features=8, norm="layer")


def paths(tree):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]}


def by_hand(params, x, *, strides, pool, head, epsilon):
    """The same network on XLA's own convolution and pooling, with batch statistics."""
    for i in range(4):
        block = params[f"block_{i}"]
        x = lax.conv_general_dilated(
            x, block["conv"]["kernel"], (strides, strides), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x + block["conv"]["bias"].reshape(1, 1, 1, -1)
        x = (x - x.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(x.var((0, 1, 2), keepdims=True) + epsilon)
        x = x * block["norm"].get("scale", jnp.ones(8)).reshape(1, 1, 1, -1) + block["norm"]["bias"].reshape(
            1, 1, 1, -1
        )
        x = jnp.maximum(x, 0)
        if pool:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.mean((1, 2)) if head == "mean" else x.reshape(x.shape[0], -1)
    return x if head == "none" else x @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)


def jitted(net):
    model = from_linen(net)
    return Model(*(jax.jit(function) for function in model))


def weights(net):
    """Random parameters without `init`, which takes long to compile."""
    shapes = jax.eval_shape(from_linen(net).init, jax.random.key(0), X)
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return {
        name: tree if name == "params" else jax.tree.map(lambda x: 1 + abs(x), tree) for name, tree in drawn.items()
    }


@pytest.mark.parametrize("net", [MAML, REPTILE, PROTONET], ids=["maml", "reptile", "protonet"])
def test_the_networks_of_the_papers_equal_a_network_written_by_hand(net, key):
    model = jitted(net)
    params = weights(net)
    options = {"strides": net.strides, "pool": net.pool, "head": net.head, "epsilon": net.epsilon}
    expected = jax.jit(lambda params: by_hand(params, X, **options))(params["params"])
    outputs, _ = model.train(params, X, key)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_shapes_at_28_by_28(key):
    def shape(net):
        return jax.eval_shape(lambda: net.init_with_output(key, X)[0]).shape

    assert shape(Conv4(strides=1, pool=True, head="none")) == (6, 64)
    assert shape(Conv4(head="none")) == (6, 2 * 2 * 64)
    assert shape(MAML) == shape(REPTILE) == (6, 5)
    params = jax.eval_shape(Conv4(5, head="flatten").init, key, X)["params"]
    assert params["head"]["kernel"].shape == (256, 5)
    assert shape(Conv4(20, features=32, strides=1, pool=True, head="flatten")) == (6, 20)


def test_parameter_paths(key):
    blocks = [f"['block_{i}']" for i in range(4)]
    conv = {f"['params']{b}['conv']['{n}']" for b in blocks for n in ("kernel", "bias")}
    offset = {f"['params']{b}['norm']['bias']" for b in blocks}
    scale = {f"['params']{b}['norm']['scale']" for b in blocks}
    head = {"['params']['head']['kernel']", "['params']['head']['bias']"}
    running = {f"['batch_stats']{b}['norm']['{n}'].value" for b in blocks for n in ("mean", "var")}

    def of(net):
        return paths(jax.eval_shape(from_linen(net).init, key, X))

    assert of(MAML) == conv | offset | head
    assert of(REPTILE) == of(LAYER) == conv | offset | scale | head
    assert of(PROTONET) == conv | offset | scale | running
    assert of(Conv4(5, norm="none")) == conv | head


def test_batch_norm_is_transductive_running_and_layer_norm_are_not(key):
    def alone(net):
        model = jitted(net)
        params = weights(net)
        return jnp.abs(model.apply(params, X)[:2] - model.apply(params, X[:2])).max()

    assert alone(REPTILE) > 1e-3
    assert alone(PROTONET) < 1e-5
    assert alone(LAYER) < 1e-5


def test_training_moves_running_statistics_by_the_batch(key):
    model = jitted(PROTONET)
    params = weights(PROTONET)
    _, statistics = model.train(params, X, key)
    first = lax.conv_general_dilated(
        X, params["params"]["block_0"]["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first = first + params["params"]["block_0"]["conv"]["bias"].reshape(1, 1, 1, -1)
    before = params["batch_stats"]["block_0"]["norm"]
    moved = statistics["batch_stats"]["block_0"]["norm"]
    assert isinstance(moved["mean"], Statistic)
    np.testing.assert_allclose(moved["mean"].value, 0.9 * before["mean"].value + 0.1 * first.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(moved["var"].value, 0.9 * before["var"].value + 0.1 * first.var((0, 1, 2)), atol=1e-6)


def test_initial_weights_are_those_of_the_papers(key):
    params = jitted(MAML).init(key, X)["params"]
    limit = np.sqrt(6 / (9 * 8 + 9 * 8))  # Glorot: 6 / (fan-in + fan-out)
    kernel = params["block_1"]["conv"]["kernel"]
    assert 0.98 * limit < float(jnp.abs(kernel).max()) <= limit
    assert 0.6 < float(params["head"]["kernel"].std()) < 1.4
    assert not any(jnp.any(params[f"block_{i}"]["conv"]["bias"]) for i in range(4))


def test_dropout_acts_only_with_a_key(key):
    net = Conv4(5, features=8, norm="none", dropout=1.0)  # drops all, so that only the head's bias is left
    model, params = jitted(net), weights(net)
    plain = jitted(net.clone(dropout=0.0)).apply(params, X)
    np.testing.assert_allclose(model.apply(params, X), plain, rtol=1e-6)
    bias = np.broadcast_to(params["params"]["head"]["bias"], (6, 5))
    np.testing.assert_array_equal(model.apply(params, X, key), bias)
    assert np.abs(plain - bias).max() > 1e-3


def test_images_without_a_channel_axis(key):
    model = jitted(REPTILE)
    params = weights(REPTILE)
    np.testing.assert_array_equal(model.apply(params, X[..., 0]), model.apply(params, X))


@pytest.mark.parametrize(
    ("net", "x", "message"),
    [
        (Conv4(5, norm="group"), X, "norm is 'group', but must be one of batch, running, layer, none"),
        (Conv4(5, head="max"), X, "head is 'max'"),
        (Conv4(), X, "num_outputs is missing"),
        (MAML, X[:, 0, :, 0], r"x has shape \[6, 28\]"),
        (PROTONET, X[:, :8, :8], "pool needs images of 2x2"),
    ],
)
def test_what_cannot_be_is_refused(net, x, message, key):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(net.init, key, x)
