"""A constant pull on the parameters: what SCAFFOLD's control variates and FedDyn's dual variables are to a client."""

import jax
import jax.numpy as jnp

from metalearn.core import Penalty
from metalearn.tree import partition


def linear() -> Penalty:
    """⟨g, θ⟩ over trained leaves, where g, shaped like them, is the penalty's state: g is added to every gradient.

    The state starts at zero; pass another to `fit`'s `adapt`.
    """

    def value(params, pull, batch, key):
        products = jax.tree.map(jnp.vdot, partition(params)[0], pull)
        return sum(jax.tree.leaves(products))

    return Penalty(lambda params: jax.tree.map(jnp.zeros_like, partition(params)[0]), value)
