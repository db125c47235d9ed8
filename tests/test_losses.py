"""The outer loop over losses: plain training, K backward passes, and the ways between."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close

import metalearn as ml
from metalearn import aggregate as agg
from metalearn.core import Aux, Batch, Statistic

KEY = jax.random.key(0)
NAMES = ("left", "right", "up")


pytestmark = pytest.mark.usefixtures("double")


def init(key, batch):
    k = jax.random.split(key, 4)
    own = {name: jax.random.normal(k[i], (3,)) for i, name in enumerate(NAMES)}
    return {"shared": {"w": jax.random.normal(k[3], (2, 3))}, "tasks": own}


def trunk(shared, batch, key):
    return jnp.tanh(batch.x @ shared["w"]), None


def head(name):
    def loss(own, features, batch, key):
        mask = jnp.ones(len(batch.x)) if batch.mask is None else batch.mask
        mask = mask[NAMES.index(name)] if mask.ndim == 2 else mask
        value = (mask * (features @ own - batch.y[name]) ** 2).sum() / jnp.maximum(mask.sum(), 1)
        return value, Aux({"mse": value})

    return loss


HEADS = {name: head(name) for name in NAMES}


def batch(mask=None):
    r = np.random.RandomState(0)
    return Batch(jnp.asarray(r.randn(8, 2)), {name: jnp.asarray(r.randn(8)) for name in NAMES}, mask)


def losses_of(params, b):
    features, _ = trunk(params["shared"], b, None)
    return jnp.stack([HEADS[n](params["tasks"][n], features, b, None)[0] for n in NAMES])


def step(aggregator, b=None, steps=1, **options):
    b = batch() if b is None else b
    algorithm = ml.over_losses(init, trunk, HEADS, aggregator, optax.sgd(0.1), **options)
    state = algorithm.init(KEY, b)
    one, metrics = jax.jit(algorithm.step), []
    before = state.params
    for t in range(steps):
        state, seen = one(state, b, jax.random.fold_in(KEY, t))
        metrics.append(seen)
    return before, state, metrics


assert_near = functools.partial(assert_close, rtol=1e-9, atol=1e-12)


def moved(before, state):
    return jax.tree.map(lambda a, b: (a - b) / 0.1, before, state.params)


@pytest.mark.parametrize("linear", [True, False])
def test_equal_weighting_is_plain_training_whether_or_not_it_may_look_at_directions(linear):
    aggregator = ml.mean()._replace(linear=linear)
    before, state, (metrics,) = step(aggregator)
    expected = jax.grad(lambda p: losses_of(p, batch()).mean())(before)
    found = moved(before, state)
    assert_near(found["shared"], expected["shared"])
    own = expected["tasks"] if linear else jax.tree.map(lambda g: 3 * g, expected["tasks"])  # its own loss's gradient
    assert_near(found["tasks"], own)
    np.testing.assert_allclose(metrics["loss"], losses_of(before, batch()).mean(), rtol=1e-12)
    np.testing.assert_allclose(metrics["right/mse"], losses_of(before, batch())[1], rtol=1e-12)


def test_fixed_weights_weigh_the_joint_loss():
    w = jnp.array([0.5, 2.0, 0.0])
    before, state, (metrics,) = step(agg.fixed(w))
    assert_near(moved(before, state), jax.grad(lambda p: w @ losses_of(p, batch()))(before))
    np.testing.assert_array_equal(metrics["per_task/weight"], w)


@pytest.mark.parametrize(
    "mapping", [None, *(pytest.param(m, marks=pytest.mark.slow) for m in (ml.scanned(1), ml.scanned(2), "sharded"))]
)
def test_gradients_of_every_loss_reach_the_aggregator(mapping):
    if mapping == "sharded":  # three losses over eight devices
        mapping = ml.sharded(jax.sharding.Mesh(np.array(jax.devices()), ("losses",)))
    before, state, _ = step(agg.mgda(), mapping=mapping)
    rows = jax.jacobian(lambda s: losses_of(before | {"shared": s}, batch()))(before["shared"])
    direction, _ = agg.mgda().update(rows, (), losses=jnp.ones(3))
    assert_near(moved(before, state)["shared"], direction)


def test_at_features_aggregates_before_the_trunk_and_is_another_thing():
    before, state, _ = step(agg.mgda(), at="features")
    b = batch()
    features, pull = jax.vjp(lambda s: trunk(s, b, None)[0], before["shared"])

    def of_features(z):
        return jnp.stack([HEADS[n](before["tasks"][n], z, b, None)[0] for n in NAMES])

    direction, _ = agg.mgda().update(jax.jacobian(of_features)(features), (), losses=jnp.ones(3))
    found = moved(before, state)["shared"]
    assert_near(found, pull(direction)[0])
    _, at_params, _ = step(agg.mgda())
    assert not np.allclose(found["w"], moved(before, at_params)["shared"]["w"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "mgda", "upgrad", "mgda-ub", "excess", "gradnorm", "famo", "moco"])
def test_examples_over_eight_devices_change_nothing(name):
    """Gradients are joined over devices before a Gramian is made of them, which is not their Gramians' mean."""
    made = {
        "mean": lambda: ml.over_losses(init, trunk, HEADS, ml.mean(), optax.sgd(0.1)),
        "mgda": lambda: ml.over_losses(init, trunk, HEADS, agg.mgda(), optax.sgd(0.1)),
        "upgrad": lambda: ml.over_losses(init, trunk, HEADS, agg.upgrad(), optax.sgd(0.1)),
        "mgda-ub": lambda: ml.over_losses(init, trunk, HEADS, agg.mgda(), optax.sgd(0.1), at="features"),
        "excess": lambda: ml.over_losses(init, trunk, HEADS, agg.excess(3), optax.sgd(0.1)),
        "gradnorm": lambda: ml.over_losses(init, trunk, HEADS, agg.gradnorm(3, optax.sgd(0.1)), optax.sgd(0.1)),
        "famo": lambda: ml.multitask.famo(init, trunk, HEADS, optax.sgd(0.1)),
        "moco": lambda: ml.multitask.moco(init, trunk, HEADS, optax.sgd(0.1)),
    }
    algorithm = made[name]()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
    over = jax.device_put(batch(), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples")))
    assert len(over.x.sharding.device_set) == 8
    one = many = algorithm.init(KEY, batch())
    step = jax.jit(algorithm.step)
    for _ in range(4):
        (one, _), (many, _) = step(one, batch(), KEY), step(many, over, KEY)
    assert_near(many.params, one.params)


def test_weights_every_few_steps_are_kept_between():
    _, always, _ = step(agg.mgda(), steps=4)
    _, seldom, then = step(agg.mgda(), steps=4, every=3)
    weights = [np.asarray(m["per_task/weight"]) for m in then]
    np.testing.assert_array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[2], weights[3])
    assert not np.allclose(always.params["shared"]["w"], seldom.params["shared"]["w"], rtol=1e-9)
    _, once, _ = step(agg.mgda(), steps=1, every=3)
    _, plain, _ = step(agg.mgda(), steps=1)
    assert_near(once.params, plain.params)


