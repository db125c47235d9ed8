"""ProtoNet's step in PyTorch: support and query through the network together, squared distances to the class means."""

import torch
from torch.nn import functional as F

from benchmarks.peers import nets


def prepare(variant, setting, arrays):
    """`setting` has net, ways and outer_rate; one episode, class by class."""
    _, *words = variant.split("+")
    layout = nets.layout_of(words)
    net = nets.build(setting["net"], arrays, layout).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=setting["outer_rate"], fused=True)
    support, query = (nets.images(arrays[f"{part}_x"][0], layout) for part in ("support", "query"))
    together = torch.cat([support, query]).contiguous(memory_format=layout)
    labels, ways = torch.from_numpy(arrays["query_y"][0]).long(), setting["ways"]

    def loss_of(x):
        embedded = net(x)
        means = embedded[: len(support)].reshape(ways, -1, embedded.shape[1]).mean(1)
        distances = ((embedded[len(support) :, None] - means[None]) ** 2).sum(2)
        return F.cross_entropy(-distances, labels)

    loss_of = torch.compile(loss_of, dynamic=False) if "compile" in words else loss_of

    def step():
        optimizer.zero_grad()
        loss = loss_of(together)
        loss.backward()
        optimizer.step()
        return loss.detach(), lambda: nets.ours(net, {name: p.grad for name, p in net.named_parameters()})

    return step
