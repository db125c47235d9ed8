"""FedPer: personal heads on a shared body (Arivazhagan, Aggarwal, Singh, Choudhary 2019, arXiv 1912.00818)."""

from typing import Any

import optax

from metalearn.core import Criterion, Model
from metalearn.federated.client import Federated
from metalearn.federated.partial import partial


def fedper(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    own: str = "head",
    **options: Any,
) -> Federated:
    """Body and head are trained together; the body is averaged, the head stays with the client.

    `own` is a regular expression over parameter paths. A client is evaluated with the head that it kept, which was
    trained when it was last sampled. Options are `num_clients`, `server`, `aggregator`, `mapping`, `drop_nonfinite` and
    those of `inner.fit`.

    Raises `InputError` where `own` matches no parameter or every one, or `where` is given.
    """
    return partial(model, criterion, own, [(optimizer, None, {})], **options)
