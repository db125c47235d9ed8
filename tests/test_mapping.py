"""The same numbers, whatever the mapping; each against a plain loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _toys import assert_close, float64
from jax.sharding import AxisType, Mesh

from metalearn.core import InputError
from metalearn.mapping import auto, contains_convolution, scanned, sharded, vmapped


def _mesh(axis="tasks", shape=(8,)):
    names = (axis,) if isinstance(axis, str) else axis
    return Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), names)


_MAPPINGS = {
    "vmapped": vmapped,
    "scanned(1)": lambda: scanned(1),
    "scanned(3)": lambda: scanned(3),
    "scanned(100)": lambda: scanned(100),
    "sharded": lambda: sharded(_mesh()),
    "sharded, scanned(1)": lambda: sharded(_mesh(), "tasks", scanned(1)),
    "sharded over one of two axes": lambda: sharded(_mesh(("other", "tasks"), (2, 4)), "tasks", vmapped()),
    "sharded over an explicit mesh": lambda: sharded(jax.make_mesh((8,), ("tasks",), axis_types=(AxisType.Explicit,))),
    "auto": lambda: auto,
}


def _fn(scale, inputs):
    """Sums and stacks of several shapes and types, with a gradient taken inside."""
    gradient = jax.grad(lambda s: jnp.sum(jnp.sin(s * inputs["x"])))(scale)
    summand = {"gradient": gradient, "x": inputs["x"], "one": jnp.ones((), jnp.int32), "nothing": None}
    odd = jnp.outer(jnp.sin(inputs["x"]), jnp.arange(11.0))  # no dimension that eight devices divide
    return summand, (jnp.cos(inputs["x"]), inputs["i"]), {"scalar": jnp.sum(inputs["x"]), "odd": odd}


@pytest.mark.parametrize("count", [1, 8, 11])
@pytest.mark.parametrize("name", _MAPPINGS)
def test_every_mapping_equals_a_loop(name, count):
    with float64():
        xs = {"x": jax.random.normal(jax.random.key(0), (count, 3)), "i": jnp.arange(count, dtype=jnp.int32) + 5}
        total, kept, compared = jax.jit(functools.partial(_MAPPINGS[name](), _fn))(jnp.array(0.7), xs)
        x = np.asarray(xs["x"])
        np.testing.assert_allclose(total["gradient"], (x * np.cos(0.7 * x)).sum(), rtol=1e-12)
        np.testing.assert_allclose(total["x"], x.sum(0), rtol=1e-12, atol=1e-14)
        assert int(total["one"]) == count and total["nothing"] is None
        assert_close(kept, (np.cos(x), np.arange(count) + 5))
        assert_close(compared, {"scalar": x.sum(1), "odd": np.sin(x)[:, :, None] * np.arange(11)})


def test_garbage_in_the_padding_of_a_mesh_does_not_reach_the_sum():
    """Eight devices, nine tasks, the last of which gives infinity: seven copies of it are padding."""
    xs = jnp.r_[jnp.ones(8), 0.0]
    total, kept, compared = jax.jit(
        lambda xs: sharded(_mesh())(lambda _, x: ({"n": 1.0, "v": jnp.where(x > 0, x, 3.0)}, 1 / x, -1 / x), (), xs)
    )(xs)
    assert_close(total, {"n": 9.0, "v": 11.0})
    np.testing.assert_array_equal(kept, np.r_[np.ones(8), np.inf])
    np.testing.assert_array_equal(compared, -kept)


def test_a_chunk_must_be_positive():
    with pytest.raises(InputError, match="chunk must be a whole number of at least 1, but is 0"):
        scanned(0)


def test_an_axis_must_be_one_of_the_mesh():
    with pytest.raises(InputError, match="axis='rows' is not an axis of the mesh, which has tasks"):
        sharded(_mesh(), "rows")
    with pytest.raises(InputError, match="pieces='tasks' must be another axis"):
        sharded(_mesh(), "tasks", pieces="tasks")


def test_tasks_must_agree_in_number():
    with pytest.raises(InputError, match="same leading dimension, got 2, 3"):
        scanned(1)(lambda _, x: (x[0], x[1], ()), (), (jnp.zeros(2), jnp.zeros(3)))


def _convolve(x):
    return jax.lax.conv(x, jnp.ones((1, 1, 2, 2)), (1, 1), "VALID")


def _has(fn, *args):
    return contains_convolution(jax.make_jaxpr(fn)(*args).jaxpr)


def test_a_convolution_is_found_wherever_it_is():
    x = jnp.ones((1, 1, 4, 4))
    assert _has(_convolve, x)
    assert _has(jax.jit(_convolve), x)
    assert _has(jax.vmap(_convolve), x[None])
    assert _has(jax.grad(lambda x: jax.checkpoint(_convolve)(x).sum()), x)
    assert _has(lambda x: jax.lax.scan(lambda c, _: (c, _convolve(c)), x, None, 3), x)
    assert _has(lambda x: jax.lax.cond(x.sum() > 0, _convolve, lambda x: x[..., 1:, 1:], x), x)
    assert not _has(lambda x: jax.lax.scan(lambda c, _: (c @ c, c.sum()), x, None, 3), x)


def _loop_lengths(fn, *args):
    return [eqn.params["length"] for eqn in jax.make_jaxpr(fn)(*args).jaxpr.eqns if eqn.primitive.name == "scan"]


def test_auto_on_a_cpu_goes_by_size_and_vmaps_a_convolution():
    def lengths(fn, size, *shape):
        return _loop_lengths(lambda shared, xs: auto(fn, shared, xs), jnp.ones(size), jnp.ones((16, *shape)))

    assert lengths(lambda shared, x: (shared * x, (), ()), 20_000) == [16]
    assert lengths(lambda shared, x: (shared * x, (), ()), 100) == [2]
    assert lengths(lambda shared, x: ((), shared.sum() * x, ()), 20_000) == [16]  # an evaluation sums nothing
    assert lengths(lambda shared, x: ((), jnp.ones(20_000) * x, ()), 1) == [16]  # a network of its own for each
    assert lengths(lambda shared, x: (_convolve(x), (), ()), 20_000, 1, 1, 4, 4) == []


@pytest.mark.parametrize(
    ("size", "count", "chunks"),
    [
        (7_850, 32, 4),
        (7_850, 38, 0),  # logistic regression of MNIST: fewer than 300,000 numbers together
        (7_850, 39, 39),
        (7_850, 400, 400),
        (4_999, 60, 0),
        (4_999, 100, 10),
        (20_000, 40, 40),
    ],
)
def test_auto_goes_by_how_much_all_tasks_are_together(size, count, chunks):
    def fn(shared, x):
        return shared * x, (), ()

    lengths = _loop_lengths(lambda shared, xs: auto(fn, shared, xs), jnp.ones(size), jnp.ones(count))
    assert lengths == [chunks] * bool(chunks)


@pytest.mark.parametrize(("count", "chunks"), [(3, 1), (10, 1), (11, 1), (25, 5), (33, 0), (100, 0), (180, 18)])
def test_auto_leaves_no_smaller_chunk_where_it_can(count, chunks):
    """A prime number of tasks has one; all others are one body, compiled once, or no loop at all."""

    def fn(shared, x):
        return shared * x, (), ()

    assert _loop_lengths(lambda shared, xs: auto(fn, shared, xs), jnp.ones(()), jnp.ones(count)) == [chunks] * bool(
        chunks
    )
