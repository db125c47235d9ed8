"""A round of FedAvg: every client trains one epoch on 600 examples of MNIST's shape, 60 steps of 10, by SGD.

`fedavg_cnn`: 10 clients, McMahan et al.'s CNN (2017, arXiv 1602.05629): 5x5 convolutions of 32 and 64 filters, each
with ReLU and 2x2 max pooling, a hidden layer of 512, 1,663,370 parameters. `fedavg_2nn`: 10 clients, their 2NN,
784-200-200-10. `fedavg_logistic`: 100 clients, logistic regression.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from flax import linen as nn

import metalearn as ml
from benchmarks.local_training import CONV_PEERS, PEERS, examples, local_training
from benchmarks.measure import LOOSE_TOLERANCE, TOLERANCE, Options
from metalearn.mapping import Mapping


class Size(NamedTuple):
    """The setting; `sides` is the height and width of the images."""

    clients: int = 10
    examples: int = 600
    batch_size: int = 10
    rate: float = 0.05
    sides: int = 28
    filters: int = 32
    hidden: int = 512


_OF_THE_CNN = ("filters", "hidden")
SMALL = {"clients": 3, "examples": 50}  # with --quick


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours against the peers."""
    size = Size(clients=100) if row == "fedavg_logistic" else Size()
    # a small rate, which costs no other time: at .05 rounding grows over sixty steps to a tenth
    size = size._replace(rate=0.005) if row == "fedavg_cnn" else size
    if options.quick:
        size = size._replace(**SMALL)
        size = size._replace(filters=4, hidden=32) if row == "fedavg_cnn" else size
    make, clients, net, how_long = problem(row, size)
    peers = CONV_PEERS if row == "fedavg_cnn" else PEERS
    setting = {name: value for name, value in size._asdict().items() if row == "fedavg_cnn" or name not in _OF_THE_CNN}
    # a maximum that rounding turns counts in all steps after it
    tolerance = LOOSE_TOLERANCE if row == "fedavg_cnn" else TOLERANCE
    return local_training(make, clients, net, setting, how_long, peers, options, tolerance)


def problem(row: str, size: Size) -> tuple[Callable[[Mapping], ml.Algorithm], ml.Task, dict[str, Any], dict[str, Any]]:
    """`make(mapping)`, as a user would write it, its clients, what the peers build, and how long each trains."""
    module, net = network(row, size)
    how_long = {"num_epochs": 1, "batch_size": size.batch_size}
    client = ml.gradient_learner(ml.from_linen(module), ml.cross_entropy, optax.sgd(size.rate), **how_long)

    def make(mapping):
        return ml.over_tasks(
            client.init, ml.difference(client.adapt), ml.weighted_mean(), optax.sgd(1.0), mapping=mapping
        )

    return make, examples(size.clients, size.examples, (size.sides, size.sides, 1), 10), net, how_long


def network(row: str, size: Size) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a row, and what the peers build."""
    if row == "fedavg_cnn":
        net = {"channels": 1, "filters": size.filters, "hidden": size.hidden, "outputs": 10, "sides": size.sides // 4}
        return ml.nets.CNN(10, size.filters, size.hidden), {"kind": "cnn"} | net
    hidden = [200, 200] if row == "fedavg_2nn" else []
    return ml.nets.MLP([*hidden, 10]), {"kind": "mlp", "sizes": [size.sides**2, *hidden, 10]}
