"""Linen modules as models."""

import dataclasses
import inspect

import jax
from flax import linen as nn
from flax.errors import ScopeParamShapeError

from metalearn.core import InputError, Model, Statistic
from metalearn.nets._conv import general

# What modules call the argument that says whether this is training, and what it is in training.
_MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


def from_linen(module: nn.Module) -> Model:
    """A Linen module as a `Model`.

    `params` is the module's whole variable dict, `{"params": {…}, "batch_stats": {…}, …}`; every leaf outside
    "params" is a `Statistic`. Evaluation and training are told apart by whichever of the arguments `train`,
    `training`, `is_training`, `deterministic`, `use_running_average` the module's `__call__` has, unless the module
    was given it when it was made; a module with none of them is called with `x` alone. A key goes to the random
    stream "dropout".

    On a CPU a Flax convolution that has no function of its own is done by `nets.conv`, which stays fast when each task
    has its own weights and inside loops; the numbers are the same, up to rounding.

    `train` is always there: whether a module keeps statistics shows only when it is initialised. Where it keeps none,
    the statistics have no leaves.

    `apply` and `train` raise `InputError` where `x` does not fit the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from metalearn.nets import MLP
      >>> model = from_linen(MLP([40, 40, 1]))
      >>> params = model.init(jax.random.key(0), jnp.zeros((1, 1)))
      >>> model.apply(params, jnp.zeros((7, 1))).shape
      (7, 1)
    """
    arguments = inspect.signature(type(module).__call__).parameters
    # A Flax layer takes its mode at construction or in the call, never both.
    given = {field.name for field in dataclasses.fields(module) if getattr(module, field.name) is not None}
    modes = {name: value for name, value in _MODES.items() if name in arguments and name not in given}

    def init(key, x):
        # The same parameters as module.init(key, x), with a second stream for what is random in its first call.
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        with nn.intercept_methods(_convolve):
            return _wrap(module.init(rngs, x, **_mode(modes, False)))

    def train(params, x, key):
        outputs, changed = _call(params, x, True, {"dropout": key})
        nothing = jax.tree.map(lambda _: None, params, is_leaf=_is_statistic)
        return outputs, {**nothing, **_wrap(changed)}

    def apply(params, x, key=None):
        if key is None:
            return _call(params, x, False, {})[0]
        return _call(params, x, True, {"dropout": key})[0]

    def _call(params, x, training, rngs):
        variables = jax.tree.map(
            lambda leaf: leaf.value if _is_statistic(leaf) else leaf, params, is_leaf=_is_statistic
        )
        kept = [name for name in variables if name != "params"]
        try:
            with nn.intercept_methods(_convolve):
                return module.apply(variables, x, **_mode(modes, training), rngs=rngs, mutable=kept)
        except ScopeParamShapeError as error:
            shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(x))
            reason = str(error).split(" (http")[0].removesuffix(".")
            raise InputError(f"x of shape {shapes} does not fit the model's parameters: {reason}.") from None

    return Model(init, apply, train)


def _convolve(call, arguments, options, context):
    layer = context.module
    if isinstance(layer, nn.Conv) and layer.conv_general_dilated is None and layer.conv_general_dilated_cls is None:
        object.__setattr__(layer, "conv_general_dilated_cls", lambda: general)  # of this call's copy of the layer
    return call(*arguments, **options)


def _mode(modes, training):
    return {name: value == training for name, value in modes.items()}


def _wrap(variables):
    return {name: tree if name == "params" else jax.tree.map(Statistic, tree) for name, tree in variables.items()}


def _is_statistic(leaf):
    return isinstance(leaf, Statistic)
