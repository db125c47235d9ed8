"""FedDF: the server distils its clients' ensemble (Lin, Kong, Stich, Jaggi 2020, arXiv 2006.07242)."""

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import stacked
from metalearn.core import Aggregator, Batch, InputError, Model
from metalearn.inner import fit, supervised


def feddf(
    model: Model,
    unlabelled: jax.Array,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    batch_size: int | None = None,
) -> Aggregator:
    """An aggregator for `over_tasks(init, difference(adapt), feddf(…), optax.sgd(1.0))`: distil, then move there.

    The student begins at the weighted mean of the clients' models and minimises KL(softmax(mean_k z_k(x)) ‖
    softmax(z(x))) over the server's `unlabelled` examples `[n, ...]`, z_k being client k's logits. The direction is
    w - student, so the outer optimizer should be SGD with rate 1. Deviation: the student is the last of
    `num_steps`, where the paper keeps the best on validation data and stops early. It holds all K models at once.
    An aggregator sees trained leaves alone, so the model must have no others: no running statistics, nothing frozen
    (`InputError`).
    """

    def divergence(outputs, batch):
        value = optax.losses.kl_divergence(jax.nn.log_softmax(outputs), batch.y)
        return value.mean(), {}

    distil = fit(supervised(model, divergence), optimizer, num_steps, batch_size=batch_size)

    def update(updates, state, params=None, *, weights=None, losses=None, key=None):
        if params is None or key is None:
            raise InputError("feddf needs the parameters and a key: use it in over_tasks")
        if any(leaf is None for leaf in jax.tree.leaves(params, is_leaf=lambda leaf: leaf is None)):
            raise InputError("feddf runs whole models, so none of their leaves may be frozen or a running statistic")
        count = jax.tree.leaves(updates)[0].shape[0]
        weights = jnp.ones(count) if weights is None else weights
        share = weights / jnp.where(weights.sum() > 0, weights.sum(), 1)
        present = (weights > 0) / jnp.maximum((weights > 0).sum(), 1)

        def clean(u):  # rows of absent clients hold anything
            return jnp.where((weights > 0).reshape(-1, *[1] * (u.ndim - 1)), u, jnp.zeros_like(u))

        updates = jax.tree.map(clean, updates)
        logits = jax.lax.map(lambda u: model.apply(jax.tree.map(jnp.subtract, params, u), unlabelled), updates)
        teacher = jax.nn.softmax(jnp.tensordot(present, logits, 1))
        start = jax.tree.map(lambda p, u: p - jnp.tensordot(share.astype(u.dtype), u, 1), params, updates)
        student = distil(start, Batch(unlabelled, teacher), key).params
        anyone = (weights > 0).any()  # an ensemble of nobody would teach the uniform distribution
        return jax.tree.map(lambda p, s: jnp.where(anyone, p - s, jnp.zeros_like(p)), params, student), state

    return stacked(update)
