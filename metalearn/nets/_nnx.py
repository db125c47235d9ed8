"""NNX modules as models."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from metalearn.core import InputError, Model, Statistic
from metalearn.nets._conv import general

if TYPE_CHECKING:
    from flax import nnx


def from_nnx(factory: Callable[["nnx.Rngs"], Any]) -> Model:
    """An NNX module as a `Model`, from a function that makes it: `from_nnx(lambda rngs: MyNet(rngs=rngs))`.

    `params` is a nested dict of arrays by attribute name (layers in a list by number); what is not an `nnx.Param`,
    such as running averages, is a `Statistic`, and random states are left out. `init(key, x)` ignores `x` and gives
    the parameters of `factory(nnx.Rngs(key))`. Evaluation is after `module.eval()`, training after `module.train()`
    with fresh random streams from the key. Modules whose `__call__` takes `rngs` are given them. `train` is None where
    the module keeps no statistics. Convolutions are done as `from_linen` does them.

    Raises `InputError` where a module is passed in place of a function that makes one.
    """
    from flax import nnx  # here, because it takes time and few need it

    if isinstance(factory, nnx.Module):
        raise InputError("from_nnx takes a function of rngs that makes a module, but got the module itself.")
    template = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
    for _, layer in nnx.iter_graph(template):
        if isinstance(layer, nnx.Conv) and layer.conv_general_dilated is jax.lax.conv_general_dilated:
            layer.conv_general_dilated = general
    left_out = (nnx.RngState, nnx.Intermediate)  # random streams begin anew at every call, what is sown is dropped
    graph, random, kept = nnx.split(template, left_out, ...)
    takes_rngs = "rngs" in inspect.signature(type(template).__call__).parameters
    trained = nnx.to_pure_dict(kept, lambda leaf: jax.tree.map(lambda _: isinstance(leaf, nnx.Param), _value(leaf)))

    def init(key, x):
        del x
        return _wrap(factory(nnx.Rngs(key)))

    def _wrap(module):
        values = nnx.to_pure_dict(nnx.split(module, left_out, ...)[2])
        return jax.tree.map(lambda is_trained, value: value if is_trained else Statistic(value), trained, values)

    def _call(params, x, key):
        # A Statistic holds one leaf, and states and dicts are both flattened by sorted keys.
        state = jax.tree.unflatten(jax.tree.structure(kept), jax.tree.leaves(params))
        module = nnx.merge(graph, _reseed(random, jax.random.key(0) if key is None else key), state)
        (module.eval if key is None else module.train)()
        if not takes_rngs:
            return module(x), module
        return module(x, rngs=None if key is None else nnx.Rngs(jax.random.fold_in(key, 0))), module

    def apply(params, x, key=None):
        return _call(params, x, key)[0]

    def train(params, x, key):
        outputs, module = _call(params, x, key)
        statistics = jax.tree.map(lambda is_trained, leaf: None if is_trained else leaf, trained, _wrap(module))
        return outputs, statistics

    return Model(init, apply, None if all(jax.tree.leaves(trained)) else train)


def _value(variable):
    return variable.get_value() if hasattr(variable, "get_value") else variable.value


def _reseed(random, key):
    leaves, structure = jax.tree.flatten(random)

    def seeded(i, leaf):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        stream = jax.random.fold_in(key, i + 1)
        return jax.random.split(stream, leaf.shape) if leaf.shape else stream

    return jax.tree.unflatten(structure, [seeded(i, leaf) for i, leaf in enumerate(leaves)])
