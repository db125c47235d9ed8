import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metalearn.nets import BatchNorm, LayerNorm

X = 3 * jax.random.normal(jax.random.key(0), (6, 4, 4, 5)) + 2
AFFINE = {"scale": jnp.linspace(0.5, 2, 5), "bias": jnp.linspace(-1, 1, 5)}


@pytest.mark.parametrize("train", [False, True])
def test_batch_statistics_are_used_in_evaluation_too(train):
    expected, _ = nn.BatchNorm(use_running_average=False, epsilon=1e-3).apply(
        {"params": AFFINE, "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}, X, mutable=["batch_stats"]
    )
    outputs = BatchNorm(epsilon=1e-3).apply({"params": AFFINE}, X, train)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert set(BatchNorm().init(jax.random.key(0), X)) == {"params"}


def test_running_statistics_follow_flax():
    ours = {"params": AFFINE, "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}
    theirs = ours
    norm = BatchNorm(running=True, momentum=0.9, epsilon=1e-5)
    for step in range(3):
        x = X * (step + 1)
        a, changed = norm.apply(ours, x, True, mutable=["batch_stats"])
        b, other = nn.BatchNorm(use_running_average=False, momentum=0.9).apply(theirs, x, mutable=["batch_stats"])
        np.testing.assert_allclose(a, b, atol=1e-5)
        ours, theirs = {**ours, **changed}, {**theirs, **other}
    for name in ("mean", "var"):
        np.testing.assert_allclose(ours["batch_stats"][name], theirs["batch_stats"][name], rtol=1e-5)
    expected = nn.BatchNorm(use_running_average=True).apply(theirs, X)
    np.testing.assert_allclose(norm.apply(ours, X, False), expected, atol=1e-5)


def test_running_statistics_move_by_one_minus_momentum():
    x = jnp.array([[1.0], [3.0]])  # mean 2, biased variance 1
    variables = BatchNorm(running=True).init(jax.random.key(0), x, True)
    assert variables["batch_stats"]["mean"][0] == 0
    assert variables["batch_stats"]["var"][0] == 1
    _, changed = BatchNorm(running=True, momentum=0.75).apply(variables, 3 * x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["mean"], [0.25 * 6])
    np.testing.assert_allclose(changed["batch_stats"]["var"], [0.75 + 0.25 * 9])


def test_second_derivatives_equal_flax():
    theirs = nn.BatchNorm(use_running_average=False, use_bias=False, use_scale=False, use_fast_variance=False)
    empty = {"batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}

    def through_a_step(norm):
        inner = jax.grad(lambda x: jnp.sin(norm(x)).sum())
        return jax.jit(jax.grad(lambda x: (jnp.cos(x) * inner(x)).sum()))(X)

    ours = through_a_step(lambda x: BatchNorm(use_scale=False).apply({"params": {"bias": jnp.zeros(5)}}, x))
    expected = through_a_step(lambda x: theirs.apply(empty, x, mutable=["batch_stats"])[0])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_normalises_every_example_over_all_its_axes():
    outputs = LayerNorm(epsilon=1e-5).apply({"params": AFFINE}, X)
    flat = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False).apply({}, X.reshape(6, -1)).reshape(X.shape)
    expected = flat * AFFINE["scale"].reshape(1, 1, 1, 5) + AFFINE["bias"].reshape(1, 1, 1, 5)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_half_precision_is_normalised_in_float32():
    x = (X + 100).astype(jnp.bfloat16)
    expected = BatchNorm().apply({"params": AFFINE}, x.astype(jnp.float32))
    np.testing.assert_array_equal(BatchNorm().apply({"params": AFFINE}, x), expected)
