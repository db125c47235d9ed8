"""Metrics of classes: outputs are logits `[n, C]`, targets integer labels `[n]`.

NaN where a real example has an output that is NaN or a label outside 0…C-1; without any real example 0. All raise
`InputError` where shapes or types do not fit. `accuracy` is the share of examples whose largest logit is their label's.
"""

import jax
import jax.numpy as jnp

from metalearn.core import InputError
from metalearn.metrics._metric import Metric, ratio, real

_AVERAGES = ("macro", "micro", "none")


def _labelled(name, outputs, batch):
    if outputs.ndim < 2 or batch.y.shape != outputs.shape[:-1] or not jnp.issubdtype(batch.y.dtype, jnp.integer):
        raise InputError(
            f"{name} needs outputs [n, ..., C] and integer labels [n, ...], got {outputs.shape} and "
            f"{batch.y.dtype}{batch.y.shape}"
        )


def _real(outputs, batch):
    """Who counts `[n, ...]`, as numbers: 1, or 0 for what is masked, and NaN for what no metric could judge."""
    there = real(batch, batch.y)
    known = (batch.y >= 0) & (batch.y < outputs.shape[-1]) & ~jnp.isnan(outputs).any(-1)
    return jnp.where(there & ~known, jnp.nan, there.astype(jnp.result_type(float)))


def counts(outputs: jax.Array, batch) -> dict[str, jax.Array]:
    """For each class `[C]` how often it was predicted rightly (`hit`), predicted (`said`), and was there (`true`)."""
    _labelled("counts", outputs, batch)
    there = _real(outputs, batch).reshape(-1, 1)
    classes, dtype = outputs.shape[-1], there.dtype
    said = jax.nn.one_hot(outputs.argmax(-1).reshape(-1), classes, dtype=dtype) * there
    true = jax.nn.one_hot(batch.y.reshape(-1), classes, dtype=dtype) * there
    return {"hit": (said * true).sum(0), "said": said.sum(0), "true": true.sum(0)}


def _averaged(average, score):
    """A metric of the counts. Classes that are neither there nor predicted are left out of a macro mean."""
    if average not in _AVERAGES:
        raise InputError(f"average must be one of {', '.join(_AVERAGES)}, but is {average!r}")

    def finish(sums):
        if average == "micro":
            return score(*(sums[name].sum() for name in ("hit", "said", "true")))
        each = score(sums["hit"], sums["said"], sums["true"])
        if average == "none":
            return each
        seen = sums["said"] + sums["true"] != 0
        return ratio(jnp.where(seen, each, 0).sum(), seen.sum().astype(each.dtype))

    return Metric(counts, finish)


def precision(average: str = "macro") -> Metric:
    """Of what was predicted as a class, the share that is; `average`: "macro", "micro", or "none" for all, `[C]`."""
    return _averaged(average, lambda hit, said, true: ratio(hit, said))


def recall(average: str = "macro") -> Metric:
    """Of what is a class, the share that was predicted as it."""
    return _averaged(average, lambda hit, said, true: ratio(hit, true))


def f1(average: str = "macro") -> Metric:
    """The harmonic mean of precision and recall, 2 hits / (predicted + there)."""
    return _averaged(average, lambda hit, said, true: ratio(2 * hit, said + true))


def mean_iou(average: str = "macro") -> Metric:
    """Intersection over union of predicted and true places, `[n, ..., C]` and `[n, ...]`: segmentation."""
    return _averaged(average, lambda hit, said, true: ratio(hit, said + true - hit))


def _accuracy_each(outputs, batch):
    _labelled("accuracy", outputs, batch)
    there = _real(outputs, batch)
    return (there * (outputs.argmax(-1) == batch.y)).sum(), there.sum()


accuracy = Metric(_accuracy_each, lambda sums: ratio(*sums))
