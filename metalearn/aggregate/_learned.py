"""Weights that descend an objective of their own, beside the parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate._build import weighted
from metalearn.arguments import check_optimizer
from metalearn.core import Aggregator


class Learned(NamedTuple):
    """The numbers that give the weights, `[K]`, and their optimizer's state."""

    values: jax.Array
    opt_state: optax.OptState


def learned(
    num_tasks: int, weights: Callable, objective: Callable, optimizer: optax.GradientTransformation
) -> Aggregator:
    """w = `weights(values)`, while `values` `[K]`, beginning at 0, descend Σ_k `objective(values, losses)_k` over the
    tasks that are present. The step taken with a batch's losses shows in the next one's weights. One task alone has
    none to be weighed against, and its weight stays 1."""
    check_optimizer(optimizer)

    def init(params):
        values = jnp.zeros(num_tasks)
        return Learned(values, optimizer.init(values))

    def weigh(losses, present, state, key):
        slope = jax.grad(lambda values: jnp.where(present, objective(values, losses), 0).sum())(state.values)
        change, opt_state = optimizer.update(slope, state.opt_state, state.values)
        w = jnp.ones(1) if num_tasks == 1 else weights(state.values)
        return w, Learned(optax.apply_updates(state.values, change), opt_state)

    return weighted(weigh, init, num_tasks=num_tasks)
