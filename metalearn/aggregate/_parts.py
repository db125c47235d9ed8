"""Updates with named parts, each aggregated in its own way."""

from collections.abc import Mapping

import jax

from metalearn.aggregate._build import stacked, summed
from metalearn.core import Aggregator


def parts(aggregators: Mapping[str, Aggregator]) -> Aggregator:
    """An aggregator of updates that are dictionaries: `parts({"params": mean(), "control": total(0.01)})`.

    Where each part is a sum (has `each` and `finish`), so is the whole; else it sees all updates at once.
    """

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
        return _apart(done)

    def update(updates, state, params=None, *, weights=None, losses=None, key=None):
        done = {
            name: a.update(
                *(updates[name], state[name], None if params is None else params[name]),
                weights=weights, losses=losses, key=key_of(key, i),
            )
            for i, (name, a) in enumerate(aggregators.items())
        }  # fmt: skip
        return _apart(done)

    sums = all(a.each is not None for a in aggregators.values())
    return summed(each, finish, init) if sums else stacked(update, init)


def _apart(done: dict) -> tuple[dict, dict]:
    return {name: d for name, (d, _) in done.items()}, {name: s for name, (_, s) in done.items()}
