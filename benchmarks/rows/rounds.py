"""Whole rounds of FedAvg as a user runs them: clients are sampled, gathered and trained for an epoch, then averaged.

`rounds_2nn`: 100 clients of 600 examples of MNIST's shape, 10 a round, batches of 10, McMahan et al.'s 2NN (2017,
arXiv 1602.05629); `rounds_cnn`: the same with their CNN; `rounds_logistic`: logistic regression of 1,000 clients of 60
examples, 10 a round, FLUTE's setting (Garcia et al. 2022, arXiv 2203.13789). Ours are the programs that `run` compiles.
The first round is checked with the same clients and the same order of examples at the peers, which then choose theirs.
Flower's engine looks for messages of every client ten times a second, even while it waits, so it is timed by itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import metalearn as ml
from benchmarks.comparison import Peers, compare, with_and_without
from benchmarks.contender import KEY, handed_over, moved, on_all_cores, run_programs
from benchmarks.local_training import CONV_LOOPS, LOOPS, examples, order, work_of_tasks
from benchmarks.measure import LOOSE_TOLERANCE, TOLERANCE, Options
from benchmarks.rows.fedavg import network
from metalearn import federated as fl
from metalearn.host.steps import programs
from metalearn.mapping import Mapping

_FLOWER, _PFL, _LOOP = "Flower, simulation", "pfl-research", "torch, loop over clients"
PEERS = with_and_without({_LOOP: LOOPS, _PFL: ("pfl", "pfl+fused")}, "one_thread") | {
    _FLOWER: ("flower", "flower+often")
}
CONV_PEERS = {
    _LOOP: CONV_LOOPS,
    _FLOWER: ("flower", "flower+channels_last+often"),
    _PFL: ("pfl", "pfl+channels_last+fused"),
}


class Size(NamedTuple):
    """The setting; `clients` there are, of which `cohort` train in a round."""

    clients: int = 100
    cohort: int = 10
    examples: int = 600
    batch_size: int = 10
    rate: float = 0.05
    sides: int = 28
    filters: int = 32
    hidden: int = 512


_OF_THE_CNN = ("filters", "hidden")
SMALL = {"clients": 12, "cohort": 3, "examples": 50}  # with --quick


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours against the peers."""
    size = Size(clients=1000, examples=60) if row == "rounds_logistic" else Size()
    size = size._replace(rate=0.005) if row == "rounds_cnn" else size  # as fedavg_cnn's
    if options.quick:
        size = size._replace(**SMALL)
        size = size._replace(filters=4, hidden=32) if row == "rounds_cnn" else size
    make, everyone, net, how_long = problem(row, size)
    algorithm = make(ml.auto)
    sample = ml.data.cohort(population(everyone), size.cohort)
    state, batch, key = first_round(algorithm, sample)
    chosen = {"ids": np.asarray(batch.id), "rows": order(batch, how_long, key)}
    arrays = handed_over(state.params, everyone) | chosen
    setting = {name: value for name, value in size._asdict().items() if row == "rounds_cnn" or name not in _OF_THE_CNN}
    ours = on_all_cores(lambda way: run_programs(make(way.mapping), sample, KEY, moved, way.name))
    variants = dict(CONV_PEERS if row == "rounds_cnn" else PEERS)
    if options.quick:
        variants[_FLOWER] = variants[_FLOWER][-1:]  # its start is most of a trial
    peers = Peers("rounds", variants, setting | {"net": net}, arrays, (_FLOWER,))
    tolerance = LOOSE_TOLERANCE if row == "rounds_cnn" else TOLERANCE
    work = work_of_tasks(algorithm, state, batch, chosen["rows"], arrays)
    return {"setting": setting, **compare(ours, options, peers, work, tolerance)}


def problem(row: str, size: Size) -> tuple[Callable[[Mapping], ml.Algorithm], ml.Task, dict[str, Any], dict[str, Any]]:
    """`make(mapping)`, as a user would write it, all clients, what the peers build, and how long each trains."""
    module, net = network(row.replace("rounds", "fedavg"), size)
    how_long = {"num_epochs": 1, "batch_size": size.batch_size}

    def make(mapping):
        model = ml.from_linen(module)
        made = fl.fedavg(model, ml.cross_entropy, optax.sgd(size.rate), mapping=mapping, **how_long)
        return ml.Algorithm(made.init, made.step)

    return make, examples(size.clients, size.examples, (size.sides, size.sides, 1), 10), net, how_long


def population(everyone: ml.Task) -> ml.data.Clients:
    """The same examples as flat arrays."""
    x, y = everyone.support.x, everyone.support.y
    count = y.shape[0]
    return ml.data.clients(x.reshape(-1, *x.shape[2:]), y.ravel(), np.arange(y.size).reshape(count, -1))


def first_round(algorithm: ml.Algorithm, sample: Any) -> tuple[ml.State, ml.Task, jax.Array]:
    """The state that `run` begins with, and the cohort and the key of its first round."""
    state, key = programs(algorithm, sample, None, KEY, 1).init(KEY), jax.random.fold_in(KEY, 0)
    batch = jax.jit(lambda sample, key: sample(key))(sample, jax.random.fold_in(key, 0))
    return state, batch, jax.random.fold_in(key, 1)
