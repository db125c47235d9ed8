"""What moves between eight devices in one compiled step, whose tasks or clients are spread over them."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close
from jax.sharding import Mesh
from test_gradients import METHODS, SIZED

import metalearn as ml
from metalearn import aggregate as agg
from metalearn.host.steps import _lowest_bad, _summary

KEY = jax.random.key(0)
PARAMS = {"wide": jnp.ones((56, 32)), "odd": jnp.ones((50, 3)), "small": jnp.ones(5), "scalar": jnp.ones(())}
LARGEST, MODEL = 56 * 32, 56 * 32 + 50 * 3 + 5 + 1
ROW = 7  # numbers that a client keeps, of a shape that no update has
FEATURES = 4  # of an example: what a task brings is small beside what it learns


def _mapping():
    return ml.sharded(Mesh(np.array(jax.devices()), ("tasks",)))


def _tasks(count):
    x = jax.random.normal(KEY, (count, 2, FEATURES))
    return ml.Task(ml.Batch(x, x.sum(-1)), None, jnp.arange(count))


def _task_fn(params, task, key):
    """A direction of its own for every task, that conflicts with others'."""
    scale = task.support.x.mean()
    direction = jax.tree.map(lambda p: jnp.sin(scale * (1 + jnp.arange(p.size))).reshape(p.shape) * p, params)
    return ml.Update(direction, 1 + scale**2, 2 + jnp.sin(scale), {"scale": scale})


def _over_tasks(aggregator, mapping):
    return ml.over_tasks(lambda key, task: PARAMS, _task_fn, aggregator, optax.sgd(0.1, 0.9), mapping=mapping)


def _over_clients(aggregator, mapping):
    def client_fn(shared, row, task, key):
        update = _task_fn(shared, task, key)
        return update, row + update.direction["small"].sum()

    return ml.over_clients(
        lambda key, task: (PARAMS, jnp.zeros(ROW)),
        client_fn,
        aggregator,
        optax.sgd(0.1, 0.9),
        num_clients=20,
        mapping=mapping,
    )


def _compiled(algorithm, count):
    tasks = _tasks(count)
    return jax.jit(algorithm.step).lower(algorithm.init(KEY, tasks), tasks, KEY).compile()


def _moved(algorithm, count):
    return _collectives(_compiled(algorithm, count).as_text())


