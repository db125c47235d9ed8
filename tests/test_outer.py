"""The outer loops: numbers that depend on neither the mapping nor the order, absent tasks, tables, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close, distance, float64, pad, plain_mlp, regression_tasks, tiny_net
from jax.sharding import Mesh

import metalearn as ml
from metalearn.core import Aux, Batch, InputError, Model, Statistic, Task, Update
from metalearn.metrics import cross_entropy, squared_error

KEY = jax.random.key(7)


def _recorder():
    """An optimizer whose state is the last direction it was given, and which moves against it."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda grads, state, params=None: (jax.tree.map(jnp.negative, grads), grads),
    )


def _mesh():
    return Mesh(np.array(jax.devices()), ("tasks",))


_MAPPINGS = {
    "scanned(1)": lambda: ml.scanned(1),
    "scanned(3)": lambda: ml.scanned(3),
    "sharded": lambda: ml.sharded(_mesh(), inner=ml.scanned(1)),
    "auto": lambda: ml.auto,
}


def _step(task_fn, init, aggregator, tasks, mapping, params=None):
    algorithm = ml.over_tasks(init, task_fn, aggregator, _recorder(), mapping=mapping)
    state = jax.jit(algorithm.init)(KEY, tasks)
    state = state if params is None else state._replace(params=params)
    state, metrics = jax.jit(algorithm.step)(state, tasks, KEY)
    return state.opt_state, metrics


def _through(kind, steps=1):
    """A learner with dropout, and a task function that uses its key throughout."""
    model = tiny_net(dropout=0.3)
    if kind == "episodic":
        learner = ml.gradient_learner(model, squared_error, optax.sgd(0.1), steps)
        return learner.init, ml.episodic(learner, squared_error)
    learner = ml.gradient_learner(model, squared_error, optax.sgd(0.1), steps, batch_size=2)
    return learner.init, ml.difference(learner.adapt)


# --- the mapping and the order change nothing ----------------------------------------------------------------------


_CASES = [
    *[("episodic", True, name) for name in ("scanned(1)", "scanned(3)", "sharded")],
    ("episodic", False, "sharded"),
    *[
        pytest.param(kind, double, name, marks=pytest.mark.slow)
        for kind in ("episodic", "difference")
        for double in (True, False)
        for name in _MAPPINGS
        if kind == "difference" or name == "auto" or (not double and name != "sharded")
    ],
]


@pytest.mark.parametrize(("kind", "double", "name"), _CASES)
def test_every_mapping_gives_the_same_direction(kind, double, name):
    with float64(double):
        init, task_fn = _through(kind)
        tasks = regression_tasks(jax.random.key(1), 11)
        expected, expected_metrics = _vmapped_step(double, kind)
        direction, metrics = _step(task_fn, init, ml.weighted_mean(), tasks, _MAPPINGS[name]())
        assert direction["head"].dtype == (jnp.float64 if double else jnp.float32)
        assert distance(direction, expected) < (1e-12 if double else 1e-5)
        np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-12 if double else 1e-5)


_KEPT = {}


def _vmapped_step(double, kind):
    if (double, kind) not in _KEPT:
        init, task_fn = _through(kind)
        tasks = regression_tasks(jax.random.key(1), 11)
        _KEPT[double, kind] = _step(task_fn, init, ml.weighted_mean(), tasks, ml.vmapped())
    return _KEPT[double, kind]


def test_the_order_of_tasks_changes_nothing_where_they_have_ids():
    with float64():
        init, task_fn = _through("episodic")
        tasks = regression_tasks(jax.random.key(1), 6)
        order = jnp.array([3, 0, 5, 1, 4, 2])
        permuted = jax.tree.map(lambda a: a[order], tasks)
        algorithm = ml.over_tasks(init, task_fn, ml.mean(), _recorder(), mapping=ml.vmapped())
        state, step = jax.jit(algorithm.init)(KEY, tasks), jax.jit(algorithm.step)
        expected = step(state, tasks, KEY)[0].opt_state
        assert distance(step(state, permuted, KEY)[0].opt_state, expected) < 1e-12
        # without ids a task's dropout goes by its place
        assert distance(step(state, permuted._replace(id=None), KEY)[0].opt_state, expected) > 1e-3
        assert distance(step(state, tasks._replace(id=None), KEY)[0].opt_state, expected) < 1e-12


