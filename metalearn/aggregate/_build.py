"""Ways to write an aggregator: from a sum, from losses, from a Gramian, or from the whole stack of updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metalearn.aggregate._gram import combination, gram_of
from metalearn.core import Aggregator, InputError, Update
from metalearn.tree import num_rows


def _empty(params):
    return ()


def summed(
    each: Callable, finish: Callable, init: Callable[[Any], Any] = _empty, *, linear: bool = False
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

    def weigh(updates, state, params=None, *, weights=None, losses=None, key=None):
        # of unit vectors a linear aggregate is its coefficients
        count = len(losses) if updates is None else num_rows(updates)
        return update(jnp.eye(count), state, params, weights=weights, losses=losses, key=key)

    return Aggregator(init, update, each, finish, linear, weigh if linear else None)


def weighted(weigh: Callable, init: Callable[[Any], Any] = _empty, *, num_tasks: int | None = None) -> Aggregator:
    """An aggregator whose coefficients come from losses alone: u = Σ_k w_k u_k.

    `weigh(losses[K], present[K], state, key) -> (w[K], state)`; tasks that are absent get 0 whatever it says. It never
    looks at directions, so `over_losses` needs one backward pass. With `num_tasks`, any other number of tasks is
    refused.

    >>> half_the_loss = weighted(lambda losses, present, state, key: (losses / 2, state))

    Raises `InputError` where there are no losses, or not as many tasks.
    """

    def weights_of(updates, state, params=None, *, weights=None, losses=None, key=None):
        if losses is None:
            raise InputError("an aggregator that weighs losses needs them: pass losses=…")
        as_many(num_tasks, len(losses))
        present = jnp.ones(losses.shape, bool) if weights is None else weights > 0
        # the loss of an absent task is garbage, and must not reach the others' weights
        w, state = weigh(jnp.where(present, losses, 0), present, state, key)
        return jnp.where(present, _for_each(w, len(losses)), 0), state

    return from_weights(init, weights_of, linear=True)


def gramian(
    weigh: Callable,
    init: Callable[[Any], Any] = _empty,
    *,
    where: str | None = None,
    num_tasks: int | None = None,
) -> Aggregator:
    """An aggregator whose coefficients come from the inner products of updates: u = Σ_k w_k u_k.

    `weigh(gram, state, key) -> (w[K], state)` sees a `Gram`: cosines, norms relative to the largest, losses, and who is
    present. Nothing but one scaled copy of a leaf's updates is made for it. `where` restricts the Gramian, not the
    sum, to leaves whose path matches. With `num_tasks`, any other number of tasks is refused. Where tasks are `sharded`
    over D devices, each receives K·P/D numbers once, and inner products are all that is reduced.

    >>> the_longest = gramian(lambda gram, state, key: (1.0 * (gram.norms == 1), state))
    """

    def weights_of(updates, state, params=None, *, weights=None, losses=None, key=None):
        as_many(num_tasks, num_rows(updates))
        gram = gram_of(updates, weights, losses, where)
        w, state = weigh(gram, state, key)
        return jnp.where(gram.present, _for_each(w, len(gram.norms)), 0), state

    return from_weights(init, weights_of, by_products=True)


def stacked(update: Callable, init: Callable[[Any], Any] = _empty) -> Aggregator:
    """An aggregator that must see all updates at once: `update(updates[K, ...], state, params=None, *, weights=None,
    losses=None, key=None) -> (direction, state)`. Rows of weight 0 hold garbage and must not be used.

    Where tasks are `sharded` over D devices, each receives all K of its share of the numbers, K·P/D of them; what
    `update` computes number by number needs nothing more, what it computes across a leaf gathers that."""
    return Aggregator(init, update)


def before(transform: Callable, aggregator: Aggregator) -> Aggregator:
    """`aggregator` over updates that `transform(direction) -> direction` changed, each by itself."""

    def update(updates, state, params=None, **options):
        return aggregator.update(jax.vmap(transform)(updates), state, params, **options)

    each = aggregator.each
    if each is None:
        return Aggregator(aggregator.init, update)
    return Aggregator(
        aggregator.init,
        update,
        lambda one, state, key: each(one._replace(direction=transform(one.direction)), state, key),
        aggregator.finish,
    )


def _for_each(w, count):
    """One weight would broadcast to all tasks, and another number of them fail without saying whose it was."""
    if jnp.shape(w) != (count,):
        raise InputError(f"there are {count} tasks, but the aggregator gives weights of shape {list(jnp.shape(w))}")
    return w


def as_many(num_tasks: int | None, count: int) -> None:
    """Refuses another number of tasks than an aggregator was made for, before anything broadcasts."""
    if num_tasks is not None and num_tasks != count:
        raise InputError(f"the aggregator was made for {num_tasks} tasks, but there are {count}")


def from_weights(
    init: Callable, weights_of: Callable, *, linear: bool = False, by_products: bool = False
) -> Aggregator:
    """The sum Σ_k w_k u_k over present tasks, for `weights_of` with the arguments of `update`."""

    def update(updates, state, params=None, *, weights=None, losses=None, key=None):
        w, state = weights_of(updates, state, params, weights=weights, losses=losses, key=key)
        present = jnp.ones(w.shape, bool) if weights is None else weights > 0
        return combination(w, updates, present), state

    return Aggregator(init, update, linear=linear, weigh=weights_of, by_products=by_products)
