"""Nash-MTL: the bargaining solution (Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya 2022, arXiv
2202.01017)."""

from metalearn.aggregate._bargain import bargain
from metalearn.aggregate._build import gramian
from metalearn.core import Aggregator


def nash() -> Aggregator:
    """u = Σ_k α_k g_k with α > 0 and G α = 1 / α, G being the Gramian over its own Frobenius norm.

    Every task's relative gain is the same, whatever the scale of its loss. The paper solves a sequence of convex
    programs that approximate the equation; here it is solved to rounding. Convention: as the equation gives it; one
    task's direction is its gradient, and twice the gradients give twice the direction. Deviation: in the paper and its
    code, where G is not scaled, the direction has the length √K whatever the gradients, and the code clips it to 1;
    `optax.normalize_by_update_norm()` before the optimizer gives it that length. Their code weighs heads too.
    """
    return gramian(lambda gram, state, key: (bargain(gram, 1.0), state))
