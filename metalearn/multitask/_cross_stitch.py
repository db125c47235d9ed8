"""Cross-stitch networks (Misra, Shrivastava, Gupta, Hebert 2016, arXiv 1604.03539)."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models, number
from metalearn.core import Model
from metalearn.multitask._columns import columns_of, init_columns, run_column
from metalearn.multitask.sharing import Sharing, keys_for


def cross_stitch(
    layers: Sequence[Model], heads: Mapping[str, Model], *, own: float | jax.Array = 0.9, by_channel: bool = False
) -> Sharing:
    """A column of `layers` for each task; after every layer each column goes on with a mixture of all:
    x_k ← Σ_j α_kj x_j.

    α `[K, K]` (`[K, K, C]` with `by_channel`) begins at `own` for a column's own activations and shares the rest
    evenly. The columns are mapped over tasks, so that they cost one batched product a layer. All of it is shared: every
    loss reaches every column.

    Raises `InputError` where `own` is not within [0, 1].
    """
    check_models(*layers, *heads.values())
    number("own", own, least=0, most=1)
    count = len(heads)
    others = (1 - own) / max(count - 1, 1)
    mixing = jnp.where(jnp.eye(count, dtype=bool), own if count > 1 else 1.0, others)

    def init(key, x):
        columns_key, heads_key = jax.random.split(key)
        columns, shapes = init_columns(layers, count, columns_key, x)
        stitches = [jnp.repeat(mixing[..., None], shape[-1], -1) if by_channel else mixing for shape in shapes]
        shared = {"columns": columns, "stitches": stitches}
        features, keys = trunk(shared, x), keys_for(heads_key, heads)
        own_params = {name: head.init(keys[name], features[k]) for k, (name, head) in enumerate(heads.items())}
        return {"shared": shared, "tasks": own_params}

    def trunk(shared, x, key=None):
        x = columns_of(x, count)
        for i, (layer, params, stitch) in enumerate(zip(layers, shared["columns"], shared["stitches"])):
            x = run_column(layer, params, x, key, i)
            x = jnp.einsum("kjc,j...c->k...c", stitch, x) if by_channel else jnp.tensordot(stitch, x, 1)
        return x

    def head_of(k, head):
        return lambda own, features, x, key=None: head.apply(own, features[k], key)

    return Sharing(init, trunk, {name: head_of(k, head) for k, (name, head) in enumerate(heads.items())})
