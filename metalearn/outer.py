"""The outer loops: how lessons from many tasks become one step of the shared parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn.arguments import check_aggregator, check_optimizer, whole
from metalearn.core import (
    Aggregator,
    Algorithm,
    Batch,
    Criterion,
    InputError,
    Key,
    Learner,
    LossFn,
    Metrics,
    Params,
    Task,
    TaskFn,
    Update,
)  # fmt: skip
from metalearn.mapping import Mapping, auto
from metalearn.metrics import measured
from metalearn.tree import merge, num_rows, partition, select, statistics, strong, with_statistics


class State(NamedTuple):
    """What an outer loop carries: checkpoint this and nothing is lost.

    `table` holds a row for each client, `[num_clients, ...]`, and is empty for `over_tasks`.
    """

    params: Params
    opt_state: Any
    aggregator_state: Any
    table: Any = ()


def num_real(batch: Batch) -> jax.Array:
    """The number of real examples of one batch, as a float."""
    if batch.mask is None:
        return jnp.asarray(num_rows(batch), jnp.result_type(float))
    return batch.mask.astype(jnp.result_type(float)).sum()


def episodic(learner: Learner, criterion: Criterion, *, step_weights: jax.Array | None = None) -> TaskFn:
    """The gradient of the query loss *through* adaptation: MAML, ProtoNet, Meta-SGD and their kin.

    With `step_weights` `[T]` the loss is the weighted sum of the query losses after each of the T inner steps (the
    multi-step loss of MAML++; Antoniou et al. 2019, arXiv 1810.09502); the learner must keep its trajectory. Metrics
    are always those after the last step.

    Raises `InputError` where a task has no query, or weights are not one for each inner step.
    """

    def task_fn(params, task, key):
        if task.query is None:
            raise InputError("episodic measures adaptation on task.query, which is None")
        adapt_key, query_key = jax.random.split(key)
        trained, rest = partition(params)

        def query(state):
            if learner.train is None:
                outputs, new = learner.predict(state, task.query.x, query_key), None
            else:
                outputs, new = learner.train(state, task.query.x, query_key)
            return *criterion(outputs, task.query), new

        def loss_fn(trained):
            state = learner.adapt(merge(trained, rest), task.support, adapt_key)
            loss, metrics, new = query(state)
            if step_weights is not None:
                path = along(state)
                if num_rows(path) != len(step_weights) + 1:
                    raise InputError(
                        f"step_weights has {len(step_weights)} entries for {num_rows(path) - 1} inner steps"
                    )
                after = jax.tree.map(lambda a: a[1:], path)
                losses = jax.vmap(lambda p: query(state._replace(params=p, trajectory=None))[0])(after)
                loss = jnp.vdot(jnp.asarray(step_weights), losses)
            return loss, (metrics, new)

        (loss, (metrics, new)), direction = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        return Update(direction, num_real(task.support), loss, metrics, new)

    return task_fn


def difference(adapt: Callable[[Params, Batch, Key], Any]) -> TaskFn:
    """`params - adapt(params, task.support).params`: what a task would change, with the sign of a gradient.

    Reptile (Nichol et al. 2018, arXiv 1803.02999) and FedAvg are this under an equal and a weighted mean.

    Raises `InputError` where what was learned is structured otherwise than the shared parameters.
    """

    def task_fn(params, task, key):
        fitted = adapt(params, task.support, key)
        try:
            direction = jax.tree.map(jnp.subtract, partition(params)[0], partition(fitted.params)[0])
        except (TypeError, ValueError) as error:
            raise InputError("difference needs an adapt whose result is structured as the shared parameters") from error
        metrics = jax.tree.map(lambda m: m[-1] if len(m) else jnp.nan, fitted.metrics)
        loss = metrics.pop("loss")
        return Update(direction, num_real(task.support), loss, metrics, statistics(fitted.params))

    return task_fn


def gradient(loss: LossFn) -> TaskFn:
    """The plain gradient on a task's support set: FedSGD, joint training, pre-training."""

    def task_fn(params, task, key):
        trained, rest = partition(params)
        objective = lambda trained: loss(merge(trained, rest), task.support, key)  # noqa: E731
        (value, aux), direction = jax.value_and_grad(objective, has_aux=True)(trained)
        return Update(direction, num_real(task.support), value, aux.metrics, aux.statistics)

    return task_fn


