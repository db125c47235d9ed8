"""LeNet: the sizes of the papers, and channel dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metalearn as ml


@pytest.mark.parametrize(("side", "kernels", "into"), [(28, (5, 5), 320), (36, (9, 5), 500)])
def test_sizes_are_those_of_the_papers(side, kernels, into):
    model = ml.from_linen(ml.nets.LeNet(kernels=kernels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 1)))["params"]
    assert shapes["hidden"]["kernel"].shape == (into, 50)
    assert shapes["conv_0"]["kernel"].shape == (kernels[0], kernels[0], 1, 10)
    assert shapes["conv_1"]["kernel"].shape == (5, 5, 10, 20)


@pytest.mark.slow
def test_dropout_takes_whole_channels_and_only_in_training():
    key = jax.random.key(0)
    x = jax.random.uniform(key, (2, 16, 16, 1)) + 0.1
    kept = ml.nets.LeNet(hidden=4)
    params = kept.init(key, x)
    np.testing.assert_array_equal(kept.apply(params, x), kept.apply(params, x))
    _, seen = kept.apply(params, x, True, rngs={"dropout": key}, capture_intermediates=True)
    dropped = seen["intermediates"]["Dropout_0"]["__call__"][0]  # [2, 1, 1, 20]
    _, seen = kept.apply(params, x, False, capture_intermediates=True)
    before = seen["intermediates"]["Dropout_0"]["__call__"][0]
    gone = np.all(np.asarray(dropped) == 0, (1, 2)) & np.any(np.asarray(before) > 0, (1, 2))
    assert 0 < gone.mean() < 1
    expected = np.where(gone[:, None, None], 0, 2 * np.asarray(before))
    np.testing.assert_allclose(dropped, expected, rtol=1e-6)
    with pytest.raises(ml.InputError, match="as many"):
        ml.nets.LeNet(filters=(1, 2, 3)).init(key, x)
