"""Single images with the labels of the whole data set, to train an ordinary classifier."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from metalearn.arguments import whole
from metalearn.core import Batch, InputError, Key, Task
from metalearn.data.images import ClassImages, check_images, rotate, to_float


def examples(images: ClassImages, batch_size: int, *, rotations: bool = False):
    """Returns `sample(key) -> Task` with a support set of images drawn from all classes, and no query.

    `support.x` is `[batch_size, H, W, 1]`, float32 (uint8 scaled to [0, 1]); `support.y` is int32 in 0…C - 1, the row
    of `images`, or in 0…4C - 1 with `rotations`, where class c turned by 90 q degrees is q C + c. Every image has the
    same chance, independently of the others in the batch. Like that of `few_shot`, `sample` is a
    `jax.tree_util.Partial` and runs inside jit.

    Raises `InputError` if `batch_size` is not a positive integer or the images are malformed.

    >>> toy = ClassImages(np.zeros((9, 20, 28, 28), np.uint8))
    >>> examples(toy, 32)(jax.random.key(0)).support.x.shape
    (32, 28, 28, 1)
    """
    batch_size = whole("batch_size", batch_size)
    check_images(images)
    num_classes, most, height, width = images.images.shape
    if rotations and height != width:
        raise InputError(f"rotations needs square images, but they are {(height, width)}.")
    counts = np.full(num_classes, most) if images.counts is None else np.asarray(images.counts)
    ends = np.cumsum(counts)

    def sample(pixels, ends, starts, key: Key) -> Task:
        image_key, turn_key = jax.random.split(key)
        index = jax.random.randint(image_key, (batch_size,), 0, ends[-1])
        label = jnp.searchsorted(ends, index, side="right").astype(jnp.int32)
        x = pixels[label, index - starts[label]]
        if rotations:
            quarters = jax.random.randint(turn_key, (batch_size,), 0, 4, jnp.int32)
            x, label = rotate(x, quarters), quarters * num_classes + label
        return Task(Batch(to_float(x)[..., None], label))

    arrays = (jnp.asarray(array, jnp.int32) for array in (ends, ends - counts))
    return Partial(sample, jnp.asarray(images.images), *arrays)
