"""FedBN: personal normalisation against feature shift (Li, Jiang, Zhang, Kamp, Dou 2021, arXiv 2102.07623)."""

from typing import Any

import optax

from metalearn.core import Criterion, Model
from metalearn.federated.client import Federated
from metalearn.federated.partial import partial


def fedbn(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    own: str = "norm",
    **options: Any,
) -> Federated:
    """Normalisation layers, their running statistics included, stay with the client; all else is averaged.

    Deviation: clients are weighed by their examples, where the paper's mean is plain, `aggregator=mean()`. Options are
    `num_clients`, `server`, `aggregator`, `mapping`, `drop_nonfinite` and those of `inner.fit`.
    """
    return partial(model, criterion, own, [(optimizer, None, {})], **options)
