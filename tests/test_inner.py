"""The inner loop against closed forms, finite differences and a loop written by hand, in float64."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close, distance, float64, pad, plain_mlp, quadratic_loss, regression_tasks
from jax.sharding import Mesh

from metalearn.aggregate import mean, stacked
from metalearn.core import Aux, Batch, InputError, Model, Penalty, Statistic
from metalearn.inner import check_differentiable, fit, gradient_learner, supervised
from metalearn.mapping import equations, scanned, sharded, vmapped
from metalearn.metrics import cross_entropy, squared_error
from metalearn.nets import Conv4, from_linen
from metalearn.penalty import proximal


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def _quadratic(dim=3):
    data = Batch(jnp.array([[0.5, -1.0, 2.0]])[:, :dim])
    params = {"w": jnp.array([1.0, 2.0, -1.5])[:dim], "b": jnp.array([0.7])}
    return params, data, jnp.arange(1.0, dim + 1)


def _toy(activation=jnp.tanh, support=6):
    """A small network, its loss, its parameters and one task of six examples."""
    model = plain_mlp(3, 1, activation=activation)
    task = jax.tree.map(lambda a: a[0], regression_tasks(jax.random.key(1), 1, support))
    return model, supervised(model, squared_error), jax.jit(model.init)(jax.random.key(2), task.support.x), task


# --- meta-gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remat", [False, True])
def test_meta_gradient_of_a_quadratic_is_its_closed_form(remat, key):
    """Descent on ½(θ-c)ᵀH(θ-c) gives θ_T - c = (I - αH)^T (θ - c), so ∇½‖θ_T - e‖² = (I - αH)^T (θ_T - e)."""
    params, data, curvature = _quadratic()
    rate, steps, end = 0.1, 5, jnp.array([0.3, 0.2, 0.1])

    def outer(params, first_order):
        adapt = fit(quadratic_loss, optax.sgd(rate), steps, first_order=first_order, remat=remat)
        return 0.5 * jnp.sum((adapt(params, data, key).params["w"] - end) ** 2)

    shrink = (1 - rate * curvature) ** steps
    reached = data.x[0] + shrink * (params["w"] - data.x[0])
    second, first = jax.jit(lambda p: (jax.grad(outer)(p, False), jax.grad(outer)(p, True)))(params)
    assert_close(second, {"w": shrink * (reached - end), "b": jnp.zeros(1)})
    assert_close(first, {"w": reached - end, "b": jnp.zeros(1)})
    assert distance(first, second) > 0.1


def test_meta_gradient_of_a_network_is_the_finite_difference_and_the_first_order_one_is_not(key):
    model, loss, params, task = _toy()

    def outer(params, first_order=False):
        adapted = fit(loss, optax.sgd(0.2), 3, first_order=first_order)(params, task.support, key).params
        return squared_error(model.apply(adapted, task.query.x), task.query)[0]

    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    value = jax.jit(jax.vmap(lambda v: outer(unflatten(v))))
    steps = 1e-5 * jnp.eye(len(flat))
    numeric = (value(flat[None] + steps) - value(flat[None] - steps)) / 2e-5
    second = jax.jit(jax.grad(outer))(params)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(second)[0], numeric, rtol=1e-7, atol=1e-9)
    first = jax.jit(lambda p: jax.grad(outer)(p, True))(params)
    assert distance(first, second) > 0.1


def test_first_order_gradient_is_the_gradient_at_the_adapted_parameters(key):
    model, loss, params, task = _toy()

    def query(params):
        return squared_error(model.apply(params, task.query.x), task.query)[0]

    adapt = fit(loss, optax.sgd(0.2, momentum=0.9), 3, first_order=True)

    @jax.jit
    def both(params):
        through = jax.grad(lambda p: query(adapt(p, task.support, key).params))(params)
        return through, jax.grad(query)(adapt(params, task.support, key).params)

    assert_close(*both(params))


_OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.05, eps_root=1e-8),
    "schedule": lambda: optax.sgd(optax.cosine_decay_schedule(0.2, 10)),
    "clip": lambda: optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.2)),
    "decay": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "partition": lambda: optax.partition(
        {"slow": optax.sgd(0.05), "fast": optax.adam(0.1, eps_root=1e-8), "not": optax.set_to_zero()},
        {"kernel": "slow", "bias": "not", "scale": "fast"},
    ),
}


@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_ten_steps_and_the_gradient_through_them_equal_a_loop_written_by_hand(name, key):
    """The gradient through the loop by hand is taken by finite differences."""
    task = jax.tree.map(lambda a: a[0], regression_tasks(jax.random.key(1), 1, 6))
    params = {"kernel": jnp.array([[0.4], [-0.3]]), "bias": jnp.array([0.1]), "scale": jnp.array([[1.5]])}
    optimizer = _OPTIMIZERS[name]()

    def predict(params, x):
        return jnp.tanh(x @ params["kernel"] + params["bias"].reshape(1, 1)) @ params["scale"]

    def error(params, batch):
        return jnp.mean((predict(params, batch.x) - batch.y) ** 2)

    @jax.jit
    @jax.vmap
    def one_step(params, state):
        value, grads = jax.value_and_grad(error)(params, task.support)
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state, value

    def by_hand(params):
        state, losses = jax.vmap(optimizer.init)(params), []
        for _ in range(10):
            params, state, value = one_step(params, state)
            losses.append(value)
        return params, state, jnp.stack(losses, 1), jax.vmap(lambda p: error(p, task.query))(params)

    @jax.jit
    def fitted(params):
        def outer(params):
            loss = supervised(Model(None, lambda params, x, key=None: predict(params, x)), squared_error)
            out = fit(loss, optimizer, 10)(params, task.support, key)
            return error(out.params, task.query), (out.params, out.opt_state, out.metrics["loss"])

        (value, out), grads = jax.value_and_grad(outer, has_aux=True)(params)
        return (*out, value), grads

    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    moves = jnp.concatenate([jnp.zeros((1, 4)), 1e-5 * jnp.eye(4), -1e-5 * jnp.eye(4)])
    hand = by_hand(jax.vmap(unflatten)(flat[None] + moves))
    out, grads = fitted(params)
    assert_close(out, jax.tree.map(lambda a: a[0], hand), rtol=1e-10)
    numeric = (hand[3][1:5] - hand[3][5:]) / 2e-5
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(grads)[0], numeric, rtol=1e-6, atol=1e-9)


def test_an_optimizer_that_goes_by_the_loss_gets_it(key):
    """Polyak's step size is f / ‖g‖² where the lowest loss is zero."""
    params, data, h = _quadratic()
    out = jax.jit(fit(quadratic_loss, optax.polyak_sgd(max_learning_rate=10.0), 1))(params, data, key)
    value, gradient = quadratic_loss(params, data, key)[0], h * (params["w"] - data.x[0])
    size = value / (jnp.sum(gradient**2) + jnp.sum(params["b"] ** 2))
    np.testing.assert_allclose(out.params["w"], params["w"] - size * gradient, rtol=1e-9)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_remat_changes_no_number(steps, key):
    params, data, _ = _quadratic()
    data = Batch(jnp.linspace(-1.0, 1.0, 12).reshape(4, 3))

    def outer(remat):
        def run(params):
            adapt = fit(quadratic_loss, optax.sgd(0.1, 0.9), steps, batch_size=2, remat=remat, trajectory=True)
            out = adapt(params, data, key)
            return sum(jnp.sum(v**2) for v in jax.tree.leaves(out.params)), out

        return jax.jit(jax.value_and_grad(run, has_aux=True))(params)

    assert_close(outer(True), outer(False))


