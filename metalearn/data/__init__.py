"""Where tasks come from: functions `key -> Task` that run inside jit, and the data that they sample.

Samplers: `sinusoid`, `lines_and_sines` (generated), `few_shot` and `examples` (images grouped by class), and
`batched`, which makes a sampler of batches out of one of single tasks. Data: `omniglot`, `digits`, or your own
`ClassImages`, divided by `split_classes` into classes that do not overlap. `check_batch` looks at arrays from outside.

Clients: `data.partitions` divides a data set among them, `clients` makes a population of the parts, `cohort` samples
it, `views` are how a client sees its examples. `shakespeare` has clients of its own: speaking roles.
"""

from metalearn.data import partitions, views
from metalearn.data._batched import batched
from metalearn.data._check_batch import check_batch
from metalearn.data._clients import Clients, clients, cohort, everyone, padding
from metalearn.data._digits import digits, digits_in_order
from metalearn.data._examples import examples
from metalearn.data._few_shot import few_shot
from metalearn.data._lines_and_sines import lines_and_sines
from metalearn.data._mnist import mnist
from metalearn.data._multi_mnist import TwoDigits, multi_mnist
from metalearn.data._omniglot import omniglot
from metalearn.data._shakespeare import Text, shakespeare
from metalearn.data._sinusoid import sinusoid
from metalearn.data.images import ClassImages, Splits, split_classes

__all__ = [
    "ClassImages",
    "Clients",
    "Splits",
    "Text",
    "TwoDigits",
    "batched",
    "check_batch",
    "clients",
    "cohort",
    "digits",
    "digits_in_order",
    "everyone",
    "examples",
    "few_shot",
    "lines_and_sines",
    "mnist",
    "multi_mnist",
    "omniglot",
    "padding",
    "partitions",
    "shakespeare",
    "sinusoid",
    "split_classes",
    "views",
]
