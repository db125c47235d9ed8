"""Ditto: a personal model near the global one (Li, Hu, Beirami, Smith 2021, arXiv 2012.04221)."""

from typing import Any

import jax
import optax

from metalearn.arguments import number
from metalearn.core import Aggregator, Criterion, Model
from metalearn.federated.client import BY_EXAMPLES, PLAIN, Federated, changes, shared_model, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import difference, over_clients
from metalearn.penalty import proximal


def ditto(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    strength: float | jax.Array,
    num_clients: int,
    personal: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation = PLAIN,
    aggregator: Aggregator = BY_EXAMPLES,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """FedAvg, and beside it every client trains v_k on F_k(v) + (λ / 2) ‖v - w‖², with λ = `strength`.

    v_k is the client's row of the table; w is the global model of the round's beginning. The global model is that of
    FedAvg, whatever λ. `personal` is the optimizer of v_k, by default `optimizer`. Deviation: clients are weighed by
    their examples, where the authors sample them so and take the plain mean, `aggregator=mean()`.

    Raises `InputError` where `strength` is negative.
    """
    number("strength", strength, least=0)
    loss = supervised(model, criterion)
    train = difference(fit(loss, optimizer, **options))
    own = fit(loss, personal or optimizer, penalty=proximal(strength), **options)

    def init(key, task):
        params = model.init(key, task.support.x)
        return params, params

    def client(shared, row, task, key):
        anchor = proximal(strength).init(shared)
        # one key: w sees FedAvg's minibatches, v_k the same ones, and who is late is late for both
        return train(shared, task, key), own(row, task.support, key, penalty_state=anchor).params

    algorithm = over_clients(
        init, client, aggregator, server, num_clients=num_clients, mapping=mapping, drop_nonfinite=drop_nonfinite
    )
    return Federated(
        *algorithm,
        using(model, lambda shared, row, support, key: row),
        up=lambda shared: changes(shared, options.get("where")),
        common=using(model, shared_model),
    )
