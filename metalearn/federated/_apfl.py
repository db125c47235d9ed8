"""APFL: a mixture of a personal and the global model (Deng, Kamani, Mahdavi 2020, arXiv 2003.13461)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.arguments import number
from metalearn.core import Aggregator, Aux, Criterion, Model
from metalearn.federated.client import EQUALLY, PLAIN, Federated, changes, moved, proposal, shared_model, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_clients
from metalearn.tree import merge, partition


def apfl(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    num_clients: int,
    mixture: float = 0.5,
    adaptive: bool = True,
    server: optax.GradientTransformation = PLAIN,
    aggregator: Aggregator = EQUALLY,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """A client predicts with v̄ = α v + (1 - α) w: one loop trains w on F(w), and v and α on F(v̄).

    w ← w - η ∇F(w);  v ← v - η α ∇F(v̄);  α ← α - η ⟨∇F(v̄), v - w⟩, kept within [0, 1]. v and α are the client's row,
    which begins at the global model and `mixture`; `adaptive=False` keeps α. At the end v̄ is made with the server's w.
    Deviations: α is projected after a round, and within it wherever it is used. The authors' code mixes outputs in
    place of parameters, and moves α once a round, with .02 α added to its gradient.

    Raises `InputError` where `mixture` is not within [0, 1].
    """
    number("mixture", mixture, least=0, most=1)
    loss = supervised(model, criterion)

    def joint(parts, batch, key):
        value, aux = loss(parts["shared"], batch, key)
        alpha = parts["alpha"] if adaptive else jax.lax.stop_gradient(parts["alpha"])
        mixed_value, _ = loss(_mixed(parts["own"], jax.lax.stop_gradient(parts["shared"]), alpha), batch, key)
        statistics = None
        if aux.statistics is not None:
            statistics = {"shared": aux.statistics, "own": aux.statistics, "alpha": None}
        return value + mixed_value, Aux({**aux.metrics, "personal_loss": mixed_value}, statistics)

    chosen = options.pop("where", None)
    # the mixture is learned whichever of the model's leaves are
    learn = fit(joint, optimizer, where=None if chosen is None else f"(?:{chosen})|^alpha$", **options)

    def init(key, task):
        params = model.init(key, task.support.x)
        return params, {"own": params, "alpha": jnp.asarray(mixture, jnp.result_type(float))}

    def client(shared, row, task, key):
        fitted = learn({"shared": shared, **row}, task.support, key)
        own = {"own": fitted.params["own"], "alpha": jnp.clip(fitted.params["alpha"], 0, 1)}
        local = fitted.params["shared"]
        update = proposal(moved(shared, local), task.support, fitted, local)
        # that of the global model, as everywhere; what was minimised is the sum
        return update._replace(loss=update.loss - update.metrics["personal_loss"]), own

    algorithm = over_clients(
        init, client, aggregator, server, num_clients=num_clients, mapping=mapping, drop_nonfinite=drop_nonfinite
    )
    return Federated(
        *algorithm,
        using(model, lambda shared, row, support, key: _mixed(row["own"], shared, row["alpha"])),
        up=lambda shared: changes(shared, chosen),
        common=using(model, shared_model),
    )


def _mixed(own, shared, alpha):
    alpha = jnp.clip(alpha, 0, 1)
    trained, rest = partition(shared)
    mixed = jax.tree.map(lambda v, w: alpha * v + (1 - alpha) * w, partition(own)[0], trained)
    return merge(mixed, rest)
