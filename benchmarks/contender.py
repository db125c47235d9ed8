"""Our side of a row: an algorithm's step compiled, with what its first call gave."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import metalearn as ml
from benchmarks.floor import Work, work
from benchmarks.measure import Contender, alternate, repeated
from metalearn.host.steps import Programs, programs
from metalearn.mapping import Mapping
from metalearn.tree import num_rows, partition, path_name

Named = dict[str, np.ndarray]
LONGEST = 100  # steps in one chunk of `run`, its default
KEY = jax.random.key(1)  # of every step that is timed


def contender(
    algorithm: ml.Algorithm,
    state: ml.State,
    batch: ml.Task,
    direction: Callable[[Named, ml.State], Named],
    name="metalearn",
) -> Contender:
    """The jitted step, as a loop in Python calls it; `direction(before, after)` is read off its first."""
    before, state = named(state.params), jax.tree.map(jax.numpy.copy, state)  # the step consumes it
    start = time.perf_counter()
    step = jax.jit(algorithm.step, donate_argnums=0).lower(state, batch, KEY).compile()
    compiled = time.perf_counter()
    state, metrics = jax.block_until_ready(step(state, batch, KEY))
    first_s = time.perf_counter() - start
    found = direction(before, state)
    current = [state]

    def again():
        current[0], metrics = step(current[0], batch, KEY)
        return metrics

    facts = {"compile_s": compiled - start, "memory_bytes": memory(step)}
    facts["temporary_bytes"] = step.memory_analysis().temp_size_in_bytes
    time_step = repeated(again, jax.block_until_ready)
    return Contender(name, time_step, first_s, float(metrics["loss"]), found, facts)


class Way(NamedTuple):
    """How a row of ours uses the cores: `place` puts a batch of tasks where `mapping` wants it."""

    name: str
    mapping: Mapping
    place: Callable[[ml.Task], ml.Task] = lambda batch: batch


def on_all_cores(made: Callable[[Way], Contender]) -> list[Contender]:
    """`made(way)` with a device a core and with one device for all cores, the faster first, as of the peers' variants
    the fastest is kept. One device, such as a GPU, is one contender."""
    if jax.device_count() == 1:
        return [made(Way("metalearn", ml.auto))]
    mesh = Mesh(np.array(jax.devices()), ("tasks",))

    def place(batch):
        # each device's tasks lie there before the step, as the peers' data do
        even = num_rows(batch) % jax.device_count() == 0
        return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("tasks" if even else None)))

    ways = Way("metalearn, a device a core", ml.sharded(mesh), place), Way("metalearn, one device", ml.auto)
    found = [made(way) for way in ways]
    times = alternate({one.name: one.time_step for one in found}, 3)
    return sorted(found, key=lambda one: float(np.median(times[one.name])))


def memory(compiled: Any) -> int:
    """What a compiled program needs at most, in bytes: arguments, results that do not reuse them, and temporaries."""
    needs = compiled.memory_analysis()
    arrays = needs.argument_size_in_bytes + needs.output_size_in_bytes - needs.alias_size_in_bytes
    return arrays + needs.temp_size_in_bytes


def through_run(
    algorithm: ml.Algorithm, batch: ml.Task, direction: Callable[[Named, ml.State], Named] | None, name="metalearn"
) -> Contender:
    """The programs that `run` compiles for a fixed batch, called as `run` calls them."""
    return run_programs(algorithm, jax.tree_util.Partial(lambda batch, key: batch, batch), KEY, direction, name)


def run_programs(
    algorithm: ml.Algorithm,
    sample: Any,
    key: jax.Array,
    direction: Callable[[Named, ml.State], Named] | None,
    name: str = "metalearn",
    compiled: Programs | None = None,
) -> Contender:
    """The programs that `run` compiles, called as `run` calls them; `key` may be a vector of seeds.

    `compiled`: those of another key of the same shape, not to compile them again. The loss is that of the first
    step, the mean over seeds; without `direction` there is nothing to compare.
    """
    start = time.perf_counter()
    compiled = compiled or programs(algorithm, sample, None, key, LONGEST)
    state = compiled.init(key)
    before = named(state.params)
    state, metrics = compiled.advance(state, key, 0, 1)
    first_s = time.perf_counter() - start
    found = {} if direction is None else direction(before, state)
    current = [state, 1]

    def time_step(repeats):
        start, left = time.perf_counter(), repeats
        while left:
            count = min(left, LONGEST)
            current[0], _ = compiled.advance(current[0], key, current[1], count)
            current[1] += count
            left -= count
        return (time.perf_counter() - start) / repeats

    loss = None if direction is None else float(np.mean(metrics["loss"]))
    return Contender(name, time_step, first_s, loss, found)


def work_of(algorithm: ml.Algorithm, state: ml.State, batch: ml.Task) -> Work:
    """The floor's operations and bytes of one step, whose convolutions multiply nothing with a kernel's zeros: what a
    faster way adds is not what has to be done."""
    with mock.patch("metalearn.nets._conv._TILED", 0), mock.patch("metalearn.nets._pooled_convs._FEW", 0):
        return work(algorithm.step, state, batch, KEY)


def first_moment(before: Named, after: ml.State) -> Named:
    """What Adam received in its first step: ten times its first moment."""
    return {name: value / np.float32(0.1) for name, value in named(after.opt_state[0].mu).items()}


def moved(before: Named, after: ml.State) -> Named:
    """What gradient descent with rate 1 received: how far the parameters moved."""
    return {name: before[name] - value for name, value in named(after.params).items()}


def named(params: Any) -> Named:
    """Trained leaves by name, such as `block_0/conv/kernel`; copies, because a step may consume its state. Of what a
    learner keeps beside its model (Reptile its moments) the model's alone."""
    leaves = jax.tree_util.tree_leaves_with_path(partition(params)[0])
    return {path_name(path).replace("params/", "").removeprefix("model/"): np.array(leaf) for path, leaf in leaves}


def handed_over(params: Any, batch: ml.Task) -> Named:
    """Weights and data for the peers: `weight/…`, `support_x`, `support_y`, and the query's where there is one."""
    arrays = {f"weight/{name}": value for name, value in named(params).items()}
    for part in ("support", "query"):
        if getattr(batch, part) is not None:
            arrays |= {f"{part}_{name}": np.asarray(getattr(getattr(batch, part), name)) for name in ("x", "y")}
    return arrays
