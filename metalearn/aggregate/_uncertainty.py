"""Uncertainty weighting (Kendall, Gal, Cipolla 2018, arXiv 1705.07115)."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from metalearn.aggregate._learned import learned
from metalearn.core import Aggregator, InputError


def uncertainty(
    num_tasks: int, optimizer: optax.GradientTransformation, *, regression: Sequence[bool] | None = None
) -> Aggregator:
    """w_k = e^(-s_k), half of it where `regression` `[K]` (true or false) says so, with s_k = log σ_k² learned by
    `optimizer`.

    The joint objective is Σ_k w_k L_k + ½ s_k, s_k beginning at 0. Convention: a sum of what the weights give. Usually
    `optimizer` is that of the parameters. Raises `InputError` where it is none, or `regression` does not fit.
    """
    if regression is not None and len(regression) != num_tasks:
        raise InputError(f"regression must say so of each of {num_tasks} tasks, but has {len(regression)} entries")
    scale = jnp.where(jnp.asarray(regression), 0.5, 1.0) if regression is not None else jnp.ones(num_tasks)
    return learned(
        num_tasks, lambda s: scale * jnp.exp(-s), lambda s, losses: scale * jnp.exp(-s) * losses + s / 2, optimizer
    )
