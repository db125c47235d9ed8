"""A hypernetwork that writes every task's weights from an embedding (Ha, Dai, Le 2017, arXiv 1609.09106; von Oswald,
Henning, Grewe, Sacramento 2020, arXiv 1906.00695)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models
from metalearn.core import InputError, Model
from metalearn.multitask.sharing import Sharing, keys_for


def hypernetwork(
    network: Model,
    writer: Callable[[int], Model],
    embedding_size: int,
    heads: Mapping[str, Model],
    *,
    scale: float = 0.1,
) -> Sharing:
    """Task k's network has the parameters θ + `scale` · w(e_k), where the `writer` w maps an embedding `[1, m]` to as
    many numbers `[1, P]` as the network has; `writer` is a function from that number to a model, such as
    `lambda size: from_linen(MLP([32, size]))`.

    Shared: θ and the writer. A task's own: its embedding e_k, standard normal at first, and its head.

    Raises `InputError` where the writer gives another number of them.
    """
    check_models(network, *heads.values())

    def parts(params):
        leaves, structure = jax.tree.flatten(params)
        return leaves, structure, sum(leaf.size for leaf in leaves)

    def written(shared, embedding):
        leaves, structure, size = parts(shared["base"])
        numbers = scale * writer(size).apply(shared["writer"], embedding[None])[0]
        if numbers.shape != (size,):
            raise InputError(f"the writer must give the {size} numbers of a network, but gives {list(numbers.shape)}")
        cut, at = [], 0
        for leaf in leaves:
            cut.append(leaf + numbers[at : at + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
            at += leaf.size
        return jax.tree.unflatten(structure, cut)

    def init(key, x):
        base_key, writer_key, embedding_key, heads_key = jax.random.split(key, 4)
        base = network.init(base_key, x)
        shared = {"base": base, "writer": writer(parts(base)[2]).init(writer_key, jnp.zeros((1, embedding_size)))}
        embedding_keys, keys, own = keys_for(embedding_key, heads), keys_for(heads_key, heads), {}
        for name, head in heads.items():
            embedding = jax.random.normal(embedding_keys[name], (embedding_size,))
            features = network.apply(written(shared, embedding), x)
            own[name] = {"embedding": embedding, "head": head.init(keys[name], features)}
        return {"shared": shared, "tasks": own}

    def head_of(head):
        def outputs(own, features, x, key=None):
            network_key, head_key = (None, None) if key is None else jax.random.split(key)
            inner = network.apply(written(features, own["embedding"]), x, network_key)
            return head.apply(own["head"], inner, head_key)

        return outputs

    # no features are common to all tasks: the trunk hands its parameters on
    return Sharing(init, lambda shared, x, key=None: shared, {name: head_of(head) for name, head in heads.items()})
