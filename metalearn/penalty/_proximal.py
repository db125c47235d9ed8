"""The proximal term: stay near where the task began (FedProx, Li et al. 2020, arXiv 1812.06127)."""

import jax
import jax.numpy as jnp

from metalearn.core import Penalty
from metalearn.tree import partition


def proximal(strength: float | jax.Array) -> Penalty:
    """(strength / 2) ‖θ - θ₀‖² over trained leaves, where θ₀ are the parameters that `fit` started from."""

    def value(params, anchor, batch, key):
        trained, _ = partition(params)
        distances = jax.tree.map(lambda p, a: jnp.sum((p - a) ** 2), trained, anchor)
        return 0.5 * strength * sum(jax.tree.leaves(distances))

    def consolidate(anchor, params, data, key):
        return partition(params)[0]

    return Penalty(lambda params: partition(params)[0], value, consolidate=consolidate)
