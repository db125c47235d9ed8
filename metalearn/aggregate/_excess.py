"""ExcessMTL: weights by how far every task is from its best (He, Zhou, Zhang, Yun, Xu, Zeng, Chilimbi, Zhao 2024, arXiv
2402.02009)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metalearn.aggregate._build import as_many, from_weights
from metalearn.core import Aggregator, Params
from metalearn.tree import num_rows


class Excess(NamedTuple):
    """Sums of squared gradients `[K, ...]`, everybody's first estimate `[K]` (0 until there is one), and the logarithms
    of the weights `[K]`, which cannot overflow."""

    squares: Params
    first: jax.Array
    logits: jax.Array


def excess(num_tasks: int, rate: float | jax.Array = 0.01) -> Aggregator:
    """w_k ← w_k exp(η e_k), scaled to sum to K, e_k being task k's excess risk over what it was at first.

    The excess risk, what a loss still has to fall, is estimated to second order with a diagonal Hessian from the
    gradients' squares: e_k = Σ g_k² / √(Σ_t g_kt² + 1e-7), as in the authors' code. It holds K copies of the
    parameters, between steps too: over a mesh every device does, unless `spread_state` cuts them. Convention: weights
    sum to K; they begin at 1, and stay there for gradients so small that their squares are 0. Not positively
    homogeneous after the first step, for the 1e-7. In `over_losses` heads see their own losses unweighed; the authors'
    weigh them too.
    """

    def init(params):
        squares = jax.tree.map(lambda p: jnp.zeros((num_tasks, *p.shape), p.dtype), params)
        return Excess(squares, jnp.zeros(num_tasks), jnp.zeros(num_tasks))

    def weights_of(updates, state, params=None, *, weights=None, losses=None, key=None):
        as_many(num_tasks, num_rows(updates))
        present = jnp.ones(num_tasks, bool) if weights is None else weights > 0

        def real(g):
            return jnp.where(present.reshape(-1, *[1] * (g.ndim - 1)), g, 0)

        squares = jax.tree.map(lambda s, g: s + real(g) ** 2, state.squares, updates)
        parts = jax.tree.map(
            lambda s, g: (real(g) ** 2 / jnp.sqrt(s + 1e-7)).reshape(num_tasks, -1).sum(1), squares, updates
        )
        risk = jnp.stack(jax.tree.leaves(parts)).sum(0)
        known = state.first > 0
        first = jnp.where(known | ~present, state.first, risk)
        relative = jnp.where(known & present, risk / jnp.where(known, state.first, 1), 0)
        relative = jnp.minimum(relative, 1e30)  # gradients may grow by more than their square's type holds
        # a first estimate sets the scale, and changes nothing
        logits = jax.nn.log_softmax(state.logits + rate * relative)
        return jnp.where(present, num_tasks * jnp.exp(logits), 0), Excess(squares, first, logits)

    return from_weights(init, weights_of)
