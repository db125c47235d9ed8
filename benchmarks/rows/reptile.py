"""One meta-step of Reptile: Conv-4 on Omniglot's shape, 5 tasks of 5 ways and 10 shots, 5 inner steps of 10.

As in the authors' code, but for the inner optimizer, which is SGD here: Adam turns the rounding error in the gradient
of a bias ahead of a norm (which is zero) into a step, and the two sides could not be compared.
"""

from typing import Any, NamedTuple

import optax

import metalearn as ml
from benchmarks.local_training import CONV_PEERS, local_training
from benchmarks.measure import LOOSE_TOLERANCE, Options
from benchmarks.rows import maml


class Size(NamedTuple):
    """The setting."""

    tasks: int = 5
    ways: int = 5
    shots: int = 10
    queries: int = 1
    filters: int = 64
    steps: int = 5
    batch_size: int = 10
    rate: float = 0.05
    epsilon: float = 1e-3


SMALL = {"tasks": 2, "filters": 8}  # with --quick


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours against the peers."""
    size = Size(**SMALL) if options.quick else Size()
    how_long = {"num_steps": size.steps, "batch_size": size.batch_size}
    module = ml.nets.Conv4(size.ways, features=size.filters, padding=1, epsilon=size.epsilon, head="flatten")
    learner = ml.meta.reptile(ml.from_linen(module), ml.cross_entropy, optax.sgd(size.rate), **how_long)

    def make(mapping):
        return ml.over_tasks(learner.init, ml.difference(learner.adapt), ml.mean(), optax.sgd(1.0), mapping=mapping)

    net = {"kind": "conv4", "channels": 1, "filters": size.filters, "outputs": size.ways, "epsilon": size.epsilon}
    net |= {"head": "flatten", "sides": 2}
    batch = maml.tasks(size)._replace(query=None)
    return local_training(make, batch, net, size._asdict(), how_long, CONV_PEERS, options, LOOSE_TOLERANCE)