def test_a_task_without_data_is_absent():
    mask = jnp.array([[1.0] * 8, [0.0] * 8, [1.0] * 4 + [0.0] * 4])
    for aggregator in (ml.mean(), agg.mgda(), agg.upgrad()):
        before, state, (metrics,) = step(aggregator, batch(mask))
        assert not np.any(moved(before, state)["tasks"]["right"])
        present = losses_of(before, batch(mask))[jnp.array([0, 2])]
        np.testing.assert_allclose(metrics["loss"], present.mean(), rtol=1e-12)
    before, state, _ = step(ml.mean(), batch(mask))
    expected = jax.grad(lambda s: losses_of(before | {"shared": s}, batch(mask))[jnp.array([0, 2])].mean())(
        before["shared"]
    )
    assert_near(moved(before, state)["shared"], expected)


@pytest.mark.slow
def test_a_regulariser_is_outside_of_the_aggregation():
    def together(params):
        return 0.3 * sum(jnp.sum(a**2) for a in jax.tree.leaves(params))

    before, state, _ = step(agg.mgda(), regulariser=together)
    _, without, _ = step(agg.mgda())
    difference = jax.tree.map(jnp.subtract, moved(before, state), moved(before, without))
    assert_near(difference, jax.tree.map(lambda a: 0.6 * a, before))