@pytest.mark.slow
@pytest.mark.optimised
def test_remat_of_64_steps_of_conv4_takes_at_most_two_and_a_half_times_the_memory_of_8():
    with float64(False):
        model = from_linen(Conv4(5, features=16))
        data = Batch(jnp.zeros((5, 28, 28, 1)), jnp.arange(5, dtype=jnp.int32))
        params = jax.eval_shape(model.init, jax.random.key(0), data.x)

        def temporaries(steps, remat):
            adapt = fit(supervised(model, cross_entropy), optax.sgd(0.1), steps, remat=remat)

            def outer(params, data, key):
                return cross_entropy(model.apply(adapt(params, data, key).params, data.x), data)[0]

            compiled = jax.jit(jax.grad(outer)).lower(params, data, jax.random.key(0)).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        short, long, plain = temporaries(8, True), temporaries(64, True), temporaries(64, False)
    assert long <= 2.5 * short
    assert plain > 2 * long


# --- which leaves are trained --------------------------------------------------------------------------------------


def test_frozen_leaves_stay_and_no_gradient_of_them_is_taken(key):
    @jax.custom_jvp
    def untouchable(x):
        return x

    @untouchable.defjvp
    def _(primals, tangents):
        raise AssertionError("a gradient of a frozen leaf was taken")

    params, data, _ = _quadratic()

    def guarded(params, batch, key):
        return quadratic_loss({**params, "b": untouchable(params["b"])}, batch, key)

    out = jax.jit(fit(guarded, optax.adam(0.1), 3, where="^w$"))(params, data, key)
    np.testing.assert_array_equal(out.params["b"], params["b"])
    assert (out.params["w"] != params["w"]).all()
    assert jax.tree.leaves(out.opt_state[0].mu)[0].shape == (3,)
    with pytest.raises(AssertionError, match="frozen"):
        fit(guarded, optax.adam(0.1), 3)(params, data, key)