def over_clients(
    init: Callable[[Key, Task], tuple[Params, Any]],
    client_fn: Callable[[Params, Any, Task, Key], tuple[Update, Any]],
    aggregator: Aggregator,
    optimizer: optax.GradientTransformation,
    *,
    num_clients: int,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
) -> Algorithm:
    """An outer loop over tasks that keep something of their own: a row of a table, found by `task.id`.

    `init(key, task) -> (shared, row)`; `client_fn(shared, row, task, key) -> (Update, row)`. Rows of absent clients
    (weight 0) stay as they were. Task k's key is the step's key folded with its id (its position where it has none),
    so nothing depends on the order of tasks or on the mapping.

    With `drop_nonfinite` a client whose update or new row holds a number that is not finite is absent in that round,
    and the metric `dropped` counts them. Otherwise such a number reaches the loss or the state, where `run` stops.

    Ids must be from 0 to `num_clients` - 1: the loss is NaN where one is not, and its row is nobody's; with 0 they are
    not looked at, for what keeps no rows. `InputError` says where there cannot be so many clients, and what
    `num_clients`, `aggregator` or `optimizer` cannot be.

    Metrics are means over the clients that are present; `per_task/loss` and `per_task/id`, both `[K]`, say whose each
    loss is, and `run` names the lowest id whose loss is not finite.

    Over a mesh (`sharded`) the K new rows go to every device that holds the table, or to the holder of each piece after
    `spread_state`.

    Where nobody is present the aggregate is zero, and the optimizer goes on with that: SGD stays, momentum moves on.
    The loss and the metrics of such a step are 0.
    """
    check_aggregator(aggregator)
    check_optimizer(optimizer)
    num_clients = whole("num_clients", num_clients, least=0)

    def start(key, batch):
        shared, row = init(key, jax.tree.map(lambda a: a[0], batch))
        shared, row = strong((shared, row))
        trained, _ = partition(shared)
        table = jax.tree.map(lambda a: jnp.repeat(a[None], num_clients, 0), row)
        return State(shared, optimizer.init(trained), aggregator.init(trained), table)

    def step(state, batch, key):
        shared, opt_state, aggregator_state, table = state
        count = num_rows(batch)
        ids = jnp.arange(count) if batch.id is None else batch.id
        if num_clients and count > num_clients:
            raise InputError(f"num_clients is {num_clients}, but there are {count} clients in one step")
        rows = jax.tree.map(lambda a: a[ids], table)
        client_key, each_key, finish_key = jax.random.split(key, 3)
        trained, rest = partition(shared)

        def one(common, inputs):
            shared, aggregator_state, client_key, each_key = common
            task, row, task_id = inputs
            update, new_row = client_fn(shared, row, task, jax.random.fold_in(client_key, task_id))
            dropped = None
            if drop_nonfinite:
                finite = _finite((update._replace(metrics={}), new_row))
                dropped = ~finite & (update.weight != 0)
                empty = jax.tree.map(jnp.zeros_like, update)._replace(metrics=update.metrics)
                update, new_row = select(finite, update, empty), select(finite, new_row, row)
            present = update.weight > 0
            # averaged in floating point, whatever the statistic's own type; an absent task contributes nothing
            seen = jax.tree.map(lambda s: jnp.where(present, s.astype(jnp.result_type(float)), 0), update.statistics)
            summand = direction = None
            if aggregator.each is None:
                direction = update.direction
            else:
                summand = aggregator.each(update, aggregator_state, jax.random.fold_in(each_key, task_id))
            # coefficients that come from losses alone need no look at directions, which stay where they are
            mine, others = (direction, None) if aggregator.linear else (None, direction)
            kept = (update.weight, update.loss, update.metrics, new_row, dropped, mine)
            return (summand, seen), kept, (update.weight, update.loss, others)

        (total, seen), (weights, losses, metrics, rows, dropped, mine), (all_weights, all_losses, others) = mapping(
            one, (shared, aggregator_state, client_key, each_key), (batch, rows, ids)
        )
        if aggregator.each is None:
            direction, aggregator_state = aggregator.update(
                mine if aggregator.linear else others,
                aggregator_state,
                trained,
                weights=all_weights,
                losses=all_losses,
                key=finish_key,
            )
        else:
            direction, aggregator_state = aggregator.finish(total, aggregator_state, trained, finish_key)
        present = weights > 0
        updates, opt_state = optimizer.update(direction, opt_state, trained)
        shared = merge(optax.apply_updates(trained, updates), with_statistics(rest, _average(seen, present, rest)))
        # an absent client's row is written nowhere, even where padding repeats a present client's id
        known = (ids >= 0) & (ids < num_clients)
        slots = jnp.where(present & known, ids, num_clients)
        table = jax.tree.map(lambda all_rows, new: all_rows.at[slots].set(new, mode="drop"), table, rows)
        report = _report(jnp.where(known, losses, jnp.nan) if num_clients else losses, metrics, present, ids)
        if drop_nonfinite:
            report["dropped"] = dropped.sum()
        return State(shared, opt_state, aggregator_state, table), report

    return Algorithm(start, step)


