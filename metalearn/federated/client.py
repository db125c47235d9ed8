"""What every federated algorithm is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import mean, weighted_mean
from metalearn.core import Batch, InputError, Key, Learner, Metrics, Model, Params, Task, Update
from metalearn.outer import num_real
from metalearn.tree import partition, statistics

PLAIN = optax.sgd(1.0)  # a server that goes where its clients' aggregate says
BY_EXAMPLES, EQUALLY = weighted_mean(), mean()  # how what clients changed becomes one change


def everything(shared: Params) -> Any:
    """All shared parameters: what the server sends to a client, unless an algorithm says otherwise."""
    return shared


def changes(shared: Params, where: str | None = None) -> Any:
    """The trained leaves that `where` matches, and the statistics: what a client returns, unless an algorithm says
    otherwise."""
    return partition(shared, where)[0], statistics(shared)


class Federated(NamedTuple):
    """A federated algorithm: an outer loop, and what a client uses of what it learned.

    `init` and `step` are those of an `Algorithm` whose tasks are clients. `learner.adapt((params, row), support, key)`
    gives the model that a client ends up with, global or its own, so that
    `evaluate(algorithm.learner, criterion)(state.params, clients, key, state.table)` measures it. `common` is the same
    for the one model that lies behind personal ones, where there is such. `down` and `up` turn the shared parameters
    into what one client receives and returns in a round; `sent` counts it.
    """

    init: Callable[[Key, Any], Any]
    step: Callable[[Any, Any, Key], tuple[Any, Metrics]]
    learner: Learner
    down: Callable[[Params], Any] = everything
    up: Callable[[Params], Any] = changes
    common: Learner | None = None


def using(model: Model, chosen: Callable[..., Params]) -> Learner:
    """A learner whose model, for a client, is `chosen(shared, row, support, key)`."""

    def adapt(start, support, key):
        return chosen(*start, support, key)

    return Learner(lambda key, task: model.init(key, task.support.x), adapt, model.apply)


def shared_model(shared, row, support, key):
    """The global model, as `chosen` for `using`."""
    del row, support, key
    return shared


def shared_params(shared, row, support, key):
    """The global model where it is one of several shared parts, under `params`."""
    del row, support, key
    return shared["params"]


def moved(start: Params, end: Params) -> Any:
    """`start - end` over trained leaves: what a client proposes, with the sign of a gradient."""
    return jax.tree.map(jnp.subtract, partition(start)[0], partition(end)[0])


def proposal(direction: Any, support: Batch, fitted, carried: Any = None) -> Update:
    """An update out of a fit, with the loss and metrics of its last step; `carried` holds new statistics."""
    metrics = jax.tree.map(lambda m: m[-1] if len(m) else jnp.nan, fitted.metrics)
    loss = metrics.pop("loss")
    return Update(direction, num_real(support), loss, metrics, None if carried is None else statistics(carried))


def zeros(params: Params) -> Any:
    """Zeros for every trained leaf."""
    return jax.tree.map(jnp.zeros_like, partition(params)[0])


def without_statistics(params: Params, who: str) -> Params:
    """`params`, or `InputError` where they hold running statistics, for which the algorithm `who` has no rule."""
    if jax.tree.leaves(statistics(params)):
        raise InputError(
            f"{who} has no rule for running statistics: use a norm without any, such as layer normalisation"
        )
    return params


def from_model(model: Model) -> Callable[[Key, Task], Params]:
    """The usual `init(key, task)`: the model's own."""
    return lambda key, task: model.init(key, task.support.x)
