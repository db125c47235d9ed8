"""How much tasks conflict: cosines between their gradients of what is shared."""

from collections.abc import Callable, Mapping

import jax

from metalearn.aggregate._gram import gram_of
from metalearn.core import Batch, InputError, Key, Params
from metalearn.losses import joint
from metalearn.tree import merge, partition


def cosines(trunk: Callable, heads: Mapping[str, Callable]) -> Callable[[Params, Batch, Key], jax.Array]:
    """`(params, batch, key) -> [K, K]`, in the order of `heads`; negative where two tasks conflict (Yu et al. 2020,
    arXiv 2001.06782). For a look now and then: it takes K backward passes. `InputError` where nothing is shared."""
    all_losses = joint(trunk, heads)

    def measured(params, batch, key):
        trained, rest = partition(params)
        if not jax.tree.leaves(trained["shared"]):
            raise InputError("nothing is shared, so there are no gradients to compare")
        _, present = all_losses(params, batch, key)

        def losses(shared):
            return all_losses(params | {"shared": merge(shared, rest["shared"])}, batch, key)[0]

        return gram_of(jax.jacrev(losses)(trained["shared"]), present.astype(float), None).cosines

    return measured
