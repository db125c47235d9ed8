"""FairGrad: α-fair gains (Ban, Ji 2024, arXiv 2402.15638)."""

import jax

from metalearn.aggregate._bargain import bargain
from metalearn.aggregate._build import gramian
from metalearn.arguments import number
from metalearn.core import Aggregator


def fairgrad(alpha: float | jax.Array = 2.0) -> Aggregator:
    """u = Σ_k w_k g_k with w > 0 and G w = w^(-1/α): the direction whose gains are α-fair.

    α = 1 is Nash-MTL; a large α cares for who gains least. α below 1 is nearer to the sum; in single precision not
    below a half, where w^(-1/α) overflows. G is in units of its own Frobenius norm, so that the direction scales with
    the gradients; the authors' code takes it as it is. Convention: as the equation gives it, neither a sum nor a mean.

    Raises `InputError` where α is not above 0.
    """
    number("alpha", alpha, above=0)
    return gramian(lambda gram, state, key: (bargain(gram, 1 / alpha), state))
