"""Random loss weighting (Lin, Ye, Zhang, Tsang 2022, arXiv 2111.10603)."""

import jax
import jax.numpy as jnp

from metalearn.aggregate._build import weighted
from metalearn.core import Aggregator, InputError


def random() -> Aggregator:
    """w = softmax(z), z standard normal, drawn anew every step. Convention: weights of present tasks sum to 1.

    Needs a key: `InputError` without.
    """

    def weigh(losses, present, state, key):
        if key is None:
            raise InputError("random draws its weights: it needs a key")
        draws = jax.random.normal(key, losses.shape)
        return jax.nn.softmax(jnp.where(present, draws, -jnp.inf)), state

    return weighted(weigh)
