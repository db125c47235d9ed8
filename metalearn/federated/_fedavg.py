"""FedSGD and FedAvg (McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, arXiv 1602.05629)."""

from collections.abc import Callable
from typing import Any

import optax

from metalearn.aggregate import weighted_mean
from metalearn.core import Criterion, Model
from metalearn.federated.client import Federated, from_model, shared_model, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import difference, gradient, over_tasks


def fedavg(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    server: optax.GradientTransformation | None = None,
    init: Callable | None = None,
    mapping: Mapping = auto,
    **options: Any,
) -> Federated:
    """Clients train on their own data; the server averages what they arrived at, weighted by their examples.

    w ← w - Σ_k (n_k / n) (w - w_k), which with `server=optax.sgd(1.0)` (the default) is the weighted mean of the w_k.

    Args:
      optimizer: the clients', which starts anew in every round.
      server: receives the weighted mean of w - w_k as its gradient: FedAvgM, FedAdam and their kin are this argument.
      init: `(key, task) -> params`; by default the model's own. A pretrained model enters here, and with
        `where="head"` only a part of it is trained (federated transfer).
      options: those of `inner.fit`: `num_epochs` (E), `batch_size` (B), `where`, `penalty`, …
    """
    client = fit(supervised(model, criterion), optimizer, **options)
    server = optax.sgd(1.0) if server is None else server
    algorithm = over_tasks(init or from_model(model), difference(client), weighted_mean(), server, mapping=mapping)
    return Federated(*algorithm, using(model, shared_model))


def fedsgd(
    model: Model,
    criterion: Criterion,
    server: optax.GradientTransformation,
    *,
    init: Callable | None = None,
    mapping: Mapping = auto,
) -> Federated:
    """One full-batch gradient a client and round: w ← w - η Σ_k (n_k / n) ∇F_k(w), for `server=optax.sgd(η)`."""
    task_fn = gradient(supervised(model, criterion))
    algorithm = over_tasks(init or from_model(model), task_fn, weighted_mean(), server, mapping=mapping)
    return Federated(*algorithm, using(model, shared_model))