# --- memory --------------------------------------------------------------------------------------------------------


def _temporaries(aggregator, mapping, count, size=100_000):
    model = Model(
        lambda key, x: jnp.zeros((size, 1)), lambda params, x, key=None: jnp.tanh(x * params[:1]) * params.sum()
    )
    tasks = Task(Batch(jnp.zeros((count, 2, 1)), jnp.zeros((count, 2, 1))))
    loss = ml.supervised(model, squared_error)
    algorithm = ml.over_tasks(
        lambda key, task: model.init(key, None), ml.gradient(loss), aggregator, optax.sgd(0.1), mapping=mapping
    )
    state = jax.eval_shape(algorithm.init, KEY, tasks)
    return jax.jit(algorithm.step).lower(state, tasks, KEY).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("mapping", ["scanned(1)", "sharded"])
def test_a_sum_holds_one_chunk_of_updates_and_a_stack_all_of_them(mapping):
    one = 4 * 100_000
    at = [_temporaries(ml.mean(), _MAPPINGS[mapping](), count) for count in (16, 64)]
    assert at[1] < at[0] + one / 2
    assert at[1] < 6 * one
    stack = _temporaries(ml.stacked(ml.mean().update), _MAPPINGS[mapping](), 64)
    assert stack > (64 if mapping == "scanned(1)" else 8) * one


def test_a_chunk_is_what_scanned_says():
    one = 4 * 100_000
    assert _temporaries(ml.mean(), ml.scanned(16), 64) < _temporaries(ml.mean(), ml.vmapped(), 64) - 32 * one


# --- absent tasks --------------------------------------------------------------------------------------------------


def _counting_model():
    """A linear model with a running mean of x, and a count of batches."""

    def train(params, x, key):
        mean = Statistic(0.5 * params["mean"].value + 0.5 * x.mean())
        return x @ params["w"], {"w": None, "mean": mean, "count": Statistic(params["count"].value + 1)}

    def init(key, x):
        return {"w": jnp.ones((2, 1)), "mean": Statistic(jnp.array(0.0)), "count": Statistic(jnp.array(0, jnp.int32))}

    return Model(init, lambda params, x, key=None: x @ params["w"], train)


def _task_fns(model):
    learner = ml.gradient_learner(model, squared_error, optax.sgd(0.1), 2)
    return {
        "episodic": ml.episodic(learner, squared_error),
        "difference": ml.difference(learner.adapt),
        "gradient": ml.gradient(ml.supervised(model, squared_error)),
    }


def _ragged(tasks, real):
    """Task k has `real[k]` real support examples, and what is not real is garbage where nothing is real."""
    real = jnp.asarray(real)
    mask = (jnp.arange(tasks.support.x.shape[1])[None] < real[:, None]).astype(jnp.float32)
    gone = (real == 0).reshape(-1, 1, 1)
    garbage = jax.tree.map(lambda a: jnp.where(gone, jnp.nan, a), (tasks.support[:2], tasks.query[:2]))
    return tasks._replace(support=Batch(*garbage[0], mask), query=Batch(*garbage[1]))


@pytest.mark.parametrize("kind", ["episodic", "difference", "gradient"])
@pytest.mark.parametrize("stack", [False, True])
def test_absent_tasks_carry_no_weight_even_if_they_are_garbage(kind, stack):
    with float64():
        model = _counting_model()
        tasks = _ragged(regression_tasks(jax.random.key(1), 5), [4, 0, 2, 0, 1])
        present = jax.tree.map(lambda a: a[jnp.array([0, 2, 4])], tasks)
        init, task_fn = lambda key, task: model.init(key, None), _task_fns(model)[kind]
        aggregator = ml.stacked(ml.weighted_mean().update) if stack else ml.weighted_mean()
        algorithm = ml.over_tasks(init, task_fn, aggregator, optax.sgd(0.1), mapping=ml.vmapped())
        state = jax.jit(algorithm.init)(KEY, tasks)
        expected, expected_metrics = jax.jit(algorithm.step)(state, present, KEY)
        after, metrics = jax.jit(algorithm.step)(state, tasks, KEY)
        assert_close(after, expected)
        assert metrics.pop("per_task/id").tolist() == [0, 1, 2, 3, 4]
        assert_close(metrics.pop("per_task/loss")[jnp.array([0, 2, 4])], expected_metrics.pop("per_task/loss"))
        del expected_metrics["per_task/id"]
        assert_close(metrics, expected_metrics)
        assert jnp.isfinite(after.params["w"]).all() and not jnp.array_equal(after.params["w"], state.params["w"])


