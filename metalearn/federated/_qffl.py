"""q-FFL: clients with a high loss count more (Li, Sanjabi, Beirami, Smith 2020, arXiv 1905.10497)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import summed
from metalearn.arguments import number
from metalearn.core import Aggregator, Criterion, Model
from metalearn.federated.client import Federated, changes, from_model, moved, proposal, shared_model, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_tasks


def qffl(
    model: Model,
    criterion: Criterion,
    rate: float | jax.Array,
    *,
    fairness: float | jax.Array,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """q-FedAvg: minimises Σ_k F_k^{q+1} / (q + 1), with q = `fairness`; q = 0 is FedAvg with equal weights.

    Δ_k = F_k^q (w - w_k) / η;  h_k = q F_k^{q-1} ‖(w - w_k) / η‖² + F_k^q / η;  w ← w - Σ_k Δ_k / Σ_k h_k. F_k is the
    loss of the global model on the client's support set, η = `rate` of the clients' SGD. Clients count alike: their
    sizes come in by the sampling, as in the authors' code, `data.cohort(…, sampling="size")`. How changes are joined is
    the algorithm, so it takes no `aggregator`.

    Raises `InputError` where `rate` is not above 0 or `fairness` is negative.
    """
    number("rate", rate, above=0)
    number("fairness", fairness, least=0)
    loss = supervised(model, criterion)
    learn = fit(loss, optax.sgd(rate), **options)

    def task_fn(params, task, key):
        before, _ = loss(params, task.support, key)
        fitted = learn(params, task.support, key)
        update = proposal(moved(params, fitted.params), task.support, fitted, fitted.params)
        return update._replace(loss=before)

    algorithm = over_tasks(
        from_model(model), task_fn, fair(rate, fairness), optax.sgd(1.0), mapping=mapping, drop_nonfinite=drop_nonfinite
    )

    def up(shared):
        return changes(shared, options.get("where")), jnp.zeros(())  # h_k

    return Federated(*algorithm, using(model, shared_model), up=up)


def fair(rate: float | jax.Array, fairness: float | jax.Array) -> Aggregator:
    """Σ_k Δ_k / Σ_k h_k out of directions w - w_k and the losses F_k."""

    def each(update, state, key):
        present = update.weight > 0
        loss = jnp.maximum(jnp.where(present, update.loss, 1.0), 1e-10)  # 0 to a negative power is not finite
        change = jax.tree.map(lambda d: jnp.where(present, d / rate, jnp.zeros_like(d)), update.direction)
        square = sum(jnp.vdot(d, d) for d in jax.tree.leaves(change))
        weight = loss**fairness
        height = fairness * loss ** (fairness - 1) * square + weight / rate
        return jax.tree.map(lambda d: weight * d, change), jnp.where(present, height, 0.0)

    def finish(total, state, params, key):
        change, height = total
        scale = 1 / jnp.where(height > 0, height, 1)
        return jax.tree.map(lambda d: d * scale.astype(d.dtype), change), state

    return summed(each, finish)