def test_a_pattern_that_matches_nothing_is_an_error(key):
    params, data, _ = _quadratic()
    with pytest.raises(InputError, match="where='tail' matches no trainable parameter; the paths are b, w"):
        fit(quadratic_loss, optax.sgd(0.1), 1, where="tail")(params, data, key)


def test_the_meta_gradient_of_frozen_leaves_still_exists(key):
    """½(w - b)²: one step on w alone gives w' = w - α(w - b), so dw'/db = α."""

    def loss(params, batch, key):
        return 0.5 * (params["w"] - params["b"]) ** 2, Aux({})

    adapt = fit(loss, optax.sgd(0.25), 1, where="w")
    grads = jax.grad(lambda p: adapt(p, Batch(jnp.zeros(1)), key).params["w"])(
        {"w": jnp.array(3.0), "b": jnp.array(1.0)}
    )
    assert_close(grads, {"w": jnp.array(0.75), "b": jnp.array(0.25)})


def _running_mean_model():
    """Predicts w, and keeps half of the old mean and half of the batch's."""

    def train(params, x, key):
        new = 0.5 * params["mean"].value + 0.5 * x.mean()
        return params["w"] + 0 * x, {"w": None, "mean": Statistic(new)}

    return Model(
        lambda key, x: {"w": jnp.array([[1.0]]), "mean": Statistic(jnp.array(0.0))},
        lambda params, x, key=None: params["w"] + 0 * x,
        train,
    )


def test_statistics_are_kept_and_no_optimizer_sees_them(key):
    model = _running_mean_model()
    data = Batch(jnp.full((4, 1), 8.0), jnp.full((4, 1), 3.0))
    params = jax.jit(model.init)(key, data.x)
    out = jax.jit(fit(supervised(model, squared_error), optax.adam(0.1), 3))(params, data, key)
    assert float(out.params["mean"].value) == 7.0  # 4, 6, 7
    assert len(jax.tree.leaves(out.opt_state[0].mu)) == 1


# --- minibatches and masks -----------------------------------------------------------------------------------------


def _noisy(loss):
    """A loss that uses its key, so that a different random number would show."""

    def noisy(params, batch, key):
        value, aux = loss(params, batch, key)
        return value * jax.random.uniform(key, (), minval=0.5, maxval=1.5), aux

    return noisy


@pytest.mark.parametrize(
    ("steps", "real"),
    [
        ({"num_steps": 7, "batch_size": 3}, 7),
        pytest.param({"num_epochs": 3, "batch_size": 4}, 6, marks=pytest.mark.slow),
        pytest.param({"num_steps": 4, "batch_size": 8}, 4, marks=pytest.mark.slow),
        pytest.param({"num_epochs": 3}, 3, marks=pytest.mark.slow),
    ],
)
def test_padding_changes_neither_the_fit_nor_the_gradient_through_it(steps, real, key):
    model = plain_mlp(1)
    loss = _noisy(supervised(model, squared_error))
    support = jax.tree.map(lambda a: a[0], regression_tasks(jax.random.key(1), 1, 7)).support
    params = jax.jit(model.init)(key, support.x)

    @jax.jit
    def run(params, data):
        def outer(params):
            out = fit(loss, optax.sgd(0.1, 0.9), **steps)(params, data, key)
            return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(out.params)), out

        (_, out), grads = jax.value_and_grad(outer, has_aux=True)(params)
        return (out.params, out.opt_state, grads, out.metrics["loss"][-1]), out.steps

    (plain, plain_steps), (padded, padded_steps) = run(params, support), run(params, pad(support, 6, fill=99.0))
    assert int(plain_steps) == int(padded_steps) == real
    assert_close(padded, plain, rtol=1e-10)


