"""Dynamic weight average (Liu, Johns, Davison 2019, arXiv 1803.10704)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metalearn.aggregate._build import weighted
from metalearn.arguments import number, whole
from metalearn.core import Aggregator


class Averages(NamedTuple):
    """Mean losses `[K]` of the last two periods, and sums over the one under way."""

    before: jax.Array
    last: jax.Array
    total: jax.Array
    seen: jax.Array  # steps of each task in this period, [K]
    steps: jax.Array  # steps in all


def dwa(num_tasks: int, period: int, temperature: float | jax.Array = 2.0) -> Aggregator:
    """w_k = K softmax_k(r_k / T), r_k being task k's mean loss of the last period over that of the one before.

    A period is an epoch in the paper: pass its number of steps. The first two have w_k = 1. Convention: weights sum to
    K, the number of tasks.

    Raises `InputError` where `period` or `temperature` is not positive.
    """
    number("temperature", temperature, above=0)
    period = whole("period", period)

    def init(params):
        zeros = jnp.zeros(num_tasks)
        return Averages(zeros, zeros, zeros, zeros, jnp.zeros((), jnp.int32))

    def weigh(losses, present, state, key):
        ratio = state.last / jnp.where(state.before > 0, state.before, 1)
        # a task without a loss in one of the periods changes at the pace of nothing
        ratio = jnp.where((state.before > 0) & (state.last > 0), ratio, 1.0)
        w = jnp.where(state.steps >= 2 * period, num_tasks * jax.nn.softmax(ratio / temperature), 1.0)
        total, seen, steps = state.total + losses, state.seen + present, state.steps + 1
        mean = total / jnp.maximum(seen, 1)
        done = steps % period == 0
        zeros = jnp.zeros_like(total)
        after = Averages(state.last, mean, zeros, zeros, steps)
        return w, jax.tree.map(
            lambda a, b: jnp.where(done, a, b), after, state._replace(total=total, seen=seen, steps=steps)
        )

    return weighted(weigh, init, num_tasks=num_tasks)
