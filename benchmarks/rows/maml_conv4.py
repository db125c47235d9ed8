"""One meta-step of second-order MAML: Conv-4, 5-way 1-shot with 15 queries a class, 32 tasks, one inner step.

Images are 28x28x1; 64 filters, strides 2, padding 1 (PyTorch's own; TensorFlow's "SAME" would cost the peers a copy),
norm by the batch at hand with scale and offset; SGD inside, Adam outside. Tasks are fixed: sampling is another row.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import metalearn as ml
from benchmarks.measure import Contender, Options, side_by_side, timed

PEERS = {
    "torch, loop over tasks": ("loop", "loop+channels_last", "loop+compile"),
    "torch.func, vmap over tasks": ("vmap", "vmap+channels_last", "vmap+chunks", "vmap+compile"),
}


class Size(NamedTuple):
    """The setting; the numbers of the row are those of its defaults."""

    tasks: int = 32
    ways: int = 5
    shots: int = 1
    queries: int = 15
    filters: int = 64
    inner_rate: float = 0.4
    outer_rate: float = 1e-3
    epsilon: float = 1e-3


QUICK = Size(tasks=4, queries=3, filters=16)


def run(options: Options) -> dict[str, Any]:
    """Ours against both peers."""
    size = QUICK if options.quick else Size()
    batch = tasks(size)
    algorithm = algorithm_of(size)
    state = algorithm.init(jax.random.key(0), batch)
    arrays = {
        **{f"weight/{name}": value for name, value in named(state.params).items()},
        # support_x, support_y, query_x, query_y
        **{"_".join(e.name for e in path): np.asarray(a) for path, a in jax.tree_util.tree_leaves_with_path(batch)},
        **{name: np.asarray(getattr(size, name)) for name in ("inner_rate", "outer_rate", "epsilon")},
    }
    peers = {peer: variants[:2] if options.quick else variants for peer, variants in PEERS.items()}
    result = side_by_side("maml_conv4", ours(algorithm, state, batch), arrays, peers, options)
    return {"setting": size._asdict(), **result}


def algorithm_of(size: Size, **options: Any) -> ml.Algorithm:
    """MAML as a user would write it; `options` are those of `ml.meta.maml`."""
    net = ml.nets.Conv4(size.ways, features=size.filters, padding=1, epsilon=size.epsilon)
    learner = ml.meta.maml(ml.from_linen(net), ml.cross_entropy, optax.sgd(size.inner_rate), 1, **options)
    task_fn = ml.episodic(learner, ml.cross_entropy)
    return ml.over_tasks(learner.init, task_fn, ml.mean(), optax.adam(size.outer_rate))


def ours(algorithm: ml.Algorithm, state: ml.State, batch: ml.Task) -> Contender:
    """The step compiled, and what its first call gave."""
    start = time.perf_counter()
    key = jax.random.key(1)
    step = jax.jit(algorithm.step, donate_argnums=0).lower(state, batch, key).compile()
    state, metrics = jax.block_until_ready(step(state, batch, key))
    first_s = time.perf_counter() - start
    # read off the very step that is timed: Adam's first moment after one step is .1 of the gradient
    gradient = {name: value / np.float32(0.1) for name, value in named(state.opt_state[0].mu).items()}
    current = [state]

    def again():
        current[0], _ = jax.block_until_ready(step(current[0], batch, key))

    return Contender("metalearn", lambda: timed(again), first_s, float(metrics["loss"]), gradient)


def tasks(size: Size) -> ml.Task:
    """Tasks like Omniglot's, `[K, …]`: every class a random pattern with a tenth of ink, its images with some noise."""
    random = np.random.RandomState(0)
    pattern = random.rand(size.tasks, size.ways, 1, 28, 28, 1) < 0.1

    def part(count):
        flipped = random.rand(size.tasks, size.ways, count, 28, 28, 1) < 0.03
        x = (pattern ^ flipped).astype(np.float32).reshape(size.tasks, size.ways * count, 28, 28, 1)
        return ml.Batch(
            jax.numpy.asarray(x), jax.numpy.tile(jax.numpy.repeat(jax.numpy.arange(size.ways), count), (size.tasks, 1))
        )

    return ml.Task(part(size.shots), part(size.queries))


def named(params: Any) -> dict[str, np.ndarray]:
    """Leaves by name, such as `block_0/conv/kernel`; copies, because the step consumes its state."""
    leaves = jax.tree_util.tree_leaves_with_path(params["params"])
    return {"/".join(entry.key for entry in path): np.array(leaf) for path, leaf in leaves}
