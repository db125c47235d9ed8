"""Images grouped by class, and splits of their classes."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.arguments import whole
from metalearn.core import InputError


class ClassImages(NamedTuple):
    """Grey images grouped by class, on the host.

    `images`: `[C, M, H, W]`, uint8 in 0…255 or floating point, ink (or whatever matters) high. `counts`: `[C]`, how
    many of the M are real (the first ones), or None if all are. `group`: `[C]` integers, such as the alphabet of a
    character, or None. `names`: one a class, or None.
    """

    images: np.ndarray
    counts: np.ndarray | None = None
    group: np.ndarray | None = None
    names: tuple[str, ...] | None = None


class Splits(NamedTuple):
    """Classes for training, for choosing a checkpoint, and for the final test; no class is in two of them."""

    train: ClassImages
    validation: ClassImages
    test: ClassImages


def check_images(images: ClassImages) -> None:
    """Raises `InputError` if the parts of a `ClassImages` do not fit each other."""
    shape, dtype = np.shape(images.images), images.images.dtype
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"images.images must be [classes, images, height, width], none of them 0, but is {shape}.")
    if dtype != np.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"images.images must be uint8 or floating point, but is {dtype}.")
    if dtype != np.uint8 and not np.isfinite(images.images).all():
        raise InputError("images.images must be finite, but has values that are not.")
    for name in ("counts", "group", "names"):
        value = getattr(images, name)
        if value is not None and np.shape(value) != shape[:1]:
            raise InputError(
                f"images.{name} must have one entry for each of the {shape[0]} classes, "
                f"but has shape {np.shape(value)}."
            )
    if images.counts is not None and (np.min(images.counts) < 1 or np.max(images.counts) > shape[1]):
        raise InputError(
            f"images.counts must be between 1 and {shape[1]}, but goes from {np.min(images.counts)} "
            f"to {np.max(images.counts)}."
        )


def select_classes(images: ClassImages, index) -> ClassImages:
    """Returns the classes at `index`, a sequence of integers, in that order."""
    index = np.asarray(index)
    return ClassImages(
        images.images[index],
        None if images.counts is None else np.asarray(images.counts)[index],
        None if images.group is None else np.asarray(images.group)[index],
        None if images.names is None else tuple(images.names[i] for i in index),
    )


def split_classes(images: ClassImages, sizes: Sequence[int], seed: int = 0) -> tuple[ClassImages, ...]:
    """Returns one `ClassImages` for each of `sizes`: classes permuted by `seed` and cut, so no class is in two parts.

    The permutation is that of `np.random.RandomState`, whose stream never changes between versions. Classes beyond
    `sum(sizes)` are left out. Raises `InputError` if a size is not a positive integer or there are too few classes.
    """
    sizes = [whole("sizes", size) for size in sizes]
    num_classes = images.images.shape[0]
    if sum(sizes) > num_classes:
        raise InputError(
            f"sizes must add up to at most the {num_classes} classes that there are, "
            f"but {sizes} adds up to {sum(sizes)}."
        )
    order = np.random.RandomState(seed).permutation(num_classes)[: sum(sizes)]
    return tuple(select_classes(images, part) for part in np.split(order, np.cumsum(sizes)[:-1]))


def to_float(x: jax.Array) -> jax.Array:
    """Returns images as float32; uint8 is scaled from 0…255 to [0, 1]."""
    # A product and not a quotient: the compiler may turn a division by a constant into one, and jit would then differ.
    return x.astype(jnp.float32) * np.float32(1 / 255) if x.dtype == jnp.uint8 else x.astype(jnp.float32)


def rotate(x: jax.Array, quarters: jax.Array) -> jax.Array:
    """Returns square images `x` `[..., H, H]` turned counterclockwise, `quarters` `[...]` times, as `np.rot90` does."""
    quarters = quarters[..., None, None]
    x = jnp.where(quarters % 2 == 1, jnp.rot90(x, axes=(-2, -1)), x)
    return jnp.where(quarters >= 2, jnp.flip(x, (-2, -1)), x)
