"""The baseline without federation: every client trains a model of its own, and nothing is exchanged."""

from typing import Any

import optax

from metalearn.aggregate import mean
from metalearn.core import Criterion, Model
from metalearn.federated.client import Federated, proposal, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_clients


def local_only(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    num_clients: int,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """v_k ← fit(v_k) on client k's own support set. All rows begin at one initialisation."""
    learn = fit(supervised(model, criterion), optimizer, **options)

    def init(key, task):
        return (), model.init(key, task.support.x)

    def client(shared, row, task, key):
        fitted = learn(row, task.support, key)
        return proposal((), task.support, fitted), fitted.params

    algorithm = over_clients(
        init, client, mean(), optax.identity(), num_clients=num_clients, mapping=mapping, drop_nonfinite=drop_nonfinite
    )
    return Federated(*algorithm, using(model, lambda shared, row, support, key: row))
