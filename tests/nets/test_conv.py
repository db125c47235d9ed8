import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import metalearn as ml
from metalearn.core import InputError
from metalearn.nets import Conv, conv, max_pool


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def reference(x, kernel, strides, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=dimensions)


@pytest.mark.parametrize(
    "shape", [(5, 8, 2), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((7, 7, 1), (8, 8, 3)))]
)
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID", 1])
def test_value_and_derivatives_equal_lax(shape, strides, padding):
    x, (kernel, direction) = random(0, 2, *shape), (random(seed, 3, 3, shape[2], 4) for seed in (1, 2))
    sides = [(1, 1), (1, 1)] if padding == 1 else padding

    def ours(x, kernel):
        return conv(x, kernel, strides, padding, impl="patches")

    def lax_conv(x, kernel):
        return reference(x, kernel, strides, sides)

    def first(f):
        return jax.grad(lambda x, kernel: jnp.sin(f(x, kernel)).mean(), argnums=(0, 1))

    def second(f):  # through an inner step, as MAML does
        stepped = lambda x, kernel: kernel - 0.1 * first(f)(x, kernel)[1]  # noqa: E731
        return jax.grad(lambda x, kernel: (stepped(x, kernel) * direction).sum(), argnums=(0, 1))

    np.testing.assert_allclose(ours(x, kernel), lax_conv(x, kernel), rtol=1e-5, atol=1e-5)
    for derivative in (first, second):
        for a, b in zip(jax.jit(derivative(ours))(x, kernel), jax.jit(derivative(lax_conv))(x, kernel), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("count", [6, 7])  # pieces of two, and one image left over
def test_many_images_in_pieces_equal_all_at_once(monkeypatch, count):
    x, kernel, weights = random(0, count, 4, 4, 2), random(1, 3, 3, 2, 3), random(2, count, 4, 4, 3)

    def found():
        def meta(kernel):  # a derivative of a derivative
            inner = jax.grad(lambda k: (jnp.sin(conv(x, k)) * weights).sum())
            return (jnp.cos(conv(x, kernel - 0.1 * inner(kernel))) * weights).sum()

        # a function of its own each time: jit must not find the other's program
        return jax.jit(lambda kernel: jax.value_and_grad(meta)(kernel))(kernel), str(jax.make_jaxpr(meta)(kernel))

    whole, whole_program = found()
    monkeypatch.setattr("metalearn.nets._conv._MANY", 0)
    monkeypatch.setattr("metalearn.nets._conv._ROWS", 32)
    pieces, program = found()
    assert "scan" in program and "scan" not in whole_program
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), pieces, whole)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kernel", "padding"), [((5, 5), "VALID"), ((5, 7), "SAME"), ((6, 5), [(0, 3), (4, 1)])])
def test_tiles_equal_windows_one_by_one(monkeypatch, channels, kernel, padding):
    """Few channels to few filters, on images that tiles do not fill, to the second derivative."""
    x, kernel, weights = random(0, 2, 9, 11, channels), random(1, *kernel, channels, 4), random(2, *kernel, channels, 4)

    def found():
        def stepped(x, kernel):
            inner = jax.grad(lambda x, k: jnp.sin(conv(x, k, padding=padding)).sum(), (0, 1))
            by_image, by_kernel = inner(x, kernel)
            return jnp.cos(by_image).sum() + (by_kernel * weights).sum()

        # a function of its own each time: jit must not find the other's program
        derivatives = jax.jit(lambda x, kernel: jax.grad(stepped, (0, 1))(x, kernel))(x, kernel)
        return (conv(x, kernel, padding=padding), derivatives), str(jax.make_jaxpr(stepped)(x, kernel))

    tiles, program = found()
    monkeypatch.setattr("metalearn.nets._conv._TILED", 0)
    windows, other_program = found()
    assert program != other_program
    for a, b in zip(jax.tree.leaves(tiles), jax.tree.leaves(windows)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


def test_same_pads_at_the_end_and_a_number_on_both_sides():
    x = jnp.arange(4.0).reshape(1, 4, 1, 1) + 1
    kernel = jnp.zeros((3, 1, 1, 1)).at[0].set(1.0)  # picks the first row of every window
    np.testing.assert_array_equal(conv(x, kernel, 2, "SAME", "patches").ravel(), [1, 3])
    np.testing.assert_array_equal(conv(x, kernel, 2, [(1, 1), (0, 0)], "patches").ravel(), [0, 2])


def test_weights_of_every_task_and_implementations_agree():
    x, kernel = random(0, 3, 2, 9, 9, 2), random(1, 3, 3, 3, 2, 4)
    ours = jax.vmap(lambda x, kernel: conv(x, kernel, 2, impl="patches"))(x, kernel)
    for k in range(3):
        np.testing.assert_allclose(ours[k], conv(x[k], kernel[k], 2, impl="lax"), atol=1e-5)


def test_integer_images_are_computed_in_the_type_of_the_kernel():
    x = jnp.arange(16, dtype=jnp.uint8).reshape(1, 4, 4, 1) * 15
    kernel = random(1, 3, 3, 1, 2)
    np.testing.assert_allclose(conv(x, kernel), conv(x.astype(jnp.float32), kernel), rtol=1e-6)


def test_module_has_kernel_and_bias(key):
    x = random(0, 2, 6, 6, 3)
    variables = Conv(5, strides=2).init(key, x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (3, 3, 3, 5), "bias": (5,)}}
    kernel, bias = variables["params"]["kernel"], jnp.arange(5.0)
    expected = reference(x, kernel, 2, "SAME") + bias.reshape(1, 1, 1, -1)
    outputs = Conv(5, strides=2).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ((2, 6, 6), {}, r"\[n, height, width, 1\], but x has shape \[2, 6, 6\]"),
        ((2, 6, 6, 3), {}, "x has shape"),
        ((2, 6, 6, 1), {"padding": "some"}, "padding is 'some'"),
        ((2, 6, 6, 1), {"impl": "fast"}, "impl is 'fast'"),
        ((2, 2, 6, 1), {"padding": "VALID"}, r"\[3, 3\] does not fit into padded images of \[2, 6\]"),
    ],
)
def test_what_does_not_fit_is_refused(x, options, message):
    with pytest.raises(InputError, match=message):
        conv(jnp.zeros(x), jnp.zeros((3, 3, 1, 2)), **{"impl": "patches", **options})


