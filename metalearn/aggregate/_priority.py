"""Dynamic task prioritisation (Guo, Haque, Huang, Yeung, Fei-Fei 2018, ECCV)."""

import jax.numpy as jnp

from metalearn.aggregate._build import weighted
from metalearn.core import Aggregator


def priority(num_tasks: int, focus: float = 1.0, decay: float = 0.1) -> Aggregator:
    """w_k = -(1 - κ_k)^γ log κ_k: a focal loss of each task's performance κ_k, so that the hardest come first.

    κ_k is a running mean, κ ← (1 - α) κ + α e^(-L_k), with γ = `focus` and α = `decay`. The paper takes accuracy or
    average precision; e^(-L) is the likelihood of a label under a cross-entropy loss, known where the loss is. It
    begins at the first batch's. A loss of 0 or below is one that needs no more learning, of weight 0. Convention: as
    the formula gives it. Deviation: in the paper each example's loss is focal too, which is for the criterion to say.
    """

    def weigh(losses, present, state, key):
        now = jnp.exp(-jnp.maximum(losses, 0))
        known = jnp.where(state > 0, (1 - decay) * state + decay * now, now)
        state = jnp.where(present, known, state)
        value = jnp.clip(jnp.where(present, state, 1.0), jnp.finfo(state.dtype).tiny, 1.0)
        if num_tasks == 1:  # there is nothing before which it could come
            return jnp.ones(1), state
        return -((1 - value) ** focus) * jnp.log(value), state

    return weighted(weigh, lambda params: jnp.zeros(num_tasks), num_tasks=num_tasks)