def test_a_cohort_of_absent_tasks_changes_nothing():
    model = _counting_model()
    tasks = _ragged(regression_tasks(jax.random.key(1), 3), [0, 0, 0])
    init = lambda key, task: model.init(key, None)  # noqa: E731
    algorithm = ml.over_tasks(init, _task_fns(model)["gradient"], ml.mean(), optax.sgd(0.1), mapping=ml.vmapped())
    state = jax.jit(algorithm.init)(KEY, tasks)
    assert_close(jax.jit(algorithm.step)(state, tasks, KEY)[0], state, 0, 0)


def test_statistics_are_averaged_over_present_tasks_and_integers_rounded():
    def task_fn(params, task, key):
        new = {
            "w": None,
            "mean": Statistic(task.support.x.mean()),
            "count": Statistic(task.support.y.sum().astype(jnp.int32)),
        }
        weight = task.support.mask.sum()
        return Update({"w": params["w"], "mean": None, "count": None}, weight, weight, {}, new)

    x, y = jnp.array([1.0, 2.0, jnp.nan, 6.0]), jnp.array([3.0, 4.0, 1e6, 4.0])
    tasks = Task(Batch(x.reshape(4, 1, 1), y.reshape(4, 1, 1), jnp.array([[1.0], [1.0], [0.0], [1.0]])))
    model = _counting_model()
    algorithm = ml.over_tasks(lambda key, task: model.init(key, None), task_fn, ml.mean(), optax.sgd(0.1))
    state, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, tasks), tasks, KEY)
    np.testing.assert_allclose(state.params["mean"].value, 3.0, rtol=1e-6)
    assert int(state.params["count"].value) == 4 and state.params["count"].value.dtype == jnp.int32  # 11 / 3, rounded
    np.testing.assert_allclose(metrics["loss"], 1.0)


def test_the_reported_loss_of_a_ragged_client_is_that_of_its_last_real_step():
    """Padding to the largest client adds steps that are none; they must not be reported as a loss of zero."""
    tasks = regression_tasks(jax.random.key(1), 1)
    learner = ml.gradient_learner(plain_mlp(1), squared_error, optax.sgd(0.1), num_epochs=2, batch_size=2)
    padded = tasks._replace(
        support=jax.tree.map(lambda a: a[None], pad(Batch(tasks.support.x[0], tasks.support.y[0]), 4))
    )
    plain, padded = (
        _step(ml.difference(learner.adapt), learner.init, ml.mean(), t, ml.vmapped())[1] for t in (tasks, padded)
    )
    assert float(plain["loss"]) > 0
    np.testing.assert_allclose(padded["loss"], plain["loss"], rtol=1e-5)


# --- updates that are not finite -----------------------------------------------------------------------------------


_PLACES = ("direction", "weight", "loss", "statistics", "row")


def _spoiling(place, stack=False, **options):
    """Client 2 reports NaN in one place, whatever it is; the others 1, 2 and 4, the numbers of their examples."""

    def client_fn(shared, row, task, key):
        size = task.support.mask.sum()
        bad = jnp.where(task.id == 2, jnp.nan, 1.0)
        at = {name: size * (bad if name == place else 1.0) for name in _PLACES}
        direction, seen = {"w": at["direction"], "mean": None}, {"w": None, "mean": Statistic(at["statistics"])}
        weight = jnp.where(size > 0, at["weight"], 0)
        return Update(direction, weight, at["loss"], {"size": size}, seen), row + at["row"]

    def init(key, task):
        return {"w": jnp.array(0.0), "mean": Statistic(jnp.array(0.0))}, jnp.array(10.0)

    aggregator = ml.stacked(ml.weighted_mean().update) if stack else ml.weighted_mean()
    return ml.over_clients(init, client_fn, aggregator, _recorder(), num_clients=5, **options)


