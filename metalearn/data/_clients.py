"""A population of clients, and cohorts of it: flat arrays and offsets, gathered inside jit."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from metalearn.arguments import number, whole
from metalearn.core import Batch, InputError, Key, Task
from metalearn.data.images import to_float

# A population this large is not given a score a client each round; all smaller ones are, so that nobody's draws change.
_MANY = 10_000
_REFUSED = 1 / 8  # how many of the draws may come to somebody who is there already, before scores are the quicker way


class Clients(NamedTuple):
    """Whose example is whose: client k has rows `order[starts[k] : starts[k] + sizes[k]]` of `x` and `y`.

    Memory is that of the data, a number for each example, two for each client, and `features`. Where there is a `view`,
    client k sees `view(x, features[k])` of what is gathered of it.
    """

    x: jax.Array
    y: jax.Array
    order: jax.Array
    starts: jax.Array
    sizes: jax.Array
    view: Partial | None = None
    features: Any = None


def clients(
    x, y, parts: Sequence[np.ndarray], *, view: Callable[..., jax.Array] | None = None, features: Any = None
) -> Clients:
    """A population out of arrays `[n, ...]`, `[n, ...]` and each client's indices (see `data.partitions`).

    Args:
      view: `(x [m, ...], feature) -> x [m, ...]`, how a client sees its examples: feature shift. It is applied to what
        is gathered, so no example is ever copied for a client; uint8 is scaled to [0, 1] before. See `data.views`.
      features: a pytree of arrays `[num_clients, ...]`, of which client k's view gets row k.

    Raises `InputError` where there is no client, a client has no example, an index is not one of the data's, or `view`
    and `features` do not fit.
    """
    if not all(np.ndim(part) == 1 for part in parts):
        raise InputError("parts must hold one vector of examples' numbers for each client.")
    sizes = np.array([len(part) for part in parts])
    if not len(sizes):
        raise InputError("parts has no client in it.")
    if sizes.min() < 1:
        raise InputError(f"client {int(np.argmin(sizes))} has no example; leave it out.")
    order = np.concatenate([np.asarray(part) for part in parts])
    if len(x) != len(y):
        raise InputError(f"x and y must have a row for every example, but have {len(x)} and {len(y)}.")
    if not np.issubdtype(order.dtype, np.integer):
        raise InputError(f"parts must hold the integer numbers of examples, but they are {order.dtype}.")
    if order.min() < 0 or order.max() >= len(x):
        outside = order.min() if order.min() < 0 else order.max()
        raise InputError(f"parts must index x and y, which have {len(x)} rows; found {outside}.")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    order, starts, sizes = (np.asarray(a, np.int32) for a in (order, starts, sizes))
    flat = Clients(jnp.asarray(x), jnp.asarray(y), jnp.asarray(order), jnp.asarray(starts), jnp.asarray(sizes))
    if (view is None) != (features is None):
        raise InputError("view and features belong together: give both or neither.")
    if view is None:
        return flat
    features = jax.tree.map(jnp.asarray, features)
    for leaf in jax.tree.leaves(features):
        if leaf.shape[:1] != sizes.shape:
            raise InputError(f"features must have a row for each of {len(sizes)} clients, but are {list(leaf.shape)}.")
    seen = flat._replace(view=Partial(view), features=features)
    jax.eval_shape(lambda of: _gathered(of, 0, 1), seen)  # a view that cannot be is refused here
    return seen


def cohort(
    population: Clients,
    size: int,
    *,
    query: Clients | None = None,
    sampling: str = "uniform",
    temperature: float = 1.0,
    rate: float | None = None,
    dropout: float = 0.0,
    max_examples: int | None = None,
    by_size: bool = False,
):
    """Returns `sample(key) -> Task` of `size` clients, with leaves `[size, max_examples, ...]`, for `run`.

    Each client is padded to the largest of the population (or to `max_examples`, of which a larger client then has a
    random part in each round) with copies of a real example; `support.mask` is 0 there, and None where there is no such
    row and nobody can be absent. `id` is the client's number. A cohort so takes the room of `size` times the largest:
    of a population with a few very large clients give `max_examples`.

    Args:
      query: the same clients' test examples; all of them, padded alike, and seen through the population's view unless
        they have one of their own.
      sampling: "uniform", without replacement; "size", without replacement with chances in proportion to the number
        of examples, after which a plain `aggregate.mean()` and not the weighted one fits the joint objective, but for
        clients so large that they are nearly always drawn;
        "poisson", each client independently with chance `rate`: those beyond `size` are left out, and missing ones are
        absent (their mask is 0 everywhere).
      temperature: of "size", whose chances go by the number's power 1 / temperature: nearer to uniform above 1.
      dropout: the chance that a sampled client does not answer and is absent.
      by_size: put the cohort in the order of the examples shown, most first and absent clients last, so that the
        chunks of a chunked mapping hold clients alike. Leave it where the cohort is sharded: one device would get all
        the large ones. Which clients and examples there are does not depend on it.

    Raises `InputError` where there are fewer clients than `size`, or an argument cannot be used.
    """
    size = whole("size", size)
    count = population.sizes.shape[0]
    if size > count:
        raise InputError(f"a cohort of {size} is more than the {count} clients there are.")
    if sampling not in ("uniform", "size", "poisson"):
        raise InputError(f"sampling must be 'uniform', 'size' or 'poisson', but is {sampling!r}.")
    if (sampling == "poisson") != (rate is not None):
        raise InputError("rate is the chance of Poisson sampling: give it with sampling='poisson' and only there.")
    plain = not isinstance(temperature, jax.core.Tracer) and temperature == 1
    if not plain and sampling != "size":
        raise InputError("temperature is of sampling='size': give it there only.")
    number("temperature", temperature, above=0)
    number("dropout", dropout, least=0, below=1)
    if rate is not None:
        number("rate", rate, above=0, most=1)
    query = _alike(population, query)
    largest = int(np.asarray(population.sizes).max())
    most = largest if max_examples is None else whole("max_examples", max_examples)
    most_query = 0 if query is None else int(np.asarray(query.sizes).max())
    # where every row is a real example there is no mask, and a step of training need not ask whether it is one
    answered = not isinstance(dropout, jax.core.Tracer) and dropout == 0 and sampling != "poisson"
    unmasked = answered and int(np.asarray(population.sizes).min()) >= most
    if plain and _draws_suffice(population, size, sampling, rate):
        select = _by_draws(size, count, sampling, rate)
    else:
        select = _by_scores(size, count, sampling, rate, temperature)

    def sample(population, query, key: Key) -> Task:
        who_key, drop_key, part_key = jax.random.split(key, 3)
        ids, chosen = select(population, who_key)
        present = chosen & (jax.random.uniform(drop_key, (size,)) >= dropout)
        if by_size:
            order = jnp.argsort(present * jnp.minimum(population.sizes[ids], most), descending=True)
            ids, present = ids[order], present[order]
        if max_examples is None:  # everybody is shown whole, and needs no random numbers
            support = jax.vmap(lambda i: _gathered(population, i, most))(ids)
        else:
            parts = jax.vmap(jax.random.fold_in, (None, 0))(part_key, ids)
            support = jax.vmap(lambda i, key: _gathered(population, i, most, key, largest))(ids, parts)
        assert support.mask is not None
        support = support._replace(mask=None if unmasked else support.mask * present[:, None])
        gathered = None
        if query is not None:
            gathered = jax.vmap(lambda i: _gathered(query, i, most_query))(ids)
        return Task(support, gathered, ids)

    return Partial(sample, population, query)


def everyone(population: Clients, query: Clients | None = None) -> Task:
    """All clients at once, in order: what an evaluation goes over. `query` is as in `cohort`."""
    query = _alike(population, query)
    ids = jnp.arange(population.sizes.shape[0])

    def gather(of):
        most = int(np.asarray(of.sizes).max())  # on the host, so that it may be called under jit
        return jax.vmap(lambda i: _gathered(of, i, most))(ids)

    return Task(gather(population), None if query is None else gather(query), ids)


def padding(
    population: Clients, max_examples: int | None = None, chunk: int | None = None, size: int | None = None
) -> float:
    """The share of padded examples that is not real: 1 - Σ_k n_k / Σ_k m_k, over the whole population.

    Client k shows n_k of its examples, all or `max_examples`, in m_k rows. Without `chunk`, m_k is the largest size
    (or `max_examples`) for everybody: what a uniform `cohort` wastes. With it, clients are sorted by size, cut into
    chunks of that many (the last may be smaller) and padded to the largest of their chunk.

    With `size`, the same of uniform cohorts of that many clients, ordered `by_size`: both sums are replaced by their
    expectations, exactly (the jth largest of a cohort is v or more where at least j of it are: hypergeometric).

    >>> sizes = [np.arange(5), np.arange(4), np.arange(2), np.arange(1)]
    >>> population = clients(np.zeros(5), np.zeros(5), sizes)
    >>> [round(padding(population, chunk=chunk), 2) for chunk in (None, 2, 1)]
    [0.4, 0.14, 0.0]

    Raises `InputError` where `size` is more than there are clients, or a number is no whole one of at least 1.
    """
    sizes = np.asarray(population.sizes)
    count = len(sizes)
    most = int(sizes.max()) if max_examples is None else whole("max_examples", max_examples)
    shown = np.minimum(sizes, most)
    if chunk is None:
        return float(1 - shown.mean() / most)
    from scipy.stats import hypergeom  # here, for it is slow to import

    size = count if size is None else whole("size", size)
    if size > count:
        raise InputError(f"a cohort of {size} is more than the {count} clients there are.")
    first = np.arange(0, size, whole("chunk", chunk))
    values, counts = np.unique(shown, return_counts=True)
    as_large = np.cumsum(counts[::-1])[::-1]
    chances = hypergeom.sf(first[:, None], count, as_large, size)
    rows = np.diff(first, append=size) @ chances @ np.diff(values, prepend=0)
    return float(1 - size * shown.mean() / rows)


def _alike(population: Clients, query: Clients | None) -> Clients | None:
    if query is None:
        return None
    if query.sizes.shape != population.sizes.shape:
        raise InputError(f"query has {query.sizes.shape[0]} clients, and the population {population.sizes.shape[0]}.")
    return query if query.view is not None else query._replace(view=population.view, features=population.features)


def _draws_suffice(population: Clients, size: int, sampling: str, rate: Any) -> bool:
    """Whether few enough draws come to clients who are there already; what is only known when it runs gets scores."""
    count = population.sizes.shape[0]
    if count < _MANY or isinstance(rate, jax.core.Tracer):
        return False
    if sampling != "size":
        return size <= _REFUSED * count
    if isinstance(population.sizes, jax.core.Tracer):
        return False
    sizes = np.asarray(population.sizes)
    return np.partition(sizes, -size)[-size:].sum() <= _REFUSED * sizes.sum()


def _by_scores(size: int, count: int, sampling: str, rate: Any, temperature: Any) -> Callable:
    """`(population, key) -> (ids [size], chosen [size])`: the clients with the best of independent random scores."""

    def select(population, key):
        chance = jax.random.uniform(key, (count,), minval=1e-12)
        score = -chance
        if sampling == "size":  # the order of chance^(1 / n^(1 / temperature)), whose powers would overflow
            score = jnp.log(population.sizes) / temperature - jnp.log(-jnp.log(chance))
        _, ids = jax.lax.top_k(score, size)
        return ids, chance[ids] < rate if sampling == "poisson" else jnp.ones(size, bool)

    return select


def _by_draws(size: int, count: int, sampling: str, rate: Any) -> Callable:
    """The same distributions, at a cost that does not grow with the number of clients."""
    if sampling == "poisson":
        from scipy.stats import binom  # here, for it is slow to import

        # how many of independent chances come true is binomial; who they are, any of that many clients
        below = np.minimum(binom.cdf(np.arange(size), count, rate) * 2.0**32, 2.0**32 - 1).astype(np.uint32)

    def select(population, key):
        who_key, number_key = jax.random.split(key)

        def draw(key):
            if sampling != "size":
                return jax.random.randint(key, (size,), 0, count, jnp.int32)
            # whose a random example is
            example = jax.random.randint(key, (size,), 0, population.order.shape[0], jnp.int32)
            return jnp.searchsorted(population.starts, example, side="right").astype(jnp.int32) - 1

        ids = _distinct(draw, who_key)
        if sampling != "poisson":
            return ids, jnp.ones(size, bool)
        number = jnp.searchsorted(jnp.asarray(below), jax.random.bits(number_key, dtype=jnp.uint32), side="right")
        return ids, jnp.arange(size) < number

    return select


def _distinct(draw: Callable[[Key], jax.Array], key: Key) -> jax.Array:
    """The different values that a sequence of independent draws comes to first, as many as `draw(key)` makes at once.

    Whoever is drawn again is refused and another drawn instead, so each new one has the chance that it has among those
    who are not there yet: sampling without replacement, one after another. Those kept come before all later draws, and
    every place of the result is refilled until its draw is new; uniform draws fill the places exchangeably, because
    only equality is ever asked.
    """

    def again(carry):
        kept, missing, t = carry
        values = jnp.where(missing, draw(jax.random.fold_in(key, t)), kept)
        # of equal values the kept one first, else the earliest (it is stable); one number sorts faster than a pair
        order = jnp.argsort(2 * values.astype(jnp.uint32) + missing, stable=True)
        ordered = values[order]
        repeated = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] == ordered[:-1]])
        return values, jnp.zeros_like(missing).at[order].set(repeated), t + 1

    values = jax.eval_shape(draw, key)
    start = jnp.zeros(values.shape, values.dtype), jnp.ones(values.shape, bool), 0
    return jax.lax.while_loop(lambda carry: carry[1].any(), again, start)[0]


def _gathered(of: Clients, i, most: int, key: Key | None = None, largest: int = 0) -> Batch:
    """Client `i`'s examples; with a key a client with more than `most` of at most `largest` shows any of them."""
    place, size = jnp.arange(most), of.sizes[i]
    which = jnp.where(place < size, place, 0)
    if key is not None and largest > most:
        chance = jnp.where(jnp.arange(largest) < size, jax.random.uniform(key, (largest,)), -1)
        which = jnp.where(size > most, jax.lax.top_k(chance, most)[1], which)
    rows = of.order[of.starts[i] + which]
    mask = (place < size).astype(jnp.result_type(float))
    x = of.x[rows]
    x = to_float(x) if x.dtype == jnp.uint8 else x
    if of.view is not None:
        x = of.view(x, jax.tree.map(lambda leaf: leaf[i], of.features))
    return Batch(x, of.y[rows], mask)