def _collectives(program):
    """(kind, numbers brought to a device, shapes) of each."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = []
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        shapes = [
            tuple(map(int, filter(None, s.split(","))))
            for s in re.findall(r"(?:[fsu]\d+|bf16|pred)\[([\d,]*)\]", shapes)
        ]
        found.append((kind, sum(map(math.prod, shapes)), shapes))
    assert found
    return found


def _times(scale, tree):
    return jax.tree.map(lambda leaf: scale * leaf, tree)


def _each(update, state, key):  # as FedNova's and q-FFL's: an update and a number
    return _times(update.loss, update.direction), update.loss


SUMS = {
    "mean": agg.mean,
    "weighted mean": agg.weighted_mean,
    "total": agg.total,
    "weights from losses": lambda: agg.weighted(lambda losses, present, state, key: (losses, state)),
    "summed": lambda: agg.summed(_each, lambda sums, state, params, key: (_times(1 / sums[1], sums[0]), state)),
}
GRAMIANS = {name: make for name, make in METHODS.items() if name not in (*SIZED, "graddrop")}
GRAMIANS["gradvac"] = lambda: agg.gradvac(11)


@pytest.mark.parametrize(
    ("name", "build", "count"),
    [
        ("mean", _over_tasks, 11),
        pytest.param("mean", _over_tasks, 16, marks=pytest.mark.slow),
        *(pytest.param(n, _over_tasks, 11, marks=pytest.mark.slow) for n in SUMS if n != "mean"),
        *(pytest.param(n, _over_clients, 11, marks=pytest.mark.slow) for n in SUMS),
    ],
)
def test_a_sum_moves_one_update_whatever_the_number_of_tasks(name, build, count):
    moved = _moved(build(SUMS[name](), _mapping()), count)
    reduced = [shape for kind, _, shapes in moved if kind == "all-reduce" for shape in shapes]
    assert (56, 32) in reduced
    # all that moves beside it: the tasks' own examples, what clients keep, losses and whose they are: no [K, ...] of
    # updates
    beside = 16 * (2 * FEATURES + 6 + (2 * ROW if build is _over_clients else 0))  # there and back
    assert sum(n for kind, n, _ in moved if kind != "all-reduce") <= beside
    assert sum(math.prod(shape) for shape in reduced) <= MODEL + beside


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("upgrad", 11),
        pytest.param("upgrad", 16, marks=pytest.mark.slow),
        *(pytest.param(n, 11, marks=pytest.mark.slow) for n in GRAMIANS if n != "upgrad"),
    ],
)
def test_a_gramian_reduces_inner_products_and_no_device_holds_all_updates(name, count):
    compiled = _compiled(_over_tasks(GRAMIANS[name](), _mapping()), count)
    moved = _collectives(compiled.as_text())
    reduced = [shape for kind, _, shapes in moved if kind == "all-reduce" for shape in shapes]
    assert (count, count) in reduced and max(map(math.prod, reduced)) <= count * count
    # an eighth of the numbers of all tasks, rounded up to whole rows, and nothing else that has to do with updates
    exchanged = sum(n for kind, n, _ in moved if kind == "all-to-all")
    assert exchanged <= 16 * (7 * 32 + 7 * 3 + 1 + 2 * FEATURES)  # and the tasks' own examples
    # the rest is one update, the aggregate, and inner products: never K
    assert sum(n for kind, n, _ in moved if kind != "all-to-all") <= 1.2 * MODEL + 3 * count * count
    _assert_the_numbers_of_one_device(compiled, GRAMIANS[name](), count)


def _assert_the_numbers_of_one_device(compiled, aggregator, count):
    tasks = _tasks(count)
    algorithm = _over_tasks(aggregator, ml.vmapped())
    one, step = algorithm.init(KEY, tasks), jax.jit(algorithm.step)
    many = _over_tasks(aggregator, _mapping()).init(KEY, tasks)
    for t in range(2):
        key = jax.random.fold_in(KEY, t)
        (one, here), (many, there) = step(one, tasks, key), compiled(*_placed((many, tasks, key), compiled))
        assert_close((many, there), (one, here), rtol=1e-4, atol=1e-5)


def _placed(arguments, compiled):
    return jax.tree.map(jax.device_put, arguments, compiled.input_shardings[0])


@pytest.mark.slow
@pytest.mark.parametrize("count", [11, 16])
@pytest.mark.parametrize("name", ["graddrop", "median", "gradnorm"])
def test_number_by_number_an_eighth_of_all_updates_moves(name, count):
    aggregator = {
        "graddrop": agg.graddrop,
        "median": lambda: ml.stacked(_median),
        "gradnorm": lambda: agg.gradnorm(count, optax.sgd(0.1)),
    }[name]()
    compiled = _compiled(_over_tasks(aggregator, _mapping()), count)
    moved = _collectives(compiled.as_text())
    assert sum(n for kind, n, _ in moved if kind != "all-to-all") <= 1.2 * MODEL + 3 * count * count
    assert sum(n for kind, n, _ in moved if kind == "all-to-all") <= 16 * (7 * 32 + 7 * 3 + 1 + 2 * FEATURES)
    _assert_the_numbers_of_one_device(compiled, aggregator, count)


@pytest.mark.slow
def test_clients_who_keep_rows_exchange_no_more_for_a_gramian():
    moved = _moved(_over_clients(agg.upgrad(), _mapping()), 11)
    rows = 16 * 2 * ROW  # there and back
    assert sum(n for kind, n, _ in moved if kind == "all-to-all") <= 16 * (7 * 32 + 7 * 3 + 1 + 2 * FEATURES)
    assert sum(n for kind, n, _ in moved if kind != "all-to-all") <= 1.2 * MODEL + 3 * 11 * 11 + rows


@pytest.mark.slow
def test_the_assertion_sees_what_is_gathered():
    def by_length(updates, state, params=None, *, weights=None, losses=None, key=None):
        # sorts along a leaf's own longest dimension, and so needs all of it
        return jax.tree.map(lambda u: (jnp.sort(u, 1) if u.ndim > 1 else u).mean(0), updates), state

    moved = _moved(_over_tasks(ml.stacked(by_length), _mapping()), 16)
    assert max(n for kind, n, _ in moved if kind != "all-reduce") >= 2 * LARGEST


def _median(updates, state, params=None, *, weights=None, losses=None, key=None):
    return jax.tree.map(lambda u: jnp.median(u, 0), updates), state


@pytest.mark.parametrize("name", ["mean", *[pytest.param(n, marks=pytest.mark.slow) for n in list(SUMS)[1:]]])
def test_sums_are_those_of_one_device(name):
    _assert_the_numbers_of_one_device(_compiled(_over_tasks(SUMS[name](), _mapping()), 11), SUMS[name](), 11)


def test_a_run_keeps_its_parameters_whole_though_their_aggregate_was_in_pieces():
    algorithm = _over_tasks(agg.gramian(lambda gram, state, key: (gram.share, state)), _mapping())
    state, _ = ml.run(algorithm, lambda key: _tasks(16), 4, key=KEY, log_every=2, progress=False)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    pieces = ml.spread_state(algorithm, Mesh(np.array(jax.devices()), ("tasks",)))
    state, _ = ml.run(pieces, lambda key: _tasks(16), 4, key=KEY, log_every=2, progress=False)
    assert state.params["wide"].addressable_shards[0].data.shape == (7, 32)


def test_what_a_run_asks_of_every_loss_is_one_exchange_more():
    """Each takes as long as a hundred thousand numbers: two cores wait for each other."""
    algorithm, tasks = _over_tasks(agg.mean(), _mapping()), _tasks(16)

    def exchanges(ask):
        def step(state, tasks):
            state, metrics = algorithm.step(state, tasks, KEY)
            return state, ask(metrics)

        compiled = jax.jit(step).lower(algorithm.init(KEY, tasks), tasks).compile()
        return len(_collectives(compiled.as_text()))

    assert exchanges(lambda m: _summary(m) | _lowest_bad(m)) <= exchanges(_summary) + 1


def test_the_task_whose_loss_is_not_finite_is_named():
    found = [
        _lowest_bad({"per_task/loss": jnp.array(losses), "per_task/id": jnp.array([7, 2, 5])})
        for losses in ([1.0, 2.0, 3.0], [jnp.nan, 2.0, jnp.inf], [jnp.nan, 2.0, 3.0])
    ]
    assert [int(bad["per_task/bad"]) for bad in found] == [-1, 5, 7]
