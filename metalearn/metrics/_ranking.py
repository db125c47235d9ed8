"""How scores rank examples: no sums, so what is kept of a batch is its scores, and merging joins them.

Outputs are scores and `batch.y` labels (0 or 1), both `[n]`, or `[n, C]` for the mean over C classes. NaN where a real
score is; `InputError` where shapes do not fit.

roc_auc             the share of pairs of a positive and a negative example in which the positive has the higher score;
                    ties count half; NaN where either kind is missing
mean_roc_auc        its mean over classes, each against all others; NaN where a class has no pair
average_precision   Σ (recall gained at a threshold) · (precision there), thresholds being the scores that occur: not
                    interpolated; 0 without a positive example
mean_average_precision   its mean over classes
"""

import jax
import jax.numpy as jnp

from metalearn.core import InputError
from metalearn.metrics._metric import Metric, ratio, real


def _ranked(name, ndim, finish):
    def each(scores, batch):
        scores, labels = jnp.asarray(scores), jnp.asarray(batch.y)
        if scores.shape != labels.shape or scores.ndim != ndim:
            expected = "[n]" if ndim == 1 else "[n, C]"
            raise InputError(f"{name} needs scores and labels {expected}, got {scores.shape} and {labels.shape}")
        return scores, labels, real(batch, scores)

    def merge(first, second):
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)

    def finished(kept):
        scores, _, there = kept
        return jnp.where((jnp.isnan(scores) & there).any(), jnp.nan, finish(*kept))

    return Metric(each, finished, merge)


def _sorted(scores, labels, there):
    # what is not real goes last, with a weight of 0
    order = jnp.argsort(jnp.where(there, -scores, jnp.inf))
    weight, dtype = there[order], jnp.result_type(float)
    positive = jnp.where(weight, labels[order] > 0, False).astype(dtype)
    return jnp.where(weight, scores[order], -jnp.inf), positive, jnp.where(weight, 1 - positive, 0).astype(dtype)


def _roc_auc(*kept):
    scores, positive, negative = _sorted(*kept)
    seen = jnp.concatenate([jnp.zeros(1), jnp.cumsum(negative)])
    descending = -scores
    above = seen[jnp.searchsorted(descending, descending, side="left")]  # negatives with a higher score
    up_to = seen[jnp.searchsorted(descending, descending, side="right")]
    won = positive * (negative.sum() - up_to + 0.5 * (up_to - above))
    pairs = positive.sum() * negative.sum()
    return jnp.where(pairs > 0, won.sum() / jnp.where(pairs > 0, pairs, 1), jnp.nan)


def _average_precision(*kept):
    scores, positive, negative = _sorted(*kept)
    descending = -scores
    last = jnp.searchsorted(descending, descending, side="right") - 1  # of those with the same score
    hits = jnp.cumsum(positive)[last]
    at = ratio(hits, hits + jnp.cumsum(negative)[last])
    return ratio((positive * at).sum(), positive.sum())


roc_auc = _ranked("roc_auc", 1, _roc_auc)
mean_roc_auc = _ranked("mean_roc_auc", 2, lambda *kept: jax.vmap(_roc_auc, 1)(*kept).mean())
average_precision = _ranked("average_precision", 1, _average_precision)
mean_average_precision = _ranked(
    "mean_average_precision", 2, lambda *kept: jax.vmap(_average_precision, 1)(*kept).mean()
)
