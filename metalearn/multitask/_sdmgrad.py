"""SDMGrad: stochastic, direction-oriented (Xiao, Ban, Ji 2023, arXiv 2305.18409)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import weighted
from metalearn.aggregate._quadratic import onto_simplex
from metalearn.arguments import check_batches
from metalearn.core import Algorithm, Batch, InputError
from metalearn.losses import num_of_each, over_losses, products


class Chosen(NamedTuple):
    """Weights on the simplex `[K]`, and the coefficients `[K]` of the direction that they make."""

    weights: jax.Array
    coefficients: jax.Array


def sdmgrad(
    init: Callable,
    trunk: Callable,
    heads: Mapping[str, Callable],
    optimizer: optax.GradientTransformation,
    *,
    strength: float | jax.Array = 0.3,
    weights_rate: float | jax.Array = 0.5,
    weights_steps: int = 20,
    **options: Any,
) -> Algorithm:
    """Batches are triples of independent batches. Two give an unbiased gradient of ½ ‖G w + λ g_0‖² for the weights,
    w ← Π(w - β G₁ᵀ (G₂ w + λ ḡ₂)) on the simplex, `weights_steps` times; the third gives the direction
    (G₃ w + λ ḡ₃) / (1 + λ), ḡ being the mean gradient and λ `strength`.

    w begins even and stays from step to step. Convention: weights sum to 1. The direction costs one backward pass,
    the weights two times K. A task without data in one of the three batches is absent. The step β, `weights_rate`,
    is relative to the largest entry of G₁ᵀ G₂. The authors' code divides G by the mean norm of its rows, takes
    steps of 10 with momentum .5, and clips the direction to the norm 1. Heads are weighed as the trunk is; theirs
    are not.

    Raises `InputError` where `at` or `mapping` is given, or a batch is no triple.
    """
    if options.get("at", "params") != "params" or options.get("mapping"):
        raise InputError("sdmgrad weighs by gradients of the parameters, all at once: it has neither at nor mapping")
    count, between = len(heads), products(trunk, heads)

    def chosen(params, kept, batches, key):
        found, present = between(params, batches[:2], [jax.random.fold_in(key, i) for i in range(2)])
        present = present & (num_of_each(batches[2], count) > 0)
        even = present / jnp.maximum(present.sum(), 1)
        scale = weights_rate / jnp.maximum(jnp.abs(found).max(), jnp.finfo(found.dtype).tiny)

        def descend(w, _):
            return onto_simplex(w - scale * (found @ (w + strength * even)), present), None

        w, _ = jax.lax.scan(descend, onto_simplex(kept.weights, present), length=weights_steps)
        return Chosen(w, (w + strength * even) / (1 + strength))

    def begin(params):
        even = jnp.ones(count) / count
        return Chosen(even, even)

    aggregator = weighted(lambda losses, present, state, key: (state.coefficients, state), begin)
    inner = over_losses(init, trunk, heads, aggregator, optimizer, **options)

    def step(state, batch: Sequence[Batch], key):
        before, kept = state.aggregator_state
        after = chosen(state.params, before, batch, jax.random.fold_in(key, 3))
        return inner.step(state._replace(aggregator_state=(after, kept)), batch[2], key)

    def init_of_triple(key, batch: Sequence[Batch]):
        check_batches(batch, 3)
        return inner.init(key, batch[2])

    return Algorithm(init_of_triple, step)
