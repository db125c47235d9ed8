"""Gradient Vaccine: gradients turned towards the cosine they usually have (Wang, Tsvetkov, Firat, Cao 2021, arXiv
2010.05874)."""

import jax
import jax.numpy as jnp

from metalearn.aggregate._build import gramian
from metalearn.aggregate._gram import Gram
from metalearn.aggregate._surgery import others_in_random_order, over_norms
from metalearn.core import Aggregator


def gradvac(num_tasks: int, decay: float | jax.Array = 1e-2) -> Aggregator:
    """u = Σ_i g_i', where every g_i' whose cosine φ with g_j is below the running mean ρ_ij is turned until it has it:

    g_i' ← g_i' + ‖g_i'‖ (ρ √(1 - φ²) - φ √(1 - ρ²)) / √(1 - ρ²) · g_j / ‖g_j‖, for j ≠ i in random order, and then
    ρ_ij ← (1 - β) ρ_ij + β φ, beginning at 0, with β = `decay`.

    Convention: a sum. Needs a key. Over all parameters together; the paper also treats blocks by themselves.
    """

    def weigh(gram: Gram, state, key):
        order = others_in_random_order("gradvac", key, len(gram.norms))
        both = gram.nonzero[:, None] & gram.nonzero[None]

        def against_one(carry, j):
            parts, usual = carry
            here = jax.nn.one_hot(j, len(j), dtype=parts.dtype)
            length = jnp.sqrt(jnp.maximum(jnp.einsum("ik,kl,il->i", parts, gram.cosines, parts), 0))
            cosine = jnp.sum(parts * gram.cosines[j], 1) / jnp.where(length > 0, length, 1)
            cosine = jnp.clip(cosine, -1.0, 1.0)
            target = (usual * here).sum(1)
            sine = jnp.sqrt(jnp.maximum(1 - target**2, jnp.finfo(parts.dtype).eps))
            turn = length * (target * jnp.sqrt(1 - cosine**2) - cosine * sine) / sine
            present = (both * here).sum(1)
            parts = parts + here * (jnp.where(cosine < target, turn, 0) * present)[:, None]
            usual = usual + (decay * here * (present * (cosine - target))[:, None]).astype(usual.dtype)
            return (parts, usual), None

        start = jnp.diag(gram.norms), state.astype(gram.norms.dtype)
        (parts, usual), _ = jax.lax.scan(against_one, start, order.T)
        return over_norms(gram, parts.sum(0)), usual.astype(state.dtype)

    return gramian(weigh, lambda params: jnp.zeros((num_tasks, num_tasks)), num_tasks=num_tasks)