def test_an_epoch_of_a_linear_loss_uses_every_example_once(key):
    """Where the loss is w · mean(x) and the rate 1, an epoch moves w by minus the sum of the batches' means."""

    def loss(params, batch, key):
        return params * batch.x.mean(), Aux({})

    x = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    out = jax.jit(fit(loss, optax.sgd(1.0), num_epochs=2, batch_size=2))(jnp.array(0.0), Batch(x), key)
    assert int(out.steps) == 6
    np.testing.assert_allclose(out.params, -2 * x.sum() / 2, rtol=1e-12)
    out = jax.jit(fit(loss, optax.sgd(1.0), num_steps=4, batch_size=3))(jnp.array(0.0), Batch(x), key)
    np.testing.assert_allclose(out.params, -2 * x.sum() / 3, rtol=1e-12)


def test_a_step_without_a_real_example_is_no_step(key):
    _, loss, params, task = _toy()
    empty = task.support._replace(mask=jnp.zeros(6))
    for options in ({"num_steps": 3}, {"num_epochs": 2, "batch_size": 4}):
        out = jax.jit(fit(loss, optax.adam(0.1), **options))(params, empty, key)
        assert int(out.steps) == 0
        assert_close(out.params, params, 0, 0)
        assert_close(out.opt_state, optax.adam(0.1).init(params), 0, 0)


# --- padded steps of tasks mapped together -------------------------------------------------------------------------


_LENGTHS = (6, 1, 4, 0, 3)


def _ragged(order=range(5)):
    """Clients of 6, 1, 4, 0 and 3 examples, padded to 6, with their keys."""
    tasks = regression_tasks(jax.random.key(1), 5, 6).support
    mask = (jnp.arange(6)[None] < jnp.array(_LENGTHS)[:, None]).astype(float)
    inputs = (tasks._replace(mask=mask), jax.random.split(jax.random.key(3), 5))
    return jax.tree.map(lambda a: a[jnp.array(order)], inputs)


def _padded_fit(**options):
    loss = supervised(plain_mlp(1), squared_error)
    return fit(loss, optax.sgd(0.1, 0.9), **({"num_epochs": 2, "batch_size": 1} | options))


def _mapped(mapping, adapt, inputs, params):
    def one(params, inputs):
        fitted = adapt(params, *inputs)
        return jax.tree.map(jnp.square, fitted.params), (fitted.params, fitted.steps), ()

    return mapping(one, params, inputs)[:2]


_CHUNKS = {"chunk 2": lambda: scanned(2), "chunk 3": lambda: scanned(3), "vmapped": vmapped}
_SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", ["chunk 3", *(pytest.param(name, marks=_SLOW) for name in ("chunk 2", "vmapped"))])
@pytest.mark.parametrize(
    "options", [pytest.param({}, id="batches"), pytest.param({"batch_size": None}, id="whole", marks=_SLOW)]
)
def test_padded_steps_of_a_chunk_are_a_branch_and_change_no_number(name, options, key):
    adapt, params = _padded_fit(**options), plain_mlp(1).init(key, jnp.zeros((1, 2)))

    def through(mapping):
        return jax.jit(lambda params, inputs: _mapped(mapping, adapt, inputs, params))

    (expected_sum, (expected, steps)) = through(scanned(1))(params, _ragged())
    per_epoch = _LENGTHS if not options else np.minimum(_LENGTHS, 1)
    np.testing.assert_array_equal(steps, 2 * np.asarray(per_epoch))
    compiled = through(_CHUNKS[name]())
    assert "conditional(" in compiled.lower(params, _ragged()).compile().as_text()
    order = np.array([4, 2, 0, 3, 1])
    for inputs, back in ((_ragged(), np.arange(5)), (_ragged(order), np.argsort(order))):
        total, (ends, done) = compiled(params, inputs)
        assert_close(total, expected_sum)
        assert_close(jax.tree.map(lambda a: a[back], ends), expected)  # noqa: B023
        np.testing.assert_array_equal(done[back], steps)


