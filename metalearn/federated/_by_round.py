"""A hyperparameter that changes from round to round, in any federated algorithm."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metalearn.federated.client import Federated


def by_round(make: Callable[[jax.Array], Federated], schedule: Callable[[jax.Array], jax.Array]) -> Federated:
    """`make(schedule(t))` in round t = 0, 1, …: `by_round(lambda rate: fedavg(…, optax.sgd(rate), …), schedule)`.

    Args:
      make: builds the algorithm from one traced number, on which no shape may depend: a client's rate, a strength, …
      schedule: any Optax schedule, or `round -> value`.

    The round is part of the state, `aggregator_state = (that of the algorithm, round)`, and is checkpointed with it.
    `learner`, where it depends on the number, is that of round 0.

    >>> import optax, metalearn as ml
    >>> model, fedavg = ml.from_linen(ml.nets.MLP([10])), ml.federated.fedavg
    >>> slower = optax.exponential_decay(0.1, 1, 0.99)
    >>> algorithm = by_round(lambda rate: fedavg(model, ml.cross_entropy, optax.sgd(rate), num_epochs=1), slower)
    """
    first = make(jnp.asarray(schedule(jnp.zeros((), jnp.int32))))

    def init(key, batch):
        state = first.init(key, batch)
        return state._replace(aggregator_state=(state.aggregator_state, jnp.zeros((), jnp.int32)))

    def step(state, batch, key):
        inner, round_ = state.aggregator_state
        algorithm = make(jnp.asarray(schedule(round_)))
        state, metrics = algorithm.step(state._replace(aggregator_state=inner), batch, key)
        return state._replace(aggregator_state=(state.aggregator_state, round_ + 1)), metrics

    return first._replace(init=init, step=step)
