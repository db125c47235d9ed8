"""CAGrad: near the mean gradient, best for whom it is worst (Liu, Liu, Jin, Stone, Liu 2021, arXiv 2110.14048)."""

import jax
import jax.numpy as jnp

from metalearn.aggregate._build import gramian
from metalearn.aggregate._gram import Gram
from metalearn.aggregate._quadratic import nonnegative, regular
from metalearn.arguments import number
from metalearn.core import Aggregator


def cagrad(c: float | jax.Array = 0.5) -> Aggregator:
    """u = d / (1 + c), with d = argmax min_k g_kᵀ d over ‖d - g_0‖ ≤ c ‖g_0‖, g_0 being the mean gradient.

    c = 0 is the mean. Convention: a mean, over 1 + c, so that one task's direction is its gradient; the authors' code
    offers this, no division, and one by 1 + c².

    For a given gain ν the nearest d with g_kᵀ d ≥ ν for all k is a quadratic program; its distance from g_0 is convex
    and increasing in ν, and Newton's method finds where it is c ‖g_0‖. The authors minimise the dual numerically. The
    program is solved for unit gradients, because norms may lie many powers of ten apart; a task whose gradient is zero
    has no say. Raises `InputError` where c is negative.
    """
    number("c", c, least=0)

    def weigh(gram: Gram, state, key):
        matrix, share, there = gram.matrix, gram.share, gram.nonzero
        eye = jnp.eye(len(matrix), dtype=matrix.dtype)
        apart = jnp.where(there[:, None] & there[None], regular(gram.cosines), eye)
        inverse = jnp.where(there, 1 / jnp.where(there, gram.norms, 1), 0)
        gains = matrix @ share  # of the mean gradient
        radius = c * jnp.sqrt(jnp.maximum(share @ gains, 0))

        def change(gain):
            z = nonnegative(apart, (gain - gains) * inverse)
            return z * inverse, jnp.sqrt(jnp.maximum(z @ apart @ z, 0))

        def newton(carry):
            gain, (x, distance), turns = carry
            gain = gain + (radius - distance) * distance / jnp.maximum(x.sum(), jnp.finfo(x.dtype).tiny)
            return gain, change(gain), turns + 1

        def unfinished(carry):
            _, (_, distance), turns = carry
            return (jnp.abs(distance - radius) > 1e3 * jnp.finfo(matrix.dtype).eps * radius) & (turns < 50)

        most = jnp.where(there, gains + radius * gram.norms, jnp.inf).min(initial=jnp.inf)
        most = jnp.where(there.any(), most, 0)
        _, (x, distance), _ = jax.lax.while_loop(unfinished, newton, (most, change(most), 0))
        x = x * jnp.where(distance > 0, radius / jnp.where(distance > 0, distance, 1), 0)
        return (share + x) / (1 + c), state

    return gramian(weigh)
