"""One meta-step of MAML and its kin: Conv-4, 1-shot with 15 queries a class, 32 tasks.

Images are 28x28x1; 64 filters, strides 2, padding 1 (PyTorch's own; TensorFlow's "SAME" would cost the peers a copy),
norm by the batch at hand with scale and offset; SGD inside, Adam outside. Tasks are fixed: sampling is another row.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import metalearn as ml
from benchmarks.comparison import Peers, compare
from benchmarks.contender import contender, first_moment, handed_over, on_all_cores, work_of
from benchmarks.measure import LOOSE_TOLERANCE, Options
from metalearn.mapping import Mapping


class Size(NamedTuple):
    """The setting; `adapted` is the prefix of the parameters that the inner loop adapts."""

    tasks: int = 32
    ways: int = 5
    shots: int = 1
    queries: int = 15
    filters: int = 64
    steps: int = 1
    first_order: bool = False
    adapted: str = ""
    inner_rate: float = 0.4
    outer_rate: float = 1e-3
    epsilon: float = 1e-3


SIZES = {
    "maml_conv4": Size(),
    # a small rate, which costs no other time: at .1 rounding grows until PyTorch's own variants differ by 3%
    "maml_conv4_20way_5steps": Size(ways=20, steps=5, inner_rate=0.01),
    "fomaml_conv4": Size(first_order=True),
    "anil_conv4": Size(adapted="head"),
}
SMALL = {"tasks": 2, "queries": 2, "filters": 8}  # with --quick
PEERS = {
    "torch, loop over tasks": ("loop", "loop+channels_last", "loop+compile", "loop+channels_last+compile"),
    "torch.func, vmap over tasks": (
        "vmap",
        "vmap+channels_last",
        "vmap+chunks",
        "vmap+compile",
        "vmap+channels_last+compile",
    ),
    "higher": ("higher", "higher+channels_last"),
    "torchopt": ("torchopt", "torchopt+channels_last"),
}
FIRST_ORDER_PEERS = {who: variants for who, variants in PEERS.items() if who not in ("higher", "torchopt")}


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours against the peers."""
    size = size_of(row, options)
    batch = tasks(size)
    algorithm = algorithm_of(size)
    state = jax.jit(algorithm.init)(jax.random.key(0), batch)
    ours = on_all_cores(
        lambda way: contender(algorithm_of(size, way.mapping), state, way.place(batch), first_moment, way.name)
    )
    net = {"kind": "conv4", "channels": 1, "filters": size.filters, "outputs": size.ways, "epsilon": size.epsilon}
    variants = FIRST_ORDER_PEERS if size.first_order else PEERS
    setting = size._asdict() | {"net": net, "loss": "cross_entropy"}
    peers = Peers("episodic", variants, setting, handed_over(state.params, batch))
    # the second derivative of PyTorch's own batch norm, which its loop, higher and torchopt share, is .4% off that of
    # torch.func's, which is ours to 1e-4
    return {
        "setting": size._asdict(),
        **compare(ours, options, peers, work_of(algorithm, state, batch), LOOSE_TOLERANCE),
    }


def size_of(row: str, options: Options) -> Size:
    """The row's setting, small with --quick."""
    return SIZES[row]._replace(**SMALL) if options.quick else SIZES[row]


def algorithm_of(size: Size, mapping: Mapping = ml.auto, **options: Any) -> ml.Algorithm:
    """As a user would write it; `options` are those of `ml.meta.maml`."""
    net = ml.nets.Conv4(size.ways, features=size.filters, padding=1, epsilon=size.epsilon)
    options = {"first_order": size.first_order, "where": size.adapted or None} | options
    learner = ml.meta.maml(ml.from_linen(net), ml.cross_entropy, optax.sgd(size.inner_rate), size.steps, **options)
    task_fn = ml.episodic(learner, ml.cross_entropy)
    return ml.over_tasks(learner.init, task_fn, ml.mean(), optax.adam(size.outer_rate), mapping=mapping)


def tasks(size: Any) -> ml.Task:
    """Tasks like Omniglot's, `[K, …]`: every class a random pattern with a tenth of ink, its images with some noise.

    `size` has tasks, ways, shots and queries.
    """
    random = np.random.RandomState(0)
    pattern = random.rand(size.tasks, size.ways, 1, 28, 28, 1) < 0.1

    def part(count):
        flipped = random.rand(size.tasks, size.ways, count, 28, 28, 1) < 0.03
        x = (pattern ^ flipped).astype(np.float32).reshape(size.tasks, size.ways * count, 28, 28, 1)
        return ml.Batch(
            jax.numpy.asarray(x), jax.numpy.tile(jax.numpy.repeat(jax.numpy.arange(size.ways), count), (size.tasks, 1))
        )

    return ml.Task(part(size.shots), part(size.queries))
