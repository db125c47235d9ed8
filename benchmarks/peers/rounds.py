"""Rounds of FedAvg as three simulators run them: they sample clients, shuffle each one's examples, train and average.

`loop`: the loop in plain PyTorch of `local_training`; `flower`: Flower's simulation engine; `pfl`: pfl-research. The
first round alone takes the clients `ids` `[K]` and the order `rows` `[K, T, B]`, so that it can be checked.
"""

import importlib
from typing import NamedTuple

import torch

from benchmarks.peers import nets

SIMULATORS = {"loop": "rounds_loop", "flower": "rounds_flower", "pfl": "rounds_pfl"}


class Rounds(NamedTuple):
    """All clients' examples `[N, n, …]`, the first round's clients and batches, and the rest of the setting."""

    x: torch.Tensor
    y: torch.Tensor
    ids: torch.Tensor
    rows: torch.Tensor
    rate: float
    batch_size: int

    @property
    def num_clients(self):
        return len(self.x)

    @property
    def cohort(self):
        return len(self.ids)


def rounds_of(setting, arrays, layout):
    """The tensors out of our arrays; a network of dense layers gets flat examples."""
    x, y = nets.images(arrays["support_x"], layout), torch.from_numpy(arrays["support_y"]).long()
    x = x.flatten(2) if setting["net"]["kind"] == "mlp" else x
    ids, rows = (torch.from_numpy(arrays[name]).long() for name in ("ids", "rows"))
    return Rounds(x, y, ids, rows, setting["rate"], setting["batch_size"])


def shuffled(rounds):
    """An epoch's batches in random order."""
    return torch.randperm(rounds.x.shape[1]).split(rounds.batch_size)


def prepare(variant, setting, arrays):
    """A step is a round; `setting` has net, rate and batch_size, `arrays` every client's examples, ids and rows."""
    method, *words = variant.split("+")
    one_round = importlib.import_module(f"benchmarks.peers.{SIMULATORS[method]}").start(words, setting, arrays)
    net = nets.build(setting["net"], arrays, torch.contiguous_format)

    def step():
        before, after, loss = one_round()
        return loss, lambda: nets.ours(net, {name: before[name] - after[name] for name in before})

    return step