def test_padding_has_flaxs_names():
    x, kernel = random(0, 2, 5, 5, 1), random(1, 2, 2, 1, 3)
    for name in ("same", "SAME_LOWER", "valid"):
        expected = reference(x, kernel, 1, name.upper())
        np.testing.assert_allclose(conv(x, kernel, 1, name, "patches"), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(conv(x, kernel, 1, "SAME"), conv(x, kernel, 1, "SAME_LOWER"))


@pytest.mark.parametrize("channels", [1, 24])
def test_what_is_not_a_number_is_not_pooled_away(channels):
    for place in range(4):
        x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1).repeat(channels, 3)
        assert np.all(np.isnan(max_pool(x)))


@pytest.mark.parametrize("size", [(4, 4, 3), (7, 5, 3), (7, 5, 24)])  # few channels, and many
def test_max_pool_equals_reduce_window(size):
    x = random(0, 2, *size)

    def windows(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    np.testing.assert_array_equal(max_pool(x), windows(x))
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x) for f in (max_pool, windows))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("channels", [8, 24])
def test_max_pool_has_a_derivative_however_it_is_compiled(channels):
    """Without optimisation XLA rounds a normalised input in two ways: the derivative of `max` then finds no maximum."""

    def loss(x):
        x = (x - x.mean((0, 1, 2), keepdims=True)) * lax.rsqrt(x.var((0, 1, 2), keepdims=True) + 1e-5)
        return jnp.sin(max_pool(x)).sum()

    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    x = random(0, 20, 14, 14, channels)
    plain, other = (jax.jit(jax.grad(loss), compiler_options=o)(x) for o in (None, options))
    assert jnp.isfinite(other).all()
    np.testing.assert_allclose(plain, other, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 24])