def _four():
    mask = (jnp.arange(4)[None] < jnp.array([1, 2, 4, 0])[:, None]).astype(jnp.float32)
    return Task(Batch(jnp.zeros((4, 4)), mask=mask), id=jnp.array([0, 1, 2, 2]))


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize(("stack", "mapping"), [(False, "scanned(3)"), (True, "scanned(1)")])
def test_an_update_that_is_not_finite_is_dropped_wherever_that_is(place, stack, mapping):
    """The fourth client is absent and not finite, which is no drop."""
    algorithm = _spoiling(place, stack, mapping=_MAPPINGS[mapping](), drop_nonfinite=True)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, _four()), _four(), KEY)
    np.testing.assert_allclose(state.opt_state["w"], (1 + 4) / 3, rtol=1e-6)
    np.testing.assert_allclose(state.params["mean"].value, 1.5)
    np.testing.assert_allclose(state.table, [11, 12, 10, 10, 10])
    assert int(metrics["dropped"]) == 1
    assert float(metrics["loss"]) == float(metrics["size"]) == 1.5


@pytest.mark.parametrize("place", _PLACES)
def test_otherwise_it_shows(place):
    algorithm = _spoiling(place)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, _four()), _four(), KEY)
    where = {
        "direction": state.params["w"],
        "weight": metrics["size"],
        "loss": metrics["loss"],
        "statistics": state.params["mean"].value,
        "row": state.table[2],
    }
    # a weight that is not a number is not above zero: that client is absent
    assert bool(jnp.isfinite(where[place])) == (place == "weight")
    assert "dropped" not in metrics


def test_dropping_changes_no_number_where_all_is_finite():
    init, task_fn = _through("difference")
    tasks = regression_tasks(jax.random.key(1), 5)
    results = []
    for drop in (False, True):
        algorithm = ml.over_tasks(init, task_fn, ml.mean(), _recorder(), mapping=ml.scanned(1), drop_nonfinite=drop)
        state, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, tasks), tasks, KEY)
        results.append((state, metrics))
    assert int(results[1][1].pop("dropped")) == 0
    assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)


# --- tables --------------------------------------------------------------------------------------------------------


def _clients(num_clients=6):
    """Each client's row counts its examples; the shared parameter moves by its row."""

    def client_fn(shared, row, task, key):
        weight = task.support.mask.sum()
        row = {"seen": row["seen"] + weight, "visits": row["visits"] + 1}
        return Update(row["seen"], weight, weight, {}), row

    def init(key, task):
        return jnp.array(0.0), {"seen": jnp.array(0.0), "visits": jnp.array(0, jnp.int32)}

    return ml.over_clients(init, client_fn, ml.mean(), _recorder(), num_clients=num_clients)


def _cohort(ids, sizes):
    mask = (jnp.arange(3)[None] < jnp.asarray(sizes)[:, None]).astype(jnp.float32)
    return Task(Batch(jnp.zeros((len(ids), 3)), mask=mask), id=jnp.asarray(ids, jnp.int32))


def test_rows_are_gathered_and_scattered_by_id():
    algorithm = _clients()
    state = jax.jit(algorithm.init)(KEY, _cohort([4, 1], [3, 2]))
    assert state.table["seen"].shape == (6,)
    step = jax.jit(algorithm.step)
    state, _ = step(state, _cohort([4, 1], [3, 2]), KEY)
    np.testing.assert_array_equal(state.table["seen"], [0, 2, 0, 0, 3, 0])
    state, _ = step(state, _cohort([1, 5], [1, 3]), KEY)
    np.testing.assert_array_equal(state.table["seen"], [0, 3, 0, 0, 3, 3])
    np.testing.assert_array_equal(state.table["visits"], [0, 2, 0, 0, 1, 1])
    assert float(state.opt_state) == 3.0  # the mean of rows 3 and 3


