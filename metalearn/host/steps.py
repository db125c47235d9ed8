"""Training compiled: many steps in one program, with no length of a chunk compiled twice.

Step t (from 0) of a run uses `fold_in(key, t)`, of which `fold_in(·, 0)` samples the batch and `fold_in(·, 1)` goes to
the step. `fold_in(key, INIT)` makes the initial state in the same two halves, and `fold_in(key, EVALUATE)` goes to
every evaluation, so that all of them see the same tasks. Nothing depends on how the steps are cut into chunks.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from metalearn.core import Algorithm, InputError, Key, Metrics
from metalearn.mapping import Mapping, contains_convolution, equations, vmapped
from metalearn.tree import strong

INIT = 2**32 - 1
EVALUATE = 2**32 - 2
BAD_TASK = "per_task/bad"


class Programs(NamedTuple):
    """The compiled parts of a run; all metrics are reduced to one number a seed."""

    like: Callable[[], Any]  # the state's shapes, and where on a mesh its leaves live
    evaluated: tuple[str, ...]  # the names of the evaluation's metrics
    init: Callable[[Key], Any]
    advance: Callable[[Any, Key, int, int], tuple[Any, dict[str, np.ndarray]]]
    evaluate: Callable[[Any, Key], Metrics]


def programs(
    algorithm: Algorithm, sample: Any, evaluate: Any, key: Key, longest: int, mapping: Mapping | None = None
) -> Programs:
    """Compiles `init(key) -> state`, `advance(state, key, start, count) -> (state, metrics[count, ...])` for any
    `count <= longest`, which consumes the state, and `evaluate(state, key) -> metrics`; lazily, each at its first use.

    With `[S]` keys all of them are mapped over a leading axis of the state and the metrics, at once or by `mapping`. A
    `sample` that carries its data as leaves (`jax.tree_util.Partial`) is an argument of what is compiled: closed over,
    its data would become a constant of every program.
    """
    passed = sample if isinstance(sample, jax.tree_util.Partial) else jax.tree_util.Partial(sample)

    def init(sample, key):
        key = jax.random.fold_in(key, np.uint32(INIT))
        return strong(algorithm.init(jax.random.fold_in(key, 1), sample(jax.random.fold_in(key, 0))))

    def one(sample, state, key, t):
        key = jax.random.fold_in(key, t)
        batch = sample(jax.random.fold_in(key, 0))
        state, metrics = algorithm.step(state, batch, jax.random.fold_in(key, 1))
        return strong(state), _summary(metrics) | _lowest_bad(metrics)

    def validation(state, key):
        return _summary(evaluate(state, jax.random.fold_in(key, np.uint32(EVALUATE))))

    if key.ndim:
        over = _over_seeds(key, mapping)
        init, one, validation = over(init, (None, 0)), over(one, (None, 0, 0, None)), over(validation, (0, 0))
    # `one` is traced once: the two uses below share the jaxpr that jit remembers.
    init, one, validation = jax.jit(init), jax.jit(one), jax.jit(validation)
    shapes_of_state = jax.eval_shape(init, passed, key)
    example = (passed, shapes_of_state, key, jax.ShapeDtypeStruct((), jnp.int32))
    jaxpr, (_, shapes) = jax.make_jaxpr(one, return_shape=True)(*example)
    evaluated = tuple(jax.eval_shape(validation, shapes_of_state, key)) if evaluate is not None else ()

    @functools.cache
    def like():
        def placed(shape, sharding):
            on_mesh = isinstance(sharding, NamedSharding)
            sharding = sharding if on_mesh else NamedSharding(mesh, PartitionSpec()) if mesh is not None else None
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

        return jax.tree.map(placed, shapes_of_state, jax.jit(init).lower(passed, key).compile().output_shardings)

    def buffer():
        return {name: jnp.zeros((longest, *shape.shape), shape.dtype) for name, shape in shapes.items()}

    def step(sample, state, buffer, key, t, i):
        state, metrics = one(sample, state, key, t)
        if mesh is not None:
            # an aggregate of updates in pieces is in pieces, and would take the state with it
            state = lax.with_sharding_constraint(state, places)
        return state, {name: buffer[name].at[i].set(metrics[name]) for name in buffer}

    def chunk(sample, state, key, start, count):
        return lax.fori_loop(0, count, lambda i, c: step(sample, *c, key, start + i, i), (state, buffer()))

    # XLA's CPU convolutions are several times slower inside any loop, so there the loop is here.
    stepwise = next(iter(key.devices())).platform == "cpu" and contains_convolution(jaxpr.jaxpr)
    if stepwise:
        new_buffer, compiled = jax.jit(buffer), jax.jit(step, donate_argnums=(1, 2))
    else:
        compiled = jax.jit(chunk, donate_argnums=1)

    places = None

    def advance(state, key, start, count):
        nonlocal places
        if places is None:  # a key that was restored comes on one device
            state = jax.tree.map(everywhere, state)
            places = jax.tree.map(lambda leaf: leaf.sharding, state)
        if stepwise:
            metrics = new_buffer()
            for i in range(count):
                state, metrics = compiled(passed, state, metrics, key, np.int32(start + i), np.int32(i))
                _wait(metrics)
        else:
            state, metrics = compiled(passed, state, key, np.int32(start), np.int32(count))
            _wait(metrics)
        return state, {name: np.asarray(values)[:count] for name, values in metrics.items()}

    mesh = next((e.params["mesh"] for e in equations(jaxpr.jaxpr) if e.primitive.name == "shard_map"), None)

    def everywhere(leaf):
        # where a step spreads its work over a mesh, its state comes back on all devices; it must begin there,
        # or the second chunk would be another program
        if mesh is None or isinstance(leaf.sharding, NamedSharding):
            return leaf
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))

    if mesh is not None and jax.process_count() == 1:
        # the data too, which else every chunk would bring to the other devices anew
        passed = jax.tree.map(lambda leaf: everywhere(leaf) if isinstance(leaf, jax.Array) else leaf, passed)

    def begin(key):
        return jax.tree.map(everywhere, init(passed, key))

    return Programs(like, evaluated, begin, advance, validation)


def _over_seeds(key: Key, mapping: Mapping | None) -> Callable[[Callable, tuple], Callable]:
    """`over(fn, in_axes)` as `jax.vmap`, by a mapping."""
    # keys that are spread over a mesh axis take what is computed with them along
    axis = (getattr(key.sharding, "spec", None) or (None,))[0]
    if axis is not None:
        if mapping is not None:
            raise InputError("mapping: seeds that are spread over a mesh are trained at once; leave it out")
        return functools.partial(jax.vmap, spmd_axis_name=axis)

    def over(fn, in_axes):
        def mapped(*args):
            def each(shared, own):
                common, mine = iter(shared), iter(own)
                return (), fn(*(next(common if where is None else mine) for where in in_axes)), ()

            shared = tuple(arg for arg, where in zip(args, in_axes, strict=True) if where is None)
            own = tuple(arg for arg, where in zip(args, in_axes, strict=True) if where is not None)
            return (mapping or vmapped())(each, shared, own)[1]

        return mapped

    return over


def _summary(metrics: Metrics) -> Metrics:
    return {name: jnp.mean(value) for name, value in metrics.items() if not name.startswith("per_task/")}


def _lowest_bad(metrics: Metrics) -> Metrics:
    """The lowest id among tasks whose loss is not finite, -1 where there is none: all that a run's message needs of
    losses that are not averaged. A minimum, because over a mesh it takes one exchange, and the first in order four."""
    if not {"per_task/loss", "per_task/id"} <= set(metrics):
        return {}
    ids, none = metrics["per_task/id"], jnp.iinfo(metrics["per_task/id"].dtype).max
    lowest = jnp.where(jnp.isfinite(metrics["per_task/loss"]), none, ids).min()
    return {BAD_TASK: jnp.where(lowest == none, -1, lowest)}


def _wait(tree: Any) -> None:
    """Waits in small sleeps, because a signal is not heard while the interpreter blocks."""
    began = time.perf_counter()
    for leaf in jax.tree.leaves(tree):
        while not leaf.is_ready():
            # a hundredth of what was waited: the step is over half of that, on average, before it is seen
            time.sleep(min(0.02, max(5e-5, (time.perf_counter() - began) / 100)))
