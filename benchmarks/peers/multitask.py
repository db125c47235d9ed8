"""A multi-task step in PyTorch: a trunk, a head a task, Adam.

`equal`: the gradient of the mean loss. `loop`: a backward pass through the trunk for each loss, their gradients joined
by IMTL-G, each head with its own loss's gradient; `batched`: one batched backward pass through the trunk; `torchjd`:
the same by TorchJD, or with `sequential` a loss at a time.
"""

import torch
from torch.nn import functional as F

from benchmarks.peers import nets


def joined(jacobian):
    """IMTL-G's sum of the rows of `jacobian` `[K, P]`."""
    gramian = jacobian @ jacobian.T
    weights = torch.linalg.pinv(gramian) @ gramian.diagonal().sqrt()
    return (weights / weights.sum()) @ jacobian


def prepare(variant, setting, arrays):
    """`setting` has the numbers of tasks and units, and the rate; `y` is `[K, n]`."""
    method, *words = variant.split("+")
    layout = nets.layout_of(words)
    net = nets.build(net_of(setting), arrays, layout)
    x, y = nets.images(arrays["x"], layout), torch.from_numpy(arrays["y"]).long()
    x = x if setting["filters"] else x.flatten(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=setting["rate"], fused=True)
    shared, own = list(net.shared.parameters()), list(net.tasks.parameters())

    def losses_of(x):
        features, outputs = net(x)
        return features, [F.cross_entropy(out, labels) for out, labels in zip(outputs, y)]

    losses_of = torch.compile(losses_of, dynamic=False) if "compile" in words else losses_of

    def assign(parameters, gradients):
        for p, gradient in zip(parameters, gradients):
            p.grad = gradient.reshape(p.shape)

    # one for all steps: to ask the system for its memory anew in each would take as long as the gradients
    held = torch.empty(setting["tasks"], sum(p.numel() for p in shared))

    def jacobian(features, losses):
        if method == "loop":
            for row, loss in zip(held, losses):
                grads = torch.autograd.grad(loss, shared, retain_graph=True)
                torch.cat([g.flatten() for g in grads], out=row)
        else:
            cotangents = torch.stack([torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in losses])
            grads = torch.autograd.grad(features, shared, cotangents, retain_graph=True, is_grads_batched=True)
            torch.cat([g.flatten(1) for g in grads], 1, out=held)
        return held

    def equally(features, losses):
        (sum(losses) / len(losses)).backward()

    def by_gradients(features, losses):
        direction = joined(jacobian(features, losses))
        heads = torch.autograd.grad(sum(losses), own)
        assign(own, heads)
        assign(shared, direction.split([p.numel() for p in shared]))

    def by_torchjd(features, losses):
        mtl_backward(losses, features=features, parallel_chunk_size=1 if "sequential" in words else None)
        jac_to_grad(shared, aggregator)

    if method == "torchjd":
        from torchjd.aggregation import IMTLG
        from torchjd.autojac import jac_to_grad, mtl_backward

        aggregator = IMTLG()

    backward = {"equal": equally, "torchjd": by_torchjd}.get(method, by_gradients)

    def step():
        optimizer.zero_grad()
        features, losses = losses_of(x)
        backward(features, losses)
        optimizer.step()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        return sum(losses).detach() / len(losses), lambda: nets.ours(net, gradients)

    return step


def net_of(setting):
    """What `nets.build` builds."""
    filters, hidden, head = setting["filters"], setting["hidden"], setting["head"]
    if filters:
        trunk = {"kind": "lenet", "channels": 1, "filters": filters, "hidden": hidden[0], "sides": 4}
    else:
        trunk = {"kind": "mlp", "sizes": [28 * 28, *hidden]}
    heads = {f"task_{k}": {"kind": "mlp", "sizes": [hidden[-1], *head]} for k in range(setting["tasks"])}
    return {"kind": "tasks", "trunk": trunk, "heads": heads}
