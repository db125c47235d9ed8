"""GradNorm: gradients of one length, longer for those who lag (Chen, Badrinarayanan, Lee, Rabinovich 2018, arXiv
1711.02257)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate._build import gramian
from metalearn.aggregate._gram import Gram
from metalearn.arguments import check_optimizer
from metalearn.core import Aggregator, InputError


class Balance(NamedTuple):
    """The weights `[K]`, their optimizer's state, and everybody's first loss `[K]` (0 until there is one)."""

    weights: jax.Array
    opt_state: optax.OptState
    first: jax.Array


def gradnorm(
    num_tasks: int,
    optimizer: optax.GradientTransformation,
    alpha: float | jax.Array = 1.5,
    *,
    where: str | None = None,
) -> Aggregator:
    """Weights w `[K]`, beginning at 1, descend Σ_k |w_k n_k - n̄ r_k^α|, then are scaled to sum to K.

    n_k is the norm of task k's gradient over the parameters that `where` names (the last shared layer in the paper; all
    shared ones unless given), n̄ the mean of w n, r_k = (L_k / L_k(0)) / mean_j(L_j / L_j(0)); the target is held
    constant. The step taken with a batch shows in the next one's weights. Convention: weights sum to K.

    In `over_losses` heads see their own losses unweighed; the paper's joint objective weighs them too.

    Losses should be positive; one that has become negative counts as one that has reached 0.

    Norms are relative to the largest in a batch, which scales the objective, so SGD's rate means another thing than in
    the paper; Adam's does not.

    Raises `InputError` where `optimizer` is none, or there are no losses.
    """
    check_optimizer(optimizer)

    def init(params):
        weights = jnp.ones(num_tasks)
        return Balance(weights, optimizer.init(weights), jnp.zeros(num_tasks))

    def weigh(gram: Gram, state, key):
        if gram.losses is None:
            raise InputError("gradnorm goes by how fast losses fall: pass losses=…")
        present = gram.present
        count = jnp.maximum(present.sum(), 1)
        first = jnp.where(present & (state.first == 0), gram.losses, state.first)
        pace = jnp.where(present, gram.losses / jnp.where(first == 0, 1, first), 0)
        pace = pace / jnp.maximum(pace.sum() / count, jnp.finfo(pace.dtype).tiny)
        mean = jnp.where(present, state.weights * gram.norms, 0).sum() / count
        target = mean * jnp.maximum(pace, 0) ** alpha
        slope = jnp.where(present, jnp.sign(state.weights * gram.norms - target) * gram.norms, 0)
        change, opt_state = optimizer.update(slope, state.opt_state, state.weights)
        weights = jnp.maximum(optax.apply_updates(state.weights, change), 1e-3)  # a negative weight would ascend
        return state.weights, Balance(weights * num_tasks / weights.sum(), opt_state, first)

    return gramian(weigh, init, where=where, num_tasks=num_tasks)
