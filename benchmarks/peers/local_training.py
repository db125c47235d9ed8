"""Local training in PyTorch, as Reptile and FedAvg need it: tasks train copies of the shared parameters; their mean.

`loop`: one task after another, a module and `torch.optim.SGD`; `fused`: its fused implementation. `vmap`: all tasks'
parameters stacked, `torch.func.vmap` over them of loss and gradient, step by step.

With `compile` the loss and gradient of a step, and its update, are compiled.
"""

import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from benchmarks.peers import nets


def descent(net, rate):
    """`(params, x, y) -> (params, loss)`: one step as a function of parameters by name."""

    def loss_of(params, x, y):
        return F.cross_entropy(functional_call(net, params, (x,)), y)

    def descend(params, x, y):
        grads, loss = grad_and_value(loss_of)(params, x, y)
        return {name: p - rate * grads[name] for name, p in params.items()}, loss

    return descend


def trainer(net, shared, rate, words):
    """`(x, y, batches) -> (params, loss)`: SGD from `shared` over those examples; the loss is the last batch's."""
    params = dict(net.named_parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, fused="fused" in words)
    one = torch.compile(descent(net, rate), dynamic=False) if "compile" in words else None

    def train(x, y, batches):
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(shared[name])
        for picked in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[picked]), y[picked])
            loss.backward()
            optimizer.step()
        return {name: p.detach() for name, p in params.items()}, loss.detach()

    def train_compiled(x, y, batches):
        fast = shared
        for picked in batches:
            fast, loss = one(fast, x[picked], y[picked])
        return fast, loss

    return train if one is None else train_compiled


def mean_of(shared, trained):
    """The mean of the parameters and losses that `trained`, a list of functions, return one after another."""
    mean, total = {name: torch.zeros_like(p) for name, p in shared.items()}, 0.0
    for one in trained:
        params, loss = one()
        for name, p in params.items():
            mean[name].add_(p, alpha=1 / len(trained))
        total += loss / len(trained)
    return mean, total


def prepare(variant, setting, arrays):
    """`setting` has net and rate; `rows` `[K, T, B]` are the examples of each step."""
    method, *words = variant.split("+")
    layout = nets.layout_of(words)
    net = nets.build(setting["net"], arrays, layout)
    x, y = nets.images(arrays["support_x"], layout), torch.from_numpy(arrays["support_y"]).long()
    if setting["net"]["kind"] == "mlp":
        x = x.flatten(2) if x.ndim > 3 else x
    rows = torch.from_numpy(arrays["rows"]).long()
    count, rate = len(x), setting["rate"]
    shared = {name: p.detach().clone() for name, p in net.named_parameters()}
    train = trainer(net, shared, rate, words)

    def loop():
        return mean_of(shared, [lambda k=k: train(x[k], y[k], rows[k]) for k in range(count)])

    every = vmap(descent(net, rate))
    every = torch.compile(every, dynamic=False) if "compile" in words else every
    numbers = torch.arange(count)[:, None]

    def vmapped():
        fast = {name: p.expand(count, *p.shape).contiguous() for name, p in shared.items()}
        for t in range(rows.shape[1]):
            picked = rows[:, t]
            fast, losses = every(fast, x[numbers, picked], y[numbers, picked])
        return {name: p.mean(0) for name, p in fast.items()}, losses.mean()

    train_all = {"loop": loop, "vmap": vmapped}[method]

    def step():
        mean, loss = train_all()
        moved = {name: shared[name] - mean[name] for name in shared}
        for name in shared:
            shared[name].sub_(moved[name])
        return loss, lambda: nets.ours(net, moved)

    return step
