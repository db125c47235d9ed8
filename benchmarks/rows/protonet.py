"""One step of ProtoNet: one episode of 60 ways, 1 shot and 5 queries a class, as in the paper's training.

Conv-4 with 64 filters and 2x2 max pooling, batch norm with running averages, 28x28x1 images; Adam.
"""

from typing import Any, NamedTuple

import jax
import optax

import metalearn as ml
from benchmarks.comparison import Peers, compare
from benchmarks.contender import contender, first_moment, handed_over, work_of
from benchmarks.measure import LOOSE_TOLERANCE, Options
from benchmarks.rows import maml

PEERS = {"torch": ("eager", "eager+channels_last", "eager+compile", "eager+channels_last+compile")}


class Size(NamedTuple):
    """The setting."""

    tasks: int = 1
    ways: int = 60
    shots: int = 1
    queries: int = 5
    filters: int = 64
    outer_rate: float = 1e-3
    epsilon: float = 1e-5


SMALL = {"ways": 10, "filters": 8}  # with --quick


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours against the peer."""
    size = Size(**SMALL) if options.quick else Size()
    batch, algorithm = maml.tasks(size), algorithm_of(size)
    state = jax.jit(algorithm.init)(jax.random.key(0), batch)
    net = {"kind": "conv4", "channels": 1, "filters": size.filters, "outputs": 0, "epsilon": size.epsilon}
    net |= {"strides": 1, "pool": True, "head": "none", "running": True}
    peers = Peers("protonet", PEERS, size._asdict() | {"net": net}, handed_over(state.params, batch))
    ours = contender(algorithm, state, batch, first_moment)
    work = work_of(algorithm, state, batch)
    return {"setting": size._asdict(), **compare([ours], options, peers, work, LOOSE_TOLERANCE)}


def algorithm_of(size: Size) -> ml.Algorithm:
    """As a user would write it."""
    module = ml.nets.Conv4(
        features=size.filters, norm="running", strides=1, pool=True, head="none", epsilon=size.epsilon
    )
    learner = ml.meta.protonet(ml.from_linen(module), size.ways)
    task_fn = ml.episodic(learner, ml.cross_entropy)
    return ml.over_tasks(learner.init, task_fn, ml.mean(), optax.adam(size.outer_rate))
