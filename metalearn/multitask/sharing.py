"""A model for several tasks: what is shared, what is a task's own, and the losses that it has."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.core import Aux, Batch, Criterion, InputError, Key, Metrics, Params
from metalearn.losses import num_of_each
from metalearn.metrics import measured
from metalearn.tree import statistics


class Sharing(NamedTuple):
    """A model for K tasks, by name.

    `init(key, x) -> {"shared": …, "tasks": {name: own}}`; `trunk(shared, x, key=None) -> features`, any tree;
    `heads[name](own, features, x, key=None) -> outputs`. No key means evaluation. `train(shared, x, key) -> (features,
    statistics)` exists where the trunk keeps running statistics.
    """

    init: Callable[[Key, Any], Params]
    trunk: Callable[..., Any]
    heads: Mapping[str, Callable[..., Any]]
    train: Callable[[Params, Any, Key], tuple[Any, Any]] | None = None


def predict(model: Sharing) -> Callable[[Params, Any], dict[str, Any]]:
    """`(params, x) -> {task: outputs}`, in evaluation."""

    def outputs(params, x):
        features = model.trunk(params["shared"], x)
        return {name: head(params["tasks"][name], features, x) for name, head in model.heads.items()}

    return outputs


def losses(
    model: Sharing, criteria: Mapping[str, Criterion]
) -> tuple[Callable[[Key, Batch], Params], Callable, dict[str, Callable]]:
    """`(init, trunk, heads)` for `over_losses`: `over_losses(*losses(model, criteria), aggregator, optimizer)`.

    `batch.y` is `{task: targets}`; `batch.mask` is None, `[n]`, or `[K, n]` in the order of `criteria`: which examples
    have a target of which task. Raises `InputError` where the tasks of model, criteria and targets differ.
    """
    if set(criteria) != set(model.heads):
        raise InputError(f"the model has the tasks {sorted(model.heads)}, but the criteria are for {sorted(criteria)}")
    names = list(criteria)

    def trunk(shared, batch, key):
        if model.train is None:
            return model.trunk(shared, batch.x, key), None
        return model.train(shared, batch.x, key)

    def head(name):
        def loss(own, features, batch, key):
            outputs = model.heads[name](own, features, batch.x, key)
            value, metrics = criteria[name](outputs, _of_task(batch, names, name))
            return value, Aux(metrics)

        return loss

    def init(key, batch):
        params = model.init(key, batch.x)
        unkept = params["tasks"] if model.train is not None else params
        if jax.tree.leaves(statistics(unkept)):
            raise InputError(
                "running statistics would never be updated here: only the trunk of hard sharing may keep them; "
                "use a norm without any, such as layer normalisation"
            )
        return params

    return init, trunk, {name: head(name) for name in names}


def measure(model: Sharing, criteria: Mapping[str, Criterion]) -> Callable[[Params, Batch], Metrics]:
    """`(params, batch) -> {"task/loss": …, "task/metric": …}`, in evaluation; NaN of a task without an example."""
    names = list(criteria)

    def of_all(params, batch):
        return {
            f"{name}/{key}": value
            for name, outputs in predict(model)(params, batch.x).items()
            for key, value in measured(criteria[name], outputs, _of_task(batch, names, name)).items()
        }

    return of_all


def _of_task(batch, names, name):
    if not isinstance(batch.y, Mapping) or set(batch.y) != set(names):
        found = sorted(batch.y) if isinstance(batch.y, Mapping) else type(batch.y).__name__
        raise InputError(f"targets must be a dictionary with the tasks {sorted(names)}, but are {found}")
    num_of_each(batch, len(names))  # refuses a mask that does not fit
    mask, y = batch.mask, batch.y[name]
    if mask is not None and mask.ndim == 2:
        mask = mask[names.index(name)]
    if mask is not None:  # what is missing may be NaN, which no factor of 0 would take out of a gradient
        y = jax.tree.map(lambda a: jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)) > 0, a, jnp.zeros_like(a)), y)
    return Batch(batch.x, y, mask)


def keys_for(key: Key | None, names: Any) -> dict[str, Any]:
    """A key for each name, or None for each in evaluation."""
    if key is None:
        return dict.fromkeys(names)
    return dict(zip(names, jax.random.split(key, len(names))))
