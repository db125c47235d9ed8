"""Soft layer ordering (Meyerson, Miikkulainen 2018, arXiv 1711.00108)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models, whole
from metalearn.core import InputError, Model
from metalearn.multitask.sharing import Sharing, keys_for


def layer_ordering(encoder: Model, layer: Model, depth: int, heads: Mapping[str, Model]) -> Sharing:
    """`depth` shared layers of one shape, which every task applies in an order of its own, learned softly:

    x ← Σ_j softmax_j(s_kl) φ_j(x) for l = 1 … depth. The encoder before them is shared; s_k `[depth, depth]`, beginning
    at 0, and the head are a task's own.

    Nothing is computed once for all tasks but the encoder's outputs, so the trunk hands the layers' parameters on.
    `InputError` where `depth` is below 1 or a layer changes the shape of what goes through it.
    """
    check_models(encoder, layer, *heads.values())
    depth = whole("depth", depth)

    def init(key, x):
        encoder_key, layers_key, heads_key = jax.random.split(key, 3)
        encoder_params = encoder.init(encoder_key, x)
        entering = encoder.apply(encoder_params, x)
        layers = jax.vmap(layer.init, (0, None))(jax.random.split(layers_key, depth), entering)
        leaving = jax.eval_shape(lambda p, x: layer.apply(jax.tree.map(lambda a: a[0], p), x), layers, entering)
        if leaving.shape != entering.shape:
            raise InputError(
                f"layers in any order must keep the shape of what they get, {entering.shape}, but give {leaving.shape}"
            )
        order, keys = jnp.zeros((depth, depth), jnp.result_type(float)), keys_for(heads_key, heads)
        leaving = through(layers, order, entering, None)
        own = {name: {"order": order, "head": head.init(keys[name], leaving)} for name, head in heads.items()}
        return {"shared": {"encoder": encoder_params, "layers": layers}, "tasks": own}

    def through(layers, order, x, key):
        for step in range(depth):
            if key is None:
                every = jax.vmap(layer.apply, (0, None))(layers, x)
            else:
                keys = jax.random.split(jax.random.fold_in(key, step), depth)
                every = jax.vmap(layer.apply, (0, None, 0))(layers, x, keys)
            x = jnp.tensordot(jax.nn.softmax(order[step]), every, 1)
        return x

    def trunk(shared, x, key=None):
        return {"entering": encoder.apply(shared["encoder"], x, key), "layers": shared["layers"]}

    def head_of(head):
        def outputs(own, features, x, key=None):
            layers_key, head_key = (None, None) if key is None else jax.random.split(key)
            leaving = through(features["layers"], own["order"], features["entering"], layers_key)
            return head.apply(own["head"], leaving, head_key)

        return outputs

    return Sharing(init, trunk, {name: head_of(head) for name, head in heads.items()})