def test_absent_clients_leave_their_rows_even_where_they_repeat_a_present_one():
    algorithm = _clients()
    state = jax.jit(algorithm.init)(KEY, _cohort([2, 3, 2, 2], [2, 0, 0, 0]))
    state, _ = jax.jit(algorithm.step)(state, _cohort([2, 3, 2, 2], [2, 0, 0, 0]), KEY)
    np.testing.assert_array_equal(state.table["seen"], [0, 0, 2, 0, 0, 0])
    np.testing.assert_array_equal(state.table["visits"], [0, 0, 1, 0, 0, 0])


@pytest.mark.parametrize("stranger", [-1, 6])
def test_an_id_that_has_no_row_makes_the_loss_nan_and_writes_nobodys(stranger):
    algorithm = _clients()
    batch = _cohort([2, stranger], [2, 3])
    state, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, batch), batch, KEY)
    assert np.isnan(metrics["per_task/loss"]).tolist() == [False, True] and np.isnan(metrics["loss"])
    np.testing.assert_array_equal(state.table["visits"], [0, 0, 1, 0, 0, 0])


@pytest.mark.parametrize("count", [-1, 2.5, "all"])
def test_a_number_of_clients_that_cannot_be(count):
    with pytest.raises(InputError, match="num_clients must be a whole number of at least 0"):
        _clients(count)


# --- compiled once, mapped over hyperparameters --------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [lambda: optax.adam(1e-2), lambda: optax.sgd(optax.linear_schedule(0.1, 0.0, 9), 0.9)],
    ids=["adam", "schedule"],
)
def test_the_second_step_does_not_recompile(optimizer):
    traces = []
    model = _counting_model()

    def apply_and_count(params, x, key):
        traces.append(1)
        return model.train(params, x, key)

    learner = ml.meta.maml(model._replace(train=apply_and_count), squared_error, optax.sgd(0.1))
    tasks = regression_tasks(jax.random.key(1), 3)
    algorithm = ml.over_tasks(learner.init, ml.episodic(learner, squared_error), ml.mean(), optimizer())
    init, step = jax.jit(algorithm.init), jax.jit(algorithm.step)
    state, _ = step(init(KEY, tasks), tasks, KEY)
    once = len(traces)
    for t in range(3):
        state, _ = step(state, jax.tree.map(lambda a: a + 0, tasks), jax.random.fold_in(KEY, t))
    assert len(traces) == once > 0


def test_inner_and_outer_rates_vmap():
    tasks, model = regression_tasks(jax.random.key(1), 3), plain_mlp(1)

    def train(inner, outer):
        learner = ml.meta.maml(model, squared_error, optax.sgd(inner))
        algorithm = ml.over_tasks(learner.init, ml.episodic(learner, squared_error), ml.mean(), optax.sgd(outer, 0.9))
        return algorithm.step(algorithm.init(KEY, tasks), tasks, KEY)[0].params

    with float64():
        inner, outer = jnp.array([0.0, 0.1, 0.3]), jnp.array([0.1, 0.01, 0.05])
        together, alone = jax.jit(jax.vmap(train))(inner, outer), jax.jit(train)
        for i in range(3):
            assert distance(jax.tree.map(lambda a: a[i], together), alone(inner[i], outer[i])) < 1e-12  # noqa: B023


# --- episodic, and what a step reports -----------------------------------------------------------------------------


def test_a_step_reports_means_and_keeps_what_is_per_task():
    def criterion(outputs, batch):
        loss, metrics = squared_error(outputs, batch)
        return loss, {**metrics, "per_task/spread": jnp.abs(outputs).max()}

    model = _counting_model()
    learner = ml.gradient_learner(model, criterion, optax.sgd(0.1), 1)
    tasks = regression_tasks(jax.random.key(1), 3)
    algorithm = ml.over_tasks(learner.init, ml.episodic(learner, criterion), ml.mean(), optax.sgd(0.1))
    state = jax.jit(algorithm.init)(KEY, tasks)
    _, metrics = jax.jit(algorithm.step)(state, tasks, KEY)
    evaluated = jax.jit(ml.evaluate(learner, criterion))(state.params, tasks, KEY)
    assert metrics["per_task/spread"].shape == (3,)
    np.testing.assert_allclose(metrics["per_task/spread"], evaluated["per_task/spread"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], evaluated["loss"].mean(), rtol=1e-6)


