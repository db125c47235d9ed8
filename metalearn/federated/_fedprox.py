"""FedProx: clients are held near the global model (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, arXiv
1812.06127)."""

from typing import Any

import jax
import optax

from metalearn.arguments import number
from metalearn.core import Criterion, Model
from metalearn.federated._fedavg import fedavg
from metalearn.federated.client import Federated
from metalearn.penalty import proximal


def fedprox(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    strength: float | jax.Array,
    **options: Any,
) -> Federated:
    """FedAvg whose clients minimise F_k(w) + (μ / 2) ‖w - w_t‖², with μ = `strength`.

    The partial work of clients who are late, `work=stragglers(…)`, counts. Deviation: the server weights clients by
    their examples, where the paper samples them so and takes the plain mean. Options are those of `fedavg`.

    Raises `InputError` where `strength` is negative.
    """
    number("strength", strength, least=0)
    return fedavg(model, criterion, optimizer, penalty=proximal(strength), **options)