def test_a_chunk_takes_as_many_steps_as_its_largest_client(key):
    """Counted by a callback in the loss: chunks of two, sorted by size, take 2 (6 + 3) steps instead of 2 (6 + 6)."""
    seen = []

    def counted(params, batch, key):
        jax.debug.callback(lambda weight: seen.append(weight), batch.x[0, 0])
        return jnp.sum((params - batch.x) ** 2), Aux({})

    adapt = fit(counted, optax.sgd(0.1), num_epochs=2, batch_size=1)
    data, keys = _ragged([0, 2, 4, 1])
    run = jax.jit(lambda inputs: scanned(2)(lambda _, i: ((), adapt(jnp.zeros((1, 2)), *i).steps, ()), (), inputs))
    _, steps, _ = run((data, keys))
    jax.effects_barrier()
    np.testing.assert_array_equal(steps, [12, 8, 6, 2])
    assert len(seen) == 2 * (12 + 6)  # the callback is called for each of the chunk's two clients


@_SLOW
def test_the_gradient_through_a_chunk_and_its_gradient(key):
    model = plain_mlp(2, 1)
    params = jax.jit(model.init)(key, jnp.zeros((1, 2)))
    adapt = fit(supervised(model, squared_error), optax.sgd(0.1), num_epochs=1, batch_size=2)
    data, keys = _ragged([0, 1, 2, 4])  # a network's derivative at no example at all is not finite
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    def outer(mapping):
        def value(flat):
            total, _, _ = mapping(
                lambda p, i: (jnp.sum(jax.flatten_util.ravel_pytree(adapt(unflatten(p), *i).params)[0] ** 2), (), ()),
                flat,
                (data, keys),
            )
            return total

        return value

    direction = jnp.linspace(-1.0, 1.0, len(flat))

    def first_and_second(mapping):
        gradient = jax.grad(outer(mapping))
        return jax.jit(lambda v: (gradient(v), jax.grad(lambda u: gradient(u) @ direction)(v)))

    program = first_and_second(vmapped())
    assert_close(program(flat), first_and_second(scanned(1))(flat), rtol=1e-9)
    assert "conditional(" in program.lower(flat).compile().as_text()


@_SLOW
def test_seeds_of_chunks_and_devices(key):
    """A vmapped batch of seeds over a chunk, and both under `shard_map`."""
    adapt = _padded_fit()
    params = jax.vmap(lambda key: plain_mlp(1).init(key, jnp.zeros((1, 2))))(jax.random.split(key, 3))
    mesh = Mesh(np.array(jax.devices()), ("tasks",))

    def through(mapping):
        return jax.jit(jax.vmap(lambda params, inputs: _mapped(mapping, adapt, inputs, params)[1], (0, None)))

    one = jax.jit(lambda params: _mapped(scanned(1), adapt, _ragged(), params)[1])
    expected = [one(jax.tree.map(lambda a: a[i], params)) for i in range(3)]  # noqa: B023
    expected = jax.tree.map(lambda *a: jnp.stack(a), *expected)
    for mapping in (scanned(2), sharded(mesh, inner=vmapped())):
        program = through(mapping)
        assert_close(program(params, _ragged()), expected)
        assert "conditional(" in program.lower(params, _ragged()).compile().as_text()


def test_the_trajectory_holds_the_parameters_after_every_step(key):
    params, data, curvature = _quadratic()
    out = jax.jit(fit(quadratic_loss, optax.sgd(0.1), 4, trajectory=True))(params, data, key)
    shrink = (1 - 0.1 * curvature)[None] ** jnp.arange(5.0)[:, None]
    expected = data.x + shrink * (params["w"] - data.x[0])[None]
    assert_close(out.trajectory, {"w": expected, "b": 0.7 * 0.9 ** jnp.arange(5.0)[:, None]})
    assert out.metrics["loss"].shape == (4,)