@pytest.mark.slow
def test_statistics_of_the_head_of_an_absent_task_stay():
    def counting(name):
        def loss(own, features, b, key):
            value, aux = HEADS[name](own["w"], features, b, key)
            return value, aux._replace(statistics={"w": None, "mean": Statistic(b.y[name].mean())})

        return loss

    def start(key, b):
        params = init(key, b)
        tasks = {name: {"w": w, "mean": Statistic(jnp.asarray(7.0))} for name, w in params["tasks"].items()}
        return params | {"tasks": tasks}

    mask = jnp.ones((3, 8)).at[1].set(0)
    algorithm = ml.over_losses(start, trunk, {name: counting(name) for name in NAMES}, ml.mean(), optax.sgd(0.1))
    state = algorithm.init(KEY, batch(mask))
    state, _ = jax.jit(algorithm.step)(state, batch(mask), KEY)
    for k, name in enumerate(NAMES):
        expected = 7.0 if k == 1 else batch().y[name].mean()
        np.testing.assert_allclose(state.params["tasks"][name]["mean"].value, expected)


def test_statistics_of_the_trunk_are_kept_and_not_trained():
    def start(key, b):
        params = init(key, b)
        return params | {"shared": params["shared"] | {"mean": Statistic(jnp.zeros(2))}}

    def normed(shared, b, key):
        seen = jax.tree.map(lambda _: None, shared) | {"mean": Statistic(b.x.mean(0))}
        return trunk(shared, b, key)[0], seen

    algorithm = ml.over_losses(start, normed, HEADS, agg.mgda(), optax.sgd(0.1))
    state = algorithm.init(KEY, batch())
    state, _ = jax.jit(algorithm.step)(state, batch(), KEY)
    np.testing.assert_allclose(state.params["shared"]["mean"].value, batch().x.mean(0))


LAYERS, WIDTH = 6, 64
WIDE = 512  # layers that are not copied for every backward pass, as small ones are


def _deep(aggregator, width=WIDTH, **options):
    """The compiled step of a trunk of some layers under three linear heads, and the bytes of its parameters."""

    def deep(key, batch):
        layers = [0.1 * jax.random.normal(k, (width, width), jnp.float32) for k in jax.random.split(key, LAYERS)]
        return {"shared": layers, "tasks": {name: jnp.ones(width, jnp.float32) for name in NAMES}}

    def through(shared, batch, key):
        x = batch.x
        for layer in shared:
            x = jnp.tanh(x @ layer)
        return x, None

    b = Batch(jnp.ones((width, width), jnp.float32), {name: jnp.ones(width, jnp.float32) for name in NAMES})
    algorithm = ml.over_losses(deep, through, HEADS, aggregator, optax.sgd(0.1), **options)
    state = algorithm.init(KEY, b)
    step = jax.jit(algorithm.step, donate_argnums=0).lower(state, b, KEY).compile()
    return step, 4 * LAYERS * width**2


LINEAR = {
    "mean": ml.mean,
    "fixed": lambda: agg.fixed([1.0, 2.0, 3.0]),
    "uncertainty": lambda: agg.uncertainty(3, optax.sgd(0.1)),
    "dwa": lambda: agg.dwa(3, 2),
    "imtl_l": lambda: agg.imtl_l(3, optax.sgd(0.1)),
    "geometric": agg.geometric,
    "priority": lambda: agg.priority(3, 2),
    "tchebycheff": agg.tchebycheff,
    "random": agg.random,
}


