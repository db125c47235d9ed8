"""Federated transfer: the server's own labelled data beside each client's, the objective of mixed federated learning
(Augenstein, Hard, Ning, Singhal, Kale, Partridge, Mathews 2022, arXiv 2205.13655)."""

import jax

from metalearn.core import Aux, Batch, LossFn


def with_source(
    loss: LossFn, source: Batch, target_weight: float | jax.Array, source_weight: float | jax.Array
) -> LossFn:
    """α f + β g: a client's loss, and the same loss on `source`, which every client has; α, β are the two weights.

    Deviation: in the paper the server computes g, and its data stay there. For `fit`, or anything else that takes a
    loss. Metrics are those of the client's own batch, with `source_loss`.
    """

    def mixed(params, batch, key):
        value, aux = loss(params, batch, jax.random.fold_in(key, 0))
        beside, _ = loss(params, source, jax.random.fold_in(key, 1))
        metrics = {**aux.metrics, "source_loss": beside}
        return target_weight * value + source_weight * beside, Aux(metrics, aux.statistics)

    return mixed
