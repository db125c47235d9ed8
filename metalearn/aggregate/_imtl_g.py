"""IMTL-G: equal projections on all gradients (Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang 2021, ICLR)."""

import jax.numpy as jnp

from metalearn.aggregate._build import gramian
from metalearn.aggregate._gram import Gram
from metalearn.aggregate._surgery import equiangular, over_norms
from metalearn.core import Aggregator


def imtl_g() -> Aggregator:
    """u = Σ_k α_k g_k with Σ_k α_k = 1 and uᵀ g_k / ‖g_k‖ the same for every k; α may be negative.

    In coefficients β of unit gradients, C β is constant, C being the cosines. The paper takes gradients of the
    shared features, `at="features"` in `over_losses`, most implementations those of the parameters. Convention:
    weights sum to 1; those of gradients that are zero are 0. With three or more gradients the equal projection may
    be a negative one, and then every loss grows: so is the paper's formula. Where cosines are singular the
    least-squares solution is taken; where gradients cancel each other, zero.
    """

    def weigh(gram: Gram, state, key):
        alpha = over_norms(gram, equiangular(gram))
        total = alpha.sum()
        return jnp.where(jnp.abs(total) > 1e-12, alpha / jnp.where(total == 0, 1, total), 0), state

    return gramian(weigh)
