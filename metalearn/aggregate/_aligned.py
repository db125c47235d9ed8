"""Aligned-MTL: principal components of the gradients made equally long (Senushkin, Patakin, Kuznetsov, Konushin 2023,
arXiv 2305.19000)."""

import jax.numpy as jnp

from metalearn.aggregate._build import gramian
from metalearn.aggregate._gram import Gram
from metalearn.core import Aggregator


def aligned() -> Aggregator:
    """u = Σ_k (B w)_k g_k with equal w, and B = √λ_min Σ_r λ_r^(-1/2) v_r v_rᵀ over the eigenpairs of G.

    The gradient matrix becomes the nearest one whose singular values all are its smallest. Convention: w = 1 / K, a
    mean; deviation: the authors' code sums. Eigenvalues up to K ε λ_max count as 0, as there.
    """

    def weigh(gram: Gram, state, key):
        values, vectors = jnp.linalg.eigh(gram.matrix)
        least = len(values) * jnp.finfo(values.dtype).eps * values.max()
        kept = values > least
        smallest = jnp.where(kept, values, jnp.inf).min()
        stretch = jnp.where(kept, jnp.sqrt(smallest / jnp.where(kept, values, 1)), 0)
        return vectors @ (stretch * (vectors.T @ gram.share)), state

    return gramian(weigh)