def test_a_narrow_kernel_is_turned_once_and_changes_no_number(key):
    """The loop carries `[10, 40]`, momentum too, while the loss, the trajectory and the result have `[40, 10]`."""
    x = jax.random.normal(key, (12, 40))
    data = Batch(x, x[:, :10].argmax(1), jnp.arange(12) < 9)
    params = {"kernel": 0.1 * jax.random.normal(key, (40, 10)), "bias": jnp.zeros(10)}

    def loss(params, batch, key):
        assert params["kernel"].shape == (40, 10)
        value, metrics = cross_entropy(batch.x @ params["kernel"] + params["bias"][None], batch)
        return value, Aux(metrics)

    adapt = fit(loss, optax.sgd(0.1, 0.9), 5, batch_size=4, trajectory=True)
    turned = jax.make_jaxpr(adapt)(params, data, key)
    with mock.patch("metalearn.tree.narrow", return_value=False):
        plain = jax.make_jaxpr(lambda *args: adapt(*args))(params, data, key)
        expected = jax.jit(lambda *args: adapt(*args))(params, data, key)

    def carried(program):
        loops = [e for e in equations(program.jaxpr) if e.primitive.name == "scan" and e.params["num_carry"] > 4]
        (loop,) = loops
        shapes = [v.aval.shape for v in loop.invars[loop.params["num_consts"] :][: loop.params["num_carry"]]]
        return [shape for shape in shapes if len(shape) == 2]

    assert carried(turned) == [(10, 40)] * 2
    assert carried(plain) == [(40, 10)] * 2
    found = jax.jit(adapt)(params, data, key)
    assert found.params["kernel"].shape == (40, 10)
    assert found.trajectory["kernel"].shape == (6, 40, 10)
    assert_close(found, expected)


def test_one_step_of_tasks_together_multiplies_with_what_they_share_and_not_with_copies_of_it(key):
    x = jax.random.normal(key, (6, 3, 20))
    tasks = Batch(x, x.argmax(-1))

    def loss(kernel, batch, key):
        value, metrics = cross_entropy(batch.x @ kernel, batch)
        return value, Aux(metrics)

    def adapt(kernel, task):
        return fit(loss, optax.sgd(0.1), 1)(kernel, task, key).params

    program = jax.make_jaxpr(jax.vmap(adapt, (None, 0)))(jnp.ones((20, 20)), tasks)
    products = [e for e in equations(program.jaxpr) if e.primitive.name == "dot_general"]
    forwards = [
        e for e in products if not e.params["dimension_numbers"][1][0]
    ]  # no axis that both sides are mapped over
    assert len(products) == 2 and len(forwards) == 1
    assert not [e for e in equations(program.jaxpr) if e.primitive.name == "scan"]


def test_an_optimizer_state_that_is_passed_in_goes_on(key):
    params, data, _ = _quadratic()
    optimizer = optax.adam(0.1)

    @jax.jit
    def run(params):
        whole = fit(quadratic_loss, optimizer, 5)(params, data, key)
        half = fit(quadratic_loss, optimizer, 2)(params, data, key)
        rest = fit(quadratic_loss, optimizer, 3)(half.params, data, key, opt_state=half.opt_state)
        return whole, rest

    whole, rest = run(params)
    assert_close((rest.params, rest.opt_state), (whole.params, whole.opt_state))


# --- penalties -----------------------------------------------------------------------------------------------------


def test_a_proximal_penalty_on_a_quadratic_is_its_closed_form(key):
    """θ' = θ - α(H(θ - c) + s(θ - θ₀)) has θ_T - f = (1 - α(H + s))^T (θ₀ - f), where f = (H c + s θ₀) / (H + s)."""
    params, data, h = _quadratic()
    rate, strength, steps = 0.1, 0.8, 6
    out = jax.jit(fit(quadratic_loss, optax.sgd(rate), steps, penalty=proximal(strength)))(params, data, key)
    fixed = (h * data.x[0] + strength * params["w"]) / (h + strength)
    expected = fixed + (1 - rate * (h + strength)) ** steps * (params["w"] - fixed)
    np.testing.assert_allclose(out.params["w"], expected, rtol=1e-12)
    # what is reported is the loss without the penalty
    np.testing.assert_allclose(out.metrics["loss"][0], quadratic_loss(params, data, key)[0], rtol=1e-12)