def _flops(step):
    return step.cost_analysis()["flops"]


@pytest.mark.parametrize(
    "name", [n if n in ("mean", "dwa") else pytest.param(n, marks=pytest.mark.slow) for n in LINEAR]
)
def test_equal_and_loss_weightings_take_one_backward_pass(name):
    """Of a network that is nearly all trunk: one unit forwards and two backwards; K backward passes take 2 K."""
    step, _ = _deep(LINEAR[name]())
    forward = LAYERS * 2 * WIDTH**3
    # the first layer's input needs no derivative; the rest is what is not products
    assert 2.5 * forward < _flops(step) < 3.3 * forward


def test_k_gradients_take_k_backward_passes():
    """So the test above sees the difference. (XLA counts a loop's body once.)"""
    assert _flops(_deep(agg.mgda(), mapping=ml.vmapped())[0]) > 6 * LAYERS * 2 * WIDTH**3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mgda", *[pytest.param(n, marks=pytest.mark.slow) for n in ("upgrad", "pcgrad", "nash")]]
)
def test_k_gradients_and_one_copy_are_all_that_is_held(name):
    """XLA's CPU backend makes K gradients in one product and turns its result round, which is the copy; beside the two
    there are one scaled leaf and less than P, whatever the method: no second Jacobian, and no scaled one."""
    step, one = _deep(getattr(agg, name)(), WIDE)
    jacobian, temporaries = 3 * one, step.memory_analysis().temp_size_in_bytes
    assert 0.8 * jacobian < temporaries < (2 + 1 / LAYERS) * jacobian + 0.2 * one
    assert _deep(ml.mean(), WIDE)[0].memory_analysis().temp_size_in_bytes < 2 * one


@pytest.mark.slow
def test_weights_that_are_kept_pull_every_head_once():
    """A step between two new weights costs equal weighting's one backward pass."""
    at_once = {"mapping": ml.vmapped()}
    step, _ = _deep(agg.mgda(), every=10, **at_once)
    plain, whole = _flops(_deep(ml.mean())[0]), _flops(_deep(agg.mgda(), **at_once)[0])
    assert _flops(step) < 1.1 * (plain + whole)  # both branches of the program, and no head twice


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": {}}, "at least one head"),
        ({"at": "middle"}, "'params' or 'features'"),
        ({"aggregator": agg.graddrop(), "every": 2}, "must weigh by directions"),
        ({"aggregator": agg.random(), "every": 2}, "must weigh by directions"),
        ({"every": 0}, "every must be a whole number of at least 1, but is 0"),
        ({"every": 1.5}, "every must be a whole number of at least 1, but is 1.5"),
        ({"aggregator": agg.fixed([2.0])}, "there are 3 tasks, but the aggregator gives weights of shape"),
        ({"aggregator": agg.fixed([2.0, 1.0])}, "there are 3 tasks"),
        ({"heads": HEADS | {"up": lambda own, features, batch, key: (features[:, 0], Aux({}))}}, "must be a scalar"),
        ({"heads": {"other": HEADS["left"]}}, "the heads are"),
        ({"aggregator": agg.excess(3), "at": "features"}, "keeps something for every number"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    options = {"heads": HEADS, "aggregator": ml.mean()} | change
    heads, aggregator = options.pop("heads"), options.pop("aggregator")

    def attempt():
        algorithm = ml.over_losses(init, trunk, heads, aggregator, optax.sgd(0.1), **options)
        jax.eval_shape(algorithm.step, algorithm.init(KEY, batch()), batch(), KEY)

    with pytest.raises(ml.InputError, match=words):
        attempt()


@pytest.mark.slow
def test_where_nothing_is_shared_there_is_no_direction():
    def start(key, b):
        return init(key, b) | {"shared": {}}

    def constant(shared, b, key):
        return b.x @ jnp.ones((2, 3)), None

    with pytest.raises(ml.InputError, match="nothing is shared"):
        ml.over_losses(start, constant, HEADS, agg.mgda(), optax.sgd(0.1)).init(KEY, batch())
    algorithm = ml.over_losses(start, constant, HEADS, ml.mean(), optax.sgd(0.1))
    state, _ = jax.jit(algorithm.step)(algorithm.init(KEY, batch()), batch(), KEY)
    assert np.any(state.params["tasks"]["up"])


@pytest.mark.parametrize("make", [agg.mgda, *(pytest.param(m, marks=pytest.mark.slow) for m in (ml.mean, agg.random))])
def test_the_loss_of_nobody_may_be_nan(make):
    """A head that divides by its number of examples, and a task that has none."""

    def careless(name):
        def loss(own, features, b, key):
            mask = b.mask[NAMES.index(name)]
            return (mask * (features @ own - b.y[name]) ** 2).sum() / mask.sum(), Aux({})

        return loss

    mask = jnp.array([[1.0] * 8, [0.0] * 8, [1.0] * 8])
    heads = {name: careless(name) for name in NAMES}
    algorithm = ml.over_losses(init, trunk, heads, make(), optax.sgd(0.1))
    before = algorithm.init(KEY, batch(mask))
    after, metrics = jax.jit(algorithm.step)(before, batch(mask), KEY)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(after.params))
    assert np.isfinite(metrics["loss"])
    np.testing.assert_array_equal(after.params["tasks"]["right"], before.params["tasks"]["right"])