def _quadratic_learner(**options):
    """One number w; support pulls it to y, and the query loss is (w - y)²: everything is known."""
    model = Model(lambda key, x: jnp.array([[2.0]]), lambda params, x, key=None: params + 0 * x)
    return ml.gradient_learner(model, squared_error, optax.sgd(0.25), 3, **options)


def _point(support, query):
    def batch(y):
        return Batch(jnp.zeros((1, 1)), jnp.array([[y]]))

    return Task(batch(support), batch(query))


def test_the_multi_step_loss_is_the_weighted_sum_of_losses_along_the_way():
    """w_t = s + (1 - 2α)^t (w - s), so ∇ Σ v_t (w_t - q)² = Σ v_t 2 (w_t - q) (1 - 2α)^t."""
    weights, task = jnp.array([0.2, 0.5, 0.3]), _point(-1.0, 3.0)
    with float64():
        weights = weights.astype(float)
        task_fn = ml.episodic(_quadratic_learner(trajectory=True), squared_error, step_weights=weights)
        update = jax.jit(task_fn)(jnp.array([[2.0]]), task, KEY)
        shrink = 0.5 ** np.arange(1, 4)
        reached = -1 + shrink * 3
        np.testing.assert_allclose(update.loss, np.sum(np.asarray(weights) * (reached - 3) ** 2), rtol=1e-12)
        expected = np.sum(np.asarray(weights) * 2 * (reached - 3) * shrink)
        np.testing.assert_allclose(update.direction, [[expected]], rtol=1e-12)
        np.testing.assert_allclose(update.metrics["mse"], (reached[-1] - 3) ** 2, rtol=1e-12)
        assert float(update.weight) == 1.0


def test_a_multi_step_loss_needs_a_trajectory_of_its_length():
    task = _point(-1.0, 3.0)
    with pytest.raises(InputError, match="trajectory=True"):
        ml.episodic(_quadratic_learner(), squared_error, step_weights=jnp.ones(3))(jnp.array([[2.0]]), task, KEY)
    learner = _quadratic_learner(trajectory=True)
    with pytest.raises(InputError, match="step_weights has 2 entries for 3 inner steps"):
        ml.episodic(learner, squared_error, step_weights=jnp.ones(2))(jnp.array([[2.0]]), task, KEY)


def test_an_episode_needs_a_query_set():
    learner = _quadratic_learner()
    with pytest.raises(InputError, match=r"task\.query, which is None"):
        ml.episodic(learner, squared_error)(jnp.array([[2.0]]), _point(0.0, 0.0)._replace(query=None), KEY)


def test_a_difference_needs_what_it_subtracts_from():
    def adapt(params, support, key):
        return ml.Fitted({"other": params}, None, None, 0, {"loss": jnp.zeros(1)})

    with pytest.raises(InputError, match="structured as the shared parameters"):
        ml.difference(adapt)(jnp.array(1.0), _point(0.0, 0.0), KEY)


def test_the_plain_gradient_is_the_gradient_on_the_support_set():
    model = _counting_model()
    task = jax.tree.map(lambda a: a[0], regression_tasks(jax.random.key(1), 1))
    params = model.init(KEY, None)
    update = jax.jit(ml.gradient(ml.supervised(model, squared_error)))(params, task, KEY)
    x, y = task.support[:2]
    np.testing.assert_allclose(update.direction["w"], 2 * x.T @ (x @ params["w"] - y) / 4, rtol=1e-5)
    assert float(update.weight) == 4.0 and int(update.statistics["count"].value) == 1
    assert update.direction["mean"] is None


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_evaluation_measures_every_task_after_every_step():
    tasks = jax.tree.map(lambda *a: jnp.stack(a), _point(-1.0, 3.0), _point(4.0, 0.0))
    w = jnp.array([[2.0]])
    reached = np.array([[-1.0], [4.0]]) + 0.5 ** np.arange(4)[None] * (2.0 - np.array([[-1.0], [4.0]]))
    expected = (reached - np.array([[3.0], [0.0]])) ** 2
    last = ml.evaluate(_quadratic_learner(), squared_error)
    last = jax.jit(last)(w, tasks, KEY)
    np.testing.assert_allclose(last["loss"], expected[:, -1], rtol=1e-6)
    path = jax.jit(ml.evaluate(_quadratic_learner(trajectory=True), squared_error))(w, tasks, KEY)
    np.testing.assert_allclose(path["mse"], expected, rtol=1e-6)
    some = jax.jit(ml.evaluate(_quadratic_learner(trajectory=True), squared_error, at=[0, 3]))(w, tasks, KEY)
    np.testing.assert_allclose(some["loss"], expected[:, [0, 3]], rtol=1e-6)