def over_tasks(
    init: Callable[[Key, Task], Params],
    task_fn: TaskFn,
    aggregator: Aggregator,
    optimizer: optax.GradientTransformation,
    *,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
) -> Algorithm:
    """An outer loop over a batch of tasks: `over_clients` with an empty row.

    Args:
      init: `(key, task) -> params`, usually `learner.init`.
      task_fn: `episodic(…)`, `difference(…)`, `gradient(…)` or your own `(params, task, key) -> Update`.
      aggregator: how the K updates become one: `mean()`, `weighted_mean()`, …
      optimizer: the outer (server) optimizer; it receives the aggregate as its gradient.
      mapping: how tasks are spread over time and devices; it changes speed and memory, never the numbers.
      drop_nonfinite: leave out a task whose update is not finite, and count it in the metric `dropped`.
    """
    return over_clients(
        lambda key, task: (init(key, task), ()),
        lambda shared, row, task, key: (task_fn(shared, task, key), row),
        aggregator,
        optimizer,
        num_clients=0,
        mapping=mapping,
        drop_nonfinite=drop_nonfinite,
    )


def along(state: Any) -> Params:
    """The trajectory `[T + 1, ...]` of a learner's state; `InputError` where it kept none."""
    path = getattr(state, "trajectory", None)
    if path is None:
        raise InputError("this needs the parameters after every inner step: build the learner with trajectory=True")
    return path


def evaluate(
    learner: Learner, criterion: Criterion, *, at: Sequence[int] | None = None, mapping: Mapping = auto
) -> Callable[..., Metrics]:
    """Builds `(params, tasks, key) -> Metrics`: query loss and metrics of every task after adaptation, `[K]`.

    Where the learner keeps its trajectory they are `[K, T + 1]`, after 0…T inner steps, or `[K, len(at)]` after the
    steps that `at` names. Nothing is averaged, so that methods compared on the same tasks can be compared in pairs. A
    task without a real query example has NaN.

    With a fourth argument, the `table` of `over_clients`, each task is learned from `(params, its row)`; where its id
    is beyond the table, all is NaN.

    Raises `InputError` where a task has no query, or `at` names a step that there is not.
    """

    def evaluate_tasks(params: Params, tasks: Task, key: Key, table: Any = None) -> Metrics:
        ids = jnp.arange(num_rows(tasks)) if tasks.id is None else tasks.id
        rows = jax.tree.map(lambda a: a[ids], table)

        if tasks.query is None:
            raise InputError("evaluate measures what was learned on task.query, which is None")

        def measure(state, task):
            return measured(criterion, learner.predict(state, task.query.x), task.query)

        def one(common, inputs):
            params, key = common
            task, row, task_id = inputs
            start = params if table is None else (params, row)
            state = learner.adapt(start, task.support, jax.random.fold_in(key, task_id))
            if at is None and getattr(state, "trajectory", None) is None:
                return (), measure(state, task), ()
            path = along(state)
            if at is not None:
                if not all(0 <= t < num_rows(path) for t in at):
                    raise InputError(f"at={list(at)} must name steps from 0 to {num_rows(path) - 1}")
                path = jax.tree.map(lambda a: a[jnp.asarray(at)], path)
            return (), jax.lax.map(lambda p: measure(state._replace(params=p, trajectory=None), task), path), ()

        found = mapping(one, (params, key), (tasks, rows, ids))[1]
        if not jax.tree.leaves(table):
            return found
        known = (ids >= 0) & (ids < num_rows(table))
        return jax.tree.map(lambda m: jnp.where(known.reshape(-1, *[1] * (m.ndim - 1)), m, jnp.nan), found)

    return evaluate_tasks


def _finite(tree):
    inexact = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in inexact]).all()


def _average(seen, present, rest):
    """Statistics averaged over present tasks, in the type they had; as they were where no task is present."""
    if seen is None:
        return None
    count = present.sum()

    def one(total, old):
        average = total / jnp.maximum(count, 1)
        average = jnp.round(average) if jnp.issubdtype(old.dtype, jnp.integer) else average
        return jnp.where(count > 0, average.astype(old.dtype), old)

    return jax.tree.map(one, seen, statistics(rest))


def _report(losses, metrics, present, ids):
    """Means over the tasks that are present, and of each whose loss it is."""
    count = jnp.maximum(present.sum(), 1)
    per_task = {"loss": losses, **metrics}
    averaged = {
        name: value if name.startswith("per_task/") else jnp.where(present, value, 0).sum() / count
        for name, value in per_task.items()
    }
    return averaged | {"per_task/loss": jnp.where(present, losses, 0), "per_task/id": ids}
