"""FedSGD and FedAvg (McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, arXiv 1602.05629)."""

import functools
from collections.abc import Callable
from typing import Any

import optax

from metalearn.core import Aggregator, Criterion, Model
from metalearn.federated._stragglers import in_time
from metalearn.federated.client import BY_EXAMPLES, PLAIN, Federated, changes, from_model, shared_model, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import difference, gradient, over_tasks


def fedavg(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    server: optax.GradientTransformation = PLAIN,
    aggregator: Aggregator = BY_EXAMPLES,
    init: Callable | None = None,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    drop_stragglers: bool = False,
    **options: Any,
) -> Federated:
    """Clients train on their own data; the server averages what they arrived at, weighted by their examples.

    w ← w - Σ_k (n_k / n) (w - w_k), which with `server=optax.sgd(1.0)` (the default) is the weighted mean of the w_k.

    Args:
      optimizer: the clients', which starts anew in every round.
      server: receives the weighted mean of w - w_k as its gradient: FedAvgM, FedAdam and their kin are this argument.
      aggregator: of the clients' changes, by default their mean weighted by examples. Where clients are sampled with
        chances in proportion to their examples already, `aggregate.mean()`.
      init: `(key, task) -> params`; by default the model's own. A pretrained model enters here, and with
        `where="head"` only a part of it is trained (federated transfer).
      drop_stragglers: the server leaves out clients whose `work` is less than all, as FedAvg does in the FedProx paper;
        otherwise what they did counts, as FedProx proposes.
      options: those of `inner.fit`: `num_epochs` (E), `batch_size` (B), `where`, `penalty`, `work`, …

    Raises `InputError` where stragglers are to be dropped, and no `work` says who they are.

    >>> import metalearn as ml
    >>> model = ml.from_linen(ml.nets.MLP([200, 200, 10]))
    >>> algorithm = fedavg(model, ml.cross_entropy, optax.sgd(0.1), num_epochs=5, batch_size=10)
    """
    client = fit(supervised(model, criterion), optimizer, **options)
    task_fn = difference(client)
    if drop_stragglers:
        task_fn = in_time(task_fn, options.get("work"))
    algorithm = over_tasks(
        init or from_model(model),
        task_fn,
        aggregator,
        server,
        mapping=mapping,
        drop_nonfinite=drop_nonfinite,
    )
    up = functools.partial(changes, where=options.get("where"))
    return Federated(*algorithm, using(model, shared_model), up=up)


def fedsgd(
    model: Model,
    criterion: Criterion,
    server: optax.GradientTransformation,
    *,
    aggregator: Aggregator = BY_EXAMPLES,
    init: Callable | None = None,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
) -> Federated:
    """One full-batch gradient a client and round: w ← w - η Σ_k (n_k / n) ∇F_k(w), for `server=optax.sgd(η)`."""
    task_fn = gradient(supervised(model, criterion))
    algorithm = over_tasks(
        init or from_model(model), task_fn, aggregator, server, mapping=mapping, drop_nonfinite=drop_nonfinite
    )
    return Federated(*algorithm, using(model, shared_model))
