"""From one task to a batch of tasks."""

import jax
import jax.numpy as jnp

from metalearn.arguments import whole
from metalearn.core import Key, Task


def batched(sample, num_tasks: int):
    """Returns `sample(key) -> Task` whose leaves have a leading `[num_tasks]`, out of a sampler of single tasks.

    Task k is drawn with `fold_in(key, k)` and has `id` k (int32), so it is the same task in a batch of any size.
    The result is a `jax.tree_util.Partial`: where `sample` carries arrays as leaves, so does it.

    Raises `InputError` if `num_tasks` is not a positive integer.

    >>> from metalearn.data import sinusoid
    >>> batched(sinusoid(num_support=5), 25)(jax.random.key(0)).support.x.shape
    (25, 5, 1)
    """
    num_tasks = whole("num_tasks", num_tasks)

    def sample_batch(sample, key: Key) -> Task:
        ids = jnp.arange(num_tasks, dtype=jnp.int32)
        tasks = jax.vmap(lambda i: sample(jax.random.fold_in(key, i)))(ids)
        return tasks._replace(id=ids)

    if not isinstance(sample, jax.tree_util.Partial):
        sample = jax.tree_util.Partial(sample)
    return jax.tree_util.Partial(sample_batch, sample)
