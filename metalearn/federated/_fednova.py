"""FedNova: normalised averaging (Wang, Liu, Liang, Joshi, Poor 2020, arXiv 2007.07481)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import summed
from metalearn.arguments import number
from metalearn.core import Aggregator, Criterion, InputError, Model
from metalearn.federated.client import PLAIN, Federated, changes, from_model, moved, proposal, shared_model, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_tasks


def fednova(
    model: Model,
    criterion: Criterion,
    rate: float | jax.Array,
    *,
    momentum: float | jax.Array = 0.0,
    server: optax.GradientTransformation = PLAIN,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """What a client did is divided by how much it did, so that those with many steps do not pull the optimum to them.

    w ← w - τ_eff Σ_k p_k d_k, with p_k = n_k / n, d_k = (w - w_k) / ‖a_k‖₁ and τ_eff = Σ_k p_k ‖a_k‖₁. For SGD a_k
    are τ_k ones; with momentum ρ, ‖a_k‖₁ = (τ_k - ρ (1 - ρ^τ_k) / (1 - ρ)) / (1 - ρ). How changes are joined is the
    algorithm, so it takes no `aggregator`.

    Raises `InputError` for a rate that is not above 0, a momentum outside [0, 1), and for a penalty, under which ‖a_k‖
    is another.
    """
    if options.get("penalty") is not None:
        raise InputError("penalty: fednova knows how much a client did of plain SGD and momentum alone; leave it out")
    number("rate", rate, above=0)
    number("momentum", momentum, least=0, below=1)
    learn = fit(supervised(model, criterion), optax.sgd(rate, momentum), **options)

    def work(steps):
        steps = steps.astype(jnp.result_type(float))
        return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)

    def task_fn(params, task, key):
        fitted = learn(params, task.support, key)
        direction = {"change": moved(params, fitted.params), "work": work(fitted.steps)}
        return proposal(direction, task.support, fitted, fitted.params)

    algorithm = over_tasks(
        from_model(model), task_fn, normalised(), server, mapping=mapping, drop_nonfinite=drop_nonfinite
    )

    def up(shared):
        return changes(shared, options.get("where")), jnp.zeros(())  # ‖a_k‖₁

    return Federated(*algorithm, using(model, shared_model), up=up)


def normalised() -> Aggregator:
    """τ_eff Σ_k p_k d_k out of directions `{"change": w - w_k, "work": ‖a_k‖₁}`."""

    def each(update, state, key):
        change, work = update.direction["change"], update.direction["work"]
        weight = jnp.where(work > 0, update.weight, 0.0).astype(jnp.result_type(float))
        share = weight / jnp.where(work > 0, work, 1)
        kept = jax.tree.map(lambda d: jnp.where(weight > 0, share.astype(d.dtype) * d, jnp.zeros_like(d)), change)
        return kept, weight * work, weight

    def finish(total, state, params, key):
        change, work, weight = total
        scale = work / jnp.where(weight > 0, weight, 1) ** 2
        return jax.tree.map(lambda d: d * scale.astype(d.dtype), change), state

    return summed(each, finish)
