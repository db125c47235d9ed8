"""Sluice networks (Ruder, Bingel, Augenstein, Søgaard 2019, arXiv 1705.08142)."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models, number, whole
from metalearn.core import InputError, Model, Params
from metalearn.multitask._columns import columns_of, init_columns, run_column
from metalearn.multitask.sharing import Sharing, keys_for
from metalearn.tree import path_name


def sluice(
    layers: Sequence[Model], heads: Mapping[str, Model], *, subspaces: int = 2, own: float | jax.Array = 0.9
) -> Sharing:
    """Cross-stitch with each layer's channels in `subspaces`, and a mixture of all layers' outputs for the head.

    α `[K·G, K·G]` mixes the subspaces of all tasks after every layer, beginning at `own` for a subspace itself and even
    for the others; β `[K, L]`, beginning even, mixes the layers' outputs, which need one shape. `orthogonal` is the
    penalty that keeps subspaces apart. All of it is shared but the heads.

    Raises `InputError` where layers differ in shape or `subspaces` does not divide their channels.
    """
    check_models(*layers, *heads.values())
    number("own", own, least=0, most=1)
    subspaces = whole("subspaces", subspaces)
    count = len(heads)
    size = count * subspaces
    others = (1 - own) / max(size - 1, 1)
    mixing = jnp.where(jnp.eye(size, dtype=bool), own if size > 1 else 1.0, others)

    def init(key, x):
        columns_key, heads_key = jax.random.split(key)
        columns, shapes = init_columns(layers, count, columns_key, x)
        if len(set(shapes)) != 1 or shapes[0][-1] % subspaces:
            raise InputError(
                f"sluice needs layers of one shape, whose channels {subspaces} subspaces divide, but they give {shapes}"
            )
        shared = {
            "columns": columns,
            "stitches": [mixing for _ in layers],
            "skips": jnp.full((count, len(layers)), 1 / len(layers)),
        }
        features, keys = trunk(shared, x), keys_for(heads_key, heads)
        own_params = {name: head.init(keys[name], features[k]) for k, (name, head) in enumerate(heads.items())}
        return {"shared": shared, "tasks": own_params}

    def trunk(shared, x, key=None):
        x, outputs = columns_of(x, count), []
        for i, (layer, params, stitch) in enumerate(zip(layers, shared["columns"], shared["stitches"])):
            x = run_column(layer, params, x, key, i)
            parts = x.reshape(*x.shape[:-1], subspaces, -1)
            stitch = stitch.reshape(count, subspaces, count, subspaces)
            x = jnp.einsum("kgjh,j...hc->k...gc", stitch, parts).reshape(x.shape)
            outputs.append(x)
        return jnp.einsum("kl,lk...->k...", shared["skips"], jnp.stack(outputs))

    def head_of(k, head):
        return lambda own, features, x, key=None: head.apply(own, features[k], key)

    return Sharing(init, trunk, {name: head_of(k, head) for k, (name, head) in enumerate(heads.items())})


def orthogonal(strength: float | jax.Array) -> Callable[[Params], jax.Array]:
    """strength · Σ ‖G_1ᵀ G_2‖² over pairs of subspaces of every kernel in a sluice network's columns, a `regulariser`
    of `over_losses`. Raises `InputError` where there is no kernel."""

    def value(params):
        stitches = params["shared"]["stitches"][0]  # [K·G, K·G]
        total, found = jnp.zeros(()), False
        for path, leaf in jax.tree_util.tree_leaves_with_path(params["shared"]["columns"]):
            if not path_name(path).endswith("kernel"):
                continue
            subspaces = len(stitches) // len(leaf)
            parts = leaf.reshape(leaf.shape[0], -1, subspaces, leaf.shape[-1] // subspaces)
            inner = jnp.einsum("kdgc,kdhe->kghce", parts, parts)
            apart = 1 - jnp.eye(subspaces).reshape(1, subspaces, subspaces, 1, 1)
            total, found = total + 0.5 * jnp.sum(apart * inner**2), True
        if not found:
            raise InputError("orthogonal holds apart what is called kernel, and no parameter of a column is")
        return strength * total

    return value
