"""MAML, FOMAML and ANIL in PyTorch, as their users write them, for any network: one step of the outer optimizer.

`loop`: one task after another, `torch.autograd.grad(…, create_graph=True)` inside. `vmap`: `torch.func.vmap` over the
tasks' gradients, `torch.func.grad` inside (the gradient of a vmapped loss is 1% wrong in PyTorch 2.13 with batch norm,
in float64 too; compare pytorch/functorch issue 534). `higher` and `torchopt`: one task after another, the inner loop
by the library of that name.

With `compile` a task's, or the batch's, loss and gradient are compiled; both methods use `torch.func.grad` there,
because compiled code cannot be differentiated twice from outside. `chunks`: vmap four tasks at a time.
"""

import torch
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn import functional as F

from benchmarks.peers import nets


def prepare(variant, setting, arrays):
    """`setting` has net, loss, steps, first_order, adapted (a prefix of names), inner_rate and outer_rate."""
    method, *words = variant.split("+")
    layout = nets.layout_of(words)
    net = nets.build(setting["net"], arrays, layout)
    params = dict(net.named_parameters())
    adapted = [name for name in params if name.startswith(setting["adapted"])]
    optimizer = torch.optim.Adam(net.parameters(), lr=setting["outer_rate"], fused=True)
    rate, steps, first_order = setting["inner_rate"], setting["steps"], setting["first_order"]
    classifies = setting["loss"] == "cross_entropy"
    criterion = F.cross_entropy if classifies else F.mse_loss
    data = []
    for part in ("support", "query"):
        y = torch.from_numpy(arrays[f"{part}_y"])
        data += [nets.images(arrays[f"{part}_x"], layout), y.long() if classifies else y]
    count = len(data[0])

    def loss_of(params, x, y):
        return criterion(functional_call(net, params, (x,)), y)

    def loop():
        total = 0.0
        for support_x, support_y, query_x, query_y in zip(*data):
            fast = params
            for _ in range(steps):
                loss = loss_of(fast, support_x, support_y)
                grads = torch.autograd.grad(loss, [fast[name] for name in adapted], create_graph=not first_order)
                fast = fast | {name: fast[name] - rate * g for name, g in zip(adapted, grads)}
            loss = loss_of(fast, query_x, query_y) / count
            loss.backward()  # task by task: the graph of one task at a time is held
            total += loss.detach()
        return total

    def adapt(params, x, y):
        for _ in range(steps):
            inner = lambda part, fast=params: loss_of(fast | part, x, y)  # noqa: E731
            grads = grad(inner)({name: params[name] for name in adapted})
            params = params | {name: params[name] - rate * g for name, g in grads.items()}
        return params

    def task_gradient(params, support_x, support_y, query_x, query_y):
        if first_order:  # the gradient at the adapted parameters
            return grad_and_value(loss_of)(adapt(params, support_x, support_y), query_x, query_y)
        return grad_and_value(lambda p: loss_of(adapt(p, support_x, support_y), query_x, query_y))(params)

    def detached():
        return {name: p.detach() for name, p in params.items()}

    one = torch.compile(task_gradient, dynamic=False) if "compile" in words else task_gradient

    def loop_compiled():
        total, start = 0.0, detached()
        for p in params.values():
            p.grad = torch.zeros_like(p)
        for task in zip(*data):
            grads, loss = one(start, *task)
            for name, p in params.items():
                p.grad.add_(grads[name], alpha=1 / count)
            total += loss / count
        return total

    every = vmap(task_gradient, (None, 0, 0, 0, 0), chunk_size=4 if "chunks" in words else None)
    every = torch.compile(every, dynamic=False) if "compile" in words else every

    def vmapped():
        grads, losses = every(detached(), *data)
        for name, p in params.items():
            p.grad = grads[name].mean(0)
        return losses.mean()

    def with_higher():
        import higher

        total, inner = 0.0, torch.optim.SGD([params[name] for name in adapted], lr=rate)
        for support_x, support_y, query_x, query_y in zip(*data):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, descent):
                for _ in range(steps):
                    descent.step(criterion(fast(support_x), support_y))
                loss = criterion(fast(query_x), query_y) / count
                loss.backward()
            total += loss.detach()
        return total

    def with_torchopt():
        import torchopt

        total, start = 0.0, torchopt.extract_state_dict(net, by="reference")
        part = net.get_submodule(setting["adapted"])
        for support_x, support_y, query_x, query_y in zip(*data):
            inner = torchopt.MetaSGD(part, lr=rate)
            for _ in range(steps):
                inner.step(criterion(net(support_x), support_y))
            loss = criterion(net(query_x), query_y) / count
            loss.backward()
            torchopt.recover_state_dict(net, start)
            total += loss.detach()
        return total

    gradient_of = {
        "loop": loop_compiled if "compile" in words else loop,
        "vmap": vmapped,
        "higher": with_higher,
        "torchopt": with_torchopt,
    }[method]

    def step():
        optimizer.zero_grad()
        loss = gradient_of()
        optimizer.step()
        return loss, lambda: nets.ours(net, {name: p.grad for name, p in params.items()})

    return step
