"""Updates with named parts, each aggregated in its own way."""

from collections.abc import Mapping

import jax

from metalearn.aggregate._build import summed
from metalearn.core import Aggregator, InputError


def parts(aggregators: Mapping[str, Aggregator]) -> Aggregator:
    """An aggregator of updates that are dictionaries: `parts({"params": mean(), "control": total(0.01)})`.

    Each part must be a sum (have `each` and `finish`); the whole then is one too.
    """
    for name, aggregator in aggregators.items():
        if aggregator.each is None or aggregator.finish is None:
            raise InputError(f"parts: {name} must be aggregated by a sum, such as mean() or total()")

    def key_of(key, i):
        return None if key is None else jax.random.fold_in(key, i)

    def init(params):
        return {name: a.init(params[name]) for name, a in aggregators.items()}

    def each(update, state, key):
        return {
            name: a.each(update._replace(direction=update.direction[name]), state[name], key_of(key, i))
            for i, (name, a) in enumerate(aggregators.items())
        }

    def finish(total, state, params, key):
        done = {
            name: a.finish(total[name], state[name], params[name], key_of(key, i))
            for i, (name, a) in enumerate(aggregators.items())
        }
        return {name: d for name, (d, _) in done.items()}, {name: s for name, (_, s) in done.items()}

    return summed(each, finish, init)