def test_the_meta_gradient_goes_through_the_anchor_too(key):
    """With f and r = (1 - α(h + s))^T as above and f' = s / (h + s): dθ_T/dθ₀ = f' + r (1 - f')."""
    params, data, h = _quadratic()
    adapt = fit(quadratic_loss, optax.sgd(0.1), 6, penalty=proximal(0.8))
    grads = jax.jit(jax.grad(lambda p: jnp.sum(adapt(p, data, key).params["w"])))(params)
    share = 0.8 / (h + 0.8)
    np.testing.assert_allclose(grads["w"], share + (1 - 0.1 * (h + 0.8)) ** 6 * (1 - share), rtol=1e-12)


def test_a_penalty_state_that_is_passed_in_is_the_anchor(key):
    params, data, h = _quadratic()
    anchor = {"w": jnp.array([5.0, 5.0, 5.0]), "b": jnp.array([5.0])}
    out = jax.jit(fit(quadratic_loss, optax.sgd(0.1), 1, penalty=proximal(0.5)))(params, data, key, anchor)
    expected = params["w"] - 0.1 * (h * (params["w"] - data.x[0]) + 0.5 * (params["w"] - 5.0))
    np.testing.assert_allclose(out.params["w"], expected, rtol=1e-12)
    assert_close(out.penalty_state, anchor)


def test_combine_joins_the_two_gradients(key):
    params, data, h = _quadratic()
    anchor = {"w": jnp.array([5.0, 5.0, 5.0]), "b": jnp.array([5.0])}
    gradient, pull = h * (params["w"] - data.x[0]), 0.5 * (params["w"] - 5.0)

    def moved(combine):
        adapt = fit(quadratic_loss, optax.sgd(1.0), 1, penalty=proximal(0.5), combine=combine)
        return params["w"] - jax.jit(adapt)(params, data, key, anchor).params["w"]

    np.testing.assert_allclose(moved(mean()), (gradient + pull) / 2, rtol=1e-12)
    seen = {}

    def second_only(updates, state, params=None, *, weights=None, losses=None, key=None):
        seen["losses"] = losses
        return jax.tree.map(lambda u: u[1], updates), state

    np.testing.assert_allclose(moved(stacked(second_only)), pull, rtol=1e-12)
    assert seen["losses"].shape == (2,)


