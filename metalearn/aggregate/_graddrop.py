"""GradDrop: one sign for each number (Chen, Ngiam, Huang, Luong, Kretzschmar, Chai, Anguelov 2020, arXiv
2010.06808)."""

import jax
import jax.numpy as jnp

from metalearn.aggregate._build import stacked
from metalearn.aggregate._gram import combination
from metalearn.core import Aggregator, InputError
from metalearn.tree import num_rows


def graddrop(leak: float | jax.Array = 0.0) -> Aggregator:
    """For each number, keeps the gradients of one sign and drops the others.

    Positive ones stay with probability P = ½ (1 + Σ_k g_k / Σ_k |g_k|), negative ones otherwise; of what is dropped the
    share `leak` (a number, or one for each task) stays. Convention: a sum. Needs a key. The paper applies it to the
    gradient at the shared representation, which is `at="features"` in `over_losses`; deviation: there every example
    draws a sign of its own, where the paper draws one for the batch, from its sum.
    """

    def update(updates, state, params=None, *, weights=None, losses=None, key=None):
        if key is None:
            raise InputError("graddrop draws a sign for every number: it needs a key")
        count = num_rows(updates)
        present = jnp.ones(count, bool) if weights is None else weights > 0
        kept = jnp.broadcast_to(jnp.asarray(leak, jnp.result_type(float)), (count,))
        leaves, structure = jax.tree.flatten(updates)

        def one(u, key):
            column = [-1, *[1] * (u.ndim - 1)]
            u = jnp.where(present.reshape(column), u, 0)
            size = jnp.abs(u).sum(0)
            positive = 0.5 * (1 + u.sum(0) / jnp.where(size > 0, size, 1))
            chosen = jnp.where(jax.random.uniform(key, u.shape[1:], u.dtype) < positive, 1, -1)
            share = kept.reshape(column).astype(u.dtype)
            return jnp.where(u * chosen[None] > 0, u, share * u)

        keys = jax.random.split(key, len(leaves))
        dropped = jax.tree.unflatten(structure, [one(u, k) for u, k in zip(leaves, keys)])
        return combination(jnp.ones(count), dropped, present), state

    return stacked(update)
