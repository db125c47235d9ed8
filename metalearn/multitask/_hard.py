"""Hard sharing: one trunk, a head for each task (Caruana 1997)."""

from collections.abc import Mapping

import jax

from metalearn.arguments import check_models
from metalearn.core import Model
from metalearn.multitask.sharing import Sharing, keys_for


def hard(trunk: Model, heads: Mapping[str, Model]) -> Sharing:
    """Every head sees the trunk's outputs. Raises `InputError` where one of them is no `Model`.

    >>> from metalearn.nets import MLP, from_linen
    >>> model = hard(from_linen(MLP([64, 32])), {"digit": from_linen(MLP([10])), "parity": from_linen(MLP([2]))})
    """

    check_models(trunk, *heads.values())

    def init(key, x):
        trunk_key, heads_key = jax.random.split(key)
        shared = trunk.init(trunk_key, x)
        features = trunk.apply(shared, x)
        keys = keys_for(heads_key, heads)
        return {"shared": shared, "tasks": {name: head.init(keys[name], features) for name, head in heads.items()}}

    def head_of(head):
        return lambda own, features, x, key=None: head.apply(own, features, key)

    return Sharing(init, trunk.apply, {name: head_of(head) for name, head in heads.items()}, trunk.train)
