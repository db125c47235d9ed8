"""Few-shot classification tasks out of images grouped by class."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from metalearn.arguments import whole
from metalearn.core import Batch, InputError, Key, Task
from metalearn.data.images import ClassImages, check_images, rotate, to_float


def few_shot(
    images: ClassImages,
    *,
    num_ways: int,
    num_support: int,
    num_query: int,
    min_support: int | None = None,
    rotations: bool = False,
    within_group: bool = False,
):
    """Returns `sample(key) -> Task`: `num_ways` classes, with `num_support` + `num_query` images of each.

    `support.x` is `[num_ways * num_support, H, W, 1]`, float32 (uint8 images scaled to [0, 1]), `support.y` int32 in
    0…num_ways - 1, class by class; the query set likewise. No class comes twice in a task, no image comes twice, and
    which class has which label is random.

    `min_support`: each task has a number of shots, the same for its classes, uniform in min_support…num_support. The
    shapes stay; `support.mask` (`[num_ways * num_support]`, float32) is 1 at real examples, and the rest are copies
    of real ones, so that a batch norm is not disturbed and nothing leaks to a learner that overlooks the mask.
    `rotations`: each class turned by 90, 180 and 270 degrees is three further classes; only sampled images are turned.
    `within_group`: all classes of a task have the same `images.group`, which is uniform among the groups with enough
    classes (rotations counted).

    Everything runs inside jit, without sorting or copying the data set. The images are put on the device once, here.
    `sample` is a `jax.tree_util.Partial` with the arrays as its leaves: closed over by a jitted function they may be
    baked into the program as constants, and passed to it as an argument they are not. With the same key, a task of
    more queries has the same support set, and a task of more ways has the same first classes.

    Raises `InputError` if a count is not a positive integer, if there are more ways than classes (or than any group
    has, with `within_group`), if a class has fewer images than a task takes of it, or if the images are malformed.

    >>> toy = ClassImages(np.zeros((9, 20, 28, 28), np.uint8))
    >>> task = few_shot(toy, num_ways=5, num_support=1, num_query=15)(jax.random.key(0))
    >>> task.support.x.shape, task.query.y.shape
    ((5, 28, 28, 1), (75,))
    """
    ways, shots = whole("num_ways", num_ways), whole("num_support", num_support)
    queries = whole("num_query", num_query)
    if min_support is not None and whole("min_support", min_support) > shots:
        raise InputError(f"min_support must be at most num_support, which is {shots}, but is {min_support}.")
    check_images(images)
    num_classes, most = images.images.shape[:2]
    turns = 4 if rotations else 1
    _check_sizes(images, ways, shots, queries, rotations, within_group)

    groups = member = None
    if within_group:
        _, index, sizes = np.unique(np.asarray(images.group), return_inverse=True, return_counts=True)
        groups = jnp.asarray(np.flatnonzero(turns * sizes >= ways), jnp.int32)
        member = jnp.tile(jnp.asarray(index.reshape(-1), jnp.int32), turns)
    counts = None if images.counts is None else jnp.asarray(images.counts, jnp.int32)

    def sample(pixels, counts, groups, member, key: Key) -> Task:
        # One draw for everything, because every further one takes time to compile; what varies in length comes last.
        score = jax.random.uniform(key, (2 + turns * num_classes + ways * most,), jnp.float32)
        group_chance, shots_chance = score[0], score[1]
        class_score, image_score = score[2 : 2 + turns * num_classes], score[2 + turns * num_classes :]

        if within_group:
            group = groups[(group_chance * len(groups)).astype(jnp.int32)]
            class_score = jnp.where(member == group, class_score, -1.0)
        label = jax.lax.top_k(class_score, ways)[1]
        quarters, row = label // num_classes, label % num_classes

        image_score = image_score.reshape(ways, most)
        if counts is not None:
            image_score = jnp.where(jnp.arange(most)[None] < counts[row][:, None], image_score, -1.0)
        column = jax.lax.top_k(image_score, shots + queries)[1]
        support, query, mask = column[:, :shots], column[:, shots:], None

        if min_support is not None:
            real = min_support + (shots_chance * (shots + 1 - min_support)).astype(jnp.int32)
            support = support[:, jnp.arange(shots) % real]
            mask = jnp.tile((jnp.arange(shots) < real).astype(jnp.float32), ways)

        def batch(column, mask=None):
            x = pixels[row[:, None], column]
            if rotations:
                x = rotate(x, jnp.broadcast_to(quarters[:, None], column.shape))
            y = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), column.shape[1])
            return Batch(to_float(x).reshape(-1, *x.shape[2:], 1), y, mask)

        return Task(batch(support, mask), batch(query))

    return Partial(sample, jnp.asarray(images.images), counts, groups, member)


def _check_sizes(images, ways, shots, queries, rotations, within_group):
    num_classes, fewest = images.images.shape[:2]
    if images.counts is not None:
        fewest = int(np.min(images.counts))
    if rotations and images.images.shape[2] != images.images.shape[3]:
        raise InputError(f"rotations needs square images, but they are {images.images.shape[2:]}.")
    turns, counted = (4, ", rotations counted") if rotations else (1, "")
    if ways > turns * num_classes:
        raise InputError(f"num_ways is {ways}, but there are only {turns * num_classes} classes{counted}.")
    if shots + queries > fewest:
        raise InputError(
            f"num_support + num_query is {shots} + {queries} = {shots + queries} images of each class, "
            f"but there is a class with only {fewest}."
        )
    if within_group:
        if images.group is None:
            raise InputError("within_group needs images.group, but it is None.")
        largest = turns * int(np.unique(np.asarray(images.group), return_counts=True)[1].max())
        if ways > largest:
            raise InputError(
                f"num_ways is {ways} within a group, but the largest group has only {largest} classes{counted}."
            )
