"""Sums and means over present tasks."""

import jax
import jax.numpy as jnp

from metalearn.aggregate._build import summed
from metalearn.core import Aggregator


def _average(coefficient) -> Aggregator:
    def each(update, state, key):
        c = coefficient(update.weight)
        return _weighed(c, update.direction), c

    def finish(total, state, params, key):
        directions, count = total
        scale = 1 / jnp.where(count > 0, count, 1)
        return jax.tree.map(lambda d: d * scale.astype(d.dtype), directions), state

    return summed(each, finish, linear=True)


def mean() -> Aggregator:
    """The plain mean over present tasks: MAML's and Reptile's outer step.

    u = Σ_k [w_k > 0] u_k / Σ_k [w_k > 0]; zero where no task is present.
    """
    return _average(lambda weight: (weight > 0).astype(jnp.result_type(float)))


def weighted_mean() -> Aggregator:
    """The mean weighted by the number of real examples: FedAvg's server step (McMahan et al. 2017, arXiv 1602.05629).

    u = Σ_k w_k u_k / Σ_k w_k; zero where no task is present.
    """
    return _average(lambda weight: jnp.asarray(weight, jnp.result_type(float)))


def total(scale: float | jax.Array = 1.0) -> Aggregator:
    """The sum over present tasks, times `scale`: `total(1 / num_clients)` is the mean over all clients, of whom those
    who are absent changed nothing.

    u = scale · Σ_k [w_k > 0] u_k.
    """

    def each(update, state, key):
        return _weighed((update.weight > 0).astype(jnp.result_type(float)), update.direction)

    def finish(total, state, params, key):
        return jax.tree.map(lambda d: (d * scale).astype(d.dtype), total), state

    return summed(each, finish, linear=True)


def _weighed(weight, direction):
    # an absent task may carry anything, NaN included, so it is left out rather than multiplied by zero
    return jax.tree.map(lambda d: jnp.where(weight > 0, weight.astype(d.dtype) * d, jnp.zeros_like(d)), direction)
