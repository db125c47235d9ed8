"""Errors of numbers: outputs and targets `[n, ...]` of one shape, a time series included.

Means go over all real numbers: `rmse` is one root of one mean, where scikit-learn averages a root for each output.
"""

import jax.numpy as jnp

from metalearn.metrics._metric import Metric, ratio, real, same_shape


def _numbers(name, outputs, targets):
    """Both in floating point: differences of unsigned whole numbers would wrap round."""
    same_shape(name, outputs, targets)
    return tuple(a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in map(jnp.asarray, (outputs, targets)))


def _mean(name, error, finish=lambda mean: mean):
    def each(outputs, batch):
        outputs, y = _numbers(name, outputs, batch.y)
        counted = real(batch, outputs)
        values = jnp.where(counted, error(outputs, jnp.where(counted, y, outputs)), 0)
        return values.sum(), counted.sum().astype(values.dtype)

    return Metric(each, lambda sums: finish(ratio(*sums)))


mse = _mean("mse", lambda z, y: (z - y) ** 2)
rmse = _mean("rmse", lambda z, y: (z - y) ** 2, jnp.sqrt)
mae = _mean("mae", lambda z, y: jnp.abs(z - y))
# of numbers from 0 on: the errors of log(1 + value), for what grows by factors
msle = _mean("msle", lambda z, y: (jnp.log1p(z) - jnp.log1p(y)) ** 2)
rmsle = _mean("rmsle", lambda z, y: (jnp.log1p(z) - jnp.log1p(y)) ** 2, jnp.sqrt)


def max_error(outputs, batch):
    """The largest |output - target|; 0 where no example is real. No sum, so it does not stream: take the largest."""
    outputs, y = _numbers("max_error", outputs, batch.y)
    return jnp.where(real(batch, outputs), jnp.abs(outputs - y), 0).max(initial=0)


def _r2_each(outputs, batch):
    outputs, y = _numbers("r2", outputs, batch.y)
    counted = real(batch, outputs).reshape(len(outputs), -1)
    z, y = (jnp.where(counted, a.reshape(len(outputs), -1), 0) for a in (outputs, y))
    count, total = counted.sum(0).astype(z.dtype), y.sum(0)
    mean = ratio(total, count)
    # about the batch's own mean, itself corrected once: squares about 0 would cancel
    mean += ratio(jnp.where(counted, y - mean.reshape(1, -1), 0).sum(0), count)
    around = jnp.where(counted, (y - mean.reshape(1, -1)) ** 2, 0).sum(0)
    return {
        "count": count,
        "total": mean * count,
        "square": mean * mean * count,
        "around": around,
        "error": ((z - y) ** 2).sum(0),
    }


def _r2_finish(sums):
    eps = jnp.finfo(sums["square"].dtype).eps
    between = sums["square"] - ratio(sums["total"] ** 2, sums["count"])
    # what rounding leaves between batches of one mean, or around the mean of a constant target, is no spread
    between = jnp.where(between > 100 * eps * sums["square"], between, 0)
    spread = sums["around"] + between
    spread = jnp.where(spread > (10 * eps) ** 2 * sums["square"], spread, 0)
    # a constant target: 1 where it is met, else 0, as where there is no example
    met = (sums["error"] <= 0) & (sums["count"] > 0)
    return jnp.where(spread > 0, 1 - ratio(sums["error"], spread), met.astype(spread.dtype)).mean()


r2 = Metric(_r2_each, _r2_finish)
