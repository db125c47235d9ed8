"""Rounds of FedAvg as a loop over clients in PyTorch."""

import numpy as np

from benchmarks.peers import nets
from benchmarks.peers.local_training import mean_of, trainer
from benchmarks.peers.rounds import rounds_of, shuffled


def start(words, setting, arrays):
    """`one_round() -> (before, after, loss)`."""
    layout = nets.layout_of(words)
    net = nets.build(setting["net"], arrays, layout)
    rounds, random = rounds_of(setting, arrays, layout), np.random.default_rng(0)
    shared = {name: p.detach().clone() for name, p in net.named_parameters()}
    train = trainer(net, shared, rounds.rate, words)
    first = [True]

    def cohort():
        if first:
            first.pop()
            return zip(rounds.ids.tolist(), rounds.rows)
        ids = random.choice(rounds.num_clients, rounds.cohort, replace=False)
        return ((k, shuffled(rounds)) for k in ids.tolist())

    def one_round():
        todo = [lambda k=k, batches=batches: train(rounds.x[k], rounds.y[k], batches) for k, batches in cohort()]
        after, loss = mean_of(shared, todo)
        before = {name: p.clone() for name, p in shared.items()}
        for name, p in shared.items():
            p.copy_(after[name])
        return before, after, loss

    return one_round
