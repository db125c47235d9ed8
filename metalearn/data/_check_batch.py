"""A user's own examples, checked before they reach a model."""

import jax.numpy as jnp
import numpy as np

from metalearn.core import Batch, InputError


def check_batch(
    x, y=None, num_ways: int | None = None, like=None, *, every_class: bool = True, name: str = "support"
) -> Batch:
    """Returns `Batch(x, y)` of arrays from outside, or says in one sentence why they cannot be used.

    `x`: `[n, ...]`. With `num_ways`, `y` is `[n]` integers in 0…num_ways - 1, returned as int32, and with
    `every_class` each label has at least one example. Without, `y` is `[n, ...]` numbers. `like`: a batch `[m, ...]`
    (or `jax.ShapeDtypeStruct`) of what the model was trained with, whose examples have the shape that these must have.
    `name` is what the messages call the batch. For the host, not for jit.

    Raises `InputError` if the batch is empty, ragged, not numbers, or not finite; if x and y differ in length; if
    labels are missing, not integers, out of range, or not all there; if shapes do not fit; or if x are integers where
    the model saw floats, which are pixels that were not scaled.

    >>> check_batch(np.zeros((2, 28, 28, 1), np.float32), [0, 1], num_ways=2).y.tolist()
    [0, 1]
    """
    x = _numbers(f"{name} x", x)
    if x.ndim == 0 or len(x) == 0:
        raise InputError(f"{name} x must have at least one example, but its shape is {x.shape}.")
    if like is not None:
        if x.shape[1:] != tuple(like.shape[1:]):
            raise InputError(
                f"{name} x must hold examples of shape {tuple(like.shape[1:])}, as the model was trained "
                f"with, but their shape is {x.shape[1:]}."
            )
        if jnp.issubdtype(like.dtype, jnp.floating) and not np.issubdtype(x.dtype, np.floating):
            raise InputError(
                f"{name} x must be floating point, scaled like the data that the model was trained with "
                f"(pixels to [0, 1]), but is {x.dtype}."
            )
    if y is None:
        if num_ways is not None:
            raise InputError(f"{name} y must be the labels of the {len(x)} examples, but there are none.")
        return Batch(jnp.asarray(x))
    y = _numbers(f"{name} y", y)
    if y.ndim == 0 or len(y) != len(x):
        raise InputError(
            f"{name} y must have one entry for each of the {len(x)} examples of x, but its shape is {y.shape}."
        )
    if num_ways is None:
        return Batch(jnp.asarray(x), jnp.asarray(y))
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"{name} y must be integer labels of shape ({len(x)},), but is {y.dtype} of shape {y.shape}.")
    if y.min() < 0 or y.max() >= num_ways:
        raise InputError(f"{name} y must be labels from 0 to {num_ways - 1}, but they go from {y.min()} to {y.max()}.")
    absent = np.flatnonzero(np.bincount(y, minlength=num_ways) == 0).tolist()
    if every_class and absent:
        raise InputError(
            f"{name} y must have at least one example of each of the {num_ways} classes, but has none of {absent}."
        )
    return Batch(jnp.asarray(x), jnp.asarray(y, jnp.int32))


def _numbers(name: str, value) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise InputError(f"{name} must be an array, but its parts differ in shape.") from error
    if not (np.issubdtype(array.dtype, np.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        raise InputError(f"{name} must be numbers, but is {array.dtype}.")
    if not np.isfinite(array).all():
        raise InputError(
            f"{name} must be finite, but {int((~np.isfinite(array)).sum())} of its {array.size} numbers are not."
        )
    return array
