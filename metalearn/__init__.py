"""metalearn: learning across tasks, in one small set of pure functions.

    task -> adapt -> update -> aggregate -> optimizer

Types are in `core`; families in `meta`; everything a paper's experiment needs is on this page.
"""

from metalearn import aggregate, data, meta, metrics, nets, penalty
from metalearn.aggregate import mean, stacked, summed, weighted_mean
from metalearn.checkpoint import restore
from metalearn.core import (
    Aggregator,
    Algorithm,
    Aux,
    Batch,
    Fitted,
    InputError,
    Learner,
    Model,
    Penalty,
    Statistic,
    Task,
    Update,
)  # fmt: skip
from metalearn.inner import fit, gradient_learner, supervised
from metalearn.mapping import auto, scanned, sharded, vmapped
from metalearn.metrics import cross_entropy, interval, paired, squared_error
from metalearn.nets import from_linen, from_nnx
from metalearn.outer import State, difference, episodic, evaluate, gradient, over_clients, over_tasks
from metalearn.run import run
from metalearn.tree import merge, partition

__version__ = "0.1.0"
