"""A population of clients, and cohorts of it: flat arrays and offsets, gathered inside jit."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from metalearn.core import Batch, InputError, Key, Task
from metalearn.data._shared import positive
from metalearn.data.images import to_float


class Clients(NamedTuple):
    """Whose example is whose: client k has rows `order[starts[k] : starts[k] + sizes[k]]` of `x` and `y`.

    Memory is that of the data and two numbers a client, however many there are.
    """

    x: jax.Array
    y: jax.Array
    order: jax.Array
    starts: jax.Array
    sizes: jax.Array


def clients(x, y, parts: Sequence[np.ndarray]) -> Clients:
    """A population out of arrays `[n, ...]`, `[n]` and each client's indices (see `data.partitions`).

    Raises `InputError` where a client has no example, or an index is not one of the data's.
    """
    sizes = np.array([len(part) for part in parts])
    if not len(sizes) or sizes.min() < 1:
        raise InputError(f"client {int(np.argmin(sizes)) if len(sizes) else 0} has no example; leave it out.")
    order = np.concatenate([np.asarray(part) for part in parts])
    if len(x) != len(y) or order.min() < 0 or order.max() >= len(x):
        raise InputError(f"parts must index x and y, which have {len(x)} and {len(y)} rows; found {order.max()}.")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return Clients(jnp.asarray(x), jnp.asarray(y), *(jnp.asarray(a, jnp.int32) for a in (order, starts, sizes)))


def cohort(
    population: Clients,
    size: int,
    *,
    query: Clients | None = None,
    sampling: str = "uniform",
    rate: float | None = None,
    dropout: float = 0.0,
    max_examples: int | None = None,
):
    """Returns `sample(key) -> Task` of `size` clients, with leaves `[size, max_examples, ...]`, for `run`.

    Each client is padded to the largest of the population (or to `max_examples`, of which a larger client then has a
    random part in each round) with copies of a real example; `support.mask` is 0 there. `id` is the client's number.

    Args:
      query: the same clients' test examples; all of them, padded alike.
      sampling: "uniform", without replacement; "size", without replacement with chances in proportion to the number
        of examples; "poisson", each client independently with chance `rate`: those beyond `size` are left out, and
        missing ones are absent (their mask is 0 everywhere).
      dropout: the chance that a sampled client does not answer and is absent.

    Raises `InputError` where there are fewer clients than `size`, or an argument cannot be used.
    """
    size = positive("size", size)
    count = population.sizes.shape[0]
    if size > count:
        raise InputError(f"a cohort of {size} is more than the {count} clients there are.")
    if sampling not in ("uniform", "size", "poisson"):
        raise InputError(f"sampling must be 'uniform', 'size' or 'poisson', but is {sampling!r}.")
    if (sampling == "poisson") != (rate is not None):
        raise InputError("rate is the chance of Poisson sampling: give it with sampling='poisson' and only there.")
    if query is not None and query.sizes.shape[0] != count:
        raise InputError(f"query has {query.sizes.shape[0]} clients, and the population {count}.")
    most = int(population.sizes.max()) if max_examples is None else positive("max_examples", max_examples)
    most_query = 0 if query is None else int(query.sizes.max())
    chosen = 1.0 if rate is None else rate

    def sample(population, query, key: Key) -> Task:
        who_key, drop_key, part_key = jax.random.split(key, 3)
        chance = jax.random.uniform(who_key, (count,), minval=1e-12)
        score = jnp.log(chance) / population.sizes if sampling == "size" else -chance
        _, ids = jax.lax.top_k(score, size)
        present = jax.random.uniform(drop_key, (size,)) >= dropout
        if sampling == "poisson":
            present &= chance[ids] < chosen
        parts = jax.vmap(jax.random.fold_in, (None, 0))(part_key, ids)
        support = jax.vmap(lambda i, key: _gathered(population, i, most, key))(ids, parts)
        assert support.mask is not None
        support = support._replace(mask=support.mask * present[:, None])
        gathered = None
        if query is not None:
            gathered = jax.vmap(lambda i, key: _gathered(query, i, most_query, key))(ids, parts)
        return Task(support, gathered, ids)

    return Partial(sample, population, query)


def everyone(population: Clients, query: Clients | None = None) -> Task:
    """All clients at once, in order: what an evaluation goes over."""
    ids = jnp.arange(population.sizes.shape[0])

    def gather(of):
        most = int(of.sizes.max())
        return jax.vmap(lambda i: _gathered(of, i, most, jax.random.key(0)))(ids)

    return Task(gather(population), None if query is None else gather(query), ids)


def padding(population: Clients, max_examples: int | None = None) -> float:
    """The share of a padded cohort that is not real: 1 - mean size / largest size."""
    sizes = np.asarray(population.sizes)
    most = sizes.max() if max_examples is None else max_examples
    return float(1 - np.minimum(sizes, most).mean() / most)


def _gathered(of: Clients, i, most: int, key) -> Batch:
    place, size = jnp.arange(most), of.sizes[i]
    # a client with more than `most` shows a window of its examples, at a random place and around the end
    shift = jnp.where(size > most, jax.random.randint(key, (), 0, size), 0)
    rows = of.order[of.starts[i] + jnp.where(place < size, (place + shift) % size, 0)]
    mask = (place < size).astype(jnp.result_type(float))
    x = of.x[rows]
    return Batch(to_float(x) if x.dtype == jnp.uint8 else x, of.y[rows], mask)
