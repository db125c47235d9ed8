"""How much tasks conflict: cosines between their gradients of what is shared."""

from collections.abc import Callable, Mapping

import jax

from metalearn.aggregate._gram import gram_of
from metalearn.core import Batch, Key, Params
from metalearn.losses import jacobian


def cosines(trunk: Callable, heads: Mapping[str, Callable]) -> Callable[[Params, Batch, Key], jax.Array]:
    """`(params, batch, key) -> [K, K]`, in the order of `heads`; negative where two tasks conflict (Yu et al. 2020,
    arXiv 2001.06782). For a look now and then: it takes K backward passes. `InputError` where nothing is shared."""
    gradients = jacobian(trunk, heads)

    def measured(params, batch, key):
        found, present = gradients(params, batch, key)
        return gram_of(found, present.astype(float), None).cosines

    return measured
