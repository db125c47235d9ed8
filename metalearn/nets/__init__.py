"""Networks that stay fast when every task has its own weights, and adapters for those of others.

A model is a pair of functions, so `metalearn.core.Model(init, apply)` is all that a network of your own needs.
"""

from metalearn.nets._character_rnn import CharacterRNN
from metalearn.nets._cnn import CNN
from metalearn.nets._conv import Conv, conv
from metalearn.nets._conv4 import Conv4
from metalearn.nets._head import with_head
from metalearn.nets._lenet import LeNet
from metalearn.nets._linen import from_linen
from metalearn.nets._mlp import MLP
from metalearn.nets._nnx import from_nnx
from metalearn.nets._norm import BatchNorm, LayerNorm
from metalearn.nets._pool import max_pool

__all__ = [
    "CNN",
    "MLP",
    "BatchNorm",
    "CharacterRNN",
    "Conv",
    "Conv4",
    "LayerNorm",
    "LeNet",
    "conv",
    "from_linen",
    "from_nnx",
    "max_pool",
    "with_head",
]
