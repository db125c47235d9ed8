"""FedRep: a shared representation, learned under fixed heads (Collins, Hassani, Mokhtari, Shakkottai 2021, arXiv
2102.07078)."""

from typing import Any

import optax

from metalearn.core import Criterion, Model
from metalearn.federated.client import Federated
from metalearn.federated.partial import partial


def fedrep(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    own: str = "head",
    head_steps: int,
    **options: Any,
) -> Federated:
    """The head is trained first, `head_steps` long, with the body as the server sent it; then the body, head fixed.

    Deviations: bodies are weighed by their clients' examples, where the paper's mean is plain, `aggregator=mean()`; a
    client is evaluated with the head that it kept, trained when it was last sampled, where the authors' code trains all
    heads once more. Options are `num_clients`, `server`, `aggregator`, `mapping`, `drop_nonfinite` and those of
    `inner.fit`, which are for the body.
    """
    head = {"num_steps": head_steps, "num_epochs": None}
    return partial(model, criterion, own, [(optimizer, own, head), (optimizer, f"^(?!.*({own}))", {})], **options)
