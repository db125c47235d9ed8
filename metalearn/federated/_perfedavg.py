"""Per-FedAvg: an initialisation that every client adapts (Fallah, Mokhtari, Ozdaglar 2020, arXiv 2002.07948)."""

import optax

from metalearn.core import Aggregator, Criterion, Learner
from metalearn.federated.client import BY_EXAMPLES, Federated
from metalearn.mapping import Mapping, auto
from metalearn.outer import episodic, over_tasks


def perfedavg(
    client: Learner,
    criterion: Criterion,
    server: optax.GradientTransformation,
    *,
    aggregator: Aggregator = BY_EXAMPLES,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
) -> Federated:
    """MAML over clients: the gradient of each client's query loss through its adaptation, averaged by the server.

    `client` is any learner: `gradient_learner(…)`, or with `first_order=True` the paper's first-order variant. Clients
    need a support and a query set. Deviations: one meta-step a round (the paper's τ = 1); both sets are used whole,
    instead of independent batches of them; clients are weighed by their examples, where the paper's mean is plain,
    `aggregator=mean()`.
    """
    algorithm = over_tasks(
        client.init,
        episodic(client, criterion),
        aggregator,
        server,
        mapping=mapping,
        drop_nonfinite=drop_nonfinite,
    )
    learner = client._replace(adapt=lambda start, support, key: client.adapt(start[0], support, key))
    return Federated(*algorithm, learner)
