"""Ways to write an aggregator: from a sum, or from the whole stack of updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metalearn.core import Aggregator, Update
from metalearn.tree import num_rows


def summed(
    each: Callable, finish: Callable, init: Callable[[Any], Any] = lambda params: (), *, linear: bool = False
) -> Aggregator:
    """An aggregator that is a sum: `update = finish(sum of each)`.

    `each(update, state, key) -> summand` sees one task's `Update`; `finish(sum, state, params, key) -> (direction,
    state)` sees only their sum, so no outer loop ever needs more than one chunk of updates. `update` is derived from
    the two, so that both forms cannot disagree.
    """

    def update(updates, state, params=None, *, weights=None, losses=None, key=None):
        count = num_rows(updates)
        weights = jnp.ones(count) if weights is None else weights
        losses = jnp.zeros(count) if losses is None else losses
        each_key, finish_key = (None, None) if key is None else jax.random.split(key)

        def summand(k, direction, weight, loss):
            task_key = None if each_key is None else jax.random.fold_in(each_key, k)
            return each(Update(direction, weight, loss, {}), state, task_key)

        summands = jax.vmap(summand)(jnp.arange(count), updates, weights, losses)
        return finish(jax.tree.map(lambda a: a.sum(0), summands), state, params, finish_key)

    return Aggregator(init, update, each, finish, linear)


def stacked(update: Callable, init: Callable[[Any], Any] = lambda params: ()) -> Aggregator:
    """An aggregator that must see all updates at once: `update(updates[K, ...], state, params=None, *, weights=None,
    losses=None, key=None) -> (direction, state)`. Rows of weight 0 hold garbage and must not be used."""
    return Aggregator(init, update)