def test_of_a_task_without_a_query_example_nothing_is_known():
    tasks = jax.tree.map(lambda *a: jnp.stack(a), _point(-1.0, 3.0), _point(4.0, 0.0))
    tasks = tasks._replace(query=tasks.query._replace(mask=jnp.array([[1.0], [0.0]])))
    found = ml.evaluate(_quadratic_learner(), squared_error)(jnp.array([[2.0]]), tasks, KEY)
    assert all(np.isnan(found[name]).tolist() == [False, True] for name in ("loss", "mse"))


def test_evaluation_refuses_steps_that_it_does_not_have():
    tasks = jax.tree.map(lambda a: a[None], _point(-1.0, 3.0))
    with pytest.raises(InputError, match="trajectory=True"):
        ml.evaluate(_quadratic_learner(), squared_error, at=[0, 1])(jnp.array([[2.0]]), tasks, KEY)
    with pytest.raises(InputError, match="at"):
        ml.evaluate(_quadratic_learner(trajectory=True), squared_error, at=[0, 9])(jnp.array([[2.0]]), tasks, KEY)


def test_evaluation_does_not_depend_on_the_mapping_or_the_order():
    model = tiny_net(dropout=0.3)
    learner = ml.gradient_learner(model, squared_error, optax.sgd(0.1), 3)
    tasks = regression_tasks(jax.random.key(1), 5)
    order = jnp.array([3, 0, 4, 1, 2])
    params = model.init(KEY, tasks.support.x[0])
    expected = jax.jit(ml.evaluate(learner, squared_error, mapping=ml.vmapped()))(params, tasks, KEY)["loss"]
    assert expected.shape == (5,)
    scanned = jax.jit(ml.evaluate(learner, squared_error, mapping=ml.scanned(2)))
    permuted = scanned(params, jax.tree.map(lambda a: a[order], tasks), KEY)["loss"]
    np.testing.assert_allclose(permuted, expected[order], rtol=1e-5)


def test_evaluation_is_without_dropout_and_adaptation_is_with_it():
    model = plain_mlp(8, 3, dropout=0.5)
    learner = ml.gradient_learner(model, cross_entropy, optax.sgd(0.5), 1)
    x = jax.random.normal(KEY, (1, 6, 2))
    batch = Batch(x, jnp.array([[0, 1, 2, 0, 1, 2]], jnp.int32))
    params = jax.jit(model.init)(KEY, x[0])
    run = jax.jit(ml.evaluate(learner, cross_entropy, mapping=ml.vmapped()))
    first, second = (run(params, Task(batch, batch), jax.random.key(k))["loss"] for k in (0, 1))
    assert float(first[0]) != float(second[0])  # the inner step drops units
    frozen = ml.gradient_learner(model, cross_entropy, optax.sgd(0.0), 1)
    run = jax.jit(ml.evaluate(frozen, cross_entropy, mapping=ml.vmapped()))
    first, second = (run(params, Task(batch, batch), jax.random.key(k))["loss"] for k in (0, 1))
    assert float(first[0]) == float(second[0])


def test_an_auxiliary_loss_of_ones_own_needs_no_model():
    """The toy loss x · w, whose every number can be checked by hand."""

    def loss(params, batch, key):
        return jnp.vdot(batch.x.mean(0), params), Aux({"size": jnp.array(1.0 * len(batch.x))})

    tasks = Task(Batch(jnp.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])))
    algorithm = ml.over_tasks(lambda key, task: jnp.zeros(2), ml.gradient(loss), ml.mean(), optax.sgd(0.5))
    state, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, tasks), tasks, KEY)
    np.testing.assert_allclose(state.params, [-0.5 * 4.0, -0.5 * 5.0])
    assert float(metrics["size"]) == 2.0 and float(metrics["loss"]) == 0.0
