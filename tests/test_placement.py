"""What is kept may lie anywhere on a mesh; the numbers are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import assert_close
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import metalearn as ml
from metalearn.host.steps import programs

KEY = jax.random.key(0)


def _mesh(**axes):
    return Mesh(np.array(jax.devices()).reshape(tuple(axes.values())), tuple(axes))


def _explicit(sizes, names):
    """What `jax.make_mesh` gives by default in newer versions of jax."""
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Explicit,) * len(sizes))


def _algorithm(mapping, inner=None, aggregator=None):
    model = ml.from_linen(ml.nets.MLP([16, 1]))
    learner = ml.meta.reptile(model, ml.squared_error, inner or optax.adam(0.01), 2)
    return ml.over_tasks(
        learner.init, ml.difference(learner.adapt), aggregator or ml.mean(), optax.adam(0.1), mapping=mapping
    )


TASKS = ml.data.batched(ml.data.sinusoid(num_support=5, num_query=5), 6)


def _run(algorithm, keys):
    state, history = ml.run(algorithm, TASKS, 6, key=keys, log_every=2, progress=False)
    return state, ml.column(history, "train/loss")[1]


@pytest.mark.parametrize(
    "mesh",
    [
        _mesh(seeds=2, tasks=4),
        pytest.param(_explicit((2, 4), ("seeds", "tasks")), marks=pytest.mark.slow, id="make_mesh"),
    ],
)
def test_seeds_along_one_axis_and_tasks_along_the_other(mesh):
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    expected = _run(_algorithm(ml.vmapped()), keys)
    state, losses = _run(_algorithm(ml.sharded(mesh, "tasks")), ml.spread_seeds(keys, mesh, "seeds"))
    kernel = jax.tree.leaves(state.params)[1]
    assert kernel.addressable_shards[0].data.shape == (2, *kernel.shape[1:])  # two of four seeds on a device
    assert_close((state.params, losses), (expected[0].params, expected[1]), rtol=1e-4, atol=1e-5)


def test_seeds_over_a_mesh_are_mapped_by_it():
    keys = ml.spread_seeds(jax.random.split(KEY, 8), _mesh(seeds=8))
    with pytest.raises(ml.InputError, match="trained at once"):
        ml.run(_algorithm(ml.vmapped()), TASKS, 1, key=keys, mapping=ml.scanned(), progress=False)


def test_seeds_must_fill_the_axis():
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    with pytest.raises(ml.InputError, match=r"shape \(3,\); expected \[S\] with S a multiple of the 8 devices"):
        ml.spread_seeds(keys, _mesh(seeds=8))


@pytest.mark.parametrize("mapping", [pytest.param("vmapped", marks=pytest.mark.slow), "sharded"])
def test_a_state_in_pieces(mapping):
    mesh = _mesh(tasks=8)
    built = _algorithm({"vmapped": ml.vmapped, "sharded": lambda: ml.sharded(mesh)}[mapping]())
    expected = _run(_algorithm(ml.vmapped()), KEY)
    state, losses = _run(ml.spread_state(built, mesh, least=16), KEY)
    shapes = {leaf.shape: leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(state)}
    assert shapes == {(1, 16): (1, 2), (16,): (2,), (16, 1): (2, 1), (1,): (1,), (): ()}
    assert_close((state.params, losses), (expected[0].params, expected[1]), rtol=1e-4, atol=1e-5)


def _wide(mapping):
    """Five layers of 256 under Adam: three times their parameters are kept."""
    model = ml.from_linen(ml.nets.MLP([256] * 6 + [1]))
    learner = ml.meta.reptile(model, ml.squared_error, optax.sgd(0.01), 2)
    return ml.over_tasks(learner.init, ml.difference(learner.adapt), ml.mean(), optax.adam(1e-3), mapping=mapping)


def _bytes(algorithm):
    """On a device: what is kept between steps, and what a step needs beside it, in units of all parameters."""
    tasks = ml.data.batched(ml.data.sinusoid(num_support=5, num_query=5), 8)(KEY)
    state = jax.jit(algorithm.init)(KEY, tasks)
    memory = jax.jit(algorithm.step, donate_argnums=0).lower(state, tasks, KEY).compile().memory_analysis()
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    return memory.argument_size_in_bytes / whole, memory.temp_size_in_bytes / whole


@pytest.mark.slow
def test_a_model_that_does_not_fit_one_device():
    """Where no device takes a task for itself, each works on its piece of every layer and nobody holds the model."""
    on_one = _bytes(_wide(ml.scanned(1)))
    assert sum(on_one) > 3
    mesh = _mesh(pieces=8)
    kept, beside = _bytes(ml.spread_state(_wide(ml.scanned(1)), mesh))
    assert kept < 3 / 8 + 0.02 and beside < 0.5
    # along the axis of the tasks it must fit: every device gathers the parameters, and makes one update
    kept, beside = _bytes(ml.spread_state(_wide(ml.sharded(mesh, inner=ml.scanned(1))), mesh))
    assert kept < 3 / 8 + 0.02 and 1.9 < beside < 2.4


@pytest.mark.slow
def test_tasks_along_one_axis_and_parameters_along_the_other():
    mesh = _mesh(tasks=2, pieces=4)
    algorithm = ml.spread_state(_wide(ml.sharded(mesh, "tasks", ml.scanned(1), pieces="pieces")), mesh, "pieces")
    kept, beside = _bytes(algorithm)
    assert kept < 3 / 4 + 0.02 and beside < 1
    tasks = ml.data.batched(ml.data.sinusoid(num_support=5, num_query=5), 7)(KEY)
    found = []
    for built in (algorithm, _wide(ml.vmapped())):
        state = jax.jit(built.init)(KEY, tasks)
        found.append(jax.jit(built.step)(state, tasks, KEY))
    cut = {leaf.shape: leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(found[0][0].params)}
    assert cut[256, 256] == (64, 256)
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 4])
def test_seeds_alone_over_devices(size):
    """A mesh of one axis, with tasks vmapped on each device: the numbers of seeds trained on one."""
    mesh = Mesh(np.array(jax.devices()[:size]), ("seeds",))
    keys = jax.vmap(jax.random.key)(jnp.arange(8))
    expected = _run(_algorithm(ml.vmapped()), keys)
    state, losses = _run(_algorithm(ml.vmapped()), ml.spread_seeds(keys, mesh))
    kernel = jax.tree.leaves(state.params)[1]
    assert kernel.addressable_shards[0].data.shape == (8 // size, *kernel.shape[1:])
    assert_close((state.params, losses), (expected[0].params, expected[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_state_in_pieces_goes_on_where_it_stopped(tmp_path):
    mesh = _mesh(tasks=8)
    algorithm = ml.spread_state(_algorithm(ml.sharded(mesh)), mesh, least=16)
    expected, _ = _run(algorithm, KEY)
    for steps in (2, 6):
        state, _ = ml.run(algorithm, TASKS, steps, key=KEY, log_every=2, progress=False, folder=tmp_path / "run")
    pieces = [[a.addressable_shards[0].data.shape for a in jax.tree.leaves(tree)] for tree in (state, expected)]
    assert pieces[0] == pieces[1]
    assert_close(state, expected, rtol=0, atol=0)


def test_a_step_over_a_mesh_is_compiled_once(caplog):
    """Its state begins where it comes back."""
    compiled = programs(_algorithm(ml.sharded(_mesh(tasks=8))), TASKS, None, KEY, 2)
    state = compiled.init(KEY)
    before = [leaf.sharding for leaf in jax.tree.leaves(state)]
    state, _ = compiled.advance(state, KEY, 0, 2)
    assert before == [leaf.sharding for leaf in jax.tree.leaves(state)]
    with jax.log_compiles():
        state, _ = compiled.advance(state, KEY, 2, 2)
        assert "ompil" not in caplog.text
        jax.jit(lambda x: x + len(before))(jnp.ones(3))  # so that it is known to be told
        assert "ompil" in caplog.text


@pytest.mark.slow
def test_a_run_over_a_mesh_goes_on_with_a_key_in_its_state(tmp_path):
    inner = _algorithm(ml.sharded(_mesh(tasks=8)))

    def init(key, batch):
        return {"inner": inner.init(key, batch), "key": jax.random.fold_in(key, 7)}

    def step(state, batch, key):
        new, metrics = inner.step(state["inner"], batch, jax.random.fold_in(state["key"], 0))
        return {"inner": new, "key": jax.random.split(state["key"], 1)[0]}, metrics

    found = []
    for folder, stops in (("whole", [6]), ("parts", [2, 6])):
        for steps in stops:
            state, _ = ml.run(
                ml.Algorithm(init, step), TASKS, steps, key=KEY, log_every=2, progress=False, folder=tmp_path / folder
            )
        found.append(state["inner"].params)
    assert_close(*found, rtol=0, atol=0)


def test_data_go_to_the_devices_once():
    """Not with every chunk of steps: a population of clients is large."""
    mesh, offset = _mesh(tasks=8), jnp.zeros((6, 1, 1))

    def sample(offset, key):
        tasks = TASKS(key)
        return tasks._replace(support=tasks.support._replace(x=tasks.support.x + offset))

    compiled = programs(_algorithm(ml.sharded(mesh)), jax.tree_util.Partial(sample, offset), None, KEY, 2)
    key = jax.device_put(KEY, NamedSharding(mesh, PartitionSpec()))
    state = compiled.init(key)
    with jax.transfer_guard_device_to_device("disallow"):
        _, metrics = compiled.advance(state, key, 0, 2)
    assert np.isfinite(metrics["loss"]).all()