@pytest.mark.slow
def test_weights_are_found_anew_when_somebody_comes_or_goes():
    absent = jnp.array([[1.0] * 8, [0.0] * 8, [1.0] * 8])
    algorithm = ml.over_losses(init, trunk, HEADS, agg.upgrad(), optax.sgd(0.1), every=3)
    state, one = algorithm.init(KEY, batch(absent)), jax.jit(algorithm.step)
    state, first = one(state, batch(absent), KEY)
    state, second = one(state, batch(jnp.ones((3, 8))), KEY)
    state, third = one(state, batch(jnp.ones((3, 8))), KEY)
    assert first["per_task/weight"][1] == 0 and second["per_task/weight"][1] > 0
    np.testing.assert_array_equal(second["per_task/weight"], third["per_task/weight"])


@pytest.mark.parametrize("options", [{}, {"every": 2}])
@pytest.mark.parametrize("make", [agg.pcgrad, lambda: agg.gradvac(3)])
@pytest.mark.slow
def test_single_precision_parameters_in_a_double_precision_program(make, options):
    def single(key, b):
        return jax.tree.map(lambda a: a.astype(jnp.float32), init(key, b))

    b = jax.tree.map(lambda a: a.astype(jnp.float32), batch())
    algorithm = ml.over_losses(single, trunk, HEADS, make(), optax.sgd(0.1), **options)
    state, one = algorithm.init(KEY, b), jax.jit(algorithm.step)
    for _ in range(2):
        state, _ = one(state, b, KEY)
    assert all(a.dtype == jnp.float32 and np.all(np.isfinite(a)) for a in jax.tree.leaves(state.params))


@pytest.mark.parametrize("make", [ml.mean, lambda: agg.gradvac(3), lambda: agg.excess(3), lambda: agg.dwa(3, 2)])
@pytest.mark.slow
def test_the_second_step_does_not_compile_anew(make):
    algorithm = ml.over_losses(init, trunk, HEADS, make(), optax.adam(0.1))
    state, one = algorithm.init(KEY, batch()), jax.jit(algorithm.step)
    for _ in range(3):
        state, _ = one(state, batch(), KEY)
    assert one._cache_size() == 1


def test_a_mask_of_another_number_of_tasks_is_refused():
    with pytest.raises(ml.InputError, match=r"a row for each head"):
        step(ml.mean(), batch(jnp.ones((2, 8))))
