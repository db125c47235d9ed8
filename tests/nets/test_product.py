import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metalearn.nets._product import Dense, product


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(3, 40, 2), (130, 40, 20), (3, 40, 20), (3, 2, 40)])
def test_product_and_its_derivatives_are_those_of_a_matrix_product(rows, inputs, outputs):
    draw = np.random.default_rng(0).normal
    x, kernel = (jnp.asarray(draw(size=shape), jnp.float32) for shape in ((rows, inputs), (inputs, outputs)))

    def second(times):
        inner = jax.grad(lambda kernel: jnp.sin(times(x, kernel)).sum())
        return jax.grad(lambda kernel: jnp.cos(times(x, kernel - 0.1 * inner(kernel))).sum())(kernel)

    np.testing.assert_allclose(second(product), second(jnp.matmul), rtol=1e-4, atol=1e-4)
    tangents = jax.jvp(product, (x, kernel), (x, kernel))[1]  # forward mode too
    np.testing.assert_allclose(tangents, 2 * x @ kernel, rtol=1e-4, atol=1e-4)


def test_the_kernel_s_derivative_has_more_columns_than_rows_where_that_is_faster():
    """What XLA is given: outputs times inputs, behind a barrier, for few outputs; as it comes for many of few rows."""

    def program(rows, inputs, outputs):
        x, kernel = jnp.ones((rows, inputs)), jnp.ones((inputs, outputs))
        return jax.jit(jax.grad(lambda kernel: product(x, kernel).sum())).lower(kernel).as_text()

    assert "optimization_barrier" in program(3, 40, 2)
    assert "optimization_barrier" in program(130, 40, 20)
    assert "optimization_barrier" not in program(3, 40, 20)


def test_dense_is_flax_s(key):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 30)), jnp.float32)
    ours, flax_s = Dense(3), nn.Dense(3)
    params = ours.init(key, x)
    np.testing.assert_allclose(ours.apply(params, x), flax_s.apply(params, x), rtol=1e-6)
    assert jax.tree.structure(params) == jax.tree.structure(flax_s.init(key, x))
