"""Which examples each inner step sees: index arrays drawn without replacement, aware of masks.

Both schedules return `(rows [T, B], real [T, B] or None)`. Random numbers are uniforms, which do not change when a
data set is padded, so padded and unpadded runs draw the same batches.
"""

import jax
import jax.numpy as jnp

from metalearn.core import Key


def epochs(key: Key, count: int, mask: jax.Array | None, num_epochs: int, batch_size: int):
    """Every real example exactly once per epoch; the last batch of an epoch may be partly (or wholly) unreal."""
    per_epoch = -(-count // batch_size)
    padding = per_epoch * batch_size - count

    def one(epoch):
        draws = jax.random.uniform(jax.random.fold_in(key, epoch), (count,))
        order = jnp.argsort(draws if mask is None else jnp.where(mask > 0, draws, 2.0))
        real = jnp.ones(count, bool) if mask is None else mask[order] > 0
        return jnp.pad(order, (0, padding)), jnp.pad(real, (0, padding))

    rows, real = jax.vmap(one)(jnp.arange(num_epochs))
    shape = (num_epochs * per_epoch, batch_size)
    return rows.reshape(shape), None if mask is None and not padding else real.reshape(shape)


def cycles(key: Key, count: int, mask: jax.Array | None, num_steps: int, batch_size: int):
    """Full batches that cycle through the real examples: all of them are seen before any is seen again.

    A batch never holds an example twice; where there are fewer real examples than `batch_size`, it holds all of them.
    """
    size = min(batch_size, count)
    exists = jnp.ones(count, bool) if mask is None else mask > 0

    def step(used, t):
        draws = jax.random.uniform(jax.random.fold_in(key, t), (count,))
        score = jnp.where(exists, draws + jnp.where(used, 0.0, 1.0), -1.0)
        score, rows = jax.lax.top_k(score, size)
        fresh = (exists & ~used).sum()
        picked = jnp.zeros(count, bool).at[rows].set(score >= 0)
        # the fresh examples ran out within this batch: the rest of it already belongs to the next pass
        used = jnp.where(fresh > size, used | picked, jnp.where(fresh == size, False, picked & used))
        return used, (rows, score >= 0)

    _, (rows, real) = jax.lax.scan(step, jnp.zeros(count, bool), jnp.arange(num_steps))
    return rows, None if mask is None else real
