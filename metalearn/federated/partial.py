"""Part of the model is shared, and part stays with the client."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from metalearn.arguments import pattern
from metalearn.core import Aggregator, Criterion, InputError, Model, Statistic
from metalearn.federated.client import BY_EXAMPLES, PLAIN, Federated, moved, proposal, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_clients
from metalearn.tree import merge, path_name


def partial(
    model: Model,
    criterion: Criterion,
    own: str,
    phases: list[tuple[optax.GradientTransformation, str | None, dict]],
    *,
    num_clients: int,
    server: optax.GradientTransformation = PLAIN,
    aggregator: Aggregator = BY_EXAMPLES,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """A federated algorithm whose clients keep the leaves that `own` matches, and train them in `phases`: a list of
    (optimizer, `where`, what differs from the options of `inner.fit`).

    Raises `InputError` where `own` matches no parameter or every one, or `where` is given.
    """
    if "where" in options:
        raise InputError(f"where={options['where']!r} cannot be given: own={own!r} says what is trained by whom")
    loss = supervised(model, criterion)
    learns: list[Callable] = [
        fit(loss, optimizer, where=where, **(options | other)) for optimizer, where, other in phases
    ]

    def init(key, task):
        row, shared = split(model.init(key, task.support.x), own)
        return shared, row

    def client(shared, row, task, key):
        params, fitted = merge(row, shared), None
        for learn in learns:  # with one key: who is late in one phase is late in all
            fitted = learn(params, task.support, key)
            params = fitted.params
        mine, common = split(params, own)
        return proposal(moved(shared, common), task.support, fitted, common), mine

    algorithm = over_clients(
        init, client, aggregator, server, num_clients=num_clients, mapping=mapping, drop_nonfinite=drop_nonfinite
    )
    return Federated(*algorithm, using(model, lambda shared, row, support, key: merge(row, shared)))


def split(params: Any, own: str) -> tuple[Any, Any]:
    """(what stays with a client, what is shared): unlike `tree.partition`, statistics go with the layer they are of."""
    is_leaf = lambda leaf: isinstance(leaf, Statistic)  # noqa: E731
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_leaf)
    mine_is = pattern("own", own)
    stays = [bool(mine_is.search(path_name(path))) for path, _ in leaves]
    if not any(stays) or all(stays):
        which = "no" if not any(stays) else "every"
        shown = ", ".join(path_name(path) for path, _ in leaves[:8])
        raise InputError(f"own={own!r} matches {which} parameter; the paths are {shown}")
    mine = jax.tree.unflatten(treedef, [leaf if s else None for s, (_, leaf) in zip(stays, leaves, strict=True)])
    return mine, jax.tree.unflatten(treedef, [None if s else leaf for s, (_, leaf) in zip(stays, leaves, strict=True)])
