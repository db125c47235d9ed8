"""GradDrop: one sign for each number (Chen, Ngiam, Huang, Luong, Kretzschmar, Chai, Anguelov 2020, arXiv
2010.06808)."""

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.aggregate._build import stacked
from metalearn.arguments import number
from metalearn.core import Aggregator, InputError
from metalearn.tree import num_rows


def graddrop(leak: float | jax.Array = 0.0) -> Aggregator:
    """For each number, keeps the gradients of one sign and drops the others.

    Positive ones stay with probability P = ½ (1 + Σ_k g_k / Σ_k |g_k|), negative ones otherwise; of what is dropped the
    share `leak` (a number, or one for each task) stays. Convention: a sum. Needs a key. The paper applies it to the
    gradient at the shared representation, which is `at="features"` in `over_losses`; deviation: there every example
    draws a sign of its own, where the paper draws one for the batch, from its sum over examples times the
    sign of the activation; nothing is scaled back to the norm before.

    Raises `InputError` without a key, and where `leak` is neither one share nor one for each task.
    """
    if np.ndim(leak) == 0:
        number("leak", leak, least=0, most=1)

    def update(updates, state, params=None, *, weights=None, losses=None, key=None):
        if key is None:
            raise InputError("graddrop draws a sign for every number: it needs a key")
        count = num_rows(updates)
        if np.shape(leak) not in ((), (count,)):
            raise InputError(f"leak must be one number or one for each of {count} tasks, but is {list(np.shape(leak))}")
        present = jnp.ones(count, bool) if weights is None else weights > 0
        kept = jnp.broadcast_to(jnp.asarray(leak, jnp.result_type(float)), (count,))
        leaves, structure = jax.tree.flatten(updates)

        def one(u, key):
            u = jnp.where(present.reshape(-1, *[1] * (u.ndim - 1)), u, 0)
            # of every number the sum of what is positive and of what is negative, and what leaks of either: products,
            # for XLA's CPU backend takes five times as long for sums over the first axis
            of_all = jnp.stack([jnp.ones(count, u.dtype), kept.astype(u.dtype)])
            precision = jax.lax.Precision.HIGHEST
            up, up_leaks = jnp.tensordot(of_all, jnp.maximum(u, 0), 1, precision=precision)
            down, down_leaks = jnp.tensordot(of_all, jnp.minimum(u, 0), 1, precision=precision)
            share = jnp.where(up - down > 0, up, 0.5) / jnp.where(up - down > 0, up - down, 1)
            positive = jax.random.uniform(key, u.shape[1:], u.dtype) < share
            return jnp.where(positive, up + down_leaks, down + up_leaks)

        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, [one(u, k) for u, k in zip(leaves, keys)]), state

    return stacked(update)
