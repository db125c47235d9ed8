"""What Reptile and FedAvg share as rows: local training on minibatches whose order both sides must agree on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metalearn as ml
from benchmarks.comparison import Peers, compare, with_and_without
from benchmarks.contender import KEY, contender, handed_over, moved, on_all_cores, work_of
from benchmarks.floor import Work
from benchmarks.measure import TOLERANCE, Options
from metalearn.mapping import Mapping

LOOPS = ("loop", "loop+fused", "loop+compile")
CONV_LOOPS = (*LOOPS, "loop+channels_last", "loop+channels_last+fused", "loop+channels_last+compile")
PEERS = with_and_without(
    {"torch, loop over tasks": LOOPS, "torch.func, vmap over tasks": ("vmap", "vmap+compile")}, "one_thread"
)
CONV_PEERS = {
    "torch, loop over tasks": CONV_LOOPS,
    "torch.func, vmap over tasks": ("vmap", "vmap+channels_last", "vmap+compile", "vmap+channels_last+compile"),
}


def local_training(
    make: Callable[[Mapping], ml.Algorithm],
    batch: ml.Task,
    net: dict[str, Any],
    setting: dict[str, Any],
    how_long: dict[str, Any],
    peers: dict[str, tuple[str, ...]],
    options: Options,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """The row of `make(mapping)`, an algorithm over `difference(…)` with an outer `sgd(1.0)`; `how_long` are options of
    its `fit`."""
    algorithm = make(ml.auto)
    state = jax.jit(algorithm.init)(jax.random.key(0), batch)
    rows = order(batch, how_long)
    arrays = handed_over(state.params, batch) | {"rows": rows}
    ours = on_all_cores(lambda way: contender(make(way.mapping), state, way.place(batch), moved, way.name))
    work = work_of_tasks(algorithm, state, batch, rows, arrays)
    peers = Peers("local_training", peers, setting | {"net": net}, arrays)
    return {"setting": setting, **compare(ours, options, peers, work, tolerance)}


def order(batch: ml.Task, how_long: dict[str, Any], key: jax.Array = KEY) -> np.ndarray:
    """Which examples each step of each task sees, `[K, T, B]`: asked of the library, by training on example numbers."""
    tasks, count = batch.support.y.shape[:2]

    def numbers(params, batch, key):
        return 0.0 * params, ml.Aux({"rows": batch.x})

    learn = ml.fit(numbers, optax.sgd(0.0), **how_long)

    def task_fn(params, task, key):
        found = learn(params, task.support, key).metrics["rows"]
        return ml.Update(params, jnp.ones(()), params, {"per_task/rows": found})

    asked = ml.over_tasks(lambda key, task: jnp.zeros(()), task_fn, ml.mean(), optax.sgd(0.0))
    numbered = ml.Task(ml.Batch(jnp.tile(jnp.arange(count), (tasks, 1)), mask=batch.support.mask), id=batch.id)
    return np.asarray(jax.jit(asked.step)(asked.init(key, numbered), numbered, key)[1]["per_task/rows"])


def examples(tasks: int, count: int, shape: tuple[int, ...], classes: int) -> ml.Task:
    """Made-up examples, `[K, n, …]`, a pattern for each class in noise, so that no maximum is tied. Their mean is zero:
    rounding turns more maxima where a convolution adds what all places share."""
    random = np.random.RandomState(0)
    y = random.randint(0, classes, (tasks, count))
    x = random.rand(classes, *shape)[y] * 0.5 + random.rand(tasks, count, *shape) * 0.5 - 0.5
    return ml.Task(ml.Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)))


def work_of_tasks(
    algorithm: ml.Algorithm, state: ml.State, batch: ml.Task, rows: np.ndarray, arrays: dict[str, np.ndarray]
) -> Work:
    """The floor's; each step of each task reads its parameters and writes them, in pieces as large as the model."""
    tasks, steps, _ = rows.shape
    size = sum(a.nbytes for name, a in arrays.items() if name.startswith("weight/"))
    return work_of(algorithm, state, batch)._replace(bytes=2.0 * tasks * steps * size, piece=size)
