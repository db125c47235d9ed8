"""Our networks in PyTorch, with modules named as ours: `block_0/conv/kernel` there is `block_0.conv.weight` here."""

import torch
from torch import nn
from torch.nn import functional as F


class Conv4(nn.Module):
    """Four blocks of convolution, batch norm, ReLU and perhaps pooling; then `head` as in our `nets.Conv4`.

    `running`: the norm keeps running averages; `sides`: height and width of what is flattened.
    """

    def __init__(self, channels, filters, outputs, epsilon, strides=2, pool=False, head="mean", sides=2, running=False):
        super().__init__()
        self.pool, self.head_kind = pool, head
        for i in range(4):
            conv = nn.Conv2d(filters if i else channels, filters, 3, strides, 1)
            norm = nn.BatchNorm2d(filters, epsilon, track_running_stats=running)
            self.add_module(f"block_{i}", nn.ModuleDict({"conv": conv, "norm": norm}))
        if head != "none":
            self.head = nn.Linear(filters * (sides**2 if head == "flatten" else 1), outputs)
        self.spatial = {"head.weight": (sides, sides, filters)} if head == "flatten" else {}

    def forward(self, x):
        for block in (self.block_0, self.block_1, self.block_2, self.block_3):
            x = F.relu(block["norm"](block["conv"](x)))
            if self.pool:
                x = F.max_pool2d(x, 2)
        x = x.mean((2, 3)) if self.head_kind == "mean" else x.flatten(1)
        return x if self.head_kind == "none" else self.head(x)


class Convs(nn.Module):
    """The user's own network of the row `own_conv`: three convolutions and a linear layer."""

    def __init__(self, channels, filters, outputs):
        super().__init__()
        for i in range(3):
            self.add_module(f"Conv_{i}", nn.Conv2d(filters if i else channels, filters, 3, 2, 1))
        self.Dense_0 = nn.Linear(filters, outputs)
        self.spatial = {}

    def forward(self, x):
        for conv in (self.Conv_0, self.Conv_1, self.Conv_2):
            x = F.relu(conv(x))
        return self.Dense_0(x.mean((2, 3)))


class CNN(nn.Module):
    """McMahan's: two 5x5 convolutions with ReLU and 2x2 max pooling each, a hidden layer, a linear layer."""

    def __init__(self, channels, filters, hidden, outputs, sides):
        super().__init__()
        self.conv_0 = nn.Conv2d(channels, filters, 5, padding=2)
        self.conv_1 = nn.Conv2d(filters, 2 * filters, 5, padding=2)
        self.hidden = nn.Linear(2 * filters * sides**2, hidden)
        self.head = nn.Linear(hidden, outputs)
        self.spatial = {"hidden.weight": (sides, sides, 2 * filters)}

    def forward(self, x):
        for conv in (self.conv_0, self.conv_1):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


class MLP(nn.Module):
    """Dense layers with ReLU between them: `hidden_0`, `hidden_1`, …, `head`."""

    def __init__(self, sizes):
        super().__init__()
        self.names = [*(f"hidden_{i}" for i in range(len(sizes) - 2)), "head"]
        for name, size, next_size in zip(self.names, sizes, sizes[1:]):
            self.add_module(name, nn.Linear(size, next_size))
        self.spatial = {}

    def forward(self, x):
        for name in self.names[:-1]:
            x = F.relu(getattr(self, name)(x))
        return self.head(x)


class LeNet(nn.Module):
    """Two convolutions without padding, each with 2x2 max pooling and ReLU, and a hidden layer."""

    def __init__(self, channels, filters, hidden, sides):
        super().__init__()
        for i, (before, after) in enumerate(zip((channels, *filters), filters)):
            self.add_module(f"conv_{i}", nn.Conv2d(before, after, 5))
        self.hidden = nn.Linear(filters[-1] * sides**2, hidden)
        self.spatial = {"hidden.weight": (sides, sides, filters[-1])}

    def forward(self, x):
        for conv in (self.conv_0, self.conv_1):
            x = F.relu(F.max_pool2d(conv(x), 2))
        return F.relu(self.hidden(x.flatten(1)))


class Tasks(nn.Module):
    """A trunk, `shared`, and a head a task; outputs of all tasks."""

    def __init__(self, trunk, heads):
        super().__init__()
        self.shared = made(trunk)
        self.tasks = nn.ModuleDict({name: made(head) for name, head in heads.items()})
        self.spatial = {f"shared.{name}": sides for name, sides in self.shared.spatial.items()}

    def forward(self, x):
        features = self.shared(x)
        return features, [head(features) for head in self.tasks.values()]


def made(net):
    """The network that `net` (a dict with its kind and arguments) describes."""
    options = dict(net)
    kinds = {"conv4": Conv4, "convs": Convs, "cnn": CNN, "mlp": MLP, "lenet": LeNet, "tasks": Tasks}
    return kinds[options.pop("kind")](**options)


def build(net, arrays, layout):
    """The network that `net` describes, with our weights."""
    built = made(net)
    weights = {name.removeprefix("weight/"): a for name, a in arrays.items() if name.startswith("weight/")}
    translated = {_their_name(name): a for name, a in weights.items()}
    with torch.no_grad():
        for name, p in built.named_parameters():
            p.copy_(_to_torch(built, name, translated.pop(name)))
    assert not translated, f"the network has no {', '.join(translated)}"
    return built.to(memory_format=layout)


def ours(net, tensors):
    """Tensors by their names as arrays by ours, in our layouts."""
    return {_our_name(name, t): _to_jax(net, name, t.detach()).numpy() for name, t in tensors.items()}


def images(array, layout):
    """Ours `[…, H, W, C]` as theirs `[…, C, H, W]`, in memory as `layout` says; anything else as it is."""
    x = torch.from_numpy(array)
    if array.ndim < 4:
        return x
    x = x.movedim(-1, -3)  # channels last is what they come as
    return x if layout is torch.channels_last else x.contiguous()


def layout_of(words):
    """The memory layout that a variant asks for."""
    return torch.channels_last if "channels_last" in words else torch.contiguous_format


def _their_name(name):
    *path, leaf = name.split("/")
    return ".".join([*path, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])


def _our_name(name, tensor):
    *path, leaf = name.split(".")
    return "/".join([*path, leaf if leaf == "bias" else "scale" if tensor.ndim == 1 else "kernel"])


def _to_torch(net, name, array):
    a = torch.from_numpy(array)
    if name in net.spatial:  # we flatten height, width, channels; they flatten channels, height, width
        a = a.reshape(*net.spatial[name], -1).permute(2, 0, 1, 3).reshape(a.shape)
    return {4: lambda: a.permute(3, 2, 0, 1), 2: lambda: a.T}.get(a.ndim, lambda: a)().contiguous()


def _to_jax(net, name, a):
    a = {4: lambda: a.permute(2, 3, 1, 0), 2: lambda: a.T}.get(a.ndim, lambda: a)().contiguous()
    if name in net.spatial:
        height, width, channels = net.spatial[name]
        a = a.reshape(channels, height, width, -1).permute(1, 2, 0, 3).reshape(a.shape)
    return a.contiguous()
