"""Errors of numbers: outputs and targets `[n, ...]` of one shape, a time series included.

mse, rmse, mae   the mean squared error, its root, the mean absolute error
msle, rmsle      the same of log(1 + value), of numbers from 0 on: for what grows by factors
max_error        the largest absolute error
r2               1 - squared error / spread about the mean, the mean over outputs; of a constant target 1 where it is
                 met, else 0

Means go over all real numbers: `rmse` is one root of one mean, where scikit-learn averages a root for each output.
NaN where a real output is; without any real example 0. All raise `InputError` where shapes do not fit.
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
msle = _mean("msle", lambda z, y: (jnp.log1p(z) - jnp.log1p(y)) ** 2)
rmsle = _mean("rmsle", lambda z, y: (jnp.log1p(z) - jnp.log1p(y)) ** 2, jnp.sqrt)


def _largest(outputs, batch):
    outputs, y = _numbers("max_error", outputs, batch.y)
    return jnp.where(real(batch, outputs), jnp.abs(outputs - y), 0).max(initial=0)


max_error = Metric(_largest, lambda largest: largest, jnp.maximum)


def _r2_each(outputs, batch):
    outputs, y = _numbers("r2", outputs, batch.y)
    counted = real(batch, outputs).reshape(len(outputs), -1)
    z, y = (jnp.where(counted, a.reshape(len(outputs), -1), 0) for a in (outputs, y))
    count = counted.sum(0).astype(z.dtype)
    mean = ratio(y.sum(0), count)
    # about the batch's own mean, itself corrected once: squares about 0 would cancel
    mean += ratio(jnp.where(counted, y - mean.reshape(1, -1), 0).sum(0), count)
    around = jnp.where(counted, (y - mean.reshape(1, -1)) ** 2, 0).sum(0)
    return {"count": count, "mean": mean, "around": around, "error": ((z - y) ** 2).sum(0)}


def _r2_merge(a, b):
    count, apart = a["count"] + b["count"], b["mean"] - a["mean"]
    share = ratio(b["count"], count)
    return {
        "count": count,
        "mean": a["mean"] + share * apart,
        "around": a["around"] + b["around"] + apart**2 * a["count"] * share,
        "error": a["error"] + b["error"],
    }


def _r2_finish(parts):
    count, error = parts["count"], parts["error"]
    eps = jnp.finfo(error.dtype).eps
    # what rounding leaves around the mean of a constant target is no spread
    spread = jnp.where(parts["around"] > count * (10 * eps * parts["mean"]) ** 2, parts["around"], 0)
    # a constant target: 1 where it is met, else 0, as where there is no example
    met = ((error <= 0) & (count > 0)).astype(spread.dtype)
    return jnp.where(spread > 0, 1 - ratio(error, spread), met).mean()


r2 = Metric(_r2_each, _r2_finish, _r2_merge)
