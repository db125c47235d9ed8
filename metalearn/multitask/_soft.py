"""Soft sharing: a network for each task, held near each other (Duong, Cohn, Bird, Cook 2015; Yang, Hospedales 2017,
arXiv 1606.04038)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models
from metalearn.core import InputError, Model, Params
from metalearn.multitask.sharing import Sharing, keys_for
from metalearn.tree import partition


def soft(models: Mapping[str, Model]) -> Sharing:
    """Nothing is shared; what holds the networks together is a `regulariser` of `over_losses`: `near` or `low_rank`."""
    check_models(*models.values())

    def init(key, x):
        keys = keys_for(key, models)
        return {"shared": {}, "tasks": {name: model.init(keys[name], x) for name, model in models.items()}}

    def head_of(model):
        return lambda own, features, x, key=None: model.apply(own, x, key)

    return Sharing(init, lambda shared, x, key=None: (), {name: head_of(model) for name, model in models.items()})


def near(strength: float | jax.Array, where: str | None = None) -> Callable[[Params], jax.Array]:
    """strength · Σ_k ‖θ_k - θ̄‖², over the leaves that `where` names; they need one shape in every task.

    Raises `InputError` where they have not.
    """

    def value(params):
        return strength * sum(jnp.sum((stack - stack.mean(0, keepdims=True)) ** 2) for stack in _stacks(params, where))

    return value


def low_rank(strength: float | jax.Array, where: str | None = None) -> Callable[[Params], jax.Array]:
    """strength · Σ_leaves ‖[vec θ_1 … vec θ_K]‖_*, the trace norm of each leaf stacked over tasks.

    From the K×K Gramian: Σ √λ, with a small number under the root, where the trace norm has no derivative.

    Raises `InputError` where leaves differ in shape.
    """

    def value(params):
        total = jnp.zeros(())
        for stack in _stacks(params, where):
            flat = stack.reshape(len(stack), -1)
            values = jnp.linalg.eigvalsh(flat @ flat.T)
            tiny = jnp.finfo(values.dtype).eps * jnp.maximum(jax.lax.stop_gradient(values).max(), 1e-12)
            total = total + jnp.sqrt(jnp.maximum(values, 0) + tiny).sum()
        return strength * total

    return value


def _stacks(params, where):
    leaves = [jax.tree_util.tree_leaves(partition(own, where)[0]) for own in params["tasks"].values()]
    if len({tuple(leaf.shape for leaf in one) for one in leaves}) != 1:
        raise InputError(
            "soft sharing needs networks with the same parameters in every task; name common ones by where"
        )
    return [jnp.stack(leaf) for leaf in zip(*leaves)]