def test_at_a_tie_the_first_has_the_derivative(channels):
    grad = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, channels)))
    np.testing.assert_array_equal(grad.reshape(4, channels), np.eye(4)[:, :1].repeat(channels, 1))


@pytest.mark.parametrize("channels", [1, 24])
def test_max_pool_is_twice_differentiable(channels):
    x = jnp.array([1.0, 4.0, 2.0, 3.0])

    def loss(x):
        return (max_pool(x.reshape(1, 2, 2, 1).repeat(channels, 3)) ** 3).mean()

    np.testing.assert_allclose(jax.hessian(loss)(x), jnp.diag(jnp.array([0.0, 24.0, 0.0, 0.0])), rtol=1e-6)


class Layers(nn.Module):
    """Convolutions of every kind that Flax has."""

    own: bool = False

    @nn.compact
    def __call__(self, x):
        own = {"conv_general_dilated_cls": lambda: jax.lax.conv_general_dilated} if self.own else {}
        x = nn.Conv(4, (3, 3), 2, padding=1, **own)(x)
        x = nn.Conv(4, (2, 3), padding="VALID", **own)(x)
        x = nn.Conv(4, (3, 3), (1, 2), **own)(x)  # two strides
        x = nn.Conv(4, (3, 3), kernel_dilation=2, **own)(x)
        x = nn.Conv(4, (3, 3), feature_group_count=2, **own)(x)
        x = nn.Conv(4, (3, 3), padding="CIRCULAR", precision="highest", **own)(x)
        return nn.Conv(2, (3,), **own)(x.reshape(x.shape[0], -1, 4))


def test_flax_layers_are_done_by_conv_where_it_can(key):
    x = jax.random.normal(jax.random.fold_in(key, 1), (3, 12, 12, 2))
    model, xla = ml.from_linen(Layers()), ml.from_linen(Layers(own=True))
    params = model.init(key, x)
    chex.assert_trees_all_close(params, xla.init(key, x))
    np.testing.assert_allclose(model.apply(params, x), xla.apply(params, x), rtol=1e-4, atol=1e-5)
    found, left = (str(jax.make_jaxpr(m.apply)(params, x)).count("conv_general_dilated[") for m in (model, xla))
    assert (found, left) == ((5, 7) if jax.default_backend() == "cpu" else (7, 7))
    np.testing.assert_allclose(Layers().apply(params, x), xla.apply(params, x), rtol=1e-6)  # Flax's own is as it was


def test_nnx_layers_too(key):
    from flax import nnx

    x = jax.random.normal(key, (3, 8, 8, 2))
    model = ml.from_nnx(lambda rngs: nnx.Conv(2, 4, (3, 3), 2, rngs=rngs))
    params = model.init(key, x)
    expected = jax.lax.conv_general_dilated(
        x, params["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        model.apply(params, x), expected + params["bias"].reshape(1, 1, 1, -1), rtol=1e-4, atol=1e-5
    )
    assert "conv_general_dilated[" not in str(jax.make_jaxpr(model.apply)(params, x)) or jax.default_backend() != "cpu"


@pytest.mark.parametrize(("strides", "padding"), [(1, "VALID"), pytest.param(2, "SAME", marks=pytest.mark.slow)])
def test_many_images_of_one_channel(strides, padding):
    """Done by columns, for each task's kernel too."""
    x, kernels = random(0, 520, 28, 28, 1), random(1, 2, 3, 5, 1, 4)

    def values(convolve):
        def loss(x, kernel):
            return (convolve(x, kernel) ** 2).mean()

        return jax.vmap(jax.value_and_grad(loss, (0, 1)), (None, 0))(x, kernels)

    expected = values(lambda x, kernel: reference(x, kernel, strides, padding))
    found = values(lambda x, kernel: conv(x, kernel, strides, padding, impl="patches"))
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-6)
