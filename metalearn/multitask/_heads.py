"""Tasks with examples of their own: a head a task, as rows of a table, on a shared trunk (Caruana 1997)."""

from typing import Any

import jax
import optax

from metalearn.arguments import check_models, check_optimizer
from metalearn.core import Aggregator, Algorithm, Criterion, InputError, Key, Learner, Model, Task, Update
from metalearn.mapping import Mapping, auto
from metalearn.outer import num_real, over_clients
from metalearn.tree import merge, partition, statistics


def heads(
    trunk: Model,
    head: Model,
    criterion: Criterion,
    aggregator: Aggregator,
    optimizer: optax.GradientTransformation,
    *,
    num_tasks: int,
    head_optimizer: optax.GradientTransformation | None = None,
    mapping: Mapping = auto,
) -> tuple[Algorithm, Learner]:
    """`(algorithm, learner)`: one step of the trunk by the aggregate of the sampled tasks' gradients, and one of each
    of their heads by its own.

    Tasks come with examples of their own, as many as they have (masked) and of one shape, and an `id`, the row of the
    table in which their head is kept: `data.cohort` samples them uniformly, in proportion to their size, or by
    temperature. All heads have one shape; a task with fewer classes leaves the rest of its logits unused.

    Args:
      aggregator: one without a state, which would go by place in a cohort and not by who is there.
      num_tasks: rows of the table; every `id` must be below it.
      head_optimizer: the heads', by default `optimizer`.

    Raises `InputError` where trunk or head is no `Model`, the aggregator has a state, tasks have no `id`, there are
    more of them than rows, or a head keeps running statistics.

    `evaluate(learner, criterion)(state.params, tasks, key, state.table)` measures every task with its own head.
    """
    check_models(trunk, head)
    tuner = head_optimizer or optimizer
    check_optimizer(tuner)

    def init(key: Key, task: Task):
        if task.id is None:
            raise InputError("heads finds a task's head by task.id, which is None")
        trunk_key, head_key = jax.random.split(key)
        shared = trunk.init(trunk_key, task.support.x)
        own = head.init(head_key, trunk.apply(shared, task.support.x))
        if jax.tree.leaves(aggregator.init(partition(shared)[0])):
            raise InputError(
                "the aggregator keeps something between steps, which would go by place in a cohort and not by who is "
                "there: use one without a state, such as mean() or upgrad()"
            )
        if jax.tree.leaves(statistics(own)):
            raise InputError("a head keeps no running statistics: use a norm without any, such as layer normalisation")
        return shared, (own, tuner.init(partition(own)[0]))

    def one(shared, row, task, key):
        own, opt_state = row
        trunk_key, head_key = jax.random.split(key)
        (shared_trained, shared_rest), (own_trained, own_rest) = partition(shared), partition(own)

        def loss(both):
            params = merge(both[0], shared_rest)
            if trunk.train is None:
                features, seen = trunk.apply(params, task.support.x, trunk_key), None
            else:
                features, seen = trunk.train(params, task.support.x, trunk_key)
            outputs = head.apply(merge(both[1], own_rest), features, head_key)
            value, metrics = criterion(outputs, task.support)
            return value, (metrics, seen)

        both = (shared_trained, own_trained)
        (value, (metrics, seen)), (direction, slope) = jax.value_and_grad(loss, has_aux=True)(both)
        change, opt_state = tuner.update(slope, opt_state, own_trained)
        row = merge(optax.apply_updates(own_trained, change), own_rest), opt_state
        return Update(direction, num_real(task.support), value, metrics, seen), row

    def predict(state: Any, x: Any, key: Key | None = None):
        shared, (own, _) = state
        trunk_key, head_key = (None, None) if key is None else jax.random.split(key)
        return head.apply(own, trunk.apply(shared, x, trunk_key), head_key)

    learner = Learner(init, lambda params, support, key: params, predict)
    return over_clients(init, one, aggregator, optimizer, num_clients=num_tasks, mapping=mapping), learner
