"""MAML's meta-step in PyTorch, as its users write it.

`loop`: one task after another, `torch.autograd.grad(…, create_graph=True)` inside. `vmap`: `torch.func.vmap` over the
tasks' gradients, `torch.func.grad` inside (the gradient of a vmapped loss is 1% wrong in PyTorch 2.13 with batch norm,
in float64 too; compare pytorch/functorch issue 534).

Further words after a `+`: `channels_last` (memory layout of images and kernels), `chunks` (vmap four tasks at a time),
`compile` (`torch.compile` of a task's, or of the batch's, loss and gradient; both use `torch.func.grad` there, because
compiled code cannot be differentiated twice from outside).
"""

import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn import functional as F


class Conv4(nn.Module):
    """Four blocks of convolution, norm by the batch at hand and ReLU; the mean over space; a linear layer."""

    def __init__(self, channels: int, filters: int, ways: int, epsilon: float):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(filters if i else channels, filters, 3, 2, 1) for i in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters, epsilon, track_running_stats=False) for _ in range(4))
        self.head = nn.Linear(filters, ways)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms):
            x = F.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


def prepare(variant, arrays):
    """Returns `step() -> (loss, gradient)`; `gradient()` has JAX's names and layouts."""
    method, *words = variant.split("+")
    layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
    weights = {ours[len("weight/") :]: array for ours, array in arrays.items() if ours.startswith("weight/")}
    filters, ways = weights["head/kernel"].shape
    net = Conv4(weights["block_0/conv/kernel"].shape[2], filters, ways, float(arrays["epsilon"]))
    theirs = {_name(name): _to_torch(torch.from_numpy(array)) for name, array in weights.items()}
    net.load_state_dict(theirs)
    net.to(memory_format=layout)
    params = dict(net.named_parameters())
    optimizer = torch.optim.Adam(net.parameters(), lr=float(arrays["outer_rate"]))
    rate = float(arrays["inner_rate"])

    def images(name):  # [K, n, C, H, W]; channels last is what they come as
        x = torch.from_numpy(arrays[name]).movedim(-1, -3)
        return x if layout is torch.channels_last else x.contiguous()

    data = (
        images("support_x"), torch.from_numpy(arrays["support_y"]).long(),
        images("query_x"), torch.from_numpy(arrays["query_y"]).long(),
    )  # fmt: skip

    def loss_of(params, x, y):
        return F.cross_entropy(functional_call(net, params, (x,)), y)

    def adapted_loss(params, support_x, support_y, query_x, query_y):
        grads = grad(loss_of)(params, support_x, support_y)
        return loss_of({name: p - rate * grads[name] for name, p in params.items()}, query_x, query_y)

    def loop():
        total = 0.0
        for support_x, support_y, query_x, query_y in zip(*data):
            inner = loss_of(params, support_x, support_y)
            grads = torch.autograd.grad(inner, list(params.values()), create_graph=True)
            fast = {name: p - rate * g for (name, p), g in zip(params.items(), grads)}
            loss = loss_of(fast, query_x, query_y) / len(data[0])
            loss.backward()  # task by task: the graph of one task at a time is held
            total += loss.detach()
        return total

    one = torch.compile(grad_and_value(adapted_loss), dynamic=False) if "compile" in words else None

    def loop_compiled():
        detached = {name: p.detach() for name, p in params.items()}
        total, count = 0.0, len(data[0])
        for p in params.values():
            p.grad = torch.zeros_like(p)
        for task in zip(*data):
            grads, loss = one(detached, *task)
            for name, p in params.items():
                p.grad.add_(grads[name], alpha=1 / count)
            total += loss / count
        return total

    every = vmap(grad_and_value(adapted_loss), (None, 0, 0, 0, 0), chunk_size=4 if "chunks" in words else None)
    every = torch.compile(every, dynamic=False) if "compile" in words else every

    def vmapped():
        grads, losses = every({name: p.detach() for name, p in params.items()}, *data)
        for name, p in params.items():
            p.grad = grads[name].mean(0)
        return losses.mean()

    gradient_of = {"loop": loop_compiled if "compile" in words else loop, "vmap": vmapped}[method]

    def step():
        optimizer.zero_grad()
        loss = gradient_of()
        optimizer.step()
        return loss, lambda: {ours: _to_jax(params[_name(ours)].grad).numpy() for ours in weights}

    return step


def _name(ours):
    """`block_0/conv/kernel` there is `convs.0.weight` here."""
    block, *layer, leaf = ours.split("/")
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return f"{layer[0]}s.{block[-1]}.{leaf}" if layer else f"{block}.{leaf}"


def _to_torch(a):
    return {4: lambda: a.permute(3, 2, 0, 1), 2: lambda: a.T}.get(a.ndim, lambda: a)().contiguous()


def _to_jax(a):
    return {4: lambda: a.permute(2, 3, 1, 0), 2: lambda: a.T}.get(a.ndim, lambda: a)().contiguous()
