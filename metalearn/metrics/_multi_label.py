"""Metrics of several labels at once: outputs are logits `[n, L]`, above 0 for a label that is there; targets 0 or 1.

hamming    the share of labels that are wrong
jaccard    |said and true| / |said or true|, the mean over examples; 0 where nothing is said and nothing there
micro_f1   2 hits / (said + true), all labels together
macro_f1   the same of each label, the mean over labels

NaN where a real output is; without any real example 0. All raise `InputError` where shapes do not fit.
"""

import jax.numpy as jnp

from metalearn.core import InputError
from metalearn.metrics._metric import Metric, ratio, real, same_shape


def _said(name, outputs, batch):
    same_shape(name, outputs, batch.y)
    if outputs.ndim != 2:
        raise InputError(f"{name} needs outputs and targets [n, L], got {outputs.shape}")
    there = real(batch, outputs)
    dtype = jnp.result_type(float)
    said = jnp.where(there & jnp.isnan(outputs), jnp.nan, ((outputs > 0) & there).astype(dtype))
    return said, ((batch.y > 0) & there).astype(dtype), there.astype(dtype)


def _hamming_each(outputs, batch):
    said, true, there = _said("hamming", outputs, batch)
    return jnp.abs(said - true).sum(), there.sum()


def _jaccard_each(outputs, batch):
    said, true, there = _said("jaccard", outputs, batch)
    union = jnp.maximum(said, true).sum(1)
    each = ratio((said * true).sum(1), union)  # nothing said of nothing there: 0, by custom
    return (each * there[:, 0]).sum(), there[:, 0].sum()


def _f1_each(outputs, batch):
    said, true, _ = _said("f1", outputs, batch)
    return (said * true).sum(0), (said + true).sum(0)


hamming = Metric(_hamming_each, lambda sums: ratio(*sums))
jaccard = Metric(_jaccard_each, lambda sums: ratio(*sums))
micro_f1 = Metric(_f1_each, lambda sums: ratio(2 * sums[0].sum(), sums[1].sum()))
macro_f1 = Metric(_f1_each, lambda sums: ratio(2 * sums[0], sums[1]).mean())
