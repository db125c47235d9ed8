"""MGDA: the shortest vector in the convex hull of the gradients (Désidéri 2012; Sener, Koltun 2018, arXiv
1810.04650)."""

import jax.numpy as jnp

from metalearn.aggregate._build import gramian
from metalearn.aggregate._gram import Gram
from metalearn.aggregate._quadratic import shortest
from metalearn.core import Aggregator, InputError

_SCALES = {
    "none": lambda gram: jnp.ones_like(gram.norms),
    "l2": lambda gram: gram.norms,
    "loss": lambda gram: gram.losses,
    "loss+": lambda gram: gram.losses * gram.norms,
}


def mgda(normalise: str = "none") -> Aggregator:
    """u = Σ_k w_k g_k with w = argmin ‖Σ_k w_k g_k / s_k‖² over the simplex.

    With s = 1 no task's loss grows along -u, to first order, and u is zero exactly where no such direction exists.
    `normalise` gives s: "none" (1), "l2" (the norm), "loss", or "loss+" (loss times norm), as in the authors' code,
    which has "none" for MultiMNIST and "loss+" for CelebA; the weights found so apply to the gradients as they are, and
    with any s but 1 a loss may grow. Convention: weights sum to 1. In `over_losses` heads see their own losses
    unweighed, where the authors' code weighs them too.

    A loss that is not above 0 divides nothing. Raises `InputError` for another `normalise`, and where one by losses
    is given none.

    The program is solved exactly rather than by Frank-Wolfe. In `over_losses` with `at="features"` this is MGDA-UB.
    """
    if normalise not in _SCALES:
        raise InputError(f"normalise must be one of {', '.join(_SCALES)}, but is {normalise!r}")

    def weigh(gram: Gram, state, key):
        if gram.losses is None and normalise.startswith("loss"):
            raise InputError(f"mgda({normalise!r}) divides by losses: pass losses=…")
        scale = _SCALES[normalise](gram)
        scale = jnp.where(scale > 0, scale, 1)
        norms = gram.norms / scale
        norms = norms / jnp.maximum(norms.max(), jnp.finfo(norms.dtype).tiny)
        return shortest(gram.cosines, norms, gram.present), state

    return gramian(weigh)