def test_a_penalty_observes_every_step(key):
    """The path integral Σ -g · Δθ of plain descent is Σ α ‖g‖²."""

    def observe(total, *, params, grads, new_params):
        moved = jax.tree.map(lambda g, new, old: -jnp.sum(g * (new - old)), grads, new_params, params)
        return total + sum(jax.tree.leaves(moved))

    penalty = Penalty(lambda params: jnp.array(0.0), lambda params, state, batch, key: jnp.array(0.0), observe)
    params, data, h = _quadratic()
    out = jax.jit(fit(quadratic_loss, optax.sgd(0.1), 2, penalty=penalty))(params, data, key)
    error = params["w"] - data.x[0]
    norms = [jnp.sum((h * error * (1 - 0.1 * h) ** t) ** 2) + jnp.sum((params["b"] * 0.9**t) ** 2) for t in range(2)]
    np.testing.assert_allclose(out.penalty_state, 0.1 * sum(norms), rtol=1e-12)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of num_steps and num_epochs"),
        ({"num_steps": 1, "num_epochs": 1}, "exactly one of num_steps and num_epochs"),
        ({"num_steps": -1}, "num_steps must be a whole number of at least 0, but is -1"),
        ({"num_epochs": -2}, "num_epochs must be a whole number of at least 0, but is -2"),
        ({"num_steps": 1, "batch_size": 0}, "batch_size must be a whole number of at least 1, but is 0"),
        ({"num_steps": 1, "combine": mean()}, "needs a penalty"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        fit(quadratic_loss, optax.sgd(0.1), **options)


# --- Adam, differentiated through ----------------------------------------------------------------------------------

_NO_DERIVATIVE = {
    "adam": lambda: optax.adam(0.1),
    "adamw": lambda: optax.adamw(0.1),
    "amsgrad": lambda: optax.amsgrad(0.1),
    "inside a chain": lambda: optax.chain(optax.clip(1.0), optax.adam(0.1)),
    "with momentum-free": lambda: optax.adam(0.1, b1=0.0),
}
_DERIVATIVE = {
    "adam": lambda: optax.adam(0.1, eps_root=1e-16),
    "sgd": lambda: optax.sgd(0.1, 0.9),
    "clip": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "rmsprop": lambda: optax.rmsprop(0.1),
    "schedule": lambda: optax.sgd(optax.linear_schedule(0.1, 0.0, 10)),
}


@pytest.mark.parametrize("name", _NO_DERIVATIVE)
def test_an_optimizer_without_a_derivative_at_zero_is_refused(name):
    with pytest.raises(InputError, match="eps_root=1e-16"):
        check_differentiable(_NO_DERIVATIVE[name]())


def test_it_is_refused_inside_jit_and_vmap_too():
    def build(x):
        check_differentiable(optax.adam(0.1))
        return x

    with pytest.raises(InputError, match="eps_root"):
        jax.jit(build)(1.0)
    with pytest.raises(InputError, match="eps_root"):
        jax.vmap(build)(jnp.ones(2))


@pytest.mark.parametrize("name", _DERIVATIVE)
def test_an_optimizer_with_a_derivative_at_zero_is_accepted(name):
    check_differentiable(_DERIVATIVE[name]())


def test_an_optimizer_of_traced_hyperparameters_is_not_probed():
    def build(rate):
        check_differentiable(optax.adam(rate))
        return rate

    assert jax.vmap(build)(jnp.ones(2)).shape == (2,)


def test_adam_with_eps_root_gives_finite_meta_gradients_past_a_dead_relu_and_without_does_not(key):
    model, loss, params, task = _toy(jax.nn.relu)
    params["hidden_0"]["bias"] = params["hidden_0"]["bias"].at[0].set(-100.0)

    def outer(params, optimizer):
        adapted = fit(loss, optimizer, 2)(params, task.support, key).params
        return squared_error(model.apply(adapted, task.query.x), task.query)[0]

    with_root = jax.jit(jax.grad(lambda p: outer(p, optax.adam(0.1, eps_root=1e-16))))(params)
    assert all(jnp.isfinite(v).all() for v in jax.tree.leaves(with_root))
    assert float(jnp.abs(with_root["head"]["kernel"]).max()) > 1e-3
    without = jax.jit(jax.grad(lambda p: outer(p, optax.adam(0.1))))(params)
    assert jnp.isnan(without["head"]["kernel"]).any()


# --- hyperparameters and learners ----------------------------------------------------------------------------------


def test_float_hyperparameters_vmap(key):
    params, data, _ = _quadratic()

    def run(rate, strength):
        return fit(quadratic_loss, optax.adam(rate), 3, penalty=proximal(strength))(params, data, key).params["w"]

    rates, strengths = jnp.array([0.01, 0.1, 0.5]), jnp.array([0.0, 1.0, 2.0])
    together = jax.jit(jax.vmap(run))(rates, strengths)
    one = jax.jit(run)
    alone = jnp.stack([one(r, s) for r, s in zip(rates, strengths, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def _centring_model():
    """Subtracts the mean over the batch, as a batch norm does: a prediction depends on who else is there."""

    def apply(params, x, key=None):
        return (x - x.mean(0, keepdims=True)) * params

    return Model(lambda key, x: jnp.array(1.0), apply)


def test_what_is_not_transductive_predicts_each_query_beside_the_support_set_alone(key):
    support = Batch(jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [0.0]]))
    x = jnp.array([[5.0], [8.0], [-1.0]])
    options = (_centring_model(), squared_error, optax.sgd(0.0), 1)
    together, alone = gradient_learner(*options), gradient_learner(*options, transductive=False)
    state = jax.jit(together.adapt)(jnp.array(1.0), support, key)
    np.testing.assert_allclose(together.predict(state, x), x - 4.0, rtol=1e-12)
    state = jax.jit(alone.adapt)(jnp.array(1.0), support, key)
    expected = [[v - (1 + 3 + v) / 3] for v in (5.0, 8.0, -1.0)]
    np.testing.assert_allclose(alone.predict(state, x), expected, rtol=1e-12)
