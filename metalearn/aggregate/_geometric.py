"""Geometric loss strategy (Chennupati, Sistu, Yogamani, Rawashdeh 2019, arXiv 1904.08492)."""

import jax.numpy as jnp

from metalearn.aggregate._build import weighted
from metalearn.core import Aggregator


def geometric() -> Aggregator:
    """The gradient of the geometric mean of the losses: w_k = (Π_j L_j)^(1/K) / (K L_k), over present tasks.

    Losses must be positive; one that is 0 has no gradient there and leaves all weights 0, a negative one makes them
    NaN. Convention: a mean.
    """

    def weigh(losses, present, state, key):
        count = jnp.maximum(present.sum(), 1)
        mean = jnp.exp(jnp.where(present, jnp.log(losses), 0).sum() / count)
        return jnp.where(losses != 0, mean / (count * jnp.where(losses != 0, losses, 1)), 0), state

    return weighted(weigh)
