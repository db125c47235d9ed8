"""metalearn: learning across tasks, in one small set of pure functions.

    task -> adapt -> update -> aggregate -> optimizer

The families are folders (`ml.meta`, …), loaded when they are first asked for; what every experiment needs is on this
page.
"""

import importlib
from typing import TYPE_CHECKING

# what a task is, and what is done with it
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
)

# one task: models, losses, the inner loop
from metalearn.inner import fit, gradient_learner, supervised
from metalearn.metrics import cross_entropy, interval, paired, squared_error
from metalearn.nets import from_linen, from_nnx

# many tasks: what each proposes, how proposals become one, how they are mapped
from metalearn.aggregate import mean, parts, stacked, summed, total, weighted_mean
from metalearn.mapping import auto, scanned, sharded, vmapped
from metalearn.placement import spread_seeds, spread_state
from metalearn.outer import State, difference, episodic, evaluate, gradient, over_clients, over_tasks
from metalearn.losses import over_losses

# a whole run, on the host
from metalearn.host import column, restore, run

if TYPE_CHECKING:
    from metalearn import aggregate, data, federated, meta, metrics, multitask, nets, penalty

__version__ = "0.1.0"
_FOLDERS = ("aggregate", "data", "federated", "meta", "metrics", "multitask", "nets", "penalty")
__all__ = [
    *("Aggregator", "Algorithm", "Aux", "Batch", "Fitted", "InputError", "Learner", "Model", "Penalty", "State"),
    *("Statistic", "Task", "Update", "fit", "gradient_learner", "supervised", "cross_entropy", "squared_error"),
    *("interval", "paired", "from_linen", "from_nnx", "mean", "weighted_mean", "parts", "total", "stacked", "summed"),
    *("auto", "scanned", "sharded", "vmapped", "difference", "episodic", "evaluate", "gradient", "over_clients"),
    *("over_losses", "over_tasks", "restore", "column", "run", "spread_seeds", "spread_state"),
    *("aggregate", "data", "federated", "meta", "metrics", "multitask", "nets", "penalty"),
]


def __getattr__(name: str):
    if name not in _FOLDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FOLDERS})
