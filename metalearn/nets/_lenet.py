"""The convolutional trunk of multi-task MNIST."""

from collections.abc import Sequence

from flax import linen as nn

from metalearn.arguments import number
from metalearn.core import InputError
from metalearn.nets._conv import Conv
from metalearn.nets._pooled_convs import pooled_convs
from metalearn.nets._product import Dense


class LeNet(nn.Module):
    """Two convolutions without padding, each with 2×2 max pooling and ReLU, channel dropout after the second, and a
    hidden layer: images `[n, H, W, C]` to features `[n, hidden]`.

    As in Sener and Koltun 2018 (arXiv 1810.04650): 10 and 20 filters, kernels of 5, and with 28×28 images 320 numbers
    into 50; Lin et al. 2019 (arXiv 1912.12854) have kernels of 9 and 5 on 36×36 images, 500 into 50. `dropout` drops
    whole channels, in training.

    Raises `InputError` where filters and kernels are not as many, or `dropout` is not in [0, 1).
    """

    filters: Sequence[int] = (10, 20)
    kernels: Sequence[int] = (5, 5)
    hidden: int = 50
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x, train: bool = False):
        if len(self.filters) != len(self.kernels):
            raise InputError(f"filters and kernels must be as many, but are {self.filters} and {self.kernels}.")
        number("dropout", self.dropout, least=0, below=1)
        channels = [x.shape[-1], *self.filters]
        layers = [Conv(*size, name=f"conv_{i}") for i, size in enumerate(zip(self.filters, self.kernels))]
        x = pooled_convs(x, [layer.weights(entering) for layer, entering in zip(layers, channels)])
        # the same as before pooling and ReLU, for what is dropped is 0 and what stays is multiplied
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
        return nn.relu(Dense(self.hidden, name="hidden")(x.reshape(x.shape[0], -1)))
