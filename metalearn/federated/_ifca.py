"""IFCA and HypCluster: several global models, and each client trains the one that fits it (Ghosh, Chung, Yin,
Ramchandran 2020, arXiv 2006.04088; Mansour, Mohri, Ro, Suresh 2020, arXiv 2002.10619)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import summed
from metalearn.arguments import whole
from metalearn.core import Aggregator, Criterion, Model
from metalearn.federated.client import PLAIN, Federated, changes, moved, proposal, using, without_statistics
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_tasks


def ifca(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    num_clusters: int,
    server: optax.GradientTransformation = PLAIN,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """A client takes the model with the least loss on its support set, and trains it; each is averaged over its own.

    j_k = argmin_j F_k(w_j);  w_j ← w_j - Σ_{k: j_k = j} (n_k / n_j) (w_j - w_k). A model that no client chose has
    the aggregate 0: it stays, where the server is SGD without momentum. Shared parameters are the models, stacked
    `[num_clusters, ...]`, begun from independent initialisations. Weights n_k are HypCluster's; IFCA's mean over a
    cluster is plain. It takes no `aggregator`: every model has a mean of its own.

    Raises `InputError` where `num_clusters` is not positive, or the model keeps running statistics.
    """
    whole("num_clusters", num_clusters)
    loss = supervised(model, criterion)
    learn = fit(loss, optimizer, **options)

    def init(key, task):
        models = jax.vmap(lambda key: model.init(key, task.support.x))(jax.random.split(key, num_clusters))
        return without_statistics(models, "ifca")

    def choose(models, support, key):
        losses = jax.lax.map(lambda params: loss(params, support, key)[0], models)
        chosen = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))  # argmin would take the NaN
        return chosen, jax.tree.map(lambda a: a[chosen], models)

    def task_fn(models, task, key):
        chosen, params = choose(models, task.support, key)
        fitted = learn(params, task.support, key)
        one_hot = jax.nn.one_hot(chosen, num_clusters)
        change = jax.tree.map(lambda d: jnp.tensordot(one_hot.astype(d.dtype), d, 0), moved(params, fitted.params))
        update = proposal({"change": change, "chosen": one_hot}, task.support, fitted)
        update.metrics["per_task/cluster"] = chosen
        return update

    algorithm = over_tasks(init, task_fn, by_cluster(), server, mapping=mapping, drop_nonfinite=drop_nonfinite)
    learner = using(model, lambda models, row, support, key: choose(models, support, key)[1])

    def up(models):
        return changes(jax.tree.map(lambda a: a[0], models), options.get("where")), jnp.zeros(
            (), jnp.int32
        )  # one model, and which

    return Federated(*algorithm, learner, up=up)


def by_cluster() -> Aggregator:
    """Each cluster's weighted mean over those who chose it; directions are `{"change": [C, ...], "chosen": [C]}`."""

    def each(update, state, key):
        present = update.weight > 0
        weight = jnp.where(present, update.weight, 0.0).astype(jnp.result_type(float))
        change = update.direction["change"]
        kept = jax.tree.map(lambda d: jnp.where(present, weight.astype(d.dtype) * d, jnp.zeros_like(d)), change)
        return kept, weight * update.direction["chosen"]

    def finish(total, state, params, key):
        change, weight = total
        scale = 1 / jnp.where(weight > 0, weight, 1)
        return jax.tree.map(lambda d: d * scale.astype(d.dtype).reshape(-1, *[1] * (d.ndim - 1)), change), state

    return summed(each, finish)
