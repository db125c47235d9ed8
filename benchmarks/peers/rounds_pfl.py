"""Rounds of FedAvg by pfl-research (Granqvist et al. 2024, arXiv 2404.06430), in one process."""

import functools

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from torch.nn import functional as F

from benchmarks.peers import nets
from benchmarks.peers.rounds import rounds_of, shuffled

NEVER = 10**9  # pfl evaluates in every so-manieth round, and in the first


def start(words, setting, arrays):
    """`one_round() -> (before, after, loss)`; pfl takes a client's examples in the order in which it gets them."""
    layout = nets.layout_of(words)
    net, losses = nets.build(setting["net"], arrays, layout), []
    rounds = rounds_of(setting, arrays, layout)

    def loss_of(x, y):
        loss = F.cross_entropy(net(x), y)
        losses.append(loss.detach().clone())
        return loss

    net.loss, net.metrics = loss_of, lambda x, y: {}
    first = list(zip(rounds.ids.tolist(), rounds.rows))
    sample = get_user_sampler("minimize_reuse", list(range(rounds.num_clients)))
    orders = {}

    def who():
        if not first:
            return sample()
        k, orders[k] = first.pop(0)
        return k

    def dataset(k):
        order = orders.pop(k).flatten() if k in orders else torch.cat(shuffled(rounds))
        return Dataset((rounds.x[k][order], rounds.y[k][order]), user_id=str(k))

    backend = SimulatedBackend(FederatedDataset(dataset, who), None, [WeightByDatapoints()])
    model = PyTorchModel(
        net,
        functools.partial(torch.optim.SGD, fused=True) if "fused" in words else torch.optim.SGD,
        torch.optim.SGD(net.parameters(), lr=1.0),
    )
    algorithm, count = FederatedAveraging(), [0]
    local = NNTrainHyperParams(local_batch_size=rounds.batch_size, local_num_epochs=1, local_learning_rate=rounds.rate)

    def one_round():
        losses.clear()
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        count[0] += 1  # the algorithm goes on from where it stopped
        algorithm.run(NNAlgorithmParams(count[0], NEVER, rounds.cohort, 0), backend, model, local)
        after = {name: p.detach() for name, p in net.named_parameters()}
        steps = len(losses) // rounds.cohort
        return before, after, torch.stack(losses[steps - 1 :: steps]).mean()

    return one_round
