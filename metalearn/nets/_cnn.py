"""The convolutional network of federated averaging."""

from flax import linen as nn

from metalearn.nets._conv import Conv
from metalearn.nets._pool import max_pool
from metalearn.nets._product import Dense


class CNN(nn.Module):
    """Two 5×5 convolutions, each with ReLU and 2×2 max pooling, and a hidden layer: images `[n, H, W, C]` to
    `[n, num_classes]`.

    As in McMahan et al. 2017 (arXiv 1602.05629): with 28×28 images and 10 classes 1,663,370 parameters. The second
    convolution has twice the `filters` of the first; the last layer is called `head`.
    """

    num_classes: int = 10
    filters: int = 32
    hidden: int = 512

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = max_pool(nn.relu(Conv((i + 1) * self.filters, 5, name=f"conv_{i}")(x)))
        x = nn.relu(Dense(self.hidden, name="hidden")(x.reshape(x.shape[0], -1)))
        return Dense(self.num_classes, name="head")(x)
