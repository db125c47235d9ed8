"""pFedMe: personal models as proximal points of the global one (Dinh, Tran, Nguyen 2020, arXiv 2006.08848)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.arguments import number, whole
from metalearn.core import Aggregator, Aux, Criterion, Model
from metalearn.federated.client import EQUALLY, PLAIN, Federated, changes, from_model, shared_model, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import difference, over_tasks
from metalearn.penalty import proximal
from metalearn.tree import partition, statistics


def pfedme(
    model: Model,
    criterion: Criterion,
    personal: optax.GradientTransformation,
    rate: float | jax.Array,
    *,
    strength: float | jax.Array,
    personal_steps: int,
    server: optax.GradientTransformation = PLAIN,
    aggregator: Aggregator = EQUALLY,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """Clients descend the Moreau envelope of their loss, whose gradient is λ (w - θ(w)).

    θ(w) ≈ argmin F_k(θ; ζ) + (λ / 2) ‖θ - w‖², by `personal_steps` of `personal` on one minibatch ζ;
    w_k ← w_k - η λ (w_k - θ);  w ← (1 - β) w + β mean_k w_k, with λ = `strength`, η = `rate`, β that of the server's
    SGD (1 by default). A client uses θ(w) of its support set. Running statistics are those that θ saw.
    Deviations: the authors' code goes on with θ from one minibatch to the next, where here it begins at w_k; it
    evaluates the θ that local rounds left, where here it is found anew from the server's w; and it weighs clients by
    their examples, `aggregator=weighted_mean()`.

    Raises `InputError` where `strength` or `rate` is not above 0, or `personal_steps` no whole number of at least 1.
    """
    number("strength", strength, above=0)
    number("rate", rate, above=0)
    whole("personal_steps", personal_steps)
    loss = supervised(model, criterion)
    nearby = fit(loss, personal, personal_steps, penalty=proximal(strength), where=options.get("where"))

    def envelope(params, batch, key):
        trained, _ = partition(params)
        fitted = nearby(jax.lax.stop_gradient(params), batch, key)
        near = jax.lax.stop_gradient(partition(fitted.params)[0])
        distance = sum(jax.tree.leaves(jax.tree.map(lambda p, n: jnp.sum((p - n) ** 2), trained, near)))
        metrics = jax.tree.map(lambda m: m[-1], fitted.metrics)
        personal_loss = metrics.pop("loss")
        return 0.5 * strength * distance, Aux(metrics | {"personal_loss": personal_loss}, statistics(fitted.params))

    client = fit(envelope, optax.sgd(rate), **options)
    algorithm = over_tasks(
        from_model(model), difference(client), aggregator, server, mapping=mapping, drop_nonfinite=drop_nonfinite
    )

    def chosen(shared, row, support, key):
        del row
        return nearby(shared, support, key).params

    return Federated(
        *algorithm,
        using(model, chosen),
        up=lambda shared: changes(shared, options.get("where")),
        common=using(model, shared_model),
    )
